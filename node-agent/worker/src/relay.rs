//! Copies bytes between a client and the app, both ways, without looking at them.
//!
//! Owns nothing: the sockets belong to the caller, which drops them. The two directions are independent, half-close is
//! forwarded, and an error of either side resets both. A connection holds no buffer while it is idle: bytes go through
//! a scratch buffer of the thread, and only what a slow reader leaves is kept, within a budget of the whole agent;
//! beyond it bytes stay in the kernel's receive buffer until they can be written (peek, write, discard).
//! Called by `connection` for opaque connections.

use std::{
    cell::RefCell,
    io,
    os::fd::AsRawFd,
    sync::atomic::{AtomicU64, Ordering},
};

use nix::sys::socket::{MsgFlags, recv};
use socket2::SockRef;
use tokio::{io::Interest, net::TcpStream, task::coop};

use super::memory::{self, Purpose, Share};

/// A first read; grows while reads fill it.
const CHUNK_MIN: usize = 16 * 1024;
/// The most that one read takes: large transfers cost few system calls.
pub(crate) const CHUNK_MAX: usize = 256 * 1024;
thread_local! {
    /// Never borrowed across an await: filled and emptied within one poll.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Bytes that went through, for the access event and the metrics.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// From the client.
    pub(crate) received: AtomicU64,
    /// To the client.
    pub(crate) sent: AtomicU64,
}

/// Runs `fill` with the thread's scratch buffer.
pub(crate) fn with_scratch<T>(size: usize, work: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.len() < size {
            scratch.resize(size, 0);
        }
        work(&mut scratch[..size])
    })
}

/// Copies both ways until both sides have sent their FIN, or one fails.
///
/// On an error both sockets are set to reset when they are dropped, so that the reset travels on.
pub(crate) async fn relay(client: &TcpStream, app: &TcpStream, tally: &Tally) -> io::Result<()> {
    let both = async { tokio::try_join!(copy(client, app, &tally.received), copy(app, client, &tally.sent)) };
    // A direction that has ended, or that waits for its reader, does not see a reset: these two do.
    let result = tokio::select! {
        // What came before a reset goes first.
        biased;
        done = both => done.map(|_| ()),
        error = failed(client) => Err(error),
        error = failed(app) => Err(error),
    };
    if result.is_err() {
        reset(client);
        reset(app);
    }
    result
}

/// The socket sends a reset instead of a FIN when it is dropped.
pub(crate) fn reset(socket: &TcpStream) {
    // Fails only on a socket that is gone, which needs no reset.
    let _ = socket.set_zero_linger();
}

/// Forwards a FIN. The guardian's sockets reset when they are dropped, so that those of a killed worker do; one that is
/// finished in order does not.
pub(crate) fn finish(socket: &TcpStream) -> io::Result<()> {
    // Fails only on a socket that is gone, as the shutdown then tells.
    let _ = SockRef::from(socket).set_linger(None);
    match SockRef::from(socket).shutdown(std::net::Shutdown::Write) {
        // The other end has reset it meanwhile: its reader tells.
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        other => other,
    }
}

/// Ends when the socket has an error.
pub(crate) async fn failed(socket: &TcpStream) -> io::Error {
    loop {
        if let Err(error) = socket.ready(Interest::ERROR).await {
            return error;
        }
        match socket.take_error() {
            Ok(Some(error)) | Err(error) => return error,
            // A direction has taken the error: it fails by itself. Nothing more will come here.
            Ok(None) => std::future::pending().await,
        }
    }
}

/// What one step from socket to socket came to.
enum Moved {
    /// Nothing there yet.
    Nothing,
    /// The writer's FIN.
    End,
    /// This many bytes, all written.
    All(usize),
    /// This many bytes written; the rest is held.
    Part(usize, Held),
}

/// Copies one direction and forwards its FIN.
async fn copy(from: &TcpStream, to: &TcpStream, count: &AtomicU64) -> io::Result<()> {
    let mut chunk = CHUNK_MIN;
    loop {
        from.readable().await?;
        let moved = if memory::has_room(Purpose::SlowReader) {
            move_some(from, to, chunk)?
        } else {
            to.writable().await?;
            move_unheld(from, to)?
        };
        match moved {
            Moved::Nothing => {}
            Moved::End => return finish(to),
            Moved::All(moved) => {
                count.fetch_add(moved as u64, Ordering::Relaxed);
                if moved == chunk {
                    chunk = (chunk * 2).min(CHUNK_MAX);
                }
            }
            Moved::Part(moved, held) => {
                count.fetch_add((moved + held.bytes.len()) as u64, Ordering::Relaxed);
                write_held(to, held).await?;
            }
        }
        // A pair of sockets that is always ready must not keep the thread from the others.
        coop::consume_budget().await;
    }
}

/// One read and one write; what the write leaves is held.
fn move_some(from: &TcpStream, to: &TcpStream, chunk: usize) -> io::Result<Moved> {
    with_scratch(chunk, |scratch| {
        let length = match from.try_read(scratch) {
            Ok(0) => return Ok(Moved::End),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Moved::Nothing),
            Err(error) => return Err(error),
        };
        let written = try_write(to, &scratch[..length])?;
        if written == length {
            return Ok(Moved::All(length));
        }
        Ok(Moved::Part(written, Held::new(&scratch[written..length])))
    })
}

/// Peeks, writes and then discards what was written: nothing is held.
fn move_unheld(from: &TcpStream, to: &TcpStream) -> io::Result<Moved> {
    with_scratch(CHUNK_MIN, |scratch| {
        let peek = from.try_io(Interest::READABLE, || {
            recv(from.as_raw_fd(), scratch, MsgFlags::MSG_PEEK).map_err(io::Error::from)
        });
        let length = match peek {
            Ok(0) => return Ok(Moved::End),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Moved::Nothing),
            Err(error) => return Err(error),
        };
        let written = try_write(to, &scratch[..length])?;
        if written == 0 {
            return Ok(Moved::Nothing);
        }
        // TCP discards with MSG_TRUNC (tcp(7)); the bytes are there, they were just seen.
        recv(from.as_raw_fd(), &mut scratch[..written], MsgFlags::MSG_TRUNC).map_err(io::Error::from)?;
        Ok(Moved::All(written))
    })
}

async fn write_held(to: &TcpStream, mut held: Held) -> io::Result<()> {
    while held.written < held.bytes.len() {
        to.writable().await?;
        held.written += try_write(to, &held.bytes[held.written..])?;
    }
    Ok(())
}

/// Writes what fits; 0 when nothing does.
fn try_write(to: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match to.try_write(bytes) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        other => other,
    }
}

/// Bytes kept for a slow reader, counted against the budget.
struct Held {
    bytes: Box<[u8]>,
    written: usize,
    _share: Share,
}

impl Held {
    fn new(bytes: &[u8]) -> Self {
        let mut share = Share::default();
        share.set(bytes.len());
        Held { bytes: bytes.into(), written: 0, _share: share }
    }
}

#[cfg(test)]
mod tests {
    use std::{hash::Hasher, sync::Arc, time::Duration};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        task::JoinHandle,
        time::timeout,
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (dialled, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (dialled.unwrap(), accepted.unwrap().0)
    }

    struct Relayed {
        client: TcpStream,
        app: TcpStream,
        tally: Arc<Tally>,
        relay: JoinHandle<io::Result<()>>,
    }

    /// A client and an app with a relay between them.
    async fn relayed() -> Relayed {
        let (client, client_side) = pair().await;
        let (app_side, app) = pair().await;
        let tally = Arc::new(Tally::default());
        let counted = tally.clone();
        let relay = tokio::spawn(async move { super::relay(&client_side, &app_side, &counted).await });
        Relayed { client, app, tally, relay }
    }

    /// Sends `total` bytes of a sequence, then a FIN; returns their checksum.
    async fn send(mut socket: impl AsyncWriteExt + Unpin, total: usize) -> u64 {
        let mut sum = std::hash::DefaultHasher::new();
        let mut block = vec![0u8; 100_000];
        let mut state = 1u32;
        let mut left = total;
        while left > 0 {
            for byte in &mut block {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *byte = state.to_be_bytes()[0];
            }
            let part = &block[..left.min(block.len())];
            part.chunks(1000).for_each(|chunk| sum.write(chunk));
            socket.write_all(part).await.unwrap();
            left -= part.len();
        }
        socket.shutdown().await.unwrap();
        sum.finish()
    }

    /// Reads to the FIN; returns the number of bytes and their checksum.
    async fn receive(mut socket: impl AsyncReadExt + Unpin) -> (usize, u64) {
        let mut sum = std::hash::DefaultHasher::new();
        let mut total = 0;
        let mut block = vec![0u8; 64_000];
        let mut pending = Vec::new();
        loop {
            let count = socket.read(&mut block).await.unwrap();
            total += count;
            pending.extend_from_slice(&block[..count]);
            let whole = if count == 0 { pending.len() } else { pending.len() / 1000 * 1000 };
            pending[..whole].chunks(1000).for_each(|chunk| sum.write(chunk));
            pending.drain(..whole);
            if count == 0 {
                return (total, sum.finish());
            }
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_hundred_megabytes_each_way_arrive_as_they_were() {
        const TOTAL: usize = 100_000_000;
        let Relayed { client, app, tally, relay } = relayed().await;
        let (client_read, client_write) = client.into_split();
        let (app_read, app_write) = app.into_split();
        let (up, down) = (tokio::spawn(send(client_write, TOTAL)), tokio::spawn(send(app_write, TOTAL)));
        let (at_app, at_client) = (tokio::spawn(receive(app_read)), tokio::spawn(receive(client_read)));
        let all = timeout(PATIENCE, async { tokio::try_join!(up, down, at_app, at_client) });
        let (up, down, at_app, at_client) = all.await.expect("in time").unwrap();
        assert_eq!(at_app, (TOTAL, up));
        assert_eq!(at_client, (TOTAL, down));
        relay.await.unwrap().unwrap();
        assert_eq!(tally.received.load(Ordering::Relaxed), TOTAL as u64);
        assert_eq!(tally.sent.load(Ordering::Relaxed), TOTAL as u64);
    }

    #[tokio::test]
    async fn a_half_close_is_forwarded_and_the_other_direction_goes_on() {
        let Relayed { mut client, mut app, relay, .. } = relayed().await;
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut question = String::new();
        timeout(PATIENCE, app.read_to_string(&mut question)).await.expect("the FIN arrives").unwrap();
        assert_eq!(question, "question");
        app.write_all(b"answer").await.unwrap();
        drop(app);
        let mut answer = String::new();
        timeout(PATIENCE, client.read_to_string(&mut answer)).await.expect("the FIN arrives").unwrap();
        assert_eq!(answer, "answer");
        relay.await.unwrap().unwrap();
    }

    async fn expect_reset(socket: &mut TcpStream) {
        let mut byte = [0];
        let read = timeout(PATIENCE, socket.read(&mut byte)).await.expect("the reset arrives");
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_reset_travels_on_both_ways() {
        let Relayed { client, mut app, relay, .. } = relayed().await;
        reset(&client);
        drop(client);
        expect_reset(&mut app).await;
        assert!(relay.await.unwrap().is_err());

        let Relayed { mut client, app, relay, .. } = relayed().await;
        reset(&app);
        drop(app);
        expect_reset(&mut client).await;
        assert!(relay.await.unwrap().is_err());
    }

    #[tokio::test]
    async fn a_reset_is_seen_after_a_half_close() {
        let Relayed { mut client, mut app, relay, .. } = relayed().await;
        client.shutdown().await.unwrap();
        let mut nothing = Vec::new();
        timeout(PATIENCE, app.read_to_end(&mut nothing)).await.expect("the FIN arrives").unwrap();
        reset(&client);
        drop(client);
        // After a FIN the kernel tells a reset as EPIPE, and to writers only.
        let error = timeout(PATIENCE, failed(&app)).await.expect("the reset arrives");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert!(relay.await.unwrap().is_err());
    }

    #[tokio::test]
    async fn beyond_the_budget_bytes_stay_in_the_kernel_and_still_arrive() {
        let (client, client_side) = pair().await;
        let (app_side, app) = pair().await;
        let copy = tokio::spawn(async move {
            let count = AtomicU64::new(0);
            loop {
                client_side.readable().await?;
                app_side.writable().await?;
                match move_unheld(&client_side, &app_side)? {
                    Moved::End => break finish(&app_side).map(|()| count.into_inner()),
                    Moved::All(moved) => {
                        count.fetch_add(moved as u64, Ordering::Relaxed);
                    }
                    Moved::Nothing => {}
                    Moved::Part(..) => panic!("nothing is held here"),
                }
            }
        });
        let sent = tokio::spawn(send(client, 20_000_000));
        let received = timeout(PATIENCE, receive(app)).await.expect("in time");
        assert_eq!(received, (20_000_000, sent.await.unwrap()));
        assert_eq!(copy.await.unwrap().unwrap(), 20_000_000);
    }

    /// Copies to a reader that does not read, until nothing moves any more: bytes that the copy has taken, and bytes of
    /// them that it has passed on.
    async fn stalled() -> (u64, u64) {
        let (client, client_side) = pair().await;
        let (app_side, app) = pair().await;
        tokio::spawn(send(client, 50_000_000));
        let count = AtomicU64::new(0);
        {
            let mut copy = std::pin::pin!(copy(&client_side, &app_side, &count));
            let mut before = 0;
            loop {
                assert!(timeout(Duration::from_millis(300), &mut copy).await.is_err(), "there is more than fits");
                let now = count.load(Ordering::Relaxed);
                if now > 0 && now == before {
                    break;
                }
                before = now;
            }
        }
        // Nobody copies any more: what comes now was passed on.
        let (taken, mut passed) = (count.into_inner(), 0);
        let mut block = vec![0; 64_000];
        while let Ok(true) = timeout(Duration::from_secs(1), app.readable()).await.map(|ready| ready.is_ok()) {
            match app.try_read(&mut block) {
                Ok(0) => break,
                Ok(count) => passed += count as u64,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        (taken, passed)
    }

    /// In a process of its own: the budget is the whole agent's, and other tests want to hold something.
    #[test]
    fn beyond_the_budget_nothing_is_held() {
        if !memory::tests::alone("relay::tests::beyond_the_budget_nothing_is_held") {
            return;
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let (taken, passed) = stalled().await;
            assert!(taken > passed, "within the budget the rest of a read is held: {taken} of {passed}");
            assert_eq!(memory::held(), 0, "it is given back");
            let others = memory::tests::exhaust(Purpose::Repetition);
            assert!(memory::has_room(Purpose::SlowReader), "copies leave room for slow readers");
            let before = (memory::tests::exhaust(Purpose::SlowReader), others);
            let held = memory::held();
            let (taken, passed) = stalled().await;
            assert_eq!(taken, passed, "bytes stay in the kernel");
            assert_eq!(memory::held(), held);
            drop(before);
        });
    }

    #[tokio::test]
    async fn an_idle_relay_is_small() {
        let (client, _client_side) = pair().await;
        let tally = Tally::default();
        let size = size_of_val(&relay(&client, &client, &tally));
        assert!(size <= 2048, "the relay's own state is {size} bytes");
    }
}
