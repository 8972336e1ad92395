//! Closing the earlier connections of armed ports, a step at a time.

use std::time::Instant;

use super::{PodTable, find};
use crate::{
    answer::{GrantedReply, RequestRefusal},
    flush::{FlushResult, PortFlush},
};
use redir_config::PodName;
use redir_ipc::{RefusalCode, Reply};

/// A flush under way, and who asked for it.
#[derive(Debug)]
pub(super) struct PodFlush {
    pub(super) seq: u32,
    pub(super) pod: PodName,
    pub(super) flush: PortFlush,
}

impl PodTable {
    /// Begins to close earlier connections of an armed port; answered by [`PodTable::flush`] under this number.
    pub(crate) fn begin_flush(
        &mut self,
        seq: u32,
        name: PodName,
        port: u16,
        now: Instant,
    ) -> Result<(), RequestRefusal> {
        let armed = find(&mut self.armed, &name)?;
        if !armed.ports().contains(&port) {
            return Err(RequestRefusal::new(
                RefusalCode::NotArmed,
                format!("port {port} of {name} is not armed; arm it first"),
            ));
        }
        if self.flushes.len() >= MOST_FLUSHES {
            let sentence = "the agent closes the earlier connections of many ports already; try again in a minute";
            return Err(RequestRefusal::new(RefusalCode::Busy, sentence));
        }
        tracing::info!(pod = %name, port, "connections from before the intercept are closed once they are idle");
        self.flushes.push(PodFlush { seq, pod: name, flush: PortFlush::new(port, self.user, now) });
        Ok(())
    }

    /// When the next step of a flush is due.
    pub(crate) fn next_flush(&self) -> Option<Instant> {
        let next = self.flushes.iter().map(|one| one.flush.next()).min()?;
        Some(next.max(self.flush_again.unwrap_or(next)))
    }

    /// One step of one flush, if it is due; the answer once it is over. All of them together take a tenth of the
    /// guardian's time.
    pub(crate) fn flush(&mut self, now: Instant) -> Option<(u32, Result<GrantedReply, RequestRefusal>)> {
        if self.next_flush().is_none_or(|next| next > now) {
            return None;
        }
        let at = self.flushes.iter().enumerate().min_by_key(|(_, one)| one.flush.next()).map(|(at, _)| at)?;
        let PodFlush { pod, flush, .. } = &mut self.flushes[at];
        let outcome = match self.armed.get(pod) {
            Some(armed) if armed.ports().contains(&flush.port()) => armed.flush(&self.home, flush, now),
            // Disarmed, or released: the app's connections are nobody's business any more.
            Some(_) | None => Ok(Some(flush.so_far())),
        };
        self.flush_again = Some(Instant::now() + now.elapsed() * FLUSH_SHARE);
        let over = outcome.transpose()?;
        let PodFlush { seq, pod, .. } = self.flushes.swap_remove(at);
        let answer = over.map(|FlushResult { closed, left }| {
            tracing::info!(%pod, closed, left, "connections from before the intercept were closed");
            (Reply::Flushed { closed, left }, Vec::new())
        });
        Some((seq, answer))
    }
}

/// Flushes at a time. Each holds a few bytes for each connection of its port.
const MOST_FLUSHES: usize = 64;
/// A step is followed by a pause of so many times what it took.
const FLUSH_SHARE: u32 = 9;
