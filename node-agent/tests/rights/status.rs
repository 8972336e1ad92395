//! Who may write whose status: agents with tokens of pods on three nodes, and whoever else tries.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::{Client, Config};
use redir_api::names;
use redir_rig::documents;
use serde_json::{Value, json};

use crate::{
    agent,
    request::{ExpectedResult, RequestUser, WriteVerb, forbidden, invalid},
    world::{ALICE, RightsCluster, SHOP, deployment, intercept, intercepts},
};
use ExpectedResult::Allowed;

type StatusAttempt<'a> = (&'a RequestUser, &'static str, WriteVerb, String, Value, ExpectedResult);

const TLS_PAGE: &str = include_str!("../../../docs/src/tls.md");
const OWN_ENTRY: &str = "an agent writes its own node's entry of an Intercept's status and no other";
const ONLY_AGENTS: &str = "only an agent writes an Intercept's status, with the token of its own pod";
const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// Each entry's place in the status, as they are made.
const OWN: usize = 0;

/// The agents of the nodes, and others with tokens.
struct NodeAgents {
    one: RequestUser,
    two: RequestUser,
    three: RequestUser,
    /// The agents' account, of no pod.
    unbound: RequestUser,
    /// Of another account's pod on the first node, with the agents' role.
    stranger: RequestUser,
}

pub(crate) fn tries(world: &RightsCluster) -> Result<Vec<String>> {
    let agents = agents(world)?;
    let mut wrong = begin(world, &agents)?;
    let before = agents_of(world, "seen")?;
    wrong.extend(play(world, of_others(&agents))?);
    wrong.extend(play(world, of_its_own(&agents))?);
    wrong.extend(agent::tries(world, &agents.one, &agents.unbound)?);
    wrong.extend(play(world, out_of_range(&agents))?);
    if agents_of(world, "seen")? != before {
        wrong.push(format!("a refused try changed the status: {}", agents_of(world, "seen")?));
    }
    wrong.extend(secrets(world, &agents)?);
    wrong.extend(ended(world, &agents)?);
    Ok(wrong)
}

fn play(world: &RightsCluster, rows: Vec<StatusAttempt<'_>>) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for (who, what, verb, path, body, expected) in rows {
        let answer = world.send(who, verb, &path, &body)?;
        wrong.extend(expected.judge(&format!("{}, {what}", who.name()), &answer));
    }
    Ok(wrong)
}

fn agents(world: &RightsCluster) -> Result<NodeAgents> {
    let namespace = format!("/api/v1/namespaces/{}", names::NAMESPACE);
    world.make(&format!("{namespace}/serviceaccounts"), &json!({"metadata": {"name": "stranger"}}))?;
    // Even with the right to write a status, it is its node's entry alone.
    world.shell(&format!(
        "kubectl create clusterrolebinding stranger --clusterrole={} --serviceaccount={}:stranger",
        names::AGENT,
        names::NAMESPACE
    ))?;
    for node in NODES {
        world.make("/api/v1/nodes", &json!({"metadata": {"name": node}}))?;
    }
    let agents = NodeAgents {
        one: bound(world, "the agent of n1", names::AGENT, Some("n1"))?,
        two: bound(world, "the agent of n2", names::AGENT, Some("n2"))?,
        three: bound(world, "the agent of n3", names::AGENT, Some("n3"))?,
        unbound: bound(world, "the agents' account", names::AGENT, None)?,
        stranger: bound(world, "another pod of n1", "stranger", Some("n1"))?,
    };
    world.counts(&agents.stranger, &intercepts(SHOP))?;
    Ok(agents)
}

/// A token of an account: of a pod of it on this node, as the kubelet asks for it, or of none.
fn bound(world: &RightsCluster, name: &'static str, account: &str, node: Option<&str>) -> Result<RequestUser> {
    let namespace = format!("/api/v1/namespaces/{}", names::NAMESPACE);
    let mut spec = json!({"expirationSeconds": 3600});
    if let Some(node) = node {
        let pod = json!({
            "metadata": {"name": format!("{account}-{node}")},
            "spec": {"nodeName": node, "serviceAccountName": account, "containers": [{"name": "agent", "image": "none"}]},
        });
        let pod = world.make(&format!("{namespace}/pods"), &pod)?;
        spec["boundObjectRef"] = json!({"apiVersion": "v1", "kind": "Pod", "name": pod["metadata"]["name"],
                                        "uid": pod["metadata"]["uid"]});
    }
    token(world, name, names::NAMESPACE, account, &spec)
}

/// Whoever has such a token of an account.
pub(crate) fn token(
    world: &RightsCluster,
    name: &'static str,
    namespace: &str,
    account: &str,
    spec: &Value,
) -> Result<RequestUser> {
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
    let made = world.make(&path, &request)?;
    let token = made["status"]["token"].as_str().context("a token")?.to_owned();
    let client = world.node.block_on(Duration::from_secs(60), async move {
        let mut config = Config::new("https://127.0.0.1:6443".parse()?);
        config.accept_invalid_certs = true;
        config.auth_info.token = Some(token.into());
        Ok::<_, anyhow::Error>(Client::try_from(config)?)
    })??;
    Ok(RequestUser::Token(name, client))
}

fn entry(node: &str, state: &str) -> Value {
    json!({"node": node, "key": "k", "software": "redir-agent", "protocol": 1, "state": state})
}

fn status(entries: &[Value]) -> Value {
    json!({"status": {"agents": entries}})
}

/// As agents write: server-side apply of one's entry, under one's own name.
fn applied(name: &str, entries: &[Value]) -> Value {
    json!({"apiVersion": "redir.dev/v1alpha1", "kind": "Intercept", "metadata": {"name": name},
           "status": {"agents": entries}})
}

fn at(name: &str, query: &str) -> String {
    format!("{}/{name}/status{query}", intercepts(SHOP))
}

fn manager(node: &str) -> String {
    format!("?force=true&fieldManager={}", names::field_manager(node))
}

fn agents_of(world: &RightsCluster, name: &str) -> Result<Value> {
    let object =
        world.send(&RequestUser::Admin, WriteVerb::Get, &format!("{}/{name}", intercepts(SHOP)), &Value::Null)?.body;
    Ok(object["status"]["agents"].clone())
}

/// An Intercept whose status three agents have written, and what they may do before there is one.
fn begin(world: &RightsCluster, agents: &NodeAgents) -> Result<Vec<String>> {
    for name in ["seen", "fresh"] {
        let mut object = intercept(name, &deployment("web"));
        // Whoever makes it has no say in its status.
        object["status"] = json!({"agents": [entry("n1", "Live")]});
        let made = world.send(&ALICE, WriteVerb::Post, &intercepts(SHOP), &object)?;
        ensure!(made.code == 201 && made.body["status"].is_null(), "a forged status: {made:?}");
    }
    let write = |name: &str, node: &str, entries: &[Value]| (at(name, &manager(node)), applied(name, entries));
    let mut rows: Vec<StatusAttempt<'_>> = Vec::new();
    let mut row = |who, what, (path, body), expected| rows.push((who, what, WriteVerb::Apply, path, body, expected));
    row(&agents.one, "a foreign entry, the first", write("fresh", "n1", &[entry("n2", "Live")]), forbidden(OWN_ENTRY));
    row(
        &agents.one,
        "its own and a foreign one, the first",
        write("fresh", "n1", &[entry("n1", "Live"), entry("n2", "Live")]),
        forbidden(OWN_ENTRY),
    );
    row(&agents.unbound, "an entry, the first", write("fresh", "n1", &[entry("n1", "Live")]), forbidden(ONLY_AGENTS));
    row(&agents.one, "its own entry", write("seen", "n1", &[entry("n1", "Waiting")]), Allowed);
    row(&agents.two, "its own entry", write("seen", "n2", &[entry("n2", "Live")]), Allowed);
    row(&agents.three, "its own entry", write("seen", "n3", &[entry("n3", "Live")]), Allowed);
    row(&agents.one, "its own entry again", write("seen", "n1", &[entry("n1", "Live")]), Allowed);
    let mut wrong = play(world, rows)?;
    let nodes: Vec<Value> =
        agents_of(world, "seen")?.as_array().into_iter().flatten().map(|entry| entry["node"].clone()).collect();
    if nodes != NODES {
        wrong.push(format!("three agents' entries are {nodes:?}"));
    }
    Ok(wrong)
}

/// Another node's entry, in every way of writing.
fn of_others(agents: &NodeAgents) -> Vec<StatusAttempt<'_>> {
    let [one, two, three] = NODES.map(|node| entry(node, "Live"));
    let forged = entry("n2", "Refused");
    let own = || forbidden(OWN_ENTRY);
    let apply =
        |node: &str, entries: &[Value]| (WriteVerb::Apply, at("seen", &manager(node)), applied("seen", entries));
    let merge = |body: Value| (WriteVerb::MergePatch, at("seen", ""), body);
    let json_patch = |patch: Value| (WriteVerb::JsonPatch, at("seen", ""), json!([patch]));
    let mut rows: Vec<StatusAttempt<'_>> = Vec::new();
    let mut row = |who, what, (verb, path, body), expected| rows.push((who, what, verb, path, body, expected));
    let agent = &agents.one;
    row(agent, "apply of a foreign entry", apply("n1", &[one.clone(), forged.clone()]), own());
    row(agent, "apply of a foreign entry in its agent's name", apply("n2", std::slice::from_ref(&forged)), own());
    row(agent, "apply that takes another agent's fields away", apply("n2", std::slice::from_ref(&one)), own());
    row(agent, "apply of an entry for a node that has none", apply("n1", &[one.clone(), entry("n4", "Live")]), own());
    let (verb, path, body) = apply("n1", &[one.clone(), forged.clone()]);
    row(agent, "a dry run of it", (verb, format!("{path}&dryRun=All"), body), own());
    row(agent, "merge patch of a foreign entry", merge(status(&[one.clone(), forged.clone(), three.clone()])), own());
    row(agent, "merge patch that leaves the others out", merge(status(std::slice::from_ref(&one))), own());
    row(agent, "merge patch that leaves one out", merge(status(&[one.clone(), three.clone()])), own());
    row(agent, "merge patch to nothing", merge(status(&[])), own());
    row(agent, "merge patch without a status", merge(json!({"status": null})), own());
    row(
        agent,
        "merge patch that puts them in another order",
        merge(status(&[one.clone(), three.clone(), two.clone()])),
        own(),
    );
    row(
        agent,
        "JSON patch of a foreign field",
        json_patch(json!({"op": "replace", "path": "/status/agents/1/key", "value": "mine"})),
        own(),
    );
    row(
        agent,
        "JSON patch that adds a foreign field",
        json_patch(json!({"op": "add", "path": "/status/agents/1/reason", "value": "no"})),
        own(),
    );
    row(
        agent,
        "JSON patch that removes a foreign entry",
        json_patch(json!({"op": "remove", "path": "/status/agents/2"})),
        own(),
    );
    row(
        agent,
        "JSON patch that adds an entry",
        json_patch(json!({"op": "add", "path": "/status/agents/-", "value": entry("n4", "Live")})),
        own(),
    );
    row(
        agent,
        "JSON patch that makes its own entry a foreign one",
        json_patch(json!({"op": "replace", "path": "/status/agents/0/node", "value": "n4"})),
        own(),
    );
    row(
        agent,
        "JSON patch that makes a foreign entry its own",
        json_patch(json!({"op": "replace", "path": "/status/agents/1/node", "value": "n1"})),
        invalid("Duplicate value"),
    );
    row(agent, "JSON patch that removes the status", json_patch(json!({"op": "remove", "path": "/status"})), own());
    row(
        agent,
        "JSON patch to no status",
        json_patch(json!({"op": "replace", "path": "/status", "value": null})),
        own(),
    );
    row(
        &agents.two,
        "JSON patch of the first's entry",
        json_patch(json!({"op": "remove", "path": "/status/agents/0"})),
        own(),
    );
    row(
        &agents.stranger,
        "JSON patch of a foreign entry",
        json_patch(json!({"op": "remove", "path": "/status/agents/1"})),
        own(),
    );
    let (_, path, body) = merge(status(&[forged]));
    row(
        &RequestUser::Admin,
        "merge patch",
        (WriteVerb::MergePatch, path.clone(), body.clone()),
        forbidden(ONLY_AGENTS),
    );
    row(&agents.unbound, "merge patch", (WriteVerb::MergePatch, path.clone(), body.clone()), forbidden(ONLY_AGENTS));
    row(
        &ALICE_,
        "merge patch",
        (WriteVerb::MergePatch, path.clone(), body.clone()),
        forbidden(r#"cannot patch resource "intercepts/status""#),
    );
    row(agent, "PUT", (WriteVerb::Put, path, body), forbidden(r#"cannot update resource "intercepts/status""#));
    rows
}

/// A reference to it outlives a row.
static ALICE_: RequestUser = ALICE;

/// Its own entry, in every way of writing; nothing is kept.
fn of_its_own(agents: &NodeAgents) -> Vec<StatusAttempt<'_>> {
    let dry = |patch: Value| (WriteVerb::JsonPatch, at("seen", "?dryRun=All"), json!([patch]));
    let own = |field: &str| format!("/status/agents/{OWN}{field}");
    let [_, two, three] = NODES.map(|node| entry(node, "Live"));
    let mut rows: Vec<StatusAttempt<'_>> = Vec::new();
    let mut row = |what, (verb, path, body)| rows.push((&agents.one, what, verb, path, body, Allowed));
    row("JSON patch of its own entry", dry(json!({"op": "replace", "path": own("/state"), "value": "Refused"})));
    row("JSON patch that removes its own entry", dry(json!({"op": "remove", "path": own("")})));
    let changed = status(&[entry("n1", "Refused"), two.clone(), three.clone()]);
    row("merge patch of its own entry", (WriteVerb::MergePatch, at("seen", "?dryRun=All"), changed));
    row("merge patch without its own entry", (WriteVerb::MergePatch, at("seen", "?dryRun=All"), status(&[two, three])));
    let nothing = (WriteVerb::Apply, at("seen", &format!("{}&dryRun=All", manager("n1"))), applied("seen", &[]));
    row("apply that gives its own entry up", nothing);
    rows
}

/// Numbers that Rust's types could not hold.
fn out_of_range(agents: &NodeAgents) -> Vec<StatusAttempt<'_>> {
    let pod = |port: i64| json!([{"name": "web-1", "uid": "1", "state": "Live", "since": "2026-11-30T00:00:00Z", "port": port}]);
    let with = |field: &str, value: Value| {
        let mut own = entry("n1", "Live");
        own[field] = value;
        applied("seen", &[own])
    };
    let path = || at("seen", &format!("{}&dryRun=All", manager("n1")));
    let mut rows: Vec<StatusAttempt<'_>> = Vec::new();
    let mut row = |what, body, expected| rows.push((&agents.one, what, WriteVerb::Apply, path(), body, expected));
    row("port 65536", with("pods", pod(65536)), invalid("should be less than or equal to 65535"));
    row("port -1", with("pods", pod(-1)), invalid("should be greater than or equal to 0"));
    row("port 65535", with("pods", pod(65535)), Allowed);
    row("protocol 4294967296", with("protocol", json!(4_294_967_296_i64)), invalid("should be less than or equal to"));
    row("protocol -1", with("protocol", json!(-1)), invalid("should be greater than or equal to 0"));
    row("protocol 4294967295", with("protocol", json!(4_294_967_295_i64)), Allowed);
    rows
}

/// No Secret is in reach but one that is granted by the documents' own lines.
fn secrets(world: &RightsCluster, agents: &NodeAgents) -> Result<Vec<String>> {
    let path = format!("/api/v1/namespaces/{SHOP}/secrets");
    for name in ["web-tls", "other-tls"] {
        world.make(&path, &json!({"metadata": {"name": name}}))?;
    }
    let get = |name: &str, what, expected| {
        (&agents.one, what, WriteVerb::Get, format!("{path}/{name}"), Value::Null, expected)
    };
    let refused = || forbidden("cannot get resource");
    let mut wrong = play(world, vec![get("web-tls", "a Secret that nobody granted", refused())])?;
    for words in documents::commands(TLS_PAGE, "kubectl")? {
        if words.iter().any(|word| word.contains("redir-tls")) {
            world.shell(&format!("kubectl {}", words.join(" ")))?;
        }
    }
    world.counts(&agents.one, &format!("{path}/web-tls"))?;
    let granted = get("web-tls", "a Secret that was granted", Allowed);
    let list =
        (&agents.one, "listing Secrets", WriteVerb::Get, path.clone(), Value::Null, forbidden("cannot list resource"));
    wrong.extend(play(world, vec![granted, get("other-tls", "another Secret", refused()), list])?);
    Ok(wrong)
}

/// A token ends with its pod.
fn ended(world: &RightsCluster, agents: &NodeAgents) -> Result<Vec<String>> {
    let pod = format!("/api/v1/namespaces/{}/pods/{}-n3?gracePeriodSeconds=0", names::NAMESPACE, names::AGENT);
    world.send(&RequestUser::Admin, WriteVerb::Delete, &pod, &Value::Null)?;
    let body = applied("seen", &[entry("n3", "Live")]);
    // Tokens that were good a moment ago are remembered for some seconds.
    let refused = redir_rig::wait::until("the token to be refused", Duration::from_secs(120), || {
        let answer = world.send(&agents.three, WriteVerb::Apply, &at("seen", &manager("n3")), &body)?;
        Ok((answer.code != 200).then_some(answer))
    })?;
    Ok(ExpectedResult::Refused(401, String::new())
        .judge("the agent of n3, after its pod's end", &refused)
        .into_iter()
        .collect())
}
