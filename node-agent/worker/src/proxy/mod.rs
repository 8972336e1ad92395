//! The data path: one accepted client connection, from its access event at open to the one at close.
//!
//! A connection is a machine of typed states (`state`), which decides, and a driver (`driver`), which owns the sockets and
//! does what the states say. HTTP/2 (`http2`) is driven by the h2 crate on the same sockets. This file owns the order of
//! these phases, and how the client's socket ends. Called by the captures, one task for each connection; the task ends by
//! itself when the agent drains (if the connection is quiet) and when its pod is aborted.

mod attention;
mod buffer;
mod decrypt;
mod developer_stream;
mod driver;
mod flow;
mod forwarded;
mod http2;
mod leg;
mod local_reply;
mod requests;
mod route;
mod secured;
mod sent;
mod state;
#[cfg(test)]
mod tests;
mod transport;

use std::{future::poll_fn, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use redir_config::PodName;
use redir_http::OpaqueReason;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

#[cfg(test)]
pub(crate) use self::developer_stream::DeveloperStream;
use self::{
    decrypt::{Greeting, Handshake, decrypt},
    driver::{Driver, Outcome, Start},
    http2::Ended,
    route::{AppDialer, Route},
    state::End,
    transport::Transport,
};
use crate::{
    access::Access,
    memory,
    metrics::Metrics,
    misses::{Cause, Misses},
    plan::Plans,
    relay,
    shares::ConnectionPlace,
    tls::{Finding, Session, Tls},
    upstream::{AppLeg, Upstream},
};

/// How long a head may take from its first byte to its last, however often a byte of it comes: half of nginx's
/// `client_header_timeout`, so that it is still the app that judges.
const WHOLE_HEAD: Duration = Duration::from_secs(30);
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
pub(crate) struct Shutdown {
    /// It ends when it is quiet.
    pub(crate) draining: CancellationToken,
    /// It is reset.
    pub(crate) abort: CancellationToken,
}

/// What a connection is served as.
enum Phase {
    /// By a driver.
    Driven(Start),
    /// The client speaks TLS: the connection goes on decrypted, or as it came.
    Handshake(Box<Greeting>),
    /// Client and origin speak HTTP/2.
    Http2(Box<http2::Start>),
    /// The rest is between the client and the app.
    Joined(AppLeg),
    /// It is over.
    Over(End),
}

/// A steered connection, with what it needs of the worker.
pub(crate) struct AcceptedConnection {
    pub(crate) socket: TcpStream,
    pub(crate) client: SocketAddr,
    /// The pod's address and the app's port, as the client dialled them.
    pub(crate) destination: SocketAddr,
    pub(crate) pod: PodName,
    /// Reaches the pod's app.
    pub(crate) upstream: Upstream,
    pub(crate) plans: Plans,
    pub(crate) tls: Tls,
    pub(crate) misses: Misses,
    pub(crate) metrics: Arc<Metrics>,
    /// Its place among all connections.
    pub(crate) place: Arc<ConnectionPlace>,
    pub(crate) shutdown: Shutdown,
}

/// Serves one steered connection to its end. `counted` is dropped last.
///
/// An idle connection is little more than this future: what it owns is in it once, and what awaits borrows.
pub(crate) fn serve<T: Send>(accepted: AcceptedConnection, counted: T) -> impl Future<Output = ()> + use<T> {
    let AcceptedConnection { socket, client, destination, pod, upstream, plans, tls, misses, metrics, place, shutdown } =
        accepted;
    let arrival = upstream.arrived(client);
    let mut access = Access::open(&pod, destination.port(), client, &metrics);
    let account = place.account().clone();
    access.at(place);
    let app = AppDialer::Reflected(upstream);
    let mut route = Route { plans, pod, client, destination, app, tls, misses, secured: None };
    memory::paid_by(account, async move {
        run(&socket, &mut route, &shutdown, &mut access).await;
        // In this order: the socket goes before what counts it.
        drop((socket, arrival, counted));
    })
}

/// Runs the connection and ends its sockets; notes the reason.
async fn run(client: &TcpStream, route: &mut Route, shutdown: &Shutdown, access: &mut Access) {
    let (mut phase, mut session, mut most) = (Phase::Driven(Start::Fresh), None, LINGER);
    let end = loop {
        // Boxed: a connection in clear, of HTTP/1, must not be larger for the others.
        phase = match phase {
            Phase::Driven(start) => drive(client, &mut session, start, route, shutdown, access).await,
            Phase::Handshake(greeting) => {
                Box::pin(handshake(client, &mut session, *greeting, route, shutdown, access)).await
            }
            Phase::Http2(start) => {
                most = LINGER_HTTP2;
                access.heavy();
                // What it says last through a session is with the kernel when it has ended.
                let transport = Transport::new(client, session.take());
                match Box::pin(http2::serve(transport, *start, route, shutdown, access)).await {
                    Ended::Closed(why) => Phase::Over(End::Closed(why)),
                    Ended::Reset(why) => Phase::Over(End::Reset(why)),
                }
            }
            Phase::Joined(app) => Phase::Over(Box::pin(join(client, app, shutdown, access)).await),
            Phase::Over(end) => break end,
        };
    };
    match end {
        End::Reset(reason) => {
            access.ended(reason);
            relay::reset(client);
        }
        End::Closed(reason) => {
            access.ended(reason);
            linger(Transport::new(client, session), most, shutdown).await;
        }
    }
}

/// Shakes hands with the app and the client, if both can be decrypted.
async fn handshake(
    client: &TcpStream,
    session: &mut Option<Box<Session>>,
    greeting: Greeting,
    route: &mut Route,
    shutdown: &Shutdown,
    access: &mut Access,
) -> Phase {
    let handshake = tokio::select! {
        biased;
        () = shutdown.abort.cancelled() => return Phase::Over(End::Reset("aborted")),
        handshake = decrypt(client, greeting, route, &access.tally) => handshake,
        _ = relay::failed(client) => return Phase::Over(End::Reset("client_reset")),
    };
    let start = match handshake {
        Handshake::Decrypted { client, app, secured } => {
            route.found(Finding::Tls);
            route.secured = Some(Arc::new(secured));
            access.heavy();
            *session = Some(client);
            Start::Decrypted(Box::new(app))
        }
        Handshake::Opaque(up, app, finding) => {
            finding.into_iter().for_each(|finding| route.found(finding));
            access.went_opaque(finding.unwrap_or(Finding::Tls).label());
            Start::Opaque(Box::new((up, app)))
        }
        Handshake::Scarce(up, app) => {
            route.missed(Cause::MemoryScarce);
            access.went_opaque(OpaqueReason::MemoryScarce.as_str());
            Start::Opaque(Box::new((up, Some(app))))
        }
        Handshake::Over(reason) => return Phase::Over(End::Closed(reason)),
    };
    Phase::Driven(start)
}

/// The client's session comes back: its last records may not be with the kernel yet.
async fn drive(
    client: &TcpStream,
    session: &mut Option<Box<Session>>,
    start: Start,
    route: &Route,
    shutdown: &Shutdown,
    access: &mut Access,
) -> Phase {
    let plan = route.plan();
    let mut driver = Driver::new(Transport::new(client, session.take()), route, access, plan.as_deref(), start);
    drop(plan);
    let mut failed = pin!(relay::failed(client));
    let mut look = None;
    let outcome = loop {
        tokio::select! {
            biased;
            // Between requests a FIN tells the same as a reset, and loses nothing.
            () = shutdown.abort.cancelled() => break Outcome::Over(match driver.quiet() {
                Some(_) => End::Closed("aborted"),
                None => End::Reset("aborted"),
            }),
            outcome = poll_fn(|cx| driver.poll(cx)) => break outcome,
            _ = &mut failed => break Outcome::Over(End::Reset("client_reset")),
            () = shutdown.draining.cancelled(), if look.is_none() => look = Some(Instant::now() + QUIET),
            () = sleep_until(look.unwrap_or_else(Instant::now)), if look.is_some() => {
                if driver.quiet().is_some_and(|quiet| quiet >= QUIET) {
                    break Outcome::Over(End::Closed("drained"));
                }
                look = Some(Instant::now() + QUIET / 4);
            }
        }
    };
    driver.finish(&outcome);
    *session = driver.into_session();
    match outcome {
        Outcome::Over(end) => Phase::Over(end),
        Outcome::Joined(app) => Phase::Joined(app),
        Outcome::Tls(greeting) => Phase::Handshake(greeting),
        Outcome::Http2(start) => Phase::Http2(start),
    }
}

/// The rest is between the client and the app.
async fn join(client: &TcpStream, app: AppLeg, shutdown: &Shutdown, access: &Access) -> End {
    tokio::select! {
        done = relay::relay(client, &app.stream, &access.tally) => match done {
            Ok(()) => End::Closed("both_closed"),
            Err(error) => End::Reset(reset_label(&error)),
        },
        () = shutdown.abort.cancelled() => {
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
async fn linger(mut transport: Transport<&TcpStream>, most: Duration, shutdown: &Shutdown) {
    if shutdown.abort.is_cancelled() {
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
        () = shutdown.abort.cancelled() => {}
        () = async { shutdown.draining.cancelled().await; sleep(LINGER_DRAINING).await } => {}
    }
}
