//! What was written of a request to a developer's leg, for the case that the leg ends before it is answered.
//!
//! Owns the copy and its bounds. Must not decide whether a request may be sent twice: the engine does. Only requests that
//! met a leg that was used before are kept: a server may close such a connection just when it is used again.

use crate::memory::{Purpose, Share};

/// The most that one connection keeps, in bytes: heads with all their cookies, and small bodies.
const KEPT_MAX: usize = 64 * 1024;

/// See the module.
pub(super) enum Sent {
    /// Nothing was written; whether what will be is to be kept.
    Nothing { keep: bool },
    /// All that was written.
    Kept { bytes: Vec<u8>, share: Share },
    /// What was written is not kept (any more).
    Forgotten,
}

impl Default for Sent {
    fn default() -> Self {
        Sent::Nothing { keep: false }
    }
}

impl Sent {
    /// Bytes kept.
    pub(super) fn kept(&self) -> usize {
        match self {
            Sent::Kept { bytes, .. } => bytes.len(),
            Sent::Nothing { .. } | Sent::Forgotten => 0,
        }
    }

    /// More was written; `connection` is what its connection keeps already.
    pub(super) fn written(&mut self, more: &[u8], connection: usize) {
        if let Sent::Nothing { keep: true } = self {
            *self = Sent::Kept { bytes: Vec::new(), share: Share::default() };
        }
        let fits = connection + more.len() <= KEPT_MAX;
        match self {
            Sent::Kept { bytes, share } if fits => {
                if share.try_set(bytes.len() + more.len(), Purpose::Repetition) {
                    return bytes.extend_from_slice(more);
                }
            }
            Sent::Kept { .. } | Sent::Nothing { .. } | Sent::Forgotten => {}
        }
        *self = Sent::Forgotten;
    }

    /// What was written, if all of it is there.
    pub(super) fn take(self) -> Option<Vec<u8>> {
        match self {
            Sent::Nothing { .. } => Some(Vec::new()),
            Sent::Kept { bytes, .. } => Some(bytes),
            Sent::Forgotten => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_kept_within_bounds() {
        let mut sent = Sent::Nothing { keep: true };
        sent.written(b"GET / ", 0);
        sent.written(b"HTTP/1.1", 6);
        assert_eq!(sent.take().unwrap(), b"GET / HTTP/1.1");
        let mut plain = Sent::default();
        plain.written(b"GET", 0);
        assert!(plain.take().is_none());
        assert_eq!(Sent::default().take().unwrap(), b"");
        let mut long = Sent::Nothing { keep: true };
        long.written(&[b'x'; KEPT_MAX - 10], 10);
        assert_eq!(long.kept(), KEPT_MAX - 10);
        long.written(b"x", KEPT_MAX);
        assert!(long.take().is_none());
    }
}
