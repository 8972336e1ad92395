//! Network namespaces: which one a path names, and doing a thing inside it.
//!
//! Owns `setns`. The guardian's main thread goes in and comes back before anything else happens; if it cannot come back
//! it aborts, since everything it did from then on would happen in a pod. Called by `pod` and `check`.

use std::{
    fs::{File, Metadata},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use nix::{
    fcntl::OFlag,
    sched::{CloneFlags, setns},
    sys::statfs::{NSFS_MAGIC, fstatfs},
};

/// What tells one namespace from another, of whatever kind: the device and inode of its file on nsfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NetnsId {
    device: u64,
    inode: u64,
}

impl NetnsId {
    /// What the path names now, without opening it.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        Ok(Self::of_metadata(&std::fs::metadata(path)?))
    }

    fn of_file(file: &File) -> io::Result<Self> {
        Ok(Self::of_metadata(&file.metadata()?))
    }

    fn of_metadata(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// The namespaces that are nobody's pod: the agent's own and the first process's.
#[derive(Debug)]
pub(super) struct HostNamespaces {
    own: File,
    forbidden: Vec<NetnsId>,
    /// The user namespace that the agent is in, which is the node's: in another it could enter no pod.
    users: Option<NetnsId>,
}

impl HostNamespaces {
    /// Must be called before any `setns`.
    pub(super) fn new() -> io::Result<Self> {
        let own = File::open("/proc/thread-self/ns/net")?;
        let paths = ["/proc/self/ns/net", "/proc/1/ns/net"];
        // In a container the first process may not be readable; then it is not the host's either.
        let forbidden = paths.iter().filter_map(|path| NetnsId::of(Path::new(path)).ok()).collect();
        let users = NetnsId::of(Path::new("/proc/self/ns/user")).ok();
        Ok(Self { own, forbidden, users })
    }

    /// Whether it is nobody's pod.
    pub(super) fn is_forbidden(&self, id: NetnsId) -> bool {
        self.forbidden.contains(&id)
    }

    /// The node's user namespace.
    pub(super) fn users(&self) -> Option<NetnsId> {
        self.users
    }

    /// Opens a pod's namespace; the error ends with the next step.
    pub(super) fn open(&self, path: &Path) -> Result<PodNetns, String> {
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
        let id = NetnsId::of_file(&file).map_err(|error| format!("cannot look at {shown}: {error}; try again"))?;
        if !on_nsfs {
            return Err(format!("{shown} is not a network namespace; correct the pod's netns"));
        }
        if self.is_forbidden(id) {
            return Err(format!(
                "{shown} is the node's own network namespace (hostNetwork), which redir never touches; name a pod's"
            ));
        }
        Ok(PodNetns { file, id })
    }
}

/// An open network namespace of a pod.
#[derive(Debug)]
pub(super) struct PodNetns {
    file: File,
    id: NetnsId,
}

impl PodNetns {
    pub(super) fn id(&self) -> NetnsId {
        self.id
    }

    /// The user namespace whose capabilities count in it (4.9).
    #[expect(unsafe_code, reason = "no wrapper for this ioctl")]
    pub(super) fn owner(&self) -> io::Result<NetnsId> {
        // SAFETY: the request has no argument; the result is a new descriptor, which nobody else knows, or negative.
        let owner = unsafe {
            let owner = libc::ioctl(self.file.as_raw_fd(), NS_GET_USERNS);
            if owner < 0 {
                return Err(io::Error::last_os_error());
            }
            File::from_raw_fd(owner)
        };
        NetnsId::of_file(&owner)
    }

    /// Runs `work` inside. Sockets that it makes belong to the pod's namespace for good.
    pub(super) fn within<T>(&self, home: &HostNamespaces, work: impl FnOnce() -> T) -> io::Result<T> {
        setns(&self.file, CloneFlags::CLONE_NEWNET)?;
        let way_back = NetnsGuard(home);
        let result = work();
        drop(way_back);
        Ok(result)
    }
}

impl AsFd for PodNetns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// `_IO(0xb7, 0x1)`, ioctl_nsfs(2).
const NS_GET_USERNS: libc::Ioctl = 0xb701;

struct NetnsGuard<'a>(&'a HostNamespaces);

impl Drop for NetnsGuard<'_> {
    fn drop(&mut self) {
        if let Err(error) = setns(&self.0.own, CloneFlags::CLONE_NEWNET) {
            tracing::error!(%error, "cannot come back from a pod's network namespace; ending at once");
            std::process::abort();
        }
    }
}
