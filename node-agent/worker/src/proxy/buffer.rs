//! Bytes that were read and not yet passed on, in one direction of one connection.
//!
//! Holds memory only while it holds bytes. Grows with what arrives, so that an idle or slow connection stays small and
//! a transfer costs few system calls.

use std::{
    io::{self, Read},
    mem,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use socket2::SockRef;
use tokio::{io::Interest, net::TcpStream};

use crate::{
    memory::{self, FREE, Purpose, Share},
    relay::{CHUNK_MAX, with_scratch},
};

/// A first read: the head of an ordinary request.
const CHUNK_MIN: usize = 4 * 1024;

/// A buffer of one direction.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: BytesMut,
    /// What the next read takes at most.
    chunk: usize,
    /// What the bytes lie in takes so much memory at most: what was taken from the front is still there.
    block: usize,
    /// What is counted against the whole agent's budget while the connection waits.
    share: Share,
}

impl Default for Buffer {
    fn default() -> Self {
        Buffer { bytes: BytesMut::new(), chunk: CHUNK_MIN, block: 0, share: Share::default() }
    }
}

impl Buffer {
    /// Everything that was read and not taken.
    pub(super) fn unread(&self) -> &[u8] {
        &self.bytes
    }

    /// True when nothing is left.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Drops the first bytes.
    pub(super) fn take(&mut self, count: usize) {
        self.bytes.advance(count);
    }

    /// Puts bytes that were taken before the unread ones again.
    pub(super) fn put_back(&mut self, taken: &[u8]) {
        let mut bytes = BytesMut::with_capacity(taken.len() + self.bytes.len());
        bytes.extend_from_slice(taken);
        bytes.extend_from_slice(&self.bytes);
        self.bytes = bytes;
    }

    /// Puts other bytes in the place of the first ones.
    pub(super) fn replace(&mut self, count: usize, bytes: &[u8]) {
        let rest = self.bytes.split_off(count.min(self.bytes.len()));
        self.bytes.clear();
        self.bytes.extend_from_slice(bytes);
        self.bytes.unsplit(rest);
    }

    /// Hands everything over.
    pub(super) fn take_all(&mut self) -> Bytes {
        mem::take(&mut self.bytes).freeze()
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Appends bytes of the agent's own.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The connection waits: gives the memory back that nothing is in, and counts the rest.
    pub(super) fn rest(&mut self) {
        if self.bytes.is_empty() && self.bytes.capacity() > 0 {
            self.chunk = (self.chunk / 2).max(CHUNK_MIN);
        }
        self.fit();
        self.share.set(self.block.saturating_sub(FREE));
    }

    /// The connection waits for more of a message that is not whole. False: there is no room for what is here.
    pub(super) fn try_wait(&mut self) -> bool {
        self.fit();
        self.share.try_wait(self.bytes.len(), self.block.saturating_sub(FREE))
    }

    /// Nothing keeps more than twice its size.
    fn fit(&mut self) {
        self.block = self.block.max(self.bytes.capacity());
        if self.bytes.len() * 2 <= self.block {
            self.bytes = if self.bytes.is_empty() { BytesMut::new() } else { BytesMut::from(&self.bytes[..]) };
            self.block = self.bytes.capacity();
        }
    }

    /// The next read takes no more than a first one.
    pub(super) fn read_little(&mut self) {
        self.chunk = CHUNK_MIN;
    }

    /// What the next read takes: little while slow readers hold much.
    fn next_chunk(&self) -> usize {
        if memory::has_room(Purpose::SlowReader) { self.chunk } else { CHUNK_MIN }
    }

    /// Reads from a socket; 0 is its FIN.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>, socket: &TcpStream) -> Poll<io::Result<usize>> {
        loop {
            ready!(socket.poll_read_ready(cx))?;
            let chunk = self.next_chunk();
            let read = match chunk {
                CHUNK_MIN => self.read_dry(socket),
                _ => {
                    self.bytes.reserve(chunk);
                    socket.try_read_buf(&mut (&mut self.bytes).limit(chunk))
                }
            };
            match read {
                Ok(count) => {
                    self.grow(count);
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Reads once. Fewer bytes than there is room for have emptied the socket: what is known of its readiness is void, as
    /// after a read that finds nothing, and that read is saved. (What has come since was told again; and tokio keeps a FIN.)
    fn read_dry(&mut self, socket: &TcpStream) -> io::Result<usize> {
        with_scratch(CHUNK_MIN, |scratch| {
            let mut read = 0;
            let more = socket.try_io(Interest::READABLE, || {
                read = (&*SockRef::from(socket)).read(scratch)?;
                if (1..CHUNK_MIN).contains(&read) { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            self.bytes.extend_from_slice(&scratch[..read]);
            if read > 0 { Ok(read) } else { more.map(|()| 0) }
        })
    }

    /// Reads by `read`, which fills a slice; 0 is the end.
    pub(super) fn poll_fill_with<E>(
        &mut self,
        read: impl FnOnce(&mut [u8]) -> Poll<Result<usize, E>>,
    ) -> Poll<Result<usize, E>> {
        let chunk = self.next_chunk();
        let count = ready!(with_scratch(chunk, |scratch| {
            let read = read(scratch);
            if let Poll::Ready(Ok(count)) = read {
                self.bytes.extend_from_slice(&scratch[..count]);
            }
            read
        }))?;
        self.grow(count);
        Poll::Ready(Ok(count))
    }

    fn grow(&mut self, count: usize) {
        self.block = self.block.max(self.bytes.capacity());
        if count == self.chunk {
            self.chunk = (self.chunk * 2).min(CHUNK_MAX);
        }
    }
}

/// Writes some bytes to a socket.
pub(super) fn poll_write(cx: &mut Context<'_>, socket: &TcpStream, bytes: &[u8]) -> Poll<io::Result<usize>> {
    loop {
        ready!(socket.poll_write_ready(cx))?;
        match socket.try_write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return Poll::Ready(done),
        }
    }
}
