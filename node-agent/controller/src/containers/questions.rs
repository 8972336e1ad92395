//! Questions that the guardian asks a runtime for this process, and whose answers they are.

use std::{
    collections::BTreeMap,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use redir_ipc::{ControllerMessage, RuntimeQuestion};
use tokio::{sync::oneshot, time::timeout};

use crate::guardian::GuardianSocket;

/// The pipe that an answer comes through, or why the runtime was not asked.
type RuntimeAnswer = Result<OwnedFd, String>;

/// The questions under way.
pub(super) struct Questions {
    guardian: Arc<GuardianSocket>,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    next: u32,
    answers: BTreeMap<u32, oneshot::Sender<RuntimeAnswer>>,
}

impl Questions {
    pub(super) fn new(guardian: Arc<GuardianSocket>) -> Self {
        Self { guardian, waiting: Mutex::default() }
    }

    /// Has a runtime asked. The error is a sentence for people.
    pub(super) async fn ask(&self, question: RuntimeQuestion) -> RuntimeAnswer {
        let (sender, answer) = oneshot::channel();
        let number = self.waiting().enter(sender);
        let asked = async {
            let said = self.guardian.say(&ControllerMessage::Ask(number, question)).await;
            said.map_err(|error| format!("the agent's guardian does not hear: {error}"))?;
            answer.await.unwrap_or_else(|_| Err("the agent's guardian gave no pipe; see its log".to_owned()))
        };
        let answer = timeout(PATIENCE, asked).await;
        self.waiting().answers.remove(&number);
        answer.unwrap_or_else(|_| Err("the agent's guardian does not answer; see its log".to_owned()))
    }

    /// The guardian has answered. Nobody may wait any more.
    pub(super) fn answered(&self, number: u32, answer: Result<(), String>, fds: Vec<OwnedFd>) {
        let Some(sender) = self.waiting().answers.remove(&number) else { return };
        let pipe = fds.into_iter().next();
        let missing = || "the agent has no descriptors left; raise its limit".to_owned();
        sender.send(answer.and_then(|()| pipe.ok_or_else(missing))).unwrap_or_default();
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn enter(&mut self, sender: oneshot::Sender<RuntimeAnswer>) -> u32 {
        // A question that is dropped half-way leaves its place behind.
        self.answers.retain(|_, waiting| !waiting.is_closed());
        self.next = self.next.wrapping_add(1);
        self.answers.insert(self.next, sender);
        self.next
    }
}

/// The guardian may arm pods meanwhile.
const PATIENCE: Duration = Duration::from_secs(10);
