//! Other people's cases, which `cargo xtask setup` has put into the cache: never a part of the tree.
//!
//! Owns: their formats. Must not: judge them. Called by: `tests/ambiguity.rs`.

use std::env;
use std::fs;
use std::path::PathBuf;

/// Some bytes that somebody else found worth a test.
pub(crate) struct Case {
    /// Whose, and which.
    pub(crate) name: String,
    pub(crate) wire: Vec<u8>,
}

/// gunicorn's requests of one kind, `valid` or `invalid`.
pub(crate) fn gunicorn(kind: &str) -> Vec<Case> {
    let cases = files("gunicorn", kind, "http");
    cases.into_iter().map(|(name, text)| Case { name: format!("{kind}/{name}"), wire: gunicorn_bytes(&text) }).collect()
}

/// httparse's requests and responses.
pub(crate) fn httparse() -> (Vec<Case>, Vec<Case>) {
    let mut all = Vec::new();
    for (file, text) in files("httparse", "", "rs") {
        let tests = text.windows(9).position(|nine| nine == b"mod tests").unwrap_or_default();
        let literals = byte_literals(&text[tests..]).into_iter().enumerate();
        all.extend(literals.map(|(number, wire)| Case { name: format!("httparse/{file}/{number}"), wire }));
    }
    let message = |case: &Case| case.wire.contains(&b' ');
    all.into_iter().filter(message).partition(|case| !case.wire.trim_ascii_start().starts_with(b"HTTP/"))
}

/// The requests of `http_desync_guardian`, with a space after each colon and without.
pub(crate) fn guardian() -> Vec<Case> {
    let mut cases = Vec::new();
    for (file, text) in files("http_desync_guardian", "", "yaml") {
        let text = String::from_utf8(text).expect("YAML is UTF-8");
        for (number, request) in guardian_requests(&text).into_iter().enumerate() {
            for space in [" ", ""] {
                let name = format!("guardian/{file}/{number}{space}");
                cases.push(Case { name, wire: request.wire(space) });
            }
        }
    }
    cases
}

/// Name (without extension) and content of each file, in the order of their names.
fn files(whose: &str, folder: &str, extension: &str) -> Vec<(String, Vec<u8>)> {
    let folder = cases().join(whose).join(folder);
    let there = folder.is_dir();
    assert!(there, "{} is missing: run `cargo xtask setup`, which downloads it", folder.display());
    let entries = fs::read_dir(&folder).expect("the cache is readable");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("the cache is readable").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|found| found == extension));
    paths.sort();
    let stem = |path: &PathBuf| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    paths.iter().map(|path| (stem(path), fs::read(path).expect("the cache is readable"))).collect()
}

/// `cargo xtask test` says where; a plain `cargo test` looks where set-up puts them.
fn cases() -> PathBuf {
    if let Some(cases) = env::var_os("REDIR_CASES") {
        return cases.into();
    }
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    cache.expect("HOME is set").join("redir/cases")
}

/// gunicorn's `treq.py`: line ends mean nothing, escapes mean bytes.
fn gunicorn_bytes(text: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    let mut rest = text;
    loop {
        rest = match rest {
            [] => return wire,
            [b'\n', rest @ ..] => rest,
            [b'\\', escaped @ ..] => unescape(escaped, &mut wire),
            [byte, rest @ ..] => {
                wire.push(*byte);
                rest
            }
        };
    }
}

/// The byte literals of Rust source, in their order.
fn byte_literals(mut source: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(at) = source.windows(2).position(|two| two == b"b\"") {
        source = &source[at + 2..];
        let mut literal = Vec::new();
        loop {
            source = match source {
                [] | [b'"', ..] => break,
                // The line goes on after the spaces of the next one.
                [b'\\', b'\n', rest @ ..] => rest.trim_ascii_start(),
                [b'\\', escaped @ ..] => unescape(escaped, &mut literal),
                [byte, rest @ ..] => {
                    literal.push(*byte);
                    rest
                }
            };
        }
        all.push(literal);
    }
    all
}

/// The byte that an escape means goes to `into`; what follows the escape.
fn unescape<'a>(escaped: &'a [u8], into: &mut Vec<u8>) -> &'a [u8] {
    let (byte, rest) = match escaped {
        [b'x', high, low, rest @ ..] => {
            let digits = [*high, *low];
            let digits = std::str::from_utf8(&digits).expect("hexadecimal");
            (u8::from_str_radix(digits, 16).expect("hexadecimal"), rest)
        }
        [b'r', rest @ ..] => (b'\r', rest),
        [b'n', rest @ ..] => (b'\n', rest),
        [b't', rest @ ..] => (b'\t', rest),
        [b'0', rest @ ..] => (0, rest),
        [byte, rest @ ..] => (*byte, rest),
        [] => return escaped,
    };
    into.push(byte);
    rest
}

#[derive(Default)]
struct GuardianRequest {
    uri: Vec<u8>,
    method: Vec<u8>,
    version: Vec<u8>,
    headers: Vec<(Vec<u8>, Vec<u8>)>,
}

impl GuardianRequest {
    fn wire(&self, space: &str) -> Vec<u8> {
        let mut wire = [&self.method, &b" "[..], &self.uri, b" ", &self.version, b"\r\n"].concat();
        for (name, value) in &self.headers {
            wire.extend([name, &b":"[..], space.as_bytes(), value, b"\r\n"].concat());
        }
        wire.extend_from_slice(b"\r\n");
        wire
    }
}

/// The few forms of YAML that the guardian's files have: one scalar a line, and lists of maps by their indentation.
fn guardian_requests(text: &str) -> Vec<GuardianRequest> {
    let mut all: Vec<GuardianRequest> = Vec::new();
    for line in text.lines() {
        if line.starts_with("- name:") {
            all.push(GuardianRequest::default());
        }
        let Some(request) = all.last_mut() else { continue };
        let Some((key, value)) = line.split_once(':') else { continue };
        let value = scalar(value.trim());
        match key {
            "  uri" => request.uri = value,
            "  method" => request.method = value,
            "  version" => request.version = value,
            "    - name" => request.headers.push((value, vec![])),
            "      value" => {
                if let Some((_, last)) = request.headers.last_mut() {
                    *last = value;
                }
            }
            _ => {}
        }
    }
    all
}

/// Plain, 'single' or "double": their reader takes escapes in each of them.
fn scalar(written: &str) -> Vec<u8> {
    let quoted = ['"', '\''].iter().find_map(|quote| written.strip_prefix(*quote)?.strip_suffix(*quote));
    let mut bytes = Vec::new();
    let mut rest = quoted.unwrap_or(written).as_bytes();
    loop {
        rest = match rest {
            [] => return bytes,
            [b'\\', escaped @ ..] => unescape(escaped, &mut bytes),
            [byte, rest @ ..] => {
                bytes.push(*byte);
                rest
            }
        };
    }
}
