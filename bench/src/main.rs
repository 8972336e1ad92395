//! `redir-bench`: what `cargo xtask bench` builds and starts. Owns the command line and the exit code.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};
use redir_bench::{parser, programs, report, scenarios};

/// Measure redir
#[derive(Parser)]
#[command(disable_help_subcommand = true)]
enum BenchCommand {
    /// The scenarios with real programs and sockets
    Run(scenarios::RunOptions),
    /// What changed between two results
    Compare {
        /// A `results.json`, or the folder that has it
        before: PathBuf,
        /// Another one
        after: PathBuf,
    },
    /// Write a result's page and charts again
    Report {
        /// The folder with its `results.json`
        folder: PathBuf,
    },
    /// The head parser, next to httparse
    #[command(args_conflicts_with_subcommands = true)]
    Parser {
        #[command(subcommand)]
        counted: Option<Counted>,
        #[command(flatten)]
        options: parser::ParserOptions,
    },
    /// One of the bench's own programs
    #[command(hide = true)]
    Program {
        #[command(subcommand)]
        program: OwnProgram,
    },
}

#[derive(Subcommand)]
enum Counted {
    /// Every measurement a few times, for callgrind to count
    #[command(hide = true)]
    Counted,
}

#[derive(Subcommand)]
enum OwnProgram {
    App(programs::app::AppOptions),
    Relay(programs::relay::RelayOptions),
    Load(programs::load::LoadOptions),
    Wan(programs::wan::WanOptions),
}

fn main() -> ExitCode {
    match run(BenchCommand::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all is well: nothing failed in what was run, no goal of the parser's missed.
fn run(command: BenchCommand) -> Result<bool> {
    match command {
        BenchCommand::Run(options) => scenarios::run(&options),
        BenchCommand::Compare { before, after } => report::compare::print(&before, &after).map(|()| true),
        BenchCommand::Report { folder } => report::again(&folder).map(|()| true),
        BenchCommand::Parser { counted: Some(Counted::Counted), .. } => {
            parser::counted();
            Ok(true)
        }
        BenchCommand::Parser { counted: None, options } => parser::run(&options),
        BenchCommand::Program { program } => program.run().map(|()| true),
    }
}

impl OwnProgram {
    fn run(&self) -> Result<()> {
        match self {
            Self::App(options) => programs::app::run(options),
            Self::Relay(options) => programs::relay::run(options),
            Self::Wan(options) => programs::wan::run(options),
            Self::Load(options) => {
                println!("{}", serde_json::to_string(&programs::load::run(options)?)?);
                Ok(())
            }
        }
    }
}
