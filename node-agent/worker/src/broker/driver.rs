//! Reads what the guardian sends, and notices when it owes an answer for too long.
//!
//! Owns the reading side of the control socket. Must not wait for anything but the socket and the events' receiver.

use std::{
    fs::File,
    io::{self, Read, Seek},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use redir_config::{NodeConfig, certificates::Certificates};
use redir_ipc::{self as ipc, REPLY_LEN, Reply};
use tokio::{
    io::Interest,
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{Broker, GuardianAnswer, GuardianEvent, WorkerBootstrap};

/// The task that must run as long as the worker; its owner spawns [`BrokerDriver::run`].
pub(crate) struct BrokerDriver {
    broker: Broker,
    events: mpsc::Sender<GuardianEvent>,
    config_file: PathBuf,
    certificates: Box<dyn Fn(&Certificates) + Send + Sync>,
}

impl BrokerDriver {
    pub(super) fn new(broker: Broker, events: mpsc::Sender<GuardianEvent>, config_file: PathBuf) -> Self {
        Self { broker, events, config_file, certificates: Box::new(|_| {}) }
    }

    /// Gives new certificates to `take`, before anybody hears that their port is armed.
    pub(crate) fn with_certificates(mut self, take: impl Fn(&Certificates) + Send + Sync + 'static) -> Self {
        self.certificates = Box::new(take);
        self
    }

    /// Runs until the guardian is gone, which it then reports.
    pub(crate) async fn run(self) {
        loop {
            let hangs_from = self.broker.state().pending.hangs_from();
            let hung = *self.broker.shared.hung.borrow();
            tokio::select! {
                () = self.broker.shared.asked.notified() => {}
                () = sleep_until(hangs_from.unwrap_or_else(Instant::now)), if hangs_from.is_some() && !hung => {
                    tracing::warn!("the guardian does not answer: new connections pass to the apps until it does");
                    self.broker.shared.hung.send_replace(true);
                }
                received = self.receive() => match received {
                    Ok(Some((seq, reply, fds))) => self.take(seq, reply, fds).await,
                    Ok(None) => break,
                    Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                        tracing::error!(%error, "the guardian sent a message that is not understood; it is dropped");
                    }
                    Err(error) => {
                        tracing::error!(%error, "the control socket failed");
                        break;
                    }
                },
            }
        }
        self.broker.state().close();
        // A receiver that is gone has ended for another reason.
        self.events.send(GuardianEvent::GuardianGone).await.unwrap_or_default();
    }

    async fn receive(&self) -> io::Result<Option<(u32, Reply, Vec<OwnedFd>)>> {
        self.broker.shared.socket.async_io(Interest::READABLE, receive).await
    }

    async fn take(&self, seq: u32, reply: Reply, fds: Vec<OwnedFd>) {
        let event = match reply {
            Reply::Config => match self.config(fds) {
                Ok((config, certificates)) => {
                    (self.certificates)(&certificates);
                    GuardianEvent::Config(config)
                }
                Err(error) => {
                    tracing::error!("{error:#}");
                    return;
                }
            },
            Reply::Peer => match fds.into_iter().next() {
                Some(link) => GuardianEvent::Controller(link),
                None => {
                    tracing::error!("the link to the controller has no descriptor; raise the agent's RLIMIT_NOFILE");
                    return;
                }
            },
            Reply::Certificates => {
                let memory = fds.into_iter().next().context("the guardian sent no certificates");
                match memory.and_then(certificates) {
                    Ok(certificates) => (self.certificates)(&certificates),
                    Err(error) => tracing::error!("{error:#}"),
                }
                return;
            }
            Reply::Shutdown { drain } => GuardianEvent::Shutdown { drain },
            Reply::PodGone { pod } => GuardianEvent::PodGone(pod),
            Reply::PodEnded { pod } => GuardianEvent::PodEnded(pod),
            Reply::Network(part) => {
                let event = self.broker.state().network(part, fds);
                let Some(event) = event else { return };
                event
            }
            reply => return self.answer(seq, reply, fds),
        };
        // A receiver that is gone has ended for another reason.
        self.events.send(event).await.unwrap_or_default();
    }

    fn config(&self, fds: Vec<OwnedFd>) -> anyhow::Result<(Arc<NodeConfig>, Certificates)> {
        let fds: Result<[OwnedFd; 2], _> = fds.try_into();
        let Ok([config, certificates]) = fds else { bail!("the guardian pushed a configuration without its text") };
        parse(config, certificates, &self.config_file)
    }

    fn answer(&self, seq: u32, reply: Reply, fds: Vec<OwnedFd>) {
        let mut state = self.broker.state();
        if self.broker.shared.hung.send_replace(false) {
            tracing::info!("the guardian answers again");
        }
        let Some((answer, released)) = state.pending.answered(seq, Instant::now()) else { return };
        if let (Reply::Done, Some(pod)) = (&reply, released) {
            // Here and not by the asker, who may run only after the pod has been armed anew.
            state.links.clear(&pod);
            state.held.remove(&pod);
            state.networks.remove(&pod);
        }
        drop(state);
        // If nobody waits any more, the answer is dropped with its descriptors; what it granted has been undone.
        drop(answer.send(GuardianAnswer { reply, fds }));
    }
}

/// See [`super::bootstrap`].
pub(super) fn bootstrap(control: OwnedFd, config_file: &Path) -> anyhow::Result<WorkerBootstrap> {
    let mut wait = [PollFd::new(control.as_fd(), PollFlags::POLLIN)];
    if poll(&mut wait, PollTimeout::from(BOOTSTRAP_MILLIS))? == 0 {
        bail!("the guardian sent nothing; `redir-agent worker` is for the agent itself, start `redir-agent run`");
    }
    let (_, reply, fds) = receive(&control)?.context("the guardian has ended before it sent anything")?;
    let fds: Result<[OwnedFd; 4], _> = fds.try_into();
    let (Reply::Bootstrap, Ok([udp, key, config, certificates])) = (reply, fds) else {
        bail!("the guardian's first message is not the one expected; start `redir-agent run`");
    };
    let (config, certificates) = parse(config, certificates, config_file)?;
    let (udp, key, config_file) = (udp.into(), bytes(key)?, config_file.to_owned());
    Ok(WorkerBootstrap { udp, key, config, certificates, config_file, control })
}

fn parse(config: OwnedFd, certificates: OwnedFd, file: &Path) -> anyhow::Result<(Arc<NodeConfig>, Certificates)> {
    let config = Arc::new(NodeConfig::parse(&text(config)?, file)?);
    Ok((config, self::certificates(certificates)?))
}

fn certificates(memory: OwnedFd) -> anyhow::Result<Certificates> {
    Certificates::decode(&bytes(memory)?).context("the pushed certificates are malformed")
}

fn receive(socket: &OwnedFd) -> io::Result<Option<(u32, Reply, Vec<OwnedFd>)>> {
    let mut buffer = [0; REPLY_LEN];
    let (length, fds) = ipc::receive(socket.as_fd(), &mut buffer)?;
    if length == 0 {
        return Ok(None);
    }
    let (seq, reply) = Reply::decode(&buffer[..length])
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "malformed message of the guardian"))?;
    Ok(Some((seq, reply, fds)))
}

fn bytes(memory: OwnedFd) -> io::Result<Vec<u8>> {
    let mut file = File::from(memory);
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn text(memory: OwnedFd) -> anyhow::Result<String> {
    String::from_utf8(bytes(memory)?).context("the pushed configuration is not UTF-8")
}

/// Milliseconds: the guardian sends it before it starts the worker.
const BOOTSTRAP_MILLIS: u16 = 10_000;
