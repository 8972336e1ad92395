//! Heads: the verdict does not depend on the split, and what is accepted is what httparse reads.

use super::{ROOM, splits};
use redir_http::filter::{Condition, Filter, Key, Mode, Subject, Table, Test};
use redir_http::head::{Facts, Progress, RequestHead, ResponseHead};
use redir_http::{Ambiguity, InstructionSet};

/// All that a request head says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) len: usize,
    method: Vec<u8>,
    target: Vec<u8>,
    path: Vec<u8>,
    query: Vec<u8>,
    facts: String,
    matching: Result<Vec<usize>, Ambiguity>,
}

/// A request head read in pieces that end at `ends` (rising, the last one is the end): `None` if it is not complete.
pub(crate) fn read(
    wire: &[u8],
    ends: impl IntoIterator<Item = usize>,
    table: &Table,
) -> Result<Option<Verdict>, Ambiguity> {
    read_at(InstructionSet::best(), wire, ends, table)
}

/// The same with the instructions of `level`.
fn read_at(
    level: InstructionSet,
    wire: &[u8],
    ends: impl IntoIterator<Item = usize>,
    table: &Table,
) -> Result<Option<Verdict>, Ambiguity> {
    let mut head = RequestHead::new();
    for end in ends {
        if head.advance_at(level, &wire[..end], table.names())? == Progress::Complete {
            return Ok(Some(verdict(head, wire, table)));
        }
    }
    Ok(None)
}

fn verdict(mut head: RequestHead, wire: &[u8], table: &Table) -> Verdict {
    let (path, query) = head.path_and_query(wire);
    Verdict {
        len: head.len(),
        method: wire[head.method()].to_vec(),
        target: wire[head.target()].to_vec(),
        path: wire[path].to_vec(),
        query: wire[query].to_vec(),
        facts: format!("{:?}", head.facts()),
        matching: table.matching(&mut head, wire),
    }
}

/// All levels, one after the other.
fn in_turn(number: usize) -> InstructionSet {
    InstructionSet::all().nth(number % InstructionSet::all().count()).unwrap_or(InstructionSet::best())
}

/// In two pieces at so many places, byte by byte, and with whatever instructions, `wire` says what the whole says.
pub(crate) fn same_however_split(wire: &[u8], places: usize, table: &Table) -> Result<Option<Verdict>, Ambiguity> {
    let whole = read(wire, [wire.len()], table);
    for level in InstructionSet::all() {
        assert_eq!(read_at(level, wire, [wire.len()], table), whole, "{level:?}: {}", wire.escape_ascii());
    }
    for split in splits(places, wire.len()) {
        // Asked again with nothing new, as relays do.
        let (level, ends) = (in_turn(split), [split, split, wire.len()]);
        assert_eq!(read_at(level, wire, ends, table), whole, "{level:?}, split at {split}: {}", wire.escape_ascii());
    }
    if wire.len() <= 4096 {
        let level = in_turn(wire.len());
        let each = read_at(level, wire, 1..=wire.len(), table);
        assert_eq!(each, whole, "{level:?}, byte by byte: {}", wire.escape_ascii());
    }
    whole
}

/// The table that the checks use.
pub(crate) fn table() -> Table {
    let header = |name: &str, test| Condition { subject: Subject::Header(name.into()), test, negate: false };
    let filter = |condition| Filter::new(Mode::All, vec![condition]).expect("the checks' filters are valid");
    Table::new([
        (Key(1), filter(header("X-User", Test::Exact(b"alice".into())))),
        (Key(2), filter(header("x-flag", Test::Present))),
        (Key(3), filter(Condition { subject: Subject::Path, test: Test::Prefix(b"/dev".into()), negate: false })),
    ])
}

/// The fuzz target `head`.
pub(crate) fn request(wire: &[u8], places: usize) {
    let verdict = same_however_split(wire, places, &table());
    let mut room = [httparse::EMPTY_HEADER; ROOM];
    let mut theirs = httparse::Request::new(&mut room);
    let theirs_say = theirs.parse(wire);
    let Ok(verdict) = verdict else { return };
    match (verdict, theirs_say) {
        (_, Err(httparse::Error::TooManyHeaders)) => {}
        (None, Ok(httparse::Status::Partial)) => {}
        (Some(ours), Ok(httparse::Status::Complete(len))) => {
            assert_eq!(ours.len, len);
            assert_eq!(Some(ours.method.as_slice()), theirs.method.map(str::as_bytes));
            assert_eq!(Some(ours.target.as_slice()), theirs.path.map(str::as_bytes));
            assert_eq!(Ok(naive_matches(&theirs)), ours.matching);
            facts_agree(&ours.facts, &theirs);
        }
        (ours, theirs) => broken!("{ours:?} but httparse {theirs:?}: {}", wire.escape_ascii()),
    }
}

/// What the checks' table says of a request, written down a second time.
pub(crate) fn naive_matches(request: &httparse::Request<'_, '_>) -> Vec<usize> {
    let has = |name: &str, passes: &dyn Fn(&[u8]) -> bool| {
        request.headers.iter().any(|header| header.name.eq_ignore_ascii_case(name) && passes(header.value.trim_ascii()))
    };
    let target = request.path.unwrap_or_default();
    let rest = target
        .split_once("://")
        .filter(|(scheme, _)| !scheme.contains('/'))
        .map_or(target, |(_, rest)| rest.find(['/', '?']).map_or("", |slash| &rest[slash..]));
    let path = if request.method == Some("CONNECT") { "" } else { rest.split('?').next().unwrap_or_default() };
    [has("x-user", &|value| value == b"alice"), has("x-flag", &|_| true), path.starts_with("/dev")]
        .into_iter()
        .enumerate()
        .filter_map(|(index, matches)| matches.then_some(index))
        .collect()
}

fn facts_agree(ours: &str, theirs: &httparse::Request<'_, '_>) {
    let mut expected = RequestHead::new();
    let mut again = b"GET / HTTP/1.".to_vec();
    again.push(if theirs.version == Some(0) { b'0' } else { b'1' });
    for header in theirs.headers.iter() {
        again.extend_from_slice(b"\r\n");
        again.extend_from_slice(header.name.as_bytes());
        again.extend_from_slice(b": ");
        again.extend_from_slice(header.value);
    }
    again.extend_from_slice(b"\r\n\r\n");
    let again = expected.advance(&again, Table::empty().names()).map(|_| format!("{:?}", expected.facts()));
    // httparse trims what makes a framing field ambiguous; never the other way round.
    assert_eq!(again.as_deref(), Ok(ours));
}

/// The fuzz target `response`.
pub(crate) fn response(wire: &[u8], places: usize) {
    let read = |level: InstructionSet, ends: &mut dyn Iterator<Item = usize>| {
        let mut head = ResponseHead::new();
        for end in ends {
            if head.advance_at(level, &wire[..end])? == Progress::Complete {
                let facts: Facts = *head.facts();
                return Ok(Some((head.len(), head.code(), format!("{facts:?}"))));
            }
        }
        Ok::<_, Ambiguity>(None)
    };
    let whole = read(InstructionSet::best(), &mut [wire.len()].into_iter());
    for level in InstructionSet::all() {
        assert_eq!(read(level, &mut [wire.len()].into_iter()), whole, "{level:?}: {}", wire.escape_ascii());
    }
    for split in splits(places, wire.len()) {
        let (level, ends) = (in_turn(split), &mut [split, split, wire.len()].into_iter());
        assert_eq!(read(level, ends), whole, "{level:?}, split at {split}: {}", wire.escape_ascii());
    }
    let level = in_turn(wire.len());
    let each = read(level, &mut (1..=wire.len().min(4096)).chain([wire.len()]));
    assert_eq!(each, whole, "{level:?}, byte by byte: {}", wire.escape_ascii());
    let mut room = [httparse::EMPTY_HEADER; ROOM];
    let mut theirs = httparse::Response::new(&mut room);
    match (whole, theirs.parse(wire)) {
        (Err(_), _) | (_, Err(httparse::Error::TooManyHeaders)) => {}
        (Ok(None), Ok(httparse::Status::Partial)) => {}
        (Ok(Some((len, code, _))), Ok(httparse::Status::Complete(theirs_len))) => {
            assert_eq!((len, Some(code)), (theirs_len, theirs.code));
        }
        (ours, theirs) => broken!("{ours:?} but httparse {theirs:?}: {}", wire.escape_ascii()),
    }
}
