//! What this node's agent says about each Intercept: its entry of the status, and Events.
//!
//! Pure. Says nothing of an Intercept without a pod here. Names no value of a filter.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{SystemTime, UNIX_EPOCH},
};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use redir_api::{AgentState, AgentStatus, ConflictStatus, Endpoint, PodState, PodStatus};
use redir_link::{
    InterceptReport, InterceptReports,
    resolved::{
        InterceptedRequests, ObjectId, PodObstacle, PodPlacement, ResolvedCluster, ResolvedIntercept, WorkloadRef,
    },
};
use redir_wire::Token;

/// How the agent introduces itself to developers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AgentEntry {
    /// The node's name.
    pub(crate) node: String,
    /// The agent's public key.
    pub(crate) key: String,
    /// Name and release.
    pub(crate) software: &'static str,
    /// Where developers dial, best first.
    pub(crate) endpoints: Vec<Endpoint>,
}

/// The entry for each Intercept that has a pod here.
pub(crate) fn entries(
    resolved: &ResolvedCluster,
    reports: &InterceptReports,
    introduction: &AgentEntry,
) -> BTreeMap<Token, AgentStatus> {
    let here = resolved.intercepts.iter().filter(|(_, resolution)| !resolution.places.is_empty());
    here.map(|(token, resolution)| (*token, entry(resolution, reports.get(token), introduction))).collect()
}

fn entry(resolution: &ResolvedIntercept, report: Option<&InterceptReport>, introduction: &AgentEntry) -> AgentStatus {
    let pods: Vec<PodStatus> = resolution.places.iter().map(|place| pod(resolution, place, report)).collect();
    let (state, reason) = match &resolution.granted {
        Err(reason) => (AgentState::Refused, reason.clone()),
        Ok(_) => together(&pods, report.is_some()),
    };
    AgentStatus {
        node: introduction.node.clone(),
        key: introduction.key.clone(),
        software: introduction.software.to_owned(),
        protocol: redir_wire::VERSION,
        endpoints: introduction.endpoints.clone(),
        state,
        reason,
        pods,
        conflicts: report.into_iter().flat_map(conflicts).collect(),
    }
}

fn pod(
    resolution: &ResolvedIntercept,
    PodPlacement { pod, port }: &PodPlacement,
    report: Option<&InterceptReport>,
) -> PodStatus {
    let told = report.and_then(|report| report.pods.iter().find(|told| told.pod == *pod));
    let made = millis(resolution.made);
    let (state, reason, since) = match (&resolution.granted, port, told) {
        (Err(reason), _, _) | (Ok(_), Err(PodObstacle::Never(reason)), _) => (PodState::Refused, reason.clone(), made),
        (Ok(_), Err(PodObstacle::NotYet(reason)), _) => (PodState::Pending, reason.clone(), made),
        (Ok(_), Ok(_), None) => (PodState::Waiting, String::new(), made),
        (Ok(_), Ok(_), Some(told)) => (told.state, told.reason.clone(), told.since),
    };
    PodStatus {
        name: pod.bare().to_owned(),
        uid: pod.key().to_owned(),
        addresses: told.map(|told| told.addresses.clone()).unwrap_or_default(),
        port: port.as_ref().ok().copied(),
        state,
        reason,
        since: time(since),
        nobody_listens: told.is_some_and(|told| told.nobody_listens),
    }
}

/// The pods' states as one, and why it is not the best.
fn together(pods: &[PodStatus], tunnel: bool) -> (AgentState, String) {
    let (live, rest): (Vec<_>, Vec<_>) = pods.iter().partition(|pod| pod.state == PodState::Live);
    let (stuck, coming): (Vec<_>, Vec<_>) =
        rest.into_iter().partition(|pod| matches!(pod.state, PodState::Refused | PodState::Lost));
    let first =
        |pods: &[&PodStatus]| pods.first().map_or_else(String::new, |pod| format!("{}: {}", pod.name, pod.reason));
    match (live.len(), stuck.len(), coming.len()) {
        (0, _, 0) => (AgentState::Refused, first(&stuck)),
        (_, 0, 0) => (AgentState::Live, String::new()),
        (_, _, 0) => (AgentState::Partial, first(&stuck)),
        _ if tunnel => (AgentState::Pending, String::new()),
        _ => (AgentState::Waiting, "the developer's tunnel to this agent is not up".to_owned()),
    }
}

fn conflicts(report: &InterceptReport) -> impl Iterator<Item = ConflictStatus> + '_ {
    report.conflicts.iter().map(|conflict| ConflictStatus {
        pod: conflict.pod.clone(),
        user: conflict.developer.clone(),
        since: time(conflict.since),
        everything: conflict.everything,
    })
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    u64::try_from(since).unwrap_or(u64::MAX)
}

/// Whole seconds, as Kubernetes writes times: another fraction would be another status.
fn time(millis: u64) -> Time {
    let seconds = i64::try_from(millis / 1000).unwrap_or(0);
    Time(Timestamp::from_second(seconds).unwrap_or_default())
}

/// Something that the people of a workload should read beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WorkloadNotice {
    /// Beside what it is told; `None`: beside the Intercept alone.
    pub(crate) workload: Option<WorkloadRef>,
    /// The Intercept.
    pub(crate) intercept: ObjectId,
    /// What has happened.
    pub(crate) kind: NoticeKind,
    /// For people.
    pub(crate) note: String,
}

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum NoticeKind {
    /// An Intercept has become live in its first pod here.
    Started,
    /// It is live in no pod here any more.
    Ended,
    /// Something of it is refused.
    Refused,
}

/// What has been told about each Intercept.
#[derive(Debug, Default)]
pub(crate) struct ReportedEvents(BTreeMap<Token, LastReported>);

#[derive(Debug)]
struct LastReported {
    live: bool,
    refused: BTreeSet<String>,
    workload: Option<WorkloadRef>,
    intercept: ObjectId,
    who: String,
}

impl ReportedEvents {
    /// Takes over what an earlier controller has told, as far as this node's entries of the status show it.
    pub(crate) fn resume<'w>(
        &mut self,
        resolved: &ResolvedCluster,
        written: impl Iterator<Item = (Token, &'w AgentStatus)>,
    ) {
        for (token, entry) in written {
            let Some(resolution) = resolved.intercepts.get(&token) else { continue };
            let one = self.0.entry(token).or_insert_with(|| LastReported::new(resolution));
            one.live = entry.pods.iter().any(|pod| pod.state == PodState::Live);
            one.refused = refusals(resolution, entry);
        }
    }

    /// What is to be told now.
    pub(crate) fn tell(
        &mut self,
        resolved: &ResolvedCluster,
        entries: &BTreeMap<Token, AgentStatus>,
    ) -> Vec<WorkloadNotice> {
        let mut notices = Vec::new();
        for (token, entry) in entries {
            let Some(resolution) = resolved.intercepts.get(token) else { continue };
            let one = self.0.entry(*token).or_insert_with(|| LastReported::new(resolution));
            one.workload = resolution.workload.clone().or(one.workload.take());
            one.update(resolution, entry, &mut notices);
        }
        let gone: Vec<Token> = self.0.keys().filter(|token| !entries.contains_key(token)).copied().collect();
        for mut one in gone.iter().filter_map(|token| self.0.remove(token)) {
            one.live(false, &mut notices, String::new());
        }
        notices
    }
}

impl LastReported {
    fn new(resolution: &ResolvedIntercept) -> Self {
        Self {
            live: false,
            refused: BTreeSet::new(),
            workload: None,
            intercept: resolution.id.clone(),
            who: resolution.user.clone(),
        }
    }

    fn update(&mut self, resolution: &ResolvedIntercept, entry: &AgentStatus, notices: &mut Vec<WorkloadNotice>) {
        let live: Vec<&str> =
            entry.pods.iter().filter(|pod| pod.state == PodState::Live).map(|pod| &*pod.name).collect();
        let filtered = resolution.granted.as_ref().is_ok_and(|granted| granted.filter != InterceptedRequests::All);
        let requests = if filtered { "requests that match a filter" } else { "all connections" };
        let note =
            format!("{requests} of {} go to {} from {}: {}", resolution.what, self.who, entry.node, live.join(", "));
        self.live(!live.is_empty(), notices, note);
        let reasons = refusals(resolution, entry);
        for reason in reasons.difference(&self.refused) {
            let note = format!("the intercept of {} by {} is refused: {reason}", resolution.what, self.who);
            notices.push(self.notice(NoticeKind::Refused, note));
        }
        self.refused = reasons;
    }

    fn live(&mut self, live: bool, notices: &mut Vec<WorkloadNotice>, note: String) {
        match (self.live, live) {
            (false, true) => notices.push(self.notice(NoticeKind::Started, note)),
            (true, false) => {
                let note = format!("nothing goes to {} any more; the app gets every request", self.who);
                notices.push(self.notice(NoticeKind::Ended, note));
            }
            _ => {}
        }
        self.live = live;
    }

    fn notice(&self, kind: NoticeKind, note: String) -> WorkloadNotice {
        WorkloadNotice { workload: self.workload.clone(), intercept: self.intercept.clone(), kind, note }
    }
}

/// Why what of it is refused.
fn refusals(resolution: &ResolvedIntercept, entry: &AgentStatus) -> BTreeSet<String> {
    let whole = (entry.state == AgentState::Refused && resolution.granted.is_err()).then(|| entry.reason.clone());
    let pods = entry.pods.iter().filter(|pod| pod.state == PodState::Refused && resolution.granted.is_ok());
    let pods = pods.map(|pod| format!("{}: {}", pod.name, pod.reason));
    whole.into_iter().chain(pods).collect()
}
