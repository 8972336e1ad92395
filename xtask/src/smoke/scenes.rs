//! What goes well: installing, intercepting with a header and without, and pods that come and go meanwhile.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::figures::SmokeFigures;
use super::joins;
use super::world::{
    HEADER, Intercepting, LONG, OTHER, PORT, SERVICE_PORT, SHOP, SmokePrograms, SmokeWorld, answered, node, until,
};
use crate::cluster::Cluster;
use crate::demo::story::{Story, precise};

/// In the order in which addresses of both are listed.
const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];

/// How long an intercept may outlive its object.
const END: Duration = Duration::from_secs(2);

/// The admin's part.
pub(super) fn install<'a>(
    story: &mut Story,
    cluster: &'a Cluster,
    programs: &'a SmokePrograms,
) -> Result<SmokeWorld<'a>> {
    story.scene("The admin installs redir", "the roles, the resource, and an agent on every node");
    story.command("redir install");
    let said = SmokeWorld::install(cluster, programs)?;
    said.lines().for_each(|line| story.say(line));
    let world = SmokeWorld::new(cluster, programs)?;
    let (code, said) = world.redir(cluster.kubeconfig(), &["doctor", "-n", SHOP])?;
    story.command("redir doctor -n shop");
    said.lines().for_each(|line| story.say(line));
    let tick = story.must(code == 0, &format!("redir doctor ended with {code}: {said}"));
    story.say(&format!("{tick} nothing is wrong"));
    Ok(world)
}

/// `redir intercept deploy/web --header`, looked at from every side.
pub(super) fn with_header(story: &mut Story, world: &mut SmokeWorld<'_>, figures: &mut SmokeFigures) -> Result<()> {
    story.scene(
        "Alice intercepts deploy/web",
        "her header's requests only: by ClusterIP, NodePort, pod IP and port-forward",
    );
    let calls = figures.calls(world)?;
    let began = Instant::now();
    let mut intercept = alice(story, world, &["deploy/web", "--header", HEADER])?;
    let status = intercept.status()?;
    figures.live = Some(began.elapsed());
    let all = status["live"] == 2 && status["pods"] == 2;
    let tick = story.must(all, &format!("two of two pods are live: {status}"));
    story.say(&format!("{tick} live in 2 of 2 pods"));
    every_way(story, world)?;
    let after = world.pods(OTHER)?;
    let other = after.first().context("there is no pod in the other namespace")?;
    let elsewhere = world.ask(node(&world.nodes, &other.node)?, &other.address, PORT, Some(HEADER));
    let cell = story.check("another namespace's pod", &elsewhere, "green");
    story.table(&["where", "with the header"], &[("the same labels in another namespace".into(), vec![cell])]);
    intercept.leave()?;
    figures.calls_made(world, &calls)?;
    let pods = world.pods(SHOP)?;
    let pod = pods.first().context("there is no pod")?;
    let answer = world.ask(node(&world.nodes, &pod.node)?, &pod.address, PORT, Some(HEADER));
    let cell = story.check("after Ctrl-C", &answer, "green");
    story.table(&["after Ctrl-C", "with the header"], &[("the next request".into(), vec![cell])]);
    Ok(())
}

/// Starts alice's intercept on port http.
fn alice(story: &mut Story, world: &SmokeWorld<'_>, arguments: &[&str]) -> Result<Intercepting> {
    let port = format!("http:{}", world.own_port);
    let arguments = [arguments, &["--port", &port]].concat();
    let spelled: Vec<String> = arguments
        .iter()
        .map(|word| if word.contains(' ') { format!("'{word}'") } else { (*word).to_owned() })
        .collect();
    story.command(&format!("redir intercept -n {SHOP} {}", spelled.join(" ")));
    world.intercept(&world.alice, &arguments)
}

/// Each way to the app, from each node, with the header and without.
fn every_way(story: &mut Story, world: &SmokeWorld<'_>) -> Result<()> {
    let mut rows = Vec::new();
    let mut row = |story: &mut Story, name: String, ask: &dyn Fn(Option<&str>) -> crate::demo::story::Answer| {
        let matched = story.check(&format!("{name}, with the header"), &ask(Some(HEADER)), "blue");
        let unmatched = story.check(&format!("{name}, without"), &ask(None), "green");
        rows.push((name, vec![matched, unmatched]));
    };
    for from in &world.nodes {
        for (ip, family) in world.cluster_ips.iter().zip(FAMILIES) {
            let name = format!("ClusterIP ({family}) from {}", from.name);
            row(story, name, &|header| world.ask(from, ip, SERVICE_PORT, header));
        }
        for pod in world.pods(SHOP)? {
            for (address, family) in pod.addresses.iter().zip(FAMILIES) {
                let name = format!("{} on {} ({family}) from {}", pod.name, pod.node, from.name);
                row(story, name, &|header| world.ask(from, address, PORT, header));
            }
        }
        for (address, family) in world.addresses(from)?.iter().zip(FAMILIES) {
            let name = format!("NodePort of {} ({family})", from.name);
            row(story, name, &|header| world.ask_from_here(address, world.node_port, header));
        }
    }
    let (forward, port) = world.port_forward()?;
    row(story, "kubectl port-forward".into(), &|header| world.ask_from_here("127.0.0.1", port, header));
    drop(forward);
    story.table(&["way", "with the header", "without"], &rows);
    Ok(())
}

/// Every pod is replaced, then there are more, under one intercept.
pub(super) fn rollout_and_scale(
    story: &mut Story,
    world: &mut SmokeWorld<'_>,
    figures: &mut SmokeFigures,
) -> Result<()> {
    story.scene("The app is rolled out anew and scaled up", "the intercept follows without a keystroke");
    let mut intercept = alice(story, world, &["deploy/web", "--header", HEADER])?;
    intercept.status()?;
    let old = world.pods(SHOP)?;
    let kubectl = world.cluster.kubectl();
    story.command("kubectl -n shop rollout restart deploy/web");
    story.command("kubectl -n shop scale deploy/web --replicas=4");
    let ((new, scaled), joined) = joins::noted(world, &intercept, || {
        kubectl.output(&["-n", SHOP, "rollout", "restart", "deploy/web"])?;
        let new = until("the old pods are leaving and the new ones ready", || {
            let pods = world.pods(SHOP)?;
            Ok((pods.len() == 2 && pods.iter().all(|pod| !old.contains(pod))).then_some(pods))
        })?;
        kubectl.output(&["-n", SHOP, "scale", "deploy/web", "--replicas=4"])?;
        let scaled = until("four pods are ready and live", || {
            let (pods, live) = (world.pods(SHOP)?, intercept.live());
            Ok((pods.len() == 4 && pods.iter().all(|pod| live.contains(&pod.name))).then_some(pods))
        })?;
        Ok((new, scaled))
    })?;
    let mut rows = Vec::new();
    for pod in &scaled {
        let from = node(&world.nodes, &pod.node)?;
        figures.joined.extend(joined.get(&pod.name));
        let matched = story.check(&pod.name, &world.ask(from, &pod.address, PORT, Some(HEADER)), "blue");
        let unmatched = story.check(&pod.name, &world.ask(from, &pod.address, PORT, None), "green");
        let origin = if new.contains(pod) { "rolled out" } else { "scaled up" };
        rows.push((format!("{} ({origin})", pod.name), vec![matched, unmatched]));
    }
    story.table(&["pod", "with the header", "without"], &rows);
    kubectl.output(&["-n", SHOP, "scale", "deploy/web", "--replicas=2"])?;
    // A pod that ends may still be sent requests for a moment, and new intercepts leave it alone.
    until("two pods are left", || {
        let pods = kubectl.get(&["-n", SHOP, "pods"])?;
        Ok(pods["items"].as_array().is_some_and(|pods| pods.len() == 2).then_some(()))
    })?;
    intercept.leave()
}

/// Without a condition every request comes.
pub(super) fn everything(story: &mut Story, world: &mut SmokeWorld<'_>) -> Result<()> {
    story.scene("Alice intercepts everything", "service/web, without a condition");
    let port = format!("{SERVICE_PORT}:{}", world.own_port);
    story.command(&format!("redir intercept -n {SHOP} service/web --port {port}"));
    let mut intercept = world.intercept(&world.alice, &["service/web", "--port", &port])?;
    intercept.status()?;
    let mut rows = Vec::new();
    for from in &world.nodes {
        for (ip, family) in world.cluster_ips.iter().zip(FAMILIES) {
            let name = format!("ClusterIP ({family}) from {}", from.name);
            let cell = story.check(&name, &world.ask(from, ip, SERVICE_PORT, None), "blue");
            rows.push((name, vec![cell]));
        }
    }
    story.table(&["way", "any request"], &rows);
    let name = intercept.name()?;
    let (_, said) = world.redir(&world.alice, &["list", "-n", SHOP])?;
    story.command("redir list -n shop");
    said.lines().for_each(|line| story.say(line));
    let tick = story.must(said.contains(&name), &format!("redir list names {name}: {said}"));
    story.say(&format!("{tick} the list names it"));
    let (code, said) = world.redir(&world.alice, &["leave", &name, "-n", SHOP])?;
    story.command(&format!("redir leave {name}"));
    let tick = story.must(code == 0, &format!("redir leave ended with {code}: {said}"));
    story.say(&format!("{tick} {}", said.trim_end()));
    let from = world.nodes.first().context("no node")?;
    let ask = || world.ask(from, &world.cluster_ips[0], SERVICE_PORT, None);
    let took = answered("the app has its requests back", "green", ask)?;
    let tick = story.must(took <= END, &format!("the app had its requests back only after {}", precise(took)));
    story.say(&format!("{tick} the app had its requests back within {}", precise(END)));
    let code = intercept.process.exit_code(LONG)?;
    let tick = story.must(code == 0, &format!("alice's redir ended with {code}"));
    story.say(&format!("{tick} alice's redir has ended"));
    Ok(())
}
