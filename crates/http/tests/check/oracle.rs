//! Another opinion on what is ambiguous: `http_desync_guardian`, which stands before AWS's load balancers.
//!
//! Owns: the exceptions, each with its reason. Called by: `judge`, for every request that redir decides.

use http_desync_guardian::ClassificationReason::{
    self, UndefinedContentLengthSemantics, UndefinedTransferEncodingSemantics,
};
use http_desync_guardian::RequestSafetyTier;
use http_desync_guardian::request_analyzer::HttpRequestData;

/// What the oracle calls ambiguous and redir decides all the same.
pub(crate) struct Exception {
    pub(crate) what: &'static str,
    /// Why every reader ends such a request at the same byte.
    #[expect(dead_code, reason = "for people")]
    why: &'static str,
    /// What the oracle says of it; it may be anything if there is none.
    reason: Option<ClassificationReason>,
    applies: fn(&[u8]) -> bool,
}

const FRAMED_ALIKE: &str = "RFC 9112, 6.3: the framing is that of the fields, whatever the method. Clients send such \
                            requests (Elasticsearch's searches), gunicorn lists them as valid, and a server that \
                            leaves the body unread cannot keep the connection, which ends what redir decides too";

pub(crate) const EXCEPTIONS: [Exception; 5] = [
    Exception {
        what: "GET with Content-Length",
        why: FRAMED_ALIKE,
        reason: Some(UndefinedContentLengthSemantics),
        applies: |head| head.starts_with(b"GET "),
    },
    Exception {
        what: "HEAD with Content-Length",
        why: FRAMED_ALIKE,
        reason: Some(UndefinedContentLengthSemantics),
        applies: |head| head.starts_with(b"HEAD "),
    },
    Exception {
        what: "GET with Transfer-Encoding",
        why: FRAMED_ALIKE,
        reason: Some(UndefinedTransferEncodingSemantics),
        applies: |head| head.starts_with(b"GET "),
    },
    Exception {
        what: "HEAD with Transfer-Encoding",
        why: FRAMED_ALIKE,
        reason: Some(UndefinedTransferEncodingSemantics),
        applies: |head| head.starts_with(b"HEAD "),
    },
    Exception {
        what: "a name with other letters, as in Content2Length and Transfer-Encodin'",
        why: "the oracle skips any byte where the hyphen is, and punctuation in place of the last letters; no server is \
              known that takes a name with other letters for this one",
        reason: None,
        applies: |head| {
            let rest = without_other_letters(head);
            rest.len() < head.len() && !matches!(opinion(&rest), Opinion::Ambiguous(_))
        },
    },
];

/// `head` without the fields whose names begin like a framing field's, are as long, and have other letters and digits.
fn without_other_letters(head: &[u8]) -> Vec<u8> {
    let other = |line: &[u8]| {
        let name: Vec<u8> = line.iter().take_while(|byte| **byte != b':').map(u8::to_ascii_lowercase).collect();
        let letters: Vec<u8> = name.iter().copied().filter(u8::is_ascii_alphanumeric).collect();
        let alike = name.len() >= "content-length".len() && matches!(letters.first(), Some(b'c' | b't'));
        alike && letters != b"contentlength" && letters != b"transferencoding"
    };
    let lines = head.split_inclusive(|&byte| byte == b'\n').enumerate();
    lines.filter(|(number, line)| *number == 0 || !other(line)).flat_map(|(_, line)| line).copied().collect()
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
    let excepted = EXCEPTIONS
        .iter()
        .position(|known| known.reason.is_none_or(|reason| reason == said.reason) && (known.applies)(head));
    excepted.map_or(Opinion::Ambiguous(said.reason), Opinion::Excepted)
}
