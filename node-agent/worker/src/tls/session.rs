//! An established TLS connection: plaintext here, records there.
//!
//! Owns rustls' state of one connection and the end of its sending side; the socket stays the caller's. Holds no more
//! than one write's records. Must not start a handshake (`app` and `client` do). Called by `proxy::transport`.

use std::{
    io::{self, Read, Write},
    task::{Context, Poll, ready},
};

use rustls::Connection;
use tokio::net::TcpStream;

use crate::relay;

/// See the module.
pub(crate) struct Session {
    rustls: Connection,
    end: SendEnd,
    /// The peer's FIN came without a `close_notify`.
    was_cut: bool,
}

/// How far the sending side has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SendEnd {
    Open,
    /// The FIN goes once the records before it are written.
    Wanted,
    Sent,
}

impl Session {
    /// Takes over a connection whose handshake is complete.
    pub(crate) fn new(rustls: Connection) -> Self {
        Session { rustls, end: SendEnd::Open, was_cut: false }
    }

    /// Reads some plaintext; 0 is the peer's end.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        socket: &TcpStream,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.rustls.reader().read(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    self.was_cut = true;
                    return Poll::Ready(Ok(0));
                }
                read => return Poll::Ready(read),
            }
            ready!(socket.poll_read_ready(cx))?;
            match receive(&mut self.rustls, socket) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The end is told by the reader, behind what came before it.
                received => received.map(drop)?,
            }
        }
    }

    /// Writes some plaintext, once the records before it are with the kernel.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        socket: &TcpStream,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_flush(cx, socket))?;
        let count = self.rustls.writer().write(bytes)?;
        self.send(socket)?;
        Poll::Ready(Ok(count))
    }

    /// Ready when every record, and a finish, is with the kernel.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>, socket: &TcpStream) -> Poll<io::Result<()>> {
        while self.rustls.wants_write() || self.end == SendEnd::Wanted {
            ready!(socket.poll_write_ready(cx))?;
            self.send(socket)?;
        }
        Poll::Ready(Ok(()))
    }

    /// Sends `close_notify` and the FIN, as far as the kernel takes them now.
    pub(crate) fn finish(&mut self, socket: &TcpStream) -> io::Result<()> {
        if self.end == SendEnd::Open {
            self.rustls.send_close_notify();
        }
        self.cut(socket)
    }

    /// Sends the FIN alone, as far as the kernel takes it now.
    pub(crate) fn cut(&mut self, socket: &TcpStream) -> io::Result<()> {
        if self.end == SendEnd::Open {
            self.end = SendEnd::Wanted;
        }
        self.send(socket).map(drop)
    }

    /// Whether the peer ended without `close_notify`.
    pub(crate) fn was_cut(&self) -> bool {
        self.was_cut
    }

    /// Gives the kernel what it takes; true if that was all.
    fn send(&mut self, socket: &TcpStream) -> io::Result<bool> {
        if !send(&mut self.rustls, socket)? {
            return Ok(false);
        }
        if self.end == SendEnd::Wanted {
            self.end = SendEnd::Sent;
            relay::finish(socket)?;
        }
        Ok(true)
    }
}

/// Completes a handshake.
pub(super) async fn shake(rustls: &mut Connection, socket: &TcpStream) -> io::Result<()> {
    loop {
        while !send(rustls, socket)? {
            socket.writable().await?;
        }
        if !rustls.is_handshaking() {
            return Ok(());
        }
        socket.readable().await?;
        match receive(rustls, socket) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            Ok(_) | Err(_) => {}
        }
    }
}

/// Takes records from the kernel; 0 is the peer's FIN.
fn receive(rustls: &mut Connection, socket: &TcpStream) -> io::Result<usize> {
    let count = rustls.read_tls(&mut RecordSocket(socket))?;
    match rustls.process_new_packets() {
        Ok(_) => Ok(count),
        Err(error) => {
            // The alert that says so; the error is told in any case.
            let _ = send(rustls, socket);
            Err(io::Error::new(io::ErrorKind::InvalidData, error))
        }
    }
}

/// Gives the kernel the records it takes; true if that was all.
pub(super) fn send(rustls: &mut Connection, socket: &TcpStream) -> io::Result<bool> {
    while rustls.wants_write() {
        match rustls.write_tls(&mut RecordSocket(socket)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// A socket as rustls wants it: whatever cannot be done now would block.
struct RecordSocket<'a>(&'a TcpStream);

impl Read for RecordSocket<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(into)
    }
}

impl Write for RecordSocket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use rustls::{
        SupportedProtocolVersion,
        version::{TLS12, TLS13},
    };
    use tokio::{io::AsyncReadExt, time::timeout};

    use super::*;
    use crate::tls::testing::{Certificate, EstablishedTls, client, connected, server};

    async fn soon<T>(what: impl Future<Output = T>) -> T {
        timeout(Duration::from_secs(20), what).await.expect("in time")
    }

    async fn established(versions: &[&'static SupportedProtocolVersion]) -> (EstablishedTls, EstablishedTls) {
        let certificate = Certificate::new();
        connected(client(&certificate, versions), server(&certificate)).await
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn much_passes_both_ways_through_little_room() {
        const MUCH: usize = 3_000_000;
        let (mut a, mut b) = established(rustls::ALL_VERSIONS).await;
        for end in [&a, &b] {
            socket2::SockRef::from(&end.socket).set_send_buffer_size(4096).unwrap();
        }
        let echo = tokio::spawn(async move {
            let mut block = vec![0; 5000];
            loop {
                match b.read(&mut block).await.unwrap() {
                    0 => return b.session.finish(&b.socket),
                    count => b.write_all(&block[..count]).await.unwrap(),
                }
            }
        });
        let sent: Vec<u8> = (0..=250).cycle().take(MUCH).collect();
        for part in sent.chunks(100_000) {
            soon(a.write_all(part)).await.unwrap();
            assert!(soon(a.read_exactly(part.len())).await.unwrap() == part);
        }
        a.session.finish(&a.socket).unwrap();
        assert_eq!(soon(a.read_to_end()).await.unwrap(), b"");
        soon(echo).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn one_direction_may_end_before_the_other() {
        for version in [&TLS12, &TLS13] {
            let (mut a, mut b) = established(&[version]).await;
            a.write_all(b"question").await.unwrap();
            a.session.finish(&a.socket).unwrap();
            assert_eq!(soon(b.read_to_end()).await.unwrap(), b"question");
            b.write_all(b"answer").await.unwrap();
            b.session.finish(&b.socket).unwrap();
            assert_eq!(soon(a.read_to_end()).await.unwrap(), b"answer");
            assert!(!a.session.was_cut() && !b.session.was_cut());
        }
    }

    #[tokio::test]
    async fn an_end_without_close_notify_is_told_from_one_with_it() {
        let (mut a, mut b) = established(rustls::ALL_VERSIONS).await;
        a.write_all(b"half of it").await.unwrap();
        a.session.cut(&a.socket).unwrap();
        assert_eq!(soon(b.read_to_end()).await.unwrap(), b"half of it");
        assert!(b.session.was_cut());
    }

    #[tokio::test]
    async fn a_finish_waits_for_the_records_before_it() {
        let (mut a, mut b) = established(rustls::ALL_VERSIONS).await;
        socket2::SockRef::from(&a.socket).set_send_buffer_size(4096).unwrap();
        let mut written = 0;
        let mut stuck = false;
        while !stuck {
            let block = [7; 30_000];
            let wrote = poll_fn(|cx| Poll::Ready(a.session.poll_write(cx, &a.socket, &block))).await;
            match wrote {
                Poll::Ready(count) => written += count.unwrap(),
                Poll::Pending => stuck = true,
            }
        }
        a.session.finish(&a.socket).unwrap();
        let (flushed, read) =
            soon(async { tokio::join!(poll_fn(|cx| a.session.poll_flush(cx, &a.socket)), b.read_to_end()) }).await;
        flushed.unwrap();
        assert_eq!(read.unwrap().len(), written);
        assert!(!b.session.was_cut());
    }

    #[tokio::test]
    async fn a_record_that_is_none_is_an_error_and_the_peer_hears_why() {
        let (mut a, b) = established(rustls::ALL_VERSIONS).await;
        a.write_all(b"x").await.unwrap();
        b.socket.writable().await.unwrap();
        b.socket.try_write(b"\x17\x03\x03\x00\x05hello").unwrap();
        let error = soon(a.read(&mut [0; 10])).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let EstablishedTls { mut socket, .. } = b;
        let mut records = Vec::new();
        drop(a);
        // The record with "x", then the alert.
        let _ = soon(socket.read_to_end(&mut records)).await;
        let length = usize::from(u16::from_be_bytes([records[3], records[4]]));
        assert!(records.len() > 5 + length, "{} bytes, of which {length} in the first record", records.len());
    }
}
