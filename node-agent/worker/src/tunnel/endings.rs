//! Has the guardian watch captured pods that are to end: what is held there must be reset while their links are there.
//!
//! Beside the hub, which never waits. Decides nothing: the policy knows which pods are to end, the guardian when.

use std::{collections::BTreeSet, time::Duration};

use tokio::{sync::watch, time::sleep};

use crate::{
    broker::Broker,
    capture::{EndingNotice, PodCaptures},
    control::Policy,
};
use redir_config::PodName;

/// Runs until the hub or the policy ends. A pod that is captured has an armed port first.
pub(super) async fn run(
    broker: Broker,
    captures: PodCaptures,
    mut policy: watch::Receiver<Policy>,
    mut armed: watch::Receiver<BTreeSet<(PodName, u16)>>,
) {
    loop {
        armed.borrow_and_update();
        let known = policy.borrow_and_update().clone();
        let mut failed = false;
        for news in captures.endings(|pod| known.ending(pod)) {
            let EndingNotice { pod, last, .. } = &news;
            match last {
                Some(last) => tracing::debug!(%pod, ?last, "the pod is to end"),
                None => tracing::debug!(%pod, "the pod is not to end any more"),
            }
            // One that was released meanwhile is gone from the captures as well.
            if let Err(error) = broker.ending(pod, *last).await {
                tracing::debug!(%pod, %error, "the guardian does not know whether the pod is to end");
                captures.untold(&news);
                failed = true;
            }
        }
        tokio::select! {
            changed = policy.changed() => if changed.is_err() { return },
            changed = armed.changed() => if changed.is_err() { return },
            () = sleep(AGAIN), if failed => {}
        }
    }
}

/// After something that the guardian did not do.
const AGAIN: Duration = Duration::from_millis(500);
