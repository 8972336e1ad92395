//! Values that pass a condition's test, to try.
//!
//! Owns: making them. Must not promise anything: whoever asked lets the judge see them. Called by: `curl`.

use redir_http::filter::{Condition, Subject, Test};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Class, Hir, HirKind};

/// How many variants of a regex are tried: each takes other branches and repetitions.
const VARIANTS: usize = 6;
/// A regex may ask for more repetitions than fit anywhere.
const LONGEST: usize = 4096;

/// A few values, the plainest first; never none.
pub(super) fn values(condition: &Condition) -> Vec<Vec<u8>> {
    match &condition.test {
        Test::Present => vec![b"1".to_vec(), b"2".to_vec()],
        Test::Exact(value) => vec![value.clone()],
        Test::Prefix(value) => vec![value.clone(), [value, &b"1"[..]].concat(), [value, &b"/2"[..]].concat()],
        Test::Regex(pattern) => {
            let parsed = ParserBuilder::new().unicode(false).utf8(false).build().parse(pattern);
            // Paths begin with a slash, whatever else the regex lets them begin with.
            let prefer = if condition.subject == Subject::Path { b"/x1" } else { b"x1a" };
            let Ok(hir) = parsed else { return vec![vec![]] };
            let variant = |variant| {
                let mut out = Vec::new();
                write(&hir, variant, prefer, &mut out);
                out
            };
            (0..VARIANTS).map(variant).collect()
        }
    }
}

fn write(hir: &Hir, variant: usize, prefer: &[u8], out: &mut Vec<u8>) {
    if out.len() > LONGEST {
        return;
    }
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => {}
        HirKind::Literal(literal) => out.extend_from_slice(&literal.0),
        HirKind::Class(class) => member(class, prefer, out),
        HirKind::Capture(group) => write(&group.sub, variant, prefer, out),
        HirKind::Concat(parts) => parts.iter().for_each(|part| write(part, variant, prefer, out)),
        HirKind::Alternation(branches) => {
            if let Some(branch) = branches.get(variant / 2 % branches.len().max(1)) {
                write(branch, variant, prefer, out);
            }
        }
        HirKind::Repetition(repetition) => {
            let more = u32::try_from(variant % 2).unwrap_or_default();
            let times = (repetition.min + more).min(repetition.max.unwrap_or(u32::MAX));
            for _ in 0..times {
                write(&repetition.sub, variant, prefer, out);
            }
        }
    }
}

/// One of a class, if possible one that is preferred, or else one that can be read.
fn member(class: &Class, prefer: &[u8], out: &mut Vec<u8>) {
    let holds = |byte: u8| match class {
        Class::Bytes(class) => class.iter().any(|range| (range.start()..=range.end()).contains(&byte)),
        Class::Unicode(class) => class.iter().any(|range| (range.start()..=range.end()).contains(&char::from(byte))),
    };
    let printable = prefer.iter().copied().chain(0x21..=0x7e);
    if let Some(byte) = printable.chain([b' ']).find(|byte| holds(*byte)) {
        return out.push(byte);
    }
    match class {
        Class::Bytes(class) => out.extend(class.iter().next().map(|range| range.end())),
        Class::Unicode(class) => {
            let last = class.iter().next().map(|range| range.end());
            out.extend(last.into_iter().flat_map(|last| last.to_string().into_bytes()));
        }
    }
}
