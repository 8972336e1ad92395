//! What two filters have in common, to tell their developers before a request does.
//!
//! Owns: the comparison. Must not: claim more than it can prove; what it cannot prove is [`Overlap::Possible`].
//! Called by: the agent's registry.

use super::compare::{CompiledCondition, Exclusion};
use super::{Filter, Mode};

/// How the requests of filter `a` lie to those of filter `b`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlap {
    /// The same requests.
    Same,
    /// Every request of `a` is one of `b`.
    Subset,
    /// Every request of `b` is one of `a`.
    Superset,
    /// Some request may be in both.
    Possible,
    /// No request is in both unless it has a header, a parameter, a cookie or a member more than once: `x-user: alice` and
    /// `x-user: bob`, as developers have them who share a pod.
    UnlessRepeated,
    /// No request is in both.
    Never,
}

/// Compares `a` with `b`.
#[must_use]
pub fn overlap(a: &Filter, b: &Filter) -> Overlap {
    let (a, b) = (alternatives(a), alternatives(b));
    match (within(&a, &b), within(&b, &a), apart(&a, &b)) {
        (true, true, _) => Overlap::Same,
        (true, false, _) => Overlap::Subset,
        (false, true, _) => Overlap::Superset,
        (false, false, Exclusion::No) => Overlap::Possible,
        (false, false, Exclusion::UnlessRepeated) => Overlap::UnlessRepeated,
        (false, false, Exclusion::Always) => Overlap::Never,
    }
}

/// A filter as alternatives, of which one is enough; all conditions of an alternative must hold.
fn alternatives(filter: &Filter) -> Vec<Vec<CompiledCondition<'_>>> {
    match filter.mode {
        Mode::All => vec![filter.compiled().collect()],
        Mode::Any => filter.compiled().map(|condition| vec![condition]).collect(),
    }
}

/// Whether every request of `a` is certainly one of `b`.
fn within(a: &[Vec<CompiledCondition<'_>>], b: &[Vec<CompiledCondition<'_>>]) -> bool {
    a.iter().all(|given| {
        b.iter().any(|wanted| wanted.iter().all(|wanted| given.iter().any(|given| given.implies(*wanted))))
    })
}

/// Whether no request can be in both.
fn apart(a: &[Vec<CompiledCondition<'_>>], b: &[Vec<CompiledCondition<'_>>]) -> Exclusion {
    let pairs = a.iter().flat_map(|a| b.iter().map(move |b| (a, b)));
    let strongest = |(a, b): (&Vec<CompiledCondition<'_>>, &Vec<CompiledCondition<'_>>)| {
        a.iter().flat_map(|a| b.iter().map(|b| a.apart(*b))).max().unwrap_or(Exclusion::No)
    };
    pairs.map(strongest).min().unwrap_or(Exclusion::No)
}

#[cfg(test)]
mod tests;
