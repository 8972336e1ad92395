//! Everything that is in a namespace, whatever kinds the server has.
//!
//! Owns: how it is found, and what of it no person has made. Must not decide what becomes of it. Called by:
//! `commands::uninstall`.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt as _, stream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{APIResource, APIResourceList, ObjectMeta};
use kube::Api;
use kube::api::{DynamicObject, ListParams};
use kube::core::ApiResource;
use redir_api::names;

use super::api_call::{ApiCall, unless};
use super::connect::Cluster;
use crate::model::installation::NamespaceInventory;

/// Lists that are asked for at the same time.
const AT_ONCE: usize = 8;
/// Made by the server, its controllers and its metrics in every namespace.
const EVERYWHERE: [(&str, &str); 3] =
    [("ConfigMap", "kube-root-ca.crt"), ("ConfigMap", "openshift-service-ca.crt"), ("ServiceAccount", "default")];
/// Not objects of their own: what was observed, and what was reported. Group and kind: somebody's own `Event` is an object.
const OBSERVED: [(&str, &str); 5] = [
    ("", "Event"),
    ("events.k8s.io", "Event"),
    ("metrics.k8s.io", "PodMetrics"),
    ("wgpolicyk8s.io", "PolicyReport"),
    ("reports.kyverno.io", "EphemeralReport"),
];
/// The account that a token belongs to, on Secrets that old servers make for each.
const TOKEN_OF: &str = "kubernetes.io/service-account.name";

/// Looks at the namespace. `known` are UIDs of what is known to be in it, `ended` is the group whose objects are ended and
/// waited for by themselves, and whose resource may just be going.
pub(crate) async fn inventory(
    cluster: &Cluster,
    namespace: &str,
    known: &BTreeSet<String>,
    ended: Option<&str>,
) -> NamespaceInventory {
    let mut unknown = Vec::new();
    let kinds = kinds(cluster, ended, &mut unknown).await;
    let lists: Vec<_> = stream::iter(kinds)
        .map(|kind| async move {
            let listed = list(cluster, namespace, &kind).await;
            (kind.kind, listed)
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let mut found = Vec::new();
    for (kind, listed) in lists {
        match listed {
            Ok(objects) => found.extend(objects.into_iter().map(|object| (kind.clone(), object))),
            Err(why) => unknown.push(format!("{kind} ({why})")),
        }
    }
    unknown.sort();
    NamespaceInventory { others: others(&found, known), unknown }
}

/// Each kind once, in the version that the server prefers.
async fn kinds(cluster: &Cluster, ended: Option<&str>, unknown: &mut Vec<String>) -> Vec<ApiResource> {
    let client = &cluster.client;
    let mut kinds = BTreeMap::new();
    let reading = ApiCall::Reading("its resources");
    match cluster.call(reading, client.list_core_api_resources("v1")).await {
        Ok(list) => add(&mut kinds, &list),
        Err(error) => unknown.push(error.to_string()),
    }
    let groups = match cluster.call(reading, client.list_api_groups()).await {
        Ok(groups) => groups.groups,
        Err(error) => {
            unknown.push(error.to_string());
            Vec::new()
        }
    };
    for group in groups.into_iter().filter(|group| Some(group.name.as_str()) != ended) {
        let preferred =
            group.preferred_version.iter().chain(&group.versions).map(|version| version.group_version.clone());
        let mut asked = BTreeSet::new();
        for version in preferred.filter(|version| asked.insert(version.clone())).collect::<Vec<_>>() {
            match resources(cluster, &version).await {
                Ok(Some(list)) => add(&mut kinds, &list),
                // Somebody's resource has gone meanwhile.
                Ok(None) => (),
                Err(why) => unknown.push(format!("{version} ({why})")),
            }
        }
    }
    kinds.into_values().collect()
}

async fn resources(cluster: &Cluster, version: &str) -> Result<Option<APIResourceList>, String> {
    let asked = async { unless(&[404], cluster.client.list_api_group_resources(version).await) };
    cluster.call(ApiCall::Reading("its resources"), asked).await.map_err(|error| error.to_string())
}

/// Those that are in a namespace and can be listed; the first version of each counts.
fn add(kinds: &mut BTreeMap<(String, String), ApiResource>, list: &APIResourceList) {
    let (group, version) = list.group_version.split_once('/').unwrap_or(("", &list.group_version));
    for resource in list.resources.iter().filter(|resource| is_listed(group, resource)) {
        kinds.entry((group.to_owned(), resource.name.clone())).or_insert_with(|| ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version: list.group_version.clone(),
            kind: resource.kind.clone(),
            plural: resource.name.clone(),
        });
    }
}

fn is_listed(group: &str, resource: &APIResource) -> bool {
    resource.namespaced
        && !resource.name.contains('/')
        && resource.verbs.iter().any(|verb| verb == "list")
        && !OBSERVED.contains(&(group, resource.kind.as_str()))
}

async fn list(cluster: &Cluster, namespace: &str, kind: &ApiResource) -> Result<Vec<ObjectMeta>, String> {
    let api: Api<DynamicObject> = Api::namespaced_with(cluster.client.clone(), namespace, kind);
    let parameters = ListParams::default();
    let listed = async { unless(&[404], api.list_metadata(&parameters).await) };
    let list = cluster.call(ApiCall::Admin("list", &kind.plural), listed).await.map_err(|error| error.to_string())?;
    Ok(list.into_iter().flat_map(|list| list.items).map(|object| object.metadata).collect())
}

/// What is neither known, nor everybody's, nor part of something else in the namespace.
fn others(found: &[(String, ObjectMeta)], known: &BTreeSet<String>) -> Vec<String> {
    let seen: BTreeSet<&str> = found.iter().filter_map(|(_, object)| object.uid.as_deref()).collect();
    let is_seen = |uid: &str| seen.contains(uid) || known.contains(uid);
    let is_other = |(kind, object): &&(String, ObjectMeta)| {
        let name = object.name.as_deref().unwrap_or_default();
        let is_known = object.uid.as_ref().is_some_and(|uid| known.contains(uid));
        let is_everywhere = EVERYWHERE.contains(&(kind, name));
        let token_of = object.annotations.as_ref().and_then(|annotations| annotations.get(TOKEN_OF));
        let is_token =
            kind == "Secret" && token_of.is_some_and(|account| account == "default" || account == names::AGENT);
        let is_part = object.owner_references.iter().flatten().any(|owner| is_seen(&owner.uid));
        !(is_known || is_everywhere || is_token || is_part)
    };
    // Some kinds are served by two groups: the same object is told once.
    let mut told = BTreeSet::new();
    let fresh = found
        .iter()
        .filter(is_other)
        .filter(|(_, object)| object.uid.as_ref().is_none_or(|uid| told.insert(uid.clone())));
    let mut others: Vec<String> = fresh
        .map(|(kind, object)| format!("{} {}", kind.to_lowercase(), object.name.as_deref().unwrap_or_default()))
        .collect();
    others.sort();
    others
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn object(kind: &str, name: &str, more: Value) -> (String, ObjectMeta) {
        let mut meta: ObjectMeta = serde_json::from_value(more).unwrap();
        meta.name = Some(name.to_owned());
        meta.uid.get_or_insert_with(|| format!("{kind}-{name}"));
        (kind.to_owned(), meta)
    }

    fn owned_by(uid: &str) -> Value {
        json!({"ownerReferences": [{"apiVersion": "v1", "kind": "K", "name": "n", "uid": uid}]})
    }

    #[test]
    fn what_people_made_is_found_and_what_belongs_to_it_is_not_told_twice() {
        let known = BTreeSet::from(["DaemonSet-redir-agent".to_owned()]);
        let found = [
            object("DaemonSet", "redir-agent", json!({})),
            object("Pod", "redir-agent-x", owned_by("DaemonSet-redir-agent")),
            object("ConfigMap", "kube-root-ca.crt", json!({})),
            object("ServiceAccount", "default", json!({})),
            object("Secret", "default-token-x", json!({"annotations": {TOKEN_OF: "default"}})),
            object("Secret", "pull", json!({})),
            object("Deployment", "web", json!({})),
            object("ReplicaSet", "web-1", owned_by("Deployment-web")),
            object("Pod", "web-1-x", owned_by("ReplicaSet-web-1")),
            object("Ingress", "web", json!({"uid": "i"})),
            object("Ingress", "web", json!({"uid": "i"})),
            object("Pod", "mirror", owned_by("a node's")),
        ];
        let expected = ["deployment web", "ingress web", "pod mirror", "secret pull"];
        assert_eq!(others(&found, &known), expected);
        // The DaemonSet may be gone before what it owned.
        assert_eq!(others(&found[1..5], &known), Vec::<String>::new());
        assert_eq!(others(&found[1..2], &BTreeSet::new()), ["pod redir-agent-x"]);
    }

    #[test]
    fn each_kind_is_listed_once_and_only_if_it_can_be() {
        let list: APIResourceList = serde_json::from_value(json!({"groupVersion": "apps/v1", "resources": [
            {"name": "deployments", "singularName": "", "namespaced": true, "kind": "Deployment", "verbs": ["list"]},
            {"name": "deployments/scale", "singularName": "", "namespaced": true, "kind": "Scale", "verbs": ["list"]},
            {"name": "bindings", "singularName": "", "namespaced": true, "kind": "Binding", "verbs": ["create"]},
            {"name": "nodes", "singularName": "", "namespaced": false, "kind": "Node", "verbs": ["list"]},
        ]}))
        .unwrap();
        let older = APIResourceList { group_version: "apps/v1beta1".into(), ..list.clone() };
        let mut kinds = BTreeMap::new();
        add(&mut kinds, &list);
        add(&mut kinds, &older);
        let kinds: Vec<_> = kinds.into_values().map(|kind| (kind.api_version, kind.plural)).collect();
        assert_eq!(kinds, [("apps/v1".to_owned(), "deployments".to_owned())]);
    }

    #[test]
    fn what_the_server_observes_is_left_out_and_nothing_that_only_has_its_name() {
        let listed = |version: &str, kind: &str| {
            let resource =
                json!({"name": "things", "singularName": "", "namespaced": true, "kind": kind, "verbs": ["list"]});
            let list = json!({"groupVersion": version, "resources": [resource]});
            let mut kinds = BTreeMap::new();
            add(&mut kinds, &serde_json::from_value(list).unwrap());
            !kinds.is_empty()
        };
        for (version, kind) in [
            ("v1", "Event"),
            ("events.k8s.io/v1", "Event"),
            ("metrics.k8s.io/v1beta1", "PodMetrics"),
            ("wgpolicyk8s.io/v1alpha2", "PolicyReport"),
            ("reports.kyverno.io/v1", "EphemeralReport"),
        ] {
            assert!(!listed(version, kind), "{version} {kind}");
            assert!(listed("shows.example.com/v1", kind), "somebody's {kind}");
        }
    }
}
