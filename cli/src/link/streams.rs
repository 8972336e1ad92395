//! The streams that an agent opens: one for each client connection, carried to the developer's own service.
//!
//! Owns: the checks of a stream before anything is dialled. Must not know HTTP, or connect anywhere but to the
//! service from the command line. Called by: `link::session`, one task for each stream.

use std::collections::BTreeSet;
use std::time::Duration;

use redir_tunnel::{Arrival, Tunnel, relay};
use redir_wire::StreamCode;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::service::Service;

/// A stream may overtake the message that tells of its intercept, by a lost packet or two.
const OVERTAKEN: Duration = Duration::from_secs(2);

/// Carries one stream to its end.
pub(crate) async fn serve(arrival: Arrival, tunnel: Tunnel, own: watch::Receiver<BTreeSet<u64>>, service: Service) {
    // A stream without a good header was reset while it was read.
    let Ok(stream) = arrival.header().await else { return };
    if !is_own(own, stream.header.intercept).await {
        return stream.refuse(StreamCode::NotMine);
    }
    match service.connect().await {
        Err(code) => stream.refuse(code),
        // How it ended was told to both sides by the copy itself; the agent counts it.
        Ok(connection) => {
            relay(connection, stream.send, stream.recv, tunnel.budget()).await;
        }
    }
}

async fn is_own(mut own: watch::Receiver<BTreeSet<u64>>, intercept: u64) -> bool {
    let known = own.wait_for(|own| own.contains(&intercept));
    timeout(OVERTAKEN, known).await.is_ok_and(|own| own.is_ok())
}
