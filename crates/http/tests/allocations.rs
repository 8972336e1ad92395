//! Unmatched requests cost no allocation, however many there are.
#![expect(unsafe_code, reason = "an allocator is unsafe; this one only counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use redir_http::engine::{Engine, Options, Origin, Reply, Step};
use redir_http::filter::{Condition, Filter, Key, Mode, Subject, Table, Test};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: everything is the system allocator's, asked with what was asked of this one.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn allocations(work: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

/// Filters of every kind, none of which the requests below match.
fn table() -> Table {
    let subjects = [
        Subject::Header(b"x-user".to_vec()),
        Subject::Cookie(b"user".to_vec()),
        Subject::Baggage(b"user".to_vec()),
        Subject::Query(b"user".to_vec()),
        Subject::Path,
    ];
    let tests = [Test::Exact(b"/alice".to_vec()), Test::Prefix(b"/al".to_vec()), Test::Regex("/al(ice)?".into())];
    let filters = subjects.iter().flat_map(|subject| tests.iter().map(|test| (subject.clone(), test.clone())));
    Table::new(filters.zip(0..).map(|((subject, test), number)| {
        let condition = Condition { subject, test, negate: false };
        (Key(number), Filter::new(Mode::All, vec![condition]).expect("the filters are valid"))
    }))
}

/// One request, with its answer, in pieces of `piece` bytes.
fn exchange(engine: &mut Engine, table: &Table, request: &[u8], piece: usize) {
    let (mut from, mut to) = (0, piece.min(request.len()));
    while from < request.len() {
        match engine.client(&request[from..to], table) {
            Step::Forward { to: Origin::App, len, .. } => from += len,
            Step::NeedMore => {}
            step => assert_eq!(step, Step::NeedMore),
        }
        to = (to + piece).min(request.len());
    }
    let answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok";
    let reply = engine.response(Origin::App, answer);
    assert!(matches!(reply, Reply::Forward { finished: true, len, .. } if len == answer.len()), "{reply:?}");
}

#[test]
fn unmatched_requests_do_not_allocate() {
    let table = table();
    let requests: [&[u8]; 3] = [
        b"GET /cart?user=bob&x=1 HTTP/1.1\r\nHost: a\r\nX-User: bob\r\nCookie: a=b; user=bob\r\nBaggage: user=bob\r\n\r\n",
        b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nx-user: carol\r\n\r\nhello",
        b"PUT /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ];
    let mut engine = Engine::new(Options::default());
    let mut round = |piece| requests.iter().for_each(|request| exchange(&mut engine, &table, request, piece));
    // A regex makes its thread's cache when it is first asked.
    round(10_000);
    for piece in [1, 16, 10_000] {
        assert_eq!(allocations(|| (0..100).for_each(|_| round(piece))), 0, "in pieces of {piece}");
    }
}

#[test]
fn the_count_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1)))), 1);
}
