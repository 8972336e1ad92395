//! The controller: the process of a Kubernetes node's agent that speaks to the API server, and the only one that can.
//!
//! Owns the API token, the tasks that listen to the API server and those that write to it. What follows from what they hear
//! is decided by pure functions: [`world`] (what is known), [`resolve`] (who may intercept what), [`permissions`] (what may
//! be armed for it), [`secrets`] (with which certificates it is read), [`status`] (what is said about it), [`renewals`]
//! (which Intercepts are forgotten). Two others are told: the guardian what may be armed, the worker the rest. Must not see
//! anybody's traffic. While the API server is away the last known state stays in force; while this process is away as well.

mod admission;
mod api_server;
mod client;
mod driver;
mod facts;
mod guardian;
mod jitter;
mod mesh;
mod permissions;
mod probes;
mod publish;
mod renewals;
mod resolve;
mod secrets;
mod status;
#[cfg(test)]
mod tests;
mod watch;
mod world;
mod write;
mod writes;

use std::{
    os::{fd::OwnedFd, unix::net},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::{net::UnixStream, runtime::Builder, sync::watch as channel, task::JoinSet, time::interval};

use crate::{
    ipc::{ControllerMessage, Reply},
    link::SIGN_OF_LIFE,
};
use driver::Vitals;
use guardian::{Bootstrap, Guardian};
use publish::{Newest, Talk};

/// Runs until the guardian ends it, or is gone.
pub(crate) fn run(control: OwnedFd, config_file: &Path) -> anyhow::Result<()> {
    let bootstrap = Bootstrap::receive(control, config_file)?;
    let mut builder = Builder::new_current_thread();
    // Names are looked up in threads of their own.
    let runtime = builder.max_blocking_threads(2).enable_all().build().context("start the runtime")?;
    let done = runtime.block_on(live(bootstrap));
    runtime.shutdown_timeout(LAST_TASKS);
    done
}

async fn live(Bootstrap { control, config, key }: Bootstrap) -> anyhow::Result<()> {
    let settings = config.kubernetes.context("the controller is for Kubernetes alone; start `redir-agent run`")?;
    let source = client::Source::new(&settings)?;
    let guardian = Arc::new(Guardian::new(control).context("speak with the guardian")?);
    let (conclusions, concluded) = channel::channel(Newest::None);
    let permitted = channel::Sender::new(Newest::None);
    let (vitals, standings) = (channel::Sender::new(Vitals::default()), channel::Sender::new(None));
    let talk = Talk { permitted: permitted.subscribe(), vitals: vitals.subscribe(), standings: standings.clone() };
    let parts =
        driver::Parts { settings, agent: config.agent, key, conclusions, standings: standings.subscribe(), vitals };
    let mut tasks = JoinSet::new();
    tasks.spawn(driver::run(parts, source));
    tasks.spawn(publish::run(guardian.clone(), concluded, permitted));
    guardian.say(&ControllerMessage::Ready).await.context("tell the guardian that the controller runs")?;
    follow(&guardian, talk, tasks).await
}

/// Follows the guardian: another link with each worker, and the end.
async fn follow(guardian: &Guardian, talk: Talk, mut tasks: JoinSet<()>) -> anyhow::Result<()> {
    let mut link = JoinSet::new();
    let mut alive = interval(SIGN_OF_LIFE);
    loop {
        tokio::select! {
            heard = guardian.hear() => match heard.context("the socket to the guardian failed")? {
                Some((Reply::Peer, fds)) => {
                    let stream = fds.into_iter().next().context("the guardian sent no link to the worker")?;
                    let stream = UnixStream::from_std(net::UnixStream::from(stream))?;
                    link = publish::speak(stream, talk.clone());
                }
                Some((other, _)) => tracing::warn!(?other, "the guardian said what is not for the controller"),
                None => return Ok(()),
            },
            _ = alive.tick() => {
                guardian.say(&ControllerMessage::Alive).await.context("tell the guardian that the controller lives")?;
            }
            Some(_) = tasks.join_next() => bail!("a task of the controller has ended; it is started again"),
            Some(_) = link.join_next() => {}
        }
    }
}

/// What the runtime's threads get to end after the last task.
const LAST_TASKS: Duration = Duration::from_millis(300);
