//! One client connection's way to one developer: a bidirectional QUIC stream whose header is written.
//!
//! Owns the two halves and what their errors mean to the client. Must not know HTTP, nor whose the stream should be: that is
//! the plan's. Called by `route`, which opens it, by `leg` and by HTTP/2's legs.

use std::{
    fmt,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
};

use quinn::{ReadError, RecvStream, SendStream, VarInt, WriteError};
use redir_tunnel::StallTimer;
use redir_wire::{ClientTls, StreamCode, StreamHeader};
use tokio::time::timeout;
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::{
    plan::Intercept,
    tunnel_handle::{OPEN_LIMIT, OpenError, OpenStream},
};

/// Why a stream to a developer ended badly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DeveloperError {
    /// The developer's side said why.
    Code(StreamCode),
    /// The tunnel is gone.
    Lost,
}

impl DeveloperError {
    /// Whether the developer's side refused the connection before any byte went through it.
    pub(crate) fn refused(&self) -> bool {
        use StreamCode::{Looped, NoTls, NotMine, Refused, Timeout, Unreachable};
        matches!(self, DeveloperError::Code(Refused | Timeout | Unreachable | NotMine | NoTls | Looped))
    }
}

impl fmt::Display for DeveloperError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeveloperError::Code(code) => code.fmt(f),
            DeveloperError::Lost => f.write_str("the tunnel to the developer is gone"),
        }
    }
}

/// An open stream. Dropping it resets what was not finished.
pub(crate) struct DeveloperStream {
    send: SendStream,
    recv: RecvStream,
    finished: bool,
    stall_timer: StallTimer,
    ending: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// Counts the stream as open.
    _open: OpenStream,
}

impl DeveloperStream {
    /// Opens a stream for one client connection, and writes its header; `tls` if it is decrypted. Bounded by [`OPEN_LIMIT`].
    /// The developer's refusal comes later, as a reset of the stream.
    pub(crate) async fn open(
        intercept: &Intercept,
        client: SocketAddr,
        destination: SocketAddr,
        tls: Option<ClientTls>,
    ) -> Result<Self, OpenError> {
        let pod = intercept.pod.bare().to_owned();
        let header = StreamHeader { intercept: intercept.id, pod, client, destination, tls };
        let header = header.encode().map_err(|_| OpenError::Gone)?;
        let opened = timeout(OPEN_LIMIT, async {
            let (mut send, recv, open) = intercept.tunnel.open_bi().await?;
            send.write_chunk(header).await.map_err(|_| OpenError::Gone)?;
            let ending = Some(Box::pin(intercept.ending.begun().clone().cancelled_owned()));
            let stall_timer = open.patience();
            Ok(DeveloperStream { send, recv, finished: false, stall_timer, ending, _open: open })
        });
        let result = opened.await.unwrap_or(Err(OpenError::Busy));
        match result {
            Ok(_) => {}
            Err(OpenError::Unanswered) => intercept.bypass(),
            Err(OpenError::Gone | OpenError::Busy) => intercept.tunnel.counters().streams_failed.add(1),
        }
        result
    }

    /// Ready once, when the intercept ends: no request follows on this leg.
    pub(crate) fn poll_ending(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(ending) = &mut self.ending else { return Poll::Pending };
        ready!(ending.as_mut().poll(cx));
        self.ending = None;
        Poll::Ready(())
    }

    /// Resolves when the intercept ends, at once if that was told already; not told by [`DeveloperStream::poll_ending`] then.
    pub(crate) fn take_ending(&mut self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        match self.ending.take() {
            Some(ending) => ending,
            None => Box::pin(std::future::ready(())),
        }
    }

    /// Writes some of the bytes.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize, DeveloperError>> {
        Pin::new(&mut self.send).poll_write(cx, bytes).map_err(|error| match error {
            WriteError::Stopped(code) => DeveloperError::Code(StreamCode::from_number(code.into_inner())),
            WriteError::ConnectionLost(_) | WriteError::ClosedStream | WriteError::ZeroRttRejected => {
                DeveloperError::Lost
            }
        })
    }

    /// Reads some bytes; 0 is the developer's FIN.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<Result<usize, DeveloperError>> {
        self.recv.poll_read(cx, into).map_err(|error| match error {
            ReadError::Reset(code) => DeveloperError::Code(StreamCode::from_number(code.into_inner())),
            ReadError::ConnectionLost(_)
            | ReadError::ClosedStream
            | ReadError::IllegalOrderedRead
            | ReadError::ZeroRttRejected => DeveloperError::Lost,
        })
    }

    /// Call it while bytes of the developer wait for the client. Ready: too many clients of this tunnel do not read and
    /// this one is among the slowest; the stream is reset.
    pub(crate) fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.stall_timer.poll_expired(cx));
        self.end(StreamCode::Slow);
        Poll::Ready(())
    }

    /// None of the developer's bytes wait for the client.
    pub(crate) fn renew(&mut self) {
        self.stall_timer.renew();
    }

    /// The client has taken so many bytes.
    pub(crate) fn progressed(&mut self, bytes: usize) {
        self.stall_timer.progressed(bytes);
    }

    /// Forwards the client's FIN.
    pub(crate) fn finish(&mut self) {
        self.finished = true;
        // Fails only if the stream was stopped or reset, which its reader tells.
        let _ = self.send.finish();
    }

    /// Forwards a reset.
    pub(crate) fn reset(&mut self) {
        self.end(StreamCode::Reset);
    }

    fn end(&mut self, code: StreamCode) {
        let code = VarInt::try_from(code.number()).expect("stream codes are small");
        // Both fail only on a stream that has ended already.
        let _ = self.send.reset(code);
        let _ = self.recv.stop(code);
        self.finished = true;
    }
}

impl Drop for DeveloperStream {
    fn drop(&mut self) {
        // quinn would finish the stream, as if the client had sent everything it wanted to.
        if !self.finished {
            self.end(StreamCode::Gone);
        }
    }
}
