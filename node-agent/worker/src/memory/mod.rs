//! The memory that the worker holds for clients and developers: one ledger for all connections.
//!
//! Owns: how much may be held, what is held now, and who goes without first. Must not: hold bytes, or decide what becomes
//! of a connection that has to go without. Called by whatever keeps bytes across an await: a connection's buffers, copies
//! for repetition, TLS's first messages, HTTP/2's blocks, streams and queues.
//!
//! Each connection may hold [`FREE`] bytes uncounted: the limit of connections pays for them (`shares::limit`). What is
//! more comes from the budget, as far as its [`Purpose`] goes: the less can be done without something, the longer it gets
//! some. So nobody who sends much of one kind takes the last from those who need little. And of what is free a pod, and a
//! client in it, may have only a part (`account`), so that others find some.

mod account;
mod ceiling;
pub(crate) mod trim;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

pub(crate) use self::account::{ClientAccount, PodAccount, paid_by};

/// What the budget is at most, in bytes, and where no limit is known.
const BUDGET_MAX: usize = 32 << 20;
/// What developers' tunnels may hold at most, in bytes: two tunnels at their fullest.
const UNREAD_MAX: u64 = 160 << 20;
/// What each buffer of a connection may hold uncounted, in bytes: the head of most requests.
pub(crate) const FREE: usize = 2 << 10;
/// A message that is not whole is ordinary up to this size, in bytes: nginx, Apache and Node.js take no longer heads unless
/// they are told to.
pub(crate) const ORDINARY: usize = 16 << 10;

static LEDGER: MemoryLedger = MemoryLedger::new(BUDGET_MAX);

/// What bytes are held for; the first goes without first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Copies of what has gone its way already, for requests that may have to be sent again.
    Repetition,
    /// Bytes for a reader that is slower than its writer. What finds no room stays with the writer.
    SlowReader,
    /// A message that is not whole and already longer than most.
    LongMessage,
    /// A message that is not whole, or a request that waits for its answer.
    Message,
}

impl Purpose {
    /// How much of the budget may be used by this and everything else, in quarters.
    const fn quarters(self) -> usize {
        match self {
            Purpose::Repetition => 1,
            Purpose::SlowReader | Purpose::LongMessage => 2,
            Purpose::Message => 4,
        }
    }

    /// Of a message that is not whole, of so many bytes.
    fn of_message(len: usize) -> Self {
        if len > ORDINARY { Purpose::LongMessage } else { Purpose::Message }
    }
}

/// A budget and what is used of it, in bytes.
#[derive(Debug)]
struct MemoryLedger {
    budget: AtomicUsize,
    held: AtomicUsize,
}

impl MemoryLedger {
    const fn new(budget: usize) -> Self {
        MemoryLedger { budget: AtomicUsize::new(budget), held: AtomicUsize::new(0) }
    }

    fn has_room(&self, purpose: Purpose, more: usize, account: Option<&ClientAccount>) -> bool {
        let most = self.budget.load(Ordering::Relaxed) / 4 * purpose.quarters();
        let held = self.held.load(Ordering::Relaxed).saturating_add(more);
        most.checked_sub(held).is_some_and(|free| account.is_none_or(|account| account.may_have(more, free)))
    }
}

/// The process's memory limit, in bytes, if its cgroups have one. Opens files: for `MachineLimits` alone, which is made before
/// the sandbox closes them.
pub(super) fn read_ceiling() -> Option<u64> {
    ceiling::memory_ceiling(Path::new("/proc/self"))
}

/// What the ledger takes of a memory limit, in bytes.
pub(crate) fn budget(ceiling: Option<u64>) -> usize {
    let quarter = ceiling.and_then(|ceiling| usize::try_from(ceiling / 4).ok());
    quarter.map_or(BUDGET_MAX, |quarter| quarter.min(BUDGET_MAX))
}

/// What developers' tunnels may hold of what their clients do not read, by a memory limit, in bytes.
pub(crate) fn unread_budget(ceiling: Option<u64>) -> u64 {
    ceiling.map_or(UNREAD_MAX, |ceiling| (ceiling / 4).min(UNREAD_MAX))
}

/// What of a memory limit is not there for connections, in bytes.
pub(crate) fn set_aside(ceiling: u64) -> u64 {
    budget(Some(ceiling)) as u64 + unread_budget(Some(ceiling))
}

/// Sets the budget by the process's memory limit. At the start of the worker.
pub(crate) fn set_budget(ceiling: Option<u64>) {
    LEDGER.budget.store(budget(ceiling), Ordering::Relaxed);
}

/// Bytes that are held now, for the metrics.
pub(crate) fn held() -> usize {
    LEDGER.held.load(Ordering::Relaxed)
}

/// Whether more may be held for this, by whoever asks.
pub(crate) fn has_room(purpose: Purpose) -> bool {
    LEDGER.has_room(purpose, 1, account::current().as_deref())
}

/// A share of the budget; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    ledger: &'static MemoryLedger,
    /// Whose it is, where the connection is somebody's.
    account: Option<Arc<ClientAccount>>,
    bytes: usize,
}

impl Default for Share {
    fn default() -> Self {
        Share { ledger: &LEDGER, account: account::current(), bytes: 0 }
    }
}

impl Share {
    /// Of nothing yet, for this client.
    pub(crate) fn of(account: Arc<ClientAccount>) -> Self {
        Share { ledger: &LEDGER, account: Some(account), bytes: 0 }
    }

    /// Holds this many bytes from now on, whether there is room or not: they are here already.
    pub(crate) fn set(&mut self, bytes: usize) {
        if bytes == self.bytes {
            return;
        }
        let pots = [
            Some(&self.ledger.held),
            self.account.as_ref().map(|own| own.held()),
            self.account.as_ref().map(|own| own.held_by_pod()),
        ];
        for held in pots.into_iter().flatten() {
            // Both wrap around, so that less is added as well.
            held.fetch_add(bytes.wrapping_sub(self.bytes), Ordering::Relaxed);
        }
        self.bytes = bytes;
    }

    /// Holds this many bytes from now on if there is room for them.
    pub(crate) fn try_set(&mut self, bytes: usize, purpose: Purpose) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        let fits = more == 0 || self.ledger.has_room(purpose, more, self.account.as_deref());
        if fits {
            self.set(bytes);
        }
        fits
    }

    /// The same for a message of `len` bytes that is not whole, and takes `bytes` of memory.
    pub(crate) fn try_wait(&mut self, len: usize, bytes: usize) -> bool {
        len <= FREE || self.try_set(bytes, Purpose::of_message(len))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn ledger(budget: usize) -> &'static MemoryLedger {
        Box::leak(Box::new(MemoryLedger::new(budget)))
    }

    fn share(ledger: &'static MemoryLedger) -> Share {
        Share { ledger, account: None, bytes: 0 }
    }

    /// Whether this process is the test's own, which the process's own budget needs; else it is run in one, and has passed.
    pub(crate) fn alone(test: &str) -> bool {
        const ALONE: &str = "REDIR_TEST_ALONE";
        if std::env::var_os(ALONE).is_some() {
            return true;
        }
        let mut process = std::process::Command::new(std::env::current_exe().expect("this program"));
        let output = process.args(["--exact", test, "--nocapture"]).env(ALONE, "1").output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout);
        let passed = output.status.success() && said.contains("1 passed");
        assert!(passed, "{said}{}", String::from_utf8_lossy(&output.stderr));
        false
    }

    /// Takes so much of the process's own budget that nothing is left for this purpose; in a process of its own.
    pub(crate) fn exhaust(purpose: Purpose) -> Share {
        let mut all = Share::default();
        all.set(LEDGER.budget.load(Ordering::Relaxed) / 4 * purpose.quarters());
        all
    }

    #[test]
    fn the_budget_is_a_quarter_of_the_limit_and_32_mib_at_most() {
        for (ceiling, expected) in [(None, 32), (Some(64), 16), (Some(128), 32), (Some(256), 32), (Some(1 << 20), 32)] {
            assert_eq!(budget(ceiling.map(|mib| mib << 20)), expected << 20, "{ceiling:?}");
        }
    }

    #[test]
    fn long_messages_leave_half_of_the_budget_to_the_others() {
        let ledger = ledger(32 << 20);
        let mut heads: Vec<Share> = (0..1000).map(|_| share(ledger)).collect();
        let whole = heads.iter_mut().filter_map(|head| head.try_wait(255_000, 256 << 10).then_some(())).count();
        assert_eq!(whole, 64, "64 of 256 KiB are 16 MiB");
        let mut others: Vec<Share> = (0..2000).map(|_| share(ledger)).collect();
        let ordinary = others.iter_mut().filter_map(|head| head.try_wait(16_000, 16 << 10).then_some(())).count();
        assert_eq!(ordinary, 1024);
        assert!(!share(ledger).try_wait(2049, 4096), "it is used up");
        assert!(share(ledger).try_wait(2048, 4096), "what each may hold at any time");
        drop((heads, others));
        assert_eq!(ledger.held.load(Ordering::Relaxed), 0);
    }

    /// Shares until the next one finds no room.
    fn fill(ledger: &'static MemoryLedger, account: &Arc<ClientAccount>, len: usize) -> Vec<Share> {
        let mut held = Vec::new();
        loop {
            let mut next = Share { ledger, account: Some(account.clone()), bytes: 0 };
            if !next.try_wait(len, len) {
                return held;
            }
            held.push(next);
        }
    }

    #[test]
    fn who_holds_much_leaves_room_to_other_clients_and_pods() {
        let ledger = ledger(32 << 20);
        let (crowded, other) = (PodAccount::default(), PodAccount::default());
        let [hoarder, second, third] = [0; 3].map(|_| Arc::new(ClientAccount::new(&crowded)));
        // Of three clients with long messages, and then with streams that hang, as many as they get.
        let long = [&hoarder, &second, &third].map(|account| fill(ledger, account, 255_000));
        let streams = [&hoarder, &second, &third].map(|account| fill(ledger, account, 3100));
        assert!(long[0].len() > 30, "who is alone gets most: {}", long[0].len());
        for (pod, least) in [(&other, 100), (&crowded, 10)] {
            let ordinary = fill(ledger, &Arc::new(ClientAccount::new(pod)), 4000).len();
            assert!(ordinary > least, "{ordinary}");
        }
        assert_eq!(fill(ledger, &hoarder, 3100).len(), 0, "who has had its part");
        drop((long, streams));
        assert_eq!(ledger.held.load(Ordering::Relaxed), 0);
        assert_eq!(hoarder.held().load(Ordering::Relaxed), 0);
        assert_eq!(hoarder.held_by_pod().load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn what_a_connection_holds_is_its_clients() {
        let account = Arc::new(ClientAccount::new(&PodAccount::default()));
        paid_by(account.clone(), async {
            let mut share = Share::default();
            share.set(5000);
            assert_eq!(account.held().load(Ordering::Relaxed), 5000);
        })
        .await;
        assert_eq!(account.held_by_pod().load(Ordering::Relaxed), 0, "it is given back");
        assert!(Share::default().account.is_none());
    }

    #[test]
    fn a_message_that_grows_takes_what_it_grows_by() {
        let ledger = ledger(100 << 10);
        let (mut head, mut copy) = (share(ledger), share(ledger));
        assert!(head.try_wait(9000, 16 << 10) && head.try_wait(20_000, 32 << 10));
        assert!(!head.try_wait(40_000, 64 << 10), "half is 50 KiB");
        assert_eq!(ledger.held.load(Ordering::Relaxed), 32 << 10, "as before");
        assert!(!copy.try_set(1, Purpose::Repetition), "a quarter is 25 KiB");
        assert!(copy.try_set(10 << 10, Purpose::SlowReader));
        head.set(200 << 10);
        assert!(head.try_set(150 << 10, Purpose::Repetition), "less is always possible");
    }
}
