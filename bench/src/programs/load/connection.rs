//! One connection of the load: a request is written, or several at once, and their answers are read and checked.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::programs::{Events, Interest, request};

/// Where a request is after a step.
pub(super) enum Step {
    Waiting,
    Answered,
}

/// A connection, opened when it is first needed and again after it was closed.
pub(super) struct Connection {
    to: SocketAddr,
    stream: Option<TcpStream>,
    due: Instant,
    sent: usize,
    /// Bytes sent and read since they were last asked for.
    moved: usize,
    /// Whether it is watched for output.
    output: bool,
    /// Answers still to come.
    owed: usize,
    head: Vec<u8>,
    /// What is still to come of the answer's body. None before its head is here.
    body: Option<usize>,
    buffer: Vec<u8>,
}

/// What all connections write and expect.
pub(super) struct Exchange {
    /// One request, or several behind each other.
    pub(super) requests: Vec<u8>,
    /// How many.
    pub(super) count: usize,
    /// What each answer's body begins with.
    pub(super) expect: String,
}

/// A read's size.
const READ: usize = 256 * 1024;

impl Connection {
    pub(super) fn new(to: SocketAddr) -> Self {
        let (head, buffer) = (Vec::new(), Vec::new());
        let due = Instant::now();
        Self { to, stream: None, due, sent: 0, moved: 0, output: false, owed: 0, head, body: None, buffer }
    }

    /// When the request under way was due.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// The bytes that it has moved since this was last asked.
    pub(super) fn moved(&mut self) -> u64 {
        std::mem::take(&mut self.moved) as u64
    }

    pub(super) fn close(&mut self) {
        self.stream = None;
    }

    /// It ends with a reset, not a FIN.
    pub(super) fn reset_at_its_end(&self) {
        if let Some(stream) = &self.stream {
            // A connection that is gone needs none.
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }

    /// Begins what is written at once, on a new connection if there is none.
    pub(super) fn begin(&mut self, due: Instant, events: &Events, number: u64, exchange: &Exchange) -> Result<Step> {
        (self.due, self.sent, self.owed, self.body) = (due, 0, exchange.count, None);
        self.head.clear();
        if self.stream.is_none() {
            let stream = connect(self.to)?;
            events.add(&stream, number, Interest::BOTH)?;
            (self.stream, self.output) = (Some(stream), true);
            return Ok(Step::Waiting);
        }
        self.write(events, number, &exchange.requests).map(|()| Step::Waiting)
    }

    /// Something can be read or written.
    pub(super) fn step(&mut self, events: &Events, number: u64, exchange: &Exchange) -> Result<Step> {
        if self.stream.is_none() {
            return Ok(Step::Waiting);
        }
        if self.sent < exchange.requests.len() {
            self.write(events, number, &exchange.requests)?;
        }
        self.read(&exchange.expect)
    }

    fn write(&mut self, events: &Events, number: u64, request: &[u8]) -> Result<()> {
        let stream = self.stream.as_mut().context("no connection")?;
        while self.sent < request.len() {
            match stream.write(&request[self.sent..]) {
                Ok(n) => {
                    self.sent += n;
                    self.moved += n;
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => break,
                Err(error) => return Err(error).context("send"),
            }
        }
        let wanted = self.sent < request.len();
        if wanted != self.output {
            self.output = wanted;
            events.change(&*stream, number, Interest { input: true, output: wanted })?;
        }
        Ok(())
    }

    fn read(&mut self, expect: &str) -> Result<Step> {
        let stream = self.stream.as_mut().context("no connection")?;
        self.buffer.resize(READ, 0);
        let n = match stream.read(&mut self.buffer) {
            Ok(0) => anyhow::bail!("closed before the end of an answer"),
            Ok(n) => n,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                return Ok(Step::Waiting);
            }
            Err(error) => return Err(error).context("read"),
        };
        self.moved += n;
        let buffer = std::mem::take(&mut self.buffer);
        let taken = self.take(&buffer[..n], expect);
        self.buffer = buffer;
        taken
    }

    fn take(&mut self, mut bytes: &[u8], expect: &str) -> Result<Step> {
        while self.owed > 0 {
            let left = match self.body {
                Some(left) => left,
                None if bytes.is_empty() => return Ok(Step::Waiting),
                None => match self.take_head(&mut bytes, expect)? {
                    Some(length) => length,
                    None => return Ok(Step::Waiting),
                },
            };
            let part = left.min(bytes.len());
            bytes = &bytes[part..];
            self.body = Some(left - part);
            if left > part {
                return Ok(Step::Waiting);
            }
            (self.body, self.owed) = (None, self.owed - 1);
        }
        ensure!(bytes.is_empty(), "more bytes than the answer has");
        Ok(Step::Answered)
    }

    /// The length of the body behind a head that is whole now; `bytes` are what is behind the head.
    fn take_head(&mut self, bytes: &mut &[u8], expect: &str) -> Result<Option<usize>> {
        let before = self.head.len();
        self.head.extend_from_slice(bytes);
        let Some((end, length)) = request::head(&self.head) else { return Ok(None) };
        ensure!(self.head.starts_with(b"HTTP/1.1 200 "), "{:?}", String::from_utf8_lossy(&self.head));
        *bytes = &bytes[end - before..];
        // The app's name is at the start of the body; a proxy may give the head alone first.
        if bytes.len() >= expect.len() {
            ensure!(bytes.starts_with(expect.as_bytes()), "answered by somebody else than {expect}");
        }
        self.head.clear();
        Ok(Some(length))
    }
}

/// Without waiting for the handshake.
fn connect(to: SocketAddr) -> Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&to.into()) {
        Ok(()) => {}
        // EINPROGRESS, 115 on Linux: the answer is the first output event.
        Err(error) if error.raw_os_error() == Some(115) => {}
        Err(error) => return Err(error).context("connect"),
    }
    Ok(socket.into())
}
