//! `redir doctor` on how many intercepts a namespace has, and may have.
//!
//! Owns: asking. Must not judge (`cluster::diagnosis`). Called by: `commands::doctor`.

use k8s_openapi::api::core::v1::ResourceQuota;
use kube::Api;
use kube::api::ListParams;
use redir_api::{Intercept, PLURAL};

use crate::cluster::Cluster;
use crate::cluster::api_call::ApiCall;
use crate::cluster::diagnosis;
use crate::model::check::Check;
use crate::wording::doctor as say;

/// `None` for whoever may not list Intercepts, which is told among the rights.
pub(super) async fn check(cluster: &Cluster) -> Option<Check> {
    let namespace = cluster.namespace.as_str();
    let intercepts: Api<Intercept> = Api::namespaced(cluster.client.clone(), namespace);
    let right = ApiCall::Right("list", PLURAL, Some(namespace));
    let there = cluster.call(right, intercepts.list_metadata(&ListParams::default())).await.ok()?.items.len();
    let quotas: Api<ResourceQuota> = Api::namespaced(cluster.client.clone(), namespace);
    let right = ApiCall::Right("list", "resourcequotas", Some(namespace));
    Some(match cluster.call(right, quotas.list(&ListParams::default())).await {
        Ok(quotas) => diagnosis::quota(namespace, &quotas.items, there),
        Err(_) => Check::note(say::QUOTA, say::not_yours_to_see("resourcequotas")),
    })
}
