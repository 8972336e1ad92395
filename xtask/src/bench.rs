//! `cargo xtask bench`: sets up the others, builds redir and `redir-bench` as releases are built, and starts the latter as
//! root. Owns the order and where the results go; what is measured, and against which goal, is in `bench/`.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use crate::{child, paths, privilege, setup, signals, ui};

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Option<Other>,
    /// N, U, F, M, X, R, T, I, P; without any, those that a goal is about: all but X
    scenarios: Vec<String>,
    /// Within a minute, whether it all works; its figures say nothing
    #[arg(long)]
    quick: bool,
    /// Also what no goal asks for: hours. Interrupted, the same command goes on where it was
    #[arg(long, conflicts_with = "quick")]
    all: bool,
    /// Only these others (haproxy, nginx, envoy, ssh, rathole, rusnel, bore), or `none`
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// Only cells whose name contains this, for whoever works on one
    #[arg(long)]
    cell: Option<String>,
    /// Other than 20 rounds: more narrow the intervals, the figures of fewer nobody should quote
    #[arg(long)]
    rounds: Option<usize>,
    /// Another build in the same rounds: its `redir-agent`, or the folder that has it. A `redir` beside it is its CLI. Only of
    /// U, M and I; fails if this build is worse
    #[arg(long, value_name = "PATH", conflicts_with_all = ["all", "quick"])]
    against: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Other {
    /// The HTTP head parser next to httparse: instructions and wall time, then criterion's wall times
    Parser {
        /// Only the table with the goals, from fewer rounds: seconds, and the same instruction counts
        #[arg(long)]
        quick: bool,
    },
    /// What changed between two results
    Compare {
        /// A result's folder
        before: PathBuf,
        /// Another one
        after: PathBuf,
    },
}

pub(crate) fn run(options: &Options) -> Result<()> {
    match &options.command {
        Some(Other::Parser { quick }) => return parser(*quick),
        Some(Other::Compare { before, after }) => {
            build(&["--package", "redir-bench"])?;
            return child::show(Command::new(binary()?).arg("compare").arg(before).arg(after));
        }
        None => (),
    }
    setup::run(setup::Say::OnlyWork)?;
    let by_hand = ["cargo xtask bench".to_owned()];
    let privilege = privilege::obtain("making the bench's network namespaces", &by_hand)?;
    // A quick run is for correctness: it takes whom it finds.
    if !options.quick && (options.against.is_none() || !options.peers.is_empty()) {
        for missing in setup::with_peers(&options.peers)? {
            println!("{} {missing}", ui::bold("left out:"));
        }
    }
    build(&["--package", "redir", "--package", "redir-node-agent", "--package", "redir-bench"])?;
    if signals::interrupted() {
        bail!("interrupted");
    }
    let mut command = privilege.command(Path::new("/usr/bin/env"));
    for (name, value) in [("REDIR_BIN_DIR", paths::target()?.join("release")), ("REDIR_TOOLS", paths::tools()?)] {
        command.arg(assignment(name, value.as_os_str()));
    }
    command.arg(binary()?).args(["run", "--out"]).arg(folder(options)?);
    if options.quick {
        command.arg("--quick");
    }
    if options.all {
        command.arg("--all");
    }
    if !options.peers.is_empty() {
        command.args(["--peers", &options.peers.join(",")]);
    }
    if let Some(cell) = &options.cell {
        command.args(["--cell", cell]);
    }
    if let Some(rounds) = options.rounds {
        command.args(["--rounds", &rounds.to_string()]);
    }
    if let Some(other) = &options.against {
        command.arg("--against").arg(other);
    }
    child::show(command.args(&options.scenarios))
}

fn parser(quick: bool) -> Result<()> {
    if let Err(error) = setup::with_callgrind() {
        println!(
            "{} only wall time is measured, and judged with room for noise: {error:#}",
            ui::bold("without valgrind")
        );
    }
    build(&["--package", "redir-bench", "--bin", "redir-bench"])?;
    if !quick {
        let mut criterion = paths::cargo();
        criterion.current_dir(paths::root()).args(["bench", "--package", "redir-bench", "--bench", "parser"]);
        child::show(&mut criterion)?;
    }
    if signals::interrupted() {
        bail!("interrupted");
    }
    let results = paths::target()?.join("bench");
    let mut bench = Command::new(binary()?);
    bench.args(["parser", "--out"]).arg(&results).args(quick.then_some("--quick"));
    let measured = child::show(&mut bench);
    println!("written to {}", results.display());
    measured
}

fn build(packages: &[&str]) -> Result<()> {
    println!("building as it is shipped (a first build takes minutes)");
    child::show(paths::cargo().current_dir(paths::root()).args(["build", "--release"]).args(packages))
}

fn binary() -> Result<PathBuf> {
    Ok(paths::target()?.join("release").join("redir-bench"))
}

fn assignment(name: &str, value: &OsStr) -> OsString {
    let mut pair = OsString::from(name);
    pair.push("=");
    pair.push(value);
    pair
}

/// Where the results go: `bench/results/<date>-<CPUs>-<architecture>`, with the scenarios' letters if they are not all; a
/// run's that nobody should quote, into the target directory.
fn folder(options: &Options) -> Result<PathBuf> {
    if options.against.is_some() {
        return Ok(paths::target()?.join("bench").join("against"));
    }
    if options.quick || options.cell.is_some() || options.rounds.is_some_and(|rounds| rounds < 20) {
        return Ok(paths::target()?.join("bench").join("tried"));
    }
    let results = paths::root().join("bench").join("results");
    if options.all
        && let Some(begun) = unfinished(&results)
    {
        return Ok(begun);
    }
    let date = Command::new("date").args(["-u", "+%F"]).output()?;
    let date = String::from_utf8_lossy(&date.stdout).trim().to_owned();
    let cpus = std::thread::available_parallelism()?;
    let letters: String = options.scenarios.iter().map(|name| format!("-{}", name.to_lowercase())).collect();
    let name = format!("{date}-{cpus}cpu-{}{letters}", std::env::consts::ARCH);
    Ok(results.join(name))
}

/// A run of hours that was interrupted, yesterday perhaps.
fn unfinished(results: &Path) -> Option<PathBuf> {
    let folders = results.read_dir().ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    folders.filter(|folder| folder.join("parts").is_dir()).max()
}
