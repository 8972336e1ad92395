//! The header names that a table's filters ask for, looked up once for every field of every request.
//!
//! Owns: names to numbers, without case. Must not: cost more than a glance for a name nobody asks for.
//! Called by: `RequestHead` for each field, `Table` when it is compiled.

use std::sync::atomic::{AtomicU32, Ordering};

/// A set of header names, numbered.
#[derive(Debug)]
pub struct Names {
    /// Which sets of names `RequestHead` saw: each set has another generation.
    generation: u32,
    /// Bit n: some name has n bytes (63: or more) ...
    lengths: u64,
    /// ... and bit n: some name's first byte ends in these five bits.
    initials: u32,
    /// Lower case.
    names: Vec<Box<[u8]>>,
    /// Open addressing, at most half full: numbers in `names`, plus one; 0 is free.
    slots: Box<[u16]>,
}

/// 0 and `u32::MAX` mean something else to `RequestHead`; 1 is the empty set's.
static NEXT_GENERATION: AtomicU32 = AtomicU32::new(2);

impl Names {
    /// No names at all.
    #[must_use]
    pub fn empty() -> Self {
        Self { generation: 1, lengths: 0, initials: 0, names: Vec::new(), slots: Box::default() }
    }

    /// The distinct names of `names`, numbered in their order; at most 65,534 of them, what comes later is left out.
    pub(super) fn new<'a>(names: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut distinct: Vec<Box<[u8]>> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for name in names {
            let name: Box<[u8]> = name.to_ascii_lowercase().into();
            if distinct.len() < usize::from(u16::MAX - 1) && seen.insert(name.clone()) {
                distinct.push(name);
            }
        }
        // A generation is used up once in each table; wrapping takes four billion of them, and then skips 0 to 1.
        let generation = NEXT_GENERATION
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
                Some(if last >= u32::MAX - 2 { 2 } else { last + 1 })
            })
            .unwrap_or(2);
        let mut built = Self { generation, lengths: 0, initials: 0, names: distinct, slots: Box::default() };
        built.index();
        built
    }

    fn index(&mut self) {
        let mut slots = vec![0u16; (self.names.len() * 2).next_power_of_two().max(4)];
        for (number, name) in (1u16..).zip(&self.names) {
            self.lengths |= length_bit(name);
            self.initials |= initial_bit(name);
            let mut at = hash(name) & (slots.len() - 1);
            while slots[at] != 0 {
                at = (at + 1) & (slots.len() - 1);
            }
            slots[at] = number;
        }
        self.slots = slots.into();
    }

    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }

    /// A glance: `false` is certain.
    #[inline]
    pub(crate) fn may_hold(&self, name: &[u8]) -> bool {
        self.lengths & length_bit(name) != 0 && self.initials & initial_bit(name) != 0
    }

    /// The number of `name`.
    pub(crate) fn find(&self, name: &[u8]) -> Option<u16> {
        let mask = self.slots.len().checked_sub(1)?;
        let mut at = hash(name) & mask;
        loop {
            let number = self.slots.get(at)?.checked_sub(1)?;
            if self.names.get(usize::from(number))?.eq_ignore_ascii_case(name) {
                return Some(number);
            }
            at = (at + 1) & mask;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }
}

fn length_bit(name: &[u8]) -> u64 {
    1 << name.len().min(63)
}

fn initial_bit(name: &[u8]) -> u32 {
    1 << (name.first().copied().unwrap_or_default() & 31)
}

/// The same for every case. Only names of filters are stored, so a client cannot make lookups slow.
fn hash(name: &[u8]) -> usize {
    const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = name.len() as u64;
    for eight in name.chunks(8) {
        let mut word = [0u8; 8];
        word.iter_mut().zip(eight).for_each(|(slot, byte)| *slot = byte | 0x20);
        hash = (hash.rotate_left(5) ^ u64::from_le_bytes(word)).wrapping_mul(MIX);
    }
    usize::try_from(hash >> 40).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_any_case_and_only_they() {
        let names: Vec<String> = (0..1000).map(|n| format!("X-Name-{n}")).collect();
        let set = Names::new(names.iter().map(String::as_bytes).chain([&b"x-name-7"[..]]));
        assert_eq!(set.len(), 1000);
        for (number, name) in names.iter().enumerate() {
            for name in [name.to_lowercase(), name.to_uppercase(), name.clone()] {
                assert!(set.may_hold(name.as_bytes()));
                assert_eq!(set.find(name.as_bytes()), Some(u16::try_from(number).unwrap()));
            }
        }
        for name in ["x-name-1000", "x-name", "", "y-name-1", "x-name-\u{1}"] {
            assert_eq!(set.find(name.as_bytes()), None);
        }
    }

    #[test]
    fn the_empty_set_holds_nothing() {
        assert!(!Names::empty().may_hold(b"host"));
        assert_eq!(Names::empty().find(b"host"), None);
        assert_ne!(Names::empty().generation(), Names::new([]).generation());
    }
}
