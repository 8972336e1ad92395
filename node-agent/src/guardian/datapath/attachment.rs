//! One program on one hook, by TCX, `sk_lookup` or a clsact filter, and how it is taken off again.
//!
//! Filters only in the thread that is in the pod's network namespace.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::DatapathError;
use super::netlink::Filter;
use super::{clsact, link};

/// A program on a hook.
#[derive(Debug)]
pub(super) enum Attachment {
    Link(OwnedFd),
    Filter(Filter),
}

impl Attachment {
    pub(super) fn link(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Link(link) => Some(link.as_fd()),
            Self::Filter(_) => None,
        }
    }

    pub(super) fn detach(&self) -> Result<(), DatapathError> {
        match self {
            Self::Filter(filter) => clsact::detach(filter),
            Self::Link(link) => match link::detach(link.as_fd()) {
                // The device or the namespace went first.
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENOLINK | libc::ENODEV | libc::ENOENT)) => Ok(()),
                result => result.map_err(DatapathError::Detach),
            },
        }
    }
}

/// What a kernel without TCX answers to an attach type it does not know.
pub(super) fn is_unknown_hook(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP | 524 /* ENOTSUPP */))
}
