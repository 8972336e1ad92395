//! The controller as the guardian knows it: in Kubernetes the process that holds the API token and says what may be armed,
//! elsewhere the one that reads what container runtimes say of the configuration's containers.
//!
//! Owns its life: one that dies or falls silent is started again, and what it said last stays in force meanwhile. Called by
//! the supervisor and `check`.

use std::{
    ffi::OsString,
    io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    time::{Duration, Instant},
};

use nix::{
    poll::PollFlags,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    backoff::RestartBackoff,
    child::{self, ChildLauncher, ExitCause},
    control::ControlSocket,
};
use redir_api::names;
use redir_config::NodeConfig;
use redir_ipc::{self as ipc, ControllerMessage, PERMISSION_LEN, Reply};
use redir_sandbox::ConfinementArguments;

/// What a controller listens to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// The API server of Kubernetes.
    ApiServer,
    /// Container runtimes. The agent goes on without it.
    ContainerRuntimes,
}

/// The process, and when there is to be another.
pub(super) struct ControllerSupervisor {
    source: Source,
    launch: ChildLauncher,
    /// The agent's public key, which it tells developers.
    key: OwnedFd,
    process: Option<ControllerProcess>,
    restart_at: Option<Instant>,
    backoff: RestartBackoff,
    /// One has been ready: from now on a death is followed by a restart.
    served: bool,
}

struct ControllerProcess {
    pid: Pid,
    control: ControlSocket,
    born: Instant,
    heard: Instant,
    closed: bool,
    /// It is ended since nothing is left to do for it.
    dismissed: bool,
}

/// What becomes of the agent when its controller has ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ControllerExit {
    /// It was not the controller that ended.
    Another,
    /// Another one is started.
    Restart,
    /// It could not even start: the agent ends with this code.
    End(u8),
}

impl ControllerSupervisor {
    /// Of a node of Kubernetes, whose `/proc` is there; or else one for container runtimes. `key` is the agent's public one.
    pub(super) fn new(arguments: Vec<OsString>, node_proc: Option<PathBuf>, key: OwnedFd) -> Self {
        let (source, environment) = match node_proc {
            Some(_) => (Source::ApiServer, child::CONTROLLER_ENVIRONMENT),
            None => (Source::ContainerRuntimes, child::WORKER_ENVIRONMENT),
        };
        let user = names::CONTROLLER_USER;
        let confinement = ConfinementArguments { user, container_runtimes: node_proc.is_none(), node_proc };
        let launch = ChildLauncher::new(arguments, &confinement, environment);
        Self { source, launch, key, process: None, restart_at: None, backoff: RestartBackoff::default(), served: false }
    }

    /// Starts it if there is none and it is time; whether it did.
    pub(super) fn start_if_due(&mut self, config: impl FnOnce() -> io::Result<OwnedFd>, now: Instant) -> bool {
        if self.process.is_some() || self.restart_at.is_some_and(|at| at > now) {
            return false;
        }
        match self.start(config, now) {
            Ok(process) => {
                tracing::info!(pid = process.pid.as_raw(), "the controller is started");
                self.process = Some(process);
                true
            }
            Err(error) => {
                tracing::error!(%error, "cannot start the controller; see that this binary is still there, and what else the node runs");
                self.restart_at = Some(self.backoff.died(now, now).max(now + RETRY));
                false
            }
        }
    }

    fn start(&self, config: impl FnOnce() -> io::Result<OwnedFd>, now: Instant) -> io::Result<ControllerProcess> {
        let fds = vec![self.key.try_clone()?, config()?];
        let (pid, mut control) = self.launch.spawn()?;
        control.send(0, &Reply::Bootstrap, fds);
        Ok(ControllerProcess { pid, control, born: now, heard: now, closed: false, dismissed: false })
    }

    /// Whether the agent has a controller with this configuration.
    pub(super) fn is_wanted(&self, config: &NodeConfig) -> bool {
        match self.source {
            Source::ApiServer => true,
            Source::ContainerRuntimes => config.containers().next().is_some(),
        }
    }

    /// Tells it a new configuration, or ends it where there is nothing left to do for it.
    pub(super) fn configure(&mut self, config: &NodeConfig, text: io::Result<OwnedFd>) {
        let wanted = self.is_wanted(config);
        let Some(process) = &mut self.process else { return };
        if !wanted {
            process.dismissed = true;
            return self.kill();
        }
        match text {
            Ok(text) => process.control.send(0, &Reply::Config, vec![text]),
            Err(error) => {
                tracing::error!(%error, "cannot hand the configuration to the controller; it is started again");
                self.kill();
            }
        }
    }

    /// Whether it may have container runtimes asked. What the other kind asks is not answered either: it is heard whether or
    /// not it reads, and answers that nobody reads would fill the guardian's memory.
    pub(super) fn asks(&self) -> bool {
        self.source == Source::ContainerRuntimes
    }

    /// Answers a question, with the pipe that the runtime's answer comes through.
    pub(super) fn answer(&mut self, number: u32, answer: Result<OwnedFd, String>) {
        if !self.asks() {
            return;
        }
        let Some(process) = &mut self.process else { return };
        match answer {
            Ok(pipe) => process.control.send(number, &Reply::Runtime(Ok(())), vec![pipe]),
            Err(sentence) => process.control.send(number, &Reply::Runtime(Err(sentence)), Vec::new()),
        }
    }

    /// Joins it with the worker, as far as it is there and has to do with it.
    pub(super) fn join(&mut self, worker: &mut ControlSocket) {
        if self.source != Source::ApiServer {
            return;
        }
        let joined = ipc::stream_pair().map(|(one, other)| {
            if let Some(process) = &mut self.process {
                process.control.send(0, &Reply::Peer, vec![one]);
                worker.send(0, &Reply::Peer, vec![other]);
            }
        });
        if let Err(error) = joined {
            tracing::error!(%error, "the controller and the worker cannot be joined; the controller is started again");
            self.kill();
        }
    }

    /// Takes what it has said.
    pub(super) fn hear(&mut self, take: &mut dyn FnMut(ControllerMessage), now: Instant) {
        let Some(process) = &mut self.process else { return };
        process.control.flush();
        let mut buffer = [0; PERMISSION_LEN];
        for _ in 0..BATCH {
            // One that reads no answers gets no more of them.
            if process.control.interest() == PollFlags::POLLOUT && self.source == Source::ContainerRuntimes {
                return;
            }
            let length = match ipc::receive_plain(process.control.as_fd(), &mut buffer) {
                Ok(0) => 0,
                Ok(length) => length,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => return,
                Err(_) => 0,
            };
            if length == 0 {
                process.closed = true;
                return;
            }
            process.heard = now;
            match ControllerMessage::decode(&buffer[..length.min(PERMISSION_LEN)]) {
                Ok(ControllerMessage::Ready) if !self.served => {
                    self.served = true;
                    tracing::info!("the controller is ready");
                }
                Ok(message) => take(message),
                Err(_) => tracing::error!("the controller sent what is no message; it is left out"),
            }
        }
    }

    /// Kills one that has been silent for too long.
    pub(super) fn judge_silence(&mut self, now: Instant) {
        let Some(process) = self.process.as_mut().filter(|process| now >= process.heard + SILENCE) else { return };
        tracing::error!("the controller is silent; it is killed");
        // Its death is reported by SIGCHLD; if that takes long, it is killed once more.
        process.heard = now;
        self.kill();
    }

    /// What to poll its socket for.
    pub(super) fn interest(&self) -> Option<(&ControlSocket, PollFlags)> {
        let process = self.process.as_ref().filter(|process| !process.closed)?;
        // Kubernetes' is heard also while it reads nothing: it is told little.
        let heard = match self.source {
            Source::ApiServer => PollFlags::POLLIN,
            Source::ContainerRuntimes => PollFlags::empty(),
        };
        Some((&process.control, process.control.interest() | heard))
    }

    /// When it is to be started again, or has been silent for too long.
    pub(super) fn next(&self) -> Option<Instant> {
        self.process.as_ref().map_or(self.restart_at, |process| Some(process.heard + SILENCE))
    }

    /// A process has ended.
    pub(super) fn ended(&mut self, ended: ExitCause, now: Instant) -> ControllerExit {
        let Some(process) = self.process.take_if(|process| process.pid == ended.pid) else {
            return ControllerExit::Another;
        };
        if process.dismissed {
            tracing::info!("the controller has ended: the configuration names no container any more");
            self.restart_at = None;
            return ControllerExit::Restart;
        }
        if !self.served && self.source == Source::ApiServer {
            tracing::error!(code = ended.code, "the controller could not start; the agent ends");
            return ControllerExit::End(ended.code.max(1));
        }
        let restart_at = self.backoff.died(process.born, now);
        let delay = restart_at.duration_since(now);
        tracing::error!(
            code = ended.code,
            ?delay,
            "the controller is dead; a new one is started, and what is known stays in force"
        );
        self.restart_at = Some(restart_at);
        ControllerExit::Restart
    }

    /// The process, if there is one.
    pub(super) fn pid(&self) -> Option<Pid> {
        self.process.as_ref().map(|process| process.pid)
    }

    /// SIGKILL: it holds nothing that would have to be put away.
    pub(super) fn kill(&self) {
        let Some(process) = &self.process else { return };
        if let Err(error) = kill(process.pid, Signal::SIGKILL) {
            tracing::error!(%error, pid = process.pid.as_raw(), "cannot kill the controller");
        }
    }
}

/// It says each few seconds that it lives. It carries no traffic: there is time.
const SILENCE: Duration = Duration::from_secs(60);
/// Until one that could not be started (no process ids, no memory) is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Messages between two looks at everything else; more than a whole list of an ordinary node.
const BATCH: usize = 1024;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use redir_config::ContainerRuntime;
    use redir_ipc::RuntimeQuestion;

    use super::*;
    use crate::{memory, runtimes::RuntimeRelays};

    #[test]
    fn a_controller_of_kubernetes_fills_no_memory_with_questions_whose_answers_it_does_not_read() {
        let key = memory::sealed(c"redir-agent-pin", b"").expect("memory");
        let mut controller = ControllerSupervisor::new(Vec::new(), Some("/proc".into()), key);
        let (ours, theirs) = ipc::pair().expect("socket pair");
        let (now, pid) = (Instant::now(), Pid::this());
        let control = ControlSocket::new(ours);
        let process = ControllerProcess { pid, control, born: now, heard: now, closed: false, dismissed: false };
        controller.process = Some(process);
        let text = "[agent]\nlisten = \"127.0.0.1:7447\"\nkey = \"/k\"\n";
        let config = NodeConfig::parse(text, Path::new("agent.toml")).expect("good");
        let mut relays = RuntimeRelays::default();
        let mut lives = 0;
        for number in 0..100_000 {
            let ask = ControllerMessage::Ask(number, RuntimeQuestion::Events(ContainerRuntime::Docker));
            while ipc::send(theirs.as_fd(), &ask.encode(), &[]).is_err() {
                relays.serve(&mut controller, &config, &mut |_| lives += 1, now);
            }
        }
        ipc::send(theirs.as_fd(), &ControllerMessage::Alive.encode(), &[]).expect("room");
        relays.serve(&mut controller, &config, &mut |_| lives += 1, now);
        relays.serve(&mut controller, &config, &mut |_| lives += 1, now);
        let control = &controller.process.as_ref().expect("there").control;
        assert_eq!(control.interest(), PollFlags::POLLIN, "answers wait");
        assert_eq!(lives, 1, "it is heard all the same");
    }
}
