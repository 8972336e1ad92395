//! The occurrences of the filters' headers in one head.
//!
//! Owns: their places. Must not: hold values (the buffer does), or grow without bound.
//! Called by: `RequestHead` while it reads, `filter` when it decides.

use crate::Ambiguity;

/// Occurrences kept without allocating: one header a filter, and a handful of filters' names, is the common case.
const INLINE: usize = 5;

/// Occurrences looked at in one head: bounds what a hostile head can cost; above, the app decides.
const MAX: usize = 64;

/// One occurrence: 20 bits of start and of length (a head has 18), then the name's number.
#[derive(Clone, Copy, Debug, Default)]
struct Occurrence(u64);

const BITS: u32 = 20;
const MASK: u64 = (1 << BITS) - 1;

impl Occurrence {
    fn new(name: u16, start: usize, end: usize) -> Self {
        Self((u64::from(name) << (2 * BITS)) | (((end - start) as u64) << BITS) | start as u64)
    }

    #[expect(clippy::cast_possible_truncation, reason = "20 bits fit usize, and 16 bits were put on top")]
    fn parts(self) -> (u16, usize, usize) {
        let (start, len) = ((self.0 & MASK) as usize, ((self.0 >> BITS) & MASK) as usize);
        ((self.0 >> (2 * BITS)) as u16, start, start + len)
    }
}

/// Where the filters' headers occur.
#[derive(Clone, Debug, Default)]
pub(crate) struct FoundFields {
    inline: [Occurrence; INLINE],
    len: u8,
    /// What the inline places do not hold: rare, and freed with the message.
    more: Option<Box<[Occurrence; MAX - INLINE]>>,
}

impl FoundFields {
    pub(crate) fn clear(&mut self) {
        self.len = 0;
        self.more = None;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds the occurrence of header `name` whose value is `start..end` of the head.
    pub(crate) fn push(&mut self, name: u16, start: usize, end: usize) -> Result<(), Ambiguity> {
        let index = usize::from(self.len);
        let slot = match self.inline.get_mut(index) {
            Some(slot) => slot,
            None => self
                .more
                .get_or_insert_with(|| Box::new([Occurrence::default(); MAX - INLINE]))
                .get_mut(index - INLINE)
                .ok_or(Ambiguity::TooManyFields)?,
        };
        *slot = Occurrence::new(name, start, end);
        self.len += 1;
        Ok(())
    }

    /// Every occurrence in order: the name's number and the value.
    pub(crate) fn iter<'a>(&'a self, buf: &'a [u8]) -> impl Iterator<Item = (u16, &'a [u8])> {
        let len = usize::from(self.len);
        let more = self.more.as_deref().map_or(&[][..], |more| &more[..]);
        self.inline.iter().chain(more).take(len).map(|place| {
            let (name, start, end) = place.parts();
            (name, buf.get(start..end).unwrap_or_default())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_order_and_numbers_past_the_inline_places() {
        let buf = vec![b'x'; 300];
        let mut found = FoundFields::default();
        for n in 0..MAX {
            found.push(u16::try_from(n).unwrap() * 1000, n, n + 2 * n).unwrap();
        }
        assert_eq!(found.push(0, 0, 1), Err(Ambiguity::TooManyFields));
        let seen: Vec<_> = found.iter(&buf).map(|(name, value)| (usize::from(name), value.len())).collect();
        assert_eq!(seen, (0..MAX).map(|n| (n * 1000, 2 * n)).collect::<Vec<_>>());
        found.clear();
        assert_eq!(found.iter(&buf).count(), 0);
    }

    #[test]
    fn places_hold_the_largest_head() {
        let place = Occurrence::new(u16::MAX, super::super::MAX_HEAD - 1, 2 * super::super::MAX_HEAD - 2);
        assert_eq!(place.parts(), (u16::MAX, super::super::MAX_HEAD - 1, 2 * super::super::MAX_HEAD - 2));
    }
}
