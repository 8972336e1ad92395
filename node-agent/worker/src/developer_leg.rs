//! One client connection's leg to one developer: a bidirectional QUIC stream whose header is already written.
//!
//! Owns the two halves and what their errors mean to the client. Must not know HTTP. Called by `connection`.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use quinn::{ReadError, RecvStream, SendStream, VarInt, WriteError};
use redir_tunnel::StallTimer;
use redir_wire::StreamCode;
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::{plan, tunnel::OpenStream};

/// Why a leg to a developer ended badly.
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

/// An open leg. Dropping it resets what was not finished.
pub(crate) struct DeveloperLeg {
    send: SendStream,
    recv: RecvStream,
    finished: bool,
    patience: StallTimer,
    ending: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    _open: OpenStream,
}

impl DeveloperLeg {
    /// Takes over a stream whose header is written.
    pub(crate) fn new(opened: plan::DeveloperLeg) -> Self {
        let plan::DeveloperLeg { send, recv, open, ending } = opened;
        let ending = Some(Box::pin(ending.cancelled_owned()));
        DeveloperLeg { send, recv, finished: false, patience: open.patience(), ending, _open: open }
    }

    /// Ready once, when the intercept ends: no request follows on this leg.
    pub(crate) fn poll_ending(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(ending) = &mut self.ending else { return Poll::Pending };
        ready!(ending.as_mut().poll(cx));
        self.ending = None;
        Poll::Ready(())
    }

    /// Resolves when the intercept ends, at once if that was told already; not told by [`DeveloperLeg::poll_ending`] then.
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
    pub(crate) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.patience.poll_expired(cx));
        self.end(StreamCode::Slow);
        Poll::Ready(())
    }

    /// None of the developer's bytes wait for the client.
    pub(crate) fn renew(&mut self) {
        self.patience.renew();
    }

    /// The client has taken so many bytes.
    pub(crate) fn progressed(&mut self, bytes: usize) {
        self.patience.progressed(bytes);
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

impl Drop for DeveloperLeg {
    fn drop(&mut self) {
        // quinn would finish the stream, as if the client had sent everything it wanted to.
        if !self.finished {
            self.end(StreamCode::Gone);
        }
    }
}
