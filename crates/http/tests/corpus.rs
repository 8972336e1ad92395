//! Replays the fuzzers' corpus: what they found once stays found, without them.

mod check;

use std::path::Path;

fn replay(target: &str, check: impl Fn(&[u8], usize)) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&corpus).expect("the corpus is part of the tree");
    let mut count = 0;
    for entry in entries {
        let path = entry.expect("the corpus is readable").path();
        check(&std::fs::read(&path).expect("a corpus file is readable"), check::EVERYWHERE);
        count += 1;
    }
    assert!(count > 0, "no case in {}", corpus.display());
}

#[test]
fn heads() {
    replay("head", check::head::request);
}

#[test]
fn responses() {
    replay("response", check::head::response);
}

#[test]
fn connections() {
    replay("connection", check::connection::connection);
}

#[test]
fn filters() {
    replay("filter", |data, _| check::filter::table(data));
}

#[test]
fn chunked_bodies() {
    replay("chunked", check::chunked::body);
}
