//! The transport that an h2 connection reads and writes: a socket, what was read from it before, and a look at the
//! frames that come in.
//!
//! Owns: the order of bytes, and that a side which sends without a pause does not keep the task. Must not: judge frames
//! (its watcher does) or know which side it is.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    frames::{Frames, Seen, Watch},
    upgrade::{MAX_HEADER_LIST_SIZE, Opening, Upgrade, with_setting},
};
use crate::{
    memory::{self, Purpose},
    proxy::transport::{self, Socket},
};

/// After so many frames or bytes the other side of the connection gets its turn: what they ask for is bounded before
/// more is taken.
const TURN_FRAMES: usize = 256;
const TURN_BYTES: usize = 64 * 1024;
/// The same while slow readers hold the agent's budget: what waits after a turn is counted before the next.
const TURN_BYTES_SCARCE: usize = 4 * 1024;
/// The same for bytes of header blocks: each may stand for a field, which is decoded, judged and encoded again.
const TURN_BLOCKS: usize = 16 * 1024;

/// A transport that carries h2.
pub(in super::super) trait Transport: AsyncRead + AsyncWrite + Unpin + Send {
    /// Called instead of reading, while what was read before waits for the other side. Ready: it cannot wait any longer.
    fn poll_held(&mut self, _: &mut Context<'_>) -> Poll<io::Error> {
        Poll::Pending
    }
}

impl<S: Socket + Send> Transport for transport::Transport<S> where Self: AsyncRead + AsyncWrite + Unpin {}

#[cfg(test)]
impl Transport for tokio::io::DuplexStream {}

/// Hears of what passes, besides the frames.
pub(super) trait Passing: Watch {
    /// Whether anything may be read now. Whoever says no polls the connection again when that has changed.
    fn may_read(&mut self) -> bool;
    /// So much was read that it is somebody else's turn.
    fn turn_is_over(&mut self);
    /// Bytes came in from the socket.
    fn received(&mut self, bytes: usize);
    /// Bytes went out.
    fn sent(&mut self, bytes: usize);
    /// Whether the other end takes what is written.
    fn blocked(&mut self, blocked: bool);
}

/// See the module.
pub(super) struct Wire<T, W> {
    io: T,
    watch: W,
    frames: Frames,
    /// Read before, not given to the reader.
    ahead: Bytes,
    /// So many of the first bytes are with the other end already.
    written: usize,
    /// So many of the first bytes that come in are not the other end's frames: a client's preface, what `opening` says.
    unframed: usize,
    /// Towards an app that has the first request already: nothing goes out until that is taken out.
    opening: Option<Box<Opening>>,
    /// Goes out before anything else.
    first: Bytes,
    /// Towards a client: the longest list of headers that it is told of, where that is not the agent's own.
    header_list: Option<u32>,
}

impl<T, W: Passing> Wire<T, W> {
    /// Of a server, towards its client: `ahead` begins with the preface. The client is told of a list of headers of
    /// this size at most, if there is one.
    pub(super) fn of_client(io: T, watch: W, ahead: Bytes, header_list: Option<u32>) -> Self {
        Wire { unframed: super::preface::PREFACE.len(), header_list, ..Wire::of_server(io, watch, ahead, 0) }
    }

    /// Of a client, towards a server that has got `written` bytes of the preface and has said `ahead`.
    pub(super) fn of_server(io: T, watch: W, ahead: Bytes, written: usize) -> Self {
        let (frames, opening, first) = (Frames::default(), None, Bytes::new());
        Wire { io, watch, frames, ahead, written, unframed: 0, opening, first, header_list: None }
    }

    /// Of a client, towards an app that has answered 101 to its first request and has said `heard`.
    pub(super) fn of_upgraded(io: T, watch: W, heard: Bytes, upgrade: &Upgrade) -> Self {
        let (opening, ahead) = Opening::new(upgrade, heard);
        let unframed = ahead.len();
        Wire { unframed, opening: Some(Box::new(opening)), ..Wire::of_server(io, watch, ahead, 0) }
    }

    /// Looks at what was just put behind the first `start` bytes of the buffer.
    fn look(&mut self, buf: &mut ReadBuf<'_>, start: usize) {
        let bytes = &mut buf.filled_mut()[start..];
        let skipped = self.unframed.min(bytes.len());
        self.unframed -= skipped;
        let kept = skipped + self.frames.pass(&mut bytes[skipped..], &mut self.watch);
        buf.set_filled(start + kept);
    }

    /// Whether it is somebody else's turn; counts anew.
    fn turn_is_over(&mut self) -> bool {
        let seen = self.frames.seen;
        let bytes = if memory::has_room(Purpose::SlowReader) { TURN_BYTES } else { TURN_BYTES_SCARCE };
        let over = seen.frames >= TURN_FRAMES || seen.bytes >= bytes || seen.blocks >= TURN_BLOCKS;
        if over {
            self.frames.seen = Seen::default();
            self.watch.turn_is_over();
        }
        over
    }

    fn after_write(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.watch.blocked(written.is_pending());
        if let Poll::Ready(Ok(count)) = written {
            self.watch.sent(count);
        }
        written
    }

    /// Takes what may not go out as it is; whether it took the bytes.
    fn open(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> bool {
        if let Some(size) = self.header_list.take() {
            // The h2 server begins with its SETTINGS, in one piece.
            self.first = with_setting(bytes, MAX_HEADER_LIST_SIZE, size).into();
            return true;
        }
        let Some(opening) = &mut self.opening else { return false };
        if let Some((first, heard)) = opening.write(bytes) {
            (self.first, self.ahead, self.opening) = (first, heard, None);
            // What the app says may be read now.
            cx.waker().wake_by_ref();
        }
        true
    }

    /// How much of these bytes the other end has already.
    fn skip(&mut self, len: usize) -> usize {
        let skipped = self.written.min(len);
        self.written -= skipped;
        skipped
    }
}

impl<T: Transport, W: Passing + Unpin> AsyncRead for Wire<T, W> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.watch.may_read() {
            return this.io.poll_held(cx).map(Err);
        }
        if this.turn_is_over() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if this.opening.is_some() && this.ahead.is_empty() {
            return Poll::Pending;
        }
        let start = buf.filled().len();
        loop {
            if this.frames.give_held(buf.remaining(), buf) > 0 {
                return Poll::Ready(Ok(()));
            }
            let withheld = this.frames.withheld().len();
            if buf.remaining() <= withheld {
                let count = buf.remaining();
                buf.put_slice(&this.frames.withheld()[..count]);
                this.frames.give(count);
                return Poll::Ready(Ok(()));
            }
            buf.put_slice(this.frames.withheld());
            let (before, from_socket) = (buf.filled().len(), this.ahead.is_empty());
            match poll_read_some(&mut this.io, &mut this.ahead, cx, buf) {
                Poll::Pending => {
                    buf.set_filled(start);
                    return Poll::Pending;
                }
                Poll::Ready(Err(error)) => {
                    buf.set_filled(start);
                    return Poll::Ready(Err(error));
                }
                Poll::Ready(Ok(())) => {}
            }
            let count = buf.filled().len() - before;
            if count == 0 {
                // The end, inside a head: the reader gets what there is of it.
                this.frames.give(withheld);
                return Poll::Ready(Ok(()));
            }
            if from_socket {
                this.watch.received(count);
            }
            this.look(buf, start);
            if buf.filled().len() > start {
                return Poll::Ready(Ok(()));
            }
            // Everything was withheld or taken out; nothing must not look like the end.
        }
    }
}

/// Reads what was read before, then the socket.
fn poll_read_some<T: AsyncRead + Unpin>(
    io: &mut T,
    ahead: &mut Bytes,
    cx: &mut Context<'_>,
    buf: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    if ahead.is_empty() {
        return Pin::new(io).poll_read(cx, buf);
    }
    let count = ahead.len().min(buf.remaining());
    buf.put_slice(&ahead[..count]);
    ahead.advance(count);
    if ahead.is_empty() {
        // It may be a part of something large.
        *ahead = Bytes::new();
    }
    Poll::Ready(Ok(()))
}

impl<T: AsyncWrite + Unpin, W: Passing + Unpin> Wire<T, W> {
    /// Writes what goes first.
    fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.first.is_empty() {
            let written = Pin::new(&mut self.io).poll_write(cx, &self.first);
            match ready!(self.after_write(written))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.first.advance(count),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin, W: Passing + Unpin> AsyncWrite for Wire<T, W> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.open(cx, bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        ready!(self.poll_first(cx))?;
        let skipped = self.skip(bytes.len());
        if skipped > 0 {
            return Poll::Ready(Ok(skipped));
        }
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.after_write(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.opening.is_some() || self.header_list.is_some() {
            let part = parts.iter().find(|part| !part.is_empty()).map_or(&[][..], |part| part);
            return self.poll_write(cx, part);
        }
        ready!(self.poll_first(cx))?;
        let skipped = self.skip(parts.first().map_or(0, |part| part.len()));
        if skipped > 0 {
            return Poll::Ready(Ok(skipped));
        }
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, parts);
        self.after_write(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_first(cx))?;
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        if flushed.is_pending() {
            self.watch.blocked(true);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_first(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;
    use crate::proxy::http2::{
        frames::{Fate, Head},
        preface::PREFACE,
    };

    /// Drops what says nothing.
    #[derive(Default)]
    struct Plain {
        frames: usize,
        received: usize,
        sent: usize,
        held: bool,
    }

    impl Watch for Plain {
        fn frame(&mut self, _: &Head) -> Fate {
            self.frames += 1;
            Fate::Drop
        }

        fn settings(&mut self, _: &[u8]) {}
    }

    impl Passing for Plain {
        fn may_read(&mut self) -> bool {
            !self.held
        }

        fn turn_is_over(&mut self) {}

        fn received(&mut self, bytes: usize) {
            self.received += bytes;
        }

        fn sent(&mut self, bytes: usize) {
            self.sent += bytes;
        }

        fn blocked(&mut self, _: bool) {}
    }

    const IDLE: [u8; 9] = [0, 0, 0, 0, 0, 0, 0, 0, 1];
    const PING: [u8; 17] = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];

    #[tokio::test]
    async fn a_clients_preface_and_frames_come_through_without_what_says_nothing() {
        let (mut client, ours) = duplex(7);
        let ahead = Bytes::copy_from_slice(&[&PREFACE[..], &IDLE, &PING[..5]].concat());
        let mut wire = Wire::of_client(ours, Plain::default(), ahead, None);
        let rest = [&PING[5..], &IDLE, &IDLE, &PING, &IDLE, &PING[..4]].concat();
        let send = async {
            client.write_all(&rest).await.unwrap();
            drop(client);
        };
        let mut got = Vec::new();
        let (read, ()) = tokio::join!(wire.read_to_end(&mut got), send);
        read.unwrap();
        assert_eq!(got, [&PREFACE[..], &PING, &PING, &PING[..4]].concat());
        assert_eq!(wire.watch.frames, 6);
        assert_eq!(wire.watch.received, rest.len(), "the rest was counted when it was read");
    }

    #[tokio::test]
    async fn what_the_server_has_is_not_written_again() {
        let (ours, mut server) = duplex(1024);
        let mut wire = Wire::of_server(ours, Plain::default(), Bytes::new(), PREFACE.len());
        wire.write_all(PREFACE).await.unwrap();
        wire.write_all(&PING).await.unwrap();
        let mut got = [0; 17];
        server.read_exact(&mut got).await.unwrap();
        assert_eq!(got, PING);
        assert_eq!(wire.watch.sent, 17);
    }

    #[tokio::test]
    async fn a_side_that_never_pauses_does_not_keep_the_task() {
        let ahead = Bytes::from(PING.repeat(TURN_FRAMES * 3));
        let (_other, ours) = duplex(1);
        let mut wire = Wire::of_server(ours, Plain::default(), ahead, 0);
        let mut buffer = [0; 1700];
        let (mut turns, mut frames) = (0, 0);
        while frames < TURN_FRAMES * 3 {
            let mut buf = ReadBuf::new(&mut buffer);
            let read = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut wire).poll_read(cx, &mut buf))).await;
            match read {
                Poll::Pending => turns += 1,
                Poll::Ready(read) => {
                    read.unwrap();
                    frames = wire.watch.frames;
                }
            }
        }
        assert_eq!(turns, 2);
    }

    #[tokio::test]
    async fn nothing_is_read_while_it_may_not_be() {
        let (_other, ours) = duplex(1);
        let mut wire = Wire::of_server(ours, Plain { held: true, ..Plain::default() }, Bytes::from_static(&PING), 0);
        let mut buffer = [0; 100];
        let mut buf = ReadBuf::new(&mut buffer);
        let read = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut wire).poll_read(cx, &mut buf))).await;
        assert!(read.is_pending());
        wire.watch.held = false;
        assert_eq!(wire.read(&mut buffer).await.unwrap(), 17);
    }
}
