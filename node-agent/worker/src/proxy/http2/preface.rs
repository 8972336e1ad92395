//! Whether both ends of a connection speak HTTP/2, told by their first bytes.
//!
//! Pure: bytes in, verdict out. Called by `connection`, which holds the bytes, before it hands a connection over.
//!
//! A client with prior knowledge begins with 24 bytes that are the same for all. They are passed on at once; what else
//! the client sends waits until the app has answered with the SETTINGS that every HTTP/2 server begins with (RFC 9113,
//! 3.4), or with something else: then everything goes on as it came, and the app has seen what it would without redir.

/// What every HTTP/2 client sends first (RFC 9113, 3.4).
pub(in super::super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame's head: length, type, flags, stream (RFC 9113, 4.1).
const HEAD: usize = 9;
/// The largest frame that a peer may send unasked (RFC 9113, 4.2); real SETTINGS have a few dozen bytes.
const MAX_FRAME: usize = 16_384;
const SETTINGS: u8 = 4;
const ACK: u8 = 1;

/// What the first bytes of a side tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Told {
    /// Nothing certain yet.
    NeedMore,
    /// It speaks HTTP/2.
    Http2,
    /// It does not.
    Other,
}

/// What a client's first bytes tell.
pub(in super::super) fn client(bytes: &[u8]) -> Told {
    let len = bytes.len().min(PREFACE.len());
    match bytes[..len] == PREFACE[..len] {
        false => Told::Other,
        true if len < PREFACE.len() => Told::NeedMore,
        true => Told::Http2,
    }
}

/// What a server's first bytes tell: it begins with the head of SETTINGS that acknowledge nothing.
pub(in super::super) fn server(bytes: &[u8]) -> Told {
    let len = bytes.len().min(HEAD);
    // The highest bit of the stream's number means nothing (RFC 9113, 4.1).
    let possible = bytes[..len].iter().enumerate().all(|(at, &byte)| match at {
        0 | 6..9 => byte == 0,
        3 => byte == SETTINGS,
        4 => byte & ACK == 0,
        5 => byte & 0x7f == 0,
        _ => true,
    });
    let length = bytes.first_chunk().map(|head: &[u8; 3]| usize::from(head[1]) << 8 | usize::from(head[2]));
    match possible && length.is_none_or(|length| length <= MAX_FRAME && length.is_multiple_of(6)) {
        false => Told::Other,
        true if len < HEAD => Told::NeedMore,
        true => Told::Http2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_known_by_all_of_its_preface() {
        for len in 0..PREFACE.len() {
            assert_eq!(client(&PREFACE[..len]), Told::NeedMore);
            let mut other = PREFACE[..=len].to_vec();
            other[len] ^= 1;
            assert_eq!(client(&other), Told::Other);
        }
        assert_eq!(client(PREFACE), Told::Http2);
        assert_eq!(client(&[&PREFACE[..], b"anything"].concat()), Told::Http2);
    }

    #[test]
    fn a_server_is_known_by_the_head_of_its_settings() {
        let settings = [0, 0, 12, 4, 0, 0, 0, 0, 0];
        for len in 0..settings.len() {
            assert_eq!(server(&settings[..len]), Told::NeedMore);
        }
        assert_eq!(server(&settings), Told::Http2);
        assert_eq!(server(&[0, 0, 0, 4, 0, 0x80, 0, 0, 0, 9, 9]), Told::Http2);
        for other in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            b"H",
            b"\x15\x03\x01",
            // Of another type, an acknowledgement, of a stream, of an odd length, too long.
            &[0, 0, 12, 6, 0, 0, 0, 0, 0],
            &[0, 0, 0, 4, 1, 0, 0, 0, 0],
            &[0, 0, 12, 4, 0, 0, 0, 0, 1],
            &[0, 0, 11, 4, 0, 0, 0, 0, 0],
            &[0, 0x40, 0x02, 4, 0, 0, 0, 0, 0],
        ] {
            assert_eq!(server(other), Told::Other, "{other:?}");
        }
    }
}
