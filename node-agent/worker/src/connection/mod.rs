//! One accepted client connection, from its access event at open to the one at close.
//!
//! Owns the order of things: the plan of the moment, the exchange, the relay when nothing is to be looked at any more,
//! and how the sockets end. Called by the captures, one task for each connection; the task ends by itself when the
//! agent drains (if the connection is quiet) and when its pod is aborted.

mod buffer;
mod decrypt;
mod downward;
mod exchange;
mod http2;
mod leg;
mod leg_ended;
pub(super) mod matched;
mod over;
pub(super) mod refusal;
pub(super) mod route;
mod sent;
#[cfg(test)]
mod tests;
pub(super) mod transport;
mod undecided;
mod upward;

use std::{future::poll_fn, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use redir_http::OpaqueReason;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use self::{
    decrypt::{Greeting, Outcome, decrypt},
    exchange::{End, Exchange, Start},
    route::Route,
    transport::Transport,
};
pub(super) use self::{leg::LegError, undecided::WHOLE_HEAD};
use super::{
    access::Access,
    capture::{Live, Pod},
    memory,
    misses::Cause,
    relay,
    tls::{Finding, Session},
    upstream::{AppLeg, Upstream},
};

/// A connection that was quiet for this long while the agent drains is closed: its client is between requests.
const QUIET: Duration = Duration::from_secs(1);
/// How long a client that was answered, and sends on, may do so before the rest is reset, which could cost it the answer:
/// as nginx's `lingering_time`.
const LINGER: Duration = Duration::from_secs(30);
/// The same after HTTP/2, whose client has heard GOAWAY: one that sends on floods.
const LINGER_HTTP2: Duration = Duration::from_secs(2);
/// How long it may say nothing meanwhile: as nginx's `lingering_timeout`.
const LINGER_QUIET: Duration = Duration::from_secs(5);
/// How long it has while the agent drains.
const LINGER_DRAINING: Duration = Duration::from_secs(2);

/// What ends a connection from outside.
#[derive(Clone)]
pub(super) struct Outside {
    pub(super) draining: CancellationToken,
    pub(super) abort: CancellationToken,
}

/// Serves one steered connection to its end.
///
/// An idle connection is little more than this future: what it owns is in it once, and what awaits borrows.
pub(crate) fn serve(
    pod: &Arc<Pod>,
    client: TcpStream,
    peer: SocketAddr,
    local: SocketAddr,
    live: Live,
) -> impl Future<Output = ()> + use<> {
    let shared = pod.shared();
    let arrival = pod.upstream().arrived(peer);
    let mut access = Access::open(pod.name(), local.port(), peer, &shared.metrics);
    access.at(live.place().clone());
    let mut route = Route {
        plans: shared.plans.clone(),
        pod: pod.name().clone(),
        client: peer,
        destination: local,
        connect: Box::new(connector(pod.upstream().clone(), peer, local)),
        tls: shared.tls.clone(),
        misses: shared.misses.clone(),
        secured: None,
    };
    let outside = Outside { draining: shared.stop.draining.clone(), abort: pod.aborted().clone() };
    let account = live.place().account().clone();
    memory::paid_by(account, async move {
        run(&client, &mut route, &outside, &mut access).await;
        // In this order: the socket goes before what counts it.
        drop((client, arrival, live));
    })
}

fn connector(
    upstream: Upstream,
    client: SocketAddr,
    destination: SocketAddr,
) -> impl Fn() -> route::Connecting + Send + Sync {
    move || {
        let upstream = upstream.clone();
        Box::pin(async move { upstream.connect(client, destination).await })
    }
}

/// Runs the connection and ends its sockets; notes the reason.
async fn run(client: &TcpStream, route: &mut Route, outside: &Outside, access: &mut Access) {
    let (mut end, mut session) = exchange(Transport::plain(client), Start::Fresh, route, outside, access).await;
    if let End::Tls(greeting) = end {
        // Boxed: a connection in clear shall not be larger for it.
        (end, session) = Box::pin(tls(client, *greeting, route, outside, access)).await;
    }
    let mut most = LINGER;
    if let End::Http2(both) = end {
        most = LINGER_HTTP2;
        // What it says last through a session is with the kernel when it has ended.
        let client = Transport::new(client, session.take());
        end = Box::pin(http2::serve(client, both, route, outside, access)).await;
    }
    if let End::Relay(app) = end {
        end = Box::pin(relay_rest(client, app, outside, access)).await;
    }
    match end {
        End::Reset(reason) => {
            access.ended(reason);
            relay::reset(client);
        }
        End::Closed(reason) => {
            access.ended(reason);
            linger(Transport::new(client, session), most, outside).await;
        }
        // A relay and HTTP/2 do not end as what they are, and TLS is met once.
        End::Relay(_) | End::Http2(_) | End::Tls(_) => {}
    }
}

/// The client speaks TLS: the connection goes on decrypted, or as it came.
async fn tls(
    client: &TcpStream,
    greeting: Greeting,
    route: &mut Route,
    outside: &Outside,
    access: &mut Access,
) -> (End, Option<Box<Session>>) {
    let outcome = tokio::select! {
        biased;
        () = outside.abort.cancelled() => return (End::Reset("aborted"), None),
        outcome = decrypt(client, greeting, route, &access.tally) => outcome,
        _ = relay::failed(client) => return (End::Reset("client_reset"), None),
    };
    let (transport, start) = match outcome {
        Outcome::Decrypted { client: session, app, secured } => {
            route.found(Finding::Tls);
            route.secured = Some(Arc::new(secured));
            access.heavy();
            (Transport::new(client, Some(session)), Start::Decrypted(Box::new(app)))
        }
        Outcome::Opaque(up, app, finding) => {
            finding.into_iter().for_each(|finding| route.found(finding));
            access.went_opaque(finding.unwrap_or(Finding::Tls).label());
            (Transport::plain(client), Start::Opaque(Box::new((up, app))))
        }
        Outcome::Scarce(up, app) => {
            route.missed(Cause::MemoryScarce);
            access.went_opaque(OpaqueReason::MemoryScarce.as_str());
            (Transport::plain(client), Start::Opaque(Box::new((up, Some(app)))))
        }
        Outcome::Over(reason) => return (End::Closed(reason), None),
    };
    exchange(transport, start, route, outside, access).await
}

/// The client's session comes back: its last records may not be with the kernel yet.
async fn exchange(
    client: Transport<&TcpStream>,
    start: Start,
    route: &Route,
    outside: &Outside,
    access: &mut Access,
) -> (End, Option<Box<Session>>) {
    let socket = *client.socket();
    let plan = route.plan();
    let mut exchange = Exchange::new(client, route, access, plan.as_deref(), start);
    drop(plan);
    let mut failed = pin!(relay::failed(socket));
    let mut look = None;
    let end = loop {
        tokio::select! {
            biased;
            // Between requests a FIN tells the same as a reset, and loses nothing.
            () = outside.abort.cancelled() => break match exchange.quiet() {
                Some(_) => End::Closed("aborted"),
                None => End::Reset("aborted"),
            },
            end = poll_fn(|cx| exchange.poll(cx)) => break end,
            _ = &mut failed => break End::Reset("client_reset"),
            () = outside.draining.cancelled(), if look.is_none() => look = Some(Instant::now() + QUIET),
            () = sleep_until(look.unwrap_or_else(Instant::now)), if look.is_some() => {
                if exchange.quiet().is_some_and(|quiet| quiet >= QUIET) {
                    break End::Closed("drained");
                }
                look = Some(Instant::now() + QUIET / 4);
            }
        }
    };
    exchange.note_end(&end);
    match end {
        End::Reset(_) => exchange.reset(),
        End::Closed(_) => exchange.close(),
        End::Relay(_) | End::Http2(_) | End::Tls(_) => {}
    }
    let session = exchange.client.take_session();
    (end, session)
}

/// The rest is between the client and the app.
async fn relay_rest(client: &TcpStream, app: AppLeg, outside: &Outside, access: &Access) -> End {
    tokio::select! {
        done = relay::relay(client, &app.stream, &access.tally) => match done {
            Ok(()) => End::Closed("both_closed"),
            Err(error) => End::Reset(reset_label(&error)),
        },
        () = outside.abort.cancelled() => {
            relay::reset(&app.stream);
            End::Reset("aborted")
        }
    }
}

fn reset_label(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "reset",
        io::ErrorKind::TimedOut => "timed_out",
        _ => "failed",
    }
}

/// The FIN is sent: reads on for a while (not while the agent ends at once), since closing with unread bytes would reset
/// what the client has not read yet.
async fn linger(mut transport: Transport<&TcpStream>, most: Duration, outside: &Outside) {
    if outside.abort.is_cancelled() {
        return;
    }
    let client = *transport.socket();
    let rest = async {
        if poll_fn(|cx| transport.poll_flush(cx)).await.is_err() {
            return;
        }
        loop {
            if !matches!(timeout(LINGER_QUIET, client.readable()).await, Ok(Ok(()))) {
                return;
            }
            let read = relay::with_scratch(16 * 1024, |scratch| client.try_read(scratch));
            match read {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    };
    tokio::select! {
        // Whether the client was done or slow, the socket is dropped now.
        _ = timeout(most, rest) => {}
        () = outside.abort.cancelled() => {}
        () = async { outside.draining.cancelled().await; sleep(LINGER_DRAINING).await } => {}
    }
}
