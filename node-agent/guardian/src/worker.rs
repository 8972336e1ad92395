//! The worker as the guardian knows it: a pid, a socket, and the requests that wait.
//!
//! Owns the order in which requests are taken. Arming a pod takes a tenth of a second (the verifier reads the programs);
//! sockets for connections that are there already must not wait behind fifty of those. Called by the supervisor.

use std::{collections::VecDeque, time::Instant};

use nix::{
    poll::PollFlags,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    control::{ControlInput, ControlSocket},
    scheduling::SchedStats,
    watch::{WatchdogVerdict, WorkerWatchdog},
};
use redir_ipc::{RefusalCode, Reply, Request};

/// A running worker.
pub(super) struct WorkerProcess {
    pub(super) pid: Pid,
    pub(super) control: ControlSocket,
    pub(super) watch: WorkerWatchdog,
    pub(super) born: Instant,
    /// What its threads had got when its silence was last looked at.
    scheduling: Option<SchedStats>,
    /// Requests that change what is attached, in the order in which they came.
    slow: VecDeque<(u32, Request)>,
    closed: bool,
    malformed_reported: bool,
}

impl WorkerProcess {
    pub(super) fn new(pid: Pid, control: ControlSocket, now: Instant) -> Self {
        let slow = VecDeque::new();
        let watch = WorkerWatchdog::new(now);
        Self { pid, control, watch, born: now, scheduling: None, slow, closed: false, malformed_reported: false }
    }

    /// Judges its silence: one that is starved of CPU is not hung.
    pub(super) fn judge(&mut self, now: Instant) -> WatchdogVerdict {
        if !self.watch.is_quiet(now) {
            self.scheduling = None;
        } else if self.scheduling.is_none() {
            self.scheduling = Some(SchedStats::of(self.pid, now));
        }
        let (pid, before) = (self.pid, &mut self.scheduling);
        self.watch.tick(now, || {
            let after = SchedStats::of(pid, now);
            let starved = before.as_ref().is_some_and(|before| after.starved_since(before));
            *before = Some(after);
            if starved {
                tracing::warn!(
                    "the worker gets no CPU, and is not ended for that yet; new connections go to the apps. Give the \
                     agent more CPU (resources.requests.cpu), or the node less to do"
                );
            }
            starved
        })
    }

    /// What to poll its socket for, unless that would be of no use now.
    pub(super) fn interest(&self) -> Option<PollFlags> {
        (!self.closed).then(|| self.control.interest())
    }

    /// Whether a request waits, so that nobody should sleep.
    pub(super) fn request_waits(&self) -> bool {
        !self.slow.is_empty()
    }

    /// Takes a quick request from the socket; slow ones on the way there are put in line.
    pub(super) fn next_quick(&mut self, now: Instant) -> Option<(u32, Request)> {
        self.control.flush();
        while !self.closed && self.slow.len() < LINE {
            match self.control.receive() {
                ControlInput::Request(seq, request) => {
                    self.watch.heard(now);
                    match request {
                        slow if slow.is_slow() => self.slow.push_back((seq, slow)),
                        Request::Alive => {}
                        quick => return Some((seq, quick)),
                    }
                }
                ControlInput::Malformed(seq) => self.refuse_malformed(seq.unwrap_or(0)),
                ControlInput::Nothing => return None,
                // Dead, or about to be: it may still say why. One that stays is silent, and ends by the watch.
                ControlInput::Closed => self.closed = true,
            }
        }
        None
    }

    /// Takes the slow request that has waited longest.
    pub(super) fn next_slow(&mut self) -> Option<(u32, Request)> {
        self.slow.pop_front()
    }

    /// SIGKILL also ends a stopped process. The pid is ours until it is reaped.
    pub(super) fn kill(&self) {
        if let Err(error) = kill(self.pid, Signal::SIGKILL) {
            tracing::error!(%error, pid = self.pid.as_raw(), "cannot kill the worker");
        }
    }

    fn refuse_malformed(&mut self, seq: u32) {
        if !std::mem::replace(&mut self.malformed_reported, true) {
            tracing::error!(
                "the worker sent a malformed request; it is refused, and further ones are refused without a message"
            );
        }
        let sentence = "the request is not understood; this is a fault in redir-agent".to_owned();
        self.control.send(seq, &Reply::Refused { code: RefusalCode::Malformed, sentence }, Vec::new());
    }
}

/// Requests in line; beyond that they wait in the socket. Two for each port of a large node.
const LINE: usize = 1024;

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, os::fd::AsFd, time::Duration};

    use super::*;
    use redir_config::PodName;
    use redir_ipc::{self as ipc, BindAddress, REPLY_LEN};

    fn arm(port: u16) -> Request {
        Request::Arm { pod: PodName::new("web-1").expect("good"), port }
    }

    fn sockets() -> Request {
        let bind = BindAddress { ip: Ipv4Addr::LOCALHOST.into(), scope: 0 };
        Request::Sockets { pod: PodName::new("web-1").expect("good"), bind, ports: vec![700], for_trial: false }
    }

    #[test]
    fn quick_requests_overtake_slow_ones_which_keep_their_order() {
        let (ours, theirs) = ipc::pair().expect("socket pair");
        let mut worker = WorkerProcess::new(Pid::this(), ControlSocket::new(ours), Instant::now());
        for (seq, request) in [(1, arm(1)), (2, Request::Alive), (3, arm(2)), (4, sockets()), (5, arm(3))] {
            ipc::send(theirs.as_fd(), &request.encode(seq), &[]).expect("sent");
        }
        let now = Instant::now();
        assert_eq!(worker.next_quick(now), Some((4, sockets())));
        assert_eq!(worker.next_quick(now), None);
        assert!(worker.request_waits());
        let slow: Vec<_> = std::iter::from_fn(|| worker.next_slow()).collect();
        assert_eq!(slow, [(1, arm(1)), (3, arm(2)), (5, arm(3))]);
        assert!(!worker.request_waits());
    }

    #[test]
    fn a_flood_waits_in_the_socket() {
        let (ours, theirs) = ipc::pair().expect("socket pair");
        let mut worker = WorkerProcess::new(Pid::this(), ControlSocket::new(ours), Instant::now());
        for _ in 0..3 * LINE {
            if ipc::send(theirs.as_fd(), &arm(1).encode(1), &[]).is_err() {
                assert_eq!(worker.next_quick(Instant::now()), None);
            }
        }
        assert_eq!(worker.next_quick(Instant::now()), None);
        assert_eq!(worker.slow.len(), LINE);
    }

    #[test]
    fn what_is_no_request_is_refused_and_any_request_is_a_sign_of_life() {
        let (ours, theirs) = ipc::pair().expect("socket pair");
        let start = Instant::now();
        let mut worker = WorkerProcess::new(Pid::this(), ControlSocket::new(ours), start);
        ipc::send(theirs.as_fd(), &[9; ipc::REQUEST_LEN], &[]).expect("sent");
        assert_eq!(worker.next_quick(start), None);
        let mut buffer = [0; REPLY_LEN];
        let (length, _) = ipc::receive(theirs.as_fd(), &mut buffer).expect("answered");
        let answer = Reply::decode(&buffer[..length]).expect("a reply");
        assert!(matches!(answer, (0x0909_0909, Reply::Refused { code: RefusalCode::Malformed, .. })), "{answer:?}");

        ipc::send(theirs.as_fd(), &arm(1).encode(1), &[]).expect("sent");
        worker.next_quick(start + Duration::from_secs(1));
        assert_eq!(worker.judge(start), WatchdogVerdict::Fine(start + Duration::from_secs(6)));
        drop(theirs);
        assert_eq!(worker.next_quick(start), None);
        assert_eq!(worker.interest(), None);
    }
}
