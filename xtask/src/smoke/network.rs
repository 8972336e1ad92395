//! The short story of `cargo xtask smoke --network`: redir in a cluster with names for Services and network policies that are
//! enforced, whatever connects its pods. It must neither open nor close anything, and leave the network's own programs alone.

use std::process::Command;

use anyhow::Result;
use redir_rig::namespace::checked;
use serde_json::{Value, json};

use super::traces::{beside, left_out, nodes_state};
use super::world::{APP_IMAGE, HEADER, PORT, SERVICE_PORT, SHOP, SmokePod, SmokePrograms, SmokeWorld, until};
use super::{faults, scenes};
use crate::cluster::Cluster;
use crate::demo::story::{Answer, Story};

/// A client that is let in, and one that is not. Each runs on every node.
const FRIEND: &str = "friend";
const STRANGER: &str = "stranger";
/// What a client waits for an answer, and for one that must not come.
const ANSWER_SECONDS: &str = "15";
const DENIAL_SECONDS: &str = "3";

pub(super) fn play(cluster: &Cluster, programs: &SmokePrograms) -> Result<()> {
    let mut story = Story::begin();
    SmokeWorld::admin(cluster, programs, &["uninstall", "--yes"])?;
    let mut world = scenes::install(&mut story, cluster, programs)?;
    policy(&mut story, &world)?;
    let before = [nodes_state(cluster)?, pods_state(&world)?].concat();
    intercept(&mut story, &mut world)?;
    same(&mut story, &world, &before)?;
    faults::uninstall(&mut story, &world, cluster, &before)?;
    same(&mut story, &world, &before)?;
    let mut rows = Vec::new();
    table(&mut story, &world, &mut rows, [("green", "green"), ("denied", "denied")])?;
    story.end()
}

/// Everything to and from the app is denied but what one client asks.
fn policy(story: &mut Story, world: &SmokeWorld<'_>) -> Result<()> {
    story.scene(
        "The admin denies everything, and lets one client in",
        "two clients on each node ask for the Service by name and for each pod by address",
    );
    let kubectl = world.cluster.kubectl();
    for role in [FRIEND, STRANGER] {
        kubectl.output_with(&["apply", "-f", "-"], &client(role))?;
        let mut wait = kubectl.command();
        wait.args(["-n", SHOP, "rollout", "status", &format!("daemonset/{role}"), "--timeout=180s"]);
        checked(&mut wait, None)?;
    }
    // Both answer first, so that a denial is the policy's.
    for client in clients(world)? {
        until(&format!("{} is answered by name", client.name), || Ok(is(&ask(world, &client, "web", None), "green")))?;
    }
    kubectl.output_with(&["apply", "-f", "-"], &default_deny())?;
    let_in(world, FRIEND, 1)?;
    let mut rows = Vec::new();
    table(story, world, &mut rows, [("green", "green"), ("denied", "denied")])
}

/// The same clients while alice intercepts, while the policy changes, and afterwards.
fn intercept(story: &mut Story, world: &mut SmokeWorld<'_>) -> Result<()> {
    story.scene("Alice intercepts service/web", "who is let in reaches her with her header; who is not, nobody");
    let port = format!("{SERVICE_PORT}:{}", world.own_port);
    story.command(&format!("redir intercept -n {SHOP} service/web --port {port} --header '{HEADER}'"));
    let mut intercept = world.intercept(&world.alice, &["service/web", "--port", &port, "--header", HEADER])?;
    let status = intercept.status()?;
    let all = status["live"] == 2 && status["pods"] == 2;
    let tick = story.must(all, &format!("two of two pods are live: {status}"));
    story.say(&format!("{tick} live in 2 of 2 pods"));
    let mut rows = Vec::new();
    table(story, world, &mut rows, [("blue", "green"), ("denied", "denied")])?;

    story.scene("The policy lets in the other client instead", "under the same intercept");
    let_in(world, STRANGER, 2)?;
    let mut rows = Vec::new();
    table(story, world, &mut rows, [("denied", "denied"), ("blue", "green")])?;
    let_in(world, FRIEND, 3)?;

    story.scene("Alice leaves", "and all is as before");
    intercept.leave()?;
    let mut rows = Vec::new();
    table(story, world, &mut rows, [("green", "green"), ("denied", "denied")])
}

/// What each client gets from each place, with the header and without; `expected` for friends, then for strangers.
fn table(
    story: &mut Story,
    world: &SmokeWorld<'_>,
    rows: &mut Vec<(String, Vec<crate::demo::story::AnswerCell>)>,
    expected: [(&str, &str); 2],
) -> Result<()> {
    let pods = world.pods(SHOP)?;
    let domain = format!("web.{SHOP}.svc.cluster.local");
    let named = [("web".to_owned(), SERVICE_PORT), (domain, SERVICE_PORT)];
    let places: Vec<_> = named
        .into_iter()
        .chain(pods.iter().flat_map(|pod| &pod.addresses).map(|address| (address.clone(), PORT)))
        .collect();
    for client in clients(world)? {
        let (matched, unmatched) = expected[usize::from(!client.name.starts_with(FRIEND))];
        for (host, port) in &places {
            let name = format!("{} on {}, {host}", client.name, client.node);
            let mut cell = |header, word: &str| {
                let limit = if word == "denied" { DENIAL_SECONDS } else { ANSWER_SECONDS };
                let answer = ask_at(world, &client, (host, *port), header, limit);
                story.check(&name, &answer, word)
            };
            let cells = vec![cell(Some(HEADER), matched), cell(None, unmatched)];
            rows.push((name, cells));
        }
    }
    story.table(&["client and place", "with the header", "without"], rows);
    Ok(())
}

/// Lets in one kind of client instead of the other, by the policy of this number instead of the one before: kube-router keeps
/// the IPv4 addresses of a policy that changes twice.
fn let_in(world: &SmokeWorld<'_>, role: &str, number: u32) -> Result<()> {
    let kubectl = world.cluster.kubectl();
    kubectl.output_with(&["apply", "-f", "-"], &allow(role, number))?;
    let old = format!("allow-{}", number - 1);
    kubectl.output(&["-n", SHOP, "delete", "networkpolicy", &old, "--ignore-not-found"])?;
    enforced(world, role, if role == FRIEND { STRANGER } else { FRIEND })
}

/// Waits until the policy lets one kind of client in and the other not, on all nodes and in both families.
fn enforced(world: &SmokeWorld<'_>, allowed: &str, denied: &str) -> Result<()> {
    let pods = world.pods(SHOP)?;
    for client in clients(world)? {
        let (role, word) = if client.name.starts_with(allowed) { (allowed, "green") } else { (denied, "denied") };
        for address in pods.iter().flat_map(|pod| &pod.addresses) {
            let what = format!("the policy to hold for {role} on {} towards {address}", client.node);
            until(&what, || Ok(is(&ask_at(world, &client, (address, PORT), None, DENIAL_SECONDS), word)))?;
        }
    }
    Ok(())
}

/// The networks' own programs, and everything else that hangs at devices, are what they were.
fn same(story: &mut Story, world: &SmokeWorld<'_>, before: &[(String, String)]) -> Result<()> {
    for (name, state) in [nodes_state(world.cluster)?, pods_state(world)?].concat() {
        let was = before.iter().find(|(known, _)| *known == name).map(|(_, state)| state);
        let tick = story.must(was == Some(&state), &format!("{name} was {was:?} and is {state:?}"));
        let left_out = left_out(&state);
        story.say(&format!("{tick} {name}: programs, filters and rules are those from before{left_out}"));
    }
    Ok(())
}

/// What is attached to a pod's own devices, for each pod of the app; told by the pod's name.
fn pods_state(world: &SmokeWorld<'_>) -> Result<Vec<(String, String)>> {
    let state = |pod: SmokePod| {
        let script = "\
            [ -n \"$pid\" ] || { echo \"no process of the pod was found\" >&2; exit 1; }
            for words in 'bpftool net show' 'tc qdisc show' 'ip rule' 'ip -6 rule' 'ip route' 'nft list ruleset'; do
                echo \"$words\"
                look $words
            done";
        let words = beside(world.cluster, &pod, script)?;
        Ok((pod.name, words))
    };
    world.pods(SHOP)?.into_iter().map(state).collect()
}

/// The running clients of both kinds.
fn clients(world: &SmokeWorld<'_>) -> Result<Vec<SmokePod>> {
    let pods = world.labelled(SHOP, "role")?;
    anyhow::ensure!(pods.len() == 2 * world.nodes.len(), "there are {} clients, not two for each node", pods.len());
    Ok(pods)
}

/// Asks the Service by a name.
fn ask(world: &SmokeWorld<'_>, client: &SmokePod, host: &str, header: Option<&str>) -> Answer {
    ask_at(world, client, (host, SERVICE_PORT), header, ANSWER_SECONDS)
}

fn ask_at(
    world: &SmokeWorld<'_>,
    client: &SmokePod,
    (host, port): (&str, u16),
    header: Option<&str>,
    seconds: &str,
) -> Answer {
    let mut command: Command = world.cluster.kubectl().command();
    command.args(["-n", SHOP, "exec", &client.name, "--", "/smoke-app", "get", host, &port.to_string(), seconds]);
    Ok(checked(command.args(header), None)?.trim_end().to_owned())
}

/// `until` wants something, or nothing.
fn is(answer: &Answer, word: &str) -> Option<()> {
    answer.as_ref().is_ok_and(|answer| answer.split(' ').next() == Some(word)).then_some(())
}

/// A pod on every node that runs the app, for its program, and serves nobody.
fn client(role: &str) -> Value {
    let labels = json!({ "role": role });
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": { "name": role, "namespace": SHOP },
        "spec": {
            "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "containers": [{
                        "name": "client", "image": APP_IMAGE, "imagePullPolicy": "Never", "args": [role, PORT.to_string()],
                    }],
                },
            },
        },
    })
}

fn default_deny() -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": "default-deny", "namespace": SHOP },
        "spec": { "podSelector": { "matchLabels": { "app": "web" } }, "policyTypes": ["Ingress", "Egress"] },
    })
}

fn allow(role: &str, number: u32) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": format!("allow-{number}"), "namespace": SHOP },
        "spec": {
            "podSelector": { "matchLabels": { "app": "web" } }, "policyTypes": ["Ingress"],
            "ingress": [{
                "from": [{ "podSelector": { "matchLabels": { "role": role } } }],
                "ports": [{ "protocol": "TCP", "port": "http" }],
            }],
        },
    })
}
