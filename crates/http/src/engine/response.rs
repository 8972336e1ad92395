//! The engine's other side: answers are read as far as their framing needs.
//!
//! Owns: what [`Engine::response`] and [`Engine::origin_eof`] answer. Must not: judge answers: what cannot be read is
//! passed on unread. Called by: the relay, through `Engine`.

use super::{Course, Engine, Origin, OriginEnd, PendingSwitch, Reply, RequestSide, ResponseSide};
use crate::framing::{Asked, Body};
use crate::head::{Progress, ResponseHead};
use crate::{Ambiguity, OpaqueReason};

/// How long an answer most likely is, head and body, that two clients could read differently: as most of them read it. `None`:
/// until its leg ends, as far as can be seen.
fn likely_length(answer: &[u8]) -> Option<u64> {
    let mut head = 0;
    let mut body = None;
    for line in answer.split_inclusive(|&byte| byte == b'\n') {
        head += line.len() as u64;
        let line = line.strip_suffix(b"\n")?.trim_ascii();
        if line.is_empty() {
            return head.checked_add(body?);
        }
        if line.starts_with(b"HTTP/1.1 205") {
            body = Some(0);
        }
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
        let (name, value) = line.split_at(colon);
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            return None;
        }
        if name.eq_ignore_ascii_case(b"content-length") {
            body = Some(std::str::from_utf8(value.get(1..)?.trim_ascii()).ok()?.parse().ok()?);
        }
    }
    None
}

impl Engine {
    /// What to do with the unread bytes of the leg to `from`, all of them in one slice.
    pub fn response(&mut self, from: Origin, unread: &[u8]) -> Reply {
        if let Some((to, why)) = self.opaque() {
            return if from == to { Reply::Opaque { to, why } } else { Reply::Discard };
        }
        if unread.is_empty() {
            return Reply::NeedMore;
        }
        if from != self.current || self.outstanding == 0 {
            return self.unasked(from);
        }
        match &mut self.outbound {
            ResponseSide::Body(body) => match body.advance(unread) {
                Ok(len) => self.answered(len, None),
                Err(why) => self.unreadable(OpaqueReason::Ambiguous(why), unread),
            },
            ResponseSide::Head(head) => match head.advance(unread) {
                Ok(Progress::Partial) => Reply::NeedMore,
                Ok(Progress::Complete) => {
                    self.answer(unread).unwrap_or_else(|why| self.unreadable(OpaqueReason::Ambiguous(why), unread))
                }
                Err(why) => self.unreadable(OpaqueReason::Ambiguous(why), unread),
            },
        }
    }

    /// The leg to `from` sends no more.
    pub fn origin_eof(&mut self, from: Origin) -> OriginEnd {
        if self.is_opaque() || from != self.current || !self.busy() {
            return OriginEnd::Idle;
        }
        if self.outstanding == 0 {
            if !self.is_over() {
                self.course = Course::Ending;
            }
            return OriginEnd::Early;
        }
        match &self.outbound {
            ResponseSide::Head(_) => OriginEnd::Unanswered,
            ResponseSide::Body(Body::UntilClose) => {
                self.finish();
                if self.is_ending() { OriginEnd::Early } else { OriginEnd::Finished }
            }
            ResponseSide::Body(_) => OriginEnd::Cut,
        }
    }

    /// The rest of an answer's head that has begun is not waited for: as if it were ambiguous. `unread` as in
    /// [`Engine::response`].
    pub fn give_up_answer(&mut self, why: OpaqueReason, unread: &[u8]) -> Reply {
        self.unreadable(why, unread)
    }

    /// Bytes that answer nothing.
    fn unasked(&mut self, from: Origin) -> Reply {
        match (from, self.current) {
            (Origin::Developer(_), _) => Reply::Discard,
            (Origin::App, Origin::Developer(_)) if self.busy() => Reply::Wait,
            (Origin::App, _) => {
                let why = if self.began { OpaqueReason::Unsolicited } else { OpaqueReason::ServerFirst };
                self.current = Origin::App;
                self.go_opaque(why);
                Reply::Opaque { to: Origin::App, why }
            }
        }
    }

    /// An answer's head is complete.
    fn answer(&mut self, unread: &[u8]) -> Result<Reply, Ambiguity> {
        let ResponseSide::Head(head) = &self.outbound else { return Ok(Reply::NeedMore) };
        let newest = self.outstanding == 1;
        let asked = match self.hold {
            _ if self.heads & 1 != 0 => Asked::Head,
            PendingSwitch::Connect if newest => Asked::Connect,
            _ => Asked::Other,
        };
        let (len, code, closes) = (head.len(), head.code(), head.facts().closes());
        let mut body = match Body::of_response(head, asked) {
            // It ends with its head, whatever that announces (RFC 9112, 6.3). What follows answers nothing.
            Err(Ambiguity::BodyForbidden) if self.current != Origin::App && matches!(code, 100..=199 | 204) => {
                Body::Length(0)
            }
            body => body?,
        };
        match code {
            101 if self.hold == PendingSwitch::Upgrade && newest => {
                // Before the client's preface come the rest of the request's body, which is HTTP/1's.
                let whole = matches!(self.inbound, RequestSide::Head(_));
                let h2c = head.facts().h2c() && self.current == Origin::App && whole;
                let why = if h2c { OpaqueReason::H2c } else { OpaqueReason::Upgraded };
                return Ok(self.switched(why, len, code));
            }
            101 => return Err(Ambiguity::UpgradeUnasked),
            200..=299 if asked == Asked::Connect => return Ok(self.switched(OpaqueReason::Tunnel, len, code)),
            100..=199 => {
                self.interim = true;
                self.outbound = ResponseSide::Head(ResponseHead::new());
                return Ok(Reply::Forward { len, status: None, finished: false, ends: false });
            }
            _ => {}
        }
        self.closing = if self.expecting && newest {
            // The client now either sends the body or leaves it out: only the origin can tell.
            Some(OpaqueReason::ExpectRefused)
        } else if closes || body == Body::UntilClose || (self.last && newest) {
            Some(OpaqueReason::AfterClose)
        } else {
            None
        };
        let taken = body.advance(unread.get(len..).unwrap_or_default()).unwrap_or_default();
        self.outbound = ResponseSide::Body(body);
        Ok(self.answered(len + taken, Some(code)))
    }

    /// Bytes of a final answer are to be forwarded.
    fn answered(&mut self, len: usize, status: Option<u16>) -> Reply {
        let finished = matches!(&self.outbound, ResponseSide::Body(body) if body.is_done());
        let ends = self.closing.is_some() && self.current != Origin::App;
        if let Some(left) = self.unreadable.as_mut().filter(|left| **left != u64::MAX) {
            *left = left.saturating_sub(len as u64);
        }
        if finished {
            self.finish();
        }
        Reply::Forward { len, status, finished, ends }
    }

    /// The origin agreed to another protocol.
    fn switched(&mut self, why: OpaqueReason, len: usize, code: u16) -> Reply {
        self.finish();
        self.go_opaque(why);
        Reply::Forward { len, status: Some(code), finished: true, ends: false }
    }

    /// An answer that two clients could read differently. The app's: its client reads it alone from here. A developer's:
    /// it goes on until the leg ends or is quiet, and the client connection ends with it.
    fn unreadable(&mut self, why: OpaqueReason, unread: &[u8]) -> Reply {
        if self.current == Origin::App {
            self.go_opaque(why);
            return Reply::Opaque { to: Origin::App, why };
        }
        let len = unread.len();
        let length = if matches!(self.outbound, ResponseSide::Head(_)) { likely_length(unread) } else { None };
        self.unreadable = Some(length.map_or(u64::MAX, |length| length.saturating_sub(len as u64)));
        self.closing = Some(why);
        self.outbound = ResponseSide::Body(Body::UntilClose);
        Reply::Forward { len, status: None, finished: false, ends: true }
    }

    /// Who gets the request's body that is on its way.
    #[must_use]
    pub fn sending_to(&self) -> Option<Origin> {
        let sending = !self.is_opaque() && !self.is_over() && matches!(self.inbound, RequestSide::Body(_));
        sending.then_some(self.current)
    }
}
