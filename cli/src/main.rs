//! The `redir` command: the developer's end.
//!
//! Owns: reading the command line, the exit code, the one place where trouble is printed.
//! Must not hold what a command does (`commands`) or says (`wording`).

mod args;
mod child;
mod cluster;
mod commands;
mod conditions;
mod config;
mod curl;
mod error;
mod escape;
mod events;
mod json;
mod link;
mod model;
mod paint;
mod paths;
mod routes;
mod screen;
mod service;
mod signals;
mod static_agents;
mod throttle;
mod timestamps;
mod usage;
mod user;
mod values;
mod wording;

use std::io::Write as _;
use std::process::ExitCode;

use clap::FromArgMatches as _;

use crate::error::CliError;
use crate::paint::{Colour, Paint};

fn main() -> ExitCode {
    let read = args::command().try_get_matches().and_then(|matches| args::Cli::from_arg_matches(&matches));
    let cli = match read {
        Ok(cli) => cli,
        Err(error) => return refuse(error),
    };
    match commands::run(cli.command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => end(&error),
    }
}

/// Help and version are printed as they are; anything else becomes one sentence.
fn refuse(error: clap::Error) -> ExitCode {
    let known = args::command();
    let words: Vec<String> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let subcommand = words.iter().find_map(|word| known.find_subcommand(word)).map(clap::Command::get_name);
    match usage::explain(error, subcommand) {
        Ok(error) => end(&error),
        Err(help) => {
            // Nothing can be told if this fails.
            help.print().ok();
            ExitCode::from(u8::try_from(help.exit_code()).unwrap_or(2))
        }
    }
}

fn end(error: &CliError) -> ExitCode {
    let name = Paint::of(&std::io::stderr()).with(Colour::Red, "redir:");
    // Nothing can be told if this fails.
    writeln!(std::io::stderr(), "{name} {error}").ok();
    error.code()
}
