//! Which legs were turned round: the notes of the pod's programs, in memory that is shared with them.
//!
//! No byte is sent on a leg before its note is read: without it the leg may have reached a stranger, whatever listens on that
//! port at the client's address.
#![expect(unsafe_code, reason = "shared memory with the kernel: one mapping, atomic words in it")]

use std::{
    ffi::c_void,
    io,
    num::NonZeroUsize,
    os::fd::OwnedFd,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use redir_abi::{TRIAL, TURNED_SLOTS, turned_slot};

/// The size of the mapping: a word for each slot.
const LENGTH: NonZeroUsize = NonZeroUsize::new(TURNED_SLOTS as usize * 8).expect("not zero");

/// The mapped notes of one pod.
#[derive(Debug)]
pub(crate) struct Turned {
    words: NonNull<c_void>,
}

/// What the notes say about a leg that has connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Note {
    /// Its SYN was turned round, or seen on `lo`, where the pod itself answers.
    Turned,
    /// It was not, and somebody else has answered; or an older leg, which was slow or waited in another pool, has taken
    /// the slot since. Only believed of two legs in a row.
    Missing,
    /// A much later leg has taken the slot: nothing is known.
    Overwritten,
}

// SAFETY: the mapping belongs to this value alone and is only used through atomics.
unsafe impl Send for Turned {}
// SAFETY: as above; atomics may be read from anywhere.
unsafe impl Sync for Turned {}

impl Turned {
    /// Maps the notes that the guardian handed over.
    pub(crate) fn map(fd: &OwnedFd) -> io::Result<Self> {
        // SAFETY: a new shared mapping at an address of the kernel's choice; nothing else is touched.
        let words = unsafe { mmap(None, LENGTH, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, fd, 0) }?;
        Ok(Self { words })
    }

    /// What is known of the leg with this number.
    pub(super) fn note(&self, number: u64) -> Note {
        let noted = self.word(number).load(Ordering::Acquire);
        match (noted & !TRIAL).cmp(&(number & !TRIAL)) {
            std::cmp::Ordering::Equal => Note::Turned,
            std::cmp::Ordering::Less => Note::Missing,
            std::cmp::Ordering::Greater => Note::Overwritten,
        }
    }

    fn word(&self, number: u64) -> &AtomicU64 {
        let slot = turned_slot(number) as usize;
        // SAFETY: the slot is below the number of words that are mapped until drop; a page is aligned for any word.
        unsafe { self.words.cast::<AtomicU64>().add(slot).as_ref() }
    }
}

impl Drop for Turned {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this size, and no reference to it is left.
        let _ = unsafe { munmap(self.words, LENGTH.get()) };
    }
}

/// Memory as the guardian hands it over, with nothing noted.
#[cfg(test)]
pub(crate) fn nothing_noted() -> std::fs::File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(LENGTH.get() as u64).unwrap();
    file
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn a_leg_is_known_by_its_own_number_only() {
        let file = nothing_noted();
        let turned = Turned::map(&file.try_clone().unwrap().into()).unwrap();
        let slots = u64::from(TURNED_SLOTS);
        assert_eq!(turned.note(5), Note::Missing);
        let write = |number: u64| file.write_all_at(&number.to_ne_bytes(), u64::from(turned_slot(number)) * 8).unwrap();
        write(5);
        assert_eq!(turned.note(5), Note::Turned);
        assert_eq!(turned.note(4), Note::Missing);
        assert_eq!(turned.note(5 + slots), Note::Missing);
        write((5 + slots) | TRIAL);
        assert_eq!(turned.note(5), Note::Overwritten);
        assert_eq!(turned.note((5 + slots) | TRIAL), Note::Turned);
        // An older leg comes late: the newer one looks as if it had left.
        write(5);
        assert_eq!(turned.note(5 + slots), Note::Missing);
    }
}
