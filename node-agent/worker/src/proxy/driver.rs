//! Drives one client connection: reads and writes its sockets, asks its state, and does what that says.
//!
//! Owns the client's transport, the bytes and legs (`flow`), and the one timer. Must not know a protocol, nor change a byte
//! except as it is told; holds no more than one read of each direction. Polled by `proxy::run`. `upward` is the client's
//! direction, `downward` the origins', `acting` does what the state says.

mod acting;
mod downward;
mod upward;

use std::{
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use redir_http::engine::Origin;
use redir_wire::ConnectionBytes;
use tokio::{
    net::TcpStream,
    time::{Instant, Sleep, sleep_until},
};

use super::{
    attention::Attention,
    buffer::Buffer,
    decrypt::Greeting,
    flow::{ClientSide, Flow},
    http2,
    leg::Leg,
    requests::Requests,
    route::Route,
    state::{ConnectionState, Context, End, ExpectHello, Next, Opaque, Side, by_plan},
    transport::{Ending, Transport},
};
use crate::{access::Access, plan::Plan, upstream::AppLeg};

/// What a driven connection came to.
pub(super) enum Outcome {
    /// It is over.
    Over(End),
    /// The rest is between the client and the app.
    Joined(AppLeg),
    /// The client speaks TLS, which can be decrypted.
    Tls(Box<Greeting>),
    /// Client and origin speak HTTP/2: its streams are decided one by one.
    Http2(Box<http2::Start>),
}

/// What a driver begins with. Small: the future of a connection that begins with nothing has room for all of them.
pub(super) enum Start {
    /// Nothing was read.
    Fresh,
    /// The connection is decrypted, and this is its leg to the app.
    Decrypted(Box<Leg>),
    /// It stays TLS: these bytes and all others go to the app, over this leg if there is one.
    Opaque(Box<(Buffer, Option<Leg>)>),
}

/// See the module.
pub(super) struct Driver<'c> {
    client: Transport<&'c TcpStream>,
    route: &'c Route,
    access: &'c mut Access,
    state: Box<dyn ConnectionState>,
    requests: Requests,
    flow: Flow,
    /// How the client's side ends: as the app's did.
    ending: Ending,
    /// The client ended the connection, before all its answers were complete.
    client_left: bool,
    /// Until when the state waits, while nothing moves.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<'c> Driver<'c> {
    /// The legs that are needed at once are dialled at once.
    pub(super) fn new(
        client: Transport<&'c TcpStream>,
        route: &'c Route,
        access: &'c mut Access,
        plan: Option<&Plan>,
        start: Start,
    ) -> Self {
        let mut flow = Flow::new();
        let next = match (start, route.given()) {
            (Start::Fresh, Some(given)) => {
                flow.legs.push(route.app_leg());
                Next::kept(ExpectHello::new(given))
            }
            (Start::Fresh, None) => by_plan(plan),
            (Start::Decrypted(app), _) => {
                flow.legs.push(*app);
                by_plan(plan)
            }
            (Start::Opaque(rest), _) => {
                let (up, app) = *rest;
                flow.up = up;
                flow.legs.push(app.unwrap_or_else(|| route.app_leg()));
                Next::kept(Opaque::new(Origin::App))
            }
        };
        let Next { state, legs } = next;
        let requests = Requests::default();
        let mut driver = Driver {
            client,
            route,
            access,
            state,
            requests,
            flow,
            ending: Ending::Whole,
            client_left: false,
            timer: None,
        };
        driver.take_legs(legs);
        driver
    }

    /// Asks the state.
    fn ask<T>(&mut self, question: impl FnOnce(&mut dyn ConnectionState, &mut Context<'_>) -> T) -> T {
        let Driver { route, access, state, requests, flow, .. } = self;
        question(&mut **state, &mut Context { route, access, requests, flow })
    }

    /// Moves what can be moved.
    pub(super) fn poll(&mut self, cx: &mut TaskContext<'_>) -> Poll<Outcome> {
        loop {
            let moved = match self.turn(cx) {
                Ok(true) => true,
                Ok(false) => match self.rest(cx) {
                    Ok(moved) => moved,
                    Err(outcome) => return Poll::Ready(outcome),
                },
                Err(outcome) => return Poll::Ready(outcome),
            };
            if !moved {
                return Poll::Pending;
            }
        }
    }

    fn turn(&mut self, cx: &mut TaskContext<'_>) -> Result<bool, Outcome> {
        let mut moved = false;
        // The next write or read tells of an error.
        let _ = self.client.poll_flush(cx);
        for leg in &mut self.flow.legs {
            moved |= leg.poll_progress(cx);
        }
        moved |= self.downward(cx)?;
        moved |= self.upward(cx)?;
        self.close_last_legs();
        if self.flow.sending.is_none() {
            self.flow.legs.iter_mut().for_each(Leg::send_fin);
        }
        let action = self.ask(|state, at| state.after_turn(at));
        moved |= self.after_turn(action)?;
        if moved {
            self.flow.active = Instant::now();
        }
        Ok(moved)
    }

    /// Nothing moves: what is waited for may wait too long, or take too much memory. True if something is to move now.
    fn rest(&mut self, cx: &mut TaskContext<'_>) -> Result<bool, Outcome> {
        let now = Instant::now();
        match self.ask(|state, at| state.at_rest(now, at)) {
            Err(action) => {
                self.act(Side::Client, action)?;
                return Ok(true);
            }
            Ok(until) => {
                if self.poll_timer(until, cx) {
                    return Ok(true);
                }
            }
        }
        if self.poll_stalled(cx) {
            return Err(Outcome::Over(End::Reset("client_slow")));
        }
        if self.make_room()? {
            return Ok(true);
        }
        self.flow.up.rest();
        self.flow.legs.iter_mut().for_each(|leg| leg.down.rest());
        Ok(false)
    }

    /// True if it is time.
    fn poll_timer(&mut self, until: Option<Instant>, cx: &mut TaskContext<'_>) -> bool {
        let Some(until) = until else {
            self.timer = None;
            return false;
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if timer.deadline() != until {
            timer.as_mut().reset(until);
        }
        timer.as_mut().poll(cx).is_ready()
    }

    /// Bytes of a developer that wait for the client hold a part of the tunnel's window. True: the client has not read for
    /// too long, and others need it.
    fn poll_stalled(&mut self, cx: &mut TaskContext<'_>) -> bool {
        let writing = self.flow.writing.map(|writing| writing.from);
        let mut stalled = false;
        for leg in &mut self.flow.legs {
            let held = leg.attention == Attention::Held || writing == Some(leg.origin);
            stalled |= leg.poll_expired(cx, held);
        }
        stalled
    }

    /// What is not whole goes on unread where there is no memory for it.
    fn make_room(&mut self) -> Result<bool, Outcome> {
        let unfinished = self.ask(|state, at| state.unfinished(at));
        let side = if unfinished.client && !self.flow.up.try_wait() {
            Side::Client
        } else {
            match unfinished.leg {
                Some(from) if self.flow.leg_mut(from).is_some_and(|leg| !leg.down.try_wait()) => Side::Leg(from),
                Some(_) | None => return Ok(false),
            }
        };
        let action = self.ask(|state, at| state.memory_scarce(side, at));
        self.act(side, action)?;
        Ok(true)
    }

    /// For how long nothing has moved, if nothing is on its way.
    pub(super) fn quiet(&self) -> Option<Duration> {
        let quiet = self.state.is_between_requests() && self.flow.is_still();
        quiet.then(|| self.flow.active.elapsed())
    }

    /// Ends the sockets, and notes whose end it was, for what is told of the requests without an answer.
    pub(super) fn finish(&mut self, outcome: &Outcome) {
        let Outcome::Over(end) = outcome else { return };
        match end {
            End::Reset(reason) => {
                self.client_left = *reason == "client_reset";
                self.flow.legs.iter_mut().for_each(Leg::reset);
            }
            End::Closed(_) => {
                self.client_left = self.flow.client_side != ClientSide::Open;
                // A client that is gone needs no FIN.
                let _ = self.client.finish(self.ending);
                self.flow.legs.iter_mut().for_each(Leg::close);
            }
        }
    }

    /// The client's session, whose last records may not be with the kernel yet.
    pub(super) fn into_session(mut self) -> Option<Box<crate::tls::Session>> {
        self.client.take_session()
    }
}

impl Drop for Driver<'_> {
    fn drop(&mut self) {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (received, sent) = (load(&self.access.tally.received), load(&self.access.tally.sent));
        self.requests.abandoned(self.route.client, self.client_left, ConnectionBytes { received, sent });
    }
}
