//! How late this machine runs what is ready to run: what a promise in seconds is measured against.
//!
//! A promise is one on a machine that has time for it. Where the suite runs beside other work, each step of what is promised
//! may be as late as a thread that only wants to wake up; on an idle machine that is nothing, and the promise is strict.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::wait;
use anyhow::{Result, ensure};

/// Watches from its start until it is dropped.
#[derive(Debug)]
pub struct Starvation {
    stop: Arc<AtomicBool>,
    /// The latest wake-up, microseconds.
    worst: Arc<AtomicU64>,
}

impl Starvation {
    /// Begins to watch.
    pub fn watch() -> Self {
        let (stop, worst) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, latest) = (stop.clone(), worst.clone());
        thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let before = Instant::now();
                thread::sleep(TICK);
                let late = before.elapsed().saturating_sub(TICK);
                latest.fetch_max(u64::try_from(late.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
            }
        });
        Self { stop, worst }
    }

    /// What was promised within `limit` took so long.
    pub fn promise(&self, what: &str, took: Duration, limit: Duration) -> Result<()> {
        let worst = Duration::from_micros(self.worst.load(Ordering::Relaxed));
        let allowed = wait::scaled(limit) + worst * STEPS;
        eprintln!(
            "{what}: {took:.2?}, promised within {limit:?}; this machine woke a thread up {worst:.1?} late at worst"
        );
        ensure!(took <= allowed, "{what}: {took:?} instead of {limit:?} ({allowed:?} on a machine as busy as this)");
        Ok(())
    }
}

impl Drop for Starvation {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// How often a wake-up is tried.
const TICK: Duration = Duration::from_millis(5);
/// Wake-ups of programs, one after another, that what is promised consists of.
const STEPS: u32 = 8;
