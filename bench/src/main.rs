//! `redir-bench`: what `cargo xtask bench` builds and starts. Owns the command line and the exit code.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use redir_bench::parser;

/// Measure redir
#[derive(Parser)]
#[command(disable_help_subcommand = true)]
enum Scenario {
    /// The head parser, next to httparse
    #[command(args_conflicts_with_subcommands = true)]
    Parser {
        #[command(subcommand)]
        counted: Option<Counted>,
        #[command(flatten)]
        options: parser::Options,
    },
}

#[derive(Subcommand)]
enum Counted {
    /// Every measurement a few times, for callgrind to count
    #[command(hide = true)]
    Counted,
}

fn main() -> ExitCode {
    let Scenario::Parser { counted, options } = Scenario::parse();
    let met: Result<bool> = match counted {
        Some(Counted::Counted) => {
            parser::counted();
            Ok(true)
        }
        None => parser::run(&options),
    };
    match met {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
