//! One runtime: how the containers stand that the configuration names, from its first answer on.
//!
//! Events say when to look again, and never what is there: an event may be lost, late, or about somebody else. So everything is
//! asked again now and then as well. A runtime that is away is tried again, ever more seldom; it is told once, and what
//! it said last stays in force.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    ops::Bound::{Excluded, Unbounded},
    sync::Arc,
    time::Duration,
};

use hyper::StatusCode;
use redir_config::{ContainerRef, ContainerRuntime, PodName};
use redir_ipc::{ContainerReport, ContainerState, ControllerMessage, RuntimeQuestion};
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    answer::{Failure, RuntimeAnswer},
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
    /// The one that was asked about last.
    asked: Option<PodName>,
    /// Why there are no events, as it was told last.
    without_events: Option<String>,
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
        Self {
            runtime,
            names,
            guardian,
            questions,
            reported: BTreeMap::new(),
            asked: None,
            without_events: None,
            trouble: None,
            pause: FIRST_PAUSE,
        }
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
            Err(trouble) => return trouble,
        };
        let mut due = self.pods();
        let (mut look_at, mut all_at) = (Instant::now(), Instant::now());
        let mut events_at = Instant::now() + jittered(EVENTS_AGAIN);
        loop {
            tokio::select! {
                event = next(&mut events) => match event {
                    Some(event) => due.extend(self.concerned(&event)),
                    None => return format!("{} has ended the stream of its events; see whether it runs", self.runtime),
                },
                () = sleep_until(events_at), if events.is_none() => {
                    match self.events().await {
                        Ok(again) => events = again,
                        Err(trouble) => return trouble,
                    }
                    // What has happened before they began is in none of them.
                    due = self.pods();
                    events_at = Instant::now() + jittered(EVENTS_AGAIN);
                },
                () = sleep_until(look_at.max(all_at)), if due.is_empty() => due = self.pods(),
                () = sleep_until(look_at), if !due.is_empty() => {
                    // Also while there is always something: others may have lost an event.
                    if Instant::now() >= all_at {
                        due = self.pods();
                    }
                    let whole = due.len() == self.names.len();
                    if let Err(trouble) = self.look(std::mem::take(&mut due)).await {
                        return trouble;
                    }
                    look_at = Instant::now() + BETWEEN_LOOKS;
                    let interval = if events.is_some() { self.interval() } else { WITHOUT_EVENTS };
                    all_at = if whole { Instant::now() + jittered(interval) } else { all_at };
                }
            }
        }
    }

    /// The stream of events; none, if the runtime gives none, which is told. The error is why the runtime cannot be asked.
    async fn events(&mut self) -> Result<Option<Events>, String> {
        let pipe = self.questions.ask(RuntimeQuestion::Events(self.runtime)).await?;
        let why = match RuntimeAnswer::head(self.runtime, pipe).await {
            Ok(answer) if answer.status() == StatusCode::OK => {
                self.without_events = None;
                return Ok(Some(Events::new(answer)));
            }
            Ok(answer) => answer.refusal(self.runtime).await,
            Err(Failure::NotAsked(why) | Failure::Silent(why) | Failure::MalformedMessage(why)) => why,
        };
        if self.without_events.as_ref() != Some(&why) {
            let runtime = self.runtime;
            tracing::warn!(
                why,
                "{runtime} does not say when containers start and end; the agent asks every few seconds"
            );
            self.without_events = Some(why);
        }
        Ok(None)
    }

    /// Asks about these containers, those first that were not asked about last time. An answer that cannot be read or does not
    /// come says nothing of the others; a runtime that cannot be asked, or is silent twice, is not asked for the rest.
    async fn look(&mut self, pods: BTreeSet<PodName>) -> Result<(), String> {
        let mut silent_before = false;
        for pod in after(self.asked.take(), pods) {
            let answer = self.container(&pod).await;
            self.asked = Some(pod.clone());
            let silent = matches!(answer, Err(Failure::Silent(_)));
            let state = match answer {
                Ok(state) => state,
                Err(Failure::Silent(reason)) if silent_before => return Err(reason),
                Err(Failure::MalformedMessage(reason) | Failure::Silent(reason)) => ContainerState::Unknown(reason),
                Err(Failure::NotAsked(trouble)) => return Err(trouble),
            };
            silent_before = silent;
            if !silent {
                self.heard();
            }
            self.report(&pod, state).await;
            sleep(BETWEEN_QUESTIONS).await;
        }
        Ok(())
    }

    async fn container(&self, pod: &PodName) -> Result<ContainerState, Failure> {
        let question = RuntimeQuestion::Container(pod.clone());
        let pipe = self.questions.ask(question).await.map_err(Failure::NotAsked)?;
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
        let name = self.names.get(pod).cloned().unwrap_or_default();
        let container = ContainerRef { runtime: self.runtime, name };
        let report = ContainerReport { pod: pod.clone(), container, state: state.clone() };
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

/// The next event, if there are events.
async fn next(events: &mut Option<Events>) -> Option<RuntimeEvent> {
    match events {
        Some(events) => events.next().await,
        None => pending().await,
    }
}

/// These pods, from the one behind this on.
fn after(pod: Option<PodName>, pods: BTreeSet<PodName>) -> Vec<PodName> {
    let Some(pod) = pod else { return pods.into_iter().collect() };
    let behind = pods.range((Excluded(&pod), Unbounded));
    behind.chain(pods.range(..=&pod)).cloned().collect()
}

/// Between two questions: the guardian asks no runtime for a controller that is in a hurry.
const BETWEEN_QUESTIONS: Duration = Duration::from_millis(10);
/// Between two looks because of events: a container that starts and dies in a loop has ten of them in a second.
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);
/// In case an event was lost.
const ALL_RUN: Duration = Duration::from_secs(30);
/// Somebody waits for one that does not run.
const SOME_DO_NOT: Duration = Duration::from_secs(10);
/// Nothing else tells that a container was started again.
const WITHOUT_EVENTS: Duration = Duration::from_secs(5);
/// Until a runtime that gave no events is asked for them again.
const EVENTS_AGAIN: Duration = Duration::from_secs(60);
/// Until a runtime that is away is tried again.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
