//! The worker's sign of life for the guardian, from a thread of its own: it needs no more than a moment of one CPU, however
//! much the runtime has to do. It is given only while the runtime turns: a task of it must have run since the last one.
//!
//! Called by `worker::run`, once.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use redir_abi::HEARTBEAT_EVERY_MILLIS;
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use redir_ipc::{self as ipc, Request};

/// How often the guardian hears of the worker.
const EVERY: Duration = Duration::from_millis(HEARTBEAT_EVERY_MILLIS);
/// A runtime that stands still for so long is worth a line.
const STANDSTILL: Duration = Duration::from_secs(2);

/// Starts the thread, and the task that it watches. `control` is the socket to the guardian.
pub(super) fn start(control: OwnedFd, tasks: &mut JoinSet<()>) -> io::Result<()> {
    let turns = Arc::new(AtomicU64::new(0));
    let watched = turns.clone();
    thread::Builder::new().name("redir-alive".into()).spawn(move || say_alive(&control, &watched))?;
    tasks.spawn(async move {
        let mut tick = interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            turns.fetch_add(1, Ordering::Relaxed);
        }
    });
    Ok(())
}

/// Ends with the guardian.
fn say_alive(control: &OwnedFd, turns: &AtomicU64) {
    let message = Request::Alive.encode(0);
    let (mut seen, mut turned, mut told) = (0, Instant::now(), false);
    loop {
        thread::sleep(EVERY);
        let now = turns.load(Ordering::Relaxed);
        if now == seen {
            if turned.elapsed() >= STANDSTILL && !std::mem::replace(&mut told, true) {
                tracing::error!("the runtime stands still: the guardian ends this worker unless it goes on soon");
            }
            continue;
        }
        (seen, turned, told) = (now, Instant::now(), false);
        match ipc::send(control.as_fd(), &message, &[]) {
            Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => return,
            // A full socket means that the guardian is behind, not that the worker is dead.
            Err(error) => tracing::debug!(%error, "saying alive to the guardian failed"),
            Ok(()) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use redir_ipc::REQUEST_LEN;

    /// Whether a sign of life comes within the time.
    fn hears(guardian: &OwnedFd, limit: Duration) -> bool {
        let start = Instant::now();
        let mut buffer = [0; REQUEST_LEN];
        while start.elapsed() < limit {
            if ipc::receive_plain(guardian.as_fd(), &mut buffer).is_ok() {
                assert_eq!(Request::decode(&buffer), Ok((0, Request::Alive)));
                return true;
            }
            thread::sleep(Duration::from_millis(5));
        }
        false
    }

    #[test]
    fn signs_of_life_end_when_the_runtime_stands_still_and_come_back_with_it() {
        let (guardian, ours) = ipc::pair().expect("socket pair");
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runtime");
        let mut tasks = JoinSet::new();
        let entered = runtime.enter();
        start(ours, &mut tasks).expect("started");
        drop(entered);
        assert!(hears(&guardian, Duration::from_secs(20)));
        // Its only thread waits here, as one that is caught in a lock would.
        let (reached, at_it) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        runtime.spawn(async move {
            reached.send(()).expect("the test waits");
            released.recv().expect_err("nothing is sent");
        });
        at_it.recv().expect("it runs");
        // One may be under way.
        hears(&guardian, EVERY * 2);
        assert!(!hears(&guardian, EVERY * 4), "the runtime stands still");
        drop(release);
        assert!(hears(&guardian, Duration::from_secs(20)));
    }
}
