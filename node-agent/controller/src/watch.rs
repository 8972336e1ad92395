//! Listening to the API server: lists, watches, and the few objects that are asked for by name.
//!
//! Owns reconnection: an error, an outdated watch (410) or a broken connection leads to another try, ever less often,
//! and what was known stays until something newer is. A list counts once it is whole.

use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use k8s_openapi::api::{
    apps::v1::ReplicaSet,
    core::v1::{Pod, Service},
};
use kube::{
    Api, Client,
    core::{ApiResource, DynamicObject},
    runtime::watcher::{self, Event, watch_object, watcher},
};
use redir_api::Intercept;
use tokio::{sync::mpsc::Sender, time::sleep};

use super::{
    api_server::ApiServer,
    facts::{InterceptFacts, OwnerController, PodFacts, ServiceFacts},
    jitter::jittered,
    world::{ClusterChange, ObjectName},
};
use redir_config::PodName;

/// What a listener says.
#[derive(Debug)]
pub(super) enum WatchEvent {
    /// Something has become known.
    Change(ClusterChange),
    /// The API server cannot be heard now.
    Nothing,
}

/// Listens to the pods of a node.
pub(super) async fn pods(client: Client, server: ApiServer, node: String, heard: Sender<WatchEvent>) {
    let config = watch_config().fields(&format!("spec.nodeName={node}"));
    let kind = WatchedKind {
        what: "pods",
        read: PodFacts::read,
        one: |pod| ClusterChange::Pod(Box::new(pod)),
        gone: |pod: &Pod| Some(ClusterChange::PodGone(PodName::new(pod.metadata.uid.as_deref()?).ok()?)),
        all: ClusterChange::Pods,
    };
    follow(watcher(Api::<Pod>::all(client), config), kind, server, heard).await;
}

/// Listens to the Intercepts of all namespaces. One that cannot be read must not hide the others: each is read by itself.
pub(super) async fn intercepts(client: Client, server: ApiServer, node: String, heard: Sender<WatchEvent>) {
    let resource = ApiResource::erase::<Intercept>(&());
    let api = Api::<DynamicObject>::all_with(client, &resource);
    let kind = WatchedKind {
        what: "intercepts",
        read: |object: &DynamicObject| match object.clone().try_parse::<Intercept>() {
            Ok(intercept) => InterceptFacts::read(&intercept, &node),
            Err(error) => {
                let name = object.metadata.name.as_deref().unwrap_or_default();
                tracing::warn!(name, %error, "an Intercept cannot be read and is left alone");
                None
            }
        },
        one: |intercept| ClusterChange::Intercept(Box::new(intercept)),
        gone: |object: &DynamicObject| {
            redir_api::token(object.metadata.uid.as_deref()?).map(ClusterChange::InterceptGone)
        },
        all: ClusterChange::Intercepts,
    };
    follow(watcher(api, watch_config()), kind, server, heard).await;
}

/// How one kind of object becomes known.
struct WatchedKind<R, O, G, A> {
    what: &'static str,
    read: R,
    one: O,
    gone: G,
    all: A,
}

async fn follow<K, T, R, O, G, A>(
    stream: impl Stream<Item = watcher::Result<Event<K>>>,
    kind: WatchedKind<R, O, G, A>,
    server: ApiServer,
    heard: Sender<WatchEvent>,
) where
    R: Fn(&K) -> Option<T>,
    O: Fn(T) -> ClusterChange,
    G: Fn(&K) -> Option<ClusterChange>,
    A: Fn(Vec<T>) -> ClusterChange,
{
    let mut stream = std::pin::pin!(stream);
    let mut list = Vec::new();
    let mut pause = RetryPause::new(kind.what, server);
    while let Some(event) = stream.next().await {
        let change = match event {
            Err(error) => {
                if heard.send(WatchEvent::Nothing).await.is_err() {
                    return;
                }
                pause.after(&error).await;
                continue;
            }
            Ok(Event::Init) => {
                list.clear();
                continue;
            }
            Ok(Event::InitApply(object)) => {
                list.extend((kind.read)(&object));
                continue;
            }
            Ok(Event::InitDone) => Some((kind.all)(std::mem::take(&mut list))),
            Ok(Event::Apply(object)) => (kind.read)(&object).map(&kind.one).or_else(|| (kind.gone)(&object)),
            Ok(Event::Delete(object)) => (kind.gone)(&object),
        };
        pause.over();
        let Some(change) = change else { continue };
        if heard.send(WatchEvent::Change(change)).await.is_err() {
            return;
        }
    }
}

/// Listens to one Service.
pub(super) async fn service(client: Client, server: ApiServer, named: ObjectName, heard: Sender<WatchEvent>) {
    let api = Api::<Service>::namespaced(client, &named.0);
    let mut stream = std::pin::pin!(watch_object(api, &named.1));
    let mut pause = RetryPause::new("services", server);
    while let Some(event) = stream.next().await {
        match event {
            Ok(service) => {
                pause.over();
                let service = service.as_ref().and_then(ServiceFacts::read);
                if heard.send(WatchEvent::Change(ClusterChange::Service(named.clone(), service))).await.is_err() {
                    return;
                }
            }
            Err(error) => pause.after(&error).await,
        }
    }
}

/// Asks who controls a ReplicaSet, until there is an answer.
pub(super) async fn owner(
    client: Client,
    server: ApiServer,
    uid: String,
    (namespace, name): ObjectName,
    heard: Sender<WatchEvent>,
) {
    let api = Api::<ReplicaSet>::namespaced(client, &namespace);
    let mut pause = RetryPause::new("replicasets", server);
    loop {
        let owner = match api.get_metadata_opt(&name).await {
            Ok(Some(set)) if set.metadata.uid.as_deref() == Some(&*uid) => OwnerController::of(&set.metadata),
            // It is gone, or another has its name.
            Ok(_) => None,
            Err(error) => {
                pause.after(&error).await;
                continue;
            }
        };
        // A receiver that is gone has ended for another reason.
        heard.send(WatchEvent::Change(ClusterChange::Owner(uid, owner))).await.ok();
        return;
    }
}

/// Time between tries, longer with each, and one log line for a row of failures. It begins anew once the API server is heard
/// again, by whomever.
struct RetryPause {
    what: &'static str,
    server: ApiServer,
    next: Duration,
    /// The server's, when the row of failures began.
    returns: u64,
}

impl RetryPause {
    fn new(what: &'static str, server: ApiServer) -> Self {
        let returns = server.returns();
        Self { what, server, next: FIRST_PAUSE, returns }
    }

    async fn after(&mut self, error: &impl std::fmt::Display) {
        // It may have come back while this try failed.
        let returns = self.server.returns();
        if std::mem::replace(&mut self.returns, returns) != returns {
            self.next = FIRST_PAUSE;
        }
        // That nothing at all is heard is told once, by the server.
        if self.next == FIRST_PAUSE && self.server.is_heard() {
            tracing::warn!(what = self.what, %error, "cannot be listed or watched; what is known stays in force");
        } else {
            tracing::debug!(what = self.what, %error, "cannot be listed or watched yet");
        }
        tokio::select! {
            () = sleep(jittered(self.next)) => self.next = (self.next * 2).min(LONGEST_PAUSE),
            () = self.server.heard_again() => self.next = FIRST_PAUSE,
        }
    }

    fn over(&mut self) {
        self.next = FIRST_PAUSE;
    }
}

fn watch_config() -> watcher::Config {
    watcher::Config::default().timeout(WATCH_SECONDS).page_size(PAGE)
}

/// How long a watch is held; a connection that has died silently is noticed five seconds later.
const WATCH_SECONDS: u32 = 60;
/// Objects in one answer, of up to a mebibyte and more each.
const PAGE: u32 = 16;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Of a server that answers, and not what was asked for: one that does not answer at all is looked for more often.
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
