//! Other pods than a Deployment's plain ones, in a namespace with PodSecurity `restricted`: in user namespaces, with a native
//! sidecar, of a StatefulSet, of a Job; and what may happen to a pod that is intercepted: it is made anew under its name,
//! resized in place, debugged by an ephemeral container.
//!
//! Owns: these scenes. What they intercept is in `workloads`, connections that last are in `kept_alive`.

mod kept_alive;
mod workloads;

use anyhow::{Context, Result};
use serde_json::Value;

use super::traces::beside;
use super::world::{APP_IMAGE, HEADER, Intercepting, LONG, PORT, SmokePod, SmokeWorld, answered, asked, node, until};
use crate::demo::story::{AnswerCell, Story};
use kept_alive::KeptAlive;
use workloads::{BATCH, DATABASE, ISOLATED, NAMESPACE, SIDECAR_PORT};

pub(super) use workloads::start;

/// What the web container of a pod gets while it is intercepted.
const RESIZE: &str = r#"{"spec":{"containers":[{"name":"web","resources":{"requests":{"cpu":"20m","memory":"32Mi"},"limits":{"cpu":"300m","memory":"96Mi"}}}]}}"#;

/// All of them.
pub(super) fn play(story: &mut Story, world: &SmokeWorld<'_>) -> Result<()> {
    user_namespaces(story, world)?;
    native_sidecar(story, world)?;
    one_pod(story, world)?;
    job(story, world)?;
    untouched(story, world)
}

/// Two pods on two nodes, one that comes, one that goes, none for a while.
fn user_namespaces(story: &mut Story, world: &SmokeWorld<'_>) -> Result<()> {
    story.scene(
        "Pods in user namespaces, in a namespace with PodSecurity restricted",
        "hostUsers: false; two nodes, a pod that comes later, one that goes, and all of them gone for a while",
    );
    let pods = ready(world, ISOLATED, 2)?;
    let apart = pods[0].node != pods[1].node;
    let tick = story.must(apart, &format!("two pods on two nodes: {pods:?}"));
    story.say(&format!("{tick} the pods are on two nodes"));
    for pod in &pods {
        has_user_namespace(story, world, pod)?;
    }
    let mut intercept = alice(story, world, &format!("deploy/{ISOLATED}"), "http")?;
    all_live(story, &mut intercept, 2)?;
    table(story, world, &pods, PORT, ("blue", "green"))?;
    scale(story, world, 3)?;
    let more = ready(world, ISOLATED, 3)?;
    intercepted(world, &more, PORT)?;
    table(story, world, &more, PORT, ("blue", "green"))?;
    scale(story, world, 2)?;
    left(world, 2)?;
    table(story, world, &ready(world, ISOLATED, 2)?, PORT, ("blue", "green"))?;
    scale(story, world, 0)?;
    let note = intercept.process.wait_for_line("has no pod now", LONG)?;
    story.say(&format!("alice's redir: {note}"));
    scale(story, world, 2)?;
    let pods = ready(world, ISOLATED, 2)?;
    intercepted(world, &pods, PORT)?;
    table(story, world, &pods, PORT, ("blue", "green"))?;
    leave(story, world, intercept, &pods, (PORT, "green"))
}

/// The port of a container that Kubernetes starts before the app and keeps, in every pod of a StatefulSet.
fn native_sidecar(story: &mut Story, world: &SmokeWorld<'_>) -> Result<()> {
    story.scene(
        "A native sidecar's port, in a StatefulSet",
        "an init container with restartPolicy Always; one pod is made anew meanwhile, under the same name",
    );
    let pods = ready(world, DATABASE, 2)?;
    let mut intercept = alice(story, world, &format!("sts/{DATABASE}"), "side")?;
    all_live(story, &mut intercept, 2)?;
    table(story, world, &pods, SIDECAR_PORT, ("blue", "side"))?;
    story.say("the app's own port in the same pods:");
    table(story, world, &pods, PORT, ("green", "green"))?;
    let pods = made_anew(story, world, &format!("{DATABASE}-1"), SIDECAR_PORT)?;
    table(story, world, &pods, SIDECAR_PORT, ("blue", "side"))?;
    leave(story, world, intercept, &pods, (SIDECAR_PORT, "side"))
}

/// A pod by its name, which is made anew, resized and debugged under one intercept.
fn one_pod(story: &mut Story, world: &SmokeWorld<'_>) -> Result<()> {
    story.scene(
        "One pod by its name",
        "made anew under that name, resized in place and debugged by an ephemeral container meanwhile",
    );
    let name = format!("{DATABASE}-0");
    let mut intercept = alice(story, world, &name, "http")?;
    all_live(story, &mut intercept, 1)?;
    let pods = made_anew(story, world, &name, PORT)?;
    let (own, others): (Vec<SmokePod>, Vec<SmokePod>) = pods.into_iter().partition(|pod| pod.name == name);
    let pod = own.first().context("the pod is there")?;
    table(story, world, &own, PORT, ("blue", "green"))?;
    story.say("the other pod of the StatefulSet:");
    table(story, world, &others, PORT, ("green", "green"))?;

    let before = containers(world, &name)?;
    let lost = (intercept.count("live"), intercept.count("lost"));
    let connections = [(Some(HEADER), "blue"), (None, "green")]
        .into_iter()
        .map(|(header, answer)| KeptAlive::start(world, pod, header, answer))
        .collect::<Result<Vec<_>>>()?;
    resize(story, world, &name)?;
    debug(story, world, &name)?;
    for connection in &connections {
        connection.check(story)?;
    }
    drop(connections);
    table(story, world, &own, PORT, ("blue", "green"))?;
    let same = containers(world, &name)? == before;
    let tick = story.must(same, &format!("no container of {name} was started again: {before:?}"));
    story.say(&format!("{tick} no container was started again"));
    let told = lost == (intercept.count("live"), intercept.count("lost"));
    let tick = story.must(told, &format!("the intercept was told lost or live again: {}", intercept.process.log()));
    story.say(&format!("{tick} not a word of it at alice's"));
    leave(story, world, intercept, &own, (PORT, "green"))
}

/// A Job's pod, until the Job is complete.
fn job(story: &mut Story, world: &SmokeWorld<'_>) -> Result<()> {
    story.scene("A Job's pod", "the intercept ends with the Job");
    let pods = ready(world, BATCH, 1)?;
    let mut intercept = alice(story, world, &format!("job/{BATCH}"), "http")?;
    all_live(story, &mut intercept, 1)?;
    table(story, world, &pods, PORT, ("blue", "green"))?;
    let pod = pods.first().context("the Job has a pod")?;
    let mut curl = world.cluster.enter(&pod.node)?;
    let last = asked(curl.arg("curl"), &format!("http://{}:{PORT}/end", pod.address), None);
    let cell = story.check("the app's last answer", &last, "green");
    story.table(&["the Job ends", "without the header"], &[(pod.name.clone(), vec![cell])]);
    let code = intercept.process.exit_code(LONG)?;
    let reason = intercept.event("ended", 1)?["reason"].clone();
    let told = code == 0 && reason.as_str().is_some_and(|reason| reason.starts_with("job/batch is complete"));
    let tick =
        story.must(told, &format!("redir ends with 0 and says that the Job is complete: {}", intercept.process.log()));
    story.say(&format!("{tick} alice's redir: ended  {}", reason.as_str().unwrap_or_default()));
    let target = format!("job/{BATCH}");
    let again = ["intercept", &target, "-n", NAMESPACE, "--port", "http:1", "--header", HEADER];
    let (code, said) = world.redir(&world.alice, &again)?;
    let refused = code == 1 && said.contains("job/batch is complete");
    let tick = story.must(refused, &format!("a Job that is complete is refused with 1, not {code}: {said}"));
    story.say(&format!("{tick} a second intercept of it is refused"));
    Ok(())
}

/// The namespace has what it had before, and nobody was refused there.
fn untouched(story: &mut Story, world: &SmokeWorld<'_>) -> Result<()> {
    let list = world.cluster.kubectl().get(&["-n", NAMESPACE, "events", "--field-selector=type=Warning"])?;
    let events = list["items"].as_array().context("kubectl listed no events")?;
    let denied = |event: &&Value| event["message"].as_str().is_some_and(|text| text.contains("PodSecurity"));
    let denied: Vec<String> = events.iter().filter(denied).map(|event| event["message"].to_string()).collect();
    let tick = story.must(denied.is_empty(), &format!("PodSecurity had something to say: {denied:?}"));
    story.say(&format!("{tick} PodSecurity restricted had nothing to say in namespace {NAMESPACE}"));
    Ok(())
}

/// Waits until so many pods of a workload are ready.
fn ready(world: &SmokeWorld<'_>, app: &str, count: usize) -> Result<Vec<SmokePod>> {
    until(&format!("{count} pods of {app} are ready"), || {
        Ok(Some(world.labelled(NAMESPACE, &format!("app={app}"))?).filter(|pods| pods.len() == count))
    })
}

/// Starts alice's intercept of the requests with her header.
fn alice(story: &Story, world: &SmokeWorld<'_>, target: &str, port: &str) -> Result<Intercepting> {
    story.command(&format!("redir intercept -n {NAMESPACE} {target} --port {port} --header '{HEADER}'"));
    let port = format!("{port}:{}", world.own_port);
    world.intercept_in(NAMESPACE, &world.alice, &[target, "--port", &port, "--header", HEADER])
}

fn all_live(story: &mut Story, intercept: &mut Intercepting, pods: usize) -> Result<()> {
    let status = intercept.status()?;
    let all = status["live"] == pods && status["pods"] == pods;
    let tick = story.must(all, &format!("all of {pods} pods are live: {status}"));
    story.say(&format!("{tick} live in {} of {} pods", status["live"], status["pods"]));
    Ok(())
}

/// Asks a port of each pod with the header and without; `expected` are the answers to the one and the other.
fn table(
    story: &mut Story,
    world: &SmokeWorld<'_>,
    pods: &[SmokePod],
    port: u16,
    expected: (&str, &str),
) -> Result<()> {
    let mut rows = Vec::new();
    for pod in pods {
        let from = node(&world.nodes, &pod.node)?;
        let mut cell = |what: &str, header: Option<&str>, expected: &str| -> AnswerCell {
            story.check(&format!("{} {what}", pod.name), &world.ask(from, &pod.address, port, header), expected)
        };
        let cells = vec![cell("with the header", Some(HEADER), expected.0), cell("without", None, expected.1)];
        rows.push((format!("{} on {}, port {port}", pod.name, pod.node), cells));
    }
    story.table(&["pod", "with the header", "without"], &rows);
    Ok(())
}

/// Ctrl-C; what carries the header goes to the app again.
fn leave(
    story: &mut Story,
    world: &SmokeWorld<'_>,
    intercept: Intercepting,
    pods: &[SmokePod],
    (port, app): (u16, &str),
) -> Result<()> {
    intercept.leave()?;
    story.say("after Ctrl-C:");
    table(story, world, pods, port, (app, app))
}

fn scale(story: &Story, world: &SmokeWorld<'_>, replicas: usize) -> Result<()> {
    let arguments = ["-n", NAMESPACE, "scale", &format!("deploy/{ISOLATED}"), &format!("--replicas={replicas}")];
    story.command(&format!("kubectl {}", arguments.join(" ")));
    world.cluster.kubectl().output(&arguments).map(drop)
}

/// Waits until so many pods are left, those that are ending counted.
fn left(world: &SmokeWorld<'_>, count: usize) -> Result<()> {
    until(&format!("{count} pods are left"), || {
        let pods = world.cluster.kubectl().get(&["-n", NAMESPACE, "pods", "-l", &format!("app={ISOLATED}")])?;
        Ok(pods["items"].as_array().is_some_and(|pods| pods.len() == count).then_some(()))
    })
}

/// Waits until each of these pods is intercepted, as every new one is in a moment.
fn intercepted(world: &SmokeWorld<'_>, pods: &[SmokePod], port: u16) -> Result<()> {
    for pod in pods {
        let from = node(&world.nodes, &pod.node)?;
        answered("a new pod is intercepted", "blue", || world.ask(from, &pod.address, port, Some(HEADER)))?;
    }
    Ok(())
}

/// Deletes a pod of the StatefulSet and waits until the next one of its name is intercepted; all of the StatefulSet's pods.
fn made_anew(story: &Story, world: &SmokeWorld<'_>, name: &str, port: u16) -> Result<Vec<SmokePod>> {
    let old = world.labelled(NAMESPACE, &format!("app={DATABASE}"))?;
    story.command(&format!("kubectl -n {NAMESPACE} delete pod {name}"));
    world.cluster.kubectl().output(&["-n", NAMESPACE, "delete", "pod", name, "--wait=false"])?;
    let pods = until("the pod is made anew", || {
        let pods = world.labelled(NAMESPACE, &format!("app={DATABASE}"))?;
        let is_new = |pod: &SmokePod| pod.name == name && old.iter().all(|old| old.uid != pod.uid);
        Ok((pods.len() == old.len() && pods.iter().any(is_new)).then_some(pods))
    })?;
    let new: Vec<SmokePod> = pods.iter().filter(|pod| pod.name == name).cloned().collect();
    intercepted(world, &new, port)?;
    Ok(pods)
}

/// Nobody's uid in the pod is the node's of the same number.
fn has_user_namespace(story: &mut Story, world: &SmokeWorld<'_>, pod: &SmokePod) -> Result<()> {
    let object = world.cluster.kubectl().get(&["-n", NAMESPACE, "pod", &pod.name])?;
    if object["spec"]["hostUsers"] != false {
        left_out(story, "user namespaces: this server knows no hostUsers");
        return Ok(());
    }
    let map = beside(world.cluster, pod, "cat /proc/$pid/uid_map")?;
    let root = map.split_whitespace().nth(1).unwrap_or_default().to_owned();
    let tick = story.must(root != "0" && !root.is_empty(), &format!("{} has a user namespace: {map:?}", pod.name));
    story.say(&format!("{tick} {}: its root is uid {root} of {}", pod.name, pod.node));
    Ok(())
}

/// The pod gets more CPU and memory.
fn resize(story: &mut Story, world: &SmokeWorld<'_>, name: &str) -> Result<()> {
    let kubectl = world.cluster.kubectl();
    let served: Value = serde_json::from_str(&kubectl.raw("/api/v1")?).context("cannot read what the server serves")?;
    let resources = served["resources"].as_array().context("the server serves nothing")?;
    if !resources.iter().any(|resource| resource["name"] == "pods/resize") {
        left_out(story, "resizing in place: this server has no pods/resize");
        return Ok(());
    }
    story.command(&format!("kubectl -n {NAMESPACE} patch pod {name} --subresource resize --patch …"));
    kubectl.output(&["-n", NAMESPACE, "patch", "pod", name, "--subresource", "resize", "--patch", RESIZE])?;
    let limits = until("the kubelet has resized the pod", || {
        let pod = kubectl.get(&["-n", NAMESPACE, "pod", name])?;
        let mut containers = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
        let web = containers.find(|container| container["name"] == "web").context("the pod has a web container")?;
        let limits = web["resources"]["limits"].clone();
        Ok((limits["cpu"] == "300m" && limits["memory"] == "96Mi").then_some(limits))
    })?;
    story.say(&format!("   its limits are {limits}"));
    Ok(())
}

/// A container more, which asks the app over the pod's own loopback device.
fn debug(story: &mut Story, world: &SmokeWorld<'_>, name: &str) -> Result<()> {
    let kubectl = world.cluster.kubectl();
    story.command(&format!("kubectl -n {NAMESPACE} debug {name} --profile=restricted --image={APP_IMAGE} -- …"));
    let port = PORT.to_string();
    kubectl.output(&[
        "-n",
        NAMESPACE,
        "debug",
        name,
        "--profile=restricted",
        "--container=asker",
        &format!("--image={APP_IMAGE}"),
        "--image-pull-policy=Never",
        "--",
        "/smoke-app",
        "ask",
        &port,
        HEADER,
    ])?;
    let lines = until("the ephemeral container has its answers", || {
        let log = kubectl.output(&["-n", NAMESPACE, "logs", name, "--container=asker"]).unwrap_or_default();
        let lines: Vec<String> = log.lines().map(str::to_owned).collect();
        Ok((lines.len() == 4).then_some(lines))
    })?;
    let mut rows = Vec::new();
    for (pair, client) in lines.chunks(2).zip(["127.0.0.1", "::1"]) {
        let matched = story.check("over lo, with the header", &Ok(pair[0].clone()), "blue");
        let unmatched = story.check("over lo, without", &Ok(pair[1].clone()), &format!("green {name} {client}"));
        rows.push((client.to_owned(), vec![matched, unmatched]));
    }
    story.table(&["from the ephemeral container", "with the header", "without"], &rows);
    Ok(())
}

/// What a pod's containers are known by, and how often they were started again; ephemeral ones not counted.
fn containers(world: &SmokeWorld<'_>, name: &str) -> Result<Vec<String>> {
    let pod = world.cluster.kubectl().get(&["-n", NAMESPACE, "pod", name])?;
    let lists = ["containerStatuses", "initContainerStatuses"].map(|field| pod["status"][field].clone());
    let all = lists.iter().filter_map(Value::as_array).flatten();
    Ok(all.map(|status| format!("{} {} {}", status["name"], status["containerID"], status["restartCount"])).collect())
}

fn left_out(story: &Story, what: &str) {
    story.say(&format!("left out: {what}"));
}
