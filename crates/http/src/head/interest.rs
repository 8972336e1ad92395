//! Which field names are worth a second look.
//!
//! Owns: a glance at a name's length and first byte. Must not: say yes for good: `Facts` and `Names` compare.
//! Called by: `Fields` for each field; `Names`, which adds the filters' headers to the framing fields.

use super::facts::{FRAMING, SHORTEST_LOOKALIKE};

/// By a name's first byte, bit n for a length of n bytes (63: or more).
#[derive(Clone, Copy, Debug)]
pub(crate) struct NameInterest([u64; NameInterest::INITIALS]);

const LONGEST: usize = 63;

impl NameInterest {
    /// No token begins with another byte.
    const INITIALS: usize = 0x80;

    /// No name at all.
    pub(crate) const NONE: Self = Self([0; Self::INITIALS]);

    /// What `Facts` looks at: the framing fields, and every name that may be a lookalike of them: it begins with punctuation
    /// or with one of their letters.
    pub(crate) const FRAMING: Self = {
        let mut interest = Self::NONE;
        let mut n = 0;
        while n < FRAMING.len() {
            interest = interest.with(FRAMING[n]);
            n += 1;
        }
        let mut initial = 0u8;
        while (initial as usize) < Self::INITIALS {
            if !initial.is_ascii_alphanumeric() || matches!(initial, b'c' | b'C' | b't' | b'T') {
                interest.0[initial as usize] |= u64::MAX << SHORTEST_LOOKALIKE;
            }
            initial += 1;
        }
        interest
    };

    /// These names, and `name`, in any case.
    pub(crate) const fn with(mut self, name: &[u8]) -> Self {
        if let Some(&first) = name.first() {
            let bit = 1 << if name.len() < LONGEST { name.len() } else { LONGEST };
            self.0[(first.to_ascii_lowercase() & 0x7f) as usize] |= bit;
            self.0[(first.to_ascii_uppercase() & 0x7f) as usize] |= bit;
        }
        self
    }

    /// `false` is certain, if `name` is a token.
    #[inline]
    pub(crate) fn has(&self, name: &[u8]) -> bool {
        let first = name.first().copied().unwrap_or_default();
        self.0[usize::from(first & 0x7f)] >> name.len().min(LONGEST) & 1 != 0
    }
}
