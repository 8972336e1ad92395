//! One file for each command.
//!
//! Owns: the dispatch. Called by: `main`.

mod ask;
mod completions;
mod confirm;
mod control_plane;
mod deletion_wait;
mod doctor;
mod end_reason;
mod install;
mod intercept;
mod keygen;
mod kubernetes;
mod leave;
mod list;
mod nodes;
mod outage;
mod pod_check;
mod port_in_cluster;
mod port_intercept;
mod quota;
mod rollout;
mod run;
mod runtime;
mod service_start;
mod status;
mod uninstall;

use self::install::InstallMode;
use crate::args::Command;
use crate::error::Outcome;

/// Runs the command to its end.
pub(crate) fn run(command: Command) -> Outcome {
    match command {
        Command::Intercept(args) => intercept::run(*args),
        Command::List(args) => list::run(&args),
        Command::Leave(args) => leave::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Describe(args) => kubernetes::describe(&args),
        Command::Install(args) => install::run(&args, InstallMode::Whatever),
        Command::Upgrade(args) => install::run(&args, InstallMode::Installed),
        Command::Uninstall(args) => uninstall::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Keygen(args) => keygen::run(&args),
    }
}
