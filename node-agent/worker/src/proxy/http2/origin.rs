//! What is known of one origin's side of a connection: the app's, or a developer's.
//!
//! Owns: what the origin announced in its first SETTINGS, why its transport broke, and what is held for the client.
//! Shared between the transport, the leg and the streams on it.

use std::sync::{
    Arc, Mutex, OnceLock, PoisonError,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use super::{
    frames::{Fate, Head, SETTINGS, Watch},
    limits,
    wire::Passing,
};
use crate::{
    plan::Intercept,
    proxy::{developer_stream::DeveloperError, leg::LegError, local_reply::LocalReply},
};

/// What a server says of itself before anything else, as far as it is passed on to the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Announced {
    /// SETTINGS_MAX_CONCURRENT_STREAMS; `None`: any number.
    pub(super) streams: Option<u32>,
    /// SETTINGS_ENABLE_CONNECT_PROTOCOL: extended CONNECT (RFC 8441).
    pub(super) extended_connect: bool,
    /// SETTINGS_MAX_HEADER_LIST_SIZE, in bytes; `None`: any.
    pub(super) header_list: Option<u32>,
}

impl Announced {
    /// Of the payload of a SETTINGS frame.
    fn parse(payload: &[u8]) -> Self {
        const MAX_CONCURRENT_STREAMS: u16 = 3;
        const MAX_HEADER_LIST_SIZE: u16 = 6;
        const ENABLE_CONNECT_PROTOCOL: u16 = 8;
        let mut announced = Announced::default();
        for setting in payload.chunks_exact(6) {
            let &[i0, i1, a, b, c, d] = setting else { continue };
            let value = u32::from_be_bytes([a, b, c, d]);
            match u16::from_be_bytes([i0, i1]) {
                MAX_CONCURRENT_STREAMS => announced.streams = Some(value),
                MAX_HEADER_LIST_SIZE => announced.header_list = Some(value),
                ENABLE_CONNECT_PROTOCOL => announced.extended_connect = value == 1,
                _ => {}
            }
        }
        announced
    }
}

/// Why an origin's transport broke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The developer's stream failed.
    Developer(DeveloperError),
    /// What it says is not HTTP/2.
    NotHttp2,
}

/// Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Origin(Arc<Shared>);

#[derive(Default)]
struct Shared {
    announced: OnceLock<Announced>,
    cause: OnceLock<Cause>,
    /// It has answered a request.
    answered: AtomicBool,
    /// The next acknowledgement of SETTINGS was anticipated.
    acknowledged: AtomicBool,
    /// The other end takes nothing of what is written.
    blocked: AtomicBool,
    /// Bytes of the origin that wait for the client.
    held: Arc<AtomicUsize>,
    /// The payload of its first frame, as far as it is there.
    first: Mutex<First>,
}

#[derive(Default)]
enum First {
    #[default]
    Nothing,
    Settings {
        payload: Vec<u8>,
        left: usize,
    },
    Over,
}

impl Origin {
    /// What it announced, once it has.
    pub(super) fn announced(&self) -> Option<Announced> {
        self.0.announced.get().copied()
    }

    /// It answers a request.
    pub(super) fn note_answer(&self) {
        self.0.answered.store(true, Ordering::Relaxed);
    }

    /// Whether it has answered a request.
    pub(super) fn has_answered(&self) -> bool {
        self.0.answered.load(Ordering::Relaxed)
    }

    /// Whether this is another handle to the same origin.
    pub(super) fn is(&self, other: &Origin) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The h2 client believes that its SETTINGS are acknowledged: when they are, that is taken out.
    pub(super) fn anticipate_acknowledgement(&self) {
        self.0.acknowledged.store(true, Ordering::Relaxed);
    }

    /// Why its transport broke, as far as it is known better than by the h2 crate.
    pub(super) fn cause(&self) -> Option<&Cause> {
        self.0.cause.get()
    }

    /// Notes why the transport broke; the first cause stays.
    pub(super) fn broke(&self, cause: Cause) {
        let _ = self.0.cause.set(cause);
    }

    /// Whether it takes what is written.
    pub(super) fn is_blocked(&self) -> bool {
        self.0.blocked.load(Ordering::Relaxed)
    }

    /// Counts what is held of it.
    pub(super) fn held(&self) -> &Arc<AtomicUsize> {
        &self.0.held
    }

    fn first(&mut self, work: impl FnOnce(&mut First) -> Option<Announced>) {
        // Nothing in it can be half done.
        let mut first = self.0.first.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(announced) = work(&mut first) {
            *first = First::Over;
            let _ = self.0.announced.set(announced);
        }
    }
}

impl Watch for Origin {
    fn frame(&mut self, head: &Head) -> Fate {
        if self.announced().is_none() {
            let is_settings = head.kind == SETTINGS && !head.is_ack();
            self.first(|first| match first {
                First::Nothing if is_settings => {
                    *first = First::Settings { payload: Vec::new(), left: head.len };
                    (head.len == 0).then(Announced::default)
                }
                First::Nothing => Some(Announced::default()),
                First::Settings { .. } | First::Over => None,
            });
            if !is_settings {
                self.broke(Cause::NotHttp2);
            }
        }
        let anticipated = head.is_settings_ack() && self.0.acknowledged.swap(false, Ordering::Relaxed);
        if anticipated || head.is_idle_data() { Fate::Drop } else { Fate::Keep }
    }

    fn settings(&mut self, bytes: &[u8]) {
        if self.announced().is_some() {
            return;
        }
        self.first(|first| match first {
            First::Settings { payload, left } => {
                payload.extend_from_slice(bytes);
                *left = left.saturating_sub(bytes.len());
                (*left == 0).then(|| Announced::parse(payload))
            }
            First::Nothing | First::Over => None,
        });
    }
}

impl Passing for Origin {
    fn may_read(&mut self) -> bool {
        !limits::is_scarce(self.held().load(Ordering::Relaxed))
    }

    fn turn_is_over(&mut self) {}

    fn received(&mut self, _: usize) {}

    fn sent(&mut self, _: usize) {}

    fn blocked(&mut self, blocked: bool) {
        self.0.blocked.store(blocked, Ordering::Relaxed);
    }
}

/// The answer where a leg broke, or what it said was no answer.
pub(super) fn broken(intercept: &Intercept, cause: Option<&Cause>, error: Option<&h2::Error>) -> LocalReply {
    let library = error.filter(|error| error.is_library()).and_then(h2::Error::reason);
    match (cause, library) {
        (Some(Cause::Developer(error)), _) => {
            LocalReply::of_leg(Some(intercept), Some(&LegError::Developer(error.clone())))
        }
        (Some(Cause::NotHttp2), _) => {
            LocalReply::bad_answer(intercept, "the developer's service does not speak HTTP/2 in clear")
        }
        (None, Some(reason)) => {
            LocalReply::bad_answer(intercept, format!("the developer's service broke the HTTP/2 protocol: {reason:?}"))
        }
        (None, None) => LocalReply::of_leg(Some(intercept), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::http2::frames::Frames;

    fn hear(wire: &[u8], pieces: usize) -> Origin {
        let (mut origin, mut frames) = (Origin::default(), Frames::default());
        for piece in wire.chunks(pieces) {
            let mut bytes = [frames.withheld(), piece].concat();
            frames.pass(&mut bytes, &mut origin);
        }
        origin
    }

    #[test]
    fn the_first_settings_are_heard_and_no_later_ones() {
        let first = [0, 0, 18, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100, 0, 4, 0, 1, 0, 0, 0, 8, 0, 0, 0, 1];
        let later = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1];
        for pieces in 1..40 {
            let origin = hear(&[&first[..], &later].concat(), pieces);
            assert_eq!(
                origin.announced(),
                Some(Announced { streams: Some(100), extended_connect: true, header_list: None })
            );
            assert_eq!(origin.cause(), None);
        }
        let list = hear(&[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 6, 0, 0, 32, 0], 7).announced().unwrap();
        assert_eq!(list.header_list, Some(8192));
        assert_eq!(hear(&first[..26], 5).announced(), None);
        assert_eq!(hear(&[0, 0, 0, 4, 0, 0, 0, 0, 0], 3).announced(), Some(Announced::default()));
    }

    #[test]
    fn whoever_does_not_begin_with_settings_does_not_speak_http2() {
        for wire in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], &[0, 0, 0, 4, 1, 0, 0, 0, 0]] {
            assert_eq!(hear(wire, 4).cause(), Some(&Cause::NotHttp2));
        }
    }
}
