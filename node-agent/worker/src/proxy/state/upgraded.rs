//! The app has answered 101 to `Upgrade: h2c`, and the client's preface is on its way.

use std::time::Duration;

use redir_http::{OpaqueReason, engine::Origin};
use tokio::time::Instant;

use super::{Action, ConnectionState, Context, Opaque};
use crate::{
    misses::Cause,
    plan::Plan,
    proxy::http2::{
        Upgrade, block,
        preface::{PREFACE, Told},
    },
};

/// How long a client may leave its preface out after the app's 101, before the connection is the app's alone: meanwhile the
/// app is not read, and its end not seen.
const SILENCE: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct ExpectUpgradedPreface {
    upgrade: Option<Box<Upgrade>>,
    since: Option<Instant>,
}

impl ExpectUpgradedPreface {
    /// With what the client has offered.
    pub(super) fn new(upgrade: Box<Upgrade>) -> Self {
        ExpectUpgradedPreface { upgrade: Some(upgrade), since: None }
    }

    fn not_http2(why: OpaqueReason, at: &mut Context<'_>) -> Action {
        at.access.went_opaque(why.as_str());
        Action::go_opaque(Opaque::new(Origin::App))
    }
}

impl ConnectionState for ExpectUpgradedPreface {
    fn client_bytes(&mut self, _: Option<&Plan>, at: &mut Context<'_>) -> Action {
        match Upgrade::client(at.flow.unread()) {
            Told::NeedMore => Action::Wait,
            Told::Other => Self::not_http2(OpaqueReason::Upgraded, at),
            // A header block that is open, and finds no room in memory, goes to the app unread with everything else.
            Told::Http2 if !block::has_room(&at.flow.unread()[PREFACE.len()..]) => {
                at.route.missed(Cause::MemoryScarce);
                Self::not_http2(OpaqueReason::MemoryScarce, at)
            }
            Told::Http2 => Action::Http2 { to: Origin::App, upgrade: self.upgrade.take() },
        }
    }

    fn client_end(&mut self, at: &mut Context<'_>) -> Action {
        Self::not_http2(OpaqueReason::Http2, at)
    }

    /// Its 101 has said enough. It is read again once the client has begun.
    fn origin_bytes(&mut self, _: Origin, _: &mut Context<'_>) -> Action {
        Action::Hold
    }

    fn origin_end(&mut self, _: Origin, at: &mut Context<'_>) -> Action {
        Self::not_http2(OpaqueReason::Http2, at)
    }

    fn at_rest(&mut self, now: Instant, at: &mut Context<'_>) -> Result<Option<Instant>, Action> {
        let until = *self.since.get_or_insert(now) + SILENCE;
        if now >= until { Err(Self::not_http2(OpaqueReason::Upgraded, at)) } else { Ok(Some(until)) }
    }
}
