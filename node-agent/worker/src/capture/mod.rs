//! The pods that are captured now: listeners, heartbeat, live connections.
//!
//! A capture begins with a pod's first armed port and ends when no port is armed and its last connection is gone; then
//! the pod is released. Steering is decided elsewhere (the registry arms and disarms): this only accepts what arrives.
//! Called by the registry's driver and by `worker::run`; every accepted connection goes to `proxy::serve`.

mod heartbeat;
mod passing;
mod pod;
mod steering;

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use self::{
    heartbeat::MappedHeartbeat,
    pod::{CaptureListeners, Pod},
};
use super::{
    broker::{ArmedPod, Broker, LastProcess},
    metrics::Metrics,
    misses::Misses,
    plan::Plans,
    shares::ConnectionShares,
    shutdown::StopSignals,
    tls::Tls,
    upstream::{BrokenWay, Upstream, UpstreamParts, ports::Ranges, turned::Turned},
};
use redir_config::PodName;

/// What every capture uses.
pub(crate) struct CaptureContext {
    /// Asks the guardian.
    pub(crate) broker: Broker,
    /// What armed ports do.
    pub(crate) plans: Plans,
    /// The figures.
    pub(crate) metrics: Arc<Metrics>,
    /// Who may have how many connections.
    pub(crate) shares: ConnectionShares,
    /// The source ports of the legs to the apps.
    pub(crate) ranges: Ranges,
    /// Who hears that the way to a pod's app is broken.
    pub(crate) broken: mpsc::Sender<BrokenWay>,
    /// What is known of TLS.
    pub(crate) tls: Tls,
    /// Which connections are not read, and why.
    pub(crate) misses: Misses,
    /// Draining and aborting.
    pub(crate) stop: StopSignals,
}

/// What has changed of how a captured pod is to end: `None` if it is not to.
pub(crate) struct EndingNotice {
    pub(crate) pod: PodName,
    pub(crate) last: Option<LastProcess>,
    /// What the guardian was told before.
    before: Option<LastProcess>,
}

/// All captures; cheap to clone.
#[derive(Clone)]
pub(crate) struct PodCaptures(Arc<CapturesInner>);

struct CapturesInner {
    shared: Arc<CaptureContext>,
    pods: Mutex<HashMap<PodName, Arc<Pod>>>,
    tasks: TaskTracker,
}

impl PodCaptures {
    /// No pod yet.
    pub(crate) fn new(shared: CaptureContext) -> Self {
        PodCaptures(Arc::new(CapturesInner {
            shared: Arc::new(shared),
            pods: Mutex::default(),
            tasks: TaskTracker::new(),
        }))
    }

    /// A port of the pod was armed; `first` holds what the guardian hands over with a pod's first port.
    pub(crate) fn armed(&self, name: &PodName, port: u16, first: Option<ArmedPod>) {
        if let Some(armed) = first {
            self.begin(name, armed);
        }
        match self.lock().get(name) {
            Some(pod) => pod.arm(port),
            None => tracing::error!(pod = %name, port, "a port was armed in a pod that is not captured"),
        }
    }

    /// A port of the pod was disarmed; with the last one the capture ends once its connections are gone.
    pub(crate) fn disarmed(&self, name: &PodName, port: u16) {
        if let Some(pod) = self.lock().get(name) {
            pod.disarm(port);
        }
    }

    /// The pods that are captured now.
    pub(crate) fn pods(&self) -> Vec<PodName> {
        self.lock().keys().cloned().collect()
    }

    /// The pod's netns is gone or another, or its last process has ended: its connections are reset and it is released.
    pub(crate) fn abort(&self, name: &PodName) {
        if let Some(pod) = self.lock().get(name) {
            pod.abort();
        }
    }

    /// The captured pods that are to end, or are not to any more, by what is known of each, if that is news. Asking counts as
    /// telling the guardian.
    pub(crate) fn endings(&self, ending: impl Fn(&PodName) -> Option<LastProcess>) -> Vec<EndingNotice> {
        let pods = self.lock();
        let news = pods.values().filter_map(|pod| {
            let last = ending(pod.name());
            let before = pod.watch_ending(last);
            (before != last).then(|| EndingNotice { pod: pod.name().clone(), last, before })
        });
        news.collect()
    }

    /// The guardian could not be told.
    pub(crate) fn untold(&self, news: &EndingNotice) {
        if let Some(pod) = self.lock().get(&news.pod) {
            pod.watch_ending(news.before);
        }
    }

    /// Ends when the pod's capture has, if it was aborted: until its release the guardian arms nothing in the pod that has
    /// taken its place.
    pub(crate) async fn replaced(&self, name: &PodName) {
        let ending = self.lock().get(name).and_then(|pod| pod.ending());
        if let Some(ended) = ending {
            ended.cancelled().await;
        }
    }

    /// The pod has other addresses now.
    pub(crate) fn readdressed(&self, name: &PodName) {
        if let Some(pod) = self.lock().get(name) {
            pod.upstream().readdressed();
        }
    }

    /// A captured pod's legs to its app.
    pub(crate) fn upstream(&self, name: &PodName) -> Option<Upstream> {
        self.lock().get(name).map(|pod| pod.upstream().clone())
    }

    /// Whether the pod is captured, or its capture has not ended yet.
    pub(crate) fn has(&self, name: &PodName) -> bool {
        self.lock().contains_key(name)
    }

    /// Ends when every capture has ended. No new one may begin any more.
    pub(crate) async fn ended(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    fn begin(&self, name: &PodName, armed: ArmedPod) {
        let ArmedPod { listener4, listener6, heartbeat, turned, first_hand, addresses } = armed;
        let started = Turned::map(&turned).and_then(|turned| {
            Ok((MappedHeartbeat::map(&heartbeat)?, CaptureListeners::new(listener4, listener6)?, turned))
        });
        let (heartbeat, listeners, turned) = match started {
            Ok(started) => started,
            Err(error) => {
                // Without a heartbeat nothing is steered: the app keeps its traffic.
                tracing::error!(pod = %name, %error, "could not take over the pod's listeners: its traffic stays with the app");
                return;
            }
        };
        let shared = &self.0.shared;
        let seed = RandomState::new().build_hasher().finish();
        let upstream = Upstream::new(UpstreamParts {
            pod: name.clone(),
            broker: shared.broker.clone(),
            addresses,
            first_hand,
            turned,
            ranges: shared.ranges,
            seed,
            metrics: shared.metrics.clone(),
            descriptors: shared.shares.descriptors().clone(),
            broken: shared.broken.clone(),
        });
        upstream.expect();
        let pod = Arc::new(Pod::new(name.clone(), upstream, shared.clone()));
        self.lock().insert(name.clone(), pod.clone());
        shared.metrics.pods.inc();
        // The first one here: whoever is told that the port is live finds it steered, not only after the loop's start.
        if !shared.stop.draining.is_cancelled() && !pod.share().share_state().passes(true) {
            heartbeat.beat();
        }
        let captures = self.clone();
        self.0.tasks.spawn(async move {
            pod::run(&pod, listeners, heartbeat).await;
            captures.forget(&pod);
        });
    }

    /// Removes an ended capture, unless another has taken its place.
    fn forget(&self, ended: &Arc<Pod>) {
        self.0.shared.metrics.pods.dec();
        let mut pods = self.lock();
        if pods.get(ended.name()).is_some_and(|pod| Arc::ptr_eq(pod, ended)) {
            pods.remove(ended.name());
        }
        drop(pods);
        ended.end();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PodName, Arc<Pod>>> {
        // The map has no half-done state that a panic could leave.
        self.0.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
