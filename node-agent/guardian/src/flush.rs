//! Closes connections that the app accepted on a port before it was intercepted, once they are idle: their clients'
//! pools then connect anew, and meet the agent.
//!
//! Owns which sockets those are, and the pace: a step takes some milliseconds, and all flushes together a tenth of the
//! guardian's time. Must not touch a connection that the app opened, nor the agent's own. Called by `pods`, inside the
//! pod's namespace.

mod socket;

use std::{
    collections::HashSet,
    io,
    time::{Duration, Instant},
};

use nix::sys::socket::SockProtocol;

use self::socket::{AppSocket, SocketCookie};
use super::netlink::NetlinkSocket;

/// One flush of one port.
#[derive(Debug)]
pub(super) struct PortFlush {
    port: u16,
    /// Whose sockets are the agent's.
    agent_user: u32,
    /// What is still to be closed; `None` before the first look, which decides it.
    targets: Option<HashSet<SocketCookie>>,
    /// Idle by the last look.
    idle: Vec<AppSocket>,
    closed: u32,
    until: Instant,
    next: Instant,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FlushResult {
    /// Connections that were closed.
    pub(super) closed: u32,
    /// Connections that were in use all the time, and stay with the app.
    pub(super) left: u32,
}

impl PortFlush {
    pub(super) fn new(port: u16, agent_user: u32, now: Instant) -> Self {
        Self { port, agent_user, targets: None, idle: Vec::new(), closed: 0, until: now + PATIENCE, next: now }
    }

    /// Whose connections.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// When the next step is due.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// What has come of it so far.
    pub(super) fn so_far(&self) -> FlushResult {
        let left = self.targets.as_ref().map_or(0, HashSet::len);
        FlushResult { closed: self.closed, left: u32::try_from(left).unwrap_or(u32::MAX) }
    }

    /// One step, inside the pod's namespace; the result once nothing is left, or the time is over. The error ends with the
    /// next step to take.
    pub(super) fn step(&mut self, now: Instant) -> Result<Option<FlushResult>, String> {
        if self.idle.is_empty() {
            self.look().map_err(|error| unreadable(&error))?;
            let pause = now.elapsed() * SHARE;
            self.next = Instant::now() + pause.max(LOOK_EVERY);
        }
        if !self.idle.is_empty() {
            let some = self.idle.split_off(self.idle.len().saturating_sub(BATCH));
            self.close(some).map_err(|error| indestructible(&error))?;
            if !self.idle.is_empty() {
                self.next = Instant::now() + BATCH_EVERY;
            }
        }
        let done = self.idle.is_empty() && self.targets.as_ref().is_some_and(HashSet::is_empty);
        Ok((done || now >= self.until).then(|| self.so_far()))
    }

    fn look(&mut self) -> io::Result<()> {
        let sockets = socket::accepted_by_app(self.port, self.agent_user, MOST)?;
        let targets = self.targets.get_or_insert_with(|| sockets.iter().map(AppSocket::cookie).collect());
        let there: HashSet<_> = sockets.iter().map(AppSocket::cookie).collect();
        targets.retain(|cookie| there.contains(cookie));
        self.idle = sockets.into_iter().filter(|one| targets.contains(&one.cookie()) && one.is_idle()).collect();
        Ok(())
    }

    /// Each is looked at once more: what a client sends between that and its end is lost, as with any server that
    /// closes an idle connection.
    fn close(&mut self, sockets: Vec<AppSocket>) -> io::Result<()> {
        let mut netlink = NetlinkSocket::open(SockProtocol::NetlinkSockDiag)?;
        let targets = self.targets.get_or_insert_default();
        for socket in sockets {
            let closed = match socket.again(&mut netlink) {
                Ok(now) if !now.is_idle() => continue,
                Ok(now) => now.destroy(&mut netlink).map(|()| 1),
                Err(error) => Err(error),
            };
            // The client has closed it meanwhile.
            let closed = closed.or_else(|error| match error.raw_os_error() {
                Some(libc::ENOENT | libc::ESTALE) => Ok(0),
                _ => Err(error),
            })?;
            self.closed += closed;
            targets.remove(&socket.cookie());
        }
        Ok(())
    }
}

fn unreadable(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT) => {
            "cannot see the pod's connections: the node's kernel has no tcp_diag; load that module (CONFIG_INET_TCP_DIAG)"
                .into()
        }
        _ => format!("cannot see the pod's connections: {error}; intercept without --flush"),
    }
}

fn indestructible(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => "the node's kernel closes no other program's connections: it was built without \
                                   CONFIG_INET_DIAG_DESTROY; intercept without --flush and restart the clients"
            .into(),
        Some(libc::EPERM) => "the kernel does not permit the agent to close connections; give it CAP_NET_ADMIN".into(),
        _ => format!("cannot close a connection: {error}; intercept without --flush"),
    }
}

/// How long connections in use are waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often they are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A look at 10,000 connections takes about 20 ms: it is followed by so many times that.
const SHARE: u32 = 9;
/// Connections closed at once: their clients connect anew at once, too.
const BATCH: usize = 128;
const BATCH_EVERY: Duration = Duration::from_millis(20);
/// Connections that are looked at; the kernel gives about a million a second.
const MOST: usize = 16_384;

#[cfg(test)]
mod tests;
