//! `cargo xtask test`: set up, build, run every test of the workspace, add up. Owns the order, the deadline and the sum;
//! the tests themselves are ordinary `cargo test` targets. Ends with `N passed, N failed` alone on a line.

mod tally;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::child::{self, End};
use crate::privilege::{self, Privilege};
use crate::{cluster, kernel, paths, setup, signals, ui};
pub(crate) use tally::{LeftOut, Tally, by_reason};

#[derive(Args)]
pub(crate) struct TestOptions {
    /// Only this package (a Cargo package name, e.g. redir-http); may be repeated
    #[arg(short, long, value_name = "NAME")]
    package: Vec<String>,
    /// Only tests whose path contains this
    pub(crate) filter: Option<String>,
    /// Only this file of a package's tests (e.g. faults); may be repeated
    #[arg(long = "test", value_name = "FILE")]
    files: Vec<String>,
    /// Play each end-to-end test so often, each time in a new world: what fails once in a while shows itself
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Run them on other kernels, in virtual machines: a series that Debian has (5.10, 6.1, …), `newest`, or `all`. The
    /// datapath's tests, unless a package, a file or a name chooses others (a name alone, among those of the agent)
    #[arg(long = "kernel", value_name = "SERIES", value_delimiter = ',', value_parser = kernel::parse)]
    pub(crate) kernels: Vec<String>,
    /// The processor of those kernels; on arm64, the agent is built for it and tries there whether every program loads
    #[arg(long = "arch", value_name = "NAME", value_enum, default_value = "amd64", requires = "kernels")]
    pub(crate) architecture: kernel::Architecture,
    /// Write into docs/ what passed on which kernel
    #[arg(long, requires = "kernels", conflicts_with = "filter")]
    pub(crate) record: bool,
    /// Show every test's name, not only what failed
    #[arg(short, long)]
    pub(crate) verbose: bool,
}

impl TestOptions {
    /// Whether no test program was chosen.
    pub(crate) fn names_no_program(&self) -> bool {
        self.package.is_empty() && self.files.is_empty()
    }
}

/// The package whose tests start an API server.
const KUBERNETES: &str = "redir-node-agent";
/// Those files of its tests that start none.
const WITHOUT_API_SERVER: [&str; 2] = ["bad_environment", "processes"];
/// The package and the file of tests that start containers.
const CONTAINERS: (&str, &str) = ("redir-tests", "containers");
/// The whole suite takes ten minutes on two cores; a run that hangs must end by itself long before CI gives up on it.
const LIMIT: Duration = Duration::from_secs(35 * 60);

pub(crate) fn run(options: &TestOptions) -> Result<()> {
    setup::run(setup::Say::OnlyWork)?;
    setup::with_cases()?;
    if runs_containers(options)
        && let Err(error) = setup::with_containers()
    {
        // Their tests say it too; others need not wait for it.
        println!("{} {error:#}", ui::red("not installed:"));
    }
    if !options.kernels.is_empty() {
        let by_hand = [format!("cargo xtask test --kernel {}", options.kernels.join(","))];
        let privilege = privilege::obtain("sharing this machine's files with a virtual machine", &by_hand)?;
        return kernel::run(options, privilege);
    }
    let places = TestPlaces::find(options)?;
    // Asked before the build, so that nobody waits minutes for a question.
    let by_hand = ["cargo xtask test".to_owned()];
    let privilege = privilege::obtain("making network namespaces and loading kernel programs for the tests", &by_hand)?;
    build(options, &places)?;
    let tally = run_tests(options, &places, privilege)?;
    sweep_as(privilege)?;
    conclude(&tally, &log()?)
}

/// Says what failed and what was left out, and ends with the sum; an error unless all is well. `output` is where to read on.
pub(crate) fn conclude(tally: &Tally, output: &Path) -> Result<()> {
    if signals::interrupted() {
        bail!("interrupted");
    }
    for what in by_reason(&tally.left_out) {
        println!("{} {what}", ui::bold("left out:"));
    }
    for name in &tally.failures {
        println!("{} {name}", ui::red("failed:"));
    }
    println!("{tally}");
    if tally.failed > 0 || tally.passed == 0 {
        bail!("not every test passed: the whole output is in {}", output.display());
    }
    Ok(())
}

/// Removes what tests that were killed could not remove themselves, and says so: it is worth a look.
pub(crate) fn sweep() -> Result<()> {
    for name in redir_rig::cleanup::sweep()? {
        println!("removed the namespace {name} that a killed run left");
    }
    Ok(())
}

fn sweep_as(privilege: Privilege) -> Result<()> {
    match privilege {
        Privilege::Root => sweep(),
        Privilege::Sudo => child::show(privilege.command(&paths::own()?).arg("sweep")),
    }
}

/// Where tests find what is not theirs, by the name of the variable that says so.
pub(crate) struct TestPlaces(Vec<(&'static str, PathBuf)>);

impl TestPlaces {
    fn find(options: &TestOptions) -> Result<TestPlaces> {
        let mut places = TestPlaces::without_kubernetes(options)?;
        if starts_an_api_server(options) {
            places.0.push(("REDIR_KUBERNETES_BIN", cluster::programs()?));
        }
        Ok(places)
    }

    /// Where no test starts an API server.
    pub(crate) fn without_kubernetes(options: &TestOptions) -> Result<TestPlaces> {
        let mut places = vec![("REDIR_BIN_DIR", paths::target()?.join("debug")), ("REDIR_CASES", paths::cases()?)];
        if options.rounds > 1 {
            places.push(("REDIR_ROUNDS", options.rounds.to_string().into()));
        }
        Ok(TestPlaces(places))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        self.0.iter().map(|(name, place)| (*name, place.as_path()))
    }
}

/// Whether a test may, for which Kubernetes may have to be compiled.
fn starts_an_api_server(options: &TestOptions) -> bool {
    let in_package = options.package.is_empty() || options.package.iter().any(|name| name == KUBERNETES);
    let in_file = |file: &String| !WITHOUT_API_SERVER.contains(&file.as_str());
    in_package && (options.files.is_empty() || options.files.iter().any(in_file))
}

/// Whether a test may start containers.
fn runs_containers(options: &TestOptions) -> bool {
    if !options.kernels.is_empty() && options.names_no_program() {
        return false;
    }
    let in_package = options.package.is_empty() || options.package.iter().any(|name| name == CONTAINERS.0);
    in_package && (options.files.is_empty() || options.files.iter().any(|file| file == CONTAINERS.1))
}

/// All programs, since the end-to-end tests start them as a person would, and the tests themselves.
fn build(options: &TestOptions, places: &TestPlaces) -> Result<()> {
    println!("building the programs and their tests");
    build_programs()?;
    child::show(cargo_test(options, places, Privilege::Root)?.arg("--no-run"))
}

/// The programs that the end-to-end tests start.
pub(crate) fn build_programs() -> Result<()> {
    child::show(paths::cargo().current_dir(paths::root()).args([
        "build",
        "--workspace",
        "--exclude",
        "xtask",
        "--bins",
    ]))
}

fn run_tests(options: &TestOptions, places: &TestPlaces, privilege: Privilege) -> Result<Tally> {
    let log = log()?;
    let mut file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = cargo_test(options, places, privilege)?;
    command.arg("--no-fail-fast");
    if let Some(filter) = &options.filter {
        command.args(["--", filter]);
    }
    let mut tally = Tally::new(options.verbose);
    let limit = LIMIT * options.rounds;
    let end = child::lines(&mut command, Instant::now() + limit, |line| {
        if let Some(line) = line {
            let _ = writeln!(file, "{line}");
        }
        tally.line(line);
    })?;
    let left_at = match end {
        End::Exited(status) if status.success() => None,
        End::Exited(_) => Some("ended without a result".to_owned()),
        End::Late => Some(format!("was still running after {}, stopped", ui::spoken(limit))),
    };
    tally.finish(left_at.as_deref());
    Ok(tally)
}

/// `cargo test` for what was chosen.
pub(crate) fn cargo_test(options: &TestOptions, places: &TestPlaces, privilege: Privilege) -> Result<Command> {
    let mut command = paths::cargo();
    command.current_dir(paths::root()).arg("test");
    if options.package.is_empty() {
        command.arg("--workspace");
    }
    for package in &options.package {
        command.args(["--package", package]);
    }
    for file in &options.files {
        command.args(["--test", file]);
    }
    command.envs(places.0.iter().map(|(name, place)| (name, place)));
    if privilege == Privilege::Sudo {
        // Cargo stays the person's own; only the test programs run as root, with the same environment.
        let runner = format!("CARGO_TARGET_{}_RUNNER", paths::host_triple()?.to_uppercase().replace('-', "_"));
        let places: Vec<String> = places.0.iter().map(|(name, place)| format!("{name}={}", place.display())).collect();
        command.env(runner, format!("sudo -n -E env {}", places.join(" ")));
    }
    Ok(command)
}

/// The whole output, for whoever wants to read on.
fn log() -> Result<PathBuf> {
    let target = paths::target()?;
    fs::create_dir_all(&target).with_context(|| format!("cannot make {}", target.display()))?;
    Ok(target.join("test.log"))
}
