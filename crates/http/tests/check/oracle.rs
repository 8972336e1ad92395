//! Another opinion on what is ambiguous: `http_desync_guardian`, which stands before AWS's load balancers.
//!
//! Owns: the exceptions, each with its reason. Called by: `judge`, for every request that redir decides.

use http_desync_guardian::ClassificationReason::{
    self, SuspiciousHeader, UndefinedContentLengthSemantics, UndefinedTransferEncodingSemantics,
};
use http_desync_guardian::RequestSafetyTier;
use http_desync_guardian::request_analyzer::HttpRequestData;

/// What the oracle calls ambiguous and redir decides all the same.
pub(crate) struct Exception {
    pub(crate) what: &'static str,
    /// Why every reader ends such a request at the same byte.
    #[expect(dead_code, reason = "for people")]
    why: &'static str,
    reason: ClassificationReason,
    applies: fn(&[u8]) -> bool,
}

const FRAMED_ALIKE: &str = "RFC 9112, 6.3: the framing is that of the fields, whatever the method. Clients send such \
                            requests (Elasticsearch's searches), gunicorn lists them as valid, and a server that \
                            leaves the body unread cannot keep the connection, which ends what redir decides too";

pub(crate) const EXCEPTIONS: [Exception; 5] = [
    Exception {
        what: "GET with Content-Length",
        why: FRAMED_ALIKE,
        reason: UndefinedContentLengthSemantics,
        applies: |head| head.starts_with(b"GET "),
    },
    Exception {
        what: "HEAD with Content-Length",
        why: FRAMED_ALIKE,
        reason: UndefinedContentLengthSemantics,
        applies: |head| head.starts_with(b"HEAD "),
    },
    Exception {
        what: "GET with Transfer-Encoding",
        why: FRAMED_ALIKE,
        reason: UndefinedTransferEncodingSemantics,
        applies: |head| head.starts_with(b"GET "),
    },
    Exception {
        what: "HEAD with Transfer-Encoding",
        why: FRAMED_ALIKE,
        reason: UndefinedTransferEncodingSemantics,
        applies: |head| head.starts_with(b"HEAD "),
    },
    Exception {
        what: "one more letter where the hyphen is, as in Content2Length",
        why: "the oracle skips any byte there; no server is known that takes a name with another letter for this one",
        reason: SuspiciousHeader,
        applies: |head| !looks_like_framing(head),
    },
];

/// Whether a field's name has the letters and digits of a framing field's, and is none.
fn looks_like_framing(head: &[u8]) -> bool {
    head.split(|&byte| byte == b'\n').skip(1).any(|line| {
        let name: Vec<u8> = line.iter().take_while(|byte| **byte != b':').map(u8::to_ascii_lowercase).collect();
        let letters: Vec<u8> = name.iter().copied().filter(u8::is_ascii_alphanumeric).collect();
        let framing = [(&b"content-length"[..], &b"contentlength"[..]), (b"transfer-encoding", b"transferencoding")];
        framing.iter().any(|(exact, like)| name != *exact && letters == *like)
    })
}

/// The oracle's opinion of a request whose whole head is `head`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Opinion {
    /// There is one reading.
    Clear,
    /// It would be ambiguous but for the exception of this number.
    Excepted(usize),
    /// Redir must not decide it.
    Ambiguous(ClassificationReason),
}

pub(crate) fn opinion(head: &[u8]) -> Opinion {
    let said = HttpRequestData::analyze_raw_request(head);
    if said.tier < RequestSafetyTier::Ambiguous {
        return Opinion::Clear;
    }
    let excepted = EXCEPTIONS.iter().position(|known| known.reason == said.reason && (known.applies)(head));
    excepted.map_or(Opinion::Ambiguous(said.reason), Opinion::Excepted)
}
