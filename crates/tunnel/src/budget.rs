//! What keeps a few slow readers from stalling a tunnel: a limit on how many streams may stand unread at once.
//!
//! quinn does not tell how many bytes of a stream are unread, but a stream whose reader has stalled holds at most
//! [`STREAM_WINDOW`](crate::STREAM_WINDOW). The connection's window has room for [`STALLED_STREAMS`] of them and more, or
//! for fewer where it is a part of what all tunnels may hold (`pool`); beyond that number the streams that have stalled
//! longest give up by themselves.

use std::any::Any;
use std::collections::BTreeSet;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;
use tokio::time::{Instant, Sleep, sleep};

use crate::transport::STALLED_STREAMS;

/// One for each end of each tunnel; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Budget(Arc<BudgetState>);

#[derive(Debug)]
struct BudgetState {
    stalled: Mutex<StalledStreams>,
    /// How many streams may stand unread.
    most: Arc<AtomicUsize>,
    /// Of a tunnel that shares with others; kept for its drop.
    _membership: Option<Box<dyn Any + Send + Sync>>,
}

impl Default for BudgetState {
    fn default() -> Self {
        BudgetState { stalled: Mutex::default(), most: Arc::new(AtomicUsize::new(STALLED_STREAMS)), _membership: None }
    }
}

/// Streams in the order in which they stalled.
#[derive(Debug, Default)]
struct StalledStreams {
    streams: BTreeSet<u64>,
    next: u64,
}

/// Why a write under a budget failed.
#[derive(Debug)]
pub enum BudgetError {
    /// The writer's own error.
    Io(io::Error),
    /// This stream was among the slowest of too many: reset it with [`redir_wire::StreamCode::Slow`].
    Slow,
}

impl Budget {
    /// Of a tunnel that shares with others: how many of its streams may stand unread changes with them. `membership` is
    /// dropped with the last clone.
    pub(crate) fn of(most: Arc<AtomicUsize>, membership: impl Any + Send + Sync) -> Self {
        Budget(Arc::new(BudgetState { stalled: Mutex::default(), most, _membership: Some(Box::new(membership)) }))
    }

    /// Writes all these bytes of a stream to its reader, as many at once as it takes. A reader that takes nothing counts
    /// against the budget.
    pub async fn write_all<W: AsyncWrite + Unpin>(
        &self,
        writer: &mut W,
        mut chunks: &mut [Bytes],
    ) -> Result<(), BudgetError> {
        let mut patience = self.patience();
        loop {
            let done = chunks.iter().take_while(|chunk| chunk.is_empty()).count();
            chunks = &mut std::mem::take(&mut chunks)[done..];
            if chunks.is_empty() {
                return Ok(());
            }
            let written = poll_fn(|cx| {
                let mut slices = [IoSlice::new(&[]); AT_ONCE];
                slices.iter_mut().zip(&*chunks).for_each(|(slice, chunk)| *slice = IoSlice::new(chunk));
                match Pin::new(&mut *writer).poll_write_vectored(cx, &slices[..chunks.len().min(AT_ONCE)]) {
                    Poll::Ready(result) => Poll::Ready(result.map_err(BudgetError::Io)),
                    Poll::Pending => patience.poll_expired(cx).map(|()| Err(BudgetError::Slow)),
                }
            });
            match written.await {
                Ok(0) => return Err(BudgetError::Io(io::ErrorKind::WriteZero.into())),
                Ok(mut written) => {
                    patience.renew();
                    for chunk in chunks.iter_mut() {
                        let part = written.min(chunk.len());
                        chunk.advance(part);
                        written -= part;
                    }
                }
                Err(BudgetError::Io(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// For one stream, whose bytes are written otherwise.
    pub fn patience(&self) -> StallTimer {
        StallTimer { budget: self.clone(), waiting: None }
    }

    /// Streams that stand unread now.
    pub fn stalled(&self) -> usize {
        self.lock().streams.len()
    }

    fn enter(&self) -> StalledPlace {
        let mut stalled = self.lock();
        let number = stalled.next;
        stalled.next += 1;
        stalled.streams.insert(number);
        StalledPlace { budget: self.clone(), number }
    }

    fn lock(&self) -> MutexGuard<'_, StalledStreams> {
        self.0.stalled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long one stream's bytes may still wait for their reader. Holds no memory and no timer while they move.
#[derive(Debug)]
pub struct StallTimer {
    budget: Budget,
    waiting: Option<Box<StalledWait>>,
}

#[derive(Debug)]
struct StalledWait {
    timer: Pin<Box<Sleep>>,
    /// Once the reader counts as stalled.
    place: Option<StalledPlace>,
}

impl StallTimer {
    /// Something went to the reader, or nothing waits for it.
    pub fn renew(&mut self) {
        self.waiting = None;
    }

    /// Call it while bytes wait for the reader. Ready: this stream is one of the slowest of too many, give it up.
    pub fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let budget = &self.budget;
        let waiting =
            self.waiting.get_or_insert_with(|| Box::new(StalledWait { timer: Box::pin(sleep(PATIENCE)), place: None }));
        loop {
            ready!(waiting.timer.as_mut().poll(cx));
            match &waiting.place {
                None => waiting.place = Some(budget.enter()),
                Some(place) if place.must_yield() => return Poll::Ready(()),
                Some(_) => {}
            }
            waiting.timer.as_mut().reset(Instant::now() + PATIENCE);
        }
    }
}

/// A stalled stream's place in the order.
#[derive(Debug)]
struct StalledPlace {
    budget: Budget,
    number: u64,
}

impl StalledPlace {
    /// Whether this stream is one of the slowest that are too many.
    fn must_yield(&self) -> bool {
        let most = self.budget.0.most.load(Ordering::Relaxed);
        let stalled = self.budget.lock();
        let too_many = stalled.streams.len().saturating_sub(most);
        stalled.streams.iter().take(too_many).any(|number| *number == self.number)
    }
}

impl Drop for StalledPlace {
    fn drop(&mut self) {
        self.budget.lock().streams.remove(&self.number);
    }
}

/// Pieces in one write.
pub(crate) const AT_ONCE: usize = 32;
/// A reader that takes nothing for so long has stalled; it is also how often a stalled stream asks whether it must
/// yield. Longer than a laptop's Wi-Fi hiccup, short enough that the others do not notice.
const PATIENCE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, duplex};

    fn pieces() -> [Bytes; 3] {
        [Bytes::from_static(b"a"), Bytes::new(), Bytes::from_static(b"bc")]
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_stalled_yields_and_the_rest_stay() {
        let budget = Budget::default();
        let mut readers = Vec::new();
        let mut writes = tokio::task::JoinSet::new();
        for index in 0..=STALLED_STREAMS {
            let (mut writer, reader) = duplex(1);
            readers.push(reader);
            let budget = budget.clone();
            writes.spawn(async move { (index, budget.write_all(&mut writer, &mut pieces()).await) });
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        let (index, result) = writes.join_next().await.unwrap().unwrap();
        assert_eq!(index, 0, "the first that stalled");
        assert!(matches!(result, Err(BudgetError::Slow)));
        tokio::time::advance(PATIENCE * 10).await;
        assert!(writes.try_join_next().is_none(), "the others are within the budget");
        assert_eq!(budget.stalled(), STALLED_STREAMS);
        let mut got = Vec::new();
        for reader in readers.iter_mut().skip(1) {
            let mut bytes = [0; 3];
            reader.read_exact(&mut bytes).await.unwrap();
            got.push(bytes);
        }
        while let Some(done) = writes.join_next().await {
            done.unwrap().1.unwrap();
        }
        assert!(got.iter().all(|bytes| bytes == b"abc"));
        assert_eq!(budget.stalled(), 0);
    }
}
