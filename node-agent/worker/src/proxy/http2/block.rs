//! A header block that is not whole: it lies in the h2 crate, decoded as far as it has come.
//!
//! Owns: what it counts as, since when it has been waited for, and whether more of it may lie there. What may not is kept as
//! it came (`held`), which is a hundredth of that, until the block is whole; its stream is then refused. Called by `guard`,
//! and before a connection is handed over.

use tokio::time::Instant;

use super::{
    frames::{CONTINUATION, HEAD, HEADERS, Head},
    limits,
};
use crate::memory::{Purpose, Share};

/// One byte of a block can name a field anew, which then takes so many bytes.
const EXPANDED: usize = 100;
/// The same of all fields of the longest list, which have 33 bytes there at least.
const MOST: usize = limits::HEADER_LIST as usize / 33 * EXPANDED;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct OpenBlock {
    len: usize,
    began: Option<Instant>,
    /// There was no room for a part of it: that, and what follows, is held as it came.
    held: bool,
    share: Share,
}

impl OpenBlock {
    /// A frame begins. True: it belongs to a block for which there is no memory, and is to be held.
    pub(super) fn frame(&mut self, head: &Head, now: Instant) -> bool {
        if !matches!(head.kind, HEADERS | CONTINUATION) {
            return false;
        }
        if !head.is_continued() {
            let held = self.held;
            if self.began.is_some() {
                *self = OpenBlock::default();
            }
            return held;
        }
        self.began.get_or_insert(now);
        self.len += head.len;
        // What is held as it came never becomes more before its end, also when there is room again.
        if !self.held {
            self.held = !self.share.try_set((self.len * EXPANDED).min(MOST), Purpose::LongMessage);
        }
        self.held
    }

    /// When the block began that is not whole, if there is one.
    pub(super) fn began(&self) -> Option<Instant> {
        self.began
    }
}

/// Whether there is memory to wait for the rest of a header block, if one is open behind these frames of a client.
pub(in super::super) fn has_room(mut frames: &[u8]) -> bool {
    let (mut block, now) = (OpenBlock::default(), Instant::now());
    while let Some((head, rest)) = frames.split_first_chunk::<HEAD>() {
        let head = Head::parse(*head);
        if block.frame(&head, now) {
            return false;
        }
        frames = rest.get(head.len..).unwrap_or_default();
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory;

    #[test]
    fn what_is_held_as_it_came_costs_no_more_when_there_is_room_again() {
        let test = "proxy::http2::block::tests::what_is_held_as_it_came_costs_no_more_when_there_is_room_again";
        if !memory::tests::alone(test) {
            return;
        }
        let part = |kind| Head::parse([0, 1, 0, kind, 0, 0, 0, 0, 1]);
        let mut block = OpenBlock::default();
        let all = memory::tests::exhaust(Purpose::LongMessage);
        assert!(block.frame(&part(HEADERS), Instant::now()), "there is no room");
        drop(all);
        assert!(block.frame(&part(CONTINUATION), Instant::now()), "what follows belongs behind it");
        assert_eq!(memory::held(), 0);
    }
}
