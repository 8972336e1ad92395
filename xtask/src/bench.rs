//! `cargo xtask bench`: builds `redir-bench` as releases are built, and starts it. Owns the order and where the results go;
//! what is measured, and against which goal, is in `bench/`. Fails if a goal is missed.

use std::process::Command;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use crate::{child, paths, setup, signals, ui};

#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Subcommand)]
enum Scenario {
    /// The HTTP head parser next to httparse: instructions and wall time, then criterion's wall times
    Parser {
        /// Only the table with the goals, from fewer rounds: seconds, and the same instruction counts
        #[arg(long)]
        quick: bool,
    },
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let Scenario::Parser { quick } = options.scenario;
    if let Err(error) = setup::with_callgrind() {
        println!(
            "{} only wall time is measured, and judged with room for noise: {error:#}",
            ui::bold("without valgrind")
        );
    }
    let cargo = |words: &str| {
        let mut command = Command::new(paths::cargo());
        command.current_dir(paths::root()).args(words.split(' '));
        command
    };
    child::show(&mut cargo("build --quiet --release --package redir-bench --bin redir-bench"))?;
    if !quick {
        child::show(&mut cargo("bench --package redir-bench --bench parser"))?;
    }
    if signals::interrupted() {
        bail!("interrupted");
    }
    let target = paths::target()?;
    let results = target.join("bench");
    let mut bench = Command::new(target.join("release").join("redir-bench"));
    bench.args(["parser", "--out"]).arg(&results);
    if quick {
        bench.arg("--quick");
    }
    let measured = child::show(&mut bench);
    println!("written to {}", results.display());
    measured
}
