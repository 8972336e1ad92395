//! The origins' direction of an exchange: read, ask, write to the client.

use std::task::{Context, Poll};

use redir_http::{
    OpaqueReason,
    engine::{Origin, Reply},
};

use super::exchange::{End, Exchange, Judge, Writing};

impl Exchange<'_> {
    /// One step of every leg; true if something moved or was decided, see `upward`.
    pub(super) fn downward(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut moved = false;
        let mut index = 0;
        while index < self.legs.len() {
            moved |= self.leg_down(index, cx)?;
            index += 1;
        }
        // A developer's leg that has ended is opened again for the next match; one that has the whole connection, or the
        // body that is on its way, still takes what the client sends.
        let (opaque, body) = match &self.judge {
            Judge::Opaque(_) => (true, None),
            Judge::Http(engine) => (false, engine.sending_to()),
            Judge::Hello(_) | Judge::First(_) | Judge::Http2(_) => (false, None),
        };
        let sending = self.sending.map(|sending| sending.to);
        self.legs.retain(|leg| {
            let takes = leg.is_open() && [body, sending].contains(&Some(leg.origin));
            opaque || takes || leg.origin == Origin::App || !leg.end_told || !leg.down.is_empty()
        });
        Ok(moved)
    }

    fn leg_down(&mut self, index: usize, cx: &mut Context<'_>) -> Result<bool, End> {
        let origin = self.legs[index].origin;
        if let Some(writing) = self.writing {
            return if writing.from == origin { self.write(index, writing, cx) } else { Ok(false) };
        }
        if self.closing.is_some() {
            return Ok(false);
        }
        if self.legs[index].ask {
            self.legs[index].ask = false;
            return self.judge_leg(index);
        }
        let leg = &mut self.legs[index];
        if !leg.waits && leg.poll_read(cx) {
            return Ok(true);
        }
        if leg.end.is_some() && !leg.end_told && !leg.waits {
            leg.end_told = true;
            self.leg_ended(index)?;
            return Ok(true);
        }
        Ok(false)
    }

    fn write(&mut self, index: usize, writing: Writing, cx: &mut Context<'_>) -> Result<bool, End> {
        let down = &mut self.legs[index].down;
        let count = match self.client.poll_write(cx, &down.unread()[..writing.left]) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Ok(count)) => count,
            Poll::Ready(Err(_)) => return Err(End::Reset("client_reset")),
        };
        down.take(count);
        self.legs[index].progressed(count);
        let left = writing.left - count;
        self.sent(count);
        if left > 0 {
            self.writing = Some(Writing { left, ..writing });
            return Ok(true);
        }
        self.writing = None;
        let leg = &mut self.legs[index];
        leg.ask = !leg.down.is_empty();
        // An answer of the agent's own, for a leg that has ended, is none of the leg's.
        leg.answered |= writing.finished && leg.end.is_none();
        if writing.finished {
            self.answered(writing.ends);
        }
        Ok(true)
    }

    /// An answer is through: whoever waited for it is asked again.
    fn answered(&mut self, ends: bool) {
        self.outstanding.finished(self.route.client);
        if self.outstanding.len() == 0 {
            self.whole_head = None;
        }
        self.held = false;
        self.ask = true;
        for leg in &mut self.legs {
            leg.waits = false;
            leg.ask = !leg.down.is_empty();
        }
        let body_follows = matches!(&self.judge, Judge::Http(engine) if !engine.is_over());
        if ends && !body_follows {
            self.closing = Some("developer_closed");
        }
    }

    fn judge_leg(&mut self, index: usize) -> Result<bool, End> {
        let leg = &self.legs[index];
        let (origin, len) = (leg.origin, leg.down.unread().len());
        if matches!(self.judge, Judge::Http(_) | Judge::First(_)) && self.may_be_http2(index) {
            self.begin_http2();
        }
        let leg = &mut self.legs[index];
        match &mut self.judge {
            Judge::Http(engine) => {
                let reply = engine.response(origin, leg.down.unread());
                self.take_reply(index, reply);
                Ok(true)
            }
            Judge::Hello(_) => {
                // The app speaks first.
                let plan = self.route.plan();
                self.follow(plan.as_deref());
                Ok(true)
            }
            Judge::First(_) => {
                // The developer speaks first.
                self.go_opaque(origin, None);
                Ok(true)
            }
            Judge::Http2(_) => self.judge_settings(index),
            Judge::Opaque(to) if *to == origin => {
                self.count_answer(index);
                self.writing = Some(Writing { from: origin, left: len, finished: false, ends: false });
                Ok(true)
            }
            Judge::Opaque(_) => {
                leg.discard();
                Ok(true)
            }
        }
    }

    pub(super) fn take_reply(&mut self, index: usize, reply: Reply) {
        let from = self.legs[index].origin;
        match reply {
            Reply::Forward { len, status, finished, ends } => {
                self.outstanding.answering();
                if let Some(status) = status {
                    self.outstanding.status(status);
                }
                self.writing = Some(Writing { from, left: len, finished, ends });
            }
            Reply::NeedMore => {}
            Reply::Wait => self.legs[index].waits = true,
            Reply::Opaque { to, why } => {
                let plan = self.route.plan();
                if why == OpaqueReason::H2c && self.begin_upgraded(plan.as_deref()) {
                    return;
                }
                self.access.went_opaque(why.as_str());
                self.go_opaque(to, plan.as_deref());
            }
            Reply::Discard => self.legs[index].discard(),
        }
    }

    /// The first bytes of an answer under a global intercept: its status is told to the developer.
    fn count_answer(&mut self, index: usize) {
        let origin = self.legs[index].origin;
        if origin == Origin::App {
            return;
        }
        self.count_global();
        self.framed.get_or_insert_with(|| says_its_end(self.legs[index].down.unread()));
        self.outstanding.opened(status(self.legs[index].down.unread()), self.route.client);
    }
}

/// Whether an HTTP/1 answer begins with a whole head that names a length or chunks.
fn says_its_end(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { return false };
    let named = |line: &[u8]| {
        let name = line.split(|&byte| byte == b':').next().unwrap_or_default();
        [&b"content-length"[..], b"transfer-encoding"].iter().any(|known| name.eq_ignore_ascii_case(known))
    };
    answer.starts_with(b"HTTP/1.1 ") && answer[..end].split(|&byte| byte == b'\n').any(named)
}

/// The status of an HTTP/1 answer, if the bytes begin with one.
fn status(answer: &[u8]) -> Option<u16> {
    let code = answer.strip_prefix(b"HTTP/1.")?.get(2..5)?;
    std::str::from_utf8(code).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_its_end_by_a_length_or_by_chunks() {
        for answer in
            ["HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbl", "HTTP/1.1 200\r\ntransfer-encoding:chunked\r\n\r\n"]
        {
            assert!(says_its_end(answer.as_bytes()), "{answer}");
        }
        for other in [
            "HTTP/1.1 200 OK\r\n\r\nContent-Length: 4\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n",
            "220 hi\r\n",
        ] {
            assert!(!says_its_end(other.as_bytes()), "{other}");
        }
    }
}
