//! What must be true of every connection, whatever its client sent and however its origins answered.
//!
//! Owns: the second opinions: httparse's reading of each head, a plain reader of each body, filters written down again,
//! and the oracle's. Called by: the fuzz target `connection`, and the tests on other people's cases.

use redir_http::engine::{Origin, OriginEnd};
use redir_http::filter::{Filter, Key, Table};

use super::connection::{End, Run};
use super::{ROOM, chunked, head, oracle};

/// A table, and what it says of a request written down a second time.
pub(crate) struct Rules {
    pub(crate) table: Table,
    wants: fn(&httparse::Request<'_, '_>) -> Option<Key>,
}

impl Rules {
    /// The three filters of `head::table`.
    pub(crate) fn some() -> Self {
        let wants =
            |request: &httparse::Request<'_, '_>| head::naive_matches(request).first().map(|n| Key(*n as u64 + 1));
        Self { table: head::table(), wants }
    }

    /// Everything that can be decided is the developer's.
    pub(crate) fn everything() -> Self {
        Self { table: Table::new([(Key(1), Filter::everything())]), wants: |_| Some(Key(1)) }
    }

    /// Everything is the app's.
    pub(crate) fn nothing() -> Self {
        Self { table: Table::empty(), wants: |_| None }
    }

    fn wanted(&self, request: &httparse::Request<'_, '_>) -> Origin {
        let probe = request.headers.iter().any(|header| {
            header.name.eq_ignore_ascii_case("user-agent") && header.value.trim_ascii().starts_with(b"kube-probe/")
        });
        (self.wants)(request).filter(|_| !probe).map_or(Origin::App, Origin::Developer)
    }
}

/// Fails unless everything that must be true of a run is.
pub(crate) fn judge(wire: &[u8], run: &Run, rules: &Rules) {
    bytes_arrive_once_and_in_order(wire, run);
    the_connection_ends_only_where_it_may(run);
    for (index, (origin, message)) in run.messages.iter().enumerate() {
        let shown = message.escape_ascii();
        let mut room = [httparse::EMPTY_HEADER; ROOM];
        let mut request = httparse::Request::new(&mut room);
        let head_len = match request.parse(message) {
            Ok(httparse::Status::Complete(len)) => len,
            Err(httparse::Error::TooManyHeaders) => continue,
            other => {
                broken!("a message was forwarded that httparse does not read: {other:?} {shown}");
                continue;
            }
        };
        assert_eq!(*origin, rules.wanted(&request), "{shown}");
        let opinion = oracle::opinion(&message[..head_len]);
        assert!(!matches!(opinion, oracle::Opinion::Ambiguous(_)), "{opinion:?} {shown}");
        let end = body_len(&request, &message[head_len..]);
        let expected = if index < run.complete { Some(message.len() - head_len) } else { None };
        assert_eq!(end, expected, "{shown}");
    }
}

/// The messages in their order are what the client sent; the rest, once opaque, goes to one origin as it is.
fn bytes_arrive_once_and_in_order(wire: &[u8], run: &Run) {
    let mut arrived: Vec<u8> = run.messages.iter().flat_map(|(_, message)| message.iter().copied()).collect();
    assert!(wire.starts_with(&arrived), "bytes are forwarded once and in order: {}", wire.escape_ascii());
    match &run.end {
        End::Open => {}
        End::Over(rest) | End::Opaque(_, _, rest) => arrived.extend_from_slice(rest),
        End::Reset(_) => return,
    }
    assert_eq!(arrived.escape_ascii().to_string(), wire.escape_ascii().to_string(), "no byte is lost");
    if run.messages.len() > run.complete
        && let (Some((begun, _)), End::Opaque(to, ..)) = (run.messages.last(), &run.end)
    {
        assert_eq!(to, begun, "the rest of a message goes where it began");
    }
    // What each origin got is what was meant for it, and nothing else.
    for origin in run.messages.iter().map(|(origin, _)| *origin).chain([Origin::App]) {
        let theirs = run.messages.iter().filter(|(to, _)| *to == origin).flat_map(|(_, message)| message);
        let mut expected: Vec<u8> = theirs.copied().collect();
        if let End::Opaque(to, _, rest) = &run.end
            && *to == origin
        {
            expected.extend_from_slice(rest);
        }
        let got = run.got.get(&origin).map(Vec::as_slice).unwrap_or_default();
        assert_eq!(got.escape_ascii().to_string(), expected.escape_ascii().to_string(), "{origin:?}");
    }
}

/// The client gets the answers in the order of its requests, all of them unless its connection ends. For origins whose
/// answers are whole, with nothing beyond.
pub(crate) fn whole_answers_arrive_once_and_in_order(run: &Run) {
    assert!(
        matches!(run.left, None | Some(OriginEnd::Finished | OriginEnd::Early)),
        "a whole answer was waited for: {:?}",
        run.left
    );
    let cut = run.left.is_some() || matches!(run.end, End::Over(_) | End::Reset(_));
    let got = run.client.escape_ascii().to_string();
    let answers = run.answers.concat().escape_ascii().to_string();
    assert!(got == answers || cut && answers.starts_with(&got), "{got} of {answers}");
    let switched =
        |(message, answer): (&(Origin, Vec<u8>), &Vec<u8>)| answer.starts_with(b"HTTP/1.1 101") && upgrades(&message.1);
    if let Some(index) = run.messages.iter().zip(&run.answers).position(switched) {
        assert_eq!(run.messages.len(), index + 1, "nothing behind an upgrade is a message");
    }
}

/// Whether a request asks for another protocol.
fn upgrades(message: &[u8]) -> bool {
    let mut room = [httparse::EMPTY_HEADER; ROOM];
    let mut request = httparse::Request::new(&mut room);
    // One with more headers than there is room for is not judged.
    request.parse(message).is_ok() && request.headers.iter().any(|header| header.name.eq_ignore_ascii_case("upgrade"))
}

/// Redir itself ends a connection only for a developer: the app's own is the app's business.
fn the_connection_ends_only_where_it_may(run: &Run) {
    let last = run.messages.last().map(|(origin, _)| *origin);
    let developer = matches!(last, Some(Origin::Developer(_)));
    match &run.end {
        End::Reset(_) | End::Over(_) => assert!(developer || run.left.is_some(), "{:?} after {last:?}", run.end),
        End::Opaque(Origin::Developer(_), why, _) => {
            assert!(["upgraded", "tunnel"].contains(&why.as_str()), "opaque to a developer: {why:?}");
        }
        End::Opaque(Origin::App, ..) | End::Open => {}
    }
}

/// How long the body at the beginning of `rest` is, if it ends there, by another reader's rules.
fn body_len(request: &httparse::Request<'_, '_>, rest: &[u8]) -> Option<usize> {
    let values = |name: &str| {
        let same = |header: &&httparse::Header<'_>| header.name.eq_ignore_ascii_case(name);
        request.headers.iter().filter(same).map(|header| header.value).collect::<Vec<_>>()
    };
    match (values("content-length").as_slice(), values("transfer-encoding").as_slice()) {
        ([], []) => Some(0),
        ([length], []) => {
            let length = std::str::from_utf8(length).ok().and_then(|digits| digits.parse().ok())?;
            (length <= rest.len()).then_some(length)
        }
        ([], [b"chunked"]) => match chunked::plain(rest) {
            chunked::Plain::LineEnds(len) => Some(len),
            chunked::Plain::Open | chunked::Plain::Bad => None,
        },
        (lengths, codings) => {
            broken!("decided with {} lengths and {} codings", lengths.len(), codings.len());
            None
        }
    }
}
