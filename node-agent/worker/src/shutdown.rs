//! The two steps in which connections end with the agent: draining, then aborting; and how long each may take.
//!
//! Owns two tokens and the deadlines; `worker::run` decides the order.

use std::time::Duration;

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::broker::GuardianEvent;

/// What may still happen after everything was told to end at once.
const LAST: Duration = Duration::from_secs(1);

/// What every connection watches; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct StopSignals {
    /// New connections pass to the app; quiet ones close, busy ones go on.
    pub(crate) draining: CancellationToken,
    /// The deadline: what is left is reset.
    pub(crate) abort: CancellationToken,
}

/// Waits until `ended` or until the time is over; false if it is. A second order to end may shorten it.
pub(crate) async fn drained(
    ended: impl Future<Output = ()>,
    drain: Duration,
    events: &mut mpsc::Receiver<GuardianEvent>,
) -> bool {
    let mut ended = std::pin::pin!(ended);
    let mut deadline = Instant::now() + drain;
    loop {
        tokio::select! {
            () = &mut ended => return true,
            () = sleep_until(deadline) => return false,
            event = events.recv() => match event {
                Some(GuardianEvent::Shutdown { drain }) => deadline = deadline.min(Instant::now() + drain),
                Some(GuardianEvent::GuardianGone) | None => return false,
                Some(
                    GuardianEvent::Config(_)
                    | GuardianEvent::Controller(_)
                    | GuardianEvent::PodGone(_)
                    | GuardianEvent::PodEnded(_)
                    | GuardianEvent::Readdressed(..),
                ) => {}
            }
        }
    }
}

/// Waits for what was told to end, but not long.
pub(crate) async fn bounded(ended: impl Future<Output = ()>) {
    if timeout(LAST, ended).await.is_err() {
        tracing::warn!("something did not end in time");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn draining_ends_with_the_last_connection_or_with_the_time() {
        let (_sender, mut events) = mpsc::channel(1);
        assert!(drained(async {}, Duration::from_secs(60), &mut events).await);
        assert!(!drained(std::future::pending(), Duration::ZERO, &mut events).await);
    }

    #[tokio::test]
    async fn a_second_order_shortens_the_time_and_a_dead_guardian_ends_it() {
        let (sender, mut events) = mpsc::channel(1);
        sender.send(GuardianEvent::Shutdown { drain: Duration::ZERO }).await.unwrap();
        assert!(!drained(std::future::pending(), Duration::from_secs(60), &mut events).await);
        sender.send(GuardianEvent::GuardianGone).await.unwrap();
        assert!(!drained(std::future::pending(), Duration::from_secs(60), &mut events).await);
    }
}
