//! The scenes in which all goes well: each asks as a person would, shows the answers, and checks them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use redir_rig::Cli;
use redir_rig::topology::{FAMILIES, Family};

use super::figures::DemoTimes;
use super::story::Story;
use super::world::{DemoWorld, HEADER, PODS, PORT, line};
use crate::ui;

/// How long a change may take to be seen before the demo gives up.
const LIMIT: Duration = Duration::from_secs(15);

/// An intercept with a header, in both pods.
pub(super) fn filtered(story: &mut Story, world: &DemoWorld, times: &mut DemoTimes) -> Result<Cli> {
    story.scene(
        "Only the requests that carry alice's header",
        "the rest stays with the app, which still sees the client's own address",
    );
    let began = Instant::now();
    let mut intercept = world.intercept(story, &["app=web", "--port", "8080:3000", "--header", HEADER])?;
    let (live, first) = until_first_answer(world, &mut intercept, "blue", began)?;
    (times.live, times.first_answer) = (Some(live), Some(first));
    story.say(&format!("{} live in both pods", ui::green("✓")));
    let mut rows = Vec::new();
    for (pod, family) in world.pods() {
        let to = pod.at(family, PORT);
        let what = format!("{} over {family:?}", pod.name);
        let without = story.check(&what, &world.ask(to, &[]), &world.green(family));
        let with = story.check(&format!("{what} with the header"), &world.ask(to, &[HEADER]), "blue");
        rows.push((format!("{} {}", pod.name, pod.ip(family)), vec![without, with]));
    }
    story.table(&["", "without the header", HEADER], &rows);
    Ok(intercept)
}

/// When the CLI said that it is live, and when an answer was `version`, both counted from `began`.
fn until_first_answer(world: &DemoWorld, cli: &mut Cli, version: &str, began: Instant) -> Result<(Duration, Duration)> {
    let to = world.topology.pod().at(Family::V4, PORT);
    let (mut live, mut first) = (None, None);
    while live.is_none() || first.is_none() {
        ensure!(began.elapsed() < LIMIT, "not live after {LIMIT:?}: {}", cli.process.log());
        ensure!(cli.process.exited()?.is_none(), "redir intercept ended: {}", cli.process.log());
        // One event for each pod.
        if live.is_none() && cli.events("live").len() >= PODS {
            live = Some(began.elapsed());
        }
        if first.is_none() && world.ask(to, &[HEADER])?.starts_with(version) {
            first = Some(began.elapsed());
        }
    }
    live.zip(first).context("neither is missing after the loop")
}

/// Requests for both on one connection.
pub(super) fn kept_alive(story: &mut Story, world: &DemoWorld) -> Result<()> {
    story.scene("Both on one kept-alive connection", "each request is decided separately, answers keep their order");
    let mut rows = Vec::new();
    for family in FAMILIES {
        let to = world.topology.pod().at(family, PORT);
        let mut connection = world.dial(to)?;
        let mut cells = Vec::new();
        for headers in [&[][..], &[HEADER], &[], &[HEADER]] {
            let expected = if headers.is_empty() { world.green(family) } else { "blue".to_owned() };
            cells.push(story.check(&format!("{to} kept alive"), &line(&mut connection, headers), &expected));
        }
        rows.push((to.ip().to_string(), cells));
    }
    story.table(&["", "without header", "with header", "without header", "with header"], &rows);
    Ok(())
}

/// The developer changes their code.
pub(super) fn new_version(story: &mut Story, world: &mut DemoWorld) -> Result<()> {
    story.scene(
        "The developer changes the code: blue becomes orange",
        "a restart on the laptop: no image, no push, no rollout",
    );
    let to = world.topology.pod().at(Family::V4, PORT);
    let mut connection = world.dial(to)?;
    let before = story.check("before the change", &line(&mut connection, &[HEADER]), "blue");
    world.restart_development("orange")?;
    // A connection that is used again in the very moment in which the service closes it ends with it, redir or not. The end
    // of the old one is with the agent before this answer, which comes behind it through the tunnel.
    let anew = story.check("after the change, a new connection", &world.ask(to, &[HEADER]), "orange");
    let after = story.check("after the change, same connection", &line(&mut connection, &[HEADER]), "orange");
    let others = story.check("after the change, without the header", &world.ask(to, &[]), &world.green(Family::V4));
    let cells = vec![before, after, anew, others];
    let heading = ["", "before", "after", "on a new connection", "without header"];
    story.table(&heading, &[(format!("with {HEADER}"), cells)]);
    Ok(())
}

/// A second developer's intercept without a filter, on one pod, beside the filtered one.
pub(super) fn two_at_once(story: &mut Story, world: &DemoWorld) -> Result<()> {
    story.scene(
        "A global intercept: all requests of one pod",
        "it takes what no filter has claimed; the other pod is unaffected",
    );
    let mut all = world.intercept(story, &["web-1", "--port", "8080:3000"])?;
    all.wait_live()?;
    let mut rows = Vec::new();
    for (pod, family) in world.pods() {
        let expected = if pod.name == "web-1" { "orange".to_owned() } else { world.green(family) };
        let answer = world.ask(pod.at(family, PORT), &[]);
        let cell = story.check(&format!("{} under a global intercept of web-1", pod.name), &answer, &expected);
        rows.push((format!("{} {}", pod.name, pod.ip(family)), vec![cell]));
    }
    story.table(&["", "without the header"], &rows);
    let code = all.interrupt()?;
    let to = world.topology.pod().at(Family::V4, PORT);
    let after = story.check("after the global intercept", &world.ask(to, &[]), &world.green(Family::V4));
    let mark = story.must(code == 0, &format!("Ctrl-C of the global intercept ended redir with {code}"));
    story.say(&format!("Ctrl-C: {mark} exit code {code}, and web-1 says {}", after.line()));
    Ok(())
}

/// Ctrl-C in the developer's terminal.
pub(super) fn ctrl_c(story: &mut Story, world: &DemoWorld, intercept: &mut Cli, times: &mut DemoTimes) -> Result<()> {
    story.scene("Ctrl-C", "the next request goes to the app, on the same connection too");
    let to = world.topology.pod().at(Family::V4, PORT);
    let mut connection = world.dial(to)?;
    let before = story.check("before Ctrl-C", &line(&mut connection, &[HEADER]), "orange");
    let began = Instant::now();
    intercept.process.signal(Signal::SIGINT)?;
    // Asked on new connections until one answer comes from the app; what was on its way may still be the developer's.
    while !world.ask(to, &[HEADER])?.starts_with("green") {
        ensure!(began.elapsed() < LIMIT, "still intercepted {LIMIT:?} after Ctrl-C");
    }
    times.after_ctrl_c = Some(began.elapsed());
    let code = intercept.process.exit_code(LIMIT)?;
    let after =
        story.check("after Ctrl-C, same connection", &line(&mut connection, &[HEADER]), &world.green(Family::V4));
    story.table(&["", "before", "after"], &[(format!("with {HEADER}"), vec![before, after])]);
    drop(connection);
    let mark = story.must(code == 0, &format!("Ctrl-C ended redir with {code}"));
    let restored = world.restored();
    let clean = story.must(restored.is_ok(), &format!("after Ctrl-C: {restored:?}"));
    story.say(&format!("{mark} exit code {code}   {clean} the pods' namespaces look as they did before"));
    Ok(())
}

/// The end: the agent goes as it does in a rolling update.
pub(super) fn goodbye(story: &mut Story, mut world: DemoWorld) -> Result<()> {
    story.scene("The agent leaves (SIGTERM)", "");
    let code = world.agent()?.terminate(LIMIT)?;
    let mark = story.must(code == 0, &format!("SIGTERM ended the agent with {code}: {}", world.agent()?.process.log()));
    let restored = world.restored();
    let clean = story.must(restored.is_ok(), &format!("after the agent left: {restored:?}"));
    story.say(&format!("{mark} exit code {code}   {clean} the pods' namespaces look as they did before"));
    Ok(())
}
