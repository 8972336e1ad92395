//! Frames of a header block that is not whole and for which the h2 crate gets no room: they are kept as they came.
//!
//! Owns: those bytes, and everything behind them, in their order, until the reader takes them. The compression of later
//! blocks depends on each one, so that none can be left out: once it is whole, the reader gets all of it, and its stream is
//! refused. Called by `frames`.

use bytes::BufMut;

use crate::memory::Share;

/// The most that is held of one block, in bytes: as long as a list of headers may be.
const MOST: usize = super::limits::HEADER_LIST as usize;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct HeldBlock {
    bytes: Vec<u8>,
    /// So many of the first bytes may be taken.
    ready: usize,
    /// The block is not whole.
    open: bool,
    share: Share,
}

impl HeldBlock {
    /// Whether what comes in belongs behind bytes that are here.
    pub(super) fn is_active(&self) -> bool {
        self.open || !self.bytes.is_empty()
    }

    /// A frame of so many bytes is to be held. False: there is no room.
    pub(super) fn hold(&mut self, frame: usize) -> bool {
        let bytes = self.bytes.len() + frame;
        self.open = bytes <= MOST && self.share.try_wait(bytes, bytes);
        if !self.open {
            self.release();
        }
        self.open
    }

    /// The block is whole, or is none: everything may be taken.
    pub(super) fn release(&mut self) {
        self.open = false;
        self.ready = self.bytes.len();
    }

    /// Puts bytes behind the others.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        if !self.open {
            self.ready = self.bytes.len();
        }
    }

    /// Gives the reader what may be taken and fits; how much that was.
    pub(super) fn give(&mut self, room: usize, to: &mut impl BufMut) -> usize {
        let count = self.ready.min(room);
        if count > 0 {
            to.put_slice(&self.bytes[..count]);
            self.bytes.drain(..count);
            self.ready -= count;
        }
        if count > 0 && self.bytes.is_empty() {
            *self = HeldBlock::default();
        }
        count
    }
}
