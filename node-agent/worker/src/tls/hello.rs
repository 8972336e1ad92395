//! The client's first message, read before anything is answered: it can still go to the app as it came.
//!
//! Owns how much of it must be there, and which TLS versions it offers (rustls reads the rest and does not tell those).
//! Called by `proxy::decrypt`, with the bytes as they come.

use rustls::{
    SupportedProtocolVersion,
    server::{Accepted, Acceptor},
    version::{TLS12, TLS13},
};

/// A ClientHello as it comes in.
pub(crate) struct Hello {
    acceptor: Acceptor,
    /// Bytes that the acceptor has.
    taken: usize,
}

/// What is known of it.
pub(crate) enum Heard {
    /// More bytes are needed.
    Partial,
    /// All of it is there.
    Whole(Box<Accepted>, Vec<&'static SupportedProtocolVersion>),
    /// It is none, or one that rustls does not read.
    Foreign,
}

impl Hello {
    /// Nothing has come.
    pub(crate) fn new() -> Self {
        Hello { acceptor: Acceptor::default(), taken: 0 }
    }

    /// Looks at everything that has come, which begins with what it has looked at before. Not to be asked again once
    /// it is not partial.
    pub(crate) fn look(&mut self, bytes: &[u8]) -> Heard {
        let mut new = bytes.get(self.taken..).unwrap_or_default();
        while !new.is_empty() {
            // Its buffer is full only if what comes is no ClientHello.
            if self.acceptor.read_tls(&mut new).is_err() {
                return Heard::Foreign;
            }
        }
        self.taken = bytes.len();
        match self.acceptor.accept() {
            Ok(None) => Heard::Partial,
            Ok(Some(accepted)) => Heard::Whole(Box::new(accepted), versions(bytes)),
            Err(_) => Heard::Foreign,
        }
    }
}

/// The versions that a whole ClientHello offers and rustls speaks (RFC 8446, sections 4.1.2 and 4.2.1).
fn versions(records: &[u8]) -> Vec<&'static SupportedProtocolVersion> {
    let message = message(records);
    let offered = offered(&message).unwrap_or_default();
    [&TLS13, &TLS12].into_iter().filter(|version| offered.contains(&u16::from(version.version))).collect()
}

/// The first handshake message, put together from its records.
fn message(mut records: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    while let Some((&[HANDSHAKE, _, _, high, low], rest)) = records.split_first_chunk() {
        let Some((fragment, rest)) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low]))) else { break };
        message.extend_from_slice(fragment);
        records = rest;
        if let Some(&[_, a, b, c]) = message.first_chunk()
            && message.len() >= 4 + usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX)
        {
            break;
        }
    }
    message
}

fn offered(message: &[u8]) -> Option<Vec<u16>> {
    let mut reader = HelloReader(message);
    reader.take(4)?;
    let legacy = reader.number::<2>()?;
    reader.take(32)?;
    // Session id, cipher suites, compression methods.
    reader.prefixed::<1>()?;
    reader.prefixed::<2>()?;
    reader.prefixed::<1>()?;
    let mut extensions = HelloReader(reader.prefixed::<2>().unwrap_or_default());
    while let Some(kind) = extensions.number::<2>() {
        let content = extensions.prefixed::<2>()?;
        if kind == SUPPORTED_VERSIONS {
            let versions = HelloReader(content).prefixed::<1>()?;
            return Some(versions.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect());
        }
    }
    u16::try_from(legacy).ok().map(|legacy| vec![legacy])
}

/// What is left of a message.
struct HelloReader<'a>(&'a [u8]);

impl<'a> HelloReader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn number<const BYTES: usize>(&mut self) -> Option<usize> {
        Some(self.take(BYTES)?.iter().fold(0, |number, &byte| number << 8 | usize::from(byte)))
    }

    fn prefixed<const BYTES: usize>(&mut self) -> Option<&'a [u8]> {
        let length = self.number::<BYTES>()?;
        self.take(length)
    }
}

/// The record type.
const HANDSHAKE: u8 = 22;
const SUPPORTED_VERSIONS: usize = 43;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{ClientConnection, Connection};

    use super::*;
    use crate::tls::testing::{Certificate, client, name};

    fn written(versions: &[&'static SupportedProtocolVersion], protocols: &[&[u8]]) -> Vec<u8> {
        let mut config = client(&Certificate::new(), versions);
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let mut rustls = Connection::from(ClientConnection::new(Arc::new(config), name()).unwrap());
        let mut bytes = Vec::new();
        rustls.write_tls(&mut bytes).unwrap();
        bytes
    }

    /// The same message in records of so many bytes.
    fn split(hello: &[u8], size: usize) -> Vec<u8> {
        let record = |part: &[u8]| [&hello[..3], &u16::try_from(part.len()).unwrap().to_be_bytes(), part].concat();
        hello[5..].chunks(size).flat_map(record).collect()
    }

    #[test]
    fn what_it_asks_for_is_read_however_it_comes() {
        let hello = written(rustls::ALL_VERSIONS, &[b"h2", b"http/1.1"]);
        for bytes in [hello.clone(), split(&hello, 1), split(&hello, 100)] {
            let mut heard = Hello::new();
            for end in 0..bytes.len() {
                assert!(matches!(heard.look(&bytes[..end]), Heard::Partial), "{end} of {}", bytes.len());
            }
            let Heard::Whole(accepted, versions) = heard.look(&bytes) else { panic!("it is whole") };
            let hello = accepted.client_hello();
            assert_eq!(hello.server_name(), Some("web.test"));
            assert_eq!(hello.alpn().unwrap().collect::<Vec<_>>(), [&b"h2"[..], b"http/1.1"]);
            assert_eq!(versions, [&TLS13, &TLS12]);
        }
    }

    #[test]
    fn versions_are_those_offered() {
        let of = |bytes: &[u8]| match Hello::new().look(bytes) {
            Heard::Whole(_, versions) => versions,
            _ => panic!("it is whole"),
        };
        assert_eq!(of(&written(&[&TLS12], &[])), [&TLS12]);
        assert_eq!(of(&written(&[&TLS13], &[])), [&TLS13]);
        // Without the extension, as before TLS 1.3, the message's own version is the highest.
        let mut old = written(&[&TLS12], &[]);
        let at = old.windows(4).position(|window| window == [0, 43, 0, 3]);
        if let Some(at) = at {
            old[at + 1] = 200;
        }
        assert_eq!(of(&old), [&TLS12]);
        old[10] = 2;
        assert_eq!(versions(&old), Vec::<&SupportedProtocolVersion>::new(), "TLS 1.1");
    }

    #[test]
    fn what_is_none_is_told() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"\x16\x02\x00\x00\x05xxxxx",
            b"\x15\x03\x01\x00\x02\x01\x00",
            &[0x16; 400],
        ] {
            assert!(matches!(Hello::new().look(bytes), Heard::Foreign), "{bytes:?}");
        }
        let endless = [&b"\x16\x03\x01\x40\x00\x01\x00\xff\xff"[..], &[0; 200_000]].concat();
        assert!(matches!(Hello::new().look(&endless), Heard::Foreign));
    }
}
