//! HTTP/2 over a connection that began with it (prior knowledge, gRPC) or became it (`Upgrade: h2c`), on a port with
//! filters: each stream is decided for itself.
//!
//! Owns: a client connection from its first request to its end, as an h2 server towards the client and an h2 client
//! towards the app and each developer it meets: one connection to each, never pooled, the app's over the same reflected
//! leg. Must not: change, add or drop a header, a trailer or a byte of a body; hold more than windows allow; or know what
//! kind of transport it runs over. Called by `proxy`, once client and app have shown that they speak HTTP/2.
//!
//! What is passed on: heads, bodies, trailers, 1xx answers, resets with their codes, GOAWAY in both directions, flow
//! control from end to end, extended CONNECT where the app announces it. What is not: PINGs (each connection answers its
//! own), server push (origins are told that it is off), PRIORITY and unknown frames, the mark of a header that must not
//! be put into a compression table (the h2 crate does not tell it; what is so marked is compressed anew).
//!
//! The client is told of the app's SETTINGS what concerns it: how many streams may be open, how long a list of headers may
//! be (up to what the agent takes), and whether extended CONNECT is taken. (With a global intercept beside the filters it is that developer's service which stands for the app.) A
//! developer whose service does not take extended CONNECT answers such a request with a 502; one whose service takes it
//! while the app does not is never asked.

pub(super) mod block;
mod copy;
mod decide;
mod flood;
mod frames;
mod guard;
mod held;
mod io;
mod leg;
mod limits;
mod origin;
mod origins;
pub(super) mod preface;
mod queue;
mod repeat;
mod requests;
mod serving;
mod stream;
#[cfg(test)]
mod tests;
mod upgrade;
mod wire;

use std::{
    future::poll_fn,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use h2::Reason;
use tokio::time::timeout;

use self::{
    guard::Guard,
    io::DeveloperIo,
    leg::{Event, Leg, Opening, greet, greet_upgraded},
    origin::{Announced, Origin},
    requests::{Unopened, into_io},
    serving::{App, Serving, ToDeveloper},
    wire::{Transport, Wire},
};
pub(super) use self::{io::AppIo, upgrade::Upgrade};
use super::{
    Shutdown,
    developer_stream::DeveloperStream,
    leg::{LegError, Socket},
    route::Route,
};
use crate::access::Access;

/// How long an origin that has shown itself may take for the rest of its SETTINGS, and one that has not for a sign.
const GREETING: Duration = Duration::from_secs(2);
/// How long what is said last may take to be written.
const LINGER: Duration = Duration::from_secs(2);

/// How a connection ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// The client has its FIN.
    Closed(&'static str),
    /// The client is to be reset.
    Reset(&'static str),
}

/// What a connection begins with that is handed over to HTTP/2.
pub(super) struct Start {
    /// The origin that was heard first.
    pub(super) to: redir_http::engine::Origin,
    /// Its leg, and what it has said; none if it could not be opened.
    pub(super) socket: Option<(Socket, Bytes)>,
    /// What the client has sent behind its preface, or behind the request that was upgraded.
    pub(super) unread: Bytes,
    /// What the client has offered, if it began in HTTP/1.
    pub(super) upgrade: Option<Box<Upgrade>>,
}

impl Start {
    /// What the client has sent, from its preface on, and the first leg.
    fn first(self) -> (Bytes, First<AppIo>) {
        use redir_http::engine::Origin::{App, Developer};
        let Start { to, socket, unread, upgrade } = self;
        let unread = match &upgrade {
            Some(upgrade) => upgrade.as_prior_knowledge(&unread),
            None => [&preface::PREFACE[..], &unread].concat().into(),
        };
        let first = match (socket, to, upgrade) {
            (Some((Socket::App(leg), heard)), _, Some(upgrade)) => First::Upgraded(AppIo::new(leg), heard, *upgrade),
            (Some((Socket::App(leg), heard)), _, None) => First::App(AppIo::new(leg), heard),
            (Some((Socket::Developer(leg), heard)), Developer(key), _) => First::Developer(key.0, leg, heard),
            (Some((Socket::Developer(_), _)), App, _) | (None, _, _) => First::Missing,
        };
        (unread, first)
    }
}

/// The leg that showed that its origin speaks HTTP/2. It has got the preface, and nothing else, where nothing else is said.
pub(super) enum First<A> {
    /// The app, and what it has said.
    App(A, Bytes),
    /// The app, which has answered 101 to a request and has said this after it. It has not got the preface.
    Upgraded(A, Bytes, Upgrade),
    /// The developer of the global intercept with this number, and what the service has said.
    Developer(u64, DeveloperStream, Bytes),
    /// There is none: the developer of the global intercept could not be reached.
    Missing,
}

/// Serves a connection that was handed over.
pub(super) async fn serve<C: Transport>(
    client: C,
    start: Start,
    route: &Route,
    shutdown: &Shutdown,
    access: &mut Access,
) -> Ended {
    let (unread, first) = start.first();
    serve_from(client, unread, first, route, shutdown, access).await
}

/// Serves a connection to its end. `unread` is what the client has sent, from its preface on.
async fn serve_from<C: Transport, A: Transport + From<AppIo>>(
    client: C,
    unread: Bytes,
    first: First<A>,
    route: &Route,
    shutdown: &Shutdown,
    access: &mut Access,
) -> Ended {
    let mut legs = Legs::new(first);
    let guard = Guard::new();
    let greeted = async {
        let greeting = legs.greeting().await?;
        let header_list = greeting.announced.header_list.filter(|size| *size < limits::HEADER_LIST);
        let wire = Wire::of_client(client, guard.clone(), unread, header_list);
        let server = limits::server(greeting.announced).handshake(wire).await;
        Ok((greeting, server.map_err(|_| Ended::Reset("client_reset"))?))
    };
    let greeted = tokio::select! {
        greeted = greeted => greeted,
        () = shutdown.abort.cancelled() => Err(Ended::Reset("aborted")),
    };
    let (greeting, server) = match greeted {
        Ok(greeted) => greeted,
        Err(ended) => return ended,
    };
    let mut serving = Serving::new(server, guard, (legs.app, legs.developers), (route, access));
    if let Some(code) = greeting.going_away {
        serving.go("app_closed", code);
        if greeting.ended {
            serving.app_ended();
        }
    }
    let ended = driven(&mut serving, shutdown).await;
    if let Ended::Closed(_) = ended {
        // What is not through is cancelled where it went.
        serving.streams.clear();
        let _ = timeout(LINGER, poll_fn(|cx| serving.poll_close(cx))).await;
    }
    ended
}

async fn driven<'a, C: Transport, A: Transport + From<AppIo> + 'a>(
    serving: &mut Serving<'a, C, A>,
    shutdown: &Shutdown,
) -> Ended {
    let mut drains = false;
    loop {
        tokio::select! {
            biased;
            () = shutdown.abort.cancelled() => return match serving.idle() {
                true => Ended::Closed("aborted"),
                false => Ended::Reset("aborted"),
            },
            ended = poll_fn(|cx| serving.poll(cx)) => return ended,
            () = shutdown.draining.cancelled(), if !drains => {
                drains = true;
                serving.go("drained", Reason::NO_ERROR);
            }
        }
    }
}

/// What the origin that stands for all has said of itself.
#[derive(Default)]
struct Greeting {
    announced: Announced,
    /// It takes no requests.
    going_away: Option<Reason>,
    /// It has answered the request that was upgraded, and is gone.
    ended: bool,
}

/// The legs before the client is answered.
struct Legs<'a, A> {
    app: App<'a, A>,
    developers: Vec<ToDeveloper<'a>>,
}

impl<'a, A: Transport + 'a> Legs<'a, A> {
    fn new(first: First<A>) -> Self {
        let (origin, written) = (Origin::default(), preface::PREFACE.len());
        let mut legs = Legs { app: App::Unneeded, developers: Vec::new() };
        match first {
            First::App(io, heard) => {
                let told = origin.clone();
                let opening: Opening<'a, A, LegError> = Box::pin(async move {
                    let greeted = greet(limits::towards_app(), io, told, heard, written).await;
                    greeted.map_err(|error| LegError::App(into_io(error)))
                });
                legs.app = App::Leg(Box::new(Leg::new(opening, origin, limits::APP_CONNECTION)));
            }
            First::Upgraded(io, heard, upgrade) => {
                let told = origin.clone();
                let opening: Opening<'a, A, LegError> = Box::pin(async move {
                    let greeted = greet_upgraded(upgrade, io, told, heard).await;
                    greeted.map_err(|error| LegError::App(into_io(error)))
                });
                legs.app = App::Leg(Box::new(Leg::new(opening, origin, limits::APP_CONNECTION)));
            }
            First::Developer(id, mut leg, heard) => {
                let ending = leg.take_ending();
                let (io, told) = (DeveloperIo::new(leg, origin.clone()), origin.clone());
                let opening: Opening<'a, DeveloperIo, Unopened> = Box::pin(async move {
                    let greeted = greet(limits::towards_developer(), io, told, heard, written).await;
                    greeted.map_err(Unopened::Stream)
                });
                let leg = Leg::new(opening, origin, limits::DEVELOPER_CONNECTION);
                legs.developers.push(ToDeveloper { id, leg, retired: false, ending, last: false });
            }
            First::Missing => {}
        }
        legs
    }

    /// What the first leg's origin announces, or nothing if it takes too long; an error if it is the app and has ended.
    async fn greeting(&mut self) -> Result<Greeting, Ended> {
        let greeting = poll_fn(|cx| match (&mut self.app, self.developers.first_mut()) {
            (App::Leg(leg), _) => poll_greeting(leg, cx).map(|greeting| {
                greeting.or_else(|event| match event {
                    Event::Ended(Ok(())) if leg.is_upgraded() => {
                        let announced = leg.origin.announced().unwrap_or_default();
                        Ok(Greeting { announced, going_away: Some(Reason::NO_ERROR), ended: true })
                    }
                    Event::Ended(Ok(())) => Err(Ended::Closed("app_closed")),
                    Event::Ended(Err(_)) | Event::Open | Event::GoingAway(_) => Err(Ended::Reset("app_reset")),
                    Event::Unopened(error) => Err(Ended::Reset(error.label())),
                })
            }),
            // Its requests are refused, or go where they go without it.
            (_, Some(to)) => poll_greeting(&mut to.leg, cx).map(|greeting| {
                let greeting = greeting.unwrap_or_default();
                to.retired = greeting.going_away.is_some();
                Ok(Greeting { going_away: None, ..greeting })
            }),
            (_, None) => Poll::Ready(Ok(Greeting::default())),
        });
        let greeting = timeout(GREETING, greeting).await.unwrap_or_else(|_| Ok(Greeting::default()));
        self.developers.retain(|to| !to.leg.is_ended());
        greeting
    }
}

fn poll_greeting<'a, T: Transport, E, W>(
    leg: &mut Leg<'a, T, E, W>,
    cx: &mut Context<'_>,
) -> Poll<Result<Greeting, Event<E>>> {
    loop {
        match leg.poll(cx) {
            Poll::Ready(Event::Open) => {}
            Poll::Ready(Event::GoingAway(code)) => {
                let announced = leg.origin.announced().unwrap_or_default();
                return Poll::Ready(Ok(Greeting { announced, going_away: Some(code), ended: false }));
            }
            Poll::Ready(over) => return Poll::Ready(Err(over)),
            Poll::Pending => {
                let announced = leg.origin.announced();
                return announced
                    .map_or(Poll::Pending, |announced| Poll::Ready(Ok(Greeting { announced, ..Greeting::default() })));
            }
        }
    }
}
