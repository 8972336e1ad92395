//! What h2spec asks of an HTTP/2 server, through the agent: nothing fails there that does not fail at the app alone.
#![cfg(target_os = "linux")]

use std::{collections::BTreeSet, net::SocketAddr, process::Command, time::Duration};

use anyhow::{Result, ensure};
use redir_rig::{Namespace, topology::Family};
use redir_tests::{LOCAL, PORT, Scenario, USUAL, cases, http2::Origin, once};

/// Cases end with resets: what the app sends while the agent's is on its way to it finds no socket, and leaves the pod.
const LONG: Scenario = Scenario { limit: Duration::from_secs(300), sniff: false, ..USUAL };

/// Cases that a server of the h2 crate passes or fails by its speed alone, whether it is the app or the agent.
const RACES: [&str; 3] = [
    // The PUSH_PROMISE lacks END_HEADERS: a fault only if another frame follows, and that is the acknowledgement of the
    // server's SETTINGS, which the case sends before or after as it happens.
    "client sends push promise frame",
    // DATA behind END_STREAM: STREAM_CLOSED, as the case wants, if the answer is out by then, PROTOCOL_ERROR before.
    "sends data frame on invalid stream state",
    "half closed remote sends data frame",
];

/// The cases whose names hold `filter` that pass there. One that breaks off says neither that it passed nor that it failed.
fn passes(from: &Namespace, to: SocketAddr, filter: &str) -> Result<BTreeSet<String>> {
    let mut command = Command::new(cases("httpwg")?.join("bin/httpwg"));
    command.args(["--address", &to.to_string(), "--frame-timeout", "500", "--connect-timeout", "5000"]);
    command.args(["--filter", filter]).env("RUST_LOG", "off").env("SEQUENTIAL", "1");
    let mut httpwg = from.spawn("httpwg", &mut command)?;
    httpwg.wait(Duration::from_secs(120))?;
    let log = httpwg.stderr();
    let passed = log.lines().filter_map(|line| line.split_once("Test passed: "));
    Ok(passed.map(|(_, name)| name.trim().to_owned()).collect())
}

once!(no_case_fails_that_does_not_fail_at_the_app_alone, LONG, |w| {
    let _green = Origin::start(&w.pod().namespace, ([0u16; 8], PORT).into(), "green", None)?;
    let blue = Origin::start(&w.topology.developer.namespace, ([127, 0, 0, 1], LOCAL).into(), "blue", None)?;
    let (client, to) = (&w.client().namespace, w.pod().at(Family::V4, PORT));
    // Some cases race with what the server sends by itself, so that their outcome varies: at the app alone too.
    let alone = &passes(client, to, "RFC")? & &passes(client, to, "RFC")?;
    ensure!(alone.len() > 70, "only {} cases pass at the app alone", alone.len());
    // Unmatched, and matched: the cases ask for all kinds of paths by GET and POST.
    for (flags, matched) in [(["--header", "x-user: alice"], false), (["--method-regex", "GET|POST"], true)] {
        let cli = w.intercept(&w.alice, LOCAL, &flags)?;
        let through = passes(client, to, "RFC")?;
        ensure!(blue.seen().is_empty() != matched, "{flags:?}: {} requests", blue.seen().len());
        println!("{flags:?}: {} cases pass, at the app alone {}", through.len(), alone.len());
        for case in alone.difference(&through).filter(|case| !RACES.iter().any(|race| case.ends_with(race))) {
            let mut again = (0..3).map(|_| passes(client, to, case));
            ensure!(again.any(|again| again.is_ok_and(|passed| passed.contains(case))), "with {flags:?}: {case}");
        }
        cli.leave()?;
    }
    Ok(())
});
