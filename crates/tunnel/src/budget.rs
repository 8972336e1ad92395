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

    /// Writes all these bytes of a stream to its reader, as many at once as it takes. A reader that takes too little counts
    /// against the budget; `patience` is the stream's own, from one call to the next.
    pub async fn write_all<W: AsyncWrite + Unpin>(
        &self,
        writer: &mut W,
        mut chunks: &mut [Bytes],
        patience: &mut StallTimer,
    ) -> Result<(), BudgetError> {
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
                    patience.progressed(written);
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
    /// Bytes that the reader has taken since the timer began.
    taken: usize,
    /// Once the reader counts as stalled.
    place: Option<StalledPlace>,
}

impl StallTimer {
    /// Nothing waits for the reader.
    pub fn renew(&mut self) {
        self.waiting = None;
    }

    /// So many bytes went to the reader. Only [`LEAST_PROGRESS`] of them within [`PATIENCE`] count: one that takes a byte now
    /// and then holds as much as one that takes none.
    pub fn progressed(&mut self, bytes: usize) {
        if let Some(waiting) = &mut self.waiting {
            waiting.taken = waiting.taken.saturating_add(bytes);
            if waiting.taken >= LEAST_PROGRESS {
                self.waiting = None;
            }
        }
    }

    /// Call it while bytes wait for the reader. Ready: this stream is one of the slowest of too many, give it up.
    pub fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let budget = &self.budget;
        let begin = || Box::new(StalledWait { timer: Box::pin(sleep(PATIENCE)), taken: 0, place: None });
        let waiting = self.waiting.get_or_insert_with(begin);
        loop {
            ready!(waiting.timer.as_mut().poll(cx));
            match &waiting.place {
                None => waiting.place = Some(budget.enter()),
                Some(place) if place.must_yield() => return Poll::Ready(()),
                Some(_) => {}
            }
            waiting.taken = 0;
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
/// A reader that takes less than [`LEAST_PROGRESS`] for so long has stalled; it is also how often a stalled stream asks whether it must
/// yield. Longer than a laptop's Wi-Fi hiccup, short enough that the others do not notice.
const PATIENCE: Duration = Duration::from_millis(500);
/// Bytes within [`PATIENCE`] that count as reading: 64 kbit/s. A client that honestly is slower loses nothing by counting as
/// stalled while there is room for all that are.
const LEAST_PROGRESS: usize = 4 << 10;

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
            writes.spawn(async move {
                let mut patience = budget.patience();
                (index, budget.write_all(&mut writer, &mut pieces(), &mut patience).await)
            });
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
    /// Fills the budget with readers that take nothing, then says what becomes of one that came before them all and takes so
    /// many bytes each 100 ms.
    async fn beside_stalled_ones(bytes: usize) -> Option<Result<(), BudgetError>> {
        const MUCH: usize = 1 << 20;
        let budget = Budget::default();
        let (mut writer, mut reader) = duplex(1);
        let of_first = budget.clone();
        let first = tokio::spawn(async move {
            let mut patience = of_first.patience();
            of_first.write_all(&mut writer, &mut [Bytes::from(vec![0; MUCH])], &mut patience).await
        });
        let mut others = tokio::task::JoinSet::new();
        let mut silent = Vec::new();
        for turn in 0..200 {
            reader.read_exact(&mut vec![0; bytes]).await.ok()?;
            if (10..10 + STALLED_STREAMS).contains(&turn) {
                let (mut writer, reader) = duplex(1);
                silent.push(reader);
                let budget = budget.clone();
                others.spawn(async move {
                    let mut patience = budget.patience();
                    budget.write_all(&mut writer, &mut pieces(), &mut patience).await
                });
            }
            tokio::time::advance(Duration::from_millis(100)).await;
            tokio::task::yield_now().await;
            if first.is_finished() {
                return Some(first.await.unwrap());
            }
        }
        assert!(others.try_join_next().is_none(), "the others are within the budget");
        None
    }

    #[tokio::test(start_paused = true)]
    async fn a_byte_now_and_then_is_no_reading() {
        assert!(matches!(beside_stalled_ones(1).await, Some(Err(BudgetError::Slow))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_is_none_that_stalls() {
        assert!(beside_stalled_ones(LEAST_PROGRESS / 4).await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_a_byte_now_and_then_loses_nothing_while_there_is_room() {
        let budget = Budget::default();
        let (mut writer, mut reader) = duplex(1);
        let writing = tokio::spawn(async move {
            let mut patience = budget.patience();
            budget.write_all(&mut writer, &mut [Bytes::from(vec![0; 100])], &mut patience).await
        });
        for _ in 0..100 {
            reader.read_exact(&mut [0]).await.unwrap();
            tokio::time::advance(PATIENCE * 2).await;
        }
        writing.await.unwrap().unwrap();
    }
}
