//! What is known of the client's side of a connection while its frames go by.
//!
//! Owns: the flood's buckets and the bytes counted; shared between the transport, which sees frames, and `serving`,
//! which sees streams. Must not: end anything; `serving` does.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use tokio::time::Instant;

use super::{
    block::OpenBlock,
    flood::{self, Flood, Flooded},
    frames::{CONTINUATION, DATA, Fate, HEADERS, Head, Watch},
    wire::Passing,
};

/// Empty DATA frames that reach the h2 crate, which ends a connection after a hundred; enough for it to judge whether
/// they may be there at all.
const IDLE_DATA_SEEN: u32 = 50;

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Guard(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Nothing is read until `serving` says so.
    held: AtomicBool,
    /// Nothing is read until the task's next turn: the h2 crate reads on with each stream that is accepted, and what was
    /// read is to be sent, and its memory free, before more is.
    paused: AtomicBool,
    /// Frames that carried something to the client, and are not told to the flood's buckets yet.
    worked: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    /// Bytes that the h2 crate was given for the client and has not written, as far as is known from here.
    unsent: AtomicUsize,
    /// The client takes nothing at the moment.
    blocked: AtomicBool,
    /// How often the connection's task has run.
    turn: AtomicU64,
}

struct State {
    flood: Flood,
    flooded: Option<Flooded>,
    /// The newest stream's number, and how many the client has opened.
    newest: u32,
    opened: u64,
    idle_data: u32,
    /// Bytes of header blocks as they came, and of the long lists that they were decoded to.
    blocks: u64,
    decoded: u64,
    /// Between HEADERS and the last of its CONTINUATIONs nothing else may be: not even what says nothing is taken out.
    in_block: bool,
    /// A header block that is not whole.
    block: OpenBlock,
    /// The newest stream whose header block had no room in memory.
    scarce_stream: Option<u32>,
    now: Instant,
}

impl Guard {
    /// Of a client that has sent nothing.
    pub(super) fn new() -> Self {
        let now = Instant::now();
        let state = State {
            flood: Flood::new(now),
            flooded: None,
            newest: 0,
            opened: 0,
            idle_data: 0,
            blocks: 0,
            decoded: 0,
            in_block: false,
            block: OpenBlock::default(),
            scarce_stream: None,
            now,
        };
        Guard(Arc::new(Shared {
            state: Mutex::new(state),
            held: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            worked: AtomicU64::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            unsent: AtomicUsize::new(0),
            blocked: AtomicBool::new(false),
            turn: AtomicU64::new(0),
        }))
    }

    /// What the client sends too much of.
    pub(super) fn flooded(&self) -> Option<Flooded> {
        self.lock().flooded
    }

    /// Streams that the client has opened.
    pub(super) fn opened(&self) -> u64 {
        self.lock().opened
    }

    /// So many streams were opened and could not be taken.
    pub(super) fn bad(&self, streams: u32) {
        let mut state = self.lock();
        if let Err(flooded) = state.flood.bad(streams, Instant::now()) {
            state.flooded.get_or_insert(flooded);
        }
    }

    /// A long list of headers was decoded, of so many bytes.
    pub(super) fn decoded(&self, list: usize) {
        let mut state = self.lock();
        state.decoded += list as u64;
        if let Err(flooded) = flood::expansion(state.decoded, state.blocks) {
            state.flooded.get_or_insert(flooded);
        }
    }

    /// So many frames with something in them go to the client.
    pub(super) fn worked(&self, frames: u32) {
        self.0.worked.fetch_add(u64::from(frames), Ordering::Relaxed);
    }

    /// The connection's task runs again.
    pub(super) fn next_turn(&self) {
        self.0.paused.store(false, Ordering::Relaxed);
        self.0.turn.fetch_add(1, Ordering::Relaxed);
    }

    /// Another number in each of the task's turns; in between, what was to be written was written if it could be.
    pub(super) fn turn(&self) -> u64 {
        self.0.turn.load(Ordering::Relaxed)
    }

    /// Whether the client is read.
    pub(super) fn hold(&self, held: bool) {
        self.0.held.store(held, Ordering::Relaxed);
    }

    /// Bytes from and to the client since this was asked last.
    pub(super) fn take_bytes(&self) -> (u64, u64) {
        (self.0.received.swap(0, Ordering::Relaxed), self.0.sent.swap(0, Ordering::Relaxed))
    }

    /// When a header block began that is not whole, if there is one.
    pub(super) fn block_began(&self) -> Option<Instant> {
        self.lock().block.began()
    }

    /// Whether there was no memory to wait for this stream's header block.
    pub(super) fn was_scarce(&self, stream: u32) -> bool {
        self.lock().scarce_stream == Some(stream)
    }

    /// The connection is to end for this.
    pub(super) fn flood(&self, what: Flooded) {
        self.lock().flooded.get_or_insert(what);
    }

    /// The h2 crate was given so many bytes for the client.
    pub(super) fn given(&self, bytes: usize) {
        self.0.unsent.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The h2 crate has written what it can: nothing is left unless the client takes nothing.
    pub(super) fn settle(&self) {
        if !self.0.blocked.load(Ordering::Relaxed) {
            self.0.unsent.store(0, Ordering::Relaxed);
        }
    }

    /// What of that it may not have written yet.
    pub(super) fn unsent(&self) -> usize {
        self.0.unsent.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in it can be half done.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Passing for Guard {
    fn may_read(&mut self) -> bool {
        if self.0.held.load(Ordering::Relaxed) || self.0.paused.load(Ordering::Relaxed) {
            return false;
        }
        let worked = self.0.worked.swap(0, Ordering::Relaxed);
        let mut state = self.lock();
        state.flood.work(u32::try_from(worked).unwrap_or(u32::MAX));
        state.now = Instant::now();
        // `serving` ends the connection; until then nothing more is taken.
        state.flooded.is_none()
    }

    fn turn_is_over(&mut self) {
        self.0.paused.store(true, Ordering::Relaxed);
    }

    fn received(&mut self, bytes: usize) {
        self.0.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn sent(&mut self, bytes: usize) {
        self.0.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        // Heads and frames' own bytes are written as well: it is never more than there is. One task does both.
        let unsent = self.unsent().saturating_sub(bytes);
        self.0.unsent.store(unsent, Ordering::Relaxed);
    }

    fn blocked(&mut self, blocked: bool) {
        self.0.blocked.store(blocked, Ordering::Relaxed);
    }
}

impl Watch for Guard {
    fn frame(&mut self, head: &Head) -> Fate {
        let mut state = self.lock();
        let now = state.now;
        if let Err(flooded) = state.flood.frame(head, now) {
            state.flooded.get_or_insert(flooded);
        }
        let held = state.block.frame(head, now);
        if held {
            state.scarce_stream = Some(head.stream);
        }
        if head.kind == HEADERS && head.stream > state.newest {
            state.newest = head.stream;
            state.opened += 1;
        }
        if matches!(head.kind, HEADERS | CONTINUATION) {
            state.blocks += head.len as u64;
        }
        let in_block = std::mem::replace(&mut state.in_block, head.is_continued());
        if head.kind == DATA && head.is_idle_data() && !in_block {
            state.idle_data = state.idle_data.saturating_add(1);
            if state.idle_data > IDLE_DATA_SEEN {
                return Fate::Drop;
            }
        }
        if held { Fate::Hold } else { Fate::Keep }
    }

    fn settings(&mut self, _: &[u8]) {}

    fn not_held(&mut self) {
        self.flood(Flooded::Scarce);
    }
}
