//! Gives memory that was freed back to the kernel: glibc's allocator keeps all of a peak that lies below something that stays.
//!
//! Owns: when. Looking and giving back take at most a fiftieth of one thread's time, and hold up whoever allocates in the same
//! arena meanwhile. docs/performance.md has the figures by which this was chosen among allocators. Called by the worker's start.

use std::time::{Duration, Instant};

use tokio::time::sleep;

/// Looks for as long as the worker lives.
pub(crate) async fn run() {
    let mut trimmer = Trimmer::new(Instant::now());
    let mut pause = EVERY;
    loop {
        sleep(pause).await;
        let look = tokio::task::spawn_blocking(move || {
            let begun = Instant::now();
            let freed = trimmer.look(begun);
            (trimmer, freed, begun.elapsed())
        });
        // It only fails with the runtime.
        let Ok((after, freed, took)) = look.await else { return };
        if let Some(bytes) = freed {
            tracing::debug!(bytes, ?took, "freed memory was given back");
        }
        trimmer = after;
        pause = EVERY.max(took * SHARE);
    }
}

/// What was free when.
#[derive(Debug)]
struct Trimmer {
    /// The least that was free since memory was given back, in bytes. What is free beyond it was in use since then, and is
    /// still the process's.
    least: usize,
    /// When memory was given back, or would have been.
    given_back: Instant,
}

impl Trimmer {
    fn new(now: Instant) -> Self {
        Trimmer { least: 0, given_back: now }
    }

    /// Gives back what is free if it is worth it; how much that may be. What was in use between two looks alone is known to
    /// nobody: so all that is free counts after a while.
    fn look(&mut self, now: Instant) -> Option<usize> {
        let free = free();
        self.least = self.least.min(free);
        let unseen = now.duration_since(self.given_back) >= ANYHOW;
        let freed = if unseen { free } else { free - self.least };
        if freed < WORTH {
            return None;
        }
        give_back();
        (self.least, self.given_back) = (free, now);
        Some(freed)
    }
}

/// Bytes that the allocator holds for nobody, given back or not.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "no wrapper for mallinfo2(3)")]
fn free() -> usize {
    // SAFETY: it takes nothing, and locks what it reads.
    unsafe { libc::mallinfo2() }.fordblks
}

#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "no wrapper for malloc_trim(3)")]
fn give_back() {
    // SAFETY: it takes a number, and touches free memory only, which it locks.
    unsafe { libc::malloc_trim(KEPT) };
}

/// Other C libraries have nothing to ask, and give back by themselves or not at all.
#[cfg(not(target_env = "gnu"))]
fn free() -> usize {
    0
}

#[cfg(not(target_env = "gnu"))]
fn give_back() {}

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(1);
/// A look is followed by a pause of so many times what it took.
const SHARE: u32 = 50;
/// Bytes that must have become free: traffic that comes and goes shall not fetch its pages anew each second.
const WORTH: usize = 4 << 20;
/// How long peaks that were over before a look may be kept. There is little to do where nothing was freed since: pages that
/// were given back are not given back again.
const ANYHOW: Duration = Duration::from_secs(30);
/// Bytes at the heap's end that are kept for the next requests.
#[cfg(target_env = "gnu")]
const KEPT: usize = 256 << 10;

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use super::*;
    use crate::memory::tests::alone;

    /// Bytes that the process has resident.
    fn resident() -> usize {
        let statistics = std::fs::read_to_string("/proc/self/statm").expect("readable");
        statistics.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("pages") * 4096
    }

    /// Blocks of a size that the allocator takes from its heap, with something small behind each that stays.
    #[expect(clippy::vec_box, reason = "something small of its own behind each block")]
    fn peak() -> (Vec<Vec<u8>>, Vec<Box<[u8; 64]>>) {
        (0..600).map(|_| (vec![1; 100 << 10], Box::new([1; 64]))).unzip()
    }

    #[test]
    fn what_a_peak_has_freed_is_given_back_each_time() {
        if !alone("memory::trim::tests::what_a_peak_has_freed_is_given_back_each_time") {
            return;
        }
        let now = Instant::now();
        let mut trimmer = Trimmer::new(now);
        trimmer.look(now);
        let before = resident();
        let mut stay = Vec::new();
        for _ in 0..2 {
            let (blocks, small) = peak();
            stay.push(small);
            assert!(resident() > before + (50 << 20), "a peak");
            // In use, nothing is free.
            trimmer.look(now);
            drop(blocks);
            assert!(resident() > before + (50 << 20), "the allocator keeps it");
            assert!(trimmer.look(now).is_some_and(|freed| freed > 50 << 20));
            assert!(resident() < before + (12 << 20), "{before} before, {} after", resident());
            assert_eq!(trimmer.look(now), None, "it is given back once");
        }
    }

    #[test]
    fn peaks_that_no_look_has_seen_are_given_back_as_well() {
        if !alone("memory::trim::tests::peaks_that_no_look_has_seen_are_given_back_as_well") {
            return;
        }
        let mut now = Instant::now();
        let mut trimmer = Trimmer::new(now);
        trimmer.look(now);
        let before = resident();
        let mut stay = Vec::new();
        for _ in 0..3 {
            let (blocks, small) = peak();
            stay.push(small);
            drop(blocks);
            assert!(resident() > before + (50 << 20), "the allocator keeps it");
            for _ in 0..31 {
                now += EVERY;
                trimmer.look(now);
            }
            assert!(resident() < before + (12 << 20), "{before} before, {} after", resident());
        }
    }
}
