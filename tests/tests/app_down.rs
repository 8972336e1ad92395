//! An app that does not listen: what developers are told, and who answers.
#![cfg(target_os = "linux")]

use std::{
    io,
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, TcpStream},
};

use anyhow::{Context, Result, bail, ensure};
use redir_rig::{
    App, Cli,
    http::request,
    topology::{FAMILIES, Family},
    wait,
};
use redir_tests::{LOCAL, PORT, SOON, USUAL, World, both, once, read_all, write};

/// Whether a client's connection is refused, as the kernel does where nobody listens.
fn refused(w: &World, family: Family) -> Result<bool> {
    match w.connect(w.client(), family) {
        Ok(_) => Ok(false),
        Err(error) => match error.downcast_ref::<io::Error>() {
            Some(io) if io.kind() == ErrorKind::ConnectionRefused => Ok(true),
            _ => Err(error),
        },
    }
}

/// Waits for a state of the app that is told after `so_far` others.
fn told(cli: &mut Cli, so_far: usize, state: &str) -> Result<serde_json::Value> {
    let events = cli.wait_events("app", so_far + 1, SOON * 2)?;
    ensure!(events[so_far]["state"] == state && events[so_far]["port"] == PORT, "{events:?}");
    Ok(events[so_far].clone())
}

/// The row of `redir list`.
fn listed(w: &World) -> Result<String> {
    let (code, out, err) = w.redir(&w.alice, &["list"])?;
    ensure!(code == 0, "{err}");
    out.lines().find(|line| line.contains("web-1") && line.contains("live")).map(str::to_owned).context(out)
}

both!(nobody_listens_is_told_and_followed, USUAL, |w| {
    let _blue = w.local(LOCAL, "blue")?;
    let mut cli = w.start(&w.alice, LOCAL, &["--header", "x-user: alice"])?;
    let live = cli.wait_live()?;
    ensure!(live["app"] == "nobody" && live["curl"].is_null(), "{live}");
    for family in FAMILIES {
        ensure!(refused(w, family)?, "as without redir");
    }
    ensure!(listed(w)?.contains("nobody listens"), "{}", listed(w)?);

    let green = w.green()?;
    let event = told(&mut cli, 0, "listening")?;
    ensure!(event["curl"].as_str().is_some_and(|curl| curl.contains("x-user: alice")), "{event}");
    ensure!(listed(w)?.contains("  listens  "), "{}", listed(w)?);
    for family in FAMILIES {
        ensure!(w.get(family, &["x-user: alice"])?.starts_with("blue"));
        ensure!(w.get(family, &[])?.starts_with("green"));
    }

    green.stop();
    let event = told(&mut cli, 1, "nobody")?;
    let reason = event["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains("nobody listens on port 8080 of web-1: requests are refused, as without redir"), "{event}");
    ensure!(refused(w, Family::V4)?);

    let _inside = App::start_on(&w.pod().namespace, &[SocketAddr::from((Ipv4Addr::LOCALHOST, PORT))], "green")?;
    told(&mut cli, 2, "loopback_only")?;
    ensure!(refused(w, Family::V4)?);
    cli.leave()
});

once!(people_are_told_that_nobody_listens_and_have_nothing_to_try, USUAL, |w| {
    let arguments = w.arguments("web-1", "8080:3000", &[]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut command = w.alice.command()?;
    command.arg("intercept").args(&arguments);
    let mut cli = w.topology.developer.namespace.spawn("redir intercept", &mut command)?;
    cli.wait_for_line("nobody listens on port 8080 of web-1: requests are refused, as without redir", SOON)?;
    ensure!(!cli.stdout().contains("try "), "{}", cli.stdout());
    let _green = w.green()?;
    cli.wait_for_line("app   the app listens on port 8080 of web-1 now", SOON * 2)?;
    cli.wait_for_line("try   curl", SOON)?;
    Ok(())
});

/// What a probe of the kubelet's gets; an error if the connection is reset.
fn probe(w: &World, family: Family) -> Result<String> {
    let mut client: TcpStream = w.connect(w.client(), family)?;
    write(&mut client, request("GET", "/close", &["user-agent: kube-probe/1.30"]))?;
    Ok(String::from_utf8(read_all(&mut client)?)?)
}

fn is_reset<T>(result: Result<T>) -> Result<bool> {
    match result {
        Ok(_) => Ok(false),
        Err(error) => match error.downcast_ref::<io::Error>() {
            Some(io) if io.kind() == ErrorKind::ConnectionReset => Ok(true),
            _ => Err(error),
        },
    }
}

both!(the_developer_answers_even_if_the_app_is_down, USUAL, |w| {
    let _blue = w.local(LOCAL, "blue")?;
    let mut cli = w.start(&w.alice, LOCAL, &["--even-if-down"])?;
    let live = cli.wait_live()?;
    ensure!(live["app"] == "nobody" && live["curl"].is_string(), "{live}");
    for family in FAMILIES {
        for host in [w.client(), &w.topology.peer, &w.topology.node, w.pod()] {
            let mut http = w.http(host, family)?;
            for _ in 0..3 {
                ensure!(http.get("/", &[])?.text().starts_with("blue"), "{family:?}");
            }
        }
        // What is the app's fails as without redir: nobody else may answer a probe.
        ensure!(is_reset(probe(w, family))?, "{family:?}");
    }
    let green = w.green()?;
    told(&mut cli, 0, "listening")?;
    for family in FAMILIES {
        ensure!(w.get(family, &[])?.starts_with("blue"));
        let answer = probe(w, family)?;
        ensure!(answer.ends_with(&format!("green {}\n", w.client().ip(family))), "{answer}");
    }
    green.stop();
    ensure!(w.get(Family::V4, &[])?.starts_with("blue"));
    cli.leave()?;
    for family in FAMILIES {
        wait::until_true("clients to be refused again", SOON, || refused(w, family))?;
    }
    Ok(())
});

both!(only_as_long_as_its_developer_is_there, USUAL, |w| {
    let _blue = w.local(LOCAL, "blue")?;
    let mut bob = w.start(&w.bob, LOCAL, &["--header", "x-user: bob"])?;
    bob.wait_live()?;
    ensure!(refused(w, Family::V4)?, "one with conditions does not open the gate");
    let mut alice = w.start(&w.alice, LOCAL, &["--even-if-down"])?;
    alice.wait_live()?;
    for family in FAMILIES {
        wait::until_true("the gate to open", SOON, || Ok(!refused(w, family)?))?;
        for header in ["x-user: bob", "x-user: carol"] {
            ensure!(w.get(family, &[header])?.starts_with("blue"));
        }
    }
    ensure!(bob.events("live").len() == 1 && bob.events("refused").is_empty(), "{}", bob.process.log());
    alice.leave()?;
    for family in FAMILIES {
        wait::until_true("the gate to close", SOON, || refused(w, family))?;
    }
    let _green = w.green()?;
    ensure!(w.get(Family::V4, &["x-user: bob"])?.starts_with("blue"));
    ensure!(w.get(Family::V4, &[])?.starts_with("green"));
    bob.leave()
});

once!(a_killed_agent_answers_for_nobody, USUAL, |w| {
    let _blue = w.local(LOCAL, "blue")?;
    let _cli = w.intercept(&w.alice, LOCAL, &["--even-if-down"])?;
    ensure!(w.get(Family::V4, &[])?.starts_with("blue"));
    w.agent.process.kill()?;
    wait::until_true("clients to be refused", SOON, || refused(w, Family::V4))
});

once!(conditions_and_even_if_down_do_not_go_together, USUAL, |w| {
    let flags = w.agent_flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let line = ["intercept", "web-1", "--port", "8080", "--even-if-down", "--header", "x-user: alice"];
    let (code, _, err) = w.alice.run(&w.topology.developer.namespace, &[&line[..], &flags].concat())?;
    if code != 2 || !err.contains("--even-if-down goes without conditions only") {
        bail!("{code}: {err}");
    }
    Ok(())
});
