//! Has the agent look at ports by itself: whether the app speaks TLS there.
//!
//! Beside the hub, which never waits, and off the way of any client. Each look is bounded by itself.

use tokio::{sync::mpsc::UnboundedReceiver, task::JoinSet};

use crate::{
    capture::PodCaptures,
    tls::{Tls, probe},
};
use redir_config::PodName;

/// Runs until nobody asks any more.
pub(super) async fn run(captures: PodCaptures, tls: Tls, mut unseen: UnboundedReceiver<(PodName, u16)>) {
    let mut looking = JoinSet::new();
    loop {
        tokio::select! {
            port = unseen.recv() => match port {
                Some((pod, port)) => {
                    looking.spawn(look(captures.clone(), tls.clone(), pod, port));
                }
                None => return,
            },
            Some(_) = looking.join_next() => {}
        }
    }
}

async fn look(captures: PodCaptures, tls: Tls, pod: PodName, port: u16) {
    let Some(upstream) = captures.upstream(&pod) else { return };
    let given = tls.given(&pod, port);
    if let Some(finding) = probe(&upstream, port, given.as_deref()).await {
        tls.found(&pod, port, finding);
    }
}
