//! A test's upper bound in time: past it, everything the test made is ended and the test fails.

use std::{
    panic,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use anyhow::{Result, bail};

use crate::{cleanup, wait};

/// How long the body may take to unwind once its processes are gone.
const UNWIND: Duration = Duration::from_secs(10);

/// Runs `body` on a thread of its own. After `limit` ([`wait::scaled`]), everything named `prefix…` is ended, so that its blocked calls
/// return and it can print its logs, and the result is an error.
pub fn run<T: Send + 'static>(prefix: &str, limit: Duration, body: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    cleanup::on_signals();
    let limit = wait::scaled(limit);
    let (send, receive) = mpsc::channel();
    let thread = thread::Builder::new().name(prefix.to_owned()).spawn(move || {
        let result = body();
        let _ = send.send(());
        result
    })?;
    match receive.recv_timeout(limit) {
        Ok(()) | Err(RecvTimeoutError::Disconnected) => thread.join().or_else(|payload| panic::resume_unwind(payload)),
        Err(RecvTimeoutError::Timeout) => {
            eprintln!("{prefix}: not done in {limit:?}; ending what it made");
            cleanup::prefix(prefix);
            let _ = receive.recv_timeout(wait::scaled(UNWIND));
            bail!("{prefix}: not done in {limit:?}")
        }
    }
}
