//! A header block that is not whole: it lies in the h2 crate, decoded as far as it has come.
//!
//! Owns: what it counts as, and since when it has been waited for. Called by `guard`.

use tokio::time::Instant;

use super::{
    flood::Flooded,
    frames::{CONTINUATION, HEADERS, Head},
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
    share: Share,
}

impl OpenBlock {
    /// A frame begins. `Err`: there is no memory to wait for the block that it belongs to.
    pub(super) fn frame(&mut self, head: &Head, now: Instant) -> Result<(), Flooded> {
        if !matches!(head.kind, HEADERS | CONTINUATION) {
            return Ok(());
        }
        if !head.is_continued() {
            if self.began.is_some() {
                *self = OpenBlock::default();
            }
            return Ok(());
        }
        self.began.get_or_insert(now);
        self.len += head.len;
        let bytes = (self.len * EXPANDED).min(MOST);
        if self.share.try_set(bytes, Purpose::LongMessage) { Ok(()) } else { Err(Flooded::Scarce) }
    }

    /// When the block began that is not whole, if there is one.
    pub(super) fn began(&self) -> Option<Instant> {
        self.began
    }
}
