//! `redir completions`: what a shell needs to complete redir's flags.
//!
//! Owns: printing it. Called by: `commands`.

use clap::CommandFactory as _;

use crate::args::{Cli, CompletionsArgs};
use crate::error::Outcome;
use crate::screen::print;

/// Prints the shell's script.
pub(crate) fn run(args: &CompletionsArgs) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "redir", &mut script);
    print(&String::from_utf8_lossy(&script))
}
