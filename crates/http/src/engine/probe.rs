//! The first head of a connection under a global intercept.
//!
//! Owns: telling the kubelet's probe from everything else. Must not: hold up what is certainly no probe.
//! Called by: the relay, for connections that are otherwise untouched.

use crate::Ambiguity;
use crate::head::Names;
use crate::head::{Progress, RequestHead};

/// Whom a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// Not certain yet: read more, and ask again with all of it.
    NeedMore,
    /// A kubelet's probe: the app's.
    App,
    /// HTTP/2: which of its streams are probes is told by their heads.
    Http2,
    /// Anything else: the developer's.
    Developer,
}

/// The state of reading one first head.
#[derive(Debug, Default)]
pub struct FirstHead {
    head: RequestHead,
}

/// The most bytes that are looked at: a probe's head has a few hundred.
const MAX: usize = 16 * 1024;

impl FirstHead {
    /// A connection of which nothing is read.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whom the connection that begins with `unread` is for. Also `Developer` as soon as the developer speaks first.
    pub fn client(&mut self, unread: &[u8]) -> First {
        let progress = self.head.advance(unread, &Names::empty());
        match progress {
            _ if self.head.facts().probe() => First::App,
            Ok(Progress::Partial) if unread.len() < MAX => First::NeedMore,
            Err(Ambiguity::Preface) => First::Http2,
            Ok(_) | Err(_) => First::Developer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_kubelet_goes_to_the_app() {
        for (wire, expected) in [
            (&b"GET /healthz HTTP/1.1\r\nHost: x\r\nUser-Agent: kube-probe/1.30\r\n\r\n"[..], First::App),
            (b"GET /healthz HTTP/1.1\r\nHost: x\r\nUser-Agent: curl/8\r\n\r\n", First::Developer),
            (b"\x16\x03\x01", First::Developer),
            (b"PRI * HTTP/2.0\r\n", First::Http2),
            (b"SSH-2.0-x\r\n", First::Developer),
            (b"GET / HTTP/1.1\r\nHost: x\r\nUser-Agent: kube-pro", First::NeedMore),
            (b"GET / HT", First::NeedMore),
            (b"", First::NeedMore),
        ] {
            assert_eq!(FirstHead::new().client(wire), expected, "{}", wire.escape_ascii());
            let mut split = FirstHead::new();
            let said = (1..=wire.len()).map(|len| split.client(&wire[..len])).find(|said| *said != First::NeedMore);
            assert_eq!(said.unwrap_or(First::NeedMore), expected, "{}", wire.escape_ascii());
        }
        let long = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'x'; MAX]].concat();
        assert_eq!(FirstHead::new().client(&long), First::Developer);
    }
}
