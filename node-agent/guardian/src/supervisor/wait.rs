//! What the loop waits for: descriptors, and the next time that something is due.

use std::{
    os::fd::AsFd,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{LOOK, Supervisor};
use crate::{controller::ControllerSupervisor, worker::WorkerProcess};

/// What the wait has brought, beside signals and requests.
pub(super) struct WakeReasons {
    /// A process that a pod of the file ends with has ended.
    pub(super) owner_ended: bool,
    /// A pod's devices or addresses may have changed.
    pub(super) devices_changed: bool,
}

impl Supervisor {
    pub(super) fn wait(&self, now: Instant, silence: Option<Instant>) -> WakeReasons {
        let stop = self.life.stopping.as_ref().filter(|_| self.life.worker.is_some()).map(|stopping| stopping.kill_at);
        let restart = self.life.restart_at.filter(|_| self.life.worker.is_none() && self.life.exit.is_none());
        let look = self.pods.next_look(now);
        let ending = self.pods.next_ending();
        let controller = Some(&self.controller).filter(|controller| controller.is_wanted(self.file.config()));
        let times = [
            controller.and_then(ControllerSupervisor::next),
            self.pods.next_withdrawal(),
            self.life.next_look,
            silence,
            restart,
            self.pods.next_expiry(),
            stop,
            look,
            self.pods.next_flush(),
            ending,
        ];
        let next = times.into_iter().flatten().filter(|time| *time > now).min();
        let timeout = next.map_or(LOOK, |next| next.duration_since(now)).min(LOOK);
        // Rounded up: waking a moment too early would spin.
        let timeout = timeout + Duration::from_millis(1);
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        let worker = self.life.worker.as_ref();
        fds.extend(worker.and_then(|worker| Some(PollFd::new(worker.control.as_fd(), worker.interest()?))));
        let interest = self.controller.interest();
        fds.extend(interest.map(|(control, interest)| PollFd::new(control.as_fd(), interest)));
        fds.extend(self.relays.interests().map(|(fd, interest)| PollFd::new(fd, interest)));
        let others = fds.len();
        fds.extend(self.pods.owners().map(|process| PollFd::new(process, PollFlags::POLLIN)));
        let monitors = fds.len();
        // A worker that does not read is told no news, which would pile up here.
        let listens = worker.is_some_and(|worker| worker.interest() == Some(PollFlags::POLLIN));
        if listens {
            fds.extend(self.pods.monitors(now).map(|monitor| PollFd::new(monitor, PollFlags::POLLIN)));
        }
        let flush = self.pods.next_flush().is_some_and(|next| next <= now);
        let due = listens && look.is_some_and(|look| look <= now);
        let flush = flush || ending.is_some_and(|next| next <= now);
        let timeout =
            if due || flush || worker.is_some_and(WorkerProcess::request_waits) { Duration::ZERO } else { timeout };
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::ZERO);
        // An interrupted wait is a short wait.
        poll(&mut fds, timeout).unwrap_or_default();
        let any = |fds: &[PollFd<'_>]| fds.iter().any(|fd| fd.any().unwrap_or(true));
        WakeReasons { owner_ended: any(&fds[others..monitors]), devices_changed: due || any(&fds[monitors..]) }
    }
}
