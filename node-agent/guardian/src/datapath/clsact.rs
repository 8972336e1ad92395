//! Filters on the clsact qdisc, for kernels without TCX.
//!
//! A filter and its qdisc stay behind when a process dies, so this module knows what is whose: own filters by their
//! program's name, the qdisc by who has made it. It never removes another's filter, nor a qdisc that holds one. All
//! functions work in the calling thread's network namespace.

use std::{
    collections::HashMap,
    fs, io,
    os::fd::BorrowedFd,
    os::unix::fs::MetadataExt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{
    DatapathError,
    netlink::{self, FilterParent, TcFilter},
};

/// First on the hook. When that priority belongs to another classifier, the kernel chooses.
const FIRST: u16 = 1;

/// A device of one network namespace, for the whole machine: inode of the namespace, index of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct NetnsDevice {
    netns: u64,
    device: u32,
}

/// How this process uses the qdisc of a place. A pod may have two datapaths at a time: one that drains, and its successor.
#[derive(Clone, Copy, Debug)]
struct QdiscUse {
    users: usize,
    ours: bool,
}

static USES: Mutex<Option<HashMap<NetnsDevice, QdiscUse>>> = Mutex::new(None);

/// A hold on a device's clsact qdisc. Not released by dropping: that has to happen in the right network namespace.
#[derive(Debug)]
pub(super) struct QdiscHold {
    place: NetnsDevice,
    name: String,
}

impl QdiscHold {
    /// Makes the qdisc if there is none; the first user clears away what a killed predecessor has left.
    pub(super) fn hold(device: u32, name: &str) -> Result<Self, DatapathError> {
        let fail = |action| move |source| DatapathError::Clsact { action, device: name.to_owned(), source };
        let place = NetnsDevice { netns: own_netns().map_err(DatapathError::Netns)?, device };
        let mut uses = lock();
        let uses = uses.get_or_insert_default();
        if let Some(known) = uses.get_mut(&place) {
            known.users += 1;
        } else {
            let left = remove_leftovers(device).map_err(fail("remove the filters of a killed agent"))?;
            let ours = match netlink::add_clsact(device) {
                Ok(()) => true,
                // Our filters and nothing else on it: the predecessor has made it.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => left > 0 && is_empty(device),
                Err(e) => return Err(fail("add the clsact qdisc")(e)),
            };
            uses.insert(place, QdiscUse { users: 1, ours });
        }
        Ok(Self { place, name: name.to_owned() })
    }

    /// Adds a program's filter.
    pub(super) fn attach(
        &self,
        direction: FilterParent,
        program: &'static str,
        fd: BorrowedFd<'_>,
    ) -> Result<TcFilter, DatapathError> {
        let add = |priority| netlink::add_filter(self.place.device, direction, priority, program, fd);
        let filter = add(FIRST).or_else(|_taken| add(0)).map_err(|source| DatapathError::Attach {
            program,
            device: self.name.clone(),
            source,
        })?;
        self.tell_what_comes_first(&filter);
        Ok(filter)
    }

    /// Another's filter may end the chain before ours is run. The notes of turned SYNs show it where it does.
    fn tell_what_comes_first(&self, ours: &TcFilter) {
        let filters = netlink::filters(self.place.device, ours.direction).unwrap_or_default();
        for first in filters.iter().filter(|filter| filter.priority < ours.priority) {
            let (device, priority, name) =
                (&self.name, first.priority, first.name.as_deref().unwrap_or("without a name"));
            tracing::warn!(%device, direction = ?ours.direction, priority, name, "a filter of somebody else comes before redir's");
        }
    }

    /// Lets go; the last user deletes the qdisc if it was made here and holds nobody's filter.
    pub(super) fn release(self) -> Result<(), DatapathError> {
        let mut uses = lock();
        let uses = uses.get_or_insert_default();
        let Some(known) = uses.get_mut(&self.place) else { return Ok(()) };
        known.users -= 1;
        if known.users > 0 {
            return Ok(());
        }
        let ours = known.ours;
        uses.remove(&self.place);
        if !ours || !is_empty(self.place.device) {
            return Ok(());
        }
        gone_is_fine(netlink::delete_clsact(self.place.device)).map_err(|source| DatapathError::Clsact {
            action: "delete the clsact qdisc",
            device: self.name,
            source,
        })
    }
}

/// Deletes a filter that `QdiscHold::attach` has made.
pub(super) fn detach(filter: &TcFilter) -> Result<(), DatapathError> {
    gone_is_fine(netlink::delete_filter(filter)).map_err(|source| DatapathError::Clsact {
        action: "delete a filter",
        device: format!("device {}", filter.device),
        source,
    })
}

/// Deletes the filters that carry the names of our programs, and says how many there were.
fn remove_leftovers(device: u32) -> io::Result<usize> {
    let mut removed = 0;
    for direction in [FilterParent::Ingress, FilterParent::Egress] {
        for filter in netlink::filters(device, direction)? {
            if filter.name.as_deref().is_some_and(is_ours) {
                gone_is_fine(netlink::delete_filter(&filter))?;
                removed += 1;
            }
        }
    }
    Ok(removed)
}

/// The kernel's programs are named after their functions, and so are our filters.
fn is_ours(name: &str) -> bool {
    redir_abi::program::CLASSIFIERS.contains(&name)
}

/// In doubt the qdisc is not empty.
fn is_empty(device: u32) -> bool {
    [FilterParent::Ingress, FilterParent::Egress]
        .into_iter()
        .all(|d| netlink::filters(device, d).is_ok_and(|filters| filters.is_empty()))
}

/// The device or the filter went before we did: what was wanted.
fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENODEV | libc::ENOENT)) => Ok(()),
        other => other,
    }
}

fn own_netns() -> io::Result<u64> {
    Ok(fs::metadata("/proc/thread-self/ns/net")?.ino())
}

fn lock() -> MutexGuard<'static, Option<HashMap<NetnsDevice, QdiscUse>>> {
    USES.lock().unwrap_or_else(PoisonError::into_inner)
}
