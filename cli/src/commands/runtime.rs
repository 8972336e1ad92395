//! The runtime that commands with agents or a cluster run on.

use crate::args::OutputFormat;
use crate::error::{CliError, Outcome};
use crate::screen::Screen;
use crate::wording;

/// One thread is enough for a developer's traffic, and keeps the process small.
pub(super) fn with_runtime(output: OutputFormat, command: impl AsyncFnOnce(Screen) -> Outcome) -> Outcome {
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
