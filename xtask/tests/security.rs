//! SECURITY.md names a test for each defence: each of them is there, and no line is without one.

use std::fs;
use std::path::Path;

/// `[name](path)` of a line.
fn links(line: &str) -> impl Iterator<Item = (&str, &str)> {
    line.split('[').skip(1).filter_map(|rest| rest.split_once(')')?.0.split_once("]("))
}

/// Whether a source has a test of this name that is not left out: a function below `#[test]` and other attributes, or one that
/// a macro of the end-to-end tests makes, which begins with its name.
fn has_test(source: &str, name: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim_start).collect();
    let begins = |line: &str, words: &[&str], end: char| {
        words.iter().any(|word| line.starts_with(&format!("{word}{name}{end}")))
    };
    lines.iter().enumerate().any(|(at, line)| {
        let mut attributes = lines[..at].iter().rev().take_while(|line| line.starts_with("#["));
        let is_test =
            attributes.clone().any(|line| ["#[test]", "#[tokio::test"].iter().any(|test| line.starts_with(test)));
        let is_function = begins(line, &["fn ", "async fn "], '(') && is_test;
        let is_left_out = attributes.any(|line| line.starts_with("#[ignore"));
        (is_function || begins(line, &["once!(", "both!("], ',')) && !is_left_out
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
    assert!(!has_test("#[expect(dead_code)]\nfn a() {}", "a") && !has_test("#[cfg(test)]\nfn a() {}", "a"));
    assert!(has_test("once!(a, USUAL, |w| {", "a") && !has_test("once!(ab, USUAL, |w| {", "a"));
    assert!(!has_test("#[test]\n#[ignore = \"slow\"]\nfn a() {}", "a"));
}
