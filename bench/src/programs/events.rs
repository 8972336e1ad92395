//! An epoll set whose entries are numbered, level-triggered: what app, relay and load all wait on.

use std::{os::fd::AsFd, time::Duration};

use anyhow::Result;
use nix::{
    errno::Errno,
    sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
};

/// Enough for one wake-up of any load here.
const BATCH: usize = 256;

/// The set and the events of the last wait.
#[derive(Debug)]
pub struct Events {
    epoll: Epoll,
    events: Vec<EpollEvent>,
}

/// What an entry is watched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interest {
    /// Something can be read, or the peer has ended.
    pub input: bool,
    /// Something can be written.
    pub output: bool,
}

impl Interest {
    /// Input alone.
    pub const INPUT: Self = Self { input: true, output: false };
    /// Both.
    pub const BOTH: Self = Self { input: true, output: true };
}

impl Events {
    /// An empty set.
    pub fn new() -> Result<Self> {
        Ok(Self { epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?, events: vec![EpollEvent::empty(); BATCH] })
    }

    /// Watches a descriptor; `number` names it.
    pub fn add(&self, fd: impl AsFd, number: u64, interest: Interest) -> Result<()> {
        Ok(self.epoll.add(fd, EpollEvent::new(flags(interest), number))?)
    }

    /// Changes what is watched.
    pub fn change(&self, fd: impl AsFd, number: u64, interest: Interest) -> Result<()> {
        Ok(self.epoll.modify(fd, &mut EpollEvent::new(flags(interest), number))?)
    }

    /// Waits for at least one event, or until `limit`; gives the numbers.
    pub fn wait(&mut self, limit: Option<Duration>) -> Result<Vec<u64>> {
        let timeout = match limit {
            Some(limit) => EpollTimeout::try_from(limit)?,
            None => EpollTimeout::NONE,
        };
        match self.epoll.wait(&mut self.events, timeout) {
            Ok(n) => Ok(self.events[..n].iter().map(EpollEvent::data).collect()),
            Err(Errno::EINTR) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }
}

fn flags(interest: Interest) -> EpollFlags {
    let mut flags = EpollFlags::empty();
    flags.set(EpollFlags::EPOLLIN, interest.input);
    flags.set(EpollFlags::EPOLLOUT, interest.output);
    flags
}
