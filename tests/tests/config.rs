//! The agent's file and its start: one sentence with the next step for whatever is wrong, and nothing left attached.
#![cfg(target_os = "linux")]

use std::{fs, net::UdpSocket, os::unix::fs::PermissionsExt, time::Duration};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use redir_rig::{
    AgentConfig, Snapshot, Topology,
    agent::{self, AgentFiles},
    bounded,
    topology::{Family, unique_prefix},
    wait,
};
use redir_tests::{LOCAL, SOON, Scenario, USUAL, once};

const ALICE: &str = "x-user: alice";

/// The agent must end by itself with `code` and a message that contains all needles.
fn ends(t: &Topology, files: &AgentFiles, wrapper: &[&str], code: i32, needles: &[&str]) -> Result<()> {
    let mut process = agent::spawn(&t.node.namespace, &files.config(), wrapper)?;
    let got = process.exit_code(Duration::from_secs(15))?;
    let log = process.log();
    ensure!(got == code, "ended with {got} instead of {code}: {log}");
    for needle in needles {
        ensure!(log.contains(needle), "no {needle:?} in: {log}");
    }
    ensure!(!log.contains("panicked") && !log.contains("stack backtrace"), "{log}");
    ensure!(!log.contains('\u{1b}'), "an escape reaches the terminal: {log:?}");
    Ok(())
}

fn without_agent(body: fn(&Topology, &AgentFiles) -> Result<()>) -> Result<()> {
    let prefix = unique_prefix("t");
    let name = prefix.clone();
    bounded::run(&prefix, Duration::from_secs(60), move || {
        let topology = Topology::new(&name, 1)?;
        let before = Snapshot::take(&topology.pod().namespace)?;
        body(&topology, &AgentFiles::new()?)?;
        before.restored(&topology.pod().namespace, SOON)
    })?
}

fn good(t: &Topology, files: &AgentFiles) -> Result<String> {
    AgentConfig::new(t, "auto").text(&files.key())
}

#[test]
fn a_wrong_file_is_named_with_line_and_key() -> Result<()> {
    without_agent(|t, files| {
        let text = good(t, files)?;
        let developer = "[[developer]]\nname = \"eve\"\nkey = \"sha256:short\"\npods = [{}]\n";
        for (wrong, needles) in [
            (text.replace("attach", "attache"), &["agent.toml:5", "attache"][..]),
            (text.replace("\"[::]:7447\"", "\"everywhere\""), &["agent.toml:2", "listen", "everywhere"]),
            (text.replace("attach = \"auto\"", "attach = \"glue\""), &["agent.toml:5", "attach", "glue"]),
            (text.clone() + developer, &["agent.toml:", "developer[0].key"]),
            (text.clone() + "[[pod]]\nname = \"web-1\"\nnetns = \"/x\"\n", &["agent.toml:", "pod[1].name"]),
            (text.clone() + "nonsense", &["agent.toml:"]),
            (text.clone() + "\"\\u001b[31mred\" = 1", &["agent.toml:", "\\u{1b}[31mred"]),
            (text.replace("[agent]\n", "[agent]\ndrain = \"soon\"\n"), &["agent.toml:2", "drain", "soon"]),
            (String::new(), &["agent.toml"]),
        ] {
            files.write(&wrong)?;
            ends(t, files, &[], 2, needles)?;
        }
        fs::remove_file(files.config())?;
        ends(t, files, &[], 1, &["agent.toml"])
    })
}

#[test]
fn a_key_that_others_can_read_is_refused() -> Result<()> {
    without_agent(|t, files| {
        files.write(&good(t, files)?)?;
        fs::set_permissions(files.key(), fs::Permissions::from_mode(0o644))?;
        ends(t, files, &[], 1, &["agent.key", "600"])?;
        fs::set_permissions(files.key(), fs::Permissions::from_mode(0o600))?;
        fs::write(files.key(), "not a key")?;
        ends(t, files, &[], 1, &["agent.key"])?;
        fs::remove_file(files.key())?;
        ends(t, files, &[], 1, &["agent.key", "keygen"])
    })
}

#[test]
fn a_port_in_use_is_named() -> Result<()> {
    without_agent(|t, files| {
        files.write(&good(t, files)?)?;
        let udp = t.node.namespace.run(|| UdpSocket::bind(("::", agent::TUNNEL_PORT)))??;
        ends(t, files, &[], 1, &["7447", "in use"])?;
        drop(udp);
        let _tcp = t.node.namespace.run(|| std::net::TcpListener::bind(agent::ADMIN))??;
        ends(t, files, &[], 1, &["7448", "in use"])
    })
}

#[test]
fn without_rights_the_agent_says_what_it_needs() -> Result<()> {
    without_agent(|t, files| {
        files.write(&good(t, files)?)?;
        let directory = files.config();
        let directory = directory.parent().expect("the file has a directory");
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
        nix::unistd::chown(&files.key(), Some(65534.into()), Some(65534.into()))?;
        nix::unistd::chown(&files.config(), Some(65534.into()), Some(65534.into()))?;
        let nobody = &["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];
        ends(t, files, nobody, 1, &["root"])?;
        // Root without the capability, as in a container that was not given it.
        nix::unistd::chown(&files.key(), Some(0.into()), Some(0.into()))?;
        nix::unistd::chown(&files.config(), Some(0.into()), Some(0.into()))?;
        let weak = &["setpriv", "--bounding-set", "-bpf,-sys_admin", "--inh-caps", "-bpf,-sys_admin"];
        ends(t, files, weak, 1, &["CAP_"])
    })
}

once!(a_bad_change_keeps_the_last_good_file, USUAL, |w| {
    let _apps = (w.green()?, w.local(LOCAL, "blue")?, w.local(LOCAL + 1, "orange")?);
    let _alice = w.alice()?;
    let good = w.config.text(&w.agent.key())?;
    w.agent.rewrite(&(good.clone() + "[[developer]]\nname = \"eve\"\nkey = \"oops\"\n"))?;
    w.agent.process.wait_for("the error with file, line and key", SOON, |log| {
        log.lines().find(|l| l.contains("agent.toml:") && l.contains("developer[2]")).map(drop)
    })?;
    ensure!(w.get(Family::V4, &[ALICE])?.starts_with("blue"));
    // The same for SIGHUP.
    let before = w.agent.lines(&["agent.toml:", "developer[2]"]).len();
    w.agent.signal(Signal::SIGHUP)?;
    wait::until_true("the error again", SOON, || Ok(w.agent.lines(&["agent.toml:", "developer[2]"]).len() > before))?;
    ensure!(w.get(Family::V4, &[ALICE])?.starts_with("blue"));
    // A good one, without alice: her intercept ends; bob's works.
    let mut fewer = w.config.clone();
    fewer.developers.remove(0);
    w.agent.rewrite(&fewer.text(&w.agent.key())?)?;
    wait::until_true("alice to be out", SOON, || Ok(w.get(Family::V4, &[ALICE])?.starts_with("green")))?;
    let _bob = w.intercept(&w.bob, LOCAL + 1, &["--header", "x-user: bob"])?;
    let text = w.get(Family::V4, &["x-user: bob"])?;
    ensure!(text.starts_with("orange"), "{text}");
    Ok(())
});

const ODD_PODS: Scenario = Scenario {
    config: |c| {
        let mut host = c.pods[0].clone();
        host.name = "host".into();
        host.netns = "/proc/1/ns/net".into();
        let mut missing = c.pods[0].clone();
        missing.name = "missing".into();
        missing.netns = "/run/netns/redir-no-such-namespace".into();
        c.pods.extend([host, missing]);
    },
    ..USUAL
};

once!(a_pod_without_a_namespace_of_its_own_is_refused, ODD_PODS, |w| {
    let flags = w.agent_flags();
    for (pod, needle) in [("host", "network"), ("missing", "redir-no-such-namespace")] {
        let mut arguments = vec!["intercept", pod, "--port", "8080", "-o", "json"];
        arguments.extend(flags.iter().map(String::as_str));
        let (code, out, err) = w.alice.run(&w.topology.developer.namespace, &arguments)?;
        ensure!(code == 1, "{pod}: {code} {out}{err}");
        ensure!((out.clone() + &err).contains(needle), "{pod}: no {needle:?} in {out}{err}");
    }
    let _apps = (w.green()?, w.local(LOCAL, "blue")?);
    let _alice = w.alice()?;
    ensure!(w.get(Family::V4, &[ALICE])?.starts_with("blue"), "the other pod works");
    Ok(())
});
