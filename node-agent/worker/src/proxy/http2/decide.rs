//! Whom one request is for.
//!
//! Pure: a request's head and the plan of the moment in, an origin out. Called by `serving` once for each stream.

use std::sync::Arc;

use http::{header, request::Parts};

use crate::plan::{Intercept, Plan};

/// Who answers a request.
pub(super) enum To {
    /// The app in the pod.
    App,
    /// The developer of an intercept.
    Developer(Arc<Intercept>),
}

/// Whom the request is for. What is too much to be looked at goes to the app.
pub(super) fn decide(plan: Option<&Plan>, head: &Parts) -> To {
    let Some(plan) = plan else { return To::App };
    if plan.probes_to_app && is_probe(head) {
        return To::App;
    }
    let target = head.uri.path_and_query().map_or("", |target| target.as_str());
    // `:authority` is what `Host` was (RFC 9113, 8.3.1).
    let host = head.uri.authority().filter(|_| !head.headers.contains_key(header::HOST));
    let host = host.map(|host| (&b"host"[..], host.as_str().as_bytes()));
    let fields = head.headers.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
    let index = plan.table.decide_parts(head.method.as_str().as_bytes(), target.as_bytes(), fields.chain(host));
    let key = index.ok().flatten().and_then(|index| plan.table.key(index));
    key.and_then(|key| plan.intercept(key)).map_or(To::App, |intercept| To::Developer(intercept.clone()))
}

/// The kubelet's probes, of HTTP and of gRPC.
fn is_probe(head: &Parts) -> bool {
    head.headers.get(header::USER_AGENT).is_some_and(|agent| agent.as_bytes().starts_with(b"kube-probe/"))
}
