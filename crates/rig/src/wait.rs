//! Waiting for a state, bounded. Nothing here waits for time to pass as such.

use std::{
    fmt::Display,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Between two looks. Short against everything waited for, long against a look's cost.
const LOOK: Duration = Duration::from_millis(5);

/// Waits until `look` gives a value; `what` is the sentence of the error when `limit` passed before.
pub fn until<T>(what: impl Display, limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = look()? {
            return Ok(value);
        }
        if start.elapsed() > limit {
            bail!("waited {limit:?} in vain: {what}");
        }
        thread::sleep(LOOK);
    }
}

/// [`until`] for a condition.
pub fn until_true(what: impl Display, limit: Duration, mut look: impl FnMut() -> Result<bool>) -> Result<()> {
    until(what, limit, || Ok(look()?.then_some(())))
}
