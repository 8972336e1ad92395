//! `redir-bench app`: an HTTP/1.1 service that costs as little as one can. Answers `NAME\n` to anything, `/N` with N bytes
//! more behind the name; takes bodies with a content-length and looks at none of their bytes.

use std::{
    collections::HashMap,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
};

use anyhow::{Context, Result};
use clap::Args;
use socket2::{Domain, Protocol, Socket, Type};

use super::{Events, Interest, request};

/// Its command line.
#[derive(Debug, Args)]
pub struct AppOptions {
    /// What it answers first
    #[arg(long)]
    name: String,
    /// Where it listens
    #[arg(long)]
    listen: SocketAddr,
}

/// A client's connection.
struct AppClient {
    stream: TcpStream,
    /// Read and not yet a whole head.
    unread: Vec<u8>,
    /// Of the request's body, still to come.
    body: usize,
    /// The answer to give once the body is here.
    owed: usize,
    /// Answers not yet written, and how much of them is.
    answer: Vec<u8>,
    written: usize,
    /// Bytes still to write behind them.
    filler: usize,
}

const LISTENER: u64 = u64::MAX;
const BACKLOG: i32 = 4096;
/// A read's size: above the largest socket buffer that a veth pair fills at once.
const READ: usize = 256 * 1024;

/// Serves until it is killed. Says `ready` on standard output once it listens.
pub fn run(options: &AppOptions) -> Result<()> {
    let listener = listen(options.listen, false)?;
    println!("ready");
    let mut events = Events::new()?;
    events.add(&listener, LISTENER, Interest::INPUT)?;
    let (mut clients, mut next) = (HashMap::new(), 0_u64);
    let mut buffer = vec![0; READ];
    loop {
        for number in events.wait(None)? {
            if number == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    events.add(&stream, next, Interest::INPUT)?;
                    clients.insert(next, AppClient::new(stream));
                    next += 1;
                }
            } else if let Some(client) = clients.get_mut(&number) {
                let was_full = client.pending();
                if client.step(&options.name, &mut buffer).is_err() {
                    clients.remove(&number);
                } else if client.pending() != was_full {
                    events.change(&client.stream, number, client.interest())?;
                }
            }
        }
    }
}

/// A listening socket as all programs here want it.
pub(super) fn listen(address: SocketAddr, transparent: bool) -> Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if transparent {
        socket.set_ip_transparent_v4(true)?;
    }
    socket.bind(&address.into()).with_context(|| format!("bind {address}"))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

impl AppClient {
    fn new(stream: TcpStream) -> Self {
        Self { stream, unread: Vec::new(), body: 0, owed: 0, answer: Vec::new(), written: 0, filler: 0 }
    }

    fn pending(&self) -> bool {
        self.written < self.answer.len() || self.filler > 0
    }

    fn interest(&self) -> Interest {
        Interest { input: !self.pending(), output: self.pending() }
    }

    /// Reads what is there, answers what is whole; an error is the connection's end.
    fn step(&mut self, name: &str, buffer: &mut [u8]) -> std::io::Result<()> {
        if !self.pending() {
            match self.stream.read(buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.take(name, &buffer[..n]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        self.write()?;
        if !self.pending() && !self.unread.is_empty() {
            self.take(name, &[]);
            self.write()?;
        }
        Ok(())
    }

    fn take(&mut self, name: &str, mut bytes: &[u8]) {
        let part = self.body.min(bytes.len());
        self.body -= part;
        bytes = &bytes[part..];
        if part > 0 && self.body == 0 {
            self.answer(name);
        }
        self.unread.extend_from_slice(bytes);
        // What was asked behind a long answer waits for its end.
        while self.body == 0
            && self.filler == 0
            && let Some((end, length)) = request::head(&self.unread)
        {
            self.owed = asked(&self.unread[..end]);
            let there = length.min(self.unread.len() - end);
            self.unread.drain(..end + there);
            self.body = length - there;
            if self.body == 0 {
                self.answer(name);
            }
        }
    }

    fn answer(&mut self, name: &str) {
        let length = name.len() + 1 + self.owed;
        // Writing to a vector cannot fail.
        let _ = write!(self.answer, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{name}\n");
        // A short answer is one write; a long one need not lie in memory.
        match self.owed <= SHORT {
            true => self.answer.resize(self.answer.len() + self.owed, b'.'),
            false => self.filler = self.owed,
        }
    }

    fn write(&mut self) -> std::io::Result<()> {
        while self.pending() {
            let rest = &self.answer[self.written..];
            let next = if rest.is_empty() { &FILLER[..FILLER.len().min(self.filler)] } else { rest };
            match self.stream.write(next) {
                Ok(n) if rest.is_empty() => self.filler -= n,
                Ok(n) => self.written += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.answer.clear();
        self.written = 0;
        Ok(())
    }
}

/// Bytes of an answer that is written at once.
const SHORT: usize = 64 * 1024;
/// What long answers are made of.
static FILLER: [u8; 1 << 20] = [b'.'; 1 << 20];

/// `GET /N …`: N bytes more; anything else: none.
fn asked(head: &[u8]) -> usize {
    let target = head.split(|b| *b == b' ').nth(1).unwrap_or_default();
    std::str::from_utf8(target.get(1..).unwrap_or_default()).ok().and_then(|n| n.parse().ok()).unwrap_or(0)
}
