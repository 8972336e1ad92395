//! Copies between a TCP connection and a data stream.
//!
//! The two directions are independent. A FIN on one side becomes a FIN on the other; a reset becomes a reset and ends
//! both directions. Dropping the future resets both sides: a cut transfer must never look like a finished one.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quinn::{ReadError, RecvStream, SendStream, WriteError};
use redir_wire::StreamCode;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::agent::varint;
use crate::budget::{AT_ONCE, Budget, BudgetError, StallTimer};
use crate::developer::refuse;

/// What went through, and how it ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Relayed {
    /// Bytes from the stream to the TCP connection.
    pub to_tcp: u64,
    /// Bytes from the TCP connection to the stream.
    pub from_tcp: u64,
    /// `None`: both directions were finished; else why both were reset.
    pub reset: Option<StreamCode>,
}

/// Copies both ways until both directions are finished or one is reset.
pub async fn relay(mut tcp: TcpStream, send: SendStream, recv: RecvStream, budget: &Budget) -> Relayed {
    // Without a delay for small writes; a socket that does not take the option works all the same.
    tcp.set_nodelay(true).ok();
    // The connection must be reset, not finished, if this future is dropped at an await.
    let linger = socket2::SockRef::from(&tcp).set_linger(Some(Duration::ZERO));
    let (mut read, mut write) = tcp.split();
    let relayed = relay_halves(&mut read, &mut write, send, recv, budget).await;
    if relayed.reset.is_none() && linger.is_ok() {
        socket2::SockRef::from(&tcp).set_linger(None).ok();
    }
    relayed
}

/// The same over the halves of something else than a bare TCP connection. It is the caller's to reset it where this is
/// dropped or ends with a reset. What is written must be on its way when the write returns.
pub async fn relay_halves<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    read: &mut R,
    write: &mut W,
    send: SendStream,
    recv: RecvStream,
    budget: &Budget,
) -> Relayed {
    let mut relayed = Relayed::default();
    let mut stream = UnfinishedStream { send, recv, finished: false };
    let result = tokio::try_join!(
        stream_to_tcp(&mut stream.recv, write, budget, &mut relayed.to_tcp),
        tcp_to_stream(read, &mut stream.send, &mut relayed.from_tcp),
    );
    if let Err(code) = result {
        refuse(&mut stream.send, &mut stream.recv, code);
        relayed.reset = Some(code);
    } else {
        // Whoever closes the tunnel next must not take the last bytes with it.
        timeout(DELIVERY, stream.send.stopped()).await.ok();
    }
    stream.finished = true;
    relayed
}

/// Copies from the stream until its FIN, which is passed on, or until the TCP side has ended and takes no more. `Err`: reset both sides with this code.
pub async fn stream_to_tcp<W: AsyncWrite + Unpin>(
    recv: &mut RecvStream,
    write: &mut W,
    budget: &Budget,
    copied: &mut u64,
) -> Result<(), StreamCode> {
    // A packet is a piece; what came together is written together.
    let mut chunks = [const { Bytes::new() }; AT_ONCE];
    let mut patience = budget.patience();
    loop {
        let Some(count) = read_some(recv, &mut chunks, &mut patience).await.map_err(|error| read_code(&error))? else {
            break;
        };
        let length: usize = chunks[..count].iter().map(Bytes::len).sum();
        match budget.write_all(write, &mut chunks[..count], &mut patience).await {
            Ok(()) => {}
            // The service has sent its FIN and then closed, as one does that answers before it has read everything. What
            // it said is whole and may still be on its way: only what the client says is not wanted any more.
            Err(BudgetError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                recv.stop(varint(StreamCode::Reset.number())).ok();
                return Ok(());
            }
            Err(BudgetError::Io(_)) => return Err(StreamCode::Reset),
            Err(BudgetError::Slow) => return Err(StreamCode::Slow),
        }
        *copied += length as u64;
    }
    // Already closed by the other side: then the other direction tells.
    write.shutdown().await.ok();
    Ok(())
}

/// Some pieces, or `None` behind the last one. Where there are none yet, everything is written, and nothing waits for the reader.
async fn read_some(
    recv: &mut RecvStream,
    chunks: &mut [Bytes],
    patience: &mut StallTimer,
) -> Result<Option<usize>, ReadError> {
    let mut next = pin!(recv.read_chunks(chunks));
    poll_fn(|cx| {
        let read = next.as_mut().poll(cx);
        if read.is_pending() {
            patience.renew();
        }
        read
    })
    .await
}

/// Copies to the stream until the connection's FIN, which is passed on, or until the agent's client is done with it: then
/// it is closed as a client does that has read what it wanted. `Err`: reset both sides with this code.
pub async fn tcp_to_stream<R: AsyncRead + Unpin>(
    read: &mut R,
    send: &mut SendStream,
    copied: &mut u64,
) -> Result<(), StreamCode> {
    let mut buffer = BytesMut::new();
    let mut stopped = std::pin::pin!(send.stopped());
    loop {
        buffer.reserve(CHUNK);
        // A reader that stops must end the direction also while the connection is idle.
        let length = tokio::select! {
            length = read.read_buf(&mut buffer) => length.map_err(|error| tcp_code(&error))?,
            stopped = &mut stopped => match stopped.ok().flatten().map_or(StreamCode::Gone, stop_code) {
                StreamCode::Unread => return Ok(()),
                code => return Err(code),
            },
        };
        if length == 0 {
            // Fails only if the other end has stopped it, which the copy has just told.
            send.finish().ok();
            return Ok(());
        }
        match send.write_chunk(buffer.split().freeze()).await {
            Ok(()) => {}
            Err(WriteError::Stopped(code)) if stop_code(code) == StreamCode::Unread => return Ok(()),
            Err(WriteError::Stopped(code)) => return Err(stop_code(code)),
            Err(WriteError::ConnectionLost(_) | WriteError::ClosedStream | WriteError::ZeroRttRejected) => {
                return Err(StreamCode::Gone);
            }
        }
        *copied += length as u64;
    }
}

fn read_code(error: &ReadError) -> StreamCode {
    match error {
        ReadError::Reset(code) => StreamCode::from_number(code.into_inner()),
        ReadError::ConnectionLost(_)
        | ReadError::ClosedStream
        | ReadError::IllegalOrderedRead
        | ReadError::ZeroRttRejected => StreamCode::Gone,
    }
}

fn stop_code(code: quinn::VarInt) -> StreamCode {
    StreamCode::from_number(code.into_inner())
}

fn tcp_code(error: &io::Error) -> StreamCode {
    match error.kind() {
        io::ErrorKind::TimedOut => StreamCode::Timeout,
        _ => StreamCode::Reset,
    }
}

/// Resets the stream when dropped halfway: quinn would finish it.
struct UnfinishedStream {
    send: SendStream,
    recv: RecvStream,
    finished: bool,
}

impl Drop for UnfinishedStream {
    fn drop(&mut self) {
        if !self.finished {
            refuse(&mut self.send, &mut self.recv, StreamCode::Gone);
        }
    }
}

/// How long the agent may take to have everything.
const DELIVERY: Duration = Duration::from_secs(2);
/// Bytes copied at once: several packets, and less than a socket's buffer.
const CHUNK: usize = 64 * 1024;
