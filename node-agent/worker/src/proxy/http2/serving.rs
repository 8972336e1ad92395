//! One client connection that speaks HTTP/2, with its streams and the connections to their origins.
//!
//! Owns: the order in which everything is driven, and how the connection comes to its end. One task drives all of it:
//! a request passes from the client's socket to the origin's without another task being woken. `requests` says where
//! streams go, `origins` what the ends of legs mean.

use std::{
    ops::ControlFlow,
    pin::Pin,
    sync::atomic::Ordering,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use h2::{Reason, server};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::{
    Ended, LINGER,
    flood::Flooded,
    guard::Guard,
    io::{AppIo, DeveloperIo},
    leg::{Leg, SentRequest, widened},
    limits,
    origin::Origin,
    queue::Waiting,
    requests::{Request, Unopened},
    stream::{Done, Stream},
    wire::{Transport, Wire},
};
use crate::{
    access::Access,
    memory::Share,
    misses::Cause,
    proxy::{WHOLE_HEAD, leg::LegError, route::Route},
};

/// The leg to the app.
pub(super) type ToApp<'a, A> = Leg<'a, A, LegError, Request>;

/// A leg to a developer.
pub(super) struct ToDeveloper<'a> {
    /// The intercept's number.
    pub(super) id: u64,
    pub(super) leg: Leg<'a, DeveloperIo, Unopened, Request>,
    /// It takes no more requests.
    pub(super) retired: bool,
    /// Resolves when its intercept ends.
    pub(super) ending: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// It has.
    pub(super) last: bool,
}

/// Where the connection to the app is.
pub(super) enum App<'a, A> {
    /// Not needed so far.
    Unneeded,
    Leg(Box<ToApp<'a, A>>),
    /// It is over, and the client's connection with it.
    Gone,
}

/// Why the connection comes to its end.
pub(super) struct Going {
    /// For the access event.
    pub(super) why: &'static str,
    /// What the client is told last.
    pub(super) code: Reason,
    /// It ends with its last stream, and does not wait for what the client might still send.
    pub(super) at_once: bool,
    /// The client has not heard of it, and hears of it by then.
    untold: Option<Pin<Box<Sleep>>>,
}

/// See the module.
pub(super) struct Serving<'a, C, A> {
    pub(super) server: server::Connection<Wire<C, Guard>, Bytes>,
    pub(super) guard: Guard,
    pub(super) app: App<'a, A>,
    pub(super) developers: Vec<ToDeveloper<'a>>,
    pub(super) streams: FuturesUnordered<Stream>,
    /// Streams that the client has opened and that were taken, and those of the others that were told to the guard.
    pub(super) taken: u64,
    bad: u64,
    /// The request that the app got before the connection spoke HTTP/2, until its stream is there.
    pub(super) upgraded: Option<(SentRequest, Origin)>,
    /// What waits for origins.
    pub(super) held: Waiting,
    window: u32,
    pub(super) going: Option<Going>,
    /// What is not written by then is not waited for.
    deadline: Option<Pin<Box<Sleep>>>,
    /// Runs while a header block is open.
    unfinished: Option<Pin<Box<Sleep>>>,
    /// Runs while a side is not read because memory is scarce.
    pause: Option<Pin<Box<Sleep>>>,
    /// What the client does not take.
    unsent: Share,
    pub(super) route: &'a Route,
    pub(super) access: &'a mut Access,
}

impl<'a, C: Transport, A: Transport + From<AppIo> + 'a> Serving<'a, C, A> {
    /// Begins with the legs that there are.
    pub(super) fn new(
        server: server::Connection<Wire<C, Guard>, Bytes>,
        guard: Guard,
        legs: (App<'a, A>, Vec<ToDeveloper<'a>>),
        (route, access): (&'a Route, &'a mut Access),
    ) -> Self {
        let (mut app, developers) = legs;
        let upgraded = match &mut app {
            App::Leg(leg) => leg.take_upgraded().map(|sent| (sent, leg.origin.clone())),
            App::Unneeded | App::Gone => None,
        };
        Serving {
            server,
            guard,
            app,
            developers,
            streams: FuturesUnordered::new(),
            taken: 0,
            bad: 0,
            upgraded,
            held: Waiting::default(),
            window: limits::CLIENT_CONNECTION,
            going: None,
            deadline: None,
            unfinished: None,
            pause: None,
            unsent: Share::default(),
            route,
            access,
        }
    }

    /// Moves what can be moved. Origins come first, since what they said may be passed on in the same turn; and last,
    /// since they hear what the client said in it.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let ended = match self.turn(cx) {
            ControlFlow::Break(ended) => Poll::Ready(ended),
            ControlFlow::Continue(()) => self.poll_end(cx),
        };
        let (received, sent) = self.guard.take_bytes();
        self.access.tally.received.fetch_add(received, Ordering::Relaxed);
        self.access.tally.sent.fetch_add(sent, Ordering::Relaxed);
        ended
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> ControlFlow<Ended> {
        self.guard.next_turn();
        self.poll_legs(cx)?;
        self.poll_streams(cx);
        self.poll_client(cx)?;
        self.guard.settle();
        self.poll_streams(cx);
        self.poll_legs(cx)?;
        self.widen();
        self.poll_timers(cx);
        ControlFlow::Continue(())
    }

    /// No stream is under way, and nothing of one waits to be written to the client.
    pub(super) fn idle(&self) -> bool {
        self.streams.is_empty() && !self.server.has_streams()
    }

    /// The client is asked to send no more; what is under way goes on.
    pub(super) fn go(&mut self, why: &'static str, code: Reason) {
        if self.going.is_some() {
            return;
        }
        let untold = if code == Reason::NO_ERROR {
            self.server.graceful_shutdown();
            None
        } else {
            // A client without streams leaves after the first GOAWAY: that has to be the one that says why. Who goes with
            // an error mostly ends at once, and what was under way there with it.
            Some(Box::pin(sleep_until(Instant::now() + LINGER)))
        };
        self.going = Some(Going { why, code, at_once: false, untold });
    }

    /// The app has ended its connection before the client's began.
    pub(super) fn app_ended(&mut self) {
        self.app = App::Gone;
        if let Some(going) = &mut self.going {
            going.at_once = true;
        }
    }

    /// The legs end as a client does that is done; not waited for longer than a little.
    pub(super) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let App::Leg(leg) = &mut self.app {
            leg.retire();
            while leg.poll(cx).is_ready() {}
            if leg.is_ended() {
                self.app = App::Gone;
            }
        }
        self.developers.retain_mut(|to| {
            to.leg.retire();
            while to.leg.poll(cx).is_ready() {}
            !to.leg.is_ended()
        });
        let closed = !matches!(self.app, App::Leg(_)) && self.developers.is_empty();
        if closed { Poll::Ready(()) } else { Poll::Pending }
    }

    /// A header block may not be open for longer than a head of HTTP/1, and what is not read because memory is scarce is
    /// tried again.
    fn poll_timers(&mut self, cx: &mut Context<'_>) {
        self.unsent.set(self.guard.unsent());
        match self.guard.block_began() {
            None => self.unfinished = None,
            Some(began) => {
                let until = began + WHOLE_HEAD;
                let timer = self.unfinished.get_or_insert_with(|| Box::pin(sleep_until(until)));
                if timer.deadline() != until {
                    timer.as_mut().reset(until);
                }
                if timer.as_mut().poll(cx).is_ready() {
                    self.guard.flood(Flooded::Slow);
                    self.judge_client();
                }
            }
        }
        if !self.is_scarce() {
            self.pause = None;
        } else if self.pause.get_or_insert_with(|| Box::pin(sleep(limits::SCARCE_PAUSE))).as_mut().poll(cx).is_ready() {
            self.pause = None;
            cx.waker().wake_by_ref();
        }
    }

    /// Whether one of the sides is not read because memory is scarce.
    fn is_scarce(&self) -> bool {
        let scarce = |held: &Waiting| limits::is_scarce(held.load(Ordering::Relaxed));
        let app = matches!(&self.app, App::Leg(leg) if scarce(leg.origin.held()));
        app || scarce(&self.held) || self.developers.iter().any(|to| scarce(to.leg.origin.held()))
    }

    fn poll_client(&mut self, cx: &mut Context<'_>) -> ControlFlow<Ended> {
        self.hold_client();
        loop {
            match self.server.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => self.begin(request, respond, cx),
                Poll::Ready(Some(Err(error))) => return ControlFlow::Break(self.client_failed(&error)),
                Poll::Ready(None) => {
                    let why = self.going.as_ref().map_or("client_closed", |going| going.why);
                    return ControlFlow::Break(Ended::Closed(why));
                }
                Poll::Pending => break,
            }
        }
        self.judge_client();
        ControlFlow::Continue(())
    }

    /// The client is not read while the app takes nothing of what it has sent: heads have no window.
    fn hold_client(&mut self) {
        let full = match &mut self.app {
            App::Leg(leg) => leg.is_full(),
            App::Unneeded | App::Gone => false,
        };
        self.guard.hold(full || limits::is_scarce(self.held.load(Ordering::Relaxed)));
    }

    fn judge_client(&mut self) {
        if self.going.is_none() {
            // One may be half here.
            let bad = self.guard.opened().saturating_sub(self.taken + 1);
            let more = bad.saturating_sub(self.bad);
            if more > 0 {
                self.bad = bad;
                self.guard.bad(u32::try_from(more).unwrap_or(u32::MAX));
            }
        }
        let Some(flooded) = self.guard.flooded().filter(|_| self.deadline.is_none()) else { return };
        if matches!(flooded, Flooded::Scarce) {
            self.route.missed(Cause::MemoryScarce);
        }
        let client = self.route.client;
        tracing::info!(%client, what = flooded.as_str(), "an HTTP/2 client floods: its connection ends");
        // Every request of it is cancelled where it went.
        self.streams.clear();
        self.end_now("flood", Reason::ENHANCE_YOUR_CALM);
    }

    /// The client is told that it is over, and is not waited for longer than a little.
    fn end_now(&mut self, why: &'static str, code: Reason) {
        self.server.abrupt_shutdown(code);
        self.going = Some(Going { why, code, at_once: true, untold: None });
        self.deadline = Some(Box::pin(sleep_until(Instant::now() + LINGER)));
    }

    fn client_failed(&self, error: &h2::Error) -> Ended {
        tracing::debug!(client = %self.route.client, %error, "a client's HTTP/2 connection ends");
        match &self.going {
            Some(going) if !error.is_io() => Ended::Closed(going.why),
            _ if error.is_io() => Ended::Reset("client_reset"),
            // The h2 crate has told it, and has sent the FIN.
            _ if error.is_library() => Ended::Closed("protocol_error"),
            _ => Ended::Closed("client_closed"),
        }
    }

    fn poll_streams(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(done)) = self.streams.poll_next_unpin(cx) {
            match done {
                Done::Through => {}
                Done::Refused => self.access.refused(),
                Done::Again(request, refused) => self.ask_again(*request, &refused),
            }
        }
    }

    /// Whether the end that was begun has come.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let idle = self.idle();
        let Some(going) = &mut self.going else { return Poll::Pending };
        let (why, code) = (going.why, going.code);
        match &mut self.deadline {
            Some(deadline) => return deadline.as_mut().poll(cx).map(|()| Ended::Reset(why)),
            None if idle && (going.at_once || going.untold.is_some()) => self.end_now(why, code),
            None => {
                let Some(untold) = &mut going.untold else { return Poll::Pending };
                // What is left when the app is gone are developers' streams, or answers that the client does not take.
                let others = matches!(self.app, App::Gone) && !self.streams.is_empty();
                if !others && untold.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                going.untold = None;
                self.server.graceful_shutdown();
            }
        }
        // It is written in the next turn, and the deadline begins to run.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// What stalled streams hold does not count against the others.
    fn widen(&mut self) {
        let held = self.held.load(Ordering::Relaxed);
        if let Some(window) = widened(limits::CLIENT_CONNECTION, held, self.window) {
            self.window = window;
            self.server.set_target_window_size(window);
        }
        if let App::Leg(leg) = &mut self.app {
            leg.widen();
        }
        for to in &mut self.developers {
            to.leg.widen();
        }
    }
}
