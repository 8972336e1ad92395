//! The heartbeat of one pod: shared memory with the steering program, so that a hung accept loop steers nothing.
//!
//! Written by the pod's accept loop and by nobody else. The map is one page; its first word is CLOCK_MONOTONIC in
//! nanoseconds, the clock that the program compares it with.
#![expect(unsafe_code, reason = "shared memory with the kernel: one mapping, one atomic word in it")]

use std::{
    ffi::c_void,
    io,
    num::NonZeroUsize,
    os::fd::OwnedFd,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use nix::{
    sys::mman::{MapFlags, ProtFlags, mmap, munmap},
    time::{ClockId, clock_gettime},
};

/// The size of the mapping: the map's first page.
const PAGE: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");

/// A mapped heartbeat.
pub(super) struct MappedHeartbeat {
    page: NonNull<c_void>,
}

// SAFETY: the mapping belongs to this value alone and is only used through an atomic.
unsafe impl Send for MappedHeartbeat {}

impl MappedHeartbeat {
    /// Maps the word that the guardian handed over.
    pub(super) fn map(fd: &OwnedFd) -> io::Result<Self> {
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new shared mapping at an address of the kernel's choice; nothing else is touched.
        let page = unsafe { mmap(None, PAGE, access, MapFlags::MAP_SHARED, fd, 0) }?;
        Ok(MappedHeartbeat { page })
    }

    /// New connections may be steered for the next two seconds.
    pub(super) fn beat(&self) {
        // Fails only for a clock that does not exist; then the heartbeat goes stale, which is the safe side.
        if let Ok(now) = clock_gettime(ClockId::CLOCK_MONOTONIC) {
            let seconds = u64::try_from(now.tv_sec()).unwrap_or_default();
            let nanos = u64::try_from(now.tv_nsec()).unwrap_or_default();
            self.word().store(seconds * 1_000_000_000 + nanos, Ordering::Release);
        }
    }

    /// New connections go to the app from now on, until the next beat.
    pub(super) fn lapse(&self) {
        self.word().store(0, Ordering::Release);
    }

    fn word(&self) -> &AtomicU64 {
        // SAFETY: the page is mapped, readable and writable until drop, and aligned for any word.
        unsafe { self.page.cast::<AtomicU64>().as_ref() }
    }
}

impl Drop for MappedHeartbeat {
    fn drop(&mut self) {
        self.lapse();
        // SAFETY: mapped by `map` with this size, and no reference to it is left.
        let _ = unsafe { munmap(self.page, PAGE.get()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beat_is_the_monotonic_clock_and_a_lapse_is_zero() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let fd: OwnedFd = file.into();
        let heartbeat = MappedHeartbeat::map(&fd).unwrap();
        let other = MappedHeartbeat::map(&fd).unwrap();
        heartbeat.beat();
        let beat = other.word().load(Ordering::Acquire);
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
        let now = u64::try_from(now.tv_sec()).unwrap() * 1_000_000_000 + u64::try_from(now.tv_nsec()).unwrap();
        assert!(beat > 0 && beat <= now && now - beat < 1_000_000_000);
        drop(heartbeat);
        assert_eq!(other.word().load(Ordering::Acquire), 0, "a dropped heartbeat steers nothing");
    }
}
