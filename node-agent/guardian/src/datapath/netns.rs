//! Runs a piece of work inside the pod's network namespace.
//!
//! Always on a thread of its own that ends with the work: the caller's thread never changes its namespace, so there is
//! no way back that could fail.

use std::io;
use std::os::fd::BorrowedFd;
use std::thread;

use nix::sched::{CloneFlags, setns};

use super::DatapathError;

/// Runs `work` in `netns` and waits for it.
pub(super) fn within<T: Send>(
    netns: BorrowedFd<'_>,
    work: impl FnOnce() -> Result<T, DatapathError> + Send,
) -> Result<T, DatapathError> {
    thread::scope(|scope| {
        let inside = move || {
            setns(netns, CloneFlags::CLONE_NEWNET).map_err(|e| DatapathError::Netns(e.into()))?;
            work()
        };
        let thread =
            thread::Builder::new().name("netns".into()).spawn_scoped(scope, inside).map_err(DatapathError::Netns)?;
        match thread.join() {
            Ok(result) => result,
            Err(_panic) => Err(DatapathError::Netns(io::Error::other("the thread in the namespace panicked"))),
        }
    })
}
