//! A question to the admin before something is done that cannot be taken back.
//!
//! Owns: who may be asked, and what counts as yes. Must not word the question. Called by: `install`, `uninstall`.

use std::io::{self, IsTerminal as _};

use crate::error::CliError;
use crate::screen::Screen;
use crate::wording::install as say;

/// Goes on with `--yes`, or when somebody at the terminal says so. A script is told of the flag: nothing waits for it.
pub(super) async fn confirm(screen: &Screen, question: &str, yes: bool) -> Result<(), CliError> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(CliError::Usage(say::nobody_to_ask(question)));
    }
    screen.ask(say::question(question));
    let answer = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().read_line(&mut line).map(|_| line)
    });
    let is_yes = |line: String| ["y", "yes"].contains(&line.trim().to_ascii_lowercase().as_str());
    // No answer (Ctrl-D) is a no.
    match answer.await.ok().and_then(Result::ok).is_some_and(is_yes) {
        true => Ok(()),
        false => Err(CliError::Failed(say::not_confirmed())),
    }
}
