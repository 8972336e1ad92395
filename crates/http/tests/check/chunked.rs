//! The chunked coding against a plain reader of it: one that takes the whole body and works by lines.

use super::splits;
use redir_http::Ambiguity;
use redir_http::framing::{Body, Chunked};

/// What a plain reader says of bytes that begin with a chunked body.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Plain {
    /// It ends after so many bytes.
    LineEnds(usize),
    /// It goes on.
    Open,
    /// It is none.
    Bad,
}

/// RFC 9112, 7.1, as plainly as can be; a line that is not whole yet is not judged.
pub(crate) fn plain(body: &[u8]) -> Plain {
    let mut rest = body;
    loop {
        let Some(line) = line(&mut rest) else { return Plain::Open };
        let (size, extension) = match line.iter().position(|&byte| byte == b';') {
            Some(at) => line.split_at(at),
            None => (line, &[][..]),
        };
        let digits = std::str::from_utf8(size).unwrap_or_default();
        let plain = !digits.is_empty() && digits.len() <= 15 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let Ok(size) = u64::from_str_radix(if plain { digits } else { "" }, 16) else { return Plain::Bad };
        if !extension.iter().all(|&byte| text(byte)) || extension.len() > 4097 {
            return Plain::Bad;
        }
        if size == 0 {
            break;
        }
        let Some(after) = usize::try_from(size).ok().and_then(|size| rest.get(size..)) else { return Plain::Open };
        match after {
            [b'\r', b'\n', next @ ..] => rest = next,
            [] | [b'\r'] => return Plain::Open,
            _ => return Plain::Bad,
        }
    }
    let mut trailers = 0;
    loop {
        let Some(line) = line(&mut rest) else { return Plain::Open };
        if line.is_empty() {
            return Plain::LineEnds(body.len() - rest.len());
        }
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { return Plain::Bad };
        let (name, value) = line.split_at(colon);
        let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        trailers += line.len() - 1;
        if name.is_empty() || !name.iter().all(token) || !value.iter().all(|&byte| text(byte)) || trailers > 65536 {
            return Plain::Bad;
        }
    }
}

/// A tab, or anything that is no control byte.
fn text(byte: u8) -> bool {
    byte == b'\t' || byte >= b' ' && byte != 0x7f
}

/// The next line, without its CRLF; taken off `rest`.
fn line<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let at = rest.windows(2).position(|two| two == b"\r\n")?;
    let line = &rest[..at];
    *rest = &rest[at + 2..];
    Some(line)
}

/// How far the engine's reader gets: the bytes taken, and whether they are a whole body, or what is wrong with the next.
pub(crate) fn read<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> (usize, Result<bool, Ambiguity>) {
    let mut body = Body::Chunked(Chunked::default());
    let mut taken = 0;
    for mut piece in pieces {
        while !piece.is_empty() && !body.is_done() {
            match body.advance(piece) {
                Ok(len) => {
                    assert!(len > 0 && len <= piece.len());
                    taken += len;
                    piece = &piece[len..];
                }
                Err(why) => return (taken, Err(why)),
            }
        }
    }
    (taken, Ok(body.is_done()))
}

/// The fuzz target `chunked`.
pub(crate) fn body(wire: &[u8], places: usize) {
    let whole = read([wire]);
    for split in splits(places, wire.len()) {
        let (first, second) = wire.split_at(split);
        assert_eq!(read([first, second]), whole, "split at {split}: {}", wire.escape_ascii());
    }
    assert_eq!(read(wire.chunks(1)), whole, "byte by byte: {}", wire.escape_ascii());
    let (taken, said) = whole;
    let expected = plain(wire);
    match said {
        Ok(true) => assert_eq!(expected, Plain::LineEnds(taken), "{}", wire.escape_ascii()),
        Ok(false) => assert_eq!((taken, expected), (wire.len(), Plain::Open), "{}", wire.escape_ascii()),
        // Told at the first byte that is wrong, maybe before the line is whole: what came before it was not.
        Err(_) => {
            assert_ne!(plain(&wire[..taken]), Plain::Bad, "told too late: {}", wire.escape_ascii());
            assert!(!matches!(expected, Plain::LineEnds(_)), "{}", wire.escape_ascii());
        }
    }
}
