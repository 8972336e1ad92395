//! Has the guardian close the connections that the app had before an intercept, where its developer asked for that.
//!
//! Beside the hub, which never waits. Once for each intercept and pod, also over redials. Must not decide who may.

use redir_wire::PodFlush;
use tokio::{
    sync::mpsc::{Sender, UnboundedReceiver},
    task::JoinSet,
};

use crate::broker::Broker;
use redir_config::PodName;

use super::hub::HubCommand;

/// What is to be closed: for which intercept, in which pod, on which port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FlushRequest {
    pub(crate) intercept: u64,
    pub(crate) pod: PodName,
    pub(crate) port: u16,
}

/// Runs until nobody asks any more.
pub(super) async fn run(broker: Broker, mut asked: UnboundedReceiver<FlushRequest>, hub: Sender<HubCommand>) {
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            request = asked.recv() => match request {
                Some(request) => {
                    running.spawn(flush(broker.clone(), request));
                }
                None => return,
            },
            Some(done) = running.join_next() => {
                if let Ok((request, outcome)) = done {
                    // The hub has ended: so does the worker.
                    hub.send(HubCommand::Flushed(request, outcome)).await.ok();
                }
            }
        }
    }
}

async fn flush(broker: Broker, request: FlushRequest) -> (FlushRequest, PodFlush) {
    let FlushRequest { pod, port, .. } = &request;
    let outcome = match broker.flush(pod, *port).await {
        Ok((closed, left)) => PodFlush { closed, left, reason: String::new() },
        Err(error) => {
            tracing::warn!(%pod, port, %error, "connections from before an intercept were not closed");
            PodFlush { reason: error.to_string(), ..PodFlush::default() }
        }
    };
    (request, outcome)
}
