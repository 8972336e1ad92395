//! Without KubernetesSettings: how the containers stand that the configuration names pods by.
//!
//! Owns what container runtimes are asked and what follows from their answers. The guardian writes each question and hands
//! over a pipe with the answer (`redir_ipc::RuntimeQuestion`), so that nothing here can speak to a runtime, which would do
//! whatever it is told. What comes is bounded: strangers choose much of it. One task for each runtime (`watcher`).

mod answer;
mod events;
mod questions;
#[cfg(test)]
mod tests;
mod watcher;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use anyhow::{Context as _, bail};
use redir_config::{ContainerRuntime, NodeConfig, PodName};
use redir_ipc::{ControllerMessage, Reply};
use redir_link::SIGN_OF_LIFE;
use tokio::{task::JoinSet, time::interval};

use self::{questions::Questions, watcher::Watcher};
use crate::guardian::{GuardianSocket, text};

/// What each runtime is asked about: the containers' names, by pod.
type Names = BTreeMap<ContainerRuntime, BTreeMap<PodName, String>>;

/// Runs until the guardian is gone. `config_file` is the configuration's name in messages.
pub(super) async fn run(guardian: GuardianSocket, config: &NodeConfig, config_file: PathBuf) -> anyhow::Result<()> {
    let guardian = Arc::new(guardian);
    let questions = Arc::new(Questions::new(guardian.clone()));
    guardian.say(&ControllerMessage::Ready).await.context("tell the guardian that the controller runs")?;
    let mut watchers = watch(&guardian, &questions, names(config));
    let mut alive = interval(SIGN_OF_LIFE);
    loop {
        tokio::select! {
            heard = guardian.hear() => match heard.context("the socket to the guardian failed")? {
                Some((number, Reply::Runtime(answer), fds)) => questions.answered(number, answer, fds),
                Some((_, Reply::Config, fds)) => {
                    let memory = fds.into_iter().next().context("the guardian sent no configuration")?;
                    let config = NodeConfig::parse(&text(memory)?, &config_file)?;
                    watchers = watch(&guardian, &questions, names(&config));
                }
                Some((_, other, _)) => tracing::warn!(?other, "the guardian said what is not for the controller"),
                None => return Ok(()),
            },
            _ = alive.tick() => {
                guardian.say(&ControllerMessage::Alive).await.context("tell the guardian that the controller lives")?;
            }
            Some(_) = watchers.join_next() => bail!("a task of the controller has ended; it is started again"),
        }
    }
}

/// The tasks; those of an earlier configuration end with the set that they are in.
fn watch(guardian: &Arc<GuardianSocket>, questions: &Arc<Questions>, names: Names) -> JoinSet<()> {
    let watcher = |(runtime, names)| Watcher::new(runtime, names, guardian.clone(), questions.clone()).run();
    names.into_iter().map(watcher).collect()
}

fn names(config: &NodeConfig) -> Names {
    let mut names = Names::new();
    for (pod, container) in config.containers() {
        names.entry(container.runtime).or_default().insert(pod.clone(), container.name.clone());
    }
    names
}
