//! Starting the guardian's children: the same binary, with nothing that is open in the guardian.
//!
//! Owns what a child inherits: its standard streams, descriptor 3 (the control socket), and the few variables that its launch
//! names. The child itself gives its privileges up as its first act (`sandbox`): only then is there no file any more that the
//! start still needs. Called by the supervisor.

use std::{
    ffi::OsString,
    fs, io,
    os::{
        fd::{AsRawFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Command, Stdio},
};

use nix::{
    sys::wait::{WaitPidFlag, WaitStatus, waitpid},
    unistd::Pid,
};

use super::control::ControlSocket;
use redir_ipc as ipc;
use redir_sandbox::ConfinementArguments;

/// The descriptor on which a child finds its control socket.
pub(crate) const CONTROL_FD: i32 = 3;

/// What a worker learns from the guardian's environment: how to fail.
pub(super) const WORKER_ENVIRONMENT: &[&str] = &["RUST_BACKTRACE"];
/// What a controller learns: also where the API server is.
pub(super) const CONTROLLER_ENVIRONMENT: &[&str] =
    &["RUST_BACKTRACE", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"];

/// How one kind of child is started.
#[derive(Debug)]
pub(super) struct ChildLauncher {
    /// What follows `redir-agent`: the subcommand by which the child knows what it is, and its uid.
    pub(super) arguments: Vec<OsString>,
    /// The variables of the guardian's environment that the child gets.
    pub(super) environment: &'static [&'static str],
}

/// How a process ended, as a shell would say it: 128 + signal for a killed one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ExitCause {
    pub(super) pid: Pid,
    pub(super) code: u8,
}

impl ChildLauncher {
    /// `arguments` begin with the subcommand.
    pub(super) fn new(
        mut arguments: Vec<OsString>,
        confinement: &ConfinementArguments,
        environment: &'static [&'static str],
    ) -> Self {
        arguments.extend(confinement.arguments());
        Self { arguments, environment }
    }

    /// Starts a child. It blocks on its control socket until its first message is there.
    pub(super) fn spawn(&self) -> io::Result<(Pid, ControlSocket)> {
        let (ours, theirs) = ipc::pair()?;
        let mut command = Command::new("/proc/self/exe");
        command.arg0("redir-agent").args(&self.arguments).stdin(Stdio::null()).env_clear();
        command.envs(std::env::vars_os().filter(|(name, _)| self.environment.iter().any(|passed| name == passed)));
        in_child(&mut command, ChildSetup::new(theirs.as_raw_fd()));
        let child = command.spawn()?;
        let pid = i32::try_from(child.id()).map(Pid::from_raw).map_err(io::Error::other)?;
        Ok((pid, ControlSocket::new(ours)))
    }
}

/// Reaps one process that has ended: the worker, or as PID 1 any orphan.
pub(super) fn reap() -> Option<ExitCause> {
    match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::Exited(pid, code)) => Some(ExitCause { pid, code: code.to_le_bytes()[0] }),
        Ok(WaitStatus::Signaled(pid, signal, _)) => {
            Some(ExitCause { pid, code: 128 + (signal as i32).to_le_bytes()[0] })
        }
        _ => None,
    }
}

/// What the child does between fork and exec, as plain numbers: no allocation is allowed there.
#[derive(Clone, Copy)]
struct ChildSetup {
    control: i32,
    /// A number behind spaces, which the kernel skips; `None` if the guardian's own cannot be read.
    oom_score: Option<[u8; 5]>,
}

#[expect(unsafe_code, reason = "std has no safe way to act between fork and exec")]
fn in_child(command: &mut Command, inheritance: ChildSetup) {
    // SAFETY: the closure makes system calls on plain numbers only; it neither allocates nor locks, and the guardian
    // has a single thread anyway.
    unsafe { command.pre_exec(move || inheritance.apply()) };
}

impl ChildSetup {
    fn new(control: i32) -> Self {
        let own =
            fs::read_to_string("/proc/self/oom_score_adj").ok().and_then(|score| score.trim().parse::<i32>().ok());
        let more = own.map(|own| format!("{:>5}", own.saturating_add(OOM_SCORE).min(MOST_OOM_SCORE)));
        Self { control, oom_score: more.and_then(|more| more.as_bytes().try_into().ok()) }
    }

    fn apply(self) -> io::Result<()> {
        self.end_before_the_guardian();
        self.place_the_control_socket()?;
        close_the_others_at_exec()?;
        ignore_signals();
        Ok(())
    }

    /// Of guardian and child, whose memory is one cgroup's, the child ends first when that is used up, from its very
    /// beginning. A kernel without this file has no such choice to make.
    #[expect(unsafe_code, reason = "open and write without an allocation")]
    fn end_before_the_guardian(self) {
        let Some(score) = self.oom_score else { return };
        // SAFETY: the path ends with a zero, and the digits live for the call; a failed open gives -1, which write and
        // close refuse.
        unsafe {
            let file = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
            libc::write(file, score.as_ptr().cast(), score.len());
            libc::close(file);
        }
    }

    #[expect(unsafe_code, reason = "fcntl and dup2 on numbers")]
    fn place_the_control_socket(self) -> io::Result<()> {
        if self.control == CONTROL_FD {
            // SAFETY: F_SETFD takes an integer and touches no memory.
            return done(unsafe { libc::fcntl(CONTROL_FD, libc::F_SETFD, 0) });
        }
        // SAFETY: dup2 takes two integers; whatever was on descriptor 3 belongs to this forked copy alone.
        done(unsafe { libc::dup2(self.control, CONTROL_FD) })
    }
}

/// Everything that the guardian opened is close-on-exec already; this is for what it inherited itself.
#[expect(unsafe_code, reason = "close_range and fcntl on numbers")]
fn close_the_others_at_exec() -> io::Result<()> {
    let first = CONTROL_FD + 1;
    // SAFETY: close_range takes integers; the flag only marks descriptors.
    let marked =
        unsafe { libc::syscall(libc::SYS_close_range, first.unsigned_abs(), u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if marked == 0 {
        return Ok(());
    }
    // Kernels before 5.11 lack the flag. The guardian's own limit bounds the numbers.
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure lives on this stack for the call.
    done(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    let end = i32::try_from(limit.rlim_cur).unwrap_or(i32::MAX);
    for fd in first..end {
        // SAFETY: F_SETFD takes an integer and touches no memory; a number that is not open gives EBADF.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(())
}

/// Ctrl-C and a service manager's SIGTERM reach the whole group: the child hears of the end from the guardian alone.
#[expect(unsafe_code, reason = "signal dispositions in the child")]
fn ignore_signals() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        // SAFETY: SIG_IGN installs no handler; it stays across exec.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

fn done(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Thousandths of the memory that is short. Of a node that runs out of memory, too, the child ends before apps that are not
/// much larger: their connections go on without it.
const OOM_SCORE: i32 = 200;
/// `OOM_SCORE_ADJ_MAX`
const MOST_OOM_SCORE: i32 = 1000;

/// Takes descriptor 3 over. Must be called once, first thing in a child.
#[expect(unsafe_code, reason = "the guardian hands the control socket over by its number")]
pub fn inherited_control() -> io::Result<OwnedFd> {
    use std::os::fd::FromRawFd;

    use nix::{
        fcntl::{FcntlArg, FdFlag, fcntl},
        sys::{
            socket::{SockType, getsockopt, sockopt},
            stat::fstat,
        },
    };
    // SAFETY: only looked at, and only for this call; a closed descriptor gives EBADF.
    let looked_at = unsafe { BorrowedFd::borrow_raw(CONTROL_FD) };
    fstat(looked_at)?;
    if getsockopt(&looked_at, sockopt::SockType)? != SockType::SeqPacket {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    fcntl(looked_at, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // SAFETY: it is open, and nothing in this process has taken it: this is the child's first act.
    Ok(unsafe { OwnedFd::from_raw_fd(CONTROL_FD) })
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use nix::fcntl::{FcntlArg, fcntl};

    use super::*;

    /// The descriptors of a child that lists its own, sorted.
    fn descriptors_of_a_child(control: i32) -> Vec<String> {
        let mut command = Command::new("ls");
        command.arg("/proc/self/fd").stdin(Stdio::null());
        in_child(&mut command, ChildSetup::new(control));
        let output = command.output().expect("ls");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text").lines().map(str::to_owned).collect()
    }

    /// Open in this process and in what it executes, at a number that `ls` does not use for its folder.
    fn inherited() -> i32 {
        let file = File::open("/dev/null").expect("there");
        let high = fcntl(&file, FcntlArg::F_DUPFD(100)).expect("free numbers");
        assert!(high >= 100);
        high
    }

    /// In a process of its own: descriptor 3 must be free, and other tests open files.
    #[test]
    fn a_child_inherits_the_control_socket_alone_wherever_the_guardian_has_it() {
        const ALONE: &str = "REDIR_TEST_DESCRIPTORS";
        if std::env::var_os(ALONE).is_none() {
            let name = "child::tests::a_child_inherits_the_control_socket_alone_wherever_the_guardian_has_it";
            let mut alone = Command::new(std::env::current_exe().unwrap());
            let output = alone.args(["--exact", name, "--nocapture"]).env(ALONE, "1").output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && said.contains("1 passed"), "{said}{stderr}");
            return;
        }
        let high = inherited().to_string();
        let expected = ["0", "1", "2", "3", "4"];
        let (ours, theirs) = ipc::pair().expect("sockets");
        assert_ne!(theirs.as_raw_fd(), CONTROL_FD);
        assert_eq!(descriptors_of_a_child(theirs.as_raw_fd()), expected, "4 is the folder that ls reads");
        drop((ours, theirs));
        let (ours, theirs) = ipc::pair().expect("sockets");
        let on_three = if ours.as_raw_fd() == CONTROL_FD { ours } else { theirs };
        assert_eq!(on_three.as_raw_fd(), CONTROL_FD, "it was free");
        assert_eq!(descriptors_of_a_child(CONTROL_FD), expected, "without {high}");
    }
}
