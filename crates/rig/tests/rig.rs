//! The rig against a plain service, without redir: what the end-to-end tests rely on.
#![cfg(target_os = "linux")]

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, ensure};
use redir_rig::{
    App, Http, Listener, Load, Snapshot, Sniff, Topology, bounded,
    pattern::Pattern,
    topology::{FAMILIES, unique_prefix},
    wait,
};

const LIMIT: Duration = Duration::from_secs(60);

fn on_topology(body: impl FnOnce(Topology) -> Result<()> + Send + 'static) -> Result<()> {
    let prefix = unique_prefix("t");
    let topology = prefix.clone();
    bounded::run(&prefix, LIMIT, move || body(Topology::new(&topology, 1)?))?
}

#[test]
fn everybody_reaches_the_app_and_is_seen() -> Result<()> {
    on_topology(|t| {
        let app = App::start(&t.pod().namespace, 8080, "green")?;
        for family in FAMILIES {
            for host in [&t.client, &t.peer, &t.node, &t.developer, t.pod()] {
                let mut http = Http::new(host.namespace.connect(t.pod().at(family, 8080))?);
                let answer = http.get("/", &[])?;
                ensure!(answer.text() == format!("green {}\n", host.ip(family)), "{answer:?}");
                ensure!(http.get("/chunked", &[])?.text() == answer.text());
                app.set_version("blue");
                ensure!(http.get("/", &[])?.text().starts_with("blue "));
                app.set_version("green");
                ensure!(http.get("/echo", &["x: y"])?.text().contains("\r\nx: y"));
            }
        }
        ensure!(app.by_client().len() == 10, "{:?}", app.by_client());
        Ok(())
    })
}

#[test]
fn bulk_is_whole_both_ways() -> Result<()> {
    on_topology(|t| {
        let _app = App::start(&t.pod().namespace, 8080, "green")?;
        let mut http = Http::new(t.client.namespace.connect(t.pod().at(FAMILIES[0], 8080))?);
        http.send(redir_rig::http::request("GET", "/download/20000000", &[]))?;
        let (mut pattern, mut offset) = (Pattern::default(), 0);
        let (_, length) = http.response_with(|piece| {
            ensure!(pattern.check(offset, piece));
            offset += piece.len() as u64;
            Ok(())
        })?;
        ensure!(length == 20_000_000);
        let mut bytes = vec![0; 20_000_000];
        pattern.fill(0, &mut bytes);
        http.send("POST /upload HTTP/1.1\r\ncontent-length: 20000000\r\n\r\n")?;
        http.send(&bytes)?;
        ensure!(http.response()?.text() == "whole 20000000\n");
        Ok(())
    })
}

#[test]
fn failures_are_counted_apart() -> Result<()> {
    on_topology(|t| {
        let app = App::start(&t.pod().namespace, 8080, "green")?;
        let begin = Instant::now();
        let load = Load::start(&t.client.namespace, t.pod().at(FAMILIES[0], 8080), 200, "/", &[])?;
        load.wait_for(100, begin)?;
        app.stop();
        let down = Instant::now();
        load.wait_for(20, down)?;
        let report = load.stop()?;
        ensure!(report.failed(None, Some(begin)).is_empty());
        ensure!(report.failed(Some(down), None).len() >= 20, "{:?}", report.by_answer());
        ensure!(report.by_answer()["green"] >= 90, "{:?}", report.by_answer());
        Ok(())
    })
}

#[test]
fn leftovers_and_leaks_are_seen() -> Result<()> {
    on_topology(|t| {
        let pod = &t.pod().namespace;
        let before = Snapshot::take(pod)?;
        ensure!(before.difference(&Snapshot::take(pod)?).is_empty());
        pod.ip("rule add fwmark 7 lookup 100\n")?;
        ensure!(before.restored(pod, Duration::from_millis(50)).is_err());
        pod.ip("rule del fwmark 7 lookup 100\n")?;
        pod.output(&["tc", "qdisc", "add", "dev", "eth0", "clsact"])?;
        ensure!(before.restored(pod, Duration::from_millis(50)).is_err());
        pod.output(&["tc", "qdisc", "del", "dev", "eth0", "clsact"])?;
        before.restored(pod, Duration::from_secs(1))?;

        let sniff = Sniff::start(&t.node.namespace, "vweb-1")?;
        let listeners = FAMILIES.map(|family| Listener::new(pod, (family.any(), 8080).into()));
        for (family, listener) in FAMILIES.into_iter().zip(&listeners) {
            let _quiet = t.client.namespace.connect(t.pod().at(family, 8080))?;
            listener.as_ref().map_err(|e| anyhow!("{e:#}"))?.accept()?;
        }
        sniff.silent()?;
        for family in FAMILIES {
            let _loud = t.client.namespace.connect_from((family.any(), 700).into(), t.pod().at(family, 8080))?;
            ensure!(sniff.take()?.len() >= 3);
        }
        Ok(())
    })
}

#[test]
fn processes_and_namespaces_go_with_their_owner() -> Result<()> {
    let (path, pid) = {
        let t = Topology::new(&unique_prefix("t"), 0)?;
        let mut process =
            t.node.namespace.spawn("sh", Command::new("sh").args(["-c", "echo here; exec sleep 1000"]))?;
        ensure!(process.wait_for_line("here", LIMIT)? == "here");
        ensure!(redir_rig::cleanup::processes_in(t.node.namespace.path()) == [process.pid()]);
        (t.node.namespace.path().to_owned(), process.pid())
    };
    ensure!(!path.exists());
    wait::until_true("the end of the process", LIMIT, || Ok(!std::path::Path::new(&format!("/proc/{pid}")).exists()))
}
