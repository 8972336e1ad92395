//! Hears that devices or addresses of a pod's network namespace have changed, for as long as the pod is armed.
//!
//! Owns an rtnetlink socket of the namespace and the pace: the first change is looked at at once, and a pod that changes
//! all the time less and less often. What a notification says is not read, since the survey that follows tells more, also
//! after an overrun. Routes are not heard: every device that could carry one is given the programs. Called by `pods`.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket},
};

/// One namespace's changes.
#[derive(Debug)]
pub(super) struct DeviceMonitor {
    socket: OwnedFd,
    pace: SurveyPace,
    /// There is more to do than the last look has done.
    unfinished: bool,
}

impl DeviceMonitor {
    /// Hears everything that changes from now on in the namespace of the calling thread.
    pub(super) fn open(now: Instant) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
        Ok(Self { socket, pace: SurveyPace::new(now), unfinished: false })
    }

    /// What to poll, unless the pod has had its turn: a pod that changes all the time must not wake anybody.
    pub(super) fn interest(&self, now: Instant) -> Option<BorrowedFd<'_>> {
        (self.pace.next <= now).then(|| self.socket.as_fd())
    }

    /// When to poll again, or to go on.
    pub(super) fn next(&self) -> Instant {
        self.pace.next
    }

    /// When it was looked at last: whoever has waited longest comes first.
    pub(super) fn last(&self) -> Instant {
        self.pace.last
    }

    /// Whether the namespace is to be looked at now. Takes what was heard; what does not fit one turn is heard by the next.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        if self.pace.next > now {
            return false;
        }
        let mut heard = std::mem::take(&mut self.unfinished);
        // One byte of each: the rest is discarded.
        let mut byte = [0];
        for _ in 0..TURN {
            match recv(self.socket.as_raw_fd(), &mut byte, MsgFlags::empty()) {
                Ok(_) | Err(Errno::ENOBUFS) => heard = true,
                Err(Errno::EINTR) => {}
                Err(_) => break,
            }
        }
        heard
    }

    /// A look is over.
    pub(super) fn looked(&mut self, now: Instant, outcome: SurveyOutcome) {
        self.unfinished |= outcome != SurveyOutcome::Done;
        match outcome {
            SurveyOutcome::Partly => (self.pace.last, self.pace.next) = (now, now),
            SurveyOutcome::Done | SurveyOutcome::Failed => self.pace.looked(now),
        }
    }

    /// Has the next look come without a change.
    pub(super) fn look_anyway(&mut self) {
        self.unfinished = true;
    }

    /// Whether a look is due without a change.
    pub(super) fn is_unfinished(&self) -> bool {
        self.unfinished
    }
}

/// How a look ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SurveyOutcome {
    /// Nothing is left to do.
    Done,
    /// There was more to do than one look may: the next one goes on at once.
    Partly,
    /// It is tried again.
    Failed,
}

/// How often a pod is looked at. Pure: time comes as a parameter.
#[derive(Debug)]
struct SurveyPace {
    last: Instant,
    next: Instant,
    pause: Duration,
}

impl SurveyPace {
    fn new(now: Instant) -> Self {
        Self { last: now, next: now, pause: Duration::ZERO }
    }

    fn looked(&mut self, now: Instant) {
        let quiet = now.duration_since(self.last) >= QUIET;
        self.pause = if quiet { FIRST_PAUSE } else { (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE) };
        (self.last, self.next) = (now, now + self.pause);
    }
}

/// `RTMGRP_LINK`, `RTMGRP_IPV4_IFADDR` and `RTMGRP_IPV6_IFADDR` (linux/rtnetlink.h).
const GROUPS: u32 = 0x1 | 0x10 | 0x100;
/// Notifications taken in one turn, about what the socket holds.
const TURN: usize = 512;
/// A device is made, named, moved, given addresses and set up within milliseconds: the second look comes after this.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
/// How far it doubles while there is something new each time.
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// A pod without a change for this long is looked at at once again.
const QUIET: Duration = Duration::from_secs(6);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_changes_all_the_time_is_looked_at_less_and_less_often() {
        let start = Instant::now();
        let mut pace = SurveyPace::new(start);
        assert_eq!(pace.next, start);
        let (mut now, mut pauses) = (start, Vec::new());
        for _ in 0..10 {
            pace.looked(now);
            pauses.push(pace.next.duration_since(now).as_millis());
            now = pace.next;
        }
        assert_eq!(pauses, [25, 50, 100, 200, 400, 800, 1600, 3000, 3000, 3000]);
        pace.looked(now + QUIET);
        assert_eq!(pace.next, now + QUIET + FIRST_PAUSE);
    }
}
