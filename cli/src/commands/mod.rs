//! One file for each command.
//!
//! Owns: the dispatch, and the runtime that commands with agents run on. Called by: `main`.

mod ask;
mod completions;
mod confirm;
mod control_plane;
mod deletion_wait;
mod doctor;
mod install;
mod intercept;
mod keygen;
mod kubernetes;
mod leave;
mod list;
mod nodes;
mod outage;
mod pod_check;
mod port_intercept;
mod quota;
mod rollout;
mod run;
mod service_start;
mod status;
mod uninstall;

use self::install::InstallMode;
use crate::args::{Command, OutputFormat};
use crate::error::{CliError, Outcome};
use crate::screen::Screen;
use crate::wording;

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

/// One thread is enough for a developer's traffic, and keeps the process small.
fn with_runtime(output: OutputFormat, command: impl AsyncFnOnce(Screen) -> Outcome) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::Failed(wording::session::no_runtime(&error)))?;
    let (screen, writing) = Screen::start(output);
    let outcome = runtime.block_on(command(screen.clone()));
    // A name that is being looked up on a helper thread is not waited for.
    runtime.shutdown_background();
    writing.finish(screen);
    outcome
}
