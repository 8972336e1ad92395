//! Where lines end, found a block of bytes at a time and ahead of whoever reads the lines.
//!
//! Owns: the blocks. Must not: judge a byte. Called by: `Fields`, and `RequestHead` for the request line.

use crate::bytes::{ByteLanes, WIDTH, wide};

/// A carriage return and a line feed.
pub(super) const LINE_END: usize = 2;

/// The bytes that are looked at together.
const BLOCK: usize = 2 * WIDTH;

/// A block, and what is needed to see a line end whole that begins in it.
const WINDOW: usize = BLOCK + LINE_END;

/// A buffer that can be looked at in blocks.
#[derive(Clone, Copy)]
pub(super) struct ByteBlocks<'b> {
    /// [`WIDTH`] bytes and a line end, or more.
    pub(super) buf: &'b [u8],
    /// Its beginning, and zeros where it has no more.
    window: &'b [u8; WINDOW],
}

/// Hands `buf` to `read` as something that can be looked at in blocks: a tiny one has zeros behind it, which nothing in a
/// head is.
#[inline(always)]
pub(super) fn in_blocks<R>(buf: &[u8], read: impl FnOnce(ByteBlocks<'_>) -> R) -> R {
    match buf.first_chunk() {
        Some(window) => read(ByteBlocks { buf, window }),
        None => in_one_block(buf, read),
    }
}

#[inline(never)]
fn in_one_block<R>(buf: &[u8], read: impl FnOnce(ByteBlocks<'_>) -> R) -> R {
    let mut window = [0; WINDOW];
    let len = buf.len().min(WINDOW);
    window[..len].copy_from_slice(&buf[..len]);
    let covered = (WIDTH + LINE_END..=BLOCK).contains(&buf.len());
    read(ByteBlocks { buf: if covered { buf } else { &window }, window: &window })
}

/// The ends of lines from some place of a head on.
///
/// They are looked for in the whole of a block at once and do not wait for what is made of a line: that is where the
/// speed is.
pub(super) struct LineEnds<'b, L> {
    pub(super) lanes: L,
    pub(super) buf: &'b [u8],
    /// What is looked at ...
    window: &'b [u8; WINDOW],
    /// ... where it begins ...
    at: usize,
    /// ... which bytes of its block are left to be told of, bit n for byte `at + n` ...
    stops: u64,
    /// ... and where the next block begins, at the least.
    next: usize,
}

impl<'b, L: ByteLanes> LineEnds<'b, L> {
    /// The ends from `from` on.
    #[inline(always)]
    pub(super) fn new(lanes: L, ByteBlocks { buf, window }: ByteBlocks<'b>, from: usize) -> Self {
        let mut ends = Self { lanes, buf, window, at: 0, stops: 0, next: from };
        if from == 0 {
            ends.look(0);
            if buf.len() <= BLOCK {
                // Without the last two bytes, as everywhere.
                ends.stops = wide::short_value_stops(lanes, buf) & u64::MAX >> (WINDOW - buf.len());
            }
        }
        ends
    }

    /// Looks at the window, of which `seen` bytes were looked at before.
    #[inline(always)]
    fn look(&mut self, seen: usize) {
        let [block @ .., _, _] = self.window;
        self.stops = wide::value_stops(self.lanes, block) >> seen << seen;
        self.next = self.at + BLOCK;
    }

    /// The end of the line that begins at `line`, where the one before it ended: a carriage return and a line feed, and
    /// before them nothing that no value has. `Err`: up to where there is no such end and nothing that no value has.
    #[inline(always)]
    pub(super) fn next(&mut self, line: usize) -> Result<usize, usize> {
        while self.stops == 0 {
            // The line feed of the last line may be the first byte after its block.
            let from = self.next.max(line);
            // The last two bytes are in no block: if they end a line, then it is the empty one.
            let limit = self.buf.len() - LINE_END;
            if from >= limit {
                return Err(limit);
            }
            self.at = from.min(self.buf.len().saturating_sub(WINDOW));
            let Some(window) = self.buf.get(self.at..).and_then(<[u8]>::first_chunk) else { return Err(from) };
            self.window = window;
            self.look(from - self.at);
            if self.stops == 0 {
                self.next += wide::plain_values(self.lanes, self.buf, self.next);
            }
        }
        let ahead = self.stops.trailing_zeros() as usize;
        let end = self.at + ahead;
        if self.window[ahead..ahead + LINE_END] != *b"\r\n" {
            return Err(end);
        }
        // The carriage return, and the line feed if it is in this block.
        self.stops &= self.stops - 1;
        self.stops &= self.stops.wrapping_sub(1);
        Ok(end)
    }
}
