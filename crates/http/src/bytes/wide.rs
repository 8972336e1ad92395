//! The scans of many bytes at a time, whatever instructions do them.
//!
//! Owns: how a buffer is taken apart for [`ByteLanes`]. Must not: need `unsafe`, or look at a byte before `from`, except to
//! fill a block. Called by: `bytes`, and the loops of `head`.

use super::{ByteLanes, ByteWork, TARGET, VALUE, WIDTH, scan};

#[inline(always)]
fn chunk<const N: usize>(buf: &[u8], at: usize) -> Option<&[u8; N]> {
    let bytes = buf.get(at..)?.first_chunk()?;
    #[cfg(test)]
    super::looked::at(N);
    Some(bytes)
}

/// `N` bytes of which the one at `at`, before the end, has the second index: where less than `N` are left they begin earlier.
/// `None` if there are not `N` in all.
#[inline(always)]
fn window<const N: usize>(buf: &[u8], at: usize) -> Option<(&[u8; N], usize)> {
    debug_assert!(at < buf.len());
    let start = buf.len().checked_sub(N)?.min(at);
    chunk(buf, start).map(|window| (window, at - start))
}

/// Bit n: byte n cannot be in a field value.
#[inline(always)]
pub(crate) fn value_stops<L: ByteLanes>(lanes: L, block: &[u8; 2 * WIDTH]) -> u64 {
    #[cfg(test)]
    super::looked::at(block.len());
    let [low, high] = block.as_chunks().0 else { return u64::MAX };
    u64::from(lanes.not_value(low)) | u64::from(lanes.not_value(high)) << WIDTH
}

/// The same of all of `buf`, which has [`WIDTH`] to twice as many bytes.
#[inline(always)]
pub(crate) fn short_value_stops<L: ByteLanes>(lanes: L, buf: &[u8]) -> u64 {
    #[cfg(test)]
    super::looked::at(buf.len());
    // Two halves that overlap.
    let (Some(low), Some(high)) = (buf.first_chunk(), buf.last_chunk()) else { return u64::MAX };
    u64::from(lanes.not_value(low)) | u64::from(lanes.not_value(high)) << (buf.len() - WIDTH)
}

/// From `from` on, how many bytes are certainly in a field value.
#[inline(always)]
pub(crate) fn plain_values<L: ByteLanes>(lanes: L, buf: &[u8], from: usize) -> usize {
    let mut end = from;
    while let Some(run) = chunk(buf, end) {
        if !lanes.all_plain(run) {
            break;
        }
        end += 4 * WIDTH;
    }
    end - from
}

/// The field name at `at`, if it is a token of 1 to [`WIDTH`] bytes before a colon, and can be told at a glance.
#[inline(always)]
pub(crate) fn short_name<L: ByteLanes>(lanes: L, buf: &[u8], at: usize) -> Option<&[u8]> {
    let (window, skip) = window::<{ WIDTH + 1 }>(buf, at)?;
    let stops = lanes.not_token(window.first_chunk()?) >> skip;
    let len = stops.trailing_zeros() as usize;
    if len == 0 || window.get(skip + len) != Some(&b':') { None } else { window.get(skip..skip + len) }
}

/// The end of the field value that goes on at `from`.
pub(crate) struct ValueEnd<'b> {
    pub(crate) buf: &'b [u8],
    pub(crate) from: usize,
}

impl ByteWork for ValueEnd<'_> {
    type Output = usize;

    #[inline(always)]
    fn with<L: ByteLanes>(self, lanes: L) -> usize {
        let mut at = self.from;
        while let Some(bytes) = chunk(self.buf, at) {
            let stops = lanes.not_value(bytes);
            if stops != 0 {
                return at + stops.trailing_zeros() as usize;
            }
            at += WIDTH;
        }
        scan(self.buf, at, VALUE)
    }
}

/// The end of the request target that goes on at `from`, and the first question mark on the way (0: none).
pub(crate) struct TargetEnd<'b> {
    pub(crate) buf: &'b [u8],
    pub(crate) from: usize,
}

impl ByteWork for TargetEnd<'_> {
    type Output = (usize, usize);

    #[inline(always)]
    fn with<L: ByteLanes>(self, lanes: L) -> (usize, usize) {
        let (buf, mut at, mut mark) = (self.buf, self.from, 0);
        while at < buf.len()
            && let Some((bytes, skip)) = window(buf, at)
        {
            let (stops, marks) = lanes.not_target(bytes);
            let (stops, marks) = (stops >> skip, marks >> skip);
            // Up to the lowest bit of the stops.
            if mark == 0 && marks & (stops ^ stops.wrapping_sub(1)) != 0 {
                mark = at + marks.trailing_zeros() as usize;
            }
            if stops != 0 {
                return (at + stops.trailing_zeros() as usize, mark);
            }
            at += WIDTH - skip;
        }
        let end = scan(buf, at, TARGET);
        if mark == 0 {
            let rest = buf.get(at..end).unwrap_or_default();
            mark = rest.iter().position(|&byte| byte == b'?').map_or(0, |ahead| at + ahead);
        }
        (end, mark)
    }
}
