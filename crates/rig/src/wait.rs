//! Waiting for a state, bounded. Nothing here waits for time to pass as such.

use std::{
    env,
    fmt::Display,
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Between two looks. Short against everything waited for, long against a look's cost.
const LOOK: Duration = Duration::from_millis(5);

/// By how much tests are more patient than usual: a whole number, 1 or more. `cargo xtask test --kernel` sets it, since an
/// emulated machine is several times slower.
pub const TIME_FACTOR: &str = "REDIR_TIME_FACTOR";

/// A time limit as it counts on this machine: times [`TIME_FACTOR`]. Every limit of the tests goes through it once, where it
/// is applied. A promise in seconds is weighed with it as well, so it says nothing about speed on a machine with a factor.
///
/// # Panics
/// If the variable is no whole number above 0.
#[expect(clippy::panic, reason = "nothing can be tested with a limit that nobody meant")]
pub fn scaled(limit: Duration) -> Duration {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    limit
        * *FACTOR.get_or_init(|| {
            let Ok(text) = env::var(TIME_FACTOR) else { return 1 };
            match text.parse() {
                Ok(factor @ 1..) => factor,
                _ => panic!("{TIME_FACTOR} is {text:?}, and must be a whole number above 0"),
            }
        })
}

/// Waits until `look` gives a value; `what` is the sentence of the error when `limit` ([`scaled`]) passed before.
pub fn until<T>(what: impl Display, limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let (start, limit) = (Instant::now(), scaled(limit));
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
