//! One runtime: how the containers stand that the configuration names, from its first answer on.
//!
//! Events say when to look again, and never what is there: an event may be lost, late, or about somebody else. So everything is
//! asked again now and then as well. A runtime that is away is tried again, ever more seldom; it is told once, and what
//! it said last stays in force.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use hyper::StatusCode;
use redir_config::{ContainerRuntime, PodName};
use redir_ipc::{ContainerReport, ContainerState, ControllerMessage, RuntimeQuestion};
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    answer::{Failure, RuntimeAnswer, refusal},
    events::{Events, RuntimeEvent},
    questions::Questions,
};
use crate::{guardian::GuardianSocket, jitter::jittered};

/// Follows one runtime.
pub(super) struct Watcher {
    runtime: ContainerRuntime,
    /// The containers' names.
    names: BTreeMap<PodName, String>,
    guardian: Arc<GuardianSocket>,
    questions: Arc<Questions>,
    reported: BTreeMap<PodName, ContainerState>,
    /// The trouble that was told last, until the runtime is heard again.
    trouble: Option<String>,
    pause: Duration,
}

impl Watcher {
    pub(super) fn new(
        runtime: ContainerRuntime,
        names: BTreeMap<PodName, String>,
        guardian: Arc<GuardianSocket>,
        questions: Arc<Questions>,
    ) -> Self {
        let reported = BTreeMap::new();
        Self { runtime, names, guardian, questions, reported, trouble: None, pause: FIRST_PAUSE }
    }

    /// Never ends by itself.
    pub(super) async fn run(mut self) {
        loop {
            let trouble = self.follow().await;
            if self.trouble.as_ref() != Some(&trouble) {
                tracing::warn!(trouble, "the agent does not hear from {}; it tries again", self.runtime);
                self.trouble = Some(trouble.clone());
            }
            for pod in self.pods() {
                self.report(&pod, ContainerState::Unknown(trouble.clone())).await;
            }
            sleep(jittered(self.pause)).await;
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Until the runtime is not heard any more, and why.
    async fn follow(&mut self) -> String {
        let mut events = match self.events().await {
            Ok(events) => events,
            Err(Failure::Silent(trouble) | Failure::MalformedMessage(trouble)) => return trouble,
        };
        let mut due = self.pods();
        let (mut look_at, mut all_at) = (Instant::now(), Instant::now());
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(event) => due.extend(self.concerned(&event)),
                    None => return format!("{} has ended the stream of its events; see whether it runs", self.runtime),
                },
                () = sleep_until(look_at.max(all_at)), if due.is_empty() => due = self.pods(),
                () = sleep_until(look_at), if !due.is_empty() => {
                    let whole = due.len() == self.names.len();
                    if let Err(trouble) = self.look(std::mem::take(&mut due)).await {
                        return trouble;
                    }
                    self.heard();
                    look_at = Instant::now() + BETWEEN_LOOKS;
                    all_at = if whole { Instant::now() + jittered(self.interval()) } else { all_at };
                }
            }
        }
    }

    async fn events(&self) -> Result<Events, Failure> {
        let pipe = self.questions.ask(RuntimeQuestion::Events(self.runtime)).await.map_err(Failure::Silent)?;
        let answer = RuntimeAnswer::head(self.runtime, pipe).await?;
        match answer.status() {
            StatusCode::OK => Ok(Events::new(answer)),
            other => Err(Failure::MalformedMessage(refusal(self.runtime, other, b""))),
        }
    }

    /// Asks about these containers. One answer that cannot be read says nothing of the others; a runtime that does not answer is
    /// not asked for the rest.
    async fn look(&mut self, pods: BTreeSet<PodName>) -> Result<(), String> {
        for pod in pods {
            let state = match self.container(&pod).await {
                Ok(state) => state,
                Err(Failure::MalformedMessage(reason)) => ContainerState::Unknown(reason),
                Err(Failure::Silent(trouble)) => return Err(trouble),
            };
            self.report(&pod, state).await;
        }
        Ok(())
    }

    async fn container(&self, pod: &PodName) -> Result<ContainerState, Failure> {
        let question = RuntimeQuestion::Container(pod.clone());
        let pipe = self.questions.ask(question).await.map_err(Failure::Silent)?;
        let name = self.names.get(pod).map(String::as_str).unwrap_or_default();
        RuntimeAnswer::head(self.runtime, pipe).await?.container(self.runtime, name).await
    }

    /// Tells the guardian what is new.
    async fn report(&mut self, pod: &PodName, state: ContainerState) {
        if self.reported.get(pod) == Some(&state) {
            return;
        }
        if let ContainerState::Running(running) = state {
            tracing::info!(%pod, id = %running.id, pid = running.pid, "the pod's container runs");
        }
        let report = ContainerReport { pod: pod.clone(), state: state.clone() };
        if let Err(error) = self.guardian.say(&ControllerMessage::Container(report)).await {
            // The guardian's end is this process's end.
            tracing::error!(%error, "the guardian is not told how a container stands");
            return;
        }
        self.reported.insert(pod.clone(), state);
    }

    /// The runtime is heard.
    fn heard(&mut self) {
        self.pause = FIRST_PAUSE;
        if self.trouble.take().is_some() {
            tracing::info!("{} is heard again", self.runtime);
        }
    }

    /// The pods that an event may be about.
    fn concerned(&self, event: &RuntimeEvent) -> BTreeSet<PodName> {
        let RuntimeEvent::Container(named) = event else { return self.pods() };
        let concerned = |(pod, name): &(&PodName, &String)| {
            let id = match self.reported.get(*pod) {
                Some(ContainerState::Running(running)) => Some(running.id.to_string()),
                Some(ContainerState::NotRunning(_) | ContainerState::Unknown(_)) | None => None,
            };
            named.contains(*name) || id.is_some_and(|id| named.contains(&id))
        };
        self.names.iter().filter(concerned).map(|(pod, _)| pod.clone()).collect()
    }

    fn pods(&self) -> BTreeSet<PodName> {
        self.names.keys().cloned().collect()
    }

    /// Until everything is asked again.
    fn interval(&self) -> Duration {
        let runs = |pod| matches!(self.reported.get(pod), Some(ContainerState::Running(_)));
        if self.names.keys().all(runs) { ALL_RUN } else { SOME_DO_NOT }
    }
}

/// Between two looks because of events: a container that starts and dies in a loop has ten of them in a second.
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);
/// In case an event was lost.
const ALL_RUN: Duration = Duration::from_secs(30);
/// Somebody waits for one that does not run.
const SOME_DO_NOT: Duration = Duration::from_secs(10);
/// Until a runtime that is away is tried again.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
