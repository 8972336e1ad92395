//! One program on one hook, by TCX, `sk_lookup` or a clsact filter, and how it is taken off again.
//!
//! Filters only in the thread that is in the pod's network namespace.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use super::{
    DatapathError, clsact, link,
    netlink::{self, TcFilter},
};

/// A program on a hook.
#[derive(Debug)]
pub(super) enum ProgramAttachment {
    /// With the device's index, or [`NO_DEVICE`].
    Link(u32, OwnedFd),
    Filter(TcFilter),
}

/// The index of the namespace's own hooks.
pub(super) const NO_DEVICE: u32 = 0;

impl ProgramAttachment {
    pub(super) fn link(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Link(_, link) => Some(link.as_fd()),
            Self::Filter(_) => None,
        }
    }

    pub(super) fn device(&self) -> u32 {
        match self {
            Self::Link(device, _) => *device,
            Self::Filter(filter) => filter.device,
        }
    }

    /// Whether it is still on its hook: a device takes its programs along, and another may get its index.
    pub(super) fn holds(&self) -> bool {
        match self {
            Self::Link(NO_DEVICE, _) => true,
            Self::Link(device, link) => link::device(link.as_fd()).is_ok_and(|now| now == *device),
            Self::Filter(filter) => netlink::holds(filter),
        }
    }

    pub(super) fn detach(&self) -> Result<(), DatapathError> {
        match self {
            Self::Filter(filter) => clsact::detach(filter),
            Self::Link(_, link) => match link::detach(link.as_fd()) {
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
