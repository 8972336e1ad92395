//! Finding bytes among those that the filters' authors chose.
//!
//! Owns: the hash of names (without case) and of values, and where it leads ([`HashSlots`]). Must not: be used for what
//! clients can add to: the hash has no key. Called by: `Names`, `SubjectIndex`.

use crate::bytes::{ends, folded};

/// Spreads a word over 64 bits: 2^64 divided by the golden ratio.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// What two words hold (see [`ends`]).
const SHORT: usize = 16;

/// The same for every case of a name.
#[inline]
pub(crate) fn of_name(name: &[u8]) -> u64 {
    hash(name, folded)
}

/// Of a value, or the beginning of one.
#[inline]
pub(crate) fn of_value(value: &[u8]) -> u64 {
    hash(value, |word| word)
}

#[inline]
fn hash(bytes: &[u8], fold: impl Fn(u64) -> u64 + Copy) -> u64 {
    let (first, last) = ends(bytes).unwrap_or_else(|| (tiny(bytes), 0));
    let mut hash = mix(bytes.len() as u64, fold(first));
    if bytes.len() > SHORT {
        hash = middle(hash, bytes, fold);
    }
    mix(hash, fold(last))
}

#[inline]
fn mix(hash: u64, word: u64) -> u64 {
    (hash.rotate_left(5) ^ word).wrapping_mul(SPREAD)
}

/// Fewer than four bytes.
fn tiny(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

#[inline(never)]
fn middle(hash: u64, bytes: &[u8], fold: impl Fn(u64) -> u64) -> u64 {
    let words = bytes.as_chunks().0.iter().skip(1).map(|eight| u64::from_le_bytes(*eight));
    words.fold(hash, |hash, word| mix(hash, fold(word)))
}

/// Whether two tokens of the same length are the same but for the case of letters, of which `lower` has none in upper
/// case, and no `~`.
#[inline]
pub(crate) fn same_name(lower: &[u8], name: &[u8]) -> bool {
    match (ends(lower), ends(name)) {
        (Some((a, b)), Some((c, d))) if lower.len() <= SHORT => (folded(a), folded(b)) == (folded(c), folded(d)),
        _ => lower.eq_ignore_ascii_case(name),
    }
}

/// Whether two values are the same.
#[inline]
pub(crate) fn same_value(value: &[u8], other: &[u8]) -> bool {
    match (ends(value), ends(other)) {
        // Without a call: most values are as short as this.
        (Some(value_ends), Some(other_ends)) if value.len() <= SHORT => {
            value.len() == other.len() && value_ends == other_ends
        }
        _ => value == other,
    }
}

/// Open addressing over things that are kept elsewhere and have numbers.
#[derive(Debug, Default)]
pub(crate) struct HashSlots {
    /// At most half full: numbers, plus one; 0 is free.
    slots: Box<[u32]>,
}

impl HashSlots {
    /// The number with this `hash` that `is` it.
    #[inline]
    pub(crate) fn find(&self, hash: u64, is: impl Fn(usize) -> bool) -> Option<usize> {
        let mask = self.slots.len().checked_sub(1)?;
        let mut at = place(hash) & mask;
        loop {
            let number = self.slots.get(at)?.checked_sub(1)? as usize;
            if is(number) {
                return Some(number);
            }
            at = (at + 1) & mask;
        }
    }

    /// Adds the next `number`: those below it are here.
    pub(crate) fn add(&mut self, number: usize, hash_of: impl Fn(usize) -> u64) {
        if 2 * number < self.slots.len() {
            return self.put(number, hash_of(number));
        }
        self.slots = vec![0; (4 * number).next_power_of_two().max(4)].into();
        for number in 0..=number {
            self.put(number, hash_of(number));
        }
    }

    fn put(&mut self, number: usize, hash: u64) {
        let mask = self.slots.len() - 1;
        let mut at = place(hash) & mask;
        while self.slots[at] != 0 {
            at = (at + 1) & mask;
        }
        self.slots[at] = u32::try_from(number + 1).expect("there are fewer filters than that");
    }
}

/// The upper half, which a product mixes best.
#[inline]
fn place(hash: u64) -> usize {
    usize::try_from(hash >> 32).unwrap_or_default()
}
