//! What keeps a few slow readers from stalling a tunnel: a limit on how many streams may stand unread at once.
//!
//! quinn does not tell how many bytes of a stream are unread, but a stream whose reader has stalled holds at most
//! [`STREAM_WINDOW`](crate::STREAM_WINDOW). The connection's window has room for [`STALLED_STREAMS`] of them and more;
//! beyond that number the streams that have stalled longest give up by themselves.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::transport::STALLED_STREAMS;

/// One for each end of each tunnel; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Budget(Arc<Mutex<Stalled>>);

/// Streams in the order in which they stalled.
#[derive(Debug, Default)]
struct Stalled {
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
    /// Writes all bytes of a stream to its reader. A reader that takes nothing counts against the budget.
    pub async fn write_all<W: AsyncWrite + Unpin>(&self, writer: &mut W, mut bytes: &[u8]) -> Result<(), BudgetError> {
        let mut place: Option<Place<'_>> = None;
        while !bytes.is_empty() {
            match timeout(PATIENCE, writer.write(bytes)).await {
                Ok(Ok(0)) => return Err(BudgetError::Io(io::ErrorKind::WriteZero.into())),
                Ok(Ok(written)) => {
                    place = None;
                    bytes = bytes.get(written..).unwrap_or_default();
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Err(BudgetError::Io(error)),
                Err(_) => match &place {
                    None => place = Some(self.enter()),
                    Some(place) if place.must_yield() => return Err(BudgetError::Slow),
                    Some(_) => {}
                },
            }
        }
        Ok(())
    }

    /// Streams that stand unread now.
    pub fn stalled(&self) -> usize {
        self.lock().streams.len()
    }

    fn enter(&self) -> Place<'_> {
        let mut stalled = self.lock();
        let number = stalled.next;
        stalled.next += 1;
        stalled.streams.insert(number);
        Place { budget: self, number }
    }

    fn lock(&self) -> MutexGuard<'_, Stalled> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stalled stream's place in the order.
struct Place<'a> {
    budget: &'a Budget,
    number: u64,
}

impl Place<'_> {
    /// Whether this stream is one of the slowest that are too many.
    fn must_yield(&self) -> bool {
        let stalled = self.budget.lock();
        let too_many = stalled.streams.len().saturating_sub(STALLED_STREAMS);
        stalled.streams.iter().take(too_many).any(|number| *number == self.number)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.budget.lock().streams.remove(&self.number);
    }
}

/// A reader that takes nothing for so long has stalled; it is also how often a stalled stream asks whether it must
/// yield. Longer than a laptop's Wi-Fi hiccup, short enough that the others do not notice.
const PATIENCE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, duplex};

    #[tokio::test(start_paused = true)]
    async fn the_longest_stalled_yields_and_the_rest_stay() {
        let budget = Budget::default();
        let mut readers = Vec::new();
        let mut writes = tokio::task::JoinSet::new();
        for index in 0..=STALLED_STREAMS {
            let (mut writer, reader) = duplex(1);
            readers.push(reader);
            let budget = budget.clone();
            writes.spawn(async move { (index, budget.write_all(&mut writer, b"abc").await) });
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
