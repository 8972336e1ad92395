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

/// What a terminal shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Charset {
    /// ASCII, as far as is known.
    Ascii,
    /// UTF-8.
    Utf8,
}

/// Like `escape`, but characters that a terminal shows as themselves stay, where it does. For the developer's own words:
/// those of others could still look like what they are not.
pub(crate) fn escape_own(bytes: impl AsRef<[u8]>, charset: Charset) -> String {
    let bytes = bytes.as_ref();
    if charset == Charset::Ascii {
        return escape(bytes);
    }
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match is_shown(character) {
                true => out.push(character),
                false => out.push_str(&escape(character.encode_utf8(&mut [0; 4]))),
            }
        }
        out.push_str(&escape(chunk.invalid()));
    }
    out
}

/// Not ASCII, and no control, no formatting, no combining character.
fn is_shown(character: char) -> bool {
    !character.is_ascii() && character.escape_debug().eq([character])
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

/// One word for a shell: in single quotes where it must be quoted, and in bash's and zsh's `$'...'` where it holds bytes
/// that are not shown as themselves.
pub(crate) fn shell_word(word: impl AsRef<[u8]>, charset: Charset) -> String {
    let word = word.as_ref();
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_./:=,@%+".contains(byte);
    let text: String = word.iter().copied().map(char::from).collect();
    if !word.is_empty() && word.iter().all(plain) {
        return text;
    }
    if word.iter().all(|byte| (0x20..=0x7e).contains(byte)) {
        return format!("'{}'", text.replace('\'', "'\\''"));
    }
    match str::from_utf8(word) {
        Ok(text) if charset == Charset::Utf8 && text.chars().all(|c| matches!(c, ' '..='~') || is_shown(c)) => {
            format!("'{}'", text.replace('\'', "'\\''"))
        }
        Ok(_) | Err(_) => format!("$'{}'", escape(word).replace('\'', "\\'")),
    }
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
        assert_eq!(shell_word("http://10.0.0.1:8080/", Charset::Ascii), "http://10.0.0.1:8080/");
        assert_eq!(shell_word("x-user: alice", Charset::Ascii), "'x-user: alice'");
        assert_eq!(shell_word("it's", Charset::Ascii), "'it'\\''s'");
        assert_eq!(shell_word("", Charset::Ascii), "''");
        assert_eq!(shell_word("$(reboot)", Charset::Ascii), "'$(reboot)'");
        assert_eq!(shell_word("zo\u{eb}'\\", Charset::Ascii), r"$'zo\xc3\xab\'\\'");
    }

    #[test]
    fn what_a_utf8_terminal_shows_stays() {
        let own = |text: &[u8]| escape_own(text, Charset::Utf8);
        assert_eq!(own("zo\u{eb} \u{65e5}\u{1f600}".as_bytes()), "zo\u{eb} \u{65e5}\u{1f600}");
        // A byte that is none, a control character, a right-to-left override, a zero-width space, a combining accent.
        let hidden = [&b"\xeb\x1b"[..], "\u{202e}\u{200b}e\u{301}\u{9b}".as_bytes()].concat();
        assert_eq!(own(&hidden), r"\xeb\x1b\xe2\x80\xae\xe2\x80\x8be\xcc\x81\xc2\x9b");
        assert_eq!(own(b"a\\b"), r"a\\b");
        assert_eq!(escape_own("zo\u{eb}", Charset::Ascii), r"zo\xc3\xab");
        assert_eq!(shell_word("x: zo\u{eb}'s", Charset::Utf8), "'x: zo\u{eb}'\\''s'");
        assert_eq!(shell_word("x: \u{202e}", Charset::Utf8), r"$'x: \xe2\x80\xae'");
    }
}
