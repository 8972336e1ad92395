//! One Intercept in the API server, from its making to its deletion: renewed, watched, made again after a long sleep.
//!
//! Owns: the object. Must not dial agents or decide when redir ends. Called by: `commands::intercept`.
//!
//! While the API server is away nothing changes: tunnels go on, and agents keep the Intercept for [`names::EXPIRE_AFTER`].

use std::pin::pin;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions, WatchEvent, WatchParams};
use redir_api::{Intercept, PLURAL, names};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::api_call::{ApiCall, explain, is_code};
use super::connect::Cluster;
use super::creation::create;
use super::rights;
use super::template::{InterceptTemplate, renewed};
use crate::error::CliError;
use crate::link::backoff::Backoff;
use crate::link::clock::ClockWatch;
use crate::wording::cluster as say;

/// No answer takes longer.
const CALL: Duration = Duration::from_secs(10);
/// The end does not wait longer for the API server: what is left expires.
const DELETE: Duration = Duration::from_secs(5);
/// How often clocks are looked at.
const TICK: Duration = Duration::from_millis(500);
/// Before load balancers that end idle connections after 5 minutes do.
const WATCH_SECONDS: u32 = 290;
/// News that may wait: only the last state counts, and it comes again.
const QUEUE: usize = 64;

/// What happened to the object.
#[derive(Debug)]
pub(crate) enum LeaseEvent {
    /// How it stands now.
    Changed(Box<Intercept>),
    /// It had expired while nobody could renew it, and this new one is in its place.
    Recreated(Box<Intercept>),
    /// Somebody deleted it.
    Deleted,
    /// It has expired and cannot be made again; why.
    Failed(String),
    /// The API server does not answer; for people.
    ApiServerAway(String),
    /// It answers again.
    ApiServerBack,
}

/// The object, for as long as it is wanted. Dropping it stops renewing and leaves the object to expire.
pub(crate) struct Lease {
    cluster: Cluster,
    name: String,
    uid: Option<String>,
    news: mpsc::Receiver<LeaseEvent>,
    keeper: JoinHandle<()>,
}

impl Lease {
    /// Makes the object.
    pub(crate) async fn start(cluster: &Cluster, template: InterceptTemplate) -> Result<(Self, Intercept), CliError> {
        let api: Api<Intercept> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
        let right = ApiCall::Right("create", PLURAL, Some(&cluster.namespace));
        let wanted = template.object()?;
        let made = match timeout(CALL, create(&api, &wanted)).await {
            Ok(made) => made.map_err(|error| explain(&cluster.server, &right, &error)),
            // It may have been made nevertheless: asked again, the server says so, and none is left behind.
            Err(_) => cluster.call(right, create(&api, &wanted)).await,
        };
        let object = match made {
            Ok(object) => object,
            Err(error) => return Err(explain_refusal(cluster, &template, error).await),
        };
        let (sender, news) = mpsc::channel(QUEUE);
        let keeper = LeaseKeeper {
            cluster: cluster.clone(),
            api,
            template,
            news: sender,
            object: object.clone(),
            clocks: ClockWatch::new(SystemTime::now(), std::time::Instant::now()),
            renewed: Instant::now(),
            renewed_wall: SystemTime::now(),
            is_away: false,
        };
        let lease = Self {
            cluster: cluster.clone(),
            name: object.metadata.name.clone().unwrap_or_default(),
            uid: object.metadata.uid.clone(),
            news,
            keeper: tokio::spawn(keeper.run()),
        };
        Ok((lease, object))
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Waits for news. Cancel-safe.
    pub(crate) async fn next(&mut self) -> LeaseEvent {
        let news = self.news.recv().await;
        if let Some(LeaseEvent::Recreated(object)) = &news {
            self.name = object.metadata.name.clone().unwrap_or_default();
            self.uid.clone_from(&object.metadata.uid);
        }
        match news {
            Some(news) => news,
            // The keeper ends after news that end the intercept.
            None => std::future::pending().await,
        }
    }

    /// Deletes the object; `Err` is a sentence for people.
    pub(crate) async fn end(self) -> Result<(), String> {
        self.keeper.abort();
        let api: Api<Intercept> = Api::namespaced(self.cluster.client.clone(), &self.cluster.namespace);
        let preconditions = Preconditions { uid: self.uid.clone(), resource_version: None };
        let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match timeout(DELETE, api.delete(&self.name, &parameters)).await {
            Ok(Ok(_)) => Ok(()),
            // 409: another one has its name.
            Ok(Err(error)) if is_code(&error, 404) || is_code(&error, 409) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(say::not_deleted(&self.name, &self.cluster.namespace)),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// A refused object's trouble, with the right that is missing.
async fn explain_refusal(cluster: &Cluster, template: &InterceptTemplate, error: CliError) -> CliError {
    rights::explained(cluster, &template.target, template.flushes_beside_a_filter(), error).await
}

/// Why a watch is over.
enum WatchEnd {
    /// To be read again.
    Broken,
    /// The object is gone.
    TunnelError,
    /// Nobody wants news any more.
    Unwanted,
}

struct LeaseKeeper {
    cluster: Cluster,
    api: Api<Intercept>,
    template: InterceptTemplate,
    news: mpsc::Sender<LeaseEvent>,
    object: Intercept,
    clocks: ClockWatch,
    renewed: Instant,
    renewed_wall: SystemTime,
    /// Whether the API server's silence was told.
    is_away: bool,
}

impl LeaseKeeper {
    async fn run(mut self) {
        loop {
            let end = match self.watch().await {
                WatchEnd::Broken => self.read_again().await,
                other => other,
            };
            match end {
                WatchEnd::Broken => (),
                WatchEnd::TunnelError if self.again().await => (),
                WatchEnd::TunnelError | WatchEnd::Unwanted => return,
            }
        }
    }

    fn name(&self) -> String {
        self.object.metadata.name.clone().unwrap_or_default()
    }

    /// Follows the object from its last known version, and renews it meanwhile.
    async fn watch(&mut self) -> WatchEnd {
        let parameters =
            WatchParams::default().fields(&format!("metadata.name={}", self.name())).timeout(WATCH_SECONDS);
        let version = self.object.metadata.resource_version.clone().unwrap_or_default();
        let Ok(Ok(events)) = timeout(CALL, self.api.watch(&parameters, &version)).await else {
            return WatchEnd::Broken;
        };
        let mut events = pin!(events);
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let end = tokio::select! {
                event = events.next() => match event {
                    Some(Ok(WatchEvent::Added(object) | WatchEvent::Modified(object))) => self.seen(object).await,
                    Some(Ok(WatchEvent::Deleted(_))) => Some(WatchEnd::TunnelError),
                    Some(Ok(WatchEvent::Bookmark(_))) => None,
                    Some(Ok(WatchEvent::Error(_)) | Err(_)) | None => Some(WatchEnd::Broken),
                },
                _ = tick.tick() => self.tick().await,
                () = self.news.closed() => Some(WatchEnd::Unwanted),
            };
            if let Some(end) = end {
                return end;
            }
        }
    }

    async fn tick(&mut self) -> Option<WatchEnd> {
        let jumped = self.clocks.jumped(SystemTime::now(), std::time::Instant::now());
        if !jumped && self.renewed.elapsed() < names::RENEW_EVERY {
            return None;
        }
        match self.renew().await {
            Ok(()) if jumped => Some(WatchEnd::Broken),
            Ok(()) => None,
            Err(end) => Some(end),
        }
    }

    /// Says that redir is still there.
    async fn renew(&mut self) -> Result<(), WatchEnd> {
        let patch = json!({"metadata": {"annotations": renewed()}});
        let name = self.name();
        match timeout(CALL, self.api.patch_metadata(&name, &PatchParams::default(), &Patch::Merge(&patch))).await {
            Ok(Ok(_)) => {
                (self.renewed, self.renewed_wall) = (Instant::now(), SystemTime::now());
                Ok(())
            }
            Ok(Err(error)) if is_code(&error, 404) => Err(WatchEnd::TunnelError),
            Ok(Err(_)) | Err(_) => Err(WatchEnd::Broken),
        }
    }

    /// Reads the object until the server answers.
    async fn read_again(&mut self) -> WatchEnd {
        let mut backoff = Backoff::new();
        loop {
            match timeout(CALL, self.api.get_opt(&self.name())).await {
                Ok(Ok(Some(object))) if object.metadata.uid == self.object.metadata.uid => {
                    self.tell_away(None).await;
                    return self.seen(object).await.unwrap_or(WatchEnd::Broken);
                }
                Ok(Ok(_)) => return WatchEnd::TunnelError,
                Ok(Err(error)) => {
                    let why = explain(
                        &self.cluster.server,
                        &ApiCall::Right("get", PLURAL, Some(&self.cluster.namespace)),
                        &error,
                    );
                    self.tell_away(Some(why.to_string())).await;
                }
                Err(_) => self.tell_away(Some(say::no_answer(&self.cluster.server, CALL))).await,
            }
            tokio::select! {
                () = sleep(backoff.wait()) => (),
                () = self.news.closed() => return WatchEnd::Unwanted,
            }
        }
    }

    async fn seen(&mut self, object: Intercept) -> Option<WatchEnd> {
        self.object = object.clone();
        self.tell(LeaseEvent::Changed(Box::new(object))).await
    }

    /// Makes the object again if it may have expired; else somebody deleted it. False: that was the end.
    async fn again(&mut self) -> bool {
        let silence = SystemTime::now().duration_since(self.renewed_wall).unwrap_or_default();
        let expired = silence.max(self.renewed.elapsed()) + 2 * names::RENEW_EVERY > names::EXPIRE_AFTER;
        if !expired {
            self.tell(LeaseEvent::Deleted).await;
            return false;
        }
        let mut backoff = Backoff::new();
        loop {
            let right = ApiCall::Right("create", PLURAL, Some(&self.cluster.namespace));
            let object = match self.template.object() {
                Ok(object) => object,
                Err(error) => return self.failed(error).await,
            };
            match timeout(CALL, create(&self.api, &object)).await {
                Ok(Ok(object)) => {
                    (self.renewed, self.renewed_wall) = (Instant::now(), SystemTime::now());
                    self.object = object.clone();
                    return self.tell(LeaseEvent::Recreated(Box::new(object))).await.is_none();
                }
                Ok(Err(error @ kube::Error::Api(_))) => {
                    let error = explain(&self.cluster.server, &right, &error);
                    return self.failed(explain_refusal(&self.cluster, &self.template, error).await).await;
                }
                // The network may come back later than the machine woke up.
                Ok(Err(_)) | Err(_) => sleep(backoff.wait()).await,
            }
        }
    }

    async fn failed(&self, error: CliError) -> bool {
        self.tell(LeaseEvent::Failed(error.to_string())).await;
        false
    }

    async fn tell_away(&mut self, why: Option<String>) {
        let news = match (&why, self.is_away) {
            (Some(why), false) => LeaseEvent::ApiServerAway(say::api_away(why)),
            (None, true) => LeaseEvent::ApiServerBack,
            (Some(_), true) | (None, false) => return,
        };
        self.is_away = why.is_some();
        self.tell(news).await;
    }

    async fn tell(&self, news: LeaseEvent) -> Option<WatchEnd> {
        self.news.send(news).await.is_err().then_some(WatchEnd::Unwanted)
    }
}
