//! One leg of a client connection, to the app or to a developer, with the bytes it has sent and the client has not got.
//!
//! Owns the leg's socket and how it opens and ends. Must not decide where bytes go. Called by the driver; states look at it.

mod error;

use std::{
    future::Future,
    mem,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use redir_http::engine::Origin;
use tokio::time::timeout;

use super::{
    attention::Attention,
    buffer::Buffer,
    developer_stream::DeveloperStream,
    transport::{Ending, Transport},
};
use crate::upstream::AppLeg;

pub(super) use error::LegEnd;
pub(super) use error::LegError;

/// A leg that is being opened.
pub(super) type Opening = Pin<Box<dyn Future<Output = Result<Socket, LegError>> + Send>>;

/// Where a leg leads.
pub(super) enum Socket {
    /// To the app, in the pod's netns.
    App(Transport<AppLeg>),
    /// Through a developer's tunnel.
    Developer(DeveloperStream),
}

enum State {
    Opening(Opening),
    Open(Socket),
    Closed,
}

/// How far the leg's own end has come, after the bytes in `down`.
enum EndState {
    /// More may come from it.
    Open,
    /// The connection's state was not told of it.
    Untold(LegEnd),
    Told(LegEnd),
}

/// Whether the client's FIN has to go this way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fin {
    No,
    Wanted(Ending),
    Sent,
}

/// A leg and its unread bytes.
pub(super) struct Leg {
    /// Where it leads.
    pub(super) origin: Origin,
    /// What it has sent and the client has not got.
    pub(super) down: Buffer,
    /// What comes next of its bytes.
    pub(super) attention: Attention,
    end: EndState,
    /// A whole answer came from it.
    pub(super) answered: bool,
    /// Its intercept ends: no request follows on it.
    pub(super) last: bool,
    fin: Fin,
    state: State,
    /// A write has taken the socket's reset; its reader sees only an end.
    reset_seen: Option<LegError>,
}

/// Nobody needs the leg any more, and the app may have accepted it already: it ends as a client's that is done, with a FIN.
async fn close_when_open(opening: Opening) {
    if let Ok(Ok(Socket::App(mut app))) = timeout(LATE, opening).await {
        // A leg that has failed needs no FIN.
        let _ = app.finish(Ending::Whole);
    }
}

/// How long that is waited for; an app on the same node takes a fraction of a millisecond.
const LATE: Duration = Duration::from_secs(1);

impl Leg {
    /// Begins to open.
    pub(super) fn new(origin: Origin, opening: Opening) -> Self {
        Leg {
            origin,
            down: Buffer::default(),
            attention: Attention::Read,
            end: EndState::Open,
            answered: false,
            last: false,
            fin: Fin::No,
            state: State::Opening(opening),
            reset_seen: None,
        }
    }

    /// Is open already.
    pub(super) fn opened(origin: Origin, socket: Socket) -> Self {
        Leg { state: State::Open(socket), ..Leg::new(origin, Box::pin(std::future::pending())) }
    }

    /// Ready when it is open, or has failed.
    pub(super) fn poll_opened(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_progress(cx);
        if matches!(self.state, State::Opening(_)) { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Drives the opening, and what is written and not yet with the kernel; true if something changed.
    pub(super) fn poll_progress(&mut self, cx: &mut Context<'_>) -> bool {
        match &mut self.state {
            State::Opening(opening) => match opening.as_mut().poll(cx) {
                Poll::Pending => return false,
                Poll::Ready(Ok(socket)) => self.state = State::Open(socket),
                Poll::Ready(Err(error)) => self.fail(error),
            },
            // The next write or read tells of an error.
            State::Open(Socket::App(leg)) => {
                let _ = leg.poll_flush(cx);
                return false;
            }
            State::Open(Socket::Developer(leg)) => match leg.poll_ending(cx) {
                Poll::Pending => return false,
                Poll::Ready(()) => self.last = true,
            },
            State::Closed => return false,
        }
        true
    }

    /// Writes some of the client's bytes. A failed write ends the leg; then the bytes are taken as written.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<usize> {
        // What the end of a leg means that never was open decides where they go.
        let undecided = !self.is_end_told() && self.is_unopened();
        let written = match &mut self.state {
            State::Opening(_) => return Poll::Pending,
            State::Closed if undecided => return Poll::Pending,
            State::Closed => return Poll::Ready(bytes.len()),
            State::Open(Socket::App(leg)) => leg.poll_write(cx, bytes).map_err(LegError::App),
            State::Open(Socket::Developer(leg)) => leg.poll_write(cx, bytes).map_err(LegError::Developer),
        };
        match written {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(count)) => Poll::Ready(count),
            Poll::Ready(Err(error)) => {
                // What it sent before may still be there to read, and the reader is told how it ended.
                if self.end().is_some() || !error.told_to_reader() {
                    self.fail(error);
                } else if error.is_taken_by_writer() {
                    self.reset_seen = Some(error);
                }
                Poll::Ready(bytes.len())
            }
        }
    }

    /// Reads some bytes into `down` or notes the end; true if something changed.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.readable() {
            return false;
        }
        let read = match &mut self.state {
            State::Opening(_) | State::Closed => return false,
            State::Open(Socket::App(leg)) => leg.poll_fill(cx, &mut self.down).map_err(LegError::App),
            State::Open(Socket::Developer(leg)) => {
                self.down.poll_fill_with(|into| leg.poll_read(cx, into)).map_err(LegError::Developer)
            }
        };
        match read {
            Poll::Pending => return false,
            Poll::Ready(Ok(0)) => {
                self.end = EndState::Untold(self.reset_seen.take().map_or(LegEnd::Fin, LegEnd::Failed));
            }
            Poll::Ready(Ok(_)) => self.attention = Attention::Ask,
            Poll::Ready(Err(error)) => self.fail(error),
        }
        true
    }

    /// Call it when nothing moves. True: bytes of this leg wait for a client that does not read, and the tunnel can
    /// wait no longer (see `redir_tunnel::Budget`).
    pub(super) fn poll_expired(&mut self, cx: &mut Context<'_>, held: bool) -> bool {
        match &mut self.state {
            State::Open(Socket::Developer(leg)) if held => leg.poll_expired(cx).is_ready(),
            State::Open(Socket::Developer(leg)) => {
                leg.renew();
                false
            }
            State::Opening(_) | State::Open(Socket::App(_)) | State::Closed => false,
        }
    }

    /// The client has taken so many bytes of this leg.
    pub(super) fn progressed(&mut self, bytes: usize) {
        if let State::Open(Socket::Developer(leg)) = &mut self.state {
            leg.progressed(bytes);
        }
    }

    /// The client's end goes this way once everything before it is written.
    pub(super) fn want_fin(&mut self, ending: Ending) {
        if self.fin == Fin::No {
            self.fin = Fin::Wanted(ending);
        }
    }

    /// Sends a wanted FIN; the caller has written everything before it.
    pub(super) fn send_fin(&mut self) {
        let Fin::Wanted(ending) = self.fin else { return };
        match &mut self.state {
            State::Opening(_) => return,
            State::Closed => {}
            // A failure is told by the reader.
            State::Open(Socket::App(leg)) => drop(leg.finish(ending)),
            State::Open(Socket::Developer(leg)) => leg.finish(),
        }
        self.fin = Fin::Sent;
    }

    /// Ends it with a reset.
    pub(super) fn reset(&mut self) {
        match &mut self.state {
            State::Opening(_) | State::Closed => {}
            State::Open(Socket::App(leg)) => leg.reset(),
            State::Open(Socket::Developer(leg)) => leg.reset(),
        }
        self.state = State::Closed;
    }

    /// Ends it quietly, as a client does that is done.
    pub(super) fn close(&mut self) {
        self.want_fin(Ending::Whole);
        self.send_fin();
        if let State::Opening(opening) = mem::replace(&mut self.state, State::Closed) {
            tokio::spawn(close_when_open(opening));
        }
    }

    /// Ends it quietly although more could come from it.
    pub(super) fn discard(&mut self) {
        self.down.clear();
        self.attention = Attention::Read;
        self.close();
        self.end = EndState::Told(LegEnd::Fin);
    }

    /// The app's open connection, unless the leg is another's, or not open.
    pub(super) fn app(&mut self) -> Option<&mut Transport<AppLeg>> {
        match &mut self.state {
            State::Open(Socket::App(leg)) => Some(leg),
            State::Open(Socket::Developer(_)) | State::Opening(_) | State::Closed => None,
        }
    }

    /// The open socket, to be used otherwise, with what it has said.
    pub(super) fn into_socket(mut self) -> Option<(Socket, Bytes)> {
        match self.state {
            State::Open(socket) => Some((socket, self.down.take_all())),
            State::Opening(_) | State::Closed => None,
        }
    }

    /// The app's socket without what is around it.
    pub(super) fn into_app(self) -> Option<AppLeg> {
        match self.state {
            State::Open(Socket::App(leg)) => Some(leg.into_socket()),
            State::Open(Socket::Developer(_)) | State::Opening(_) | State::Closed => None,
        }
    }

    /// How it has ended what it sends.
    pub(super) fn ending(&mut self) -> Ending {
        self.app().map_or(Ending::Whole, |app| app.ending())
    }

    /// Whether it may still take bytes.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// How it has ended, if it has.
    pub(super) fn end(&self) -> Option<&LegEnd> {
        match &self.end {
            EndState::Open => None,
            EndState::Untold(end) | EndState::Told(end) => Some(end),
        }
    }

    /// Whether the connection's state knows that it has ended.
    pub(super) fn is_end_told(&self) -> bool {
        matches!(self.end, EndState::Told(_))
    }

    /// Whether its end is to be told now; once.
    pub(super) fn take_end(&mut self) -> bool {
        match mem::replace(&mut self.end, EndState::Open) {
            EndState::Untold(end) => {
                self.end = EndState::Told(end);
                true
            }
            other => {
                self.end = other;
                false
            }
        }
    }

    /// What it has said, and its end, are new to another state, or to a request behind the one that they answered.
    pub(super) fn tell_anew(&mut self) {
        self.attention = Attention::anew(!self.down.is_empty());
        self.tell_end_again();
    }

    /// Its end is told once more.
    pub(super) fn tell_end_again(&mut self) {
        self.end = match mem::replace(&mut self.end, EndState::Open) {
            EndState::Told(end) => EndState::Untold(end),
            other => other,
        };
    }

    /// True when it could not be opened.
    pub(super) fn is_unopened(&self) -> bool {
        matches!(self.end(), Some(LegEnd::Failed(LegError::Unopened(_))))
    }

    /// It has ended.
    #[cfg(test)]
    pub(super) fn end_for_test(&mut self, error: Option<LegError>) {
        self.end = EndState::Untold(error.map_or(LegEnd::Fin, LegEnd::Failed));
    }

    fn readable(&self) -> bool {
        matches!(self.end, EndState::Open)
    }

    fn fail(&mut self, error: LegError) {
        self.end = match self.end {
            EndState::Told(_) => EndState::Told(LegEnd::Failed(error)),
            EndState::Open | EndState::Untold(_) => EndState::Untold(LegEnd::Failed(error)),
        };
        self.state = State::Closed;
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{
        io::Interest,
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::relay::reset;

    fn failed(leg: &Leg) -> bool {
        matches!(leg.end(), Some(LegEnd::Failed(_)))
    }

    async fn leg() -> (Leg, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (ours, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let (ours, app) = (ours.unwrap(), accepted.unwrap().0);
        let mut leg =
            Leg::new(Origin::App, Box::pin(async { Ok(Socket::App(Transport::plain(AppLeg::unheld(ours)))) }));
        poll_fn(|cx| if leg.poll_progress(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
        (leg, app)
    }

    fn stream(leg: &Leg) -> &TcpStream {
        match &leg.state {
            State::Open(Socket::App(app)) => &app.socket().stream,
            _ => panic!("it is open"),
        }
    }

    #[tokio::test]
    async fn a_reset_that_a_write_has_met_is_not_taken_for_a_fin() {
        let (mut leg, app) = leg().await;
        reset(&app);
        drop(app);
        stream(&leg).ready(Interest::ERROR).await.unwrap();
        assert_eq!(poll_fn(|cx| leg.poll_write(cx, b"abc")).await, 3, "taken as written");
        poll_fn(|cx| if leg.poll_read(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
        assert!(failed(&leg));
    }

    #[tokio::test]
    async fn a_fin_before_the_reset_is_a_fin() {
        let (mut leg, app) = leg().await;
        drop(app);
        stream(&leg).readable().await.unwrap();
        poll_fn(|cx| leg.poll_write(cx, b"abc")).await;
        stream(&leg).ready(Interest::ERROR).await.unwrap();
        poll_fn(|cx| leg.poll_write(cx, b"abc")).await;
        poll_fn(|cx| if leg.poll_read(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
        assert!(!failed(&leg));
    }
}
