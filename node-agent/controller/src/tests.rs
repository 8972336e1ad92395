//! The control plane against hand-written clusters, and against generated orders of events.

mod admission;
mod generated;
mod status;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::{Pod, Service};
use redir_api::{AgentState, Intercept, PodState, limits::MOST_OF_NAMESPACE, names::EXPIRE_AFTER};
use redir_config::{
    PodName,
    certificates::{Certificates, Pair},
};
use redir_ipc::{FirstHand, PodPermission};
use redir_link::{
    ConflictReport, InterceptReport, InterceptReports, PodInterceptReport,
    resolved::{InterceptedRequests, PodObstacle, ResolvedCluster},
};
use redir_tunnel::Pin;
use redir_wire::{InterceptRequest, Probes, Selector, Token};
use redir_worker::control::InterceptPolicy as _;
use serde_json::{Value, json};

use super::{
    admission::MOST_REFUSED_OF_NAMESPACE,
    facts::{InterceptFacts, OwnerController, PodFacts, ServiceFacts},
    permissions::permissions,
    renewals::LeaseRenewals,
    resolve::resolve,
    secrets,
    status::{AgentEntry, NoticeKind, ReportedEvents, WorkloadNotice, entries},
    world::{ClusterChange, ClusterState},
    writes::{MOST_UNDER_WAY, WriteQueue},
};

const NODE: &str = "n1";

fn uid(number: u64) -> String {
    format!("00000000-0000-4000-8000-{number:012x}")
}

fn key(number: u8) -> Pin {
    Pin::of_spki(&[number])
}

/// A running pod of namespace `shop`, changed by `with`.
fn pod(number: u64, name: &str, with: &Value) -> PodFacts {
    let mut pod = json!({
        "metadata": {"namespace": "shop", "name": name, "uid": uid(number), "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "app", "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIPs": [{"ip": format!("10.0.0.{number}")}]},
    });
    merge(&mut pod, with);
    PodFacts::read(&serde_json::from_value::<Pod>(pod).unwrap()).unwrap()
}

fn owned(kind: &str, name: &str, number: u64) -> Value {
    let version = if kind == "Job" { "batch/v1" } else { "apps/v1" };
    let owner = json!({"apiVersion": version, "kind": kind, "name": name, "uid": uid(number), "controller": true});
    json!({"metadata": {"ownerReferences": [owner]}})
}

/// An Intercept of namespace `shop` by developer 1, changed by `with`.
fn intercept(number: u64, spec: &Value, with: &Value) -> InterceptFacts {
    let mut intercept = json!({
        "apiVersion": "redir.dev/v1alpha1", "kind": "Intercept",
        "metadata": {
            "namespace": "shop", "name": format!("i{number}"), "uid": uid(number), "generation": 1,
            "resourceVersion": "7", "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {"port": "8080", "developerKey": key(1).to_string(), "user": "alice", "to": "127.0.0.1:3000"},
    });
    merge(&mut intercept["spec"], spec);
    merge(&mut intercept, with);
    InterceptFacts::read(&serde_json::from_value::<Intercept>(intercept).unwrap(), NODE).unwrap()
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

fn merged(one: &Value, other: &Value) -> Value {
    let mut merged = one.clone();
    merge(&mut merged, other);
    merged
}

fn target(kind: &str, name: &str) -> Value {
    json!({"target": {"kind": kind, "name": name}})
}

fn world(pods: Vec<PodFacts>, intercepts: Vec<InterceptFacts>) -> ClusterState {
    let mut world = ClusterState::default();
    world.take(ClusterChange::Pods(pods));
    world.take(ClusterChange::Intercepts(intercepts));
    world
}

/// The pods of the only Intercept, and their ports.
fn places(world: &ClusterState) -> Vec<(String, Result<u16, PodObstacle>)> {
    let (resolved, _) = resolve(world);
    let one = resolved.intercepts.into_values().next().unwrap();
    one.places.into_iter().map(|place| (place.pod.bare().to_owned(), place.port)).collect()
}

fn names_of(world: &ClusterState) -> Vec<String> {
    places(world).into_iter().map(|(name, _)| name).collect()
}

#[test]
fn certificates_are_those_that_an_intercepted_pod_mounts() {
    let mounts = json!({"spec": {"volumes": [
        {"name": "a", "secret": {"secretName": "web-tls"}},
        {"name": "b", "projected": {"sources": [{"secret": {"name": "more-tls"}}, {"configMap": {"name": "web"}}]}},
        {"name": "c", "configMap": {"name": "web"}},
    ]}});
    let (plain, other) =
        (pod(2, "b", &json!({})), pod(3, "c", &merged(&mounts, &json!({"metadata": {"labels": {"app": "db"}}}))));
    let web = json!({"selector": {"matchLabels": {"app": "web"}}});
    let mut world = world(vec![pod(1, "a", &mounts), plain, other], vec![intercept(50, &web, &json!({}))]);
    let needs = resolve(&world).1.secrets;
    let names = BTreeSet::from(["more-tls".to_owned(), "web-tls".to_owned()]);
    assert_eq!(needs, BTreeMap::from([("shop".to_owned(), names)]));
    let certificates = |world: &ClusterState| secrets::certificates(world, &resolve(world).0);
    assert_eq!(certificates(&world), Certificates::default());
    let pair = Pair { chain: "chain".into(), key: "key".into() };
    let granted = BTreeMap::from([("web-tls".to_owned(), pair.clone()), ("unmounted".to_owned(), pair.clone())]);
    world.take(ClusterChange::Secrets("bank".into(), granted.clone()));
    assert_eq!(certificates(&world), Certificates::default(), "another namespace's are nobody's here");
    world.take(ClusterChange::Secrets("shop".into(), granted));
    let at = (PodName::of_uid(&uid(1), "shop", "a").unwrap(), 8080);
    assert_eq!(certificates(&world), Certificates(BTreeMap::from([(at, vec![pair])])));
    world.take(ClusterChange::Intercepts(Vec::new()));
    world.forget(&resolve(&world).1);
    assert_eq!((certificates(&world), world.secrets.len()), (Certificates::default(), 0));
}

/// The intercept is of midnight; a deletion is written down with the end of its grace period.
#[test]
fn a_pod_that_ends_gets_no_new_intercepts() {
    let ends = |number: u64, name: &str, gone_by: &str, grace: u64| {
        pod(number, name, &json!({"metadata": {"deletionTimestamp": gone_by, "deletionGracePeriodSeconds": grace}}))
    };
    let pods = vec![
        ends(1, "before", "2026-01-01T00:00:29Z", 30),
        ends(2, "same-second", "2026-01-01T00:00:30Z", 30),
        ends(3, "after", "2026-01-01T00:00:31Z", 30),
        ends(4, "at-once", "2025-12-31T23:59:59Z", 0),
    ];
    let all = json!({"selector": {"matchLabels": {"app": "web"}}});
    assert_eq!(names_of(&world(pods, vec![intercept(50, &all, &json!({}))])), ["after"]);
}

#[test]
fn a_target_is_followed_by_owner_references() {
    for kind in ["StatefulSet", "DaemonSet", "ReplicaSet", "Job"] {
        let pods = vec![
            pod(1, "a", &owned(kind, "web", 90)),
            pod(2, "b", &owned(kind, "other", 91)),
            pod(3, "c", &json!({})),
            pod(4, "d", &owned("Job", "web", 92)),
        ];
        let expected: &[&str] = if kind == "Job" { &["a", "d"] } else { &["a"] };
        assert_eq!(names_of(&world(pods, vec![intercept(50, &target(kind, "web"), &json!({}))])), expected, "{kind}");
    }
}

#[test]
fn a_deployment_is_found_once_its_replica_set_is_known() {
    let pods = vec![pod(1, "a", &owned("ReplicaSet", "web-1", 90)), pod(2, "b", &owned("ReplicaSet", "x-1", 91))];
    let mut world = world(pods, vec![intercept(50, &target("Deployment", "web"), &json!({}))]);
    let (_, needs) = resolve(&world);
    assert_eq!(needs.owners.len(), 2);
    assert_eq!(needs.owners[&uid(90)], ("shop".to_owned(), "web-1".to_owned()));
    assert_eq!(names_of(&world), [""; 0]);
    let owner = |kind: &str, group: &str, name: &str| OwnerController {
        api_version: format!("{group}/v1"),
        kind: kind.into(),
        name: name.into(),
        uid: uid(80),
    };
    world.take(ClusterChange::Owner(uid(90), Some(owner("Deployment", "apps", "web"))));
    world.take(ClusterChange::Owner(uid(91), None));
    assert_eq!(names_of(&world), ["a"]);
    let (resolved, _) = resolve(&world);
    let workload = resolved.intercepts.into_values().next().unwrap().workload.unwrap();
    assert_eq!((&*workload.kind, &*workload.name, workload.uid), ("Deployment", "web", uid(80)));
    // A ReplicaSet of that name which somebody else controls is no Deployment's.
    world.take(ClusterChange::Owner(uid(90), Some(owner("Deployment", "evil.example", "web"))));
    assert_eq!(names_of(&world), [""; 0]);
    world.take(ClusterChange::Intercepts(vec![intercept(50, &target("Rollout", "web"), &json!({}))]));
    world.take(ClusterChange::Owner(uid(90), Some(owner("Rollout", "argoproj.io", "web"))));
    assert_eq!(names_of(&world), ["a"]);
}

#[test]
fn a_service_selects_and_names_ports() {
    let service = |ports: Value| {
        let service = json!({"metadata": {"uid": uid(70)}, "spec": {"selector": {"app": "web"}, "ports": ports}});
        ServiceFacts::read(&serde_json::from_value::<Service>(service).unwrap())
    };
    let named = ("shop".to_owned(), "web".to_owned());
    let pods = vec![pod(1, "a", &json!({})), pod(2, "b", &json!({"metadata": {"labels": {"app": "db"}}}))];
    let spec = |port: &str| {
        let mut spec = target("Service", "web");
        spec["port"] = json!(port);
        spec
    };
    let mut world = world(pods, vec![intercept(50, &spec("http"), &json!({}))]);
    let (_, needs) = resolve(&world);
    assert!(needs.services.contains(&named));
    assert_eq!(names_of(&world), [""; 0]);
    let ports = json!([{"name": "http", "port": 80, "targetPort": "http"}, {"name": "raw", "port": 81},
                       {"name": "udp", "port": 82, "protocol": "UDP"}]);
    world.take(ClusterChange::Service(named.clone(), service(ports)));
    assert_eq!(places(&world), [("a".to_owned(), Ok(8080))]);
    for (port, number) in [("80", 8080), ("raw", 81), ("81", 81)] {
        world.take(ClusterChange::Intercepts(vec![intercept(50, &spec(port), &json!({}))]));
        assert_eq!(places(&world), [("a".to_owned(), Ok(number))]);
    }
    for port in ["8080", "udp", "no"] {
        world.take(ClusterChange::Intercepts(vec![intercept(50, &spec(port), &json!({}))]));
        let [(_, Err(PodObstacle::Never(reason)))] = &places(&world)[..] else { panic!("refused") };
        assert!(reason.contains("80 (http), 81 (raw)"), "{reason}");
    }
    // One without a selector has endpoints by hand, which are not followed; one that is gone selects nothing.
    world.take(ClusterChange::Service(named.clone(), ServiceFacts::read(&Service::default())));
    assert_eq!(names_of(&world), [""; 0]);
    world.take(ClusterChange::Service(named, None));
    assert_eq!(names_of(&world), [""; 0]);
}

#[test]
fn a_port_s_name_means_the_first_container_that_has_it_and_sidecars_come_last() {
    let container = |name: &str, port: &str, number: u16, policy: Option<&str>| json!({"name": name, "restartPolicy": policy, "ports": [{"name": port, "containerPort": number}]});
    let spec = json!({
        "containers": [container("app", "http", 8080, None), container("more", "http", 8081, None)],
        "initContainers": [
            container("sidecar", "http", 8082, Some("Always")),
            container("side", "side", 8083, Some("Always")),
            container("migration", "setup", 8084, None),
        ],
    });
    let ports = pod(1, "web-1", &json!({"spec": spec})).ports;
    let expected = [("http", 8080), ("side", 8083)].map(|(name, number)| (name.to_owned(), number));
    assert_eq!(ports.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn only_its_own_namespace_is_looked_at_and_what_is_over_is_not() {
    let elsewhere = pod(2, "b", &json!({"metadata": {"namespace": "bank"}}));
    let over = pod(3, "c", &json!({"status": {"phase": "Succeeded"}}));
    let selector =
        json!({"selector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["web", "x"]}]}});
    let pods = vec![pod(1, "a", &json!({})), elsewhere, over];
    assert_eq!(names_of(&world(pods, vec![intercept(50, &selector, &json!({}))])), ["a"]);
}

#[test]
fn what_cannot_be_intercepted_says_why() {
    let refused = |with: &Value, word: &str| {
        let world = world(vec![pod(1, "a", with)], vec![intercept(50, &target("Pod", "a"), &json!({}))]);
        let [(_, Err(PodObstacle::Never(reason)))] = &places(&world)[..] else { panic!("refused: {word}") };
        assert!(reason.contains(word) && reason.contains(';'), "{reason}");
    };
    refused(&json!({"spec": {"hostNetwork": true}}), "hostNetwork");
    refused(&json!({"spec": {"runtimeClassName": "gvisor"}}), "gvisor");
    refused(&json!({"spec": {"runtimeClassName": "kata-qemu"}}), "kata");
    refused(&json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}}), "static pod");
    refused(&json!({"metadata": {"annotations": {"ambient.istio.io/redirection": "enabled"}}}), "ambient");
    let no_port = intercept(50, &json!({"target": {"kind": "Pod", "name": "a"}, "port": "grpc"}), &json!({}));
    let world_ = world(vec![pod(1, "a", &json!({}))], vec![no_port]);
    assert!(matches!(&places(&world_)[..], [(_, Err(PodObstacle::Never(reason)))] if reason.contains("http")));
    let no_ip = pod(1, "a", &json!({"status": {"podIPs": null}}));
    let world = world(vec![no_ip], vec![intercept(50, &target("Pod", "a"), &json!({}))]);
    assert!(matches!(&places(&world)[..], [(_, Err(PodObstacle::NotYet(_)))]));
}

#[test]
fn a_mesh_pod_is_found_behind_its_proxy() {
    let mesh = pod(1, "a", &json!({"metadata": {"annotations": {"sidecar.istio.io/status": "{}"}}}));
    let name = mesh.name.clone();
    let world = world(vec![mesh], vec![intercept(50, &target("Pod", "a"), &json!({}))]);
    let (resolved, _) = resolve(&world);
    assert_eq!(resolved.first_hand(&name), FirstHand::Proxy);
    let [PodPermission { pod, namespace, at, ports }] = &permissions(&world, &resolved)[..] else { panic!("one") };
    assert_eq!((pod, &**namespace, &ports[..]), (&name, "shop", &[8080][..]));
    assert_eq!((at.first, &at.ips), (FirstHand::Proxy, &vec!["10.0.0.1".parse().unwrap()]));
}

fn request(token: Token) -> InterceptRequest {
    InterceptRequest {
        earlier: redir_wire::EarlierConnections::Stay,
        token,
        selector: Selector::Pod("-".into()),
        port: 1,
        filter: None,
        to: "mine".into(),
        probes: Probes::Developer,
        even_if_down: false,
        forwarded: true,
    }
}

fn token(number: u64) -> Token {
    redir_api::token(&uid(number)).unwrap()
}

#[test]
fn a_tunnel_gets_exactly_the_intercepts_that_name_its_key() {
    let filter = json!({"filter": {"all": [{"header": {"name": "x-user", "exact": "secret"}}]}});
    let mut with_filter = target("Pod", "a");
    merge(&mut with_filter, &filter);
    let theirs = json!({"spec": {"developerKey": key(2).to_string(), "user": "bob\n"}});
    let world = world(
        vec![pod(1, "a", &json!({}))],
        vec![intercept(50, &with_filter, &json!({})), intercept(51, &target("Pod", "a"), &theirs)],
    );
    let (resolved, _) = resolve(&world);
    assert_eq!(resolved.keys().len(), 2);
    assert_eq!((resolved.name_of(&key(1)), resolved.name_of(&key(2))), (Some("alice"), Some("bob\u{fffd}")));
    assert_eq!(resolved.name_of(&key(3)), None);
    let grant = resolved.grant(&key(1), request(token(50))).unwrap();
    // Pods, port, filter, probes and what else decides are the object's, not the intercept's.
    assert!(!grant.request.forwarded && !grant.request.even_if_down);
    assert_eq!(grant.filter.as_ref().map(ToString::to_string).as_deref(), Some("header x-user = secret"));
    assert_eq!(grant.looks_at, "header x-user (exact)");
    assert_eq!((grant.request.probes, &*grant.request.to), (Probes::App, "127.0.0.1:3000"));
    let places = resolved.places(&key(1), &grant);
    assert_eq!(places.len(), 1);
    assert_eq!(places[0].port, Ok(8080));
    for (key, token) in [(key(2), token(50)), (key(1), token(51)), (key(1), token(99)), (key(3), token(50))] {
        assert!(resolved.grant(&key, request(token)).is_err());
    }
    assert!(resolved.places(&key(2), &grant).is_empty(), "a grant does not outlive its key");
}

#[test]
fn an_intercept_ends_with_its_object_and_with_any_change_of_its_spec() {
    let pods = || vec![pod(1, "a", &json!({}))];
    let of = |intercepts| resolve(&world(pods(), intercepts)).0;
    let live = of(vec![intercept(50, &target("Pod", "a"), &json!({}))]);
    assert_eq!(live.ended(&key(1), token(50)), None);
    let gone = of(vec![]);
    assert!(gone.ended(&key(1), token(50)).unwrap().contains("deleted"));
    let changed = of(vec![intercept(50, &target("Pod", "a"), &json!({"metadata": {"generation": 2}}))]);
    assert!(changed.ended(&key(1), token(50)).unwrap().contains("changed"));
    assert_eq!((changed.keys().len(), changed.name_of(&key(1))), (0, None));
    let bad_key = json!({"spec": {"developerKey": format!("sha256:{}", "-".repeat(42) + "1")}});
    assert_eq!(of(vec![intercept(50, &target("Pod", "a"), &bad_key)]).keys().len(), 0);
}

#[test]
fn only_what_is_not_renewed_for_long_is_forgotten() {
    let renewed = |value: &str| {
        intercept(50, &target("Pod", "a"), &json!({"metadata": {"annotations": {"redir.dev/renewed": value}}}))
    };
    let (mut renewals, start) = (LeaseRenewals::new(NODE), Instant::now());
    let mut at = |value: &str, seconds: u64, deaf: bool| {
        let now = start + Duration::from_secs(seconds);
        if deaf {
            renewals.not_heard(now);
        }
        renewals.expired(&world(vec![], vec![renewed(value)]), now).len()
    };
    let limit = EXPIRE_AFTER.as_secs();
    assert_eq!(at("a", 0, false), 0);
    assert_eq!(at("a", limit - 1, false), 0);
    // Any change counts, also one that is an earlier time by a clock that was set.
    assert_eq!(at("0", limit - 1, false), 0);
    assert_eq!(at("0", 2 * limit - 2, false), 0);
    // While the API server is away nobody could have renewed anything.
    assert_eq!(at("0", 2 * limit + 30, true), 0);
    assert_eq!(at("0", 3 * limit, false), 0);
    assert_eq!(at("0", 3 * limit + 60, false), 1);
    assert_eq!(at("0", 3 * limit + 61, false), 0, "it is being deleted");
    assert_eq!(at("0", 3 * limit + 90, false), 1);
}

#[test]
fn agents_do_not_all_delete_at_once() {
    let facts = world(vec![], vec![intercept(50, &target("Pod", "a"), &json!({}))]);
    let start = Instant::now();
    let dues: std::collections::BTreeSet<Duration> = (0..20)
        .map(|node| {
            let mut renewals = LeaseRenewals::new(&format!("node-{node}"));
            renewals.expired(&facts, start);
            renewals.next().unwrap() - start
        })
        .collect();
    assert!(dues.len() > 10);
    assert!(*dues.first().unwrap() >= EXPIRE_AFTER && *dues.last().unwrap() < EXPIRE_AFTER + Duration::from_secs(30));
}

fn introduction() -> AgentEntry {
    AgentEntry { node: NODE.into(), key: "sha256:agent".into(), software: "redir-agent 0", endpoints: vec![] }
}
