//! What waits for a developer who does not read, or for the rest of what they say, in bytes: request events, the hub's
//! messages, and both ways of the control stream.
//!
//! Owns: how much may wait. Each may hold [`BACKLOG_FREE`], which the limit of tunnels pays for (`keys`); what is more
//! comes from the ledger, as for other slow readers, and is its key's: of what is free there one key has only a part.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use redir_wire::{RequestEvent, RequestOutcome};
use tokio::sync::mpsc;

use crate::memory::{ClientAccount, PodAccount, Purpose, Share};

/// What each of a tunnel's two backlogs (events, and the control stream) may hold uncounted, in bytes: some dozens of events, or
/// an answer about some dozens of pods.
pub(crate) const BACKLOG_FREE: usize = 16 << 10;

/// What waits of one kind for one tunnel; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Backlog(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    waiting: AtomicUsize,
    account: Arc<ClientAccount>,
}

/// Bytes that wait, until it is dropped.
#[derive(Debug)]
pub(crate) struct Waiting {
    backlog: Backlog,
    bytes: usize,
    /// Of what is beyond [`BACKLOG_FREE`].
    share: Option<Share>,
}

impl Backlog {
    /// Of a tunnel of this key.
    pub(crate) fn new(key: &PodAccount) -> Self {
        Self(Arc::new(Inner { waiting: AtomicUsize::new(0), account: Arc::new(ClientAccount::new(key)) }))
    }

    /// So many bytes wait from now on, if there is room for them.
    pub(crate) fn hold(&self, bytes: usize) -> Option<Waiting> {
        let mut waiting = self.nothing();
        waiting.try_set(bytes).then_some(waiting)
    }

    /// To be set.
    pub(crate) fn nothing(&self) -> Waiting {
        Waiting { backlog: self.clone(), bytes: 0, share: None }
    }

    /// Bytes that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.0.waiting.load(Ordering::Relaxed)
    }
}

impl Waiting {
    /// So many bytes wait from now on, if there is room for what is more.
    pub(crate) fn try_set(&mut self, bytes: usize) -> bool {
        let others = self.backlog.waiting() - self.bytes;
        let fits =
            bytes <= self.bytes || others + bytes <= BACKLOG_FREE || self.share().try_set(bytes, Purpose::SlowReader);
        if fits {
            self.set(bytes);
        }
        fits
    }

    /// So many bytes wait from now on, whether there is room or not: they are here already.
    pub(crate) fn set(&mut self, bytes: usize) {
        let waiting = &self.backlog.0.waiting;
        let others = waiting.fetch_sub(self.bytes, Ordering::Relaxed) - self.bytes;
        waiting.fetch_add(bytes, Ordering::Relaxed);
        self.bytes = bytes;
        if self.share.is_some() || others + bytes > BACKLOG_FREE {
            self.share().set(bytes);
        }
    }

    fn share(&mut self) -> &mut Share {
        let account = &self.backlog.0.account;
        self.share.get_or_insert_with(|| Share::of(account.clone()))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.backlog.0.waiting.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The request events of a tunnel, on their way to its session.
#[derive(Debug)]
pub(crate) struct EventQueue(mpsc::Receiver<(RequestEvent, Waiting)>);

/// Its other end.
#[derive(Debug)]
pub(crate) struct EventSender {
    queue: mpsc::Sender<(RequestEvent, Waiting)>,
    backlog: Backlog,
}

/// The ends of a queue for so many events.
pub(crate) fn event_queue(events: usize, backlog: Backlog) -> (EventSender, EventQueue) {
    let (queue, receiver) = mpsc::channel(events);
    (EventSender { queue, backlog }, EventQueue(receiver))
}

impl EventSender {
    /// Queues it; false if there is no room.
    pub(crate) fn try_send(&self, event: RequestEvent) -> bool {
        let Some(waiting) = self.backlog.hold(size(&event)) else { return false };
        self.queue.try_send((event, waiting)).is_ok()
    }
}

impl EventQueue {
    /// The next one; `None` when the tunnel is gone.
    pub(crate) async fn recv(&mut self) -> Option<RequestEvent> {
        self.0.recv().await.map(|(event, _)| event)
    }

    /// The next one, if it is there already.
    pub(crate) fn try_recv(&mut self) -> Option<RequestEvent> {
        self.0.try_recv().ok().map(|(event, _)| event)
    }

    /// Whether none is there.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What an event takes of memory, in bytes.
fn size(event: &RequestEvent) -> usize {
    let why = match &event.outcome {
        RequestOutcome::Refused(why) => why.len(),
        RequestOutcome::Answered | RequestOutcome::ClientLeft | RequestOutcome::Cut | RequestOutcome::Other => 0,
    };
    let texts = event.method.len() + event.path.len() + event.pod.len() + event.client.len() + why;
    size_of::<(RequestEvent, Waiting)>() + texts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{
        self,
        tests::{alone, exhaust},
    };

    #[test]
    fn what_waits_beyond_a_little_is_in_the_ledger() {
        if !alone("tunnel_handle::backlog::tests::what_waits_beyond_a_little_is_in_the_ledger") {
            return;
        }
        let key = PodAccount::default();
        let backlog = Backlog::new(&key);
        let little = backlog.hold(BACKLOG_FREE).expect("each may");
        assert_eq!((backlog.waiting(), memory::held()), (BACKLOG_FREE, 0));
        let mut more = backlog.hold(5000).expect("there is room");
        assert_eq!((backlog.waiting(), memory::held()), (BACKLOG_FREE + 5000, 5000));
        assert!(more.try_set(1000));
        assert_eq!((backlog.waiting(), memory::held()), (BACKLOG_FREE + 1000, 1000));
        drop((little, more));
        assert_eq!((backlog.waiting(), memory::held()), (0, 0));
    }

    #[test]
    fn without_memory_a_little_may_wait_and_no_more() {
        if !alone("tunnel_handle::backlog::tests::without_memory_a_little_may_wait_and_no_more") {
            return;
        }
        let backlog = Backlog::new(&PodAccount::default());
        let all = exhaust(Purpose::SlowReader);
        let mut held: Vec<Waiting> = (0..).map_while(|_| backlog.hold(1000)).collect();
        assert_eq!(held.len(), BACKLOG_FREE / 1000);
        assert!(held[0].try_set(1000) && !held[0].try_set(2000), "as before, and no more");
        assert_eq!(backlog.waiting(), held.len() * 1000);
        drop(all);
        assert!(held[0].try_set(2000));
    }

    /// One key has many tunnels, and reads on none of them.
    #[test]
    fn a_key_that_reads_nothing_leaves_room_to_others() {
        if !alone("tunnel_handle::backlog::tests::a_key_that_reads_nothing_leaves_room_to_others") {
            return;
        }
        let (greedy, other) = (PodAccount::default(), PodAccount::default());
        let tunnels: Vec<Backlog> = (0..32).map(|_| Backlog::new(&greedy)).collect();
        let held: Vec<Waiting> = tunnels.iter().flat_map(|tunnel| std::iter::from_fn(|| tunnel.hold(3000))).collect();
        let bytes = held.len() * 3000;
        assert!(bytes < 17 << 20, "{bytes}");
        let other = Backlog::new(&other);
        assert!(other.hold(1 << 20).is_some(), "{bytes} are held by one key");
    }
}
