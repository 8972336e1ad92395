//! Writing to the API server: this agent's entry of a status, Events, and the deletion of what was forgotten.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use redir_api::{AgentStatus, GROUP, Intercept, KIND, VERSION, names};
use serde_json::json;
use tokio::{sync::mpsc, time::timeout};

use super::status::{NoticeKind, WorkloadNotice};
use redir_link::resolved::ObjectId;

/// Puts this node's entry into an Intercept's status, or takes it out.
pub(super) async fn status(
    client: Client,
    node: &str,
    id: &ObjectId,
    entry: Option<&AgentStatus>,
) -> Result<(), WriteError> {
    let api = Api::<Intercept>::namespaced(client, &id.namespace);
    // With the UID another Intercept that has taken the name is not written to.
    let patch = json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": KIND,
        "metadata": {"name": id.name, "uid": id.uid},
        "status": {"agents": entry.into_iter().collect::<Vec<_>>()},
    });
    let params = PatchParams::apply(&names::field_manager(node)).force();
    bounded(api.patch_status(&id.name, &params, &Patch::Apply(&patch))).await.map(drop)
}

/// Deletes an Intercept that nobody has renewed, if it still is as it was known.
pub(super) async fn delete(client: Client, id: &ObjectId, version: Option<String>) -> Result<(), WriteError> {
    let api = Api::<Intercept>::namespaced(client, &id.namespace);
    let preconditions = Preconditions { uid: Some(id.uid.clone()), resource_version: version };
    bounded(api.delete(&id.name, &DeleteParams::default().preconditions(preconditions))).await.map(drop)
}

/// Why nothing was written.
#[derive(Debug)]
pub(super) enum WriteError {
    /// The object is gone, or is not as it was known: what is to be written will be decided anew.
    Outdated,
    /// Anything else.
    Failed(String),
}

async fn bounded<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, WriteError> {
    match timeout(CALL, call).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Err(WriteError::Outdated),
        Ok(Err(error)) => Err(WriteError::Failed(error.to_string())),
        Err(_) => Err(WriteError::Failed(format!("the API server did not answer within {CALL:?}"))),
    }
}

/// Publishes notices until nobody has any more.
pub(super) async fn events(client: Client, node: String, mut notices: mpsc::Receiver<WorkloadNotice>) {
    let reporter = Reporter { controller: names::REPORTER.to_owned(), instance: Some(names::field_manager(&node)) };
    let recorder = Recorder::new(client, reporter);
    while let Some(notice) = notices.recv().await {
        let (event, beside) = event(&notice);
        match timeout(CALL, recorder.publish(&event, &beside)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "an Event could not be published"),
            Err(_) => tracing::warn!("an Event could not be published: the API server did not answer"),
        }
    }
}

fn event(WorkloadNotice { workload, intercept, kind, note }: &WorkloadNotice) -> (Event, ObjectReference) {
    let (type_, reason, action) = match kind {
        NoticeKind::Started => (EventType::Normal, "Intercepted", "Intercept"),
        NoticeKind::Ended => (EventType::Normal, "InterceptEnded", "Release"),
        NoticeKind::Refused => (EventType::Warning, "InterceptRefused", "Intercept"),
    };
    let own = ObjectReference {
        api_version: Some(format!("{GROUP}/{VERSION}")),
        kind: Some(KIND.to_owned()),
        name: Some(intercept.name.clone()),
        namespace: Some(intercept.namespace.clone()),
        uid: Some(intercept.uid.clone()),
        ..ObjectReference::default()
    };
    let beside = workload.as_ref().map(|workload| ObjectReference {
        api_version: Some(workload.api_version.clone()),
        kind: Some(workload.kind.clone()),
        name: Some(workload.name.clone()),
        namespace: Some(intercept.namespace.clone()),
        uid: Some(workload.uid.clone()),
        ..ObjectReference::default()
    });
    let mut note = note.clone();
    note.truncate(note.floor_char_boundary(NOTE));
    let secondary = beside.is_some().then(|| own.clone());
    let event = Event { type_, reason: reason.into(), note: Some(note), action: action.into(), secondary };
    (event, beside.unwrap_or(own))
}

/// How long one call may take.
const CALL: Duration = Duration::from_secs(10);
/// Bytes of an Event's note; Kubernetes allows 1024.
const NOTE: usize = 1000;

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::{Arc, Mutex},
    };

    use http::{Request, Response};
    use http_body_util::BodyExt as _;
    use kube::client::Body;
    use serde_json::Value;

    use super::*;
    use redir_link::resolved::WorkloadRef;

    /// Method, path and body of each request.
    type SeenRequests = Arc<Mutex<Vec<(String, Value)>>>;

    /// A client whose requests are kept, and answered with this status code.
    fn client(code: u16) -> (Client, SeenRequests) {
        let seen = SeenRequests::default();
        let kept = seen.clone();
        let answer = move |request: Request<Body>| {
            let kept = kept.clone();
            async move {
                let line = format!("{} {}", request.method(), request.uri().path());
                let body = request.into_body().collect().await.unwrap().to_bytes();
                kept.lock().unwrap().push((line, serde_json::from_slice(&body).unwrap()));
                let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "code": code});
                let body = http_body_util::Full::new(bytes::Bytes::from(status.to_string()));
                Ok::<_, Infallible>(Response::builder().status(code).body(body).unwrap())
            }
        };
        (Client::new(tower::service_fn(answer), "default"), seen)
    }

    fn id() -> ObjectId {
        ObjectId { namespace: "shop".into(), name: "i1".into(), uid: "u1".into() }
    }

    #[tokio::test]
    async fn only_the_intercept_that_was_not_renewed_is_deleted() {
        let (client, seen) = client(200);
        delete(client, &id(), Some("7".into())).await.unwrap();
        let seen = seen.lock().unwrap();
        let [(line, body)] = &seen[..] else { panic!("{seen:?}") };
        assert_eq!(line, "DELETE /apis/redir.dev/v1alpha1/namespaces/shop/intercepts/i1");
        // Renewed in the last moment it has another version; made anew under the same name, another UID.
        assert_eq!(body["preconditions"], json!({"uid": "u1", "resourceVersion": "7"}));
    }

    /// The policy on them lets no others pass.
    #[test]
    fn every_event_has_a_reason_that_is_known_and_names_its_intercept() {
        let workload = WorkloadRef {
            api_version: "apps/v1".into(),
            kind: "Deployment".into(),
            name: "web".into(),
            uid: "u2".into(),
        };
        for kind in [NoticeKind::Started, NoticeKind::Ended, NoticeKind::Refused] {
            for workload in [None, Some(workload.clone())] {
                let (event, regarding) =
                    event(&WorkloadNotice { workload, intercept: id(), kind, note: String::new() });
                assert!(names::EVENT_REASONS.contains(&event.reason.as_str()), "{}", event.reason);
                let about = [Some(&regarding), event.secondary.as_ref()];
                assert!(about.into_iter().flatten().any(|about| about.kind.as_deref() == Some(KIND)));
            }
        }
    }

    #[tokio::test]
    async fn an_intercept_that_has_changed_is_decided_anew() {
        for code in [404, 409] {
            let deleted = delete(client(code).0, &id(), Some("7".into())).await;
            assert!(matches!(deleted, Err(WriteError::Outdated)), "{code}: {deleted:?}");
        }
        let deleted = delete(client(403).0, &id(), Some("7".into())).await;
        assert!(matches!(deleted, Err(WriteError::Failed(_))), "{deleted:?}");
    }
}
