//! Where descriptors stand in the worker's table: at exit the kernel closes the highest first.
//!
//! Listeners go to the top, so that nothing new is accepted by a dying worker; duplicates of the TCX links go to
//! reserved low numbers, so that the last FIN and RST of every socket are still reflected when guardian and worker die
//! together (a container's PID 1 that is killed). Called by the broker only.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::{
        eventfd::{EfdFlags, EventFd},
        resource::{Resource, getrlimit},
    },
    unistd::dup3,
};

use redir_config::PodName;

/// Reserved low descriptors, and which of them hold whose links.
pub(super) struct LinkStore {
    placeholder: EventFd,
    /// Descending, so that the lowest is taken first.
    free: Vec<OwnedFd>,
    held: HashMap<PodName, Vec<OwnedFd>>,
}

impl LinkStore {
    /// Reserves the lowest free descriptors. Called before the worker opens sockets.
    pub(super) fn new() -> io::Result<Self> {
        let placeholder = EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?;
        let free = (0..SLOTS).map(|_| placeholder.as_fd().try_clone_to_owned());
        let mut free: Vec<OwnedFd> = free.collect::<Result<_, _>>()?;
        free.reverse();
        Ok(Self { placeholder, free, held: HashMap::new() })
    }

    /// Keeps links of a pod until `clear`. Beyond the reserved slots they stay where they are.
    pub(super) fn keep(&mut self, pod: &PodName, links: impl Iterator<Item = OwnedFd>) {
        let links: Vec<_> = links.map(|link| self.place(link)).collect();
        self.held.entry(pod.clone()).or_default().extend(links);
    }

    /// Closes a pod's links and gives their slots back.
    pub(super) fn clear(&mut self, pod: &PodName) {
        for mut slot in self.held.remove(pod).unwrap_or_default() {
            if dup3(&self.placeholder, &mut slot, OFlag::O_CLOEXEC).is_ok() {
                self.free.push(slot);
            }
        }
        self.free.sort_by_key(|slot| std::cmp::Reverse(slot.as_raw_fd()));
    }

    /// Where a pod's links stand.
    #[cfg(test)]
    pub(super) fn kept(&self, pod: &PodName) -> Vec<i32> {
        self.held.get(pod).into_iter().flatten().map(AsRawFd::as_raw_fd).collect()
    }

    /// The slot that the next link takes.
    #[cfg(test)]
    pub(super) fn lowest(&self) -> Option<i32> {
        self.free.last().map(AsRawFd::as_raw_fd)
    }

    fn place(&mut self, link: OwnedFd) -> OwnedFd {
        let Some(mut slot) = self.free.pop() else { return link };
        match dup3(&link, &mut slot, OFlag::O_CLOEXEC) {
            Ok(()) => slot,
            Err(_) => link,
        }
    }
}

/// Moves a descriptor near the limit of the table. Where that fails it stays where it is: it still works.
pub(super) fn high(fd: OwnedFd) -> io::Result<OwnedFd> {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let base = soft.saturating_sub(HIGH_ROOM).min(HIGHEST_BASE);
    let Ok(base) = i32::try_from(base) else { return Ok(fd) };
    match fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(base)) {
        Ok(raw) => Ok(own(raw)),
        Err(_) => Ok(fd),
    }
}

#[expect(unsafe_code, reason = "F_DUPFD returns the descriptor as a number")]
fn own(raw: i32) -> OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: the kernel has just made this descriptor for this process, and nobody else knows its number.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

/// Sixteen pods with four links each; a slot is one descriptor of the same eventfd.
const SLOTS: usize = 64;
/// Two listeners for each of 256 pods.
const HIGH_ROOM: u64 = 512;
/// Descriptors: a table of this size takes half a megabyte of kernel memory.
const HIGHEST_BASE: u64 = 65_024;

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn target(fd: &OwnedFd) -> String {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).expect("open");
        link.display().to_string()
    }

    #[test]
    fn links_take_the_lowest_slots_and_give_them_back() {
        let pod = PodName::new("web-1").expect("good");
        let mut store = LinkStore::new().expect("descriptors");
        let lowest = store.free.last().expect("slots").as_raw_fd();
        let link = OwnedFd::from(File::open("/proc/self/status").expect("there"));
        assert!(link.as_raw_fd() > lowest);
        store.keep(&pod, [link].into_iter());
        let held = &store.held[&pod][0];
        assert_eq!(held.as_raw_fd(), lowest);
        assert!(target(held).ends_with("/status"));
        store.clear(&pod);
        assert_eq!(store.free.len(), SLOTS);
        assert_eq!(target(store.free.last().expect("slots")), "anon_inode:[eventfd]");
    }

    #[test]
    fn more_links_than_slots_stay_where_they_are() {
        let pod = PodName::new("web-1").expect("good");
        let mut store = LinkStore::new().expect("descriptors");
        store.keep(&pod, (0..SLOTS + 3).map(|_| File::open("/proc/self/status").expect("there").into()));
        assert_eq!(store.held[&pod].len(), SLOTS + 3);
        assert!(store.held[&pod].iter().all(|fd| target(fd).ends_with("/status")));
    }

    #[test]
    fn high_is_near_the_limit() {
        let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).expect("readable");
        let fd = high(File::open("/dev/null").expect("there").into()).expect("moved");
        assert!(u64::try_from(fd.as_raw_fd()).expect("positive") >= soft.saturating_sub(HIGH_ROOM).min(HIGHEST_BASE));
    }
}
