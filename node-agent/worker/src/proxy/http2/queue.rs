//! Bytes of one direction of one stream that the other side does not take yet.
//!
//! Owns: their order, and what they count as. Never more than the window that the sender was given, since that opens
//! again only as bytes leave here.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::{Bytes, BytesMut};

use crate::memory::Share;

/// Pieces up to this size are copied together: each alone would keep the whole block alive that it was read in.
const SMALL: usize = 1024;

/// Whose bytes wait, all together; a leg's, or the client's.
pub(super) type Waiting = Arc<AtomicUsize>;

/// See the module.
pub(super) struct Queue {
    front: Bytes,
    rest: VecDeque<Bytes>,
    tail: BytesMut,
    len: usize,
    /// What of `len` is counted.
    counted: usize,
    waiting: Waiting,
    share: Share,
}

impl Queue {
    /// Holds nothing.
    pub(super) fn new(waiting: Waiting) -> Self {
        Queue {
            front: Bytes::new(),
            rest: VecDeque::new(),
            tail: BytesMut::new(),
            len: 0,
            counted: 0,
            waiting,
            share: Share::default(),
        }
    }

    /// How many bytes there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds bytes behind all others.
    pub(super) fn push(&mut self, bytes: Bytes) {
        self.len += bytes.len();
        if self.len == bytes.len() {
            self.front = bytes;
        } else if bytes.len() <= SMALL {
            self.tail.extend_from_slice(&bytes);
        } else {
            if !self.tail.is_empty() {
                self.rest.push_back(self.tail.split().freeze());
            }
            self.rest.push_back(bytes);
        }
    }

    /// Takes some of the first bytes, at most `most`.
    pub(super) fn take(&mut self, most: usize) -> Bytes {
        if self.front.is_empty() {
            self.front = self.rest.pop_front().unwrap_or_else(|| std::mem::take(&mut self.tail).freeze());
        }
        let taken = self.front.split_to(most.min(self.front.len()));
        self.len -= taken.len();
        taken
    }

    /// What is here now waits: it counts, for the connection and for the agent. Nothing counts that passes at once.
    pub(super) fn count(&mut self) {
        if self.len == self.counted {
            return;
        }
        if self.len > self.counted {
            self.waiting.fetch_add(self.len - self.counted, Ordering::Relaxed);
        } else {
            self.waiting.fetch_sub(self.counted - self.len, Ordering::Relaxed);
        }
        self.counted = self.len;
        self.share.set(self.len);
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.waiting.fetch_sub(self.counted, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_leave_in_the_order_in_which_they_came() {
        let sizes = [5, 1, 900, 2000, 3, 3, 1024, 1025, 0, 70_000, 1];
        let whole: Vec<u8> = (0..sizes.iter().sum::<usize>()).map(|n| u8::try_from(n % 251).unwrap()).collect();
        for most in [1, 7, 1000, 100_000] {
            let (mut queue, mut at, mut got) = (Queue::new(Waiting::default()), 0, Vec::new());
            for (n, size) in sizes.iter().enumerate() {
                queue.push(Bytes::copy_from_slice(&whole[at..at + size]));
                at += size;
                if n % 3 == 2 {
                    got.extend_from_slice(&queue.take(most));
                }
            }
            while queue.len() > 0 {
                let taken = queue.take(most);
                assert!(!taken.is_empty() && taken.len() <= most);
                got.extend_from_slice(&taken);
            }
            assert!(got == whole, "{most}");
        }
    }

    #[test]
    fn what_waits_is_counted_until_it_is_gone() {
        let waiting = Waiting::default();
        let mut queue = Queue::new(waiting.clone());
        let count = || waiting.load(Ordering::Relaxed);
        queue.push(Bytes::from_static(b"abcdef"));
        assert_eq!(count(), 0, "it may pass at once");
        queue.count();
        assert_eq!(count(), 6);
        queue.take(4);
        queue.count();
        assert_eq!(count(), 2);
        queue.push(Bytes::from_static(b"gh"));
        queue.count();
        assert_eq!(count(), 4);
        drop(queue);
        assert_eq!(count(), 0);
    }
}
