//! How a connection that is looked at becomes one of HTTP/2, or turns out to be none.
//!
//! Owns: the time between a client's preface and its origin's SETTINGS, and that between an app's 101 and its client's. The origin gets the preface, which says nothing
//! that is not the same for every client, and nothing else until it has answered: if it does not speak HTTP/2, everything
//! goes on as it came. Must not: read a frame; `worker::http2` does.

use std::{pin::Pin, task::Context, time::Duration};

use bytes::Bytes;
use redir_http::{OpaqueReason, engine::Origin};
use tokio::{
    net::TcpStream,
    time::{Sleep, sleep},
};

use super::{
    Outside,
    exchange::{End, Exchange, Judge, Sending},
    leg::Socket,
    route::{Route, origin},
    transport::Transport,
};
use crate::{
    access::Access,
    http2::{self, AppIo, Around, Ended, First, Upgrade, preface},
    misses::Cause,
    plan::Plan,
};

/// How long one end may say nothing after the other has shown itself. A server that does may wait for the rest of the
/// client's preface, its SETTINGS, which it then gets; such servers are rare, those that are known answer the first 24
/// bytes or the connection itself. A client that does waits for the server, which is not HTTP/2.
const SILENCE: Duration = Duration::from_secs(1);
/// How long a client may leave its preface out after the app's 101, before the connection is the app's alone: meanwhile the
/// app is not read, and its end not seen.
const SILENCE_UPGRADED: Duration = Duration::from_secs(5);

/// What is known of both ends' HTTP/2.
pub(super) struct Preface {
    /// The origin that stands for all, once it has the client's preface.
    to: Option<Origin>,
    /// Runs while it says nothing.
    silence: Option<Pin<Box<Sleep>>>,
    /// The app has answered 101, and the client's preface is on its way.
    upgrade: Option<Box<Upgrade>>,
}

/// A connection whose ends speak HTTP/2, handed over.
pub(super) struct Both {
    /// What the client has sent, from its preface on.
    unread: Bytes,
    first: First<AppIo>,
}

impl Exchange<'_> {
    /// The client's first bytes are those of a preface, or the app's those of SETTINGS.
    pub(super) fn begin_http2(&mut self) {
        self.judge = Judge::Http2(Preface { to: None, silence: None, upgrade: None });
        self.ask = !self.up.is_empty();
    }

    /// The app has answered 101 to `Upgrade: h2c`. False: nobody filters any more, or the offer was malformed.
    pub(super) fn begin_upgraded(&mut self, plan: Option<&Plan>) -> bool {
        let filtered = plan.is_some_and(Plan::is_read);
        let Some(upgrade) = self.upgrade.take().filter(|_| filtered) else { return false };
        self.judge = Judge::Http2(Preface { to: Some(Origin::App), silence: None, upgrade: Some(upgrade) });
        (self.ask, self.held) = (!self.up.is_empty(), false);
        // What developers have in HTTP/1 is answered.
        for leg in self.legs.iter_mut().filter(|leg| leg.origin != Origin::App) {
            leg.discard();
        }
        self.legs.retain(|leg| leg.origin == Origin::App);
        // What the app has said behind its 101 is its HTTP/2's.
        self.legs.iter_mut().for_each(|leg| leg.ask = !leg.down.is_empty());
        true
    }

    /// Whether an origin that speaks before the client may be one that speaks HTTP/2: many send their SETTINGS at once, and
    /// the client's preface is on its way.
    pub(super) fn may_be_http2(&self, index: usize) -> bool {
        let fresh = self.access.app_requests == 0 && self.access.developer_requests == 0 && self.sending.is_none();
        let leg = &self.legs[index];
        let server = preface::server(leg.down.unread()) != preface::Told::Other;
        let filtered = || match (&self.judge, leg.origin) {
            // The kubelet's streams are the app's, whatever the intercept's developer says first.
            (Judge::First(_), Origin::Developer(_)) => true,
            (Judge::Http(_), Origin::App) => self.route.plan().is_some_and(|plan| plan.is_read()),
            _ => false,
        };
        fresh && server && preface::client(self.up.unread()) != preface::Told::Other && filtered()
    }

    /// The client has sent something.
    pub(super) fn judge_preface(&mut self, plan: Option<&Plan>) -> Result<(), End> {
        if let Judge::Http2(Preface { upgrade: Some(_), .. }) = &self.judge {
            return match Upgrade::client(self.up.unread()) {
                preface::Told::NeedMore => Ok(()),
                preface::Told::Other => {
                    self.not_http2(OpaqueReason::Upgraded);
                    Ok(())
                }
                preface::Told::Http2 => Err(self.hand_over()),
            };
        }
        match preface::client(self.up.unread()) {
            preface::Told::NeedMore => {}
            preface::Told::Other => self.not_http2(OpaqueReason::Http2),
            preface::Told::Http2 => {
                let to = plan.and_then(|plan| plan.global.as_deref()).map_or(Origin::App, origin);
                self.ensure_leg(to, plan);
                self.sending = Some(Sending { to, left: preface::PREFACE.len() });
                self.judge = Judge::Http2(Preface { to: Some(to), silence: None, upgrade: None });
                self.held = true;
            }
        }
        Ok(())
    }

    /// An origin has said something.
    pub(super) fn judge_settings(&mut self, index: usize) -> Result<bool, End> {
        let leg = &mut self.legs[index];
        if let Judge::Http2(Preface { upgrade: Some(_), .. }) = &self.judge {
            // Its 101 has said enough. It is read again once the client has begun.
            leg.waits = true;
            return Ok(false);
        }
        let waited_for = matches!(&self.judge, Judge::Http2(Preface { to: Some(to), .. }) if *to == leg.origin);
        match preface::server(leg.down.unread()) {
            preface::Told::Http2 if waited_for && self.sending.is_none() => Err(self.hand_over()),
            preface::Told::Http2 => {
                // As soon as the client's preface is there, and passed on.
                leg.waits = true;
                Ok(false)
            }
            preface::Told::NeedMore => Ok(false),
            preface::Told::Other => {
                if waited_for {
                    self.route.missed(Cause::Http2Unanswered);
                }
                self.not_http2(OpaqueReason::Http2);
                Ok(true)
            }
        }
    }

    /// The preface is passed on.
    pub(super) fn preface_sent(&mut self) {
        if let Judge::Http2(_) = self.judge {
            for leg in &mut self.legs {
                leg.waits = false;
                leg.ask = !leg.down.is_empty();
            }
        }
    }

    /// An origin has ended without showing itself.
    pub(super) fn ended_before_http2(&mut self, origin: Origin) -> Result<(), End> {
        match origin {
            Origin::App => {
                self.not_http2(OpaqueReason::Http2);
                self.opaque_ended(origin)
            }
            // Each request that it matches is answered for itself.
            Origin::Developer(_) => {
                self.sending = None;
                Err(self.hand_over())
            }
        }
    }

    /// Nothing moves: who is waited for may be one that says nothing before the other does.
    pub(super) fn wait_for_http2(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        let heard = self.legs.iter().any(|leg| !leg.down.is_empty());
        let sending = self.sending.is_some();
        let Judge::Http2(Preface { to, silence, upgrade }) = &mut self.judge else { return Ok(()) };
        let upgraded = upgrade.is_some();
        let (waits, most) = match to {
            _ if upgraded => (true, SILENCE_UPGRADED),
            Some(_) => (!sending, SILENCE),
            None => (heard, SILENCE),
        };
        if !waits || silence.get_or_insert_with(|| Box::pin(sleep(most))).as_mut().poll(cx).is_pending() {
            return Ok(());
        }
        if to.is_some() && !upgraded {
            return Err(self.hand_over());
        }
        self.not_http2(if upgraded { OpaqueReason::Upgraded } else { OpaqueReason::ServerFirst });
        // There is something to pass on now.
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// One of the ends does not speak HTTP/2: everything goes on as it came.
    pub(super) fn not_http2(&mut self, why: OpaqueReason) {
        let plan = self.route.plan();
        let unbound = match &self.global {
            Some(global) => origin(global),
            None => self.opaque_target(Origin::App, why, plan.as_deref()),
        };
        let to = match &self.judge {
            // It has got the first bytes.
            Judge::Http2(Preface { to: Some(to), .. }) => *to,
            _ => unbound,
        };
        self.go_opaque(to, plan.as_deref());
    }

    fn hand_over(&mut self) -> End {
        let (to, upgrade) = match &mut self.judge {
            Judge::Http2(Preface { to: Some(to), upgrade, .. }) => (*to, upgrade.take()),
            _ => (Origin::App, None),
        };
        let index = self.legs.iter().position(|leg| leg.origin == to);
        let socket = index.and_then(|index| self.legs.swap_remove(index).into_socket());
        let up = self.up.take_all();
        let unread = match &upgrade {
            Some(upgrade) => upgrade.as_prior_knowledge(&up),
            None => [&preface::PREFACE[..], &up].concat().into(),
        };
        let first = match (socket, to) {
            (Some((Socket::App(leg), heard)), _) => match upgrade {
                Some(upgrade) => First::Upgraded(AppIo::new(leg), heard, *upgrade),
                None => First::App(AppIo::new(leg), heard),
            },
            (Some((Socket::Developer(leg), heard)), Origin::Developer(key)) => First::Developer(key.0, leg, heard),
            (Some((Socket::Developer(_), _)), Origin::App) | (None, _) => First::Missing,
        };
        End::Http2(Box::new(Both { unread, first }))
    }
}

/// Serves a connection that was handed over.
pub(super) async fn serve(
    client: Transport<&TcpStream>,
    both: Box<Both>,
    route: &Route,
    outside: &Outside,
    access: &mut Access,
) -> End {
    let Both { unread, first } = *both;
    access.heavy();
    let connect = || -> Pin<Box<dyn Future<Output = _> + Send + '_>> {
        let connecting = route.connect();
        Box::pin(async move { connecting.await.map(AppIo::new) })
    };
    let around = Around { route, connect: &connect, outside, access };
    match http2::serve(client, unread, first, around).await {
        Ended::Closed(why) => End::Closed(why),
        Ended::Reset(why) => End::Reset(why),
    }
}
