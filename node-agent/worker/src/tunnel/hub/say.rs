//! How messages get to sessions: as far as there is memory for them.
//!
//! Owns: what becomes of a message for which there is none. An answer becomes a refusal that says so; how an intercept stands is
//! told later, as it stands then.

use std::time::{Duration, Instant};

use redir_wire::{InterceptState, Refused, RefusedCode, ToDeveloper};

use crate::{registry::SessionId, tunnel_handle::backlog::Waiting};

use super::{super::session::SessionCommand, TunnelHub};

impl TunnelHub {
    /// Answers a question.
    pub(super) fn say(&mut self, session: SessionId, answers: u32, message: ToDeveloper) {
        let (message, held) = match self.hold(session, &message) {
            Some(held) => (message, Some(held)),
            None => {
                let refused = ToDeveloper::Refused(no_memory());
                let held = self.hold(session, &refused);
                (refused, held)
            }
        };
        match held {
            Some(held) => self.queue(session, SessionCommand::Say(answers, message, Some(held))),
            // All that each may have waits: it is not read.
            None => self.drop_session(session),
        }
    }

    /// Tells a developer how an intercept stands now.
    pub(super) fn tell(&mut self, session: SessionId, state: InterceptState) {
        let message = ToDeveloper::Intercept(state.clone());
        let Some(held) = self.hold(session, &message) else {
            self.tell_again = Some(Instant::now() + TELL_AGAIN);
            return;
        };
        if let Some(session) = self.sessions.get_mut(&session) {
            session.told.insert(state.id, state);
        }
        self.queue(session, SessionCommand::Say(0, message, Some(held)));
    }

    /// Room for a message to a session that is there.
    pub(super) fn hold(&self, session: SessionId, message: &ToDeveloper) -> Option<Waiting> {
        let session = self.sessions.get(&session)?;
        session.joined.handle.backlog().hold(message.encoded_len() * IN_MEMORY)
    }

    /// Queues it; a session whose queue is full does not keep up and is closed.
    pub(super) fn queue(&mut self, session: SessionId, command: SessionCommand) {
        let Some(to) = self.sessions.get(&session) else { return };
        if to.joined.outbox.try_send(command).is_err() {
            self.drop_session(session);
        }
    }

    fn drop_session(&mut self, session: SessionId) {
        // Dropping the outbox tells the session.
        let Some(dropped) = self.sessions.remove(&session) else { return };
        dropped.joined.handle.end();
        self.registry.end_session(session, Instant::now());
        self.stale = true;
    }
}

/// Instead of an answer.
pub(super) fn no_memory() -> Refused {
    let sentence = "the agent has no memory for the answer now; ask again in a moment".to_owned();
    Refused { code: RefusedCode::NoMemory, sentence }
}

/// A message's texts and lists take so much more memory than as it is sent.
const IN_MEMORY: usize = 2;
/// How soon it is looked again whether there is memory for what developers have not heard.
const TELL_AGAIN: Duration = Duration::from_millis(500);
