//! The controller's end of the socket to the guardian.
//!
//! Owns the first message, the permissions' way, and that this process ends with the guardian.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _},
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use anyhow::{Context as _, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::{Interest, unix::AsyncFd};

use redir_config::NodeConfig;
use redir_ipc::{self as ipc, ControllerMessage, REPLY_LEN, Reply};

/// The socket.
pub(super) struct GuardianSocket(AsyncFd<OwnedFd>);

/// What the guardian gives before anything else.
pub(super) struct ControllerBootstrap {
    pub(super) control: OwnedFd,
    pub(super) config: NodeConfig,
    /// The agent's public key.
    pub(super) key: String,
}

impl ControllerBootstrap {
    /// Receives it. Blocks up to ten seconds; called before any runtime exists.
    pub(super) fn receive(control: OwnedFd, config_file: &Path) -> anyhow::Result<Self> {
        let mut wait = [PollFd::new(control.as_fd(), PollFlags::POLLIN)];
        if poll(&mut wait, PollTimeout::from(BOOTSTRAP_MILLIS))? == 0 {
            bail!(
                "the guardian sent nothing; `redir-agent controller` is for the agent itself, start `redir-agent run`"
            );
        }
        let (_, reply, fds) = receive(&control)?.context("the guardian has ended before it sent anything")?;
        let fds: Result<[OwnedFd; 2], _> = fds.try_into();
        let (Reply::Bootstrap, Ok([key, config])) = (reply, fds) else {
            bail!("the guardian's first message is not the one expected; start `redir-agent run`");
        };
        let config = NodeConfig::parse(&text(config)?, config_file)?;
        Ok(Self { control, config, key: text(key)? })
    }
}

impl GuardianSocket {
    #[expect(unsafe_code, reason = "AsyncFd must be promised that its descriptor stays open")]
    pub(super) fn new(control: OwnedFd) -> io::Result<Self> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        // SAFETY: an `OwnedFd` keeps its number and its file open until it is dropped, and nothing takes it out.
        let socket = unsafe { AsyncFd::register_with_interest(control, interest) };
        socket.map(Self).map_err(io::Error::from)
    }

    /// Says something, as soon as there is room for it.
    pub(super) async fn say(&self, message: &ControllerMessage) -> io::Result<()> {
        let message = message.encode();
        self.0.async_io(Interest::WRITABLE, |socket| ipc::send(socket.as_fd(), &message, &[])).await
    }

    /// What it says, with the number of the question; `None` once it is gone.
    pub(super) async fn hear(&self) -> io::Result<Option<(u32, Reply, Vec<OwnedFd>)>> {
        self.0.async_io(Interest::READABLE, receive).await
    }
}

fn receive(socket: &OwnedFd) -> io::Result<Option<(u32, Reply, Vec<OwnedFd>)>> {
    let mut buffer = [0; REPLY_LEN];
    let (length, fds) = ipc::receive(socket.as_fd(), &mut buffer)?;
    if length == 0 {
        return Ok(None);
    }
    let (number, reply) = Reply::decode(&buffer[..length])
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "malformed message of the guardian"))?;
    Ok(Some((number, reply, fds)))
}

/// What is in a memfd of the guardian's.
pub(super) fn text(memory: OwnedFd) -> anyhow::Result<String> {
    let mut file = File::from(memory);
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    Ok(text)
}

/// Milliseconds: the guardian sends it when it starts this process.
const BOOTSTRAP_MILLIS: u16 = 10_000;
