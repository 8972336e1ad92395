//! What the controller says is the worker's control plane, and the controller hears how the intercepts stand.
//!
//! Owns the worker's end of the link. What a new controller says counts once it is whole; until then, and while there is
//! none, the last known state stays in force. Called by `worker::start`, in Kubernetes only.

use std::{io, os::fd::OwnedFd, os::unix::net, sync::Arc};

use redir_config::certificates::Certificates;
use redir_link::{
    ControllerHealth, InterceptReports, LONGEST, ToController, ToWorker, changes, resolved::ResolvedCluster,
};
use tokio::{
    io::{AsyncWriteExt as _, BufReader, BufWriter},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    task::JoinSet,
};

use super::Policy;
use crate::{admin::AgentReadiness, metrics::Metrics, tls::Tls};

/// What the link needs from the worker.
#[derive(Clone)]
pub(crate) struct ControllerLinkParts {
    /// Where the policy goes.
    pub(crate) policy: watch::Sender<Policy>,
    /// Where the apps' certificates go.
    pub(crate) tls: Tls,
    /// How the intercepts stand.
    pub(crate) reports: watch::Receiver<InterceptReports>,
    /// The figures.
    pub(crate) metrics: Arc<Metrics>,
    /// Set once the controller has told what there is.
    pub(crate) readiness: AgentReadiness,
}

/// A policy that lets nobody in: nothing has been heard yet.
pub(crate) fn nothing() -> Policy {
    Arc::new(ResolvedCluster::default())
}

/// Follows the controller of now: each one comes with a link of its own.
pub(crate) async fn run(parts: ControllerLinkParts, mut links: mpsc::Receiver<OwnedFd>) {
    let mut tasks = JoinSet::new();
    while let Some(link) = links.recv().await {
        tasks.shutdown().await;
        match UnixStream::from_std(net::UnixStream::from(link)) {
            Ok(stream) => speak(stream, &parts, &mut tasks),
            Err(error) => tracing::error!(%error, "the link to the controller cannot be used"),
        }
    }
}

fn speak(stream: UnixStream, parts: &ControllerLinkParts, tasks: &mut JoinSet<()>) {
    let (from, to) = stream.into_split();
    let (listening, reports) = (parts.clone(), parts.reports.clone());
    // One half that has ended ends the other: the controller sees it, and a new link is made.
    tasks.spawn(async move {
        let end = tokio::select! {
            end = listen(BufReader::new(from), &listening) => end,
            end = tell(BufWriter::new(to), reports) => end,
        };
        let error = end.err().map(|error| error.to_string()).unwrap_or_default();
        tracing::warn!(error, "the link to the controller has ended; what is known stays in force");
    });
}

async fn listen(mut from: BufReader<OwnedReadHalf>, parts: &ControllerLinkParts) -> io::Result<()> {
    let (mut told, mut health) = (LinkState::default(), ControllerHealth::default());
    while let Some(message) = redir_link::receive(&mut from, LONGEST).await? {
        parts.readiness.controller_is_heard();
        match message {
            ToWorker::Commit => {
                told.publish(parts);
                parts.readiness.set(true);
            }
            ToWorker::Health(newer) => {
                parts.readiness.set_api_server_silent_since(newer.silent);
                parts.metrics.set_controller(newer, std::mem::replace(&mut health, newer));
            }
            change => told.take(change),
        }
    }
    Ok(())
}

/// What this controller has said.
#[derive(Default)]
struct LinkState {
    resolved: ResolvedCluster,
    certificates: Certificates,
    published: Option<(Arc<ResolvedCluster>, Certificates)>,
}

impl LinkState {
    fn take(&mut self, change: ToWorker) {
        let Self { resolved: ResolvedCluster { intercepts, pods }, certificates: Certificates(certificates), .. } =
            self;
        match change {
            ToWorker::Intercept(uid, resolution) => drop(intercepts.insert(uid.into(), *resolution)),
            ToWorker::InterceptGone(uid) => drop(intercepts.remove(&uid.into())),
            ToWorker::Pod(name, pod) => drop(pods.insert(name, pod)),
            ToWorker::PodGone(name) => drop(pods.remove(&name)),
            ToWorker::Certificates(pod, port, pairs) => drop(certificates.insert((pod, port), pairs)),
            ToWorker::CertificatesGone(pod, port) => drop(certificates.remove(&(pod, port))),
            ToWorker::Commit | ToWorker::Health(_) => {}
        }
    }

    fn publish(&mut self, parts: &ControllerLinkParts) {
        let before = self.published.take();
        let (policy, certificates) = before.unzip();
        let policy = match policy.filter(|policy| **policy == self.resolved) {
            Some(same) => same,
            None => {
                let policy = Arc::new(self.resolved.clone());
                parts.policy.send_replace(policy.clone());
                policy
            }
        };
        if certificates.as_ref() != Some(&self.certificates) {
            parts.tls.replace(&self.certificates);
        }
        self.published = Some((policy, self.certificates.clone()));
    }
}

async fn tell(mut to: BufWriter<OwnedWriteHalf>, mut reports: watch::Receiver<InterceptReports>) -> io::Result<()> {
    let mut told = InterceptReports::new();
    loop {
        let newest = reports.borrow_and_update().clone();
        for (token, report) in changes(&told, &newest) {
            let message = match report {
                Some(report) => ToController::InterceptReport((*token).into(), report.clone().bounded()),
                None => ToController::Gone((*token).into()),
            };
            redir_link::send(&mut to, &message).await?;
        }
        redir_link::send(&mut to, &ToController::Commit).await?;
        to.flush().await?;
        told = newest;
        if reports.changed().await.is_err() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use redir_api::ProbesSpec;
    use redir_ipc as ipc;
    use redir_link::{
        InterceptReport, LONGEST_REPORT,
        resolved::{GrantedIntercept, InterceptedRequests, ObjectId, ResolvedIntercept},
        send,
    };
    use redir_tunnel::Pin;
    use redir_wire::Token;
    use tokio::time::timeout;

    use super::*;
    use crate::tls::GivenFor;

    const SOON: Duration = Duration::from_secs(60);

    fn key(number: u8) -> Pin {
        Pin::of_spki(&[number])
    }

    fn intercept(number: u8) -> ToWorker {
        let id = ObjectId { namespace: "shop".into(), name: "i".into(), uid: "u".into() };
        let granted = GrantedIntercept {
            key: key(number),
            filter: InterceptedRequests::All,
            probes: ProbesSpec::App,
            flush: false,
            even_if_down: false,
            forwarded: false,
            to: String::new(),
        };
        let resolution = ResolvedIntercept {
            id,
            user: "alice".into(),
            what: "Pod a".into(),
            workload: None,
            made: SystemTime::UNIX_EPOCH,
            granted: Ok(granted),
            places: Vec::new(),
        };
        ToWorker::Intercept(Token([number; 16]).into(), Box::new(resolution))
    }

    struct LinkRig {
        parts: ControllerLinkParts,
        links: mpsc::Sender<OwnedFd>,
        policy: watch::Receiver<Policy>,
        reports: watch::Sender<InterceptReports>,
    }

    impl LinkRig {
        fn new() -> Self {
            let (policy, seen) = watch::channel(nothing());
            let (reports, _) = watch::channel(InterceptReports::new());
            let parts = ControllerLinkParts {
                policy,
                tls: Tls::new(&Certificates::default(), GivenFor::Pods, true),
                reports: reports.subscribe(),
                metrics: Arc::new(Metrics::new()),
                readiness: AgentReadiness::default(),
            };
            let (links, taken) = mpsc::channel(1);
            tokio::spawn(run(parts.clone(), taken));
            Self { parts, links, policy: seen, reports }
        }

        /// Joins it with a controller.
        async fn controller(&self) -> UnixStream {
            let (ours, theirs) = ipc::stream_pair().expect("sockets");
            self.links.send(theirs).await.expect("it runs");
            UnixStream::from_std(net::UnixStream::from(ours)).expect("a socket")
        }

        async fn keys_become(&mut self, keys: &[Pin]) {
            let known = self.policy.wait_for(|policy| policy.keys() == keys);
            timeout(SOON, known).await.expect("in time").expect("it runs");
        }
    }

    #[tokio::test]
    async fn what_a_controller_says_counts_once_it_is_whole_and_stays_when_it_is_gone() {
        let mut worker = LinkRig::new();
        let mut first = worker.controller().await;
        send(&mut first, &intercept(1)).await.expect("sent");
        send(
            &mut first,
            &ToWorker::Health(ControllerHealth { objects: 1, api_errors: 2, ..ControllerHealth::default() }),
        )
        .await
        .expect("sent");
        timeout(SOON, async {
            while !worker.parts.metrics.text().expect("text").contains("redir_intercept_objects 1") {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("heard");
        assert!(worker.policy.borrow().keys().is_empty(), "not before it is whole");
        send(&mut first, &ToWorker::Commit).await.expect("sent");
        worker.keys_become(&[key(1)]).await;
        // It dies; the next one begins to speak.
        drop(first);
        let mut second = worker.controller().await;
        send(&mut second, &intercept(2)).await.expect("sent");
        send(
            &mut second,
            &ToWorker::Health(ControllerHealth { objects: 5, api_errors: 1, ..ControllerHealth::default() }),
        )
        .await
        .expect("sent");
        timeout(SOON, async {
            while !worker.parts.metrics.text().expect("text").contains("redir_intercept_objects 5") {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("heard");
        assert_eq!(worker.policy.borrow().keys(), [key(1)], "the last known state is in force");
        assert!(worker.parts.metrics.text().expect("text").contains("redir_api_errors_total 3"), "of both");
        send(&mut second, &intercept(3)).await.expect("sent");
        send(&mut second, &ToWorker::InterceptGone(Token([2; 16]).into())).await.expect("sent");
        send(&mut second, &ToWorker::Commit).await.expect("sent");
        worker.keys_become(&[key(3)]).await;
        assert!(worker.parts.readiness.hears_controller());
    }

    #[tokio::test]
    async fn every_controller_is_told_how_the_intercepts_stand() {
        let worker = LinkRig::new();
        let token = Token([7; 16]);
        let report = InterceptReport { pods: Vec::new(), conflicts: Vec::new() };
        for _ in 0..2 {
            worker.reports.send_replace(InterceptReports::from([(token, report.clone())]));
            let mut controller = worker.controller().await;
            let mut hear = async || {
                timeout(SOON, redir_link::receive(&mut controller, LONGEST_REPORT))
                    .await
                    .expect("in time")
                    .expect("a message")
            };
            let heard = hear().await;
            let told = matches!(&heard, Some(ToController::InterceptReport(uid, told)) if Token::from(*uid) == token && *told == report);
            assert!(told, "{heard:?}");
            assert!(matches!(hear().await, Some(ToController::Commit)));
            worker.reports.send_replace(InterceptReports::new());
            assert!(matches!(hear().await, Some(ToController::Gone(uid)) if Token::from(uid) == token));
        }
    }
}
