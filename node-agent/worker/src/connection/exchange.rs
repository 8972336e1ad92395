//! One client connection that is looked at: its client, its legs, and the engine that says which bytes go where.
//!
//! Owns the buffers and the legs; holds no more than one read of each direction. Must not change a byte, and must not
//! decide: the engine does, with the plan of the moment. Driven by `connection::serve` through [`Exchange::poll`].
//! `upward` is the client's direction, `downward` the origins', `leg_ended` says what their ends mean, `over` how it all ends.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use redir_http::engine::{Engine, FirstHead, Options, Origin};
use redir_wire::ConnectionBytes;
use tokio::{
    net::TcpStream,
    time::{Instant, Sleep},
};

use super::{
    buffer::Buffer,
    decrypt::Greeting,
    http2::{Both, Preface},
    leg::Leg,
    matched::{Matched, Outstanding, request_line},
    route::{Route, origin},
    transport::{Ending, Transport},
};
use crate::{
    access::Access,
    http2::Upgrade,
    plan::{Intercept, Plan},
    tls::{Finding, Given},
    upstream::AppLeg,
};

/// Who says where bytes go.
pub(super) enum Judge {
    /// A certificate is given for the port: whether the client speaks TLS is seen before anything else.
    Hello(Arc<Given>),
    /// Requests are decided one by one.
    Http(Box<Engine>),
    /// A global intercept: only the first head is looked at.
    First(Box<FirstHead>),
    /// The client seems to speak HTTP/2.
    Http2(Preface),
    /// Everything goes to one origin and comes from it.
    Opaque(Origin),
}

/// How an exchange ended.
pub(super) enum End {
    /// Everything is through: the client gets a FIN.
    Closed(&'static str),
    /// The client and every leg are reset.
    Reset(&'static str),
    /// The rest is between the client and the app.
    Relay(AppLeg),
    /// The client speaks TLS, which can be decrypted.
    Tls(Box<Greeting>),
    /// Client and origin speak HTTP/2: its streams are decided one by one.
    Http2(Box<Both>),
}

/// What an exchange begins with. Small: the future of a connection that begins with nothing has room for all of them.
pub(super) enum Start {
    /// Nothing was read.
    Fresh,
    /// The connection is decrypted, and this is its leg to the app.
    Decrypted(Box<Leg>),
    /// It stays TLS: these bytes and all others go to the app, over this leg if there is one.
    Opaque(Box<(Buffer, Option<Leg>)>),
}

/// What the client has done to its sending side.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientSide {
    /// It may send more.
    Open,
    /// It has sent its FIN.
    Fin,
    /// The FIN is passed on.
    Told,
}

/// Bytes at the front of `up` that go to a leg.
#[derive(Clone, Copy)]
pub(super) struct Sending {
    pub(super) to: Origin,
    pub(super) left: usize,
}

/// A head as it came. What is sent of it to a developer stands in its place at the front of `up`: should nobody take it,
/// the app gets what came.
pub(super) struct WholeHead {
    pub(super) whole: Box<[u8]>,
    /// How many bytes stand in its place.
    pub(super) sent: usize,
}

/// Bytes at the front of a leg's `down` that go to the client.
#[derive(Clone, Copy)]
pub(super) struct Writing {
    pub(super) from: Origin,
    pub(super) left: usize,
    /// An answer ends with them.
    pub(super) finished: bool,
    /// And the connection with it.
    pub(super) ends: bool,
}

/// See the module.
pub(super) struct Exchange<'c> {
    pub(super) client: Transport<&'c TcpStream>,
    pub(super) route: &'c Route,
    pub(super) access: &'c mut Access,
    pub(super) judge: Judge,
    pub(super) legs: Vec<Leg>,
    /// What the client has sent and no leg has got.
    pub(super) up: Buffer,
    pub(super) client_side: ClientSide,
    /// The judge has something to say about `up`.
    pub(super) ask: bool,
    /// The client is not read until an answer is through.
    pub(super) held: bool,
    pub(super) sending: Option<Sending>,
    pub(super) writing: Option<Writing>,
    pub(super) outstanding: Outstanding,
    /// The connection ends, for this reason, when `writing` is done.
    pub(super) closing: Option<&'static str>,
    /// The app has ended its leg: the connection ends with what is outstanding.
    pub(super) app_gone: Option<AppGone>,
    /// Nothing was sent to the client, and what it sent looks like HTTP: the agent may answer itself.
    pub(super) answerable: bool,
    /// Whose the connection is if it is not looked at, until its first bytes were counted as his.
    pub(super) global: Option<Arc<Intercept>>,
    /// What the newest request to the app offers with `Upgrade: h2c`.
    pub(super) upgrade: Option<Box<Upgrade>>,
    /// The head of the newest request, where a developer gets another.
    pub(super) whole_head: Option<WholeHead>,
    /// How the client's side ends: as the app's did.
    pub(super) ending: Ending,
    /// The client ended the connection, before all its answers were complete.
    pub(super) client_left: bool,
    pub(super) active: Instant,
    /// Runs while a developer's answer that cannot be read says nothing more.
    pub(super) quiet_answer: Option<Pin<Box<Sleep>>>,
    /// The last bytes that moved went to the client.
    pub(super) client_heard_last: bool,
    /// Whether the first answer of a developer who has the whole connection says where it ends; `None` before it.
    pub(super) framed: Option<bool>,
    /// A developer leaves who has the whole connection: until when it must have been quiet.
    pub(super) leaving: Option<Pin<Box<Sleep>>>,
    /// Runs while a head has begun that is not whole.
    pub(super) unfinished: Option<Pin<Box<Sleep>>>,
}

/// How the app ended its leg.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum AppGone {
    /// With a FIN.
    Closed,
    /// With an error.
    Failed(&'static str),
}

impl<'c> Exchange<'c> {
    /// The legs that are needed at once are dialled at once.
    pub(super) fn new(
        client: Transport<&'c TcpStream>,
        route: &'c Route,
        access: &'c mut Access,
        plan: Option<&Plan>,
        start: Start,
    ) -> Self {
        let mut exchange = Exchange {
            client,
            route,
            access,
            judge: Judge::Opaque(Origin::App),
            legs: Vec::new(),
            up: Buffer::default(),
            client_side: ClientSide::Open,
            ask: false,
            held: false,
            sending: None,
            writing: None,
            outstanding: Outstanding::default(),
            closing: None,
            app_gone: None,
            answerable: false,
            upgrade: None,
            whole_head: None,
            ending: Ending::Whole,
            client_left: false,
            active: Instant::now(),
            quiet_answer: None,
            client_heard_last: false,
            framed: None,
            leaving: None,
            unfinished: None,
            global: None,
        };
        match (start, route.given()) {
            (Start::Fresh, Some(given)) => {
                exchange.judge = Judge::Hello(given);
                exchange.legs.push(route.app());
            }
            (Start::Fresh, None) => exchange.follow(plan),
            (Start::Decrypted(app), _) => {
                exchange.legs.push(*app);
                exchange.follow(plan);
            }
            (Start::Opaque(rest), _) => {
                let (up, app) = *rest;
                exchange.ask = !up.is_empty();
                exchange.up = up;
                exchange.legs.push(app.unwrap_or_else(|| route.app()));
            }
        }
        exchange
    }

    /// Takes the judge that the plan asks for, and the leg that this one needs at once; another is closed.
    pub(super) fn follow(&mut self, plan: Option<&Plan>) {
        self.global = plan.filter(|plan| !plan.is_read()).and_then(|plan| plan.global.clone());
        let needed = match (plan, &self.global) {
            (Some(plan), Some(global)) => {
                let to = origin(global);
                self.judge = if plan.probes_to_app { Judge::First(Box::default()) } else { Judge::Opaque(to) };
                Some(to)
            }
            (plan, _) => {
                let options = Options { probes_to_app: plan.is_none_or(|plan| plan.probes_to_app) };
                self.judge = Judge::Http(Box::new(Engine::new(options)));
                // Beside a global intercept the app gets probes at most.
                plan.is_none_or(|plan| plan.global.is_none()).then_some(Origin::App)
            }
        };
        for leg in self.legs.iter_mut().filter(|leg| Some(leg.origin) != needed) {
            leg.discard();
        }
        self.legs.retain(|leg| Some(leg.origin) == needed);
        if let Some(needed) = needed {
            self.ensure_leg(needed, plan);
        }
        self.ask = !self.up.is_empty();
        for leg in &mut self.legs {
            leg.ask = !leg.down.is_empty();
        }
    }

    /// Moves what can be moved.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            match self.turn(cx) {
                Ok(true) => self.active = Instant::now(),
                Ok(false) if self.give_up_waiting(cx) => {}
                Ok(false) => {
                    self.rest();
                    return Poll::Pending;
                }
                Err(end) => return Poll::Ready(end),
            }
        }
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut moved = false;
        // The next write or read tells of an error.
        let _ = self.client.poll_flush(cx);
        for leg in &mut self.legs {
            moved |= leg.poll_progress(cx);
        }
        moved |= self.downward(cx)?;
        moved |= self.upward(cx)?;
        moved |= self.close_last_legs();
        if self.sending.is_none() {
            self.legs.iter_mut().for_each(Leg::send_fin);
        }
        self.over()?;
        if !moved {
            self.wait(cx)?;
        }
        Ok(moved)
    }

    /// Gives back what an idle connection does not need.
    fn rest(&mut self) {
        self.up.rest();
        for leg in &mut self.legs {
            leg.down.rest();
        }
    }

    /// The open or opening leg to an origin.
    pub(super) fn leg(&mut self, origin: Origin) -> Option<&mut Leg> {
        self.legs.iter_mut().find(|leg| leg.origin == origin)
    }

    /// Everything goes to `to` from now on; other legs are closed.
    pub(super) fn go_opaque(&mut self, to: Origin, plan: Option<&Plan>) {
        self.judge = Judge::Opaque(to);
        self.ask = true;
        self.held = false;
        self.ensure_leg(to, plan);
        for leg in self.legs.iter_mut().filter(|leg| leg.origin != to) {
            leg.discard();
        }
        self.legs.retain(|leg| leg.origin == to);
        if let Some(leg) = self.leg(to) {
            leg.waits = false;
            leg.ask = !leg.down.is_empty();
        }
    }

    /// Opens the leg to an origin if there is none.
    pub(super) fn ensure_leg(&mut self, to: Origin, plan: Option<&Plan>) {
        if self.leg(to).is_some() {
            return;
        }
        let leg = match to {
            Origin::App => self.route.app(),
            Origin::Developer(key) => match plan.and_then(|plan| plan.intercept(key)) {
                Some(intercept) => self.route.developer(intercept),
                // The engine decides by the very plan that is given here.
                None => return,
            },
        };
        self.legs.push(leg);
    }

    /// The first bytes of a connection that is the global developer's: counted once.
    pub(super) fn count_global(&mut self) {
        let Some(global) = self.global.take() else { return };
        self.note_tls();
        self.access.count_developer();
        self.access.went_opaque("global");
        let (method, path) = request_line(self.up.unread()).unwrap_or_default();
        self.answerable = !method.is_empty();
        self.outstanding.push(Matched::new(global, method, path));
    }

    /// TLS that nobody decrypts begins: the port's developers are told.
    pub(super) fn note_tls(&self) {
        if self.up.unread().starts_with(TLS) && self.route.secured.is_none() {
            self.route.found(Finding::Tls);
        }
    }

    /// Bytes went to the client.
    pub(super) fn sent(&mut self, count: usize) {
        self.answerable = false;
        self.quiet_answer = None;
        self.client_heard_last = true;
        self.access.tally.sent.fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// How each TLS connection begins: a handshake record, of any version.
pub(super) const TLS: &[u8] = &[0x16, 3];

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (received, sent) = (load(&self.access.tally.received), load(&self.access.tally.sent));
        self.outstanding.abandoned(self.route.client, self.client_left, ConnectionBytes { received, sent });
    }
}
