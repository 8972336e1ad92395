//! `Upgrade: h2c`, a client's offer to go on with HTTP/2 over cleartext TCP (RFC 7540, 3.2).
//!
//! Owns: the head of a request without that offer, and the SETTINGS that came with it. Must not: decide who gets which.
//! Called by: the agent's relay. A developer who answered 101 would have the whole connection, with the streams that are
//! not theirs; without the offer they answer in HTTP/1, which every client that makes it takes (RFC 7540, 3.2: "A server
//! that does not support HTTP/2 can respond to the request as though the Upgrade header field were absent").

use crate::bytes::trimmed;

/// The protocol's name.
const H2C: &[u8] = b"h2c";
const SETTINGS: &[u8] = b"http2-settings";
const UPGRADE: &[u8] = b"upgrade";
const CONNECTION: &[u8] = b"connection";

/// A complete, unambiguous head without `h2c` in Upgrade, without HTTP2-Settings, and without both in Connection. Every
/// other byte stays.
#[must_use]
pub fn withdraw(head: &[u8]) -> Vec<u8> {
    let others = fields(head).any(|(name, value)| name.eq_ignore_ascii_case(UPGRADE) && list(value, &[H2C]).is_some());
    let hop: &[&[u8]] = if others { &[SETTINGS] } else { &[SETTINGS, UPGRADE] };
    let mut without = Vec::with_capacity(head.len());
    for line in head.split_inclusive(|&byte| byte == b'\n') {
        match field(line) {
            Some((name, _)) if name.eq_ignore_ascii_case(SETTINGS) => {}
            Some((name, value)) if name.eq_ignore_ascii_case(UPGRADE) => write(&mut without, line, name, value, &[H2C]),
            Some((name, value)) if name.eq_ignore_ascii_case(CONNECTION) => write(&mut without, line, name, value, hop),
            Some(_) | None => without.extend_from_slice(line),
        }
    }
    without
}

/// The payload of the SETTINGS frame in a head's HTTP2-Settings. `None` if it is not there exactly once, or malformed: then
/// the offer is none (RFC 7540, 3.2.1).
#[must_use]
pub fn settings(head: &[u8]) -> Option<Vec<u8>> {
    let mut values = fields(head).filter(|(name, _)| name.eq_ignore_ascii_case(SETTINGS));
    let (_, value) = values.next()?;
    let payload = decode(trimmed(value))?;
    (values.next().is_none() && payload.len().is_multiple_of(SETTING)).then_some(payload)
}

/// One parameter: an identifier of two bytes and a value of four (RFC 9113, 6.5.1).
const SETTING: usize = 6;

fn fields(head: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    head.split_inclusive(|&byte| byte == b'\n').filter_map(field)
}

/// Name and value of a field line. (A request line with a colon has a name with spaces, which is nobody's.)
fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|&byte| byte == b':')?;
    let (name, value) = line.split_at(colon);
    Some((name, value.get(1..)?.trim_ascii_end()))
}

/// The line again, without some members of its list; nothing if none is left.
fn write(to: &mut Vec<u8>, line: &[u8], name: &[u8], value: &[u8], drop: &[&[u8]]) {
    let has = members(value).any(|member| is_one_of(member, drop));
    match list(value, drop) {
        _ if !has => to.extend_from_slice(line),
        None => {}
        Some(rest) => to.extend_from_slice(&[name, b": ", &rest, b"\r\n"].concat()),
    }
}

/// A list without some of its members; `None` if none is left.
fn list(value: &[u8], drop: &[&[u8]]) -> Option<Vec<u8>> {
    let rest: Vec<_> = members(value).filter(|member| !is_one_of(member, drop)).collect();
    (!rest.is_empty()).then(|| rest.join(&b", "[..]))
}

fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(trimmed).filter(|member| !member.is_empty())
}

fn is_one_of(member: &[u8], names: &[&[u8]]) -> bool {
    names.iter().any(|name| member.eq_ignore_ascii_case(name))
}

/// base64url; the padding that RFC 7540 leaves out is taken as well, since some clients send it.
fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let end = text.iter().rposition(|&byte| byte != b'=').map_or(0, |last| last + 1);
    let digits = text.get(..end)?;
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    for group in digits.chunks(4) {
        let value = group.iter().try_fold(0u32, |value, &digit| Some(value << 6 | sextet(digit)?))?;
        // One digit alone is less than a byte.
        let (whole, missing) = (group.len().checked_sub(1)?, 4 - group.len());
        if whole == 0 {
            return None;
        }
        bytes.extend((value << (6 * missing)).to_be_bytes().iter().skip(1).take(whole));
    }
    Some(bytes)
}

fn sextet(digit: u8) -> Option<u32> {
    let value = match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'-' => 62,
        b'_' => 63,
        _ => return None,
    };
    Some(value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offer_is_taken_out_and_nothing_else() {
        for (head, without) in [
            // The JDK's.
            (
                "GET /a HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nHost: web:80\r\n\
                 HTTP2-Settings: AAEAAEAAAAIAAAAB\r\nUpgrade: h2c\r\nUser-Agent: Java-http-client/17\r\n\r\n",
                "GET /a HTTP/1.1\r\nHost: web:80\r\nUser-Agent: Java-http-client/17\r\n\r\n",
            ),
            (
                "POST http://h2c/ HTTP/1.1\r\nconnection:keep-alive ,upgrade,http2-settings\r\nUPGRADE: websocket, H2C\r\n\
                 http2-settings:\r\nX-Upgrade: h2c\r\nTE: trailers\r\n\r\n",
                "POST http://h2c/ HTTP/1.1\r\nconnection: keep-alive, upgrade\r\nUPGRADE: websocket\r\n\
                 X-Upgrade: h2c\r\nTE: trailers\r\n\r\n",
            ),
            (
                "GET / HTTP/1.1\r\nUpgrade: h2c\r\nConnection: close \r\nConnection: Upgrade\r\n\r\n",
                "GET / HTTP/1.1\r\nConnection: close \r\n\r\n",
            ),
        ] {
            let got = withdraw(head.as_bytes());
            assert_eq!(String::from_utf8(got).unwrap(), without);
            assert_eq!(withdraw(without.as_bytes()), without.as_bytes(), "once is enough");
        }
    }

    #[test]
    fn settings_are_read_once_and_whole() {
        let head = |fields: &str| settings(format!("GET / HTTP/1.1\r\n{fields}\r\n").as_bytes());
        assert_eq!(
            head("HTTP2-Settings: AAMAAABkAAQAAP__\r\n"),
            Some(vec![0, 3, 0, 0, 0, 100, 0, 4, 0, 0, 0xff, 0xff])
        );
        assert_eq!(head("http2-settings:AAMAAABk\r\n"), Some(vec![0, 3, 0, 0, 0, 100]));
        assert_eq!(head("HTTP2-Settings: \r\n"), Some(vec![]));
        for bad in ["", "HTTP2-Settings: AAMAAABkAA\r\n", "HTTP2-Settings: AAMA AABk\r\n", "HTTP2-Settings: A\r\n"] {
            assert_eq!(head(bad), None, "{bad}");
        }
        assert_eq!(head("HTTP2-Settings: AAMAAABk\r\nHTTP2-Settings: AAMAAABk\r\n"), None);
    }

    #[test]
    fn base64_is_decoded_for_every_length() {
        for (text, bytes) in [("", &b""[..]), ("Zg", b"f"), ("Zm8", b"fo"), ("Zm9v", b"foo"), ("Zm9vYg==", b"foob")] {
            assert_eq!(decode(text.as_bytes()).as_deref(), Some(bytes));
        }
    }
}
