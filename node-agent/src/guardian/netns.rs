//! Network namespaces: which one a path names, and doing a thing inside it.
//!
//! Owns `setns`. The guardian's main thread goes in and comes back before anything else happens; if it cannot come back
//! it aborts, since everything it did from then on would happen in a pod. Called by `pod` and `check`.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use nix::{
    fcntl::OFlag,
    sched::{CloneFlags, setns},
    sys::statfs::{NSFS_MAGIC, fstatfs},
};

/// What tells one namespace from another: the device and inode of its file on nsfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NetnsId {
    device: u64,
    inode: u64,
}

impl NetnsId {
    /// What the path names now, without opening it.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        Ok(Self { device: metadata.dev(), inode: metadata.ino() })
    }
}

/// The namespaces that are nobody's pod: the agent's own and the first process's.
#[derive(Debug)]
pub(super) struct Home {
    own: File,
    forbidden: Vec<NetnsId>,
}

impl Home {
    /// Must be called before any `setns`.
    pub(super) fn new() -> io::Result<Self> {
        let own = File::open("/proc/thread-self/ns/net")?;
        let paths = ["/proc/self/ns/net", "/proc/1/ns/net"];
        // In a container the first process may not be readable; then it is not the host's either.
        let forbidden = paths.iter().filter_map(|path| NetnsId::of(Path::new(path)).ok()).collect();
        Ok(Self { own, forbidden })
    }

    /// Opens a pod's namespace; the error ends with the next step.
    pub(super) fn open(&self, path: &Path) -> Result<Netns, String> {
        let shown = path.display();
        let file =
            File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path).map_err(
                |error| match error.kind() {
                    io::ErrorKind::NotFound => {
                        format!("there is no network namespace {shown}; start the pod, or correct its netns")
                    }
                    _ => format!("cannot open the network namespace {shown}: {error}; correct the pod's netns"),
                },
            )?;
        let on_nsfs = fstatfs(&file).is_ok_and(|status| status.filesystem_type() == NSFS_MAGIC);
        let metadata = file.metadata().map_err(|error| format!("cannot look at {shown}: {error}; try again"))?;
        if !on_nsfs {
            return Err(format!("{shown} is not a network namespace; correct the pod's netns"));
        }
        let id = NetnsId { device: metadata.dev(), inode: metadata.ino() };
        if self.forbidden.contains(&id) {
            return Err(format!(
                "{shown} is the node's own network namespace (hostNetwork), which redir never touches; name a pod's"
            ));
        }
        Ok(Netns { file, id })
    }
}

/// An open network namespace of a pod.
#[derive(Debug)]
pub(super) struct Netns {
    file: File,
    id: NetnsId,
}

impl Netns {
    pub(super) fn id(&self) -> NetnsId {
        self.id
    }

    /// Runs `work` inside. Sockets that it makes belong to the pod's namespace for good.
    pub(super) fn within<T>(&self, home: &Home, work: impl FnOnce() -> T) -> io::Result<T> {
        setns(&self.file, CloneFlags::CLONE_NEWNET)?;
        let way_back = WayBack(home);
        let result = work();
        drop(way_back);
        Ok(result)
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

struct WayBack<'a>(&'a Home);

impl Drop for WayBack<'_> {
    fn drop(&mut self) {
        if let Err(error) = setns(&self.0.own, CloneFlags::CLONE_NEWNET) {
            tracing::error!(%error, "cannot come back from a pod's network namespace; ending at once");
            std::process::abort();
        }
    }
}
