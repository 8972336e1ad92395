//! What is under an h2 connection towards an origin, as the h2 crate wants it: the app's connection, a developer's stream.
//!
//! Owns: how each ends. A FIN is sent when h2 shuts a side down; a side that is dropped before is reset.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use redir_wire::StreamCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    origin::{Cause, Origin},
    wire::Transport as Http2Transport,
};
use crate::{
    proxy::{
        developer_stream::{DeveloperError, DeveloperStream},
        transport::Transport,
    },
    upstream::AppLeg,
};

/// The app's connection.
pub(in super::super) struct AppIo {
    transport: Transport<AppLeg>,
    finished: bool,
}

impl AppIo {
    /// Takes over an open leg.
    pub(in super::super) fn new(transport: Transport<AppLeg>) -> Self {
        AppIo { transport, finished: false }
    }

    fn transport(self: Pin<&mut Self>) -> Pin<&mut Transport<AppLeg>> {
        Pin::new(&mut self.get_mut().transport)
    }
}

impl Drop for AppIo {
    fn drop(&mut self) {
        if !self.finished {
            self.transport.reset();
        }
    }
}

/// A developer's stream.
pub(in super::super) struct DeveloperIo {
    leg: DeveloperStream,
    origin: Origin,
}

impl DeveloperIo {
    /// Takes over an open leg; `origin` hears why it breaks.
    pub(super) fn new(leg: DeveloperStream, origin: Origin) -> Self {
        DeveloperIo { leg, origin }
    }

    fn told<T>(&self, result: Result<T, DeveloperError>) -> io::Result<T> {
        result.map_err(|error| self.broken(error))
    }

    fn broken(&self, error: DeveloperError) -> io::Error {
        let text = error.to_string();
        self.origin.broke(Cause::Developer(error));
        io::Error::new(io::ErrorKind::ConnectionReset, text)
    }
}

impl Http2Transport for AppIo {}

impl AsyncRead for AppIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.transport().poll_read(cx, buf)
    }
}

impl AsyncWrite for AppIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(self.transport(), cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.transport().poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(self.transport(), cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finished = true;
        self.transport().poll_shutdown(cx)
    }
}

impl AsyncRead for DeveloperIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Poll::Ready(read) = self.leg.poll_read(cx, buf.initialize_unfilled()) else {
            // Nothing waits here.
            self.leg.renew();
            return Poll::Pending;
        };
        let count = self.told(read)?;
        self.leg.progressed(count);
        buf.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl Http2Transport for DeveloperIo {
    /// Bytes of a developer that wait for the client hold a part of the tunnel's window.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        ready!(self.leg.poll_expired(cx));
        Poll::Ready(self.broken(DeveloperError::Code(StreamCode::Slow)))
    }
}

impl AsyncWrite for DeveloperIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(self.leg.poll_write(cx, bytes));
        Poll::Ready(self.told(written))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.leg.finish();
        Poll::Ready(Ok(()))
    }
}
