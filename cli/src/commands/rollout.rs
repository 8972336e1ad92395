//! Waiting for the agents: what they are told to say is told once, and what cannot become better is not waited for.
//!
//! Owns: how often is looked, what is told, and when it is over. Must not judge a pod (`cluster::agents`). Called by:
//! `install`, `doctor`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Event as KubeEvent, Pod};
use kube::Api;
use kube::api::{ListParams, LogParams};
use redir_api::names;
use tokio::time::{Instant, sleep};

use super::outage::ApiServerOutage;
use crate::cluster::Cluster;
use crate::cluster::agents;
use crate::cluster::api_call::ApiCall;
use crate::error::CliError;
use crate::events::AdminStep;
use crate::model::agents::{AgentPod, AgentRollout, DetailSource, Outlook};
use crate::screen::Screen;
use crate::wording::install as say;

/// How often the agents are looked at, at first and later on.
const LOOK: Duration = Duration::from_millis(500);
const LOOK_LATER: Duration = Duration::from_secs(2);
const LATER: Duration = Duration::from_secs(30);
/// When it is told that nothing has changed: then after twice as long each time.
const REMIND: Duration = Duration::from_secs(10);
/// So long nothing but hopeless agents is the end: others may be about to start.
const SETTLE: Duration = Duration::from_secs(10);
/// What does not say why it waits has so long before somebody else is asked.
const PATIENCE: Duration = Duration::from_secs(5);
/// A running agent is ready within this on a busy node; then its log is worth a look.
const STARTING: Duration = Duration::from_secs(20);
/// Pods that somebody else is asked about in one look.
const ASKS: usize = 3;
/// Different troubles that are told: what comes after them is in `redir doctor`.
const TOLD: usize = 20;

/// The agents as they are.
pub(super) async fn look(cluster: &Cluster, namespace: &str) -> Result<(AgentRollout, Vec<AgentPod>), CliError> {
    let sets: Api<DaemonSet> = Api::namespaced(cluster.client.clone(), namespace);
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), namespace);
    let set = cluster.call(ApiCall::Admin("get", "daemonsets"), sets.get(names::AGENT)).await?;
    let parameters = ListParams::default().labels(&agents::selector());
    let pods = cluster.call(ApiCall::Admin("list", "pods"), pods.list(&parameters)).await?;
    Ok((AgentRollout::of(&set), agents::pods(&set, &pods.items)))
}

/// Waits until every node's agent is ready.
pub(super) async fn ready(
    screen: &Screen,
    cluster: &Cluster,
    namespace: &str,
    wait: Duration,
) -> Result<AgentRollout, CliError> {
    let begin = Instant::now();
    let mut waiting = RolloutWait::begin(screen, cluster, namespace, begin);
    let mut absence = ApiServerOutage::default();
    loop {
        match absence.outlast(look(cluster, namespace).await, Instant::now())? {
            Ok((rollout, _)) if rollout.is_done() => return Ok(rollout),
            Ok((rollout, pods)) => {
                waiting.tell(rollout, &pods).await;
                if waiting.is_hopeless(rollout, &pods) {
                    return Err(CliError::Failed(say::never_starts(rollout, &pods, namespace)));
                }
                if begin.elapsed() > wait {
                    return Err(CliError::Failed(match rollout.is_current && rollout.wanted == 0 {
                        true => say::no_node(),
                        false => say::never_ready(rollout, &pods, namespace, wait),
                    }));
                }
            }
            Err(why) if begin.elapsed() > wait => return Err(CliError::Away(why)),
            Err(why) => waiting.tell_once(say::still_asking(&why)),
        }
        sleep(if begin.elapsed() < LATER { LOOK } else { LOOK_LATER }).await;
    }
}

struct RolloutWait<'a> {
    screen: &'a Screen,
    cluster: &'a Cluster,
    namespace: &'a str,
    begin: Instant,
    counted: Option<AgentRollout>,
    reminder: (Instant, Duration),
    told: BTreeSet<String>,
    /// What was found elsewhere, and when it was last asked for, by pod.
    said: BTreeMap<String, String>,
    asked: BTreeMap<String, Instant>,
    /// Since when a pod has been without words of its own.
    speechless: Option<Instant>,
    hopeless: Option<Instant>,
}

impl<'a> RolloutWait<'a> {
    fn begin(screen: &'a Screen, cluster: &'a Cluster, namespace: &'a str, begin: Instant) -> Self {
        Self {
            screen,
            cluster,
            namespace,
            begin,
            counted: None,
            reminder: (begin, REMIND),
            told: BTreeSet::new(),
            said: BTreeMap::new(),
            asked: BTreeMap::new(),
            speechless: None,
            hopeless: None,
        }
    }

    async fn tell(&mut self, rollout: AgentRollout, pods: &[AgentPod]) {
        self.count(rollout);
        let bad = pods.iter().filter(|pod| pod.is_new && pod.problem.is_some());
        let is_silent = bad.clone().any(|pod| pod.more != DetailSource::Nowhere);
        self.speechless = is_silent.then(|| self.speechless.unwrap_or_else(Instant::now));
        let mut asks = ASKS;
        for pod in bad {
            self.ask(pod, &mut asks).await;
            self.error(pod);
        }
        let is_missing = i32::try_from(pods.len()).is_ok_and(|pods| pods < rollout.wanted);
        if is_missing && self.begin.elapsed() > PATIENCE {
            self.refused_pods().await;
        }
    }

    fn count(&mut self, rollout: AgentRollout) {
        let (at, pause) = self.reminder;
        if self.counted.is_none_or(|counted| (counted.ready, counted.wanted) != (rollout.ready, rollout.wanted)) {
            self.screen.step(&AdminStep::Agents { ready: rollout.ready, wanted: rollout.wanted });
            self.reminder = (Instant::now(), REMIND);
        } else if at.elapsed() > pause {
            let sentence = say::still_waiting(rollout, self.begin.elapsed());
            self.screen.step(&AdminStep::Remark { sentence });
            self.reminder = (Instant::now(), pause.saturating_mul(2));
        }
        self.counted = Some(rollout);
    }

    /// Asks for what stands elsewhere than in the pod's status, once that had time to say it.
    async fn ask(&mut self, pod: &AgentPod, asks: &mut usize) {
        let silent = self.speechless.map(|since| since.elapsed()).unwrap_or_default();
        let is_due = match pod.more {
            DetailSource::Nowhere => false,
            DetailSource::PreviousLog => true,
            DetailSource::Log => silent > STARTING,
            DetailSource::Events => silent > PATIENCE,
        };
        let is_fresh = self.asked.get(&pod.name).is_some_and(|at| at.elapsed() < PATIENCE);
        if !is_due || is_fresh || *asks == 0 {
            return;
        }
        *asks -= 1;
        self.asked.insert(pod.name.clone(), Instant::now());
        let words = match pod.more {
            DetailSource::Nowhere => None,
            DetailSource::PreviousLog | DetailSource::Log => self.log(pod).await,
            DetailSource::Events => self.warning("Pod", &pod.name, None).await,
        };
        if let Some(words) = words {
            self.said.insert(pod.name.clone(), words);
        }
    }

    /// The end of the container's log: of the one that runs, or of the one that has ended.
    async fn log(&self, pod: &AgentPod) -> Option<String> {
        let api: Api<Pod> = Api::namespaced(self.cluster.client.clone(), self.namespace);
        let parameters = LogParams { tail_lines: Some(10), limit_bytes: Some(8192), ..LogParams::default() };
        let previous = LogParams { previous: true, ..parameters.clone() };
        let doing = ApiCall::Admin("get", "pods/log");
        let ended = match pod.more {
            DetailSource::PreviousLog => self.cluster.call(doing, api.logs(&pod.name, &previous)).await.ok(),
            _ => None,
        };
        let text = match ended {
            Some(text) => Some(text),
            // It runs, or it has not been started again yet.
            None => self.cluster.call(doing, api.logs(&pod.name, &parameters)).await.ok(),
        };
        text.map(|text| agents::last_words(&text)).filter(|words| !words.is_empty())
    }

    /// The latest warning about an object.
    async fn warning(&self, kind: &str, name: &str, reason: Option<&str>) -> Option<String> {
        let api: Api<KubeEvent> = Api::namespaced(self.cluster.client.clone(), self.namespace);
        let reason = reason.map(|reason| format!(",reason={reason}")).unwrap_or_default();
        let fields = format!("type=Warning,involvedObject.kind={kind},involvedObject.name={name}{reason}");
        let parameters = ListParams::default().fields(&fields);
        let listed = self.cluster.call(ApiCall::Admin("list", "events"), api.list(&parameters));
        let mut events = listed.await.ok()?.items;
        // `Error: ImagePullBackOff`: the one before says why.
        events.retain(|event| event.message.as_ref().is_some_and(|message| !message.starts_with("Error: ")));
        events.sort_by_key(|event| {
            event.last_timestamp.clone().map(|at| at.0).or(event.event_time.clone().map(|at| at.0))
        });
        events.pop()?.message
    }

    /// The controller may make no pod: the PodSecurity level, a quota, a webhook.
    async fn refused_pods(&mut self) {
        if self.told.contains(say::NO_POD) {
            return;
        }
        if let Some(why) = self.warning("DaemonSet", names::AGENT, Some("FailedCreate")).await {
            self.told.insert(say::NO_POD.to_owned());
            self.screen.step(&AdminStep::Remark { sentence: say::no_pod(&why) });
        }
    }

    fn error(&mut self, pod: &AgentPod) {
        let Some(error) = &pod.problem else { return };
        let reason = match (pod.more, self.said.get(&pod.name)) {
            (DetailSource::Nowhere, _) => error.clone(),
            (_, Some(said)) => say::and_said(error, said),
            (DetailSource::PreviousLog, None) => error.clone(),
            // A pod that only begins says nothing that anybody must know.
            (DetailSource::Log | DetailSource::Events, None) => return,
        };
        if self.told.len() < TOLD && self.told.insert(alike(&reason)) {
            self.screen.step(&AdminStep::AgentNotReady { node: pod.node.clone(), pod: pod.name.clone(), reason });
        }
    }

    fn tell_once(&mut self, sentence: String) {
        if self.told.insert(alike(&sentence)) {
            self.screen.step(&AdminStep::Remark { sentence });
        }
    }

    /// Whether every agent that is not ready has been hopeless for a while.
    fn is_hopeless(&mut self, rollout: AgentRollout, pods: &[AgentPod]) -> bool {
        let mut bad = pods.iter().filter(|pod| pod.is_new && pod.problem.is_some()).peekable();
        let is_now = rollout.is_current && bad.peek().is_some() && bad.all(|pod| pod.outlook == Outlook::Hopeless);
        self.hopeless = is_now.then(|| self.hopeless.unwrap_or_else(Instant::now));
        self.hopeless.is_some_and(|since| since.elapsed() > SETTLE)
    }
}

/// Times, addresses and names of pods change from one try and node to the next, and say nothing new.
fn alike(text: &str) -> String {
    let word = |word: &str| word.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
    text.split_whitespace().map(word).filter(|word| !word.contains(names::AGENT)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_trouble_of_another_pod_or_time_is_alike() {
        let of =
            |n: u32| format!("it ended with code 1: 2026-11-30T18:00:0{n}Z redir-agent-x{n} cannot bind 10.0.0.{n}");
        assert_eq!(alike(&of(1)), alike(&of(22)));
        assert_ne!(alike("it ended with code 1: cannot bind"), alike("it ended with code 1: cannot read"));
    }
}
