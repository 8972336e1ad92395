//! A whole connection in memory: a client's script, an app and developers that record and answer, and the engine between.

use std::collections::{HashMap, VecDeque};

use redir_http::engine::{ClientEnd, Engine, Options, Origin, OriginEnd, Reply, Step};
use redir_http::filter::Table;
use redir_http::{Ambiguity, OpaqueReason};

use super::judge::{Rules, judge, whole_answers_arrive_once_and_in_order};
use super::splits;

/// How a run ended, after the client's own end.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum End {
    /// More could have come: everything is forwarded.
    Open,
    /// The client connection ends, and these bytes go nowhere.
    Over(Vec<u8>),
    /// The origin got these bytes unseen.
    Opaque(Origin, OpaqueReason, Vec<u8>),
    Reset(Ambiguity),
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Run {
    /// Each message with whoever got it; the last one may be incomplete.
    pub(crate) messages: Vec<(Origin, Vec<u8>)>,
    /// How many of them are complete.
    pub(crate) complete: usize,
    /// Everything that each origin got.
    pub(crate) got: HashMap<Origin, Vec<u8>>,
    /// An origin ended its leg, and what that was.
    pub(crate) left: Option<OriginEnd>,
    pub(crate) end: End,
    /// What the origins answered to each message.
    pub(crate) answers: Vec<Vec<u8>>,
    /// What the client got.
    pub(crate) client: Vec<u8>,
    pub(crate) statuses: Vec<u16>,
}

/// When origins answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pace {
    /// As soon as a request is complete.
    Eager,
    /// Only when the client is held up, and at the end.
    Lazy,
    /// As soon as the head is there, whatever there is of the body.
    Early,
}

/// How the origins behave: the answer to the n-th request, whose bytes it gets.
pub(crate) struct Origins<'a> {
    pub(crate) answer: &'a dyn Fn(usize, &[u8]) -> Vec<u8>,
    pub(crate) pace: Pace,
    /// Answers arrive in pieces of this many bytes.
    pub(crate) piece: usize,
}

struct Running<'a> {
    engine: Engine,
    table: &'a Table,
    origins: &'a Origins<'a>,
    unread: Vec<u8>,
    pending: VecDeque<(Origin, Vec<u8>)>,
    run: Run,
}

/// Runs the client's pieces through the engine.
pub(crate) fn run<'p>(pieces: impl IntoIterator<Item = &'p [u8]>, table: &Table, origins: &Origins<'_>) -> Run {
    let mut running = Running {
        engine: Engine::new(Options::default()),
        table,
        origins,
        unread: vec![],
        pending: VecDeque::new(),
        run: Run {
            messages: vec![],
            complete: 0,
            got: HashMap::new(),
            left: None,
            end: End::Open,
            answers: vec![],
            client: vec![],
            statuses: vec![],
        },
    };
    for piece in pieces {
        running.unread.extend_from_slice(piece);
        running.pump();
    }
    while running.deliver() {
        running.pump();
    }
    running.ended()
}

impl Running<'_> {
    fn pump(&mut self) {
        loop {
            match self.engine.client(&self.unread, self.table) {
                Step::Forward { to, len, begins, complete } => {
                    assert!(len > 0 && len <= self.unread.len());
                    let bytes: Vec<u8> = self.unread.drain(..len).collect();
                    self.run.got.entry(to).or_default().extend_from_slice(&bytes);
                    let begun = begins.is_some();
                    match (begins, self.run.messages.last_mut()) {
                        (Some(begins), _) => {
                            assert!(begins.path.end <= len && begins.method.end <= len);
                            self.run.messages.push((to, bytes));
                        }
                        (None, Some((origin, message))) if *origin == to => message.extend(bytes),
                        (None, other) => broken!("a message went on to {to:?} after {other:?}"),
                    }
                    self.run.complete += usize::from(complete);
                    let turn = if self.origins.pace == Pace::Early { begun } else { complete };
                    if turn {
                        self.ask(to);
                    }
                }
                Step::Wait if self.deliver() => {}
                Step::Reset { why } => {
                    self.pending.clear();
                    self.run.end = End::Reset(why);
                    return;
                }
                Step::NeedMore | Step::Wait | Step::Opaque { .. } => return,
            }
        }
    }

    /// The newest message is far enough for its origin to answer.
    fn ask(&mut self, to: Origin) {
        let Some((_, message)) = self.run.messages.last() else { return };
        let answer = (self.origins.answer)(self.run.messages.len() - 1, message);
        self.run.answers.push(answer.clone());
        self.pending.push_back((to, answer));
        while self.origins.pace != Pace::Lazy && self.deliver() {}
    }

    /// Delivers one answer; `false` if there is none.
    fn deliver(&mut self) -> bool {
        let Some((from, answer)) = self.pending.pop_front() else { return false };
        let before = self.engine.outstanding();
        let mut unread = Vec::new();
        for piece in answer.chunks(self.origins.piece.max(1)) {
            unread.extend_from_slice(piece);
            while self.reply(from, &mut unread) {}
        }
        let went_on = self.engine.opaque().is_some() || self.engine.outstanding() != before;
        // Bytes that answered nothing end their leg, and the connection goes on.
        let end = if went_on { OriginEnd::Idle } else { self.engine.origin_eof(from) };
        if end != OriginEnd::Idle {
            self.run.left = Some(end);
            self.pending.clear();
        }
        true
    }

    fn reply(&mut self, from: Origin, unread: &mut Vec<u8>) -> bool {
        match self.engine.response(from, unread) {
            Reply::Forward { len, status, .. } => {
                assert!(len > 0 && len <= unread.len());
                self.run.client.extend(unread.drain(..len));
                self.run.statuses.extend(status);
                !unread.is_empty()
            }
            Reply::Opaque { to, .. } => {
                assert_eq!(to, from);
                self.run.client.append(unread);
                false
            }
            Reply::Discard => {
                // The leg ends with it.
                self.pending.retain(|(origin, _)| *origin != from);
                unread.clear();
                false
            }
            Reply::NeedMore => false,
            Reply::Wait => {
                broken!("answers are delivered in order");
                false
            }
        }
    }

    /// The client sends no more.
    fn ended(mut self) -> Run {
        if self.run.end != End::Open {
            return self.run;
        }
        let mut step = self.engine.client(&self.unread, self.table);
        if step == Step::NeedMore && self.engine.client_eof(&self.unread) == ClientEnd::Partial {
            step = self.engine.client(&self.unread, self.table);
        }
        let rest = std::mem::take(&mut self.unread);
        self.run.end = match step {
            Step::Opaque { to, why } => {
                self.run.got.entry(to).or_default().extend_from_slice(&rest);
                End::Opaque(to, why, rest)
            }
            Step::Reset { why } => End::Reset(why),
            Step::NeedMore => {
                assert!(rest.is_empty(), "the app gets what the client has sent of a head");
                End::Open
            }
            Step::Wait | Step::Forward { .. } => End::Over(rest),
        };
        self.run
    }
}

/// `wire` whole, in two pieces at so many places, and byte by byte if it is short.
fn however_split(wire: &[u8], places: usize) -> impl Iterator<Item = Vec<&[u8]>> {
    let halves = splits(places, wire.len()).map(|split| vec![&wire[..split], &wire[split..]]);
    [vec![wire]].into_iter().chain(halves).chain([wire.chunks(wire.len() / 2048 + 1).collect()])
}

/// However split, the same happens.
pub(crate) fn same_however_split(wire: &[u8], places: usize, table: &Table, origins: &Origins<'_>) -> Run {
    let whole = run([wire], table, origins);
    for pieces in however_split(wire, places).skip(1) {
        let ends: Vec<usize> = pieces.iter().take(2).map(|piece| piece.len()).collect();
        assert_eq!(run(pieces, table, origins), whole, "in pieces of {ends:?}: {}", wire.escape_ascii());
    }
    whole
}

/// The fuzz target `connection`: two bytes of settings, then what the client sends.
pub(crate) fn connection(data: &[u8], places: usize) {
    let [settings, seed, wire @ ..] = data else { return };
    let pace = match (seed & 0x80, settings & 1) {
        (0, 0) => Pace::Eager,
        (0, _) => Pace::Lazy,
        _ => Pace::Early,
    };
    let answer = |n: usize, request: &[u8]| canned(usize::from(*seed) + n, request);
    let origins = Origins { answer: &answer, pace, piece: usize::from(settings >> 1) + 1 };
    let rules = Rules::some();
    let judge = |run: &Run| {
        judge(wire, run, &rules);
        whole_answers_arrive_once_and_in_order(run);
    };
    if pace == Pace::Early {
        // How much of a body was sent before may make a difference, so each run is judged by itself.
        however_split(wire, places).for_each(|pieces| judge(&run(pieces, &rules.table, &origins)));
    } else {
        judge(&same_however_split(wire, places, &rules.table, &origins));
    }
}

/// Some answer to `request`.
pub(crate) fn canned(n: usize, request: &[u8]) -> Vec<u8> {
    let upgrade = request.to_ascii_lowercase().windows(10).any(|window| window == b"\r\nupgrade:");
    let answers: [&[u8]; 8] = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: y\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n",
        b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
        b"HTTP/1.1 200\nbad\r\n",
    ];
    if upgrade && n.is_multiple_of(2) {
        return b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\nhello".to_vec();
    }
    if request.starts_with(b"HEAD ") {
        return b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n".to_vec();
    }
    answers[n % answers.len()].to_vec()
}
