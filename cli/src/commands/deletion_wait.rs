//! Waiting for the end of what was deleted, with an API server that may be restarted meanwhile.
//!
//! Owns: how often is looked, what is told, and when it takes too long. Must not ask. Called by: `uninstall`.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::outage::ApiServerOutage;
use crate::error::CliError;
use crate::events::AdminStep;
use crate::screen::Screen;
use crate::wording::install as say;

/// How often it is looked whether something is gone.
const LOOK: Duration = Duration::from_millis(250);
/// When that is told: then after twice as long each time.
const REMIND: Duration = Duration::from_secs(5);

/// The pauses between two looks, what is told in them, and when there are enough of them.
pub(super) struct DeletionWait<'a> {
    screen: &'a Screen,
    begin: Instant,
    limit: Duration,
    reminder: (Instant, Duration),
    absence: ApiServerOutage,
    /// Whether the API server's absence was told.
    is_absence_told: bool,
}

impl<'a> DeletionWait<'a> {
    pub(super) fn begin(screen: &'a Screen, limit: Duration) -> Self {
        let begin = Instant::now();
        Self {
            screen,
            begin,
            limit,
            reminder: (begin, REMIND),
            absence: ApiServerOutage::default(),
            is_absence_told: false,
        }
    }

    /// The answer: asks again while the API server is away, as when it is restarted.
    pub(super) async fn outlast<T>(&mut self, ask: impl AsyncFn() -> Result<T, CliError>) -> Result<T, CliError> {
        loop {
            match self.absence.outlast(ask().await, Instant::now())? {
                Ok(answer) => return Ok(answer),
                Err(why) if self.begin.elapsed() > self.limit => return Err(CliError::Away(why)),
                Err(why) if !std::mem::replace(&mut self.is_absence_told, true) => {
                    self.screen.step(&AdminStep::Remark { sentence: say::still_asking(&why) });
                }
                Err(_) => (),
            }
            sleep(LOOK).await;
        }
    }

    /// A moment, or the failure that it takes too long.
    pub(super) async fn pause(&mut self, left: &[String]) -> Result<(), CliError> {
        if self.begin.elapsed() > self.limit {
            return Err(CliError::Failed(say::never_gone(left, self.limit)));
        }
        let (at, pause) = self.reminder;
        if at.elapsed() > pause {
            self.reminder = (Instant::now(), pause.saturating_mul(2));
            self.screen.step(&AdminStep::Remark { sentence: say::waiting_for_end(left) });
        }
        sleep(LOOK).await;
        Ok(())
    }
}
