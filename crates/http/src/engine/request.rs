//! The engine's client side: requests are read, decided and forwarded.
//!
//! Owns: what [`Engine::client`] answers. Must not: look at answers. Called by: the relay, through `Engine`.

use super::{Begins, ClientEnd, Course, Engine, MAX_OUTSTANDING, Origin, PendingSwitch, RequestSide, Step};
use crate::filter::Table;
use crate::framing::{Asked, Body};
use crate::head::{Progress, RequestHead};
use crate::{Ambiguity, OpaqueReason};

/// The first byte of every TLS connection: the record type "handshake".
const TLS_HANDSHAKE: u8 = 0x16;

/// Whether a request of this method may be sent twice (RFC 9110, 9.2.2). Methods of other documents are taken as if not.
fn is_idempotent(method: &[u8]) -> bool {
    matches!(method, b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE" | b"PUT" | b"DELETE")
}

impl Engine {
    /// What to do with the client's unread bytes, all of them in one slice; `table` decides the requests that begin.
    pub fn client(&mut self, unread: &[u8], table: &Table) -> Step {
        match self.course {
            Course::Opaque(why) => return Step::Opaque { to: self.current, why },
            Course::Over => return Step::Wait,
            Course::OpaquePending(why) => return self.go_opaque_when_idle(why),
            Course::Open | Course::Ending => {}
        }
        if unread.is_empty() {
            return Step::NeedMore;
        }
        match &mut self.inbound {
            RequestSide::Body(body) => match body.advance(unread) {
                Ok(len) => self.body(len),
                Err(why) => self.malformed(why),
            },
            // Where that answer ends only the client knows: what it says next belongs to a connection of its own.
            RequestSide::Head(_) if self.unreadable.is_some() => Step::Wait,
            RequestSide::Head(_) => self.head(unread, table),
        }
    }

    /// The client sends no more. Ask this when [`Engine::client`] said [`Step::NeedMore`] to the last `unread`.
    pub fn client_eof(&mut self, unread: &[u8]) -> ClientEnd {
        if self.is_opaque() || matches!(self.inbound, RequestSide::Body(_)) {
            return ClientEnd::Inside(self.current);
        }
        if unread.is_empty() || self.is_over() {
            return ClientEnd::Idle;
        }
        self.opaque_next(OpaqueReason::Truncated);
        ClientEnd::Partial
    }

    /// The rest of a head that has begun is not waited for: as if it were ambiguous.
    pub fn give_up(&mut self, why: OpaqueReason) -> Step {
        self.go_opaque_when_idle(why)
    }

    fn body(&mut self, len: usize) -> Step {
        self.expecting = false;
        let complete = matches!(&self.inbound, RequestSide::Body(body) if body.is_done());
        if complete {
            self.inbound = RequestSide::Head(RequestHead::new());
            if self.is_ending() {
                self.course = Course::Over;
            }
        }
        Step::Forward { to: self.current, len, begins: None, complete }
    }

    /// The next byte of a body is ambiguous.
    fn malformed(&mut self, why: Ambiguity) -> Step {
        match self.current {
            Origin::App => self.go_opaque_when_idle(OpaqueReason::Ambiguous(why)),
            Origin::Developer(_) => {
                self.course = Course::Over;
                Step::Reset { why }
            }
        }
    }

    fn head(&mut self, unread: &[u8], table: &Table) -> Step {
        if self.last {
            return match self.current {
                Origin::App => self.go_opaque_when_idle(OpaqueReason::AfterClose),
                Origin::Developer(_) => Step::Wait,
            };
        }
        if self.hold != PendingSwitch::No || self.outstanding == MAX_OUTSTANDING {
            return Step::Wait;
        }
        let RequestSide::Head(head) = &mut self.inbound else { return Step::NeedMore };
        match head.advance(unread, table.names()) {
            Ok(Progress::Partial) => Step::NeedMore,
            Ok(Progress::Complete) => match self.decide(unread, table) {
                Ok(step) => step,
                Err(why) => self.go_opaque_when_idle(OpaqueReason::Ambiguous(why)),
            },
            Err(why) => {
                let why = self.reason(why, unread);
                self.go_opaque_when_idle(why)
            }
        }
    }

    /// Decides the request whose complete head is at the beginning of `unread`, and begins it if it is its turn.
    fn decide(&mut self, unread: &[u8], table: &Table) -> Result<Step, Ambiguity> {
        let RequestSide::Head(head) = &mut self.inbound else { return Ok(Step::NeedMore) };
        let asked = match unread.get(head.method()) {
            Some(b"HEAD") => Asked::Head,
            Some(b"CONNECT") => Asked::Connect,
            _ => Asked::Other,
        };
        let body = Body::of_request(head, asked)?;
        let probe = self.probes_to_app && head.facts().probe();
        let index = if probe { None } else { table.decide(head, unread)? };
        let to = index.and_then(|index| table.key(index)).map_or(Origin::App, Origin::Developer);
        if self.outstanding > 0 && to != self.current {
            return Ok(Step::Wait);
        }
        let (path, _) = head.path_and_query(unread);
        let idempotent = unread.get(head.method()).is_some_and(is_idempotent);
        let (len, facts) = (head.len(), *head.facts());
        let begins =
            Begins { method: head.method(), path, head: len, index, idempotent, h2c: facts.h2c().then_some(len) };
        // A developer does not get the offer, so a 101 would answer nothing.
        self.withdrawn = to != Origin::App && facts.only_h2c();
        self.hold = match asked {
            Asked::Connect => PendingSwitch::Connect,
            _ if facts.upgrade() && !self.withdrawn => PendingSwitch::Upgrade,
            _ => PendingSwitch::No,
        };
        self.last = facts.closes();
        self.heads |= u64::from(asked == Asked::Head) << self.outstanding;
        self.once |= u64::from(!idempotent) << self.outstanding;
        self.outstanding += 1;
        self.current = to;
        self.began = true;
        Ok(self.begin(body, facts.expect(), begins, len, unread))
    }

    /// Forwards the head with as much of the body as is there.
    fn begin(&mut self, mut body: Body, expect: bool, begins: Begins, head_len: usize, unread: &[u8]) -> Step {
        // What is ambiguous about the body's first byte is told when it is the first unread one.
        let taken = body.advance(unread.get(head_len..).unwrap_or_default()).unwrap_or_default();
        let complete = body.is_done();
        self.expecting = expect && !complete && taken == 0;
        match &mut self.inbound {
            // In its place: a head is the largest thing here.
            RequestSide::Head(head) if complete => head.clear(),
            inbound => *inbound = RequestSide::Body(body),
        }
        Step::Forward { to: self.current, len: head_len + taken, begins: Some(begins), complete }
    }

    /// Gives the connection to the app, as soon as a developer's outstanding answers are through.
    pub(super) fn go_opaque_when_idle(&mut self, why: OpaqueReason) -> Step {
        if self.busy() && self.current != Origin::App {
            self.course = Course::OpaquePending(why);
            return Step::Wait;
        }
        self.current = Origin::App;
        self.go_opaque(why);
        Step::Opaque { to: Origin::App, why }
    }

    /// What an unreadable head means: at the beginning of a connection, most likely another protocol.
    fn reason(&self, why: Ambiguity, unread: &[u8]) -> OpaqueReason {
        match why {
            Ambiguity::Method | Ambiguity::EmptyLine if !self.began => {
                if unread.first() == Some(&TLS_HANDSHAKE) {
                    OpaqueReason::Tls
                } else {
                    OpaqueReason::NotHttp
                }
            }
            Ambiguity::Preface if !self.began => OpaqueReason::Http2,
            why => OpaqueReason::Ambiguous(why),
        }
    }
}
