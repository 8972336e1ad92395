//! Says what was concluded: first to the guardian, what may be armed, then to the worker, who intercepts what.
//!
//! Owns that order, by which a worker never asks for what the guardian has not heard of; and the link to the worker, to which
//! a newcomer is told everything. A worker that does not read keeps nobody waiting: it gets the newest state when it reads
//! again.

use std::{io, sync::Arc};

use redir_config::certificates::Certificates;
use redir_ipc::{ControllerMessage, PodPermission};
use redir_link::{
    ControllerHealth, InterceptReport, InterceptReports, LONGEST_REPORT, SIGN_OF_LIFE, ToController, ToWorker, changes,
    resolved::ResolvedCluster,
};
use redir_wire::Token;
use tokio::{
    io::{AsyncWriteExt as _, BufReader, BufWriter},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch as channel,
    task::JoinSet,
    time::sleep,
};

use super::{driver::ControllerVitals, guardian::GuardianSocket};

/// What follows from what is known of the cluster.
#[derive(Debug, Default, PartialEq)]
pub(super) struct ClusterConclusion {
    /// Who may intercept what.
    pub(super) resolved: ResolvedCluster,
    /// With which certificates it is read.
    pub(super) certificates: Certificates,
    /// What may be armed for it.
    pub(super) permissions: Vec<PodPermission>,
}

/// The newest conclusion; `None`: nothing is known yet.
pub(super) type LatestConclusion = Option<Arc<ClusterConclusion>>;

/// Tells the guardian, and lets the worker have what it was told. Ends with the guardian.
pub(super) async fn run(
    guardian: Arc<GuardianSocket>,
    mut conclusions: channel::Receiver<LatestConclusion>,
    permitted: channel::Sender<LatestConclusion>,
) {
    while conclusions.changed().await.is_ok() {
        let newest = conclusions.borrow_and_update().clone();
        if let Some(conclusion) = &newest
            && let Err(error) = permit(&guardian, &conclusion.permissions).await
        {
            tracing::debug!(%error, "the guardian cannot be told");
            return;
        }
        permitted.send_replace(newest);
    }
}

async fn permit(guardian: &GuardianSocket, permissions: &[PodPermission]) -> io::Result<()> {
    guardian.say(&ControllerMessage::Begin).await?;
    for permission in permissions {
        guardian.say(&ControllerMessage::Allow(permission.clone())).await?;
    }
    guardian.say(&ControllerMessage::Commit).await
}

/// What is said and heard over a link.
#[derive(Clone)]
pub(super) struct LinkTraffic {
    /// To be told to the worker.
    pub(super) permitted: channel::Receiver<LatestConclusion>,
    /// To be told as well.
    pub(super) vitals: channel::Receiver<ControllerVitals>,
    /// What the worker says.
    pub(super) reports: channel::Sender<Option<InterceptReports>>,
}

/// The link to the worker of now.
pub(super) fn speak(stream: UnixStream, talk: LinkTraffic) -> JoinSet<()> {
    let (from, to) = stream.into_split();
    let mut tasks = JoinSet::new();
    let LinkTraffic { permitted, vitals, reports } = talk;
    tasks.spawn(async move {
        let end = tokio::select! {
            end = tell(BufWriter::new(to), permitted, vitals) => end,
            end = listen(BufReader::new(from), &reports) => end,
        };
        let error = end.err().map(|error| error.to_string()).unwrap_or_default();
        tracing::warn!(error, "the link to the worker has ended");
        // Nothing of it is live any more. One that was killed leaves a reset instead of an end.
        reports.send_replace(Some(InterceptReports::new()));
    });
    tasks
}

async fn tell(
    mut to: BufWriter<OwnedWriteHalf>,
    mut permitted: channel::Receiver<LatestConclusion>,
    mut vitals: channel::Receiver<ControllerVitals>,
) -> io::Result<()> {
    let mut told = Arc::new(ClusterConclusion::default());
    let mut is_first = true;
    permitted.mark_changed();
    loop {
        // Only waiting may be given up.
        tokio::select! {
            changed = permitted.changed() => if changed.is_err() { return Ok(()) },
            changed = vitals.changed() => if changed.is_err() { return Ok(()) },
            () = sleep(SIGN_OF_LIFE) => {}
        }
        let newest = permitted.borrow_and_update().clone();
        if let Some(newest) = newest.filter(|newest| is_first || !Arc::ptr_eq(newest, &told)) {
            differences(&mut to, &told, &newest).await?;
            (told, is_first) = (newest, false);
        }
        let health = health(*vitals.borrow_and_update());
        redir_link::send(&mut to, &ToWorker::Health(health)).await?;
        to.flush().await?;
    }
}

async fn differences(
    to: &mut BufWriter<OwnedWriteHalf>,
    ClusterConclusion { resolved: was, certificates: had, .. }: &ClusterConclusion,
    ClusterConclusion { resolved: is, certificates: has, .. }: &ClusterConclusion,
) -> io::Result<()> {
    for (name, pod) in changes(&was.pods, &is.pods) {
        let gone = || ToWorker::PodGone(name.clone());
        let message = pod.map_or_else(gone, |pod| ToWorker::Pod(name.clone(), pod.clone()));
        redir_link::send_or(to, &message, gone).await?;
    }
    for (token, resolution) in changes(&was.intercepts, &is.intercepts) {
        let uid = (*token).into();
        let gone = || ToWorker::InterceptGone(uid);
        let message = resolution.map_or_else(gone, |one| ToWorker::Intercept(uid, Box::new(one.clone())));
        redir_link::send_or(to, &message, gone).await?;
    }
    for ((pod, port), pairs) in changes(&had.0, &has.0) {
        let gone = || ToWorker::CertificatesGone(pod.clone(), *port);
        let message = pairs.map_or_else(gone, |pairs| ToWorker::Certificates(pod.clone(), *port, pairs.clone()));
        redir_link::send_or(to, &message, gone).await?;
    }
    redir_link::send(to, &ToWorker::Commit).await
}

fn health(ControllerVitals { silent_since, objects, api_errors, expired }: ControllerVitals) -> ControllerHealth {
    ControllerHealth { silent: silent_since.map(|since| since.elapsed()), objects, api_errors, expired }
}

/// What the worker says is text for the status, of intercepts that are there anyway.
async fn listen(
    mut from: BufReader<OwnedReadHalf>,
    reports: &channel::Sender<Option<InterceptReports>>,
) -> io::Result<()> {
    let mut heard = InterceptReports::new();
    while let Some(message) = redir_link::receive(&mut from, LONGEST_REPORT).await? {
        match message {
            ToController::InterceptReport(uid, report) => {
                let (token, report) = (Token::from(uid), report.bounded());
                heard.remove(&token);
                let bytes: usize = heard.values().chain([&report]).map(InterceptReport::bytes).sum();
                if heard.len() < MOST_STANDINGS && bytes <= MOST_STANDING_BYTES {
                    heard.insert(token, report);
                }
            }
            ToController::Gone(uid) => drop(heard.remove(&uid.into())),
            ToController::Commit => drop(reports.send_replace(Some(heard.clone()))),
        }
    }
    Ok(())
}

/// Intercepts with a tunnel whose state is told. More are served as well, and said to be waiting.
const MOST_STANDINGS: usize = 1024;
/// Bytes of them all, as they are said.
const MOST_STANDING_BYTES: usize = 2 << 20;

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use redir_ipc::FirstHand;
    use redir_link::{ConflictReport, LONGEST, resolved::KnownPod};
    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(60);

    fn conclusion(number: usize) -> LatestConclusion {
        let labels =
            BTreeMap::from([("number".to_owned(), number.to_string()), ("long".to_owned(), "x".repeat(20_000))]);
        let entry = redir_wire::PodEntry { name: "a".into(), labels, ports: Vec::new() };
        let pod = KnownPod { entry, first: FirstHand::App, ending: None, health_checks: Vec::new() };
        let name = redir_config::PodName::new("uid").expect("a name");
        let resolved = ResolvedCluster { pods: BTreeMap::from([(name, pod)]), ..ResolvedCluster::default() };
        Some(Arc::new(ClusterConclusion { resolved, ..ClusterConclusion::default() }))
    }

    struct PublishRig {
        permitted: channel::Sender<LatestConclusion>,
        reports: channel::Receiver<Option<InterceptReports>>,
        talk: LinkTraffic,
        _vitals: channel::Sender<ControllerVitals>,
    }

    fn ends() -> PublishRig {
        let (permitted, vitals) = (channel::Sender::new(None), channel::Sender::new(ControllerVitals::default()));
        let reports = channel::Sender::new(None);
        let heard = reports.subscribe();
        let talk = LinkTraffic { permitted: permitted.subscribe(), vitals: vitals.subscribe(), reports };
        PublishRig { permitted, reports: heard, talk, _vitals: vitals }
    }

    /// The number of the pod that is told before the next commit.
    async fn told(worker: &mut UnixStream) -> usize {
        let mut number = None;
        loop {
            match redir_link::receive(worker, LONGEST).await.expect("a message") {
                Some(ToWorker::Pod(_, pod)) => number = pod.entry.labels["number"].parse().ok(),
                Some(ToWorker::Commit) => return number.expect("a pod"),
                Some(ToWorker::Health(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_worker_that_does_not_read_gets_the_newest_when_it_reads_again() {
        let PublishRig { permitted, talk, .. } = &ends();
        permitted.send_replace(conclusion(0));
        let (ours, mut worker) = UnixStream::pair().expect("sockets");
        let _link = speak(ours, talk.clone());
        assert_eq!(timeout(SOON, told(&mut worker)).await.expect("in time"), 0, "a newcomer is told everything");
        for number in 1..=500 {
            permitted.send_replace(conclusion(number));
            tokio::task::yield_now().await;
        }
        let mut last = 0;
        let mut times = 0;
        while last != 500 {
            let number = timeout(SOON, told(&mut worker)).await.expect("in time");
            assert!(number > last, "in order");
            (last, times) = (number, times + 1);
        }
        assert!(times < 100, "{times} of 500 are told: 10 MB were kept for it");
        let (ours, mut another) = UnixStream::pair().expect("sockets");
        let _link = speak(ours, talk.clone());
        assert_eq!(timeout(SOON, told(&mut another)).await.expect("in time"), 500);
    }

    /// Whatever it says, it is text of bounded length, and ends with it.
    #[tokio::test]
    async fn what_a_worker_says_is_cut_and_ends_with_it() {
        let mut ends = ends();
        let (ours, mut worker) = UnixStream::pair().expect("sockets");
        let _link = speak(ours, ends.talk.clone());
        let conflict = ConflictReport { pod: "p".repeat(9_000), developer: String::new(), since: 0, everything: true };
        let report = InterceptReport { pods: Vec::new(), conflicts: vec![conflict] };
        let writer = async {
            for number in 0..u16::try_from(MOST_STANDINGS).expect("small") + 9 {
                let mut uid = [0; 16];
                uid[..2].copy_from_slice(&number.to_ne_bytes());
                let said = ToController::InterceptReport(Token(uid).into(), report.clone());
                redir_link::send(&mut worker, &said).await.expect("sent");
            }
            redir_link::send(&mut worker, &ToController::Commit).await.expect("sent");
        };
        timeout(SOON, writer).await.expect("in time");
        let heard =
            timeout(SOON, ends.reports.wait_for(Option::is_some)).await.expect("in time").expect("it runs").clone();
        let heard = heard.expect("some");
        assert_eq!(heard.len(), MOST_STANDINGS);
        assert!(heard.values().all(|report| report.conflicts[0].pod.len() < 300));
        drop(worker);
        let is_empty = |reports: &Option<InterceptReports>| reports.as_ref().is_some_and(InterceptReports::is_empty);
        timeout(SOON, ends.reports.wait_for(is_empty)).await.expect("in time").expect("it runs");
    }

    /// One object that is too large ended what was told of all others.
    #[tokio::test]
    async fn what_is_too_long_is_left_out_and_the_rest_is_told() {
        let PublishRig { permitted, talk, .. } = &ends();
        let long = redir_config::certificates::Pair { chain: "\u{1}".repeat(1 << 20), key: String::new() };
        let name = redir_config::PodName::new("uid").expect("a name");
        let certificates = Certificates(BTreeMap::from([((name, 8443), vec![long])]));
        let known = conclusion(7).expect("some");
        let conclusion =
            ClusterConclusion { resolved: known.resolved.clone(), certificates, ..ClusterConclusion::default() };
        permitted.send_replace(Some(Arc::new(conclusion)));
        let (ours, mut worker) = UnixStream::pair().expect("sockets");
        let _link = speak(ours, talk.clone());
        let mut gone = false;
        let heard = async {
            loop {
                match redir_link::receive(&mut worker, LONGEST).await.expect("a message").expect("no end") {
                    ToWorker::Certificates(..) => panic!("too long"),
                    ToWorker::CertificatesGone(_, 8443) => gone = true,
                    ToWorker::Commit => return,
                    _ => {}
                }
            }
        };
        timeout(SOON, heard).await.expect("in time");
        assert!(gone);
    }

    #[tokio::test]
    async fn what_is_kept_of_a_worker_has_a_sum() {
        let mut ends = ends();
        let (ours, mut worker) = UnixStream::pair().expect("sockets");
        let _link = speak(ours, ends.talk.clone());
        let conflict = ConflictReport { pod: "p".repeat(250), developer: "d".repeat(250), since: 0, everything: true };
        let report = InterceptReport { pods: Vec::new(), conflicts: vec![conflict; 50] };
        let writer = async {
            for number in 0..200 {
                let said = ToController::InterceptReport(Token([number; 16]).into(), report.clone());
                redir_link::send(&mut worker, &said).await.expect("sent");
            }
            redir_link::send(&mut worker, &ToController::Commit).await.expect("sent");
        };
        timeout(SOON, writer).await.expect("in time");
        let heard =
            timeout(SOON, ends.reports.wait_for(Option::is_some)).await.expect("in time").expect("it runs").clone();
        let bytes: usize = heard.expect("some").values().map(InterceptReport::bytes).sum();
        assert!((MOST_STANDING_BYTES / 2..=MOST_STANDING_BYTES).contains(&bytes), "{bytes}");
    }
}
