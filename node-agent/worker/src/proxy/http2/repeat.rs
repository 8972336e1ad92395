//! Whether a request that a developer's service has not answered may be sent to it again, on a new leg.
//!
//! Pure. Called by `stream`. What the service has certainly not begun with may: it said so with a GOAWAY that leaves the
//! stream out, or with REFUSED_STREAM (RFC 9113, 8.7). Servers end idle connections that way, and a client of the app
//! itself would have sent it again; this one has no connection to open. A service that only closed a connection on which
//! it had answered before may have begun: then it is sent again if its method allows that (RFC 9110, 9.2.2).

use h2::Reason;
use http::{Method, request::Parts};

use super::{
    leg::header_list,
    origin::{Cause, Origin},
    stream::unprocessed,
};
use crate::{
    memory::{Purpose, Share},
    proxy::developer_stream::DeveloperError,
};

/// How often a request is sent at most: a service that refuses the third time means it.
const TRIES: u8 = 3;
/// A longer head is not kept, in bytes.
const KEEP: usize = 16 * 1024;

/// What sends a request again.
pub(super) struct Repeat {
    head: Parts,
    tries: u8,
    /// A developer's service may have begun with it before.
    begun: bool,
    /// What the head takes of the agent's budget.
    _share: Share,
}

impl Repeat {
    /// Of a request that was sent so often before, if there is room for its head.
    pub(super) fn of(head: &Parts, tries: u8, begun: bool) -> Option<Self> {
        let len = header_list(&head.headers) + head.uri.path_and_query().map_or(0, |path| path.as_str().len());
        let mut share = Share::default();
        if tries + 1 >= TRIES || len > KEEP || !share.try_set(len, Purpose::Repetition) {
            return None;
        }
        Some(Repeat { head: head.clone(), tries: tries + 1, begun, _share: share })
    }

    pub(super) fn head(&self) -> &Parts {
        &self.head
    }

    /// The head, how often it was sent, and whether a service may have begun with it, after this error.
    pub(super) fn once_more(self, error: &h2::Error) -> (Parts, u8, bool) {
        (self.head, self.tries, self.begun || !unbegun(error))
    }
}

/// Whether the service has said that it has not begun with the request.
fn unbegun(error: &h2::Error) -> bool {
    let refused = error.is_reset() && error.is_remote() && error.reason() == Some(Reason::REFUSED_STREAM);
    refused || unprocessed(error)
}

/// Whether a request may go to the app as well as to a service that may have begun with it (RFC 9110, 9.2.1).
pub(super) fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE)
}

/// Whether a request that failed so on this leg may be sent again.
pub(super) fn may_repeat(error: &h2::Error, origin: &Origin, head: &Parts) -> bool {
    if unbegun(error) {
        return true;
    }
    let closed = match origin.cause() {
        None => error.is_io(),
        Some(Cause::Developer(error @ DeveloperError::Code(_))) => !error.refused(),
        Some(Cause::Developer(DeveloperError::Lost) | Cause::NotHttp2) => false,
    };
    closed && origin.has_answered() && is_idempotent(&head.method)
}

/// RFC 9110, 9.2.2.
fn is_idempotent(method: &Method) -> bool {
    is_safe(method) || matches!(*method, Method::PUT | Method::DELETE)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn a_short_head_is_kept_twice_and_a_long_one_never() {
        let head = |len: usize| Request::get("/a").header("x", "v".repeat(len)).body(()).unwrap().into_parts().0;
        let unbegun = h2::Error::from(Reason::REFUSED_STREAM);
        let (kept, tries, _) = Repeat::of(&head(100), 0, false).unwrap().once_more(&unbegun);
        assert_eq!((kept.uri.path(), tries), ("/a", 1));
        assert!(Repeat::of(&head(100), 1, false).is_some() && Repeat::of(&head(100), 2, false).is_none());
        assert!(Repeat::of(&head(KEEP), 0, false).is_none());
    }
}
