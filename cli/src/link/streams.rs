//! The streams that an agent opens: one for each client connection, carried to the developer's own service.
//!
//! Owns: the checks of a stream before anything is dialled. Must not know HTTP, or connect anywhere but to the
//! service from the command line. Called by: `link::session`, one task for each stream.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use redir_tunnel::{Arrival, DataStream, Tunnel, canonical, relay};
use redir_wire::StreamCode;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::timeout;

use super::desired::DesiredIntercept;
use super::local_tls;
use crate::service::{CONNECT, ServiceProtocol};

/// A stream may overtake the message that tells of its intercept, by a lost packet or two.
const OVERTAKEN: Duration = Duration::from_secs(2);
/// What is looked at, at most, to tell TLS from plaintext: less than a socket's buffer.
const FIRST: usize = 16 * 1024;
/// How long the service may take for that.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connections that are being made to the service at once, for each tunnel: an agent that opens streams to a service that
/// does not accept holds no more than this, and no other agent or port waits for it.
const MOST_CONNECTING: usize = 64;

/// The places of one tunnel for connections that are being made.
pub(super) fn connecting() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(MOST_CONNECTING))
}

/// The record type with which TLS begins.
const TLS_HANDSHAKE: u8 = 0x16;

/// Carries one stream to its end.
pub(crate) async fn serve(
    arrival: Arrival,
    tunnel: Tunnel,
    own: watch::Receiver<BTreeSet<u64>>,
    wanted: Arc<DesiredIntercept>,
    connecting: Arc<Semaphore>,
) {
    // A stream without a good header was reset while it was read.
    let Ok(stream) = arrival.header().await else { return };
    if !is_own(own, stream.header.intercept).await {
        return stream.refuse(StreamCode::NotMine);
    }
    match wanted.speaks {
        ServiceProtocol::Plaintext => match connect(&wanted, &stream, &connecting).await {
            Err(code) => stream.refuse(code),
            // How it ended was told to both sides by the copy itself; the agent counts it.
            Ok(connection) => {
                relay(connection, stream.send, stream.recv, tunnel.budget()).await;
            }
        },
        ServiceProtocol::Tls => serve_tls(stream, &tunnel, &wanted, &connecting).await,
    }
}

/// A connection to the service. It begins with the client's address where the service wants to read it there.
async fn connect(
    wanted: &DesiredIntercept,
    stream: &DataStream,
    connecting: &Semaphore,
) -> Result<TcpStream, StreamCode> {
    let place = place(connecting).await?;
    let mut tcp = wanted.service.connect().await?;
    drop(place);
    // Nothing was sent yet. What this request asks for would match again there, and come back here.
    if tcp.peer_addr().is_ok_and(|peer| canonical(peer) == canonical(stream.header.destination)) {
        return Err(StreamCode::Looped);
    }
    if let Some(version) = wanted.proxy {
        let header = version.header(stream.header.client, stream.header.destination);
        match timeout(PATIENCE, tcp.write_all(&header)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return Err(StreamCode::Reset),
        }
    }
    Ok(tcp)
}

/// A place among those that are connecting. Who gets none while a connection may take its time is told of that service what
/// the others wait for.
async fn place(connecting: &Semaphore) -> Result<SemaphorePermit<'_>, StreamCode> {
    let place = timeout(CONNECT, connecting.acquire()).await.map_err(|_| StreamCode::Timeout)?;
    // Never closed.
    place.map_err(|_| StreamCode::Gone)
}

/// Encrypts what comes, unless it is the client's own TLS that nobody has decrypted.
async fn serve_tls(mut stream: DataStream, tunnel: &Tunnel, wanted: &DesiredIntercept, connecting: &Semaphore) {
    let mut first = Vec::new();
    if stream.header.tls.is_none() {
        // Its end or its reset is told to whoever reads it next.
        let chunk = stream.recv.read_chunk(FIRST, true).await.ok().flatten();
        first.extend_from_slice(chunk.as_ref().map_or(&[], |chunk| &chunk.bytes));
    }
    let mut tcp = match connect(wanted, &stream, connecting).await {
        Ok(tcp) => tcp,
        Err(code) => return stream.refuse(code),
    };
    if first.first() == Some(&TLS_HANDSHAKE) {
        return match timeout(PATIENCE, tcp.write_all(&first)).await {
            Ok(Ok(())) => drop(relay(tcp, stream.send, stream.recv, tunnel.budget()).await),
            Ok(Err(_)) | Err(_) => stream.refuse(StreamCode::Reset),
        };
    }
    let client = stream.header.tls.clone().unwrap_or_default();
    let secured = async { local_tls::secure(tcp, &client).await?.begin(&first).await };
    match secured.await {
        Ok(secured) => secured.relay(stream, tunnel.budget()).await,
        Err(code) => stream.refuse(code),
    }
}

async fn is_own(mut own: watch::Receiver<BTreeSet<u64>>, intercept: u64) -> bool {
    let known = own.wait_for(|own| own.contains(&intercept));
    timeout(OVERTAKEN, known).await.is_ok_and(|own| own.is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_service_that_does_not_accept_delays_its_own_streams_alone_and_not_for_ever() {
        let [black_hole, healthy] = [connecting(), connecting()];
        let mut held = Vec::new();
        for _ in 0..MOST_CONNECTING {
            held.push(place(&black_hole).await.expect("free"));
        }
        assert_eq!(place(&black_hole).await.err(), Some(StreamCode::Timeout));
        assert!(place(&healthy).await.is_ok(), "another tunnel's");
        held.pop();
        assert!(place(&black_hole).await.is_ok());
    }
}
