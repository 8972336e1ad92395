//! HTTP/2 as small as it goes, by the byte: an app that answers every request alike, or none, and a client.
//!
//! Owns the few frames of RFC 9113 that they need. Both grant no more than the first windows, which suffice for some thousands of
//! short answers on each connection.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use redir_rig::http2::{DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, frame};
use redir_rig::{Listener, Namespace};

const PING: u8 = 6;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
/// How long an app waits for its next connection.
const IDLE: Duration = Duration::from_secs(300);

/// An app. It ends with the process, or without anybody who dials it.
pub(super) struct Http2App;

impl Http2App {
    /// Answers every request with this text; without one it says nothing but its SETTINGS.
    pub(super) fn start(namespace: &Namespace, at: SocketAddr, answer: Option<&'static str>) -> Result<Self> {
        let listener = Listener::new(namespace, at)?;
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept_within(IDLE) {
                // A connection that ends, ends alone.
                thread::spawn(move || serve(stream, answer));
            }
        });
        Ok(Self)
    }
}

fn serve(mut stream: TcpStream, answer: Option<&str>) -> Result<()> {
    stream.set_read_timeout(None)?;
    stream.write_all(&frame(SETTINGS, 0, 0, &[]))?;
    let Some(answer) = answer else {
        std::io::copy(&mut stream, &mut std::io::sink())?;
        return Ok(());
    };
    let mut preface = [0; PREFACE.len()];
    stream.read_exact(&mut preface)?;
    ensure!(preface == PREFACE, "no client of HTTP/2");
    loop {
        let got = Frame::read(&mut stream)?;
        if got.answered(&mut stream)? || got.kind != HEADERS {
            continue;
        }
        ensure!(got.flags == END_HEADERS | END_STREAM, "only whole requests without a body are answered");
        let head = frame(HEADERS, END_HEADERS, got.stream, &[STATUS_200]);
        stream.write_all(&[head, frame(DATA, END_STREAM, got.stream, answer.as_bytes())].concat())?;
    }
}

/// A client that asks one request after the other.
pub(super) struct Http2Client {
    stream: TcpStream,
    next: u32,
}

impl Http2Client {
    pub(super) fn new(mut stream: TcpStream) -> Result<Self> {
        stream.write_all(BEGIN)?;
        Ok(Self { stream, next: 1 })
    }

    /// A GET of `/` with these fields, whose names are in lower case; the answer's body.
    pub(super) fn get(&mut self, fields: &[(&str, &str)]) -> Result<String> {
        let stream = self.next;
        self.next += 2;
        let mut block = GET.to_vec();
        for (name, value) in fields {
            block.push(0);
            put_text(&mut block, name);
            put_text(&mut block, value);
        }
        self.stream.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &block))?;
        let mut body = Vec::new();
        loop {
            let got = Frame::read(&mut self.stream)?;
            if got.answered(&mut self.stream)? {
                continue;
            }
            match got.kind {
                DATA if got.stream == stream => body.extend_from_slice(&got.payload),
                RST_STREAM | GOAWAY => bail!("the stream or connection was ended: {:?}", got.payload),
                _ => {}
            }
            if got.stream == stream && matches!(got.kind, DATA | HEADERS) && got.flags & END_STREAM != 0 {
                return Ok(String::from_utf8_lossy(&body).into_owned());
            }
        }
    }
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frame {
    fn read(from: &mut TcpStream) -> Result<Self> {
        let mut head = [0; 9];
        from.read_exact(&mut head)?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, a, b, c]))?];
        from.read_exact(&mut payload)?;
        Ok(Self { kind, flags, stream: u32::from_be_bytes(stream), payload })
    }

    /// Whether it was one that both ends answer alike, and is answered.
    fn answered(&self, to: &mut TcpStream) -> Result<bool> {
        let is_answered = matches!(self.kind, SETTINGS | PING);
        if is_answered && self.flags & ACK == 0 {
            let payload = if self.kind == PING { &self.payload[..] } else { &[] };
            to.write_all(&frame(self.kind, ACK, 0, payload))?;
        }
        Ok(is_answered)
    }
}

/// A text of HPACK, not compressed (RFC 7541, 5.2).
fn put_text(block: &mut Vec<u8>, text: &str) {
    let mut length = text.len();
    if length < 127 {
        block.push(length.to_le_bytes()[0]);
    } else {
        block.push(127);
        length -= 127;
        while length >= 128 {
            block.push(length.to_le_bytes()[0] | 0x80);
            length >>= 7;
        }
        block.push(length.to_le_bytes()[0]);
    }
    block.extend_from_slice(text.as_bytes());
}

/// The preface, and SETTINGS that say nothing.
pub(super) const BEGIN: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// `GET /` of `http://web`, in HPACK.
pub(super) const GET: [u8; 8] = [0x82, 0x84, 0x86, 0x41, 3, b'w', b'e', b'b'];
/// `:status: 200`, in HPACK.
const STATUS_200: u8 = 0x88;
