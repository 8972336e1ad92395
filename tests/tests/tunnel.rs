//! Who may intercept what, and what the CLI says about it.
#![cfg(target_os = "linux")]

use anyhow::{Result, ensure};
use redir_rig::{Agent, Listener, cli::Home, topology::Family, wait};
use redir_tests::{LOCAL, PORT, SOON, Scenario, USUAL, World, once, read_all, read_exactly, write};

const ALICE: &str = "x-user: alice";

/// `redir intercept` must end with this code and one sentence that contains all of `needles`; nothing is attached.
fn refused(w: &World, home: &Home, arguments: &[&str], code: i32, needles: &[&str]) -> Result<()> {
    let (got, out, err) = home.run(&w.topology.developer.namespace, &[&["intercept"], arguments].concat())?;
    ensure!(got == code, "{arguments:?} ended with {got} instead of {code}: {out}{err}");
    for needle in needles {
        ensure!(err.to_lowercase().contains(&needle.to_lowercase()), "{arguments:?}: no {needle:?} in: {err}");
    }
    ensure!(!err.contains("panicked") && !err.contains("backtrace"), "{err}");
    w.before().restored(&w.pod().namespace, SOON)
}

fn with_agent<'a>(flags: &'a [String; 4], arguments: &[&'a str]) -> Vec<&'a str> {
    arguments.iter().copied().chain(flags.iter().map(String::as_str)).collect()
}

once!(an_unknown_key_is_refused_with_what_to_do, USUAL, |w| {
    let carol = Home::new()?;
    let flags = w.agent_flags();
    refused(w, &carol, &with_agent(&flags, &["web-1", "--port", "8080"]), 1, &[&carol.pin, "key"])
});

once!(another_agents_key_is_refused, USUAL, |w| {
    let (at, other) = (w.agent_flags()[1].clone(), w.alice.pin.clone());
    refused(w, &w.alice, &["web-1", "--port", "8080", "--agent", &at, "--agent-key", &other], 1, &["key"])
});

once!(an_agent_that_is_not_there_is_named, USUAL, |w| {
    let at = "10.210.1.1:7999";
    refused(w, &w.alice, &["web-1", "--port", "8080", "--agent", at, "--agent-key", &w.agent.pin], 1, &[at])
});

const BOB_ELSEWHERE: Scenario = Scenario {
    config: |c| {
        c.developers[1].pods = "{ app = \"other\" }".into();
        c.pods[0].ports = vec![PORT, 9090];
    },
    ..USUAL
};

once!(a_key_opens_only_its_own_pods_and_ports, BOB_ELSEWHERE, |w| {
    let flags = w.agent_flags();
    refused(w, &w.bob, &with_agent(&flags, &["web-1", "--port", "8080"]), 1, &["web-1"])?;
    refused(w, &w.bob, &with_agent(&flags, &["app=web", "--port", "8080"]), 1, &["app=web"])?;
    refused(w, &w.alice, &with_agent(&flags, &["web-1", "--port", "22"]), 1, &["22"])?;
    refused(w, &w.alice, &with_agent(&flags, &["web-7", "--port", "8080"]), 1, &["web-7"])
});

once!(wrong_usage_is_one_sentence_and_exit_code_2, USUAL, |w| {
    let flags = w.agent_flags();
    for (arguments, needle) in [
        (&["web-1", "--port", "0"][..], "port"),
        (&["web-1", "--port", "99999"], "99999"),
        (&["web-1", "--port", "eighty"], "eighty"),
        (&["web-1", "--port", "8080", "--header", "no colon"], "no colon"),
        (&["web-1", "--port", "8080", "--header-regex", "x: ("], "("),
        (&["web-1", "--port", "8080", "--path-regex", "["], "["),
        (&["web-1", "--port", "8080", "--no-such-flag"], "--no-such-flag"),
        (&["web-1"], "--port"),
    ] {
        refused(w, &w.alice, &with_agent(&flags, arguments), 2, &[needle])?;
    }
    let at = flags[1].as_str();
    refused(
        w,
        &w.alice,
        &["web-1", "--port", "8080", "--agent", at, "--agent-key", "sha256:short"],
        2,
        &["43 characters"],
    )?;
    refused(w, &w.alice, &["web-1", "--port", "8080", "--agent", "nowhere"], 2, &["nowhere"])
});

once!(list_status_and_leave_ask_the_agent, USUAL, |w| {
    let _apps = (w.green()?, w.local(LOCAL, "blue")?);
    let (code, out, err) = w.redir(&w.alice, &["list"])?;
    ensure!(code == 0 && out.contains("web-1") && out.contains("app=web"), "{code} {out}{err}");
    let mut cli = w.alice()?;
    let (code, out, err) = w.redir(&w.bob, &["list"])?;
    ensure!(code == 0 && out.contains("alice") && out.contains("8080"), "{code} {out}{err}");
    let (code, out, err) = w.redir(&w.alice, &["status"])?;
    ensure!(code == 0 && out.contains("web-1"), "{code} {out}{err}");
    let (code, out, err) = w.redir(&w.alice, &["leave", "web-1"])?;
    ensure!(code == 0, "{code} {out}{err}");
    ensure!(cli.process.exit_code(SOON)? == 0, "an intercept that was left ends in order: {}", cli.process.log());
    ensure!(w.get(Family::V4, &[ALICE])?.starts_with("green"));
    Ok(())
});

once!(the_command_runs_as_long_as_the_intercept, USUAL, |w| {
    let _apps = (w.green()?, w.local(LOCAL, "blue")?);
    let flags = w.agent_flags();
    let arguments = with_agent(&flags, &["intercept", "web-1", "--port", "8080:3000", "--header", ALICE]);
    let (code, out, err) =
        w.alice.run(&w.topology.developer.namespace, &[&arguments[..], &["--", "sh", "-c", "exit 7"]].concat())?;
    ensure!(code == 7, "{code} {out}{err}");
    w.before().restored(&w.pod().namespace, SOON)?;
    // Ctrl-C ends the command too.
    let mut command = w.alice.command()?;
    command.args(&arguments).args(["--", "sh", "-c", "echo started; exec sleep 1000"]);
    let mut process = w.topology.developer.namespace.spawn("redir intercept", &mut command)?;
    process.wait_for_line("started", SOON)?;
    let child = process.children();
    ensure!(!child.is_empty());
    wait::until_true("the intercept", SOON, || Ok(w.get(Family::V4, &[ALICE])?.starts_with("blue")))?;
    process.signal(nix::sys::signal::Signal::SIGINT)?;
    process.wait(SOON)?;
    for pid in child {
        ensure!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "{pid} still runs");
    }
    Ok(())
});

once!(what_a_person_sees, USUAL, |w| {
    let _apps = (w.green()?, w.local(LOCAL, "blue")?);
    let flags = w.agent_flags();
    let mut command = w.alice.command()?;
    command.args(with_agent(&flags, &["intercept", "web-1", "--port", "8080:3000", "--header", ALICE]));
    let mut process = w.topology.developer.namespace.spawn("redir intercept", &mut command)?;
    process.wait_for_line("curl", SOON)?;
    let mut http = w.http(w.client(), Family::V4)?;
    // Not ASCII, and a terminal's escape: shown, never sent to the terminal.
    http.send(b"GET /caf\xc3\xa9/\x1b[31m?secret=1 HTTP/1.1\r\nhost: web\r\nx-user: alice\r\n\r\n")?;
    let _ = http.response();
    ensure!(w.http(w.client(), Family::V4)?.get("/some/path?token=1", &[ALICE])?.text().starts_with("blue"));
    let line = process.wait_for_line("/some/path", SOON)?;
    for needle in ["GET", "200", "web-1"] {
        ensure!(line.contains(needle), "no {needle} in {line:?}");
    }
    let all = process.log();
    ensure!(all.contains("web-1") && all.contains("8080"), "{all}");
    ensure!(!all.contains('\u{1b}') && !all.contains("secret") && !all.contains("token"), "{all:?}");
    Ok(())
});

// The developer's service is down; a client gives up; a connection that is not HTTP carries bytes.
once!(who_answered_is_told, USUAL, |w| {
    let _green = w.green()?;
    let developer = &w.topology.developer.namespace;
    let mut cli = w.intercept_early(&w.alice, LOCAL, &["--header", ALICE])?;
    ensure!(w.http(w.client(), Family::V4)?.get("/down", &[ALICE])?.status == 502);
    let event = cli.wait_event("request", SOON)?;
    ensure!(event["outcome"] == "refused" && event["status"] == 502 && event["port"] == 8080, "{event}");
    ensure!(event["reason"].as_str().is_some_and(|why| why.contains("refused the connection")), "{event}");
    ensure!(w.metric("redir_requests_total", &["decision=\"refused\""])? == 1.0);

    // A service on ::1 alone, as development servers have it. It closes when its client does, without an answer.
    let service = Listener::new(developer, ([0, 0, 0, 0, 0, 0, 0, 1], LOCAL).into())?;
    let mut client = w.connect(w.client(), Family::V4)?;
    write(&mut client, redir_rig::http::request("GET", "/slow", &[ALICE]))?;
    let (mut matched, _) = service.accept()?;
    client.shutdown(std::net::Shutdown::Write)?;
    ensure!(read_all(&mut matched)?.starts_with(b"GET /slow"));
    drop(matched);
    let event = cli.wait_events("request", 2, SOON)?.remove(1);
    ensure!(event["outcome"] == "client_left" && event["status"].is_null(), "{event}");
    cli.leave()?;

    let mut cli = w.start(&w.alice, LOCAL, &[])?;
    let live = cli.wait_live()?;
    ensure!(live["to"] == format!("[::1]:{LOCAL}"), "{live}");
    // What redir looked with.
    let (looked, _) = service.accept()?;
    drop(looked);
    let mut client = w.connect(w.client(), Family::V4)?;
    write(&mut client, "SSH-2.0-test\r\n")?;
    let (mut matched, _) = service.accept()?;
    ensure!(read_exactly(&mut matched, 14)? == b"SSH-2.0-test\r\n");
    write(&mut matched, "SSH")?;
    ensure!(read_exactly(&mut client, 3)? == b"SSH");
    ensure!(cli.wait_event("connection", SOON)?["state"] == "open");
    drop(client);
    ensure!(read_all(&mut matched)?.is_empty());
    drop(matched);
    let event = cli.wait_events("connection", 2, SOON)?.remove(1);
    ensure!(event["state"] == "closed" && event["received"] == 14 && event["sent"] == 3, "{event}");

    // The agent listens on a socket of both families.
    let (_, text, _) = w.redir(&w.alice, &["status"])?;
    ensure!(!text.contains("::ffff:"), "{text}");
    cli.leave()
});

// What a name leads to may change while the intercept lives: here in a hosts file of redir's own.
once!(a_name_behind_to_is_looked_up_for_each_connection, USUAL, |w| {
    let _green = w.green()?;
    let developer = &w.topology.developer.namespace;
    let folder = tempfile::tempdir()?;
    let hosts = folder.path().join("hosts");
    std::fs::write(&hosts, "127.0.0.2 service.test\n")?;
    let services = [2, 3].map(|last| Listener::new(developer, ([127, 0, 0, last], LOCAL).into()));
    let [first, second] = services;
    let (first, second) = (first?, second?);
    let redir = w.alice.command()?;
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "sh", "-c", "mount --bind \"$0\" /etc/hosts && exec \"$@\""]).arg(&hosts);
    command.arg(redir.get_program()).args(redir.get_args()).args(["intercept", "web-1", "--port", "8080"]);
    command.args(["--to", &format!("service.test:{LOCAL}"), "--header", ALICE]).args(w.agent_flags());
    for (name, value) in redir.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let mut process = developer.spawn("redir intercept", &mut command)?;
    process.wait_for_line(&format!("-> service.test:{LOCAL}"), SOON)?;
    // What redir looked with.
    drop(first.accept()?);
    for (service, next) in [(&first, "127.0.0.3 service.test\n"), (&second, "")] {
        let mut client = w.connect(w.client(), Family::V4)?;
        write(&mut client, redir_rig::http::request("GET", "/named", &[ALICE]))?;
        let (mut matched, _) = service.accept()?;
        ensure!(read_exactly(&mut matched, 10)? == b"GET /named");
        // In place: the mount is of this very file.
        std::fs::write(&hosts, next)?;
    }
    process.signal(nix::sys::signal::Signal::SIGINT)?;
    process.wait(SOON)?;
    Ok(())
});

// Two ports of a pod, each to a service of its own, with one command.
once!(several_ports_end_together, BOB_ELSEWHERE, |w| {
    let _green = w.green()?;
    let other = Listener::new(&w.pod().namespace, (Family::V4.any(), 9090).into())?;
    let _blue = w.local(LOCAL, "blue")?;
    let second = Listener::new(&w.topology.developer.namespace, ([127, 0, 0, 1], 3001).into())?;
    let flags = ["--port", "9090:3001", "--header", ALICE];
    let mut cli = w.start(&w.alice, LOCAL, &flags)?;
    let live = cli.wait_events("live", 2, SOON)?;
    let mut ports: Vec<_> = live.iter().filter_map(|event| event["port"].as_u64()).collect();
    ports.sort_unstable();
    ensure!(ports == [8080, 9090], "{live:?}");
    // What redir looked with.
    drop(second.accept()?);
    ensure!(w.get(Family::V4, &[ALICE])?.starts_with("blue"));
    let mut client = w.client().namespace.connect(w.pod().at(Family::V4, 9090))?;
    write(&mut client, redir_rig::http::request("GET", "/second", &[ALICE]))?;
    let (mut matched, _) = second.accept()?;
    ensure!(read_exactly(&mut matched, 11)? == b"GET /second");
    // Each connection has its leg to the app, whoever gets its requests.
    let (unused, _) = w.accept(&other, w.client(), Family::V4)?;
    drop((client, matched, unused));
    ensure!(cli.interrupt()? == 0);
    ensure!(w.get(Family::V4, &[ALICE])?.starts_with("green"));
    let mut client = w.client().namespace.connect(w.pod().at(Family::V4, 9090))?;
    write(&mut client, redir_rig::http::request("GET", "/app", &[ALICE]))?;
    let (mut app, _) = w.accept(&other, w.client(), Family::V4)?;
    ensure!(read_exactly(&mut app, 8)? == b"GET /app");
    Ok(())
});

once!(a_restarted_agent_is_redialled, USUAL, |w| {
    let _apps = (w.green()?, w.local(LOCAL, "blue")?);
    let mut cli = w.alice()?;
    ensure!(w.agent.terminate(SOON)? == 0);
    cli.wait_event("lost", SOON)?;
    ensure!(w.get(Family::V4, &[ALICE])?.starts_with("green"));
    w.agent.restart(&w.topology.node.namespace, &[])?;
    wait::until_true("the intercept", SOON, || Ok(w.get(Family::V4, &[ALICE])?.starts_with("blue")))?;
    cli.wait_event("restored", SOON)?;
    cli.leave()
});

const TALKATIVE: Scenario = Scenario { wrapper: &["env", "REDIR_LOG=trace"], ..USUAL };

once!(secrets_are_written_nowhere, TALKATIVE, |w| {
    const SECRET: &str = "s3cr3t-7f1c";
    let _apps = (w.green()?, w.local(LOCAL, "blue")?);
    let mut cli = w.alice()?;
    let mut metrics = String::new();
    for user in [ALICE, "x-user: nobody"] {
        let mut http = w.http(w.client(), Family::V4)?;
        let authorization = format!("authorization: Bearer {SECRET}");
        let cookie = format!("cookie: session={SECRET}");
        let path = format!("/upload?token={SECRET}");
        let length = format!("content-length: {}", SECRET.len());
        http.send(redir_rig::http::request("POST", &path, &[user, &authorization, &cookie, &length]))?;
        http.send(SECRET)?;
        ensure!(http.response()?.status == 200);
        // A head that makes the connection opaque, with a secret in it.
        let mut http = w.http(w.client(), Family::V4)?;
        http.send(format!("GET /?{SECRET} HTTP/1.1\r\nx-user : alice\r\nauthorization: {SECRET}\r\n\r\n"))?;
        let _ = http.response();
        metrics += &Agent::metrics(w.node())?;
    }
    cli.wait_event("request", SOON)?;
    cli.interrupt()?;
    w.agent.terminate(SOON)?;
    for (name, text) in [("agent", w.agent.process.log()), ("redir", cli.process.log()), ("metrics", metrics)] {
        ensure!(!text.contains(SECRET), "the log of {name}: {:?}", text.lines().find(|l| l.contains(SECRET)));
    }
    ensure!(w.agent.process.log().contains("TRACE") || w.agent.process.log().contains("DEBUG"), "the log was on");
    Ok(())
});
