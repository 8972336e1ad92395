//! What the engine tells the relay.
//!
//! Owns: the words of both sides. Must not: hold state. Called by: `Engine` answers with them, the relay acts on them.

use std::ops::Range;

use super::Origin;
use crate::{Ambiguity, OpaqueReason};

/// What to do with the client's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write the first `len` (at least one) unread bytes to `to`, and ask again with the rest.
    Forward {
        /// Who gets them.
        to: Origin,
        /// How many.
        len: usize,
        /// Set if a request begins with these bytes.
        begins: Option<Begins>,
        /// Whether a request ends with these bytes.
        complete: bool,
    },
    /// Keep the unread bytes, read more, and ask again with all of them.
    NeedMore,
    /// Stop reading the client until a [`Reply`] had `finished` set, then ask again.
    Wait,
    /// All unread and later client bytes go to `to`, all bytes of `to` to the client, and other legs are closed.
    Opaque {
        /// Who has the connection now.
        to: Origin,
        /// Why.
        why: OpaqueReason,
    },
    /// Reset the client and the developer's stream: a message that already began there cannot be ended.
    Reset {
        /// Why.
        why: Ambiguity,
    },
}

/// The beginning of a request; the ranges are in the unread bytes of the call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begins {
    /// The method.
    pub method: Range<usize>,
    /// The path, without its query; empty for CONNECT.
    pub path: Range<usize>,
    /// How many of the bytes are its head, from the request line to the empty line.
    pub head: usize,
    /// Which filter of the table of this call it matched.
    pub index: Option<usize>,
    /// Whether sending it twice means the same as sending it once.
    pub idempotent: bool,
    /// The length of its head, in bytes, if that offers to go on with HTTP/2 (`Upgrade: h2c`). A developer must not see
    /// the offer: see [`crate::h2c`].
    pub h2c: Option<usize>,
}

/// What to do with an origin's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Write the first `len` (at least one) unread bytes to the client, and ask again with the rest.
    Forward {
        /// How many.
        len: usize,
        /// The final status of the oldest outstanding request, once for each.
        status: Option<u16>,
        /// Whether the answer to the oldest outstanding request ends with these bytes. Ask [`super::Engine::client`] again.
        finished: bool,
        /// Whether the client connection must be closed once this answer is finished (a developer's answer said so), and
        /// its request's body: [`super::Engine::is_over`] says when.
        ends: bool,
    },
    /// Keep the unread bytes, read more, and ask again with all of them.
    NeedMore,
    /// Another origin's answer is outstanding: stop reading this leg until a `Reply` had `finished` set.
    Wait,
    /// As [`Step::Opaque`]; the unread bytes of `to` go to the client as they are.
    Opaque {
        /// Who has the connection now.
        to: Origin,
        /// Why.
        why: OpaqueReason,
    },
    /// Close this leg quietly and forget its bytes: they answer nothing.
    Discard,
}

/// Where in its messages the client ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientEnd {
    /// Between requests: the end is passed on to every leg.
    Idle,
    /// In a body, or in an opaque connection: the end is passed on to this leg.
    Inside(Origin),
    /// In a head: ask [`super::Engine::client`] again, it says [`Step::Opaque`] to the app (after [`Step::Wait`] if need be).
    Partial,
}

/// Where in its answers an origin ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OriginEnd {
    /// Nothing was asked of it. The app: close the client once a developer's answers are through. A developer: drop the
    /// leg, and open it again for the next match.
    Idle,
    /// Its answer ended with it: close the client.
    Finished,
    /// Its answer is through and its request's body is still on its way: pass the end on, and the body too, as long as the
    /// origin takes it.
    Early,
    /// The oldest outstanding request has no answer. A developer: [`super::Engine::may_resend`] on a leg that was used
    /// before, else [`super::Engine::refuse`]. The app: pass on its unread bytes and its end.
    Unanswered,
    /// In the middle of an answer: reset the client; for the app pass on its unread bytes and its end.
    Cut,
}

/// How the agent answers a request itself, with a 502.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The request is a HEAD: the answer must have no body.
    pub head: bool,
    /// Whether the connection can go on; if not, say `Connection: close` and close it.
    pub keep_alive: bool,
}
