//! One guest: QEMU in software emulation, the host's folders shared with it by virtiofsd, and the watch over both. Owns the
//! processes and their end; what runs in the guest is `job`'s.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::Architecture;
use super::pulse::{GuestHealth, GuestPulse};
use super::steal::CpuSteal;
use super::store::StoredKernel;
use crate::privilege::Privilege;
use crate::step::Tail;
use crate::{child, paths, signals};

/// Emulated machines are up in 6 to 14 s on two idle cores.
const BOOT_LIMIT: Duration = Duration::from_secs(300);
/// From its first question to its end, a virtiofsd that hears its socket close takes milliseconds.
const SHARE_LIMIT: Duration = Duration::from_secs(20);
/// Between two looks at what the guest wrote.
const LOOK: Duration = Duration::from_millis(200);
const MEMORY_MIB: u32 = 3072;

/// What is to be booted.
pub(super) struct GuestPlan<'a> {
    pub(super) kernel: &'a StoredKernel,
    pub(super) initramfs: &'a Path,
    /// The guest's root; it cannot write there.
    pub(super) root: &'a Path,
    /// Results; [`super::job`] has put `guest.sh` and `job.sh` there.
    pub(super) out: &'a Path,
    /// One thread for all emulated processors: slower, and without the lock-ups that QEMU 7.2 has once in a while.
    pub(super) single_thread: bool,
    /// From the start to power-off.
    pub(super) limit: Duration,
    pub(super) privilege: Privilege,
}

/// How a guest's life ended.
#[derive(Debug)]
pub(super) enum End {
    /// The job came to its end, with this exit code.
    Done(i32),
    /// The kernel or the init gave up before the job began.
    NotBooted(String),
    /// The emulated clock ran so many times too fast.
    ClockWrong(f64),
    /// Nothing was heard from it for so long; the end of its console.
    LockedUp(Duration, String),
    /// It went down in the middle of the job.
    Died(String),
    /// It was still at it at the limit.
    Late,
}

/// A running guest. Drop ends it and what shares its folders.
struct Guest {
    qemu: RunningGuest,
    _shares: Vec<RunningGuest>,
    _sockets: TempDir,
}

/// A process in a group of its own, which ends with this and on Ctrl-C.
struct RunningGuest {
    child: Child,
    guard: signals::ProcessGroupGuard,
}

impl RunningGuest {
    fn start(command: &mut Command, log: &Path) -> Result<RunningGuest> {
        let spelled = child::spelled(command);
        let log = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let errors = log.try_clone().context("cannot copy a descriptor")?;
        command.stdin(Stdio::null()).stdout(log).stderr(errors).process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start `{spelled}`"))?;
        Ok(RunningGuest { guard: signals::guard(child.id()), child })
    }

    fn exited(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("cannot ask for a child's end")
    }
}

impl Drop for RunningGuest {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_some()) {
            return;
        }
        // One that was stopped hears nothing but these two.
        self.guard.signal(Signal::SIGKILL);
        self.guard.signal(Signal::SIGCONT);
        let _ = self.child.wait();
    }
}

/// Boots it, hands every line that the job prints to `line` (`None` about once a second in between), and waits for its end.
pub(super) fn run(plan: &GuestPlan, mut line: impl FnMut(Option<&str>)) -> Result<End> {
    let mut guest = Guest::boot(plan)?;
    let mut words = GuestOutput::new(&plan.out.join("log"));
    let mut pulse = GuestPulse::new(&plan.out.join("beat"), Instant::now());
    let mut steal = CpuSteal::new(&plan.out.join("steal"), guest.qemu.child.id());
    let (began, mut ticked) = (Instant::now(), Instant::now());
    loop {
        let exited = guest.qemu.exited()?;
        for text in words.new_lines()? {
            line(Some(&text));
        }
        if exited.is_some() {
            return ended(plan, &pulse, exited);
        }
        if signals::interrupted() {
            bail!("interrupted");
        }
        match pulse.look(Instant::now()) {
            GuestHealth::Well => (),
            GuestHealth::Unborn(age) if age < BOOT_LIMIT => (),
            GuestHealth::Unborn(age) => return Ok(End::LockedUp(age, last_words(plan.out))),
            GuestHealth::ClockWrong(times) => return Ok(End::ClockWrong(times)),
            GuestHealth::Silent(span) => return Ok(End::LockedUp(span, last_words(plan.out))),
        }
        if began.elapsed() > plan.limit {
            return Ok(End::Late);
        }
        if ticked.elapsed() > Duration::from_secs(1) {
            ticked = Instant::now();
            line(None);
        }
        steal.for_a_while(LOOK);
    }
}

/// QEMU is gone: by power-off after the job, or not.
fn ended(plan: &GuestPlan, pulse: &GuestPulse, exited: Option<ExitStatus>) -> Result<End> {
    if let Ok(text) = fs::read_to_string(plan.out.join("status")) {
        let code = text.trim().parse().with_context(|| format!("the guest's status is {text:?}"))?;
        return Ok(End::Done(code));
    }
    let mut words = last_words(plan.out);
    if exited.is_some_and(|status| !status.success()) {
        words = format!("{words}\n{}", tail_of(&plan.out.join("qemu.log")));
    }
    Ok(if pulse.was_born() { End::Died(words) } else { End::NotBooted(words) })
}

/// The end of the guest's console.
fn last_words(out: &Path) -> String {
    tail_of(&out.join("console"))
}

fn tail_of(file: &Path) -> String {
    let mut tail = Tail::default();
    String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).lines().for_each(|line| tail.push(line.trim_end()));
    let text = tail.text();
    if text.is_empty() { "    (it is empty)".into() } else { text }
}

impl Guest {
    fn boot(plan: &GuestPlan) -> Result<Guest> {
        // Short: a socket's path has 108 bytes.
        let sockets = tempfile::Builder::new().prefix("redir-").tempdir().context("cannot make a temporary folder")?;
        let mut shares = Vec::new();
        // The root does not change; in the results, each must see at once what the other wrote.
        let modules = plan.kernel.modules();
        for (tag, source, cache) in
            [("root", plan.root, "always"), ("modules", &modules, "always"), ("out", plan.out, "none")]
        {
            let log = plan.out.join(format!("virtiofsd-{tag}.log"));
            shares.push(RunningGuest::start(
                &mut share(plan.privilege, &sockets.path().join(tag), source, cache)?,
                &log,
            )?);
        }
        for ((tag, _), share) in SHARES.iter().zip(&mut shares) {
            until_there(&sockets.path().join(tag), share, &plan.out.join(format!("virtiofsd-{tag}.log")))?;
        }
        let qemu = RunningGuest::start(&mut qemu(plan, sockets.path())?, &plan.out.join("qemu.log"))?;
        Ok(Guest { qemu, _shares: shares, _sockets: sockets })
    }
}

/// Tag and queue size of what is shared.
const SHARES: [(&str, u32); 3] = [("root", 1024), ("modules", 64), ("out", 64)];

/// The program that shares a folder, for whoever may open the socket: QEMU runs without root.
fn share(privilege: Privilege, socket: &Path, source: &Path, cache: &str) -> Result<Command> {
    let mut command = privilege.command(Path::new("/usr/lib/qemu/virtiofsd"));
    let group = nix::unistd::Group::from_gid(nix::unistd::getegid()).context("cannot tell the name of this group")?;
    command.arg(format!("--socket-path={}", socket.display()));
    if let Some(group) = group {
        command.arg(format!("--socket-group={}", group.name));
    }
    command.args([
        "-o",
        "sandbox=chroot",
        "-o",
        &format!("source={}", source.display()),
        "-o",
        &format!("cache={cache}"),
    ]);
    command.args(["-o", "no_posix_lock", "--thread-pool-size=4"]);
    Ok(command)
}

fn until_there(socket: &Path, share: &mut RunningGuest, log: &Path) -> Result<()> {
    let limit = Instant::now() + SHARE_LIMIT;
    while !socket.exists() {
        if let Some(status) = share.exited()? {
            bail!("virtiofsd ended at once ({status}):\n{}", tail_of(log));
        }
        if Instant::now() > limit {
            bail!("virtiofsd does not listen after {SHARE_LIMIT:?}:\n{}", tail_of(log));
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn qemu(plan: &GuestPlan, sockets: &Path) -> Result<Command> {
    let architecture = plan.kernel.architecture;
    let emulator = paths::program(architecture.emulator())
        .with_context(|| format!("{} is nowhere in PATH", architecture.emulator()))?;
    // Dies with xtask, even if that is killed.
    let mut command = Command::new(paths::program("setpriv").context("setpriv is nowhere in PATH")?);
    command.args(["--pdeathsig", "KILL"]).arg(emulator);
    let threads = if plan.single_thread { "single" } else { "multi" };
    command.args(["-accel", &format!("tcg,thread={threads}"), "-smp", "2", "-m", &MEMORY_MIB.to_string()]);
    command.args(architecture.machine());
    command.args(["-object", &format!("memory-backend-memfd,id=memory,size={MEMORY_MIB}M,share=on")]);
    command.args(["-numa", "node,memdev=memory", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    command.args(["-serial", &format!("file:{}", plan.out.join("console").display())]);
    for (tag, queue) in SHARES {
        command.args(["-chardev", &format!("socket,id={tag},path={}", sockets.join(tag).display())]);
        command.args(["-device", &format!("vhost-user-fs-pci,queue-size={queue},chardev={tag},tag={tag}")]);
    }
    command.args(["-device", "virtio-rng-pci"]);
    command.arg("-kernel").arg(plan.kernel.image()).arg("-initrd").arg(plan.initramfs);
    let common = "quiet loglevel=4 panic=-1 random.trust_cpu=on audit=0 selinux=0 apparmor=0";
    command.args(["-append", &format!("{} {common}", architecture.kernel_options())]);
    Ok(command)
}

impl Architecture {
    fn machine(self) -> &'static [&'static str] {
        match self {
            Architecture::Amd64 => &["-machine", "q35,usb=off,vmport=off,hpet=off", "-cpu", "max"],
            // The architecture's own pointer authentication is expensive to emulate.
            Architecture::Arm64 => &["-machine", "virt,gic-version=3", "-cpu", "max,pauth-impdef=on"],
        }
    }

    fn kernel_options(self) -> &'static str {
        match self {
            Architecture::Amd64 => "console=ttyS0 reboot=t,k mitigations=off tsc=reliable no_timer_check nokaslr",
            Architecture::Arm64 => "console=ttyAMA0 mitigations=off nokaslr",
        }
    }
}

/// The lines that come in to a file.
struct GuestOutput {
    path: PathBuf,
    file: Option<File>,
    unfinished: Vec<u8>,
}

impl GuestOutput {
    fn new(path: &Path) -> GuestOutput {
        GuestOutput { path: path.to_owned(), file: None, unfinished: Vec::new() }
    }

    /// Whole lines only; a line that never ends stays in the file.
    fn new_lines(&mut self) -> Result<Vec<String>> {
        let file = match &mut self.file {
            Some(file) => file,
            None => match File::open(&self.path) {
                Ok(file) => self.file.insert(file),
                Err(_) => return Ok(Vec::new()),
            },
        };
        file.read_to_end(&mut self.unfinished).with_context(|| format!("cannot read {}", self.path.display()))?;
        let Some(end) = self.unfinished.iter().rposition(|byte| *byte == b'\n') else { return Ok(Vec::new()) };
        let whole: Vec<u8> = self.unfinished.drain(..=end).collect();
        Ok(String::from_utf8_lossy(&whole).lines().map(str::to_owned).collect())
    }
}
