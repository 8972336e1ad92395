//! A connection that became HTTP/2 by `Upgrade: h2c` (RFC 7540, 3.2): its first stream is a request in HTTP/1.
//!
//! Pure: bytes in, bytes out. The h2 crate knows connections only from their preface on, so each side is shown one that
//! begins with it. The h2 server reads, behind the client's own SETTINGS, HEADERS that open stream 1 and end it. The h2
//! client sends a request of its own as stream 1, and its HEADERS are taken out: the app has that request already. Both
//! header blocks leave HPACK's tables as they are. Called by `connection` (the client's side) and `wire` (the app's).

use std::mem;

use bytes::{Bytes, BytesMut};

use super::{
    frames::{HEAD, HEADERS, Head, SETTINGS},
    preface::{self, PREFACE, Told},
};

/// What is known of the request.
#[derive(Debug, Clone)]
pub(in super::super) struct Upgrade {
    /// The client's SETTINGS, which the app goes by until it has read those after the preface.
    settings: Vec<u8>,
    /// Its answer has no body, whatever its length says.
    head: bool,
}

/// Identifiers of SETTINGS (RFC 9113, 6.5.2).
const HEADER_TABLE_SIZE: u16 = 1;
const ENABLE_PUSH: u16 = 2;
const MAX_FRAME_SIZE: u16 = 5;
pub(super) const MAX_HEADER_LIST_SIZE: u16 = 6;
/// One parameter, in bytes.
const SETTING: usize = 6;
/// The largest frame that is taken unasked (RFC 9113, 4.2).
const MAX_FRAME: usize = 16_384;

const ACK: u8 = 1;
/// END_STREAM and END_HEADERS.
const WHOLE: u8 = 5;

/// `:scheme: http` and `:path: /`, by their numbers in the static table (RFC 7541, appendix A).
const HTTP_ROOT: [u8; 2] = [0x86, 0x84];
const GET: u8 = 0x82;
/// `:method`, not indexed, of four letters.
const HEAD_METHOD: [u8; 6] = [0x02, 4, b'H', b'E', b'A', b'D'];

impl Upgrade {
    /// Of a complete head; `None` if its HTTP2-Settings are no offer.
    pub(in super::super) fn of(head: &[u8]) -> Option<Self> {
        let settings = redir_http::h2c::settings(head).filter(|settings| settings.len() <= MAX_FRAME)?;
        Some(Upgrade { settings, head: head.starts_with(b"HEAD ") })
    }

    /// Whether what the client has sent after the 101 begins with its preface and whole SETTINGS.
    pub(in super::super) fn client(unread: &[u8]) -> Told {
        match preface::client(unread) {
            Told::Http2 => {}
            told => return told,
        }
        let frames = &unread[PREFACE.len()..];
        match (preface::server(frames), first_len(frames)) {
            (Told::Http2, Some(len)) if frames.len() >= len => Told::Http2,
            (Told::Other, _) => Told::Other,
            (Told::Http2 | Told::NeedMore, _) => Told::NeedMore,
        }
    }

    /// What the client has sent, as if its request had been sent as stream 1. Only for what [`Upgrade::client`] took.
    pub(in super::super) fn as_prior_knowledge(&self, unread: &[u8]) -> Bytes {
        let (preface, frames) = unread.split_at(PREFACE.len().min(unread.len()));
        let (own, rest) = frames.split_at(first_len(frames).unwrap_or_default().min(frames.len()));
        let own = own.get(HEAD..).unwrap_or_default();
        // What they do not say again stays as it was said first.
        let fits = self.settings.len() + own.len() <= MAX_FRAME;
        let first = if fits { &self.settings[..] } else { &[] };
        let settings = frame(SETTINGS, 0, 0, &[first, own].concat());
        [preface, &settings, &frame(HEADERS, WHOLE, 1, &self.block()), rest].concat().into()
    }

    /// Nothing of it goes into a table.
    fn block(&self) -> Vec<u8> {
        match self.head {
            true => [&HEAD_METHOD[..], &HTTP_ROOT].concat(),
            false => [&[GET][..], &HTTP_ROOT].concat(),
        }
    }

    /// The request that stands for the client's on the h2 client's side: it is never seen by anybody.
    pub(super) fn request(&self) -> http::Request<()> {
        let mut request = http::Request::new(());
        if self.head {
            *request.method_mut() = http::Method::HEAD;
        }
        *request.uri_mut() = http::Uri::from_static("/");
        request
    }

    /// The size of the table that the app's encoder may use, if the client has named one.
    pub(super) fn header_table_size(&self) -> Option<u32> {
        self.setting(HEADER_TABLE_SIZE)
    }

    /// The largest frame that the app may send, if the client has named one.
    pub(super) fn max_frame_size(&self) -> Option<u32> {
        self.setting(MAX_FRAME_SIZE)
    }

    /// The last value counts.
    fn setting(&self, id: u16) -> Option<u32> {
        settings(&self.settings).filter(|setting| setting.0 == id).last().map(|setting| setting.1)
    }

    /// What the h2 client reads before it has sent anything: its SETTINGS are in force from the start, since the app's
    /// answer may come before its acknowledgement. Before HEAD, which has no number in the static table, its compression
    /// table is closed, so that the block that is taken out puts nothing into it.
    fn said_first(&self) -> Bytes {
        let mut said = frame(SETTINGS, ACK, 0, &[]);
        if self.head {
            let [high, low] = HEADER_TABLE_SIZE.to_be_bytes();
            said.extend(frame(SETTINGS, 0, 0, &[high, low, 0, 0, 0, 0]));
        }
        said.into()
    }
}

fn settings(payload: &[u8]) -> impl Iterator<Item = (u16, u32)> {
    payload.chunks_exact(SETTING).filter_map(|setting| {
        let &[i0, i1, a, b, c, d] = setting else { return None };
        Some((u16::from_be_bytes([i0, i1]), u32::from_be_bytes([a, b, c, d])))
    })
}

/// The length of the first frame, its head included.
fn first_len(frames: &[u8]) -> Option<usize> {
    frames.first_chunk().map(|head| HEAD + Head::parse(*head).len)
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    // No payload here is longer than a frame may be.
    let [_, a, b, c] = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
    [&[a, b, c, kind, flags, 0, 0, 0, stream], payload].concat()
}

/// What an h2 client writes until its first request is out, and what it reads meanwhile.
#[derive(Debug)]
pub(super) struct Opening {
    /// What it has written.
    written: BytesMut,
    /// What the app has said.
    heard: Bytes,
}

impl Opening {
    /// `heard` is what the app has said after its 101. Also gives what the h2 client reads first.
    pub(super) fn new(upgrade: &Upgrade, heard: Bytes) -> (Self, Bytes) {
        (Opening { written: BytesMut::new(), heard }, upgrade.said_first())
    }

    /// Takes what the h2 client writes. Once its request is out: what goes to the app instead, and what it has said.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Option<(Bytes, Bytes)> {
        self.written.extend_from_slice(bytes);
        let written = self.written.get(PREFACE.len()..)?;
        let (mut to_app, mut at) = (PREFACE.to_vec(), 0);
        loop {
            let rest = written.get(at..)?;
            let head = Head::parse(*rest.first_chunk()?);
            let whole = rest.get(..HEAD + head.len)?;
            at += whole.len();
            match head.kind {
                HEADERS => break,
                // The app has said nothing yet that could be acknowledged.
                SETTINGS if head.is_ack() => {}
                // The h2 client takes pushed streams, since the app may have begun one before it was told not to; those
                // are cancelled.
                SETTINGS => to_app.extend(with_setting(whole, ENABLE_PUSH, 0)),
                _ => to_app.extend_from_slice(whole),
            }
        }
        to_app.extend_from_slice(written.get(at..)?);
        Some((to_app.into(), mem::take(&mut self.heard)))
    }
}

/// What begins with a SETTINGS frame, with another value of one of its parameters.
pub(super) fn with_setting(bytes: &[u8], id: u16, value: u32) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let end = first_len(&bytes).unwrap_or_default().min(bytes.len());
    for setting in bytes.get_mut(HEAD..end).unwrap_or_default().chunks_exact_mut(SETTING) {
        if setting.starts_with(&id.to_be_bytes()) {
            setting[2..].copy_from_slice(&value.to_be_bytes());
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::http2::frames::tests::frame;

    const OFFER: &str = "GET /a HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n";

    fn upgrade(method: &str) -> Upgrade {
        let head = OFFER.replace("GET", method) + "HTTP2-Settings: AAEAAEAAAAUAAIAA\r\n\r\n";
        Upgrade::of(head.as_bytes()).unwrap()
    }

    #[test]
    fn what_the_client_offered_is_known() {
        let offered = upgrade("GET");
        assert_eq!((offered.header_table_size(), offered.max_frame_size()), (Some(16_384), Some(32_768)));
        assert!(Upgrade::of(format!("{OFFER}\r\n").as_bytes()).is_none());
        assert!(upgrade("HEAD").head && !offered.head);
    }

    #[test]
    fn a_client_has_begun_with_its_settings_whole() {
        let begun = [&PREFACE[..], &frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 1, 0]), b"rest"].concat();
        for len in 0..begun.len() {
            let whole = len >= begun.len() - 4;
            assert_eq!(Upgrade::client(&begun[..len]), if whole { Told::Http2 } else { Told::NeedMore }, "{len}");
        }
        for other in [&b"GET / HTTP/1.1\r\n"[..], &[&PREFACE[..], &frame(HEADERS, 5, 1, b"")].concat()] {
            assert_eq!(Upgrade::client(other), Told::Other);
        }
    }

    #[test]
    fn its_request_becomes_stream_1_behind_all_of_its_settings() {
        let begun = [&PREFACE[..], &frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 1, 0]), b"rest"].concat();
        let all = [0, 1, 0, 0, 64, 0, 0, 5, 0, 0, 128, 0, 0, 4, 0, 0, 1, 0];
        for (method, block) in
            [("GET", &[0x82, 0x86, 0x84][..]), ("POST", &[0x82, 0x86, 0x84]), ("HEAD", b"\x02\x04HEAD\x86\x84")]
        {
            let expected =
                [&PREFACE[..], &frame(SETTINGS, 0, 0, &all), &frame(HEADERS, WHOLE, 1, block), b"rest"].concat();
            assert!(upgrade(method).as_prior_knowledge(&begun) == expected, "{method}");
        }
    }

    #[test]
    fn the_app_gets_the_preface_and_no_request() {
        let own = frame(SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 1, 0, 4, 0, 0, 1, 0]);
        let update = frame(8, 0, 0, &[0, 0, 1, 0]);
        let said =
            [&PREFACE[..], &own, &update, &frame(SETTINGS, ACK, 0, &[]), &frame(HEADERS, WHOLE, 1, b"abc"), b"more"];
        let said = said.concat();
        let expected = [&PREFACE[..], &frame(SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 0, 0, 4, 0, 0, 1, 0]), &update, b"more"];
        for split in 0..said.len() - 4 {
            let (mut opening, _) = Opening::new(&upgrade("GET"), Bytes::from_static(b"heard"));
            assert_eq!(opening.write(&said[..split]), None);
            let (to_app, heard) = opening.write(&said[split..]).unwrap();
            assert!(to_app == expected.concat() && &heard[..] == b"heard", "{split}");
        }
    }
}
