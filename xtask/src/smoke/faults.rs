//! What breaks: the API server goes and comes back under an intercept, and redir is uninstalled under one.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::traces;
use super::world::{self, HEADER, PORT, SHOP, SmokeWorld, answered, node, until};
use crate::cluster::Cluster;
use crate::demo::story::Story;

/// How long the API server is away.
const AWAY: Duration = Duration::from_secs(30);
/// How soon agents act on what is made after it.
const HEARD: Duration = Duration::from_secs(8);
/// The same with kind, whose control plane comes back as pods: slower on the two processors of CI's machines.
const HEARD_WITH_KIND: Duration = Duration::from_secs(20);
const LATE_HEADER: &str = "x-user: late";

/// Running intercepts do not need the API server.
pub(super) fn api_server(story: &mut Story, world: &mut SmokeWorld<'_>) -> Result<()> {
    story.scene(
        "The API server is away for 30 s",
        "what is intercepted stays so, nothing flaps when it is back, and the agents hear of a new intercept at once",
    );
    let port = format!("{PORT}:{}", world.own_port);
    let mut intercept = world.intercept(&world.alice, &["deploy/web", "--port", &port, "--header", HEADER])?;
    intercept.status()?;
    let pods = world.pods(SHOP)?;
    let pod = pods.first().context("there is no pod")?;
    let from = node(&world.nodes, &pod.node)?;
    let (live, lost) = (intercept.count("live"), intercept.count("lost"));
    world.cluster.stop("kube-apiserver")?;
    let mut rows = Vec::new();
    let mut ask = |story: &mut Story, when: &str| {
        let matched = story.check(when, &world.ask(from, &pod.address, PORT, Some(HEADER)), "blue");
        let unmatched = story.check(when, &world.ask(from, &pod.address, PORT, None), "green");
        rows.push((when.to_owned(), vec![matched, unmatched]));
    };
    ask(story, "while it is away");
    // Long enough that everybody who follows it tries seldom.
    world::pause(AWAY)?;
    world.cluster.start("kube-apiserver")?;
    until("the API server answers again", || Ok(world.pods(SHOP).ok()))?;
    let back = Instant::now();
    let mut late = world.intercept(&world.alice, &["deploy/web", "--port", &port, "--header", LATE_HEADER])?;
    late.status()?;
    let heard = back.elapsed();
    let limit = if world.cluster.provider_name() == "kind" { HEARD_WITH_KIND } else { HEARD };
    let tick = story.must(heard < limit, &format!("an intercept took {heard:.1?} after the API server was back"));
    story.say(&format!("{tick} an intercept made then is live {heard:.1?} after the API server answers"));
    late.leave()?;
    ask(story, "when it is back");
    story.table(&["", "with the header", "without"], &rows);
    let flapped = intercept.count("live") != live || intercept.count("lost") != lost;
    let tick = story.must(!flapped, &format!("the intercept was told lost or live again: {}", intercept.process.log()));
    story.say(&format!("{tick} not a word of it at alice's"));
    intercept.leave()
}

/// Nothing is left, and nobody notices.
pub(super) fn uninstall(
    story: &mut Story,
    world: &SmokeWorld<'_>,
    cluster: &Cluster,
    before: &[(String, String)],
) -> Result<()> {
    story.scene(
        "The admin uninstalls redir under a live intercept",
        "requests go to the app, and the nodes are as before",
    );
    let port = format!("{PORT}:{}", world.own_port);
    let mut intercept = world.intercept(&world.alice, &["deploy/web", "--port", &port])?;
    intercept.status()?;
    story.command("redir uninstall --yes");
    let said = world.as_admin(&["uninstall", "--yes"])?;
    said.lines().for_each(|line| story.say(line));
    let code = intercept.process.exit_code(world::LONG)?;
    let tick =
        story.must(code == 0, &format!("redir ends with 0 when its Intercept is deleted: {}", intercept.process.log()));
    story.say(&format!("{tick} alice's redir has ended"));
    let pods = world.pods(SHOP)?;
    let pod = pods.first().context("there is no pod")?;
    let from = node(&world.nodes, &pod.node)?;
    answered("the app has its requests back", "green", || world.ask(from, &pod.address, PORT, None))?;
    let cell = story.check("after uninstall", &world.ask(from, &pod.address, PORT, None), "green");
    story.table(&["after uninstall", "any request"], &[(pod.name.clone(), vec![cell])]);
    let left = cluster.kubectl().output(&[
        "get",
        "crd,clusterrole,clusterrolebinding,namespace",
        "-l",
        "app.kubernetes.io/part-of=redir",
        "-o",
        "name",
    ])?;
    let tick = story.must(left.trim().is_empty(), &format!("objects are left: {left}"));
    story.say(&format!("{tick} no object of redir is left"));
    for (node, after) in traces::nodes_state(cluster)? {
        let same = before.iter().any(|(name, state)| *name == node && *state == after);
        let tick = story.must(same, &format!("{node} is not as it was: {after}"));
        let left_out = traces::left_out(&after);
        story.say(&format!("{tick} {node}: bpftool and ip show what they showed before{left_out}"));
    }
    for pod in &pods {
        let said = traces::left_in(cluster, pod)?;
        let left: Vec<&str> = said.lines().filter(|line| traces::without_program(line).is_none()).collect();
        let tick = story.must(left.is_empty(), &format!("in {} or on its node is left: {left:?}", pod.name));
        let left_out = traces::left_out(&said);
        story.say(&format!("{tick} {}: no program, filter or rule, and no agent on its node{left_out}", pod.name));
    }
    Ok(())
}
