//! A raw HTTP/1.1 client: writes the bytes it is given and reads whole responses. It never retries.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
};

use anyhow::{Context, Result, bail, ensure};

/// One client connection.
#[derive(Debug)]
pub struct Http<S = TcpStream> {
    /// The connection itself, for half-close, resets and addresses.
    pub stream: S,
    unread: Vec<u8>,
}

/// A response as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// 200, 502, …
    pub status: u16,
    /// The head, as received, without the empty line.
    pub head: String,
    /// The body, without its framing.
    pub body: Vec<u8>,
}

impl Response {
    /// A header's value, by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// How a body ends.
enum Framing {
    Length(usize),
    Chunked,
    Close,
}

impl<S: Read + Write> Http<S> {
    /// Takes over a connection (see [`crate::Namespace::connect`]).
    pub fn new(stream: S) -> Self {
        Self { stream, unread: Vec::new() }
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.stream.write_all(bytes.as_ref()).context("send")
    }

    /// A GET with headers (`name: value` each) and its response.
    pub fn get(&mut self, path: &str, headers: &[&str]) -> Result<Response> {
        self.send(request("GET", path, headers))?;
        self.response()
    }

    /// The next response, whole.
    pub fn response(&mut self) -> Result<Response> {
        self.response_with(|_| Ok(())).map(|(response, _)| response)
    }

    /// The next response whose content-length body goes to `sink` piece by piece; gives its length.
    pub fn response_with(&mut self, mut sink: impl FnMut(&[u8]) -> Result<()>) -> Result<(Response, usize)> {
        let head = self.head()?;
        let status =
            head.split(' ').nth(1).and_then(|s| s.parse().ok()).with_context(|| format!("status of {head:?}"))?;
        let mut length = 0;
        let mut body = Vec::new();
        let mut take = |piece: &[u8]| {
            length += piece.len();
            if length <= KEPT {
                body.extend_from_slice(piece);
            }
            sink(piece)
        };
        match framing(&head, status)? {
            Framing::Length(n) => self.exactly(n, &mut take)?,
            Framing::Chunked => self.chunks(&mut take)?,
            Framing::Close => self.rest(&mut take)?,
        }
        Ok((Response { status, head, body }, length))
    }

    /// Whether the other side has closed in order, with nothing unread.
    pub fn closed(&mut self) -> Result<bool> {
        Ok(self.unread.is_empty() && self.more().context("close")? == 0)
    }

    fn head(&mut self) -> Result<String> {
        loop {
            if let Some(end) = self.unread.windows(4).position(|w| w == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&self.unread[..end]).into_owned();
                self.unread.drain(..end + 4);
                return Ok(head);
            }
            ensure!(
                self.more().context("head of a response")? > 0,
                "closed before the end of a response's head: {:?}",
                String::from_utf8_lossy(&self.unread)
            );
        }
    }

    fn exactly(&mut self, mut left: usize, take: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        while left > 0 {
            if self.unread.is_empty() {
                ensure!(self.more().context("body of a response")? > 0, "closed {left} bytes before the end of a body");
            }
            let n = left.min(self.unread.len());
            take(&self.unread[..n])?;
            self.unread.drain(..n);
            left -= n;
        }
        Ok(())
    }

    fn chunks(&mut self, take: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        loop {
            let line = self.line()?;
            let size = usize::from_str_radix(line.trim(), 16).with_context(|| format!("chunk size {line:?}"))?;
            self.exactly(size, take)?;
            let end = self.line()?;
            ensure!(end.is_empty(), "{end:?} after a chunk");
            if size == 0 {
                return Ok(());
            }
        }
    }

    fn line(&mut self) -> Result<String> {
        loop {
            if let Some(end) = self.unread.windows(2).position(|w| w == b"\r\n") {
                let line = String::from_utf8_lossy(&self.unread[..end]).into_owned();
                self.unread.drain(..end + 2);
                return Ok(line);
            }
            ensure!(self.more().context("chunk")? > 0, "closed in a chunk's line");
        }
    }

    fn rest(&mut self, take: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        loop {
            take(&self.unread)?;
            self.unread.clear();
            if self.more().context("body until close")? == 0 {
                return Ok(());
            }
        }
    }

    fn more(&mut self) -> io::Result<usize> {
        let start = self.unread.len();
        self.unread.resize(start + READ, 0);
        // A read with a timeout is not restarted after a signal (signal(7)).
        let result = loop {
            match self.stream.read(&mut self.unread[start..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        self.unread.truncate(start + result.as_ref().copied().unwrap_or(0));
        result
    }
}

/// A request without a body, byte for byte.
pub fn request(method: &str, path: &str, headers: &[&str]) -> String {
    let headers: String = headers.iter().map(|h| format!("{h}\r\n")).collect();
    format!("{method} {path} HTTP/1.1\r\nhost: web\r\n{headers}\r\n")
}

/// A header's value in a head, by its lower-case name.
pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (n, value) = line.split_once(':')?;
        n.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

fn framing(head: &str, status: u16) -> Result<Framing> {
    if (100..200).contains(&status) || matches!(status, 204 | 304) {
        return Ok(Framing::Length(0));
    }
    match (header(head, "transfer-encoding"), header(head, "content-length")) {
        (Some("chunked"), None) => Ok(Framing::Chunked),
        (None, Some(n)) => Ok(Framing::Length(n.parse().with_context(|| format!("content-length {n:?}"))?)),
        (None, None) => Ok(Framing::Close),
        (other, length) => bail!("framing {other:?} {length:?}"),
    }
}

/// A read's size.
const READ: usize = 256 * 1024;
/// How much of a body is kept; longer ones go to the sink.
const KEPT: usize = 1 << 20;
