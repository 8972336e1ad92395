//! Bytes to and from a TCP peer, in clear or through TLS: the client's end and the app's are used alike.
//!
//! Owns the TLS state beside a socket, if there is one. Must not know HTTP, nor decide whether a connection is
//! decrypted. In clear it costs a branch: reads and writes go to the socket as they are. Called by the driver and `leg`,
//! and by HTTP/2's connections, which read and write through tokio's traits.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::buffer::{Buffer, poll_write};
use crate::{relay, tls::Session, upstream::AppLeg};

/// How a side ends what it sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// In order: through TLS with a `close_notify` before the FIN.
    Whole,
    /// Through TLS, with the FIN alone: somebody may have cut what was said, and whoever hears it must be able to tell.
    Cut,
}

/// What holds a TCP connection.
pub(super) trait Socket: Unpin {
    /// The connection.
    fn tcp(&self) -> &TcpStream;
}

/// The client's end belongs to whoever serves the connection.
impl Socket for &TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Socket for AppLeg {
    fn tcp(&self) -> &TcpStream {
        &self.stream
    }
}

/// A socket, and the TLS session on it.
pub(super) struct Transport<S> {
    socket: S,
    session: Option<Box<Session>>,
}

impl<S: Socket> Transport<S> {
    /// In clear.
    pub(super) fn plain(socket: S) -> Self {
        Transport { socket, session: None }
    }

    /// Through an established session, if there is one.
    pub(super) fn new(socket: S, session: Option<Box<Session>>) -> Self {
        Transport { socket, session }
    }

    /// Reads into a buffer; 0 is the peer's end.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>, buffer: &mut Buffer) -> Poll<io::Result<usize>> {
        match &mut self.session {
            None => buffer.poll_fill(cx, self.socket.tcp()),
            Some(session) => buffer.poll_fill_with(|into| session.poll_read(cx, self.socket.tcp(), into)),
        }
    }

    /// Writes some of the bytes. Through TLS they may wait in the session: [`Transport::poll_flush`] drives them.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.session {
            None => poll_write(cx, self.socket.tcp(), bytes),
            Some(session) => session.poll_write(cx, self.socket.tcp(), bytes),
        }
    }

    /// Ready when everything that was written, and a finish, is with the kernel.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.session {
            None => Poll::Ready(Ok(())),
            Some(session) => session.poll_flush(cx, self.socket.tcp()),
        }
    }

    /// Ends the sending side behind what was written. A second time changes nothing.
    pub(super) fn finish(&mut self, ending: Ending) -> io::Result<()> {
        match (&mut self.session, ending) {
            (None, _) => relay::finish(self.socket.tcp()),
            (Some(session), Ending::Whole) => session.finish(self.socket.tcp()),
            (Some(session), Ending::Cut) => session.cut(self.socket.tcp()),
        }
    }

    /// How the peer has ended, once a read was 0.
    pub(super) fn ending(&self) -> Ending {
        match &self.session {
            Some(session) if session.was_cut() => Ending::Cut,
            _ => Ending::Whole,
        }
    }

    /// A reset goes out when the socket is dropped.
    pub(super) fn reset(&self) {
        relay::reset(self.socket.tcp());
    }

    /// Whether bytes go as they are.
    pub(super) fn is_plain(&self) -> bool {
        self.session.is_none()
    }

    /// What holds the socket.
    pub(super) fn socket(&self) -> &S {
        &self.socket
    }

    /// The socket alone; a session on it is forgotten.
    pub(super) fn into_socket(self) -> S {
        self.socket
    }

    /// The session, for another who has the socket too.
    pub(super) fn take_session(&mut self) -> Option<Box<Session>> {
        self.session.take()
    }
}

impl<S: Socket> AsyncRead for Transport<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Transport { socket, session } = self.get_mut();
        if let Some(session) = session {
            let count = ready!(session.poll_read(cx, socket.tcp(), buf.initialize_unfilled()))?;
            buf.advance(count);
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(socket.tcp().poll_read_ready(cx))?;
            match socket.tcp().try_read_buf(&mut buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read.map(drop)),
            }
        }
    }
}

impl<S: Socket> AsyncWrite for Transport<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let transport = self.get_mut();
        if transport.session.is_some() {
            let first = parts.iter().find(|part| !part.is_empty()).map_or(&[][..], |part| part);
            return transport.poll_write(cx, first);
        }
        let socket = transport.socket.tcp();
        loop {
            ready!(socket.poll_write_ready(cx))?;
            match socket.try_write_vectored(parts) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.is_plain()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_flush(cx)
    }

    /// The FIN is with the kernel, and a `close_notify` before it.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let transport = self.get_mut();
        transport.finish(Ending::Whole)?;
        transport.poll_flush(cx)
    }
}
