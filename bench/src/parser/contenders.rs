//! The two sides: what the agent calls for each request, and the same done with httparse.
//!
//! Owns: both, so that they do as much as each other. Must not: be inlined, or one side would be measured with what it is
//! called with. Called by: `cells`, the criterion benchmark.

use std::mem::MaybeUninit;

use redir_http::InstructionSet;
use redir_http::engine::{Engine, Options, Step};
use redir_http::filter::{Condition, Filter, Key, Mode, Subject, Table, Test};
use redir_http::head::{Progress, RequestHead};

/// The filter's header, and the value that it asks for.
const NAME: &str = "x-user";
const VALUE: &str = "alice";

/// Room for fields, on the stack: as much as hyper has by default is 100, and less is faster.
const ROOM: usize = 64;

/// What kind of filters a table has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filters {
    /// The same header, another value each.
    Values,
    /// Another header each.
    Names,
    /// The same header, another prefix of the path each, and both must hold.
    Paths,
}

/// `count` filters, of which the first asks for `x-user: alice`, in one kind for the path `/cart`, too.
///
/// # Panics
/// If redir takes a filter of these for invalid.
#[must_use]
pub fn table(filters: Filters, count: usize) -> Table {
    let header = |name: String, value: String| Condition {
        subject: Subject::Header(name.into()),
        test: Test::Exact(value.into()),
        negate: false,
    };
    let all = |conditions| Filter::new(Mode::All, conditions).expect("the filters are valid");
    let one = |n: usize| match filters {
        Filters::Paths => {
            let test = Test::Prefix(if n == 0 { "/cart".into() } else { format!("/api/v{n}/").into() });
            let path = Condition { subject: Subject::Path, test, negate: false };
            all(vec![header(NAME.into(), VALUE.into()), path])
        }
        _ if n == 0 => all(vec![header(NAME.into(), VALUE.into())]),
        Filters::Values => all(vec![header(NAME.into(), format!("dev-{n}"))]),
        Filters::Names => all(vec![header(format!("x-dev-{n}"), "1".into())]),
    };
    Table::new((0..count).map(|n| (Key(n as u64 + 1), one(n))))
}

/// What both sides say of a head: its length, and whether the filter matches.
pub type HeadVerdict = Option<(usize, bool)>;

/// The head, read and decided as `Engine::client` does it.
#[inline(never)]
pub fn redir(head: &[u8], table: &Table) -> HeadVerdict {
    redir_at(InstructionSet::best(), head, table)
}

/// The same with other instructions than the CPU's best.
#[inline(never)]
pub fn redir_at(level: InstructionSet, head: &[u8], table: &Table) -> HeadVerdict {
    let mut state = RequestHead::new();
    let Ok(Progress::Complete) = state.advance_at(level, head, table.names()) else { return None };
    let index = table.decide(&mut state, head).ok()?;
    Some((state.len(), index.is_some()))
}

/// The same when it arrives in two pieces.
#[inline(never)]
pub fn redir_split(head: &[u8], at: usize, table: &Table) -> HeadVerdict {
    let mut state = RequestHead::new();
    if let Ok(Progress::Complete) | Err(_) = state.advance(&head[..at], table.names()) {
        return None;
    }
    let Ok(Progress::Complete) = state.advance(head, table.names()) else { return None };
    let index = table.decide(&mut state, head).ok()?;
    Some((state.len(), index.is_some()))
}

/// The very function that the agent calls, on a connection's first request: all of the above, and framing, whom the request
/// is for, and what may follow.
#[inline(never)]
pub fn engine(head: &[u8], table: &Table) -> Step {
    Engine::new(Options::default()).client(head, table)
}

/// The head, read by httparse, and the same filter.
#[inline(never)]
pub fn httparse(head: &[u8]) -> HeadVerdict {
    let mut room = [const { MaybeUninit::uninit() }; ROOM];
    let mut request = httparse::Request::new(&mut []);
    let Ok(httparse::Status::Complete(len)) = request.parse_with_uninit_headers(head, &mut room) else { return None };
    let matched = request.headers.iter().any(|field| is_filters(field));
    Some((len, matched))
}

/// The same when it arrives in two pieces: httparse begins again.
#[inline(never)]
pub fn httparse_split(head: &[u8], at: usize) -> HeadVerdict {
    if httparse(&head[..at]).is_some() { None } else { httparse(head) }
}

fn is_filters(field: &httparse::Header<'_>) -> bool {
    field.name.eq_ignore_ascii_case(NAME) && field.value == VALUE.as_bytes()
}

/// What a request says about its framing and connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Framed {
    /// The head's length.
    pub len: usize,
    /// Whether the filter matches.
    pub matched: bool,
    /// The Content-Length.
    pub length: Option<u64>,
    /// `Transfer-Encoding: chunked`.
    pub chunked: bool,
    close: bool,
    keep_alive: bool,
    upgrade: bool,
    expect: bool,
    /// Whether the answer's framing depends on the method.
    special: bool,
}

/// The head, read by httparse, with the same filter and the framing as a proxy needs it: each field once, in one loop.
/// Less strict than redir, which also looks for names that only look like framing, and for odd targets.
#[inline(never)]
pub fn httparse_framed(head: &[u8]) -> Option<Framed> {
    let mut room = [const { MaybeUninit::uninit() }; ROOM];
    let mut request = httparse::Request::new(&mut []);
    let Ok(httparse::Status::Complete(len)) = request.parse_with_uninit_headers(head, &mut room) else { return None };
    let mut said = Framed { len, ..Framed::default() };
    for field in &*request.headers {
        let (name, value) = (field.name, field.value);
        match name.len() {
            6 if name.eq_ignore_ascii_case(NAME) => said.matched |= value == VALUE.as_bytes(),
            6 if name.eq_ignore_ascii_case("expect") => {
                said.expect = value.eq_ignore_ascii_case(b"100-continue");
                if !said.expect {
                    return None;
                }
            }
            7 if name.eq_ignore_ascii_case("upgrade") => said.upgrade = true,
            10 if name.eq_ignore_ascii_case("connection") => said.options(value),
            14 if name.eq_ignore_ascii_case("content-length") => said.content_length(value)?,
            17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                if said.length.is_some() || said.chunked || value != b"chunked" || request.version == Some(0) {
                    return None;
                }
                said.chunked = true;
            }
            _ => {}
        }
    }
    said.special = matches!(request.method, Some("HEAD" | "CONNECT"));
    said.close |= request.version == Some(0) && !said.keep_alive;
    Some(said)
}

impl Framed {
    fn options(&mut self, value: &[u8]) {
        for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }

    fn content_length(&mut self, value: &[u8]) -> Option<()> {
        let plain = !value.is_empty() && value.len() <= 18 && value.iter().all(u8::is_ascii_digit);
        if !plain || self.length.is_some() || self.chunked {
            return None;
        }
        self.length = Some(value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')));
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::corpus::corpus;
    use super::*;
    use redir_http::engine::Origin;

    #[test]
    fn both_sides_say_the_same_of_every_head() {
        for filters in [Filters::Values, Filters::Names, Filters::Paths] {
            let table = table(filters, 1000);
            for head in corpus() {
                let said = httparse(&head.bytes);
                let matched = head.name.contains("with the filter's header");
                assert_eq!(said, Some((head.bytes.len(), matched)), "{}", head.name);
                assert!(
                    InstructionSet::all().all(|level| redir_at(level, &head.bytes, &table) == said),
                    "{}",
                    head.name
                );
                let every = 1..head.bytes.len();
                assert!(every.clone().all(|at| redir_split(&head.bytes, at, &table) == said), "{}", head.name);
                assert!(every.step_by(16).all(|at| httparse_split(&head.bytes, at) == said), "{}", head.name);
            }
        }
    }

    #[test]
    fn both_sides_frame_every_head_alike() {
        let table = table(Filters::Values, 1);
        for head in corpus() {
            let framed = httparse_framed(&head.bytes).expect("every head of the corpus is plain");
            let Step::Forward { to, len, complete, .. } = engine(&head.bytes, &table) else {
                unreachable!("{} is plain", head.name)
            };
            assert_eq!((to != Origin::App, len), (framed.matched, framed.len), "{}", head.name);
            assert_eq!(complete, !framed.chunked && framed.length.unwrap_or_default() == 0, "{}", head.name);
        }
    }
}
