//! SECURITY.md names a test for each defence: each of them is there, and no line is without one.

use std::fs;
use std::path::Path;

/// `[name](path)` of a line.
fn links(line: &str) -> impl Iterator<Item = (&str, &str)> {
    line.split('[').skip(1).filter_map(|rest| rest.split_once(')')?.0.split_once("]("))
}

/// Whether a source has a test of this name: a function right below `#[test]` and other attributes.
fn has_test(source: &str, name: &str) -> bool {
    let is_it =
        |line: &str| ["", "async "].iter().any(|word| line.trim_start().starts_with(&format!("{word}fn {name}(")));
    let lines: Vec<&str> = source.lines().collect();
    lines.iter().position(|line| is_it(line)).is_some_and(|at| {
        let attributes = lines[..at].iter().rev().take_while(|line| line.trim_start().starts_with("#["));
        attributes.clone().any(|line| line.contains("test"))
    })
}

#[test]
fn every_defence_has_a_test_that_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = fs::read_to_string(root.join("SECURITY.md")).unwrap();
    let (_, table) = text.split_once("| attack | defence | test |\n").unwrap();
    let rows: Vec<&str> = table.lines().skip(1).take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() > 5, "{rows:?}");
    for row in rows {
        let tests = row.trim_end_matches('|').rsplit('|').next().unwrap();
        assert!(links(tests).count() > 0, "no test: {row}");
        for (name, path) in links(tests) {
            let source = fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
            assert!(has_test(&source, name), "{path} has no test {name}");
        }
    }
}

#[test]
fn a_function_is_no_test_by_its_name_alone() {
    assert!(has_test("#[test]\nfn a() {}", "a") && has_test("  #[tokio::test]\n  async fn a() {}", "a"));
    assert!(!has_test("fn a() {}", "a") && !has_test("#[test]\nfn ab() {}", "a"));
    assert!(!has_test("#[expect(dead_code)]\nfn a() {}", "a"));
}
