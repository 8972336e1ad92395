//! One client connection: whom each request is for, and when to stop looking.
//!
//! Owns: the state of both directions of one HTTP/1.x connection. Must not: hold, copy or change bytes; know sockets or
//! time. Called by: the agent's relay, which owns the buffers and does what [`Step`] and [`Reply`] say.
//!
//! # Invariants
//! Let the client's bytes be a sequence of messages as this engine ends them, and then possibly a rest.
//! 1. Each message goes, whole, to exactly one of the app and one developer: whole to the developer whose filter it
//!    matched in the table of the moment it was decided, else whole to the app. (A message that turns out malformed in
//!    its middle goes no further than the malformed byte if it went to a developer: the client is reset.)
//! 2. The app gets the exact concatenation of the messages that went to it, and, once the connection is opaque to it,
//!    exactly every later byte. A developer gets the exact concatenation of the messages that it matched.
//! 3. A message goes to another origin than the one before only when every answer to those before is through, so that
//!    answers are in request order without being held: at any time only one origin has answers outstanding.
//! 4. The client gets exactly the bytes of the answers, in order; nothing is added or left out. (A developer's bytes that
//!    answer nothing are not part of any answer.)
//! 5. Once opaque, always opaque, to the same origin. Only an answered Upgrade or CONNECT is opaque to a developer.
//! 6. All of this is the same however the bytes are split into reads, as long as the order between the two directions is.
//!
//! A request with Upgrade or CONNECT holds what the client sends after it until it is answered: 101 (or 2xx) hands the
//! connection to whoever answered, any other answer lets it go on. `Upgrade: h2c` is the exception: the app's 101 is told
//! as [`OpaqueReason::H2c`], so that each stream can be decided, and a developer does not get the offer at all
//! ([`crate::h2c`]), since the streams that follow are not all the developer's.

mod probe;
mod request;
mod response;
mod step;
#[cfg(test)]
mod tests;

pub use probe::{First, FirstHead};
pub use step::{Begins, ClientEnd, OriginEnd, Refusal, Reply, Step};

use crate::OpaqueReason;
use crate::filter::Key;
use crate::framing::Body;
use crate::head::{RequestHead, ResponseHead};

/// Who answers a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The app in the pod.
    App,
    /// The developer of the filter with this key.
    Developer(Key),
}

/// What the agent may choose for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Whether the kubelet's probes go to the app, whatever the filters say.
    pub probes_to_app: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { probes_to_app: true }
    }
}

/// The most requests that may be outstanding: bounds the state; a client that pipelines more waits.
const MAX_OUTSTANDING: u8 = 64;

/// The state of one client connection; see the module.
#[derive(Debug)]
pub struct Engine {
    inbound: RequestSide,
    outbound: ResponseSide,
    /// Bit n: the n-th oldest outstanding request is a HEAD.
    heads: u64,
    /// Bit n: the n-th oldest outstanding request has an effect each time it is sent.
    once: u64,
    /// Who has the outstanding requests and the body in flight; once opaque, the connection.
    current: Origin,
    outstanding: u8,
    hold: PendingSwitch,
    /// The newest request offers `h2c`, and went to a developer without the offer.
    withdrawn: bool,
    course: Course,
    /// Why no request follows the answer that is being read.
    closing: Option<OpaqueReason>,
    /// A developer's answer cannot be read and goes on until the leg ends; so many bytes are most likely left of it,
    /// `u64::MAX` where that is not known.
    unreadable: Option<u64>,
    probes_to_app: bool,
    /// A request was begun.
    began: bool,
    /// The newest request said that it is the last.
    last: bool,
    /// The newest request's body is held back by the client (`Expect: 100-continue`).
    expecting: bool,
    /// The oldest outstanding request had an interim answer.
    interim: bool,
}

/// How the connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    /// Requests may follow.
    Open,
    /// It becomes opaque to the app, for this reason, as soon as no developer's answer is outstanding.
    OpaquePending(OpaqueReason),
    /// It is no longer looked at, for this reason.
    Opaque(OpaqueReason),
    /// It ends with the body that is on its way: its answer is through, and no other follows.
    Ending,
    /// The relay was told to close the client.
    Over,
}

#[derive(Debug)]
enum RequestSide {
    Head(RequestHead),
    Body(Body),
}

#[derive(Debug)]
enum ResponseSide {
    Head(ResponseHead),
    Body(Body),
}

/// What the newest request may turn the connection into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PendingSwitch {
    No,
    Upgrade,
    Connect,
}

impl Engine {
    /// A connection of which nothing is read.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            inbound: RequestSide::Head(RequestHead::new()),
            outbound: ResponseSide::Head(ResponseHead::new()),
            heads: 0,
            once: 0,
            current: Origin::App,
            outstanding: 0,
            hold: PendingSwitch::No,
            withdrawn: false,
            course: Course::Open,
            closing: None,
            unreadable: None,
            probes_to_app: options.probes_to_app,
            began: false,
            last: false,
            expecting: false,
            interim: false,
        }
    }

    /// Who has the connection, if it is no longer looked at, and why.
    #[must_use]
    pub fn opaque(&self) -> Option<(Origin, OpaqueReason)> {
        match self.course {
            Course::Opaque(why) => Some((self.current, why)),
            Course::Open | Course::OpaquePending(_) | Course::Ending | Course::Over => None,
        }
    }

    /// The number of requests whose answer is not through.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        usize::from(self.outstanding)
    }

    /// Whether the connection is between messages: no head begun, no answer outstanding.
    #[must_use]
    pub fn idle(&self) -> bool {
        let fresh = matches!(&self.inbound, RequestSide::Head(head) if head.is_new());
        let opaque = matches!(self.course, Course::OpaquePending(_) | Course::Opaque(_));
        fresh && self.outstanding == 0 && !opaque
    }

    /// Whether no message follows: the client is closed once everything before is written.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.course == Course::Over
    }

    /// Whether the connection ends with the body that is on its way ([`OriginEnd::Early`]).
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.course == Course::Ending
    }

    /// Whether a developer's answer cannot be read: it goes on until its leg ends.
    #[must_use]
    pub fn is_unreadable(&self) -> bool {
        self.unreadable.is_some()
    }

    /// Whether such an answer is whole by its likely length. Its client takes the connection for unused then.
    #[must_use]
    pub fn is_likely_whole(&self) -> bool {
        self.unreadable == Some(0)
    }

    /// Whether `leg` can close, or be opened again, without anyone noticing.
    #[must_use]
    pub fn leg_idle(&self, leg: Origin) -> bool {
        leg != self.current || !(self.busy() || self.is_opaque())
    }

    /// Takes back the choice of a developer who cannot be reached, before a byte of the request was written there: it
    /// goes to the app. `false` if that is no longer possible.
    pub fn fall_back(&mut self) -> bool {
        let untouched = matches!(&self.outbound, ResponseSide::Head(head) if head.is_new());
        let possible = self.outstanding == 1 && untouched && !self.is_opaque() && !self.is_over();
        if possible {
            self.current = Origin::App;
            if self.withdrawn {
                // The app gets the whole head.
                self.hold = PendingSwitch::Upgrade;
            }
        }
        possible
    }

    /// Whether the outstanding requests may be sent once more, on a new leg, where theirs ended before any byte of an
    /// answer, as a server's does that closes an idle connection just when it is used again. A client may do that with
    /// idempotent requests alone (RFC 9110, 9.2.2; RFC 9112, 9.3.1), unless nothing of the newest was written there
    /// (`unsent`).
    #[must_use]
    pub fn may_resend(&self, unsent: bool) -> bool {
        let untouched = !self.interim && matches!(&self.outbound, ResponseSide::Head(head) if head.is_new());
        let delivered = self.outstanding.saturating_sub(u8::from(unsent));
        let theirs = u64::MAX.checked_shr(u64::BITS - u32::from(delivered)).unwrap_or(0);
        self.outstanding > 0 && untouched && self.once & theirs == 0 && !self.is_opaque() && !self.is_over()
    }

    /// The agent answers the oldest outstanding request itself, because its origin did not (no byte of an answer was
    /// forwarded). For each outstanding request once, or until the connection cannot go on.
    pub fn refuse(&mut self) -> Refusal {
        let head = self.heads & 1 != 0;
        let newest = self.outstanding <= 1;
        let in_flight = matches!(self.inbound, RequestSide::Body(_));
        let keep_alive = self.outstanding > 0 && !self.is_over() && !(newest && (in_flight || self.last));
        self.finish();
        if !keep_alive {
            self.course = Course::Over;
        }
        Refusal { head, keep_alive }
    }

    /// Whether unread bytes of the client that it was asked about, and that need more, begin a request's head.
    #[must_use]
    pub fn awaits_head(&self) -> bool {
        let head = matches!(&self.inbound, RequestSide::Head(_));
        head && matches!(self.course, Course::Open | Course::Ending)
    }

    /// Whether a next request has to wait for a developer's outstanding answers, unless it is the same developer's.
    #[must_use]
    pub fn awaits_developer(&self) -> bool {
        let heads = matches!(&self.inbound, RequestSide::Head(_)) && self.outstanding > 0;
        heads && !self.is_opaque() && self.current != Origin::App
    }

    /// Whether all that is outstanding is the app's.
    #[must_use]
    pub fn awaits_app(&self) -> bool {
        self.awaits_head() && self.outstanding > 0 && self.current == Origin::App
    }

    /// Whether unread bytes of an origin that it was asked about, and that need more, begin an answer's head.
    #[must_use]
    pub fn awaits_answer_head(&self, from: Origin) -> bool {
        let head = matches!(&self.outbound, ResponseSide::Head(_));
        head && from == self.current && self.outstanding > 0 && !self.is_opaque()
    }

    fn is_opaque(&self) -> bool {
        matches!(self.course, Course::Opaque(_))
    }

    /// Whether the current origin has work: an answer outstanding or a body in flight.
    fn busy(&self) -> bool {
        self.outstanding > 0 || matches!(self.inbound, RequestSide::Body(_))
    }

    /// The oldest outstanding answer is through.
    fn finish(&mut self) {
        self.outstanding = self.outstanding.saturating_sub(1);
        self.heads >>= 1;
        self.once >>= 1;
        self.interim = false;
        self.outbound = ResponseSide::Head(ResponseHead::new());
        if self.outstanding == 0 {
            self.hold = PendingSwitch::No;
        }
        if let Some(why) = self.closing {
            match self.current {
                // The app closes by itself, or not: from here on that is between the client and the app.
                Origin::App => self.opaque_next(why),
                Origin::Developer(_) => self.end(why),
            }
        }
    }

    /// A developer's answer was the last one. What it left of its request's body still goes to the developer, who may read
    /// it or not, unless only the client knows whether it is a body.
    fn end(&mut self, why: OpaqueReason) {
        let body =
            why == OpaqueReason::AfterClose && self.outstanding == 0 && matches!(self.inbound, RequestSide::Body(_));
        self.course = if body { Course::Ending } else { Course::Over };
    }

    /// The connection becomes opaque before its next request, for this reason unless there is one already.
    fn opaque_next(&mut self, why: OpaqueReason) {
        if self.course == Course::Open {
            self.course = Course::OpaquePending(why);
        }
    }

    /// Hands the connection to its current origin.
    fn go_opaque(&mut self, why: OpaqueReason) {
        self.course = Course::Opaque(why);
        self.inbound = RequestSide::Body(Body::UntilClose);
        self.outbound = ResponseSide::Body(Body::UntilClose);
    }
}
