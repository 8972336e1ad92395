//! The origins' direction: read, ask the state, write to the client.

use std::{
    sync::atomic::Ordering,
    task::{Context as TaskContext, Poll},
};

use redir_http::engine::Origin;

use super::{Driver, Outcome};
use crate::proxy::{
    attention::Attention,
    flow::{AfterWrite, LastHeard, Writing},
    leg::LegEnd,
    state::{End, Side},
    transport::Ending,
};

impl Driver<'_> {
    /// One step of every leg; true if something moved or was decided, see `upward`.
    pub(super) fn downward(&mut self, cx: &mut TaskContext<'_>) -> Result<bool, Outcome> {
        let mut moved = false;
        let mut index = 0;
        while index < self.flow.legs.len() {
            moved |= self.leg_down(index, cx)?;
            index += 1;
        }
        // A developer's leg that has ended is opened again for the next match; one that has the whole connection, or the
        // body that is on its way, still takes what the client sends.
        let (state, sending) = (&self.state, self.flow.sending.map(|sending| sending.to));
        self.flow.legs.retain(|leg| {
            let sends = leg.is_open() && sending == Some(leg.origin);
            let said = leg.origin == Origin::App || !leg.is_end_told() || !leg.down.is_empty();
            said || sends || state.needs_leg(leg)
        });
        Ok(moved)
    }

    fn leg_down(&mut self, index: usize, cx: &mut TaskContext<'_>) -> Result<bool, Outcome> {
        let from = self.flow.legs[index].origin;
        if let Some(writing) = self.flow.writing {
            return if writing.from == from { self.write(index, writing, cx) } else { Ok(false) };
        }
        if self.flow.closing.is_some() {
            return Ok(false);
        }
        let leg = &mut self.flow.legs[index];
        let action = match leg.attention {
            Attention::Held => return Ok(false),
            Attention::Ask => {
                leg.attention = Attention::Read;
                self.ask(|state, at| state.origin_bytes(from, at))
            }
            Attention::Read => {
                if leg.poll_read(cx) {
                    return Ok(true);
                }
                if !leg.take_end() {
                    return Ok(false);
                }
                self.note_end(index);
                self.ask(|state, at| state.origin_end(from, at))
            }
        };
        self.act(Side::Leg(from), action)?;
        Ok(true)
    }

    fn note_end(&mut self, index: usize) {
        let leg = &mut self.flow.legs[index];
        if leg.ending() == Ending::Cut {
            self.ending = Ending::Cut;
        }
        if let (Origin::Developer(_), Some(LegEnd::Failed(error))) = (leg.origin, leg.end()) {
            tracing::debug!(client = %self.route.client, %error, "a developer's leg failed");
        }
    }

    fn write(&mut self, index: usize, writing: Writing, cx: &mut TaskContext<'_>) -> Result<bool, Outcome> {
        let leg = &mut self.flow.legs[index];
        let count = match self.client.poll_write(cx, &leg.down.unread()[..writing.left]) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Ok(count)) => count,
            Poll::Ready(Err(_)) => return Err(Outcome::Over(End::Reset("client_reset"))),
        };
        leg.down.take(count);
        leg.progressed(count);
        self.flow.last_heard = LastHeard::Client;
        self.access.tally.sent.fetch_add(count as u64, Ordering::Relaxed);
        let left = writing.left - count;
        if left > 0 {
            self.flow.writing = Some(Writing { left, ..writing });
            return Ok(true);
        }
        self.flow.writing = None;
        leg.attention = Attention::anew(!leg.down.is_empty());
        if writing.then != AfterWrite::More {
            // An answer of the agent's own, for a leg that has ended, is none of the leg's.
            leg.answered |= leg.end().is_none();
            self.answered(writing.then);
        }
        Ok(true)
    }

    /// An answer is through: whoever waited for it is asked again.
    fn answered(&mut self, then: AfterWrite) {
        self.requests.finished(self.route.client);
        self.flow.client = Attention::Ask;
        for leg in &mut self.flow.legs {
            leg.attention = Attention::anew(!leg.down.is_empty());
        }
        let body_follows = self.ask(|state, at| state.answer_complete(at));
        if then == AfterWrite::LastAnswered && !body_follows {
            self.flow.closing = Some("developer_closed");
        }
    }
}
