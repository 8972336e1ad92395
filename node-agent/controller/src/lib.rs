//! The controller: the process of a Kubernetes node's agent that speaks to the API server, and the only one that can. Without
//! Kubernetes it reads what container runtimes say ([`containers`]), and what follows is not about it.
//!
//! Owns the API token, the tasks that listen to the API server and those that write to it. What follows from what they hear
//! is decided by pure functions: [`world`] (what is known), [`resolve`] (who may intercept what), [`permissions`] (what may
//! be armed for it), [`secrets`] (with which certificates it is read), [`status`] (what is said about it), [`renewals`]
//! (which Intercepts are forgotten). Two others are told: the guardian what may be armed, the worker the rest. Must not see
//! anybody's traffic. While the API server is away the last known state stays in force; while this process is away as well.

mod admission;
mod api_server;
mod client;
mod containers;
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
    future::pending,
    os::{fd::OwnedFd, unix::net},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::{
    net::UnixStream,
    runtime::Builder,
    sync::watch as channel,
    task::JoinSet,
    time::{Instant, interval, sleep_until},
};

use driver::ControllerVitals;
use guardian::{ControllerBootstrap, GuardianSocket};
use publish::{LatestConclusion, LinkTraffic};
use redir_ipc::{ControllerMessage, Reply};
use redir_link::SIGN_OF_LIFE;

/// Runs until the guardian ends it, or is gone.
pub fn run(control: OwnedFd, config_file: &Path) -> anyhow::Result<()> {
    let bootstrap = ControllerBootstrap::receive(control, config_file)?;
    let mut builder = Builder::new_current_thread();
    // Names are looked up in threads of their own.
    let runtime = builder.max_blocking_threads(2).enable_all().build().context("start the runtime")?;
    let done = runtime.block_on(live(bootstrap, config_file));
    runtime.shutdown_timeout(LAST_TASKS);
    done
}

async fn live(
    ControllerBootstrap { control, config, key }: ControllerBootstrap,
    config_file: &Path,
) -> anyhow::Result<()> {
    let guardian = GuardianSocket::new(control).context("speak with the guardian")?;
    let Some(settings) = config.kubernetes else {
        return containers::run(guardian, &config, config_file.to_owned()).await;
    };
    let source = client::CredentialSource::new(&settings)?;
    let guardian = Arc::new(guardian);
    let (conclusions, concluded) = channel::channel(LatestConclusion::None);
    let permitted = channel::Sender::new(LatestConclusion::None);
    let (vitals, reports) = (channel::Sender::new(ControllerVitals::default()), channel::Sender::new(None));
    let talk = LinkTraffic { permitted: permitted.subscribe(), vitals: vitals.subscribe(), reports: reports.clone() };
    let parts =
        driver::DriverParts { settings, agent: config.agent, key, conclusions, reports: reports.subscribe(), vitals };
    let mut tasks = JoinSet::new();
    tasks.spawn(driver::run(parts, source));
    tasks.spawn(publish::run(guardian.clone(), concluded, permitted));
    guardian.say(&ControllerMessage::Ready).await.context("tell the guardian that the controller runs")?;
    follow(&guardian, talk, tasks).await
}

/// Follows the guardian: another link with each worker, and the end.
async fn follow(guardian: &GuardianSocket, talk: LinkTraffic, mut tasks: JoinSet<()>) -> anyhow::Result<()> {
    let mut link = JoinSet::new();
    let mut alive = interval(SIGN_OF_LIFE);
    // Until when the next link must have come.
    let mut rejoined_by = None;
    loop {
        tokio::select! {
            heard = guardian.hear() => match heard.context("the socket to the guardian failed")? {
                Some((_, Reply::Peer, fds)) => {
                    let stream = fds.into_iter().next().context("the guardian sent no link to the worker")?;
                    let stream = UnixStream::from_std(net::UnixStream::from(stream))?;
                    (link, rejoined_by) = (publish::speak(stream, talk.clone()), None);
                }
                Some((_, other, _)) => tracing::warn!(?other, "the guardian said what is not for the controller"),
                None => return Ok(()),
            },
            _ = alive.tick() => {
                guardian.say(&ControllerMessage::Alive).await.context("tell the guardian that the controller lives")?;
            }
            Some(_) = tasks.join_next() => bail!("a task of the controller has ended; it is started again"),
            Some(_) = link.join_next() => rejoined_by = Some(Instant::now() + REJOIN),
            () = until(rejoined_by) => bail!("the link to the worker has ended, and the worker has not; both are joined again"),
        }
    }
}

async fn until(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => pending().await,
    }
}

/// A worker that has ended is replaced by another, with another link, within a few seconds.
const REJOIN: Duration = Duration::from_secs(20);
/// What the runtime's threads get to end after the last task.
const LAST_TASKS: Duration = Duration::from_millis(300);

#[cfg(test)]
mod link_tests {
    use std::os::fd::AsFd as _;

    use tokio::time::timeout;

    use super::*;
    use redir_ipc as ipc;

    /// Joined with a worker; `None`: it ends within this time of the paused clock.
    async fn follow_for(time: Duration, worker_stays: bool) -> Option<anyhow::Result<()>> {
        let (ours, theirs) = ipc::pair().expect("sockets");
        let guardian = GuardianSocket::new(theirs).expect("a socket");
        let (link, worker) = ipc::stream_pair().expect("sockets");
        ipc::send(ours.as_fd(), &Reply::Peer.encode(0), &[link.as_fd()]).expect("sent");
        drop(link);
        let worker = worker_stays.then_some(worker);
        let permitted = channel::Sender::new(LatestConclusion::None);
        let (vitals, reports) = (channel::Sender::new(ControllerVitals::default()), channel::Sender::new(None));
        let talk = LinkTraffic { permitted: permitted.subscribe(), vitals: vitals.subscribe(), reports };
        let end = timeout(time, follow(&guardian, talk, JoinSet::new())).await.ok();
        drop((worker, ours));
        end
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_that_ends_while_the_worker_lives_is_made_anew() {
        let end = follow_for(10 * REJOIN, false).await.expect("an end");
        assert!(end.expect_err("an error").to_string().contains("link to the worker"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_that_holds_is_kept() {
        assert!(follow_for(3 * REJOIN, true).await.is_none());
    }
}
