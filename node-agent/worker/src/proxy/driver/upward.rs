//! The client's direction: read, ask the state, write to the leg that it names.

use std::{
    sync::atomic::Ordering,
    task::{Context as TaskContext, Poll},
};

use redir_http::engine::Origin;

use super::{Driver, Outcome};
use crate::{
    memory::FREE,
    proxy::{
        attention::Attention,
        flow::{ClientSide, LastHeard, Sending},
        state::{End, ReadLimit, Side},
    },
};

impl Driver<'_> {
    /// One step; true if something moved or was decided. False only after a socket has said that it will wake the task,
    /// or when the other direction will.
    pub(super) fn upward(&mut self, cx: &mut TaskContext<'_>) -> Result<bool, Outcome> {
        if self.flow.sending.is_some() {
            return Ok(self.send(cx));
        }
        if self.flow.closing.is_some() {
            return Ok(false);
        }
        match (self.flow.client, self.flow.client_side) {
            (Attention::Held, _) | (Attention::Read, ClientSide::Told) => Ok(false),
            (Attention::Ask, _) if self.flow.developer_answers() => Ok(false),
            (Attention::Ask, _) => {
                self.flow.client = Attention::Read;
                let plan = self.route.plan();
                let action = self.ask(|state, at| state.client_bytes(plan.as_deref(), at));
                self.act(Side::Client, action)?;
                self.note_ended_intercepts(plan.as_deref());
                Ok(true)
            }
            (Attention::Read, ClientSide::Open) => self.read_client(cx),
            (Attention::Read, ClientSide::Fin) => {
                let action = self.ask(|state, at| state.client_end(at));
                self.act(Side::Client, action)?;
                Ok(true)
            }
        }
    }

    fn send(&mut self, cx: &mut TaskContext<'_>) -> bool {
        let flow = &mut self.flow;
        let Some(Sending { to, left }) = flow.sending else { return false };
        let Some(leg) = flow.legs.iter_mut().find(|leg| leg.origin == to) else {
            // The leg failed and was answered for: the rest of this message has nowhere to go.
            flow.up.take(left);
            self.sent_up(to, 0);
            return true;
        };
        match leg.poll_write(cx, &flow.up.unread()[..left]) {
            Poll::Pending => false,
            Poll::Ready(count) => {
                if to != Origin::App {
                    self.requests.written(&flow.up.unread()[..count]);
                }
                flow.last_heard = LastHeard::Leg;
                flow.up.take(count);
                self.sent_up(to, left - count);
                true
            }
        }
    }

    fn sent_up(&mut self, to: Origin, left: usize) {
        let flow = &mut self.flow;
        flow.sending = (left > 0).then_some(Sending { to, left });
        if left == 0 && flow.client == Attention::Read && !flow.up.is_empty() {
            flow.client = Attention::Ask;
        }
    }

    fn read_client(&mut self, cx: &mut TaskContext<'_>) -> Result<bool, Outcome> {
        let flow = &mut self.flow;
        if self.state.read_limit() == ReadLimit::Little {
            if flow.up.unread().len() > FREE {
                // What cannot go to the app before the developer has answered stays with the client.
                flow.client = Attention::Held;
                return Ok(false);
            }
            flow.up.read_little();
        }
        match self.client.poll_fill(cx, &mut flow.up) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(0)) => {
                flow.client_side = ClientSide::Fin;
                Ok(true)
            }
            Poll::Ready(Ok(count)) => {
                self.access.tally.received.fetch_add(count as u64, Ordering::Relaxed);
                flow.client = Attention::Ask;
                Ok(true)
            }
            Poll::Ready(Err(_)) => Err(Outcome::Over(End::Reset("client_reset"))),
        }
    }
}
