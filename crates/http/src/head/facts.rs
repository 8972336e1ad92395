//! What a head says about its message and its connection.
//!
//! Owns: the framing and connection fields, validated while they are read. Must not: decide what follows from them
//! (that is `framing`). Called by: `RequestHead`, `ResponseHead`, `framing`, `engine`.

use super::FieldLine;
use crate::Ambiguity;
use crate::bytes::{self, folds_to};

/// The fields of a head that say how it is framed and what becomes of the connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts {
    length: u64,
    flags: u16,
}

const LENGTH: u16 = 1;
const CHUNKED: u16 = 1 << 1;
const CLOSE: u16 = 1 << 2;
const KEEP_ALIVE: u16 = 1 << 3;
const UPGRADE: u16 = 1 << 4;
const EXPECT: u16 = 1 << 5;
const PROBE: u16 = 1 << 6;
const HTTP_1_0: u16 = 1 << 7;
const H2C: u16 = 1 << 8;
const OTHER_PROTOCOL: u16 = 1 << 9;

/// The fields that are read here, beside what looks like one of the last two.
pub(super) const FRAMING: [&[u8]; 6] =
    [b"expect", b"upgrade", b"user-agent", b"connection", b"content-length", b"transfer-encoding"];

/// The longest Content-Length taken, in digits: 18 of them fit every reader's 64-bit integer, signed or not.
const MAX_DIGITS: usize = 18;

impl Facts {
    fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    pub(super) fn set_http_1_0(&mut self) {
        self.flags |= HTTP_1_0;
    }

    /// The value of Content-Length.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        self.has(LENGTH).then_some(self.length)
    }

    /// `Transfer-Encoding: chunked`.
    #[must_use]
    pub fn chunked(&self) -> bool {
        self.has(CHUNKED)
    }

    /// Whether an Upgrade field is there; whether Connection names it is the origin's business.
    #[must_use]
    pub fn upgrade(&self) -> bool {
        self.has(UPGRADE)
    }

    /// Whether Upgrade names `h2c`, HTTP/2 over cleartext TCP (RFC 7540, 3.2).
    #[must_use]
    pub fn h2c(&self) -> bool {
        self.has(H2C)
    }

    /// Whether Upgrade names `h2c` and no other protocol.
    #[must_use]
    pub fn only_h2c(&self) -> bool {
        self.has(H2C) && !self.has(OTHER_PROTOCOL)
    }

    /// `Expect: 100-continue`.
    #[must_use]
    pub fn expect(&self) -> bool {
        self.has(EXPECT)
    }

    /// `User-Agent: kube-probe/…`, the kubelet's.
    #[must_use]
    pub fn probe(&self) -> bool {
        self.has(PROBE)
    }

    /// HTTP/1.0.
    #[must_use]
    pub fn http_1_0(&self) -> bool {
        self.has(HTTP_1_0)
    }

    /// Whether the connection ends after this message, as far as its sender says (RFC 9112, 9.3).
    #[must_use]
    pub fn closes(&self) -> bool {
        self.has(CLOSE) || (self.has(HTTP_1_0) && !self.has(KEEP_ALIVE))
    }

    /// Takes note of one field.
    #[inline(always)]
    pub(super) fn field(&mut self, field: &FieldLine<'_>) -> Result<(), Ambiguity> {
        match field.name.len() {
            6 if folds_to(field.name, b"expect") => return self.expects(field.raw),
            7 if folds_to(field.name, b"upgrade") => self.protocols(field.raw),
            10 if folds_to(field.name, b"user-agent") => self.user_agent(field.raw),
            10 if folds_to(field.name, b"connection") => self.connection(field.raw),
            14 if folds_to(field.name, b"content-length") => return self.content_length(field.raw),
            17 if field.name.eq_ignore_ascii_case(b"transfer-encoding") => return self.transfer_encoding(field.raw),
            SHORTEST_LOOKALIKE.. if looks_like_framing(field.name) => return Err(Ambiguity::LookalikeName),
            _ => {}
        }
        Ok(())
    }

    fn user_agent(&mut self, raw: &[u8]) {
        let blank = raw.iter().position(|byte| !matches!(byte, b' ' | b'\t')).unwrap_or(raw.len());
        if raw.get(blank..).is_some_and(|value| value.starts_with(b"kube-probe/")) {
            self.flags |= PROBE;
        }
    }

    #[inline(never)]
    fn protocols(&mut self, raw: &[u8]) {
        self.flags |= UPGRADE;
        for protocol in raw.split(|&byte| byte == b',').map(bytes::trimmed) {
            self.flags |= if protocol.eq_ignore_ascii_case(b"h2c") { H2C } else { OTHER_PROTOCOL };
        }
    }

    #[inline(never)]
    fn content_length(&mut self, raw: &[u8]) -> Result<(), Ambiguity> {
        if self.has(LENGTH) {
            return Err(Ambiguity::LengthTwice);
        }
        if self.has(CHUNKED) {
            return Err(Ambiguity::LengthAndCoding);
        }
        let digits = raw.strip_prefix(b" ").unwrap_or(raw);
        // A leading zero means octal to some readers.
        let octal = digits.len() > 1 && digits.first() == Some(&b'0');
        if digits.is_empty() || digits.len() > MAX_DIGITS || octal || !digits.iter().all(u8::is_ascii_digit) {
            return Err(Ambiguity::LengthOdd);
        }
        self.length = digits.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit & 15));
        self.flags |= LENGTH;
        Ok(())
    }

    #[inline(never)]
    fn transfer_encoding(&mut self, raw: &[u8]) -> Result<(), Ambiguity> {
        if self.has(CHUNKED) {
            return Err(Ambiguity::CodingTwice);
        }
        if self.has(LENGTH) {
            return Err(Ambiguity::LengthAndCoding);
        }
        if raw.strip_prefix(b" ").unwrap_or(raw) != b"chunked" {
            return Err(Ambiguity::CodingOdd);
        }
        self.flags |= CHUNKED;
        Ok(())
    }

    #[inline(never)]
    fn expects(&mut self, raw: &[u8]) -> Result<(), Ambiguity> {
        if self.has(EXPECT) || !folds_to(bytes::trimmed(raw), b"100-continue") {
            return Err(Ambiguity::ExpectOdd);
        }
        self.flags |= EXPECT;
        Ok(())
    }

    fn connection(&mut self, raw: &[u8]) {
        // The common ones by themselves: a list takes longer.
        match raw.strip_prefix(b" ").unwrap_or(raw) {
            value if folds_to(value, b"keep-alive") => self.flags |= KEEP_ALIVE,
            value if folds_to(value, b"close") => self.flags |= CLOSE,
            _ => self.options(raw),
        }
    }

    #[inline(never)]
    fn options(&mut self, raw: &[u8]) {
        for option in raw.split(|&byte| byte == b',').map(bytes::trimmed) {
            if folds_to(option, b"close") {
                self.flags |= CLOSE;
            } else if folds_to(option, b"keep-alive") {
                self.flags |= KEEP_ALIVE;
            }
        }
    }
}

/// `ContentLength`, in bytes.
pub(super) const SHORTEST_LOOKALIKE: usize = 13;

/// Whether `name` has the letters of a framing field's, and other punctuation. CGI's variables fold `-` and `_` into one;
/// whatever else is put between the letters was put there to be read by one server and not by another.
fn looks_like_framing(name: &[u8]) -> bool {
    let mut letters = name.iter().filter(|byte| byte.is_ascii_alphanumeric()).map(u8::to_ascii_lowercase);
    match letters.next() {
        Some(b'c') => letters.eq(*b"ontentlength"),
        Some(b't') => letters.eq(*b"ransferencoding"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(fields: &[(&str, &str)]) -> Result<Facts, Ambiguity> {
        let mut facts = Facts::default();
        for (name, raw) in fields {
            facts.field(&FieldLine { name: name.as_bytes(), raw: raw.as_bytes(), at: 0 })?;
        }
        Ok(facts)
    }

    #[test]
    fn a_length_is_plain_digits_or_nothing() {
        for (raw, expected) in
            [(" 0", 0), ("5", 5), (" 123456789012345678", 123_456_789_012_345_678), (" 10", 10), (" 9", 9)]
        {
            assert_eq!(facts(&[("Content-Length", raw)]).unwrap().length(), Some(expected), "{raw:?}");
        }
        for raw in [
            "",
            " ",
            " +5",
            " -5",
            " 05",
            " 00",
            " 5 ",
            "  5",
            "\t5",
            " 5\t",
            " 0x5",
            " 5,5",
            " 5, 5",
            " 5;",
            " 5a",
            " five",
            " 1234567890123456789",
            " 5.0",
            " 5_0",
            " \u{662}",
        ] {
            assert_eq!(facts(&[("Content-Length", raw)]).unwrap_err(), Ambiguity::LengthOdd, "{raw:?}");
        }
    }

    #[test]
    fn a_coding_is_exactly_chunked() {
        for name in ["Transfer-Encoding", "transfer-encoding", "TRANSFER-ENCODING"] {
            assert!(facts(&[(name, " chunked")]).unwrap().chunked());
            assert!(facts(&[(name, "chunked")]).unwrap().chunked());
        }
        for raw in [
            "",
            " ",
            " Chunked",
            " CHUNKED",
            " chunked ",
            "  chunked",
            "\tchunked",
            " chunked\t",
            " \"chunked\"",
            " 'chunked'",
            " gzip, chunked",
            " chunked, chunked",
            " chunked,",
            " ,chunked",
            " identity",
            " chunked;q=1",
            " xchunked",
            " chunke",
            " chunked\u{b}",
            " chunked\u{85}",
            " \u{a0}chunked",
        ] {
            assert_eq!(facts(&[("Transfer-Encoding", raw)]).unwrap_err(), Ambiguity::CodingOdd, "{raw:?}");
        }
    }

    #[test]
    fn framing_fields_occur_once_and_alone() {
        let length = ("content-length", " 5");
        let coding = ("transfer-encoding", " chunked");
        assert_eq!(facts(&[length, length]).unwrap_err(), Ambiguity::LengthTwice);
        assert_eq!(facts(&[coding, coding]).unwrap_err(), Ambiguity::CodingTwice);
        assert_eq!(facts(&[length, coding]).unwrap_err(), Ambiguity::LengthAndCoding);
        assert_eq!(facts(&[coding, length]).unwrap_err(), Ambiguity::LengthAndCoding);
    }

    #[test]
    fn lookalikes_are_ambiguous_and_strangers_are_not() {
        for name in [
            "Content_Length",
            "content_length",
            "Transfer_Encoding",
            "TRANSFER_ENCODING",
            "ContentLength",
            "TransferEncoding",
            "Content--Length",
            "Content-Length-",
            "-content-length",
            "$Transfer-Encoding",
            "Transfer.Encoding",
            "T-r-a-n-s-f-e-r-Encoding",
            "'_Content-Length_'",
        ] {
            assert_eq!(facts(&[(name, " 5")]).unwrap_err(), Ambiguity::LookalikeName, "{name}");
        }
        for name in [
            "Content-Lengths",
            "X-Content-Length",
            "Content-Lenght",
            "Content-Length2",
            "transfer-encodings",
            "content-type",
            "x_y",
            "--------------",
        ] {
            assert!(facts(&[(name, " 5")]).is_ok(), "{name}");
        }
    }

    #[test]
    fn connection_options_are_read_in_lists_and_repeats() {
        assert!(facts(&[("Connection", " close")]).unwrap().closes());
        assert!(facts(&[("Connection", " keep-alive , CLOSE")]).unwrap().closes());
        assert!(facts(&[("Connection", " keep-alive"), ("connection", "close")]).unwrap().closes());
        assert!(!facts(&[("Connection", " closed, x-close")]).unwrap().closes());
        assert!(!facts(&[("Connection", " keep-alive")]).unwrap().closes());
    }

    #[test]
    fn protocols_are_read_in_lists_and_repeats() {
        let h2c = |fields| facts(fields).map(|facts| (facts.upgrade(), facts.h2c(), facts.only_h2c())).unwrap();
        assert_eq!(h2c(&[("Upgrade", " h2c")]), (true, true, true));
        assert_eq!(h2c(&[("upgrade", "H2C"), ("Upgrade", " h2c")]), (true, true, true));
        assert_eq!(h2c(&[("Upgrade", " websocket, h2c")]), (true, true, false));
        assert_eq!(h2c(&[("Upgrade", " h2c"), ("Upgrade", " websocket")]), (true, true, false));
        assert_eq!(h2c(&[("Upgrade", " websocket")]), (true, false, false));
        assert_eq!(h2c(&[("Upgrade", " h2cx")]), (true, false, false));
        assert_eq!(h2c(&[("HTTP2-Settings", " h2c")]), (false, false, false));
    }

    #[test]
    fn http_1_0_closes_unless_it_says_keep_alive() {
        let mut old = Facts::default();
        old.set_http_1_0();
        assert!(old.closes());
        old.field(&FieldLine { name: b"connection", raw: b" Keep-Alive", at: 0 }).unwrap();
        assert!(!old.closes());
    }

    #[test]
    fn expect_is_100_continue_once() {
        assert!(facts(&[("Expect", " 100-Continue")]).unwrap().expect());
        for fields in [
            &[("Expect", " 100-continue, x")][..],
            &[("Expect", "")],
            &[("Expect", " 100-continue"), ("expect", " 100-continue")],
        ] {
            assert_eq!(facts(fields).unwrap_err(), Ambiguity::ExpectOdd);
        }
    }

    #[test]
    fn the_kubelet_is_known_by_its_user_agent() {
        assert!(facts(&[("User-Agent", " kube-probe/1.30")]).unwrap().probe());
        assert!(!facts(&[("User-Agent", " curl kube-probe/1.30")]).unwrap().probe());
        assert!(!facts(&[("X-User-Agent", " kube-probe/1.30")]).unwrap().probe());
    }
}
