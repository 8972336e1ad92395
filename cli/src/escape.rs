//! Makes bytes from elsewhere safe to show: what a client sent must not move the cursor, recolour or spoof a line.
//!
//! Owns: the escaping of paths, methods, names and reasons. Must not print. Called by: `report`, `wording`.

use std::fmt::Write as _;

/// Printable ASCII stays; every other byte becomes `\xNN`, and a backslash is doubled so that nothing is ambiguous.
pub(crate) fn escape(bytes: impl AsRef<[u8]>) -> String {
    let bytes = bytes.as_ref();
    let mut out = String::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b'\\' => out.push_str("\\\\"),
            0x20..=0x7e => out.push(char::from(byte)),
            _ => write!(out, "\\x{byte:02x}").expect("writing to a String cannot fail"),
        }
    }
    out
}

/// Sentences from an agent: like `escape`, but a backslash that the agent wrote is not doubled.
pub(crate) fn escape_sentence(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        match byte {
            0x20..=0x7e => out.push(char::from(byte)),
            _ => write!(out, "\\x{byte:02x}").expect("writing to a String cannot fail"),
        }
        out
    })
}

/// One word for a shell, in printable ASCII: in single quotes where it must be quoted, and in bash's and zsh's `$'...'`
/// where it holds other bytes.
pub(crate) fn shell_word(word: impl AsRef<[u8]>) -> String {
    let word = word.as_ref();
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_./:=,@%+".contains(byte);
    let text: String = word.iter().copied().map(char::from).collect();
    if !word.is_empty() && word.iter().all(plain) {
        return text;
    }
    if word.iter().all(|byte| (0x20..=0x7e).contains(byte)) {
        return format!("'{}'", text.replace('\'', "'\\''"));
    }
    format!("$'{}'", escape(word).replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_and_non_ascii_bytes_are_escaped() {
        assert_eq!(escape("/a b~"), "/a b~");
        assert_eq!(escape("/\u{1b}[31mred\r\n"), "/\\x1b[31mred\\x0d\\x0a");
        assert_eq!(escape("/é"), "/\\xc3\\xa9");
        assert_eq!(escape([0x00, 0x7f, 0xff]), "\\x00\\x7f\\xff");
        assert_eq!(escape("C:\\x41"), "C:\\\\x41");
        assert_eq!(escape_sentence("a\\b\u{9b}c"), "a\\b\\xc2\\x9bc");
    }

    /// Any bytes: the result is printable ASCII, and the bytes can be had back from it.
    #[test]
    fn any_bytes_become_printable_ascii_and_can_be_had_back() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for round in 0..2_000_usize {
            let bytes: Vec<u8> = (0..round % 67)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    state.to_le_bytes()[3]
                })
                .collect();
            let shown = escape(&bytes);
            assert!(shown.bytes().all(|b| (0x20..=0x7e).contains(&b)), "{shown:?}");
            assert_eq!(unescape(&shown), bytes);
        }
    }

    fn unescape(text: &str) -> Vec<u8> {
        let mut rest = text.as_bytes();
        let mut out = Vec::new();
        while let Some((&first, tail)) = rest.split_first() {
            let (byte, after) = match (first, tail) {
                (b'\\', [b'\\', tail @ ..]) => (b'\\', tail),
                (b'\\', [b'x', high, low, tail @ ..]) => {
                    let hex = [*high, *low];
                    (u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap(), tail)
                }
                (other, tail) => (other, tail),
            };
            out.push(byte);
            rest = after;
        }
        out
    }

    #[test]
    fn shell_words_are_quoted_when_they_must_be() {
        assert_eq!(shell_word("http://10.0.0.1:8080/"), "http://10.0.0.1:8080/");
        assert_eq!(shell_word("x-user: alice"), "'x-user: alice'");
        assert_eq!(shell_word("it's"), "'it'\\''s'");
        assert_eq!(shell_word(""), "''");
        assert_eq!(shell_word("$(reboot)"), "'$(reboot)'");
        assert_eq!(shell_word("zo\u{eb}'\\"), r"$'zo\xc3\xab\'\\'");
    }
}
