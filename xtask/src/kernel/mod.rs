//! `cargo xtask test --kernel`: the ordinary test programs on the kernels that clusters run. Owns the order: Debian's kernels
//! come from `store`, each is booted in QEMU's software emulation with this machine's own userland (`guest`), what is run
//! there is `job`'s, and the results are added up as in an ordinary run. It needs no KVM, and harms nothing here: the guest
//! sees this machine's files and cannot write to them.

mod apt;
mod arm64;
mod guest;
mod job;
mod pulse;
mod steal;
mod store;
mod tested;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use guest::{End, GuestPlan};
use job::Job;
use store::StoredKernel;
use tested::KernelRecord;

use crate::{
    lock, paths,
    privilege::Privilege,
    setup, signals,
    test::{self, LeftOut, Tally, by_reason},
    ui,
};

/// What `all` stands for: the long-term kernels that Debian's suites have, and the newest.
const ALL: [&str; 5] = ["5.10", "6.1", "6.12", "6.18", store::NEWEST];
/// What is run unless something else is asked for: the eBPF programs, and all that is done with them.
const DATAPATH: (&str, &str) = ("redir_guardian", "datapath::tests");
/// The datapath's tests take 2 to 4 minutes on two idle cores, the end-to-end tests of one file up to 10.
const LIMIT: Duration = Duration::from_secs(60 * 60);

/// A processor architecture, by Debian's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Architecture {
    Amd64,
    Arm64,
}

impl Architecture {
    fn debian(self) -> &'static str {
        match self {
            Architecture::Amd64 => "amd64",
            Architecture::Arm64 => "arm64",
        }
    }

    fn emulator(self) -> &'static str {
        match self {
            Architecture::Amd64 => "qemu-system-x86_64",
            Architecture::Arm64 => "qemu-system-aarch64",
        }
    }
}

/// A word of `--kernel`.
pub(crate) fn parse(word: &str) -> Result<String, String> {
    let is_series = word.split_once('.').is_some_and(|(major, minor)| {
        [major, minor].iter().all(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    });
    match word {
        "all" | store::NEWEST => Ok(word.to_owned()),
        _ if is_series => Ok(word.to_owned()),
        _ => Err("a kernel is a series such as 6.1, or `newest`, or `all`".into()),
    }
}

/// The kernels asked for, each once.
fn chosen(words: &[String]) -> Vec<String> {
    let mut chosen: Vec<String> = Vec::new();
    let spelled = words.iter().flat_map(|word| if word == "all" { ALL.to_vec() } else { vec![word.as_str()] });
    for word in spelled {
        if !chosen.iter().any(|other| other == word) {
            chosen.push(word.to_owned());
        }
    }
    chosen
}

pub(crate) fn run(options: &test::TestOptions, privilege: Privilege) -> Result<()> {
    if options.architecture == Architecture::Arm64 && !(options.names_no_program() && options.filter.is_none()) {
        bail!("on arm64 only the agent's own try of its programs is run: leave out -p, --test and names of tests");
    }
    setup::with_emulator()?;
    // Both until the last guest is gone: another run would remove what this one's are made of, or write.
    let (_kernels_lock, kernels) = store::install(&chosen(&options.kernels), options.architecture)?;
    let _folder_lock = lock::exclusive(&folder()?.join("lock"), store::HOLDER)?;
    let job = match options.architecture {
        Architecture::Amd64 => tests(options)?,
        Architecture::Arm64 => arm64::job()?,
    };
    let mut total = Tally::new(options.verbose);
    for kernel in &kernels {
        let tally = on(kernel, &job, privilege, options.verbose)?;
        if options.record && !signals::interrupted() {
            record(kernel, &job, &tally, options.names_no_program())?;
        }
        total.add(tally, &format!("Linux {}", kernel.version));
    }
    total.left_out.extend(job.left_out.iter().cloned());
    test::conclude(&total, &folder()?)
}

/// Notes what passed; a program in which a test failed is not noted. `is_default`: no program was chosen by name.
fn record(kernel: &StoredKernel, job: &Job, tally: &Tally, is_default: bool) -> Result<()> {
    let uname =
        fs::read_to_string(folder()?.join(&kernel.release).join("kernel")).context("the guest has no kernel")?;
    let records: Vec<KernelRecord> = tally
        .good
        .iter()
        .map(|(program, passed)| {
            let what = recorded_as(program, is_default);
            let is_its = |left_out: &&LeftOut| left_out.program == *program;
            let left_out: Vec<LeftOut> = job.left_out.iter().chain(&tally.left_out).filter(is_its).cloned().collect();
            let left_out = by_reason(&left_out);
            KernelRecord { what: what.to_owned(), passed: *passed, left_out }
        })
        .collect();
    tested::write(kernel, uname.trim(), &records)
}

/// What a program's tests are called in the documents. Of the agent only the datapath's are run by default, and all of them
/// where it is named.
fn recorded_as(program: &str, is_default: bool) -> &str {
    if is_default && program.starts_with(DATAPATH.0) { "datapath" } else { program }
}

/// Builds the programs, and chooses what a guest runs of them.
fn tests(options: &test::TestOptions) -> Result<Job> {
    let places = test::TestPlaces::without_kubernetes(options)?;
    let is_default = options.names_no_program();
    println!("building what is run in the guests");
    let mut command = test::cargo_test(options, &places, Privilege::Root)?;
    if is_default {
        // The whole workspace otherwise as ever: another choice of packages would build their dependencies anew.
        command.arg("--lib");
    } else {
        test::build_programs()?;
    }
    let mut programs = job::programs(&mut command)?;
    if is_default {
        programs.retain(|program| program.name == DATAPATH.0);
    }
    let filter = options.filter.as_deref().or(is_default.then_some(DATAPATH.1));
    let mut environment: BTreeMap<String, String> =
        places.iter().map(|(name, place)| (name.to_owned(), place.display().to_string())).collect();
    environment.insert(redir_rig::wait::TIME_FACTOR.into(), job::TIME_FACTOR.into());
    environment.insert("REDIR_STEAL".into(), "/out/steal".into());
    Job::tests(programs, filter, environment)
}

/// Runs the job on a kernel; once more if the emulation failed it.
fn on(kernel: &StoredKernel, job: &Job, privilege: Privilege, verbose: bool) -> Result<Tally> {
    let out = folder()?.join(&kernel.release);
    let mut single_thread = false;
    loop {
        println!("{}", ui::bold(&kernel.title()));
        let mut tally = Tally::new(verbose);
        let end = attempt(kernel, job, privilege, &out, single_thread, &mut tally)?;
        let left_at = match end {
            End::Done(0) => None,
            End::Done(_) => Some("ended without a result".to_owned()),
            End::Late => Some(format!("was still running after {}, stopped", ui::spoken(LIMIT))),
            End::Died(words) => {
                println!("the guest's console ends with:\n{words}");
                Some("the guest went down".to_owned())
            }
            End::NotBooted(words) => {
                bail!("{} does not boot; its console ends with:\n{words}", kernel.title())
            }
            End::ClockWrong(times) if !single_thread => {
                println!("the emulated clock runs {times:.1} times too fast: booting again");
                single_thread = true;
                continue;
            }
            End::LockedUp(span, _) if !single_thread => {
                println!("the emulator has not moved for {}: booting again", ui::spoken(span));
                single_thread = true;
                continue;
            }
            End::ClockWrong(times) => bail!(
                "the clock of {} ran {times:.1} times too fast twice: QEMU's emulation does not work here",
                kernel.title()
            ),
            End::LockedUp(span, words) => bail!(
                "{} has not moved for {}, for the second time; its console ends with:\n{words}",
                kernel.title(),
                ui::spoken(span)
            ),
        };
        tally.finish(left_at.as_deref());
        return Ok(tally);
    }
}

fn attempt(
    kernel: &StoredKernel,
    job: &Job,
    privilege: Privilege,
    out: &Path,
    single_thread: bool,
    tally: &mut Tally,
) -> Result<End> {
    if out.exists() {
        fs::remove_dir_all(out).with_context(|| format!("cannot remove {}", out.display()))?;
    }
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    job.write(out)?;
    let initramfs = out.join("initramfs");
    kernel.write_initramfs(&job.busybox, &initramfs)?;
    let plan =
        GuestPlan { kernel, initramfs: &initramfs, root: &job.root, out, single_thread, limit: LIMIT, privilege };
    let began = Instant::now();
    let mut booted = false;
    let end = guest::run(&plan, |line| {
        if !booted && line.is_some() {
            booted = true;
            let uname = fs::read_to_string(out.join("kernel")).unwrap_or_default();
            println!("  {}", ui::dim(&format!("{}, up after {}", uname.trim(), ui::spoken(began.elapsed()))));
        }
        tally.line(line);
    })?;
    Ok(end)
}

/// Consoles, logs and results of the guests.
fn folder() -> Result<PathBuf> {
    let folder = paths::target()?.join("kernels");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    if signals::interrupted() {
        bail!("interrupted");
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_every_kernel_once() {
        let words = |words: &[&str]| chosen(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert_eq!(words(&["6.1", "all"]), ["6.1", "5.10", "6.12", "6.18", "newest"]);
        assert_eq!(words(&["6.1", "6.1"]), ["6.1"]);
    }

    #[test]
    fn only_the_default_choice_is_recorded_as_the_datapath() {
        assert_eq!(recorded_as("redir_guardian (unit)", true), "datapath");
        assert_eq!(recorded_as("redir_guardian (unit)", false), "redir_guardian (unit)");
        assert_eq!(recorded_as("traffic", false), "traffic");
    }

    #[test]
    fn a_kernel_is_a_series_or_a_word() {
        for word in ["5.10", "6.1", "newest", "all"] {
            assert_eq!(parse(word).as_deref(), Ok(word));
        }
        for word in ["6", "6.", "6.1.192", "latest", "../x", ""] {
            assert!(parse(word).is_err(), "{word}");
        }
    }
}
