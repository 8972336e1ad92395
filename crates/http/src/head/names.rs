//! The header names that a table's filters ask for, looked up once for every field of every request.
//!
//! Owns: names to numbers, without case. Must not: cost more than a glance for a name nobody asks for.
//! Called by: `RequestHead` for each field, `Table` when it is compiled.

use std::sync::atomic::{AtomicU32, Ordering};

use super::NameInterest;
use crate::hash::{self, HashSlots};

/// A set of header names, numbered.
#[derive(Debug)]
pub struct Names {
    /// Which sets of names `RequestHead` saw: each set has another generation.
    generation: u32,
    /// These names ...
    own: NameInterest,
    /// ... and those that a head is read for anyway.
    interest: NameInterest,
    /// Lower case.
    names: Vec<Box<[u8]>>,
    slots: HashSlots,
    /// Whether none has a `~`, which is a folded `^`.
    plain: bool,
}

/// 0 and `u32::MAX` mean something else to `RequestHead`; 1 is the empty set's.
static NEXT_GENERATION: AtomicU32 = AtomicU32::new(2);

/// Names have numbers of 16 bits.
const MOST: usize = u16::MAX as usize - 1;

impl Names {
    /// No names at all.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            generation: 1,
            own: NameInterest::NONE,
            interest: NameInterest::FRAMING,
            names: Vec::new(),
            slots: HashSlots::default(),
            plain: true,
        }
    }

    /// The distinct names of `names`, numbered in their order; at most 65,534 of them, what comes later is left out.
    pub(crate) fn new<'a>(names: impl IntoIterator<Item = &'a [u8]>) -> Self {
        // A generation is used up once in each table; wrapping takes four billion of them, and then skips 0 to 1.
        let generation = NEXT_GENERATION
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
                Some(if last >= u32::MAX - 2 { 2 } else { last + 1 })
            })
            .unwrap_or(2);
        let mut set = Self { generation, ..Self::empty() };
        names.into_iter().for_each(|name| set.add(name));
        set
    }

    fn add(&mut self, name: &[u8]) {
        if self.names.len() == MOST || self.find(name).is_some() {
            return;
        }
        self.own = self.own.with(name);
        self.interest = self.interest.with(name);
        self.plain &= !name.contains(&b'~');
        self.names.push(name.to_ascii_lowercase().into());
        let Self { names, slots, .. } = self;
        slots.add(names.len() - 1, |number| hash::of_name(&names[number]));
    }

    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }

    /// A glance: `false` is certain.
    #[inline]
    pub(crate) fn may_hold(&self, name: &[u8]) -> bool {
        self.own.has(name)
    }

    /// Which fields of a head are to be looked at.
    #[inline]
    pub(crate) fn interest(&self) -> &NameInterest {
        &self.interest
    }

    /// The number of `name`, which is a token.
    pub(crate) fn find(&self, name: &[u8]) -> Option<u16> {
        let number = self.slots.find(hash::of_name(name), |number| {
            let Some(own) = self.names.get(number).filter(|own| own.len() == name.len()) else { return false };
            if self.plain { hash::same_name(own, name) } else { own.eq_ignore_ascii_case(name) }
        })?;
        u16::try_from(number).ok()
    }

    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }
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
