//! Asking container runtimes: the guardian asks, and the controller reads the answer.
//!
//! Whoever may write to such a runtime's socket is root on this machine, so nobody else gets it: the guardian writes the
//! whole request, which names a container of its own configuration, and hands the controller a pipe. What comes back goes
//! through that pipe by splice(2): the guardian never has a byte of it in its memory, let alone parses one. Owns these
//! relays and their bounds. Called by the supervisor and `check`.

use std::{
    io::{self, ErrorKind},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use nix::{
    fcntl::{OFlag, SpliceFFlags, splice},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{getsockopt, sockopt},
    unistd::pipe2,
};
use redir_config::{ContainerRuntime, NodeConfig};
use redir_ipc::{ControllerMessage, RuntimeQuestion};
use socket2::{Domain, SockAddr, Socket, Type};

use super::controller::ControllerSupervisor;

/// The answers under way.
#[derive(Debug, Default)]
pub(super) struct RuntimeRelays {
    relays: Vec<Relay>,
    /// The second that is counted, and the questions in it.
    second: Option<(Instant, u32)>,
}

/// One answer's way from the runtime to the controller.
#[derive(Debug)]
struct Relay {
    from: Socket,
    to: OwnedFd,
    /// The controller has not read what is in the pipe.
    full: bool,
}

impl RuntimeRelays {
    /// Asks a runtime; the result is where its answer comes from. The error ends with the next step.
    pub(super) fn ask(
        &mut self,
        config: &NodeConfig,
        question: &RuntimeQuestion,
        now: Instant,
    ) -> Result<OwnedFd, String> {
        let (runtime, path) = match question {
            RuntimeQuestion::Events(runtime) => {
                if !config.containers().any(|(_, container)| container.runtime == *runtime) {
                    return Err(format!("no container of {runtime} is in the agent's configuration; name one there"));
                }
                (*runtime, format!("/events?filters={EVENTS}"))
            }
            RuntimeQuestion::Container(pod) => {
                let container = config.pod(pod).and_then(|pod| pod.netns.container());
                let container = container.ok_or_else(|| {
                    format!("pod {pod} is no container in the agent's configuration; write `docker` or `podman` there")
                })?;
                (container.runtime, format!("/containers/{}/json", container.name))
            }
        };
        self.count(now)?;
        let socket = config.runtimes.of(runtime);
        let connected = connect(socket).map_err(|error| unreachable(runtime, socket, &error))?;
        trusted(&connected, runtime, socket)?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: redir-agent\r\nAccept: application/json\r\n\
             Connection: close\r\n\r\n"
        );
        // A new socket has room for all of it.
        let sent = connected.send(request.as_bytes()).map_err(|error| unreachable(runtime, socket, &error))?;
        let pipe = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map_err(io::Error::from);
        let (answer, to) = pipe.map_err(|error| unreachable(runtime, socket, &error))?;
        if sent != request.len() {
            return Err(unreachable(runtime, socket, &ErrorKind::WriteZero.into()));
        }
        self.relays.push(Relay { from: connected, to, full: false });
        Ok(answer)
    }

    /// Takes what the controller has said, and asks what it wants to be asked.
    pub(super) fn serve(
        &mut self,
        controller: &mut ControllerSupervisor,
        config: &NodeConfig,
        take: &mut dyn FnMut(ControllerMessage),
        now: Instant,
    ) {
        let mut questions = Vec::new();
        let mut sort = |message| match message {
            ControllerMessage::Ask(number, question) => questions.push((number, question)),
            other => take(other),
        };
        controller.hear(&mut sort, now);
        if !controller.asks() {
            return;
        }
        for (number, question) in questions {
            controller.answer(number, self.ask(config, &question, now));
        }
    }

    /// Refuses what no controller of ours asks for.
    fn count(&mut self, now: Instant) -> Result<(), String> {
        let (began, asked) = self.second.filter(|(began, _)| now < *began + SECOND).unwrap_or((now, 0));
        if asked >= MOST_A_SECOND || self.relays.len() >= MOST_RELAYS {
            return Err("too much is asked of the container runtimes at once; the agent asks again soon".to_owned());
        }
        self.second = Some((began, asked + 1));
        Ok(())
    }

    /// What to poll, and for what.
    pub(super) fn interests(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        self.relays.iter().flat_map(|relay| {
            // A pipe that nobody reads from any more is reported in any case; the runtime's end need not be asked meanwhile.
            let to = if relay.full { PollFlags::POLLOUT } else { PollFlags::empty() };
            let from = (!relay.full).then(|| (relay.from.as_fd(), PollFlags::POLLIN));
            from.into_iter().chain([(relay.to.as_fd(), to)])
        })
    }

    /// Passes on what has come, a pipe's worth of each at most, and lets go of what is over.
    pub(super) fn pump(&mut self) {
        self.relays.retain_mut(Relay::pump);
    }

    /// Another controller is started: nobody waits for these answers.
    pub(super) fn clear(&mut self) {
        self.relays.clear();
    }
}

impl Relay {
    /// Whether more may come.
    fn pump(&mut self) -> bool {
        let mut room = [PollFd::new(self.to.as_fd(), PollFlags::POLLOUT)];
        // A poll that fails shows nothing, and is made again.
        if poll(&mut room, PollTimeout::ZERO).is_err() {
            return true;
        }
        let room = room[0].revents().unwrap_or(PollFlags::empty());
        if room.contains(PollFlags::POLLERR) {
            return false;
        }
        self.full = !room.contains(PollFlags::POLLOUT);
        if self.full {
            return true;
        }
        let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
        match splice(&self.from, None, &self.to, None, AT_ONCE, flags) {
            Ok(0) => false,
            Ok(_) => true,
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => true,
            Err(error) => {
                tracing::debug!(%error, "a container runtime's answer has ended early");
                false
            }
        }
    }
}

/// Never waits: a runtime that does not accept has a full queue, and is told as that.
fn connect(path: &Path) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket)
}

/// What a container is called is for its runtime to say, and for root's alone: any user could answer with anybody's container.
fn trusted(connected: &Socket, runtime: ContainerRuntime, path: &Path) -> Result<(), String> {
    let shown = path.display();
    let peer = getsockopt(connected, sockopt::PeerCredentials)
        .map_err(|error| format!("cannot see whose {shown} is: {error}; try again"))?;
    if peer.uid() == 0 {
        return Ok(());
    }
    Err(format!(
        "{runtime} at {shown} is run by uid {}, not by root, so the agent does not believe it whose containers are whose; name \
         the pod by `netns = \"/proc/PID/ns/net\"`",
        peer.uid()
    ))
}

fn unreachable(runtime: ContainerRuntime, path: &Path, error: &io::Error) -> String {
    let (shown, key) = (path.display(), runtime.key());
    match error.kind() {
        ErrorKind::NotFound => {
            format!("{runtime} does not run: there is no {shown}; start it, or name its socket in [runtimes] ({key})")
        }
        ErrorKind::ConnectionRefused => format!("{runtime} does not run: nobody listens on {shown}; start it"),
        ErrorKind::WouldBlock => format!("{runtime} takes no connection on {shown}; see what keeps it busy"),
        _ => format!("cannot ask {runtime} at {shown}: {error}; correct [runtimes] ({key})"),
    }
}

/// `{"type":["container"],"event":["start","die","rename","destroy","remove"]}`: what changes who has a name, or where it runs.
/// Docker destroys, Podman removes.
const EVENTS: &str = "%7B%22type%22%3A%5B%22container%22%5D%2C%22event%22%3A%5B%22start%22%2C%22die%22%2C%22rename%22%2C\
                      %22destroy%22%2C%22remove%22%5D%7D";
/// Bytes: what a pipe holds.
const AT_ONCE: usize = 64 << 10;
/// Answers under way. The controller waits for two streams of events and for one container of each runtime.
const MOST_RELAYS: usize = 16;
/// Questions in a second, each of which costs a tenth of a millisecond here. The controller asks each of the two runtimes a
/// hundred at most.
const MOST_A_SECOND: u32 = 300;
const SECOND: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
