//! `cargo xtask bench`: sets up the others, builds redir and `redir-bench` as releases are built, and starts the latter as
//! root. Owns the order and where the results go; what is measured, and against which goal, is in `bench/`.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use redir_bench_options::{BenchOptions, Scenario};

use crate::{child, paths, privilege, setup, signals, ui};

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct BenchCommand {
    #[command(subcommand)]
    command: Option<BenchSubcommand>,
    #[command(flatten)]
    options: BenchOptions,
}

#[derive(Subcommand)]
enum BenchSubcommand {
    /// Show what changed between two results, by goal
    Compare {
        /// The older result's folder
        before: PathBuf,
        /// The newer result's folder
        after: PathBuf,
    },
}

pub(crate) fn run(BenchCommand { command, options }: &BenchCommand) -> Result<()> {
    if let Some(BenchSubcommand::Compare { before, after }) = command {
        build(&["--package", "redir-bench"])?;
        return child::show(Command::new(binary()?).arg("compare").arg(before).arg(after));
    }
    // Needs neither root nor peers, and has a page of its own.
    if options.is_only(Scenario::Parser) {
        return parser(options.quick);
    }
    setup::run(setup::Say::OnlyWork)?;
    let by_hand = ["cargo xtask bench".to_owned()];
    let privilege = privilege::obtain("making the bench's network namespaces", &by_hand)?;
    if options.needs_peers() {
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
    // The words of this command line, which has been read with the same options.
    child::show(command.args(env::args_os().skip_while(|word| word != "bench").skip(1)))
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

/// Where the results go: `bench/results/<date>-<CPUs>-<architecture>`, with the scenarios' names if they are not all; those
/// of a run that must not be quoted go into the target directory.
fn folder(options: &BenchOptions) -> Result<PathBuf> {
    if !options.is_quotable() {
        let name = if options.against.is_some() { "against" } else { "tried" };
        return Ok(paths::target()?.join("bench").join(name));
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
    let names: String = options.scenarios.iter().map(|scenario| format!("-{}", scenario.name())).collect();
    let name = format!("{date}-{cpus}cpu-{}{names}", env::consts::ARCH);
    Ok(results.join(name))
}

/// A run of hours that was interrupted, yesterday perhaps.
fn unfinished(results: &Path) -> Option<PathBuf> {
    let folders = results.read_dir().ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    folders.filter(|folder| folder.join("parts").is_dir()).max()
}
