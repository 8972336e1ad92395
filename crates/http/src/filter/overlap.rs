//! What two filters have in common, to tell their developers before a request does.
//!
//! Owns: the comparison. Must not: claim more than it can prove; what it cannot prove is [`Overlap::Possible`].
//! Called by: the agent's registry.

use super::{Condition, Filter, Mode, Subject, Test};

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
    /// No request is in both.
    Never,
}

/// Compares `a` with `b`.
#[must_use]
pub fn overlap(a: &Filter, b: &Filter) -> Overlap {
    match (within(a, b), within(b, a)) {
        (true, true) => Overlap::Same,
        (true, false) => Overlap::Subset,
        (false, true) => Overlap::Superset,
        (false, false) if apart(a, b) => Overlap::Never,
        (false, false) => Overlap::Possible,
    }
}

/// Whether every request of `a` is certainly one of `b`.
fn within(a: &Filter, b: &Filter) -> bool {
    let implied = |given: &[Condition]| {
        let holds =
            |wanted: (&Condition, Option<&regex::bytes::Regex>)| given.iter().any(|given| implies(given, wanted));
        match b.mode {
            Mode::All => b.compiled().all(holds),
            Mode::Any => b.compiled().any(holds),
        }
    };
    match a.mode {
        Mode::All => implied(&a.conditions),
        Mode::Any => a.conditions.chunks(1).all(implied),
    }
}

fn implies(given: &Condition, (wanted, regex): (&Condition, Option<&regex::bytes::Regex>)) -> bool {
    if given == wanted {
        return true;
    }
    if given.negate || wanted.negate || !same(&given.subject, &wanted.subject) {
        return false;
    }
    match (&given.test, &wanted.test) {
        (_, Test::Present) => true,
        (Test::Exact(value), Test::Exact(wanted)) => value == wanted,
        (Test::Exact(value) | Test::Prefix(value), Test::Prefix(wanted)) => value.starts_with(wanted),
        (Test::Exact(value), Test::Regex(_)) => regex.is_some_and(|regex| regex.is_match(value)),
        (Test::Regex(pattern), Test::Regex(wanted)) => pattern == wanted,
        _ => false,
    }
}

/// Whether no request can be in both: only the method and the path occur exactly once in each request.
fn apart(a: &Filter, b: &Filter) -> bool {
    let clash = |a: &Condition, b: &Condition| {
        let once = matches!(a.subject, Subject::Path | Subject::Method) && a.subject == b.subject;
        once && !a.negate && !b.negate && never_both(&a.test, &b.test)
    };
    let single = |filter: &Filter| filter.mode == Mode::All || filter.conditions.len() == 1;
    single(a) && single(b) && a.conditions.iter().any(|a| b.conditions.iter().any(|b| clash(a, b)))
}

fn never_both(a: &Test, b: &Test) -> bool {
    match (a, b) {
        (Test::Exact(a), Test::Exact(b)) => a != b,
        (Test::Exact(value), Test::Prefix(prefix)) | (Test::Prefix(prefix), Test::Exact(value)) => {
            !value.starts_with(prefix)
        }
        (Test::Prefix(a), Test::Prefix(b)) => !a.starts_with(b) && !b.starts_with(a),
        _ => false,
    }
}

fn same(a: &Subject, b: &Subject) -> bool {
    match (a, b) {
        (Subject::Header(a), Subject::Header(b)) => a.eq_ignore_ascii_case(b),
        (a, b) => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(subject: Subject, test: Test) -> Condition {
        Condition { subject, test, negate: false }
    }

    fn user(test: Test) -> Condition {
        is(Subject::Header(b"X-User".into()), test)
    }

    fn all(conditions: &[Condition]) -> Filter {
        Filter::new(Mode::All, conditions.to_vec()).unwrap()
    }

    fn any(conditions: &[Condition]) -> Filter {
        Filter::new(Mode::Any, conditions.to_vec()).unwrap()
    }

    #[test]
    fn overlaps_are_told_as_far_as_they_are_certain() {
        let alice = || user(Test::Exact(b"alice".into()));
        let lower = is(Subject::Header(b"x-user".into()), Test::Exact(b"alice".into()));
        let bob = || user(Test::Exact(b"bob".into()));
        let al = || user(Test::Prefix(b"al".into()));
        let get = || is(Subject::Method, Test::Exact(b"GET".into()));
        let post = || is(Subject::Method, Test::Exact(b"POST".into()));
        let api = || is(Subject::Path, Test::Prefix(b"/api".into()));
        let v1 = || is(Subject::Path, Test::Exact(b"/api/v1".into()));
        let not_get = || Condition { negate: true, ..get() };
        for (a, b, expected) in [
            (all(&[alice()]), all(&[lower]), Overlap::Same),
            (all(&[alice()]), any(&[alice()]), Overlap::Same),
            (all(&[alice()]), all(&[bob()]), Overlap::Possible), // the header may occur twice
            (all(&[alice()]), all(&[al()]), Overlap::Subset),
            (all(&[user(Test::Present)]), all(&[al()]), Overlap::Superset),
            (all(&[alice()]), all(&[user(Test::Regex("a.*".into()))]), Overlap::Subset),
            (all(&[alice()]), all(&[user(Test::Regex("a".into()))]), Overlap::Possible),
            (all(&[alice(), get()]), all(&[alice()]), Overlap::Subset),
            (any(&[alice(), bob()]), all(&[alice()]), Overlap::Superset),
            (any(&[alice(), bob()]), any(&[bob(), alice()]), Overlap::Same),
            (all(&[get()]), all(&[post()]), Overlap::Never),
            (all(&[get(), alice()]), all(&[post(), alice()]), Overlap::Never),
            (any(&[get(), alice()]), all(&[post(), alice()]), Overlap::Superset),
            (any(&[get(), alice()]), all(&[post()]), Overlap::Possible),
            (all(&[v1()]), all(&[api()]), Overlap::Subset),
            (all(&[is(Subject::Path, Test::Prefix(b"/b".into()))]), all(&[api()]), Overlap::Never),
            (all(&[get()]), all(&[not_get()]), Overlap::Possible),
            (all(&[not_get()]), all(&[not_get()]), Overlap::Same),
            (Filter::everything(), all(&[get()]), Overlap::Superset),
            (any(&[get(), post()]), Filter::everything(), Overlap::Subset),
            (Filter::everything(), Filter::everything(), Overlap::Same),
        ] {
            assert_eq!(overlap(&a, &b), expected, "{a} / {b}");
        }
    }
}
