//! Ports that speak TLS: told, decrypted where the app's certificate is given, and else left alone.
#![cfg(target_os = "linux")]

use std::{fs, io::Write, os::unix::process::CommandExt, process::Command};

use anyhow::{Context, Result, ensure};
use redir_rig::{
    Agent, App, Certificate, Cli, binaries,
    pattern::Pattern,
    tls::{self, Secure},
    topology::Family,
    wait,
};
use redir_tests::{LOCAL, PORT, SOON, Scenario, USUAL, World, both, once};
use rustls::{
    ClientConfig, ServerConfig,
    version::{TLS12, TLS13},
};

const ALICE: &str = "x-user: alice";

/// The agent has the app's certificate.
const GIVEN: Scenario = Scenario { config: give, ..USUAL };

fn give(config: &mut redir_rig::AgentConfig) {
    config.pods[0].tls = vec![(PORT, Certificate::new().expect("a certificate"))];
}

/// The certificate that the agent has.
fn given(w: &World) -> Certificate {
    w.config.pods[0].tls[0].1.clone()
}

/// The app, `green`, in the first pod, over TLS.
fn green(w: &World, config: ServerConfig) -> Result<App> {
    App::secure_on(&w.pod().namespace, &[([0; 4], PORT).into(), ([0u16; 8], PORT).into()], "green", config)
}

/// A client's connection from behind the gateway.
fn connect(w: &World, family: Family, config: ClientConfig) -> Result<Secure> {
    tls::secure(w.connect(w.client(), family)?, config)
}

/// A GET on a connection of its own; its body.
fn get(w: &World, certificate: &Certificate, headers: &[&str]) -> Result<String> {
    Ok(connect(w, Family::V4, certificate.client(rustls::ALL_VERSIONS)?)?.get("/", headers)?.text())
}

/// What the CLI was told of TLS last: what becomes of it, what the service gets, and the sentence.
fn told(cli: &mut Cli, state: &str) -> Result<serde_json::Value> {
    let event = cli.process.wait_for(format!("TLS to be {state}"), SOON, |log| {
        let mut events = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        events.rfind(|event| event["event"] == "tls").filter(|event| event["state"] == state)
    })?;
    ensure!(event["pod"] == "web-1" && event["port"] == PORT, "{event}");
    Ok(event)
}

both!(requests_over_tls_are_decided_one_by_one, GIVEN, |w| {
    let certificate = given(w);
    let mut server = certificate.server()?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    let green = green(w, server)?;
    let _blue = w.local(LOCAL, "blue")?;
    let mut cli = w.start(&w.alice, LOCAL, &["--header", ALICE])?;
    ensure!(cli.wait_live()?["local"] == "plaintext");
    ensure!(told(&mut cli, "decrypted")?["local"] == "plaintext");
    wait::until_true("the agent's own look", SOON, || Ok(green.clients().len() == 1))?;
    for (versions, version) in [([&TLS12], "TLSv1_2"), ([&TLS13], "TLSv1_3")] {
        for family in [Family::V4, Family::V6] {
            let mut config = certificate.client(&versions)?;
            config.alpn_protocols = vec![b"http/1.0".to_vec(), b"http/1.1".to_vec()];
            let mut client = connect(w, family, config)?;
            for _ in 0..3 {
                let answer = client.get("/", &["x-user: bob"])?.text();
                ensure!(answer == format!("green {}\n", w.client().ip(family)), "the app sees the client: {answer}");
                ensure!(client.get("/", &[ALICE])?.text().starts_with("blue"));
            }
            let session = &client.stream.conn;
            ensure!(session.alpn_protocol() == Some(&b"http/1.1"[..]), "the app's choice");
            ensure!(session.peer_certificates() == Some(&[certificate.der()?][..]));
            let seen = green.seen();
            let agreed = seen.last().and_then(|seen| seen.tls.clone()).context("it came over TLS")?;
            ensure!(agreed.server_name.as_deref() == Some(tls::NAME) && agreed.version == version, "{agreed:?}");
            ensure!(agreed.alpn.as_deref() == Some(&b"http/1.1"[..]));
        }
    }
    ensure!(green.seen().len() == 12 && green.clients().len() == 1 + 4, "nothing more, on one leg each");
    let mut silent = certificate.client(rustls::ALL_VERSIONS)?;
    silent.enable_sni = false;
    ensure!(connect(w, Family::V4, silent)?.get("/", &[])?.status == 200);
    let agreed = green.seen().last().and_then(|seen| seen.tls.clone()).context("it came over TLS")?;
    ensure!((agreed.server_name, agreed.alpn) == (None, None), "neither name nor protocol of our own");
    cli.leave()?;
    ensure!(get(w, &certificate, &[ALICE])?.starts_with("green"));
    Ok(())
});

once!(a_filter_on_a_tls_port_is_told_before_any_client_comes, USUAL, |w| {
    let certificate = Certificate::new()?;
    let green = green(w, certificate.server()?)?;
    let mut cli = w.alice()?;
    let event = told(&mut cli, "unread")?;
    ensure!(
        event["local"].is_null() && event["reason"].as_str().is_some_and(|why| why.contains("give it to the agent")),
        "{event}"
    );
    ensure!(green.clients().len() == 1 && green.seen().is_empty(), "one look of the agent's own");
    ensure!(green.clients()[0].ip().to_canonical() == w.pod().ip(Family::V4), "from the pod itself");
    ensure!(get(w, &certificate, &[ALICE])?.starts_with("green"), "end to end, unread");
    ensure!(w.metric("redir_connections_opaque_total", &["reason=\"tls\""])? >= 1.0);
    let (_, list, _) = w.redir(&w.alice, &["list"])?;
    ensure!(list.contains("live, TLS goes to the app unread"), "{list}");
    let (_, status, _) = w.redir(&w.alice, &["status", "-o", "json"])?;
    ensure!(status.contains("\"tls\":\"unread\""), "{status}");
    ensure!(cli.events("tls").len() == 1, "told once");
    cli.leave()?;
    let _again = w.alice()?;
    wait::until_true("the port to be looked at again", SOON, || Ok(green.clients().len() >= 3))
});

once!(an_app_that_speaks_no_tls_is_looked_at_once_and_nothing_is_told, USUAL, |w| {
    let (green, _blue) = (w.green()?, w.local(LOCAL, "blue")?);
    let mut cli = w.alice()?;
    wait::until_true("the look", SOON, || Ok(green.clients().len() == 1))?;
    ensure!(w.get(Family::V4, &[ALICE])?.starts_with("blue") && w.get(Family::V4, &[])?.starts_with("green"));
    ensure!(cli.events("tls").is_empty() && cli.events("live")[0]["local"] == "plaintext");
    // Another filter on the armed port is no reason to look again; a global intercept alone is none at all.
    let other = w.intercept(&w.bob, LOCAL, &["--header", "x-user: bob"])?;
    let clients = green.clients();
    ensure!(clients.iter().filter(|client| client.ip().to_canonical() == w.pod().ip(Family::V4)).count() == 1);
    other.leave()?;
    cli.interrupt()?;
    let count = green.clients().len();
    w.intercept(&w.alice, LOCAL, &[])?.leave()?;
    ensure!(green.clients().len() == count);
    Ok(())
});

const QUIET: Scenario = Scenario { config: |config| config.more = "probe_tls = false".into(), ..USUAL };

once!(an_agent_that_may_not_look_tells_with_the_first_client, QUIET, |w| {
    let certificate = Certificate::new()?;
    let green = green(w, certificate.server()?)?;
    let mut cli = w.alice()?;
    ensure!(get(w, &certificate, &[ALICE])?.starts_with("green"));
    told(&mut cli, "unread")?;
    ensure!(green.clients().len() == 1 && green.seen().len() == 1, "the client's alone");
    cli.leave()
});

once!(an_app_with_another_certificate_is_left_alone, GIVEN, |w| {
    let own = Certificate::new()?;
    let _apps = (green(w, own.server()?)?, w.local(LOCAL, "blue")?);
    let mut cli = w.alice()?;
    let event = told(&mut cli, "unread")?;
    ensure!(event["reason"].as_str().is_some_and(|why| why.contains("another certificate")), "{event}");
    ensure!(get(w, &own, &[ALICE])?.starts_with("green"));
    ensure!(w.metric("redir_connections_opaque_total", &["reason=\"tls_other_certificate\""])? >= 1.0);
    cli.leave()
});

once!(an_app_that_asks_for_client_certificates_is_left_alone, GIVEN, |w| {
    let certificate = given(w);
    let (green, _blue) = (green(w, certificate.mutual_server()?)?, w.local(LOCAL, "blue")?);
    let mut cli = w.alice()?;
    let event = told(&mut cli, "unread")?;
    ensure!(event["reason"].as_str().is_some_and(|why| why.contains("client certificates")), "{event}");
    wait::until_true("the agent's own look", SOON, || Ok(green.clients().len() == 1))?;
    for connections in 1..=3 {
        let mut client = connect(w, Family::V4, certificate.mutual_client()?)?;
        ensure!(client.get("/", &[ALICE])?.text().starts_with("green"));
        ensure!(green.clients().len() == 1 + connections, "no handshake of the agent's own any more");
    }
    // The pod is made anew, with an app that does not ask.
    drop(green);
    w.recreate_pod()?;
    let _green = self::green(w, certificate.server()?)?;
    wait::until_true("the new pod's app to be read", SOON, || {
        Ok(get(w, &certificate, &[ALICE]).is_ok_and(|answer| answer.starts_with("blue")))
    })?;
    told(&mut cli, "decrypted")?;
    cli.leave()
});

once!(a_renewed_certificate_is_followed_and_a_bad_one_is_not, GIVEN, |w| {
    let mut certificate = given(w);
    let old = green(w, certificate.server()?)?;
    let _blue = w.local(LOCAL, "blue")?;
    let mut cli = w.alice()?;
    let before = certificate.clone();
    ensure!(get(w, &before, &[ALICE])?.starts_with("blue"));
    certificate.renew()?;
    w.agent.process.wait_for_line("the certificate is read again", SOON)?;
    ensure!(get(w, &before, &[ALICE])?.starts_with("blue"), "the app shows its old one until it is restarted");
    drop(old);
    let _new = green(w, certificate.server()?)?;
    wait::until_true("the new certificate", SOON, || {
        Ok(get(w, &certificate, &[ALICE]).is_ok_and(|answer| answer.starts_with("blue")))
    })?;
    // A half-written pair, which stays: told, and the last good one stays.
    fs::write(certificate.cert_file(), "-----BEGIN CERTIFICATE-----\n")?;
    let line = w.agent.process.wait_for_line("holds no certificate in PEM", SOON)?;
    ensure!(line.contains("the last good one stays in use") && line.contains("web-1"), "{line}");
    ensure!(get(w, &certificate, &[ALICE])?.starts_with("blue"));
    // The worker is replaced: what it had is there again.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(w.agent.worker()?), nix::sys::signal::Signal::SIGKILL)?;
    cli.wait_event("restored", SOON)?;
    wait::until_true("the intercept", SOON, || {
        Ok(get(w, &certificate, &[ALICE]).is_ok_and(|answer| answer.starts_with("blue")))
    })?;
    cli.leave()
});

once!(an_entry_that_comes_and_goes_with_the_configuration_counts_at_once, USUAL, |w| {
    let certificate = Certificate::new()?;
    let _apps = (green(w, certificate.server()?)?, w.local(LOCAL, "blue")?);
    let mut cli = w.alice()?;
    told(&mut cli, "unread")?;
    w.config.pods[0].tls = vec![(PORT, certificate.clone())];
    w.agent.rewrite(&w.config.text(&w.agent.key())?)?;
    told(&mut cli, "decrypted")?;
    ensure!(get(w, &certificate, &[ALICE])?.starts_with("blue"));
    w.config.pods[0].tls.clear();
    w.agent.rewrite(&w.config.text(&w.agent.key())?)?;
    told(&mut cli, "unread")?;
    ensure!(get(w, &certificate, &[ALICE])?.starts_with("green"));
    cli.leave()
});

once!(a_global_intercept_gets_what_it_is_told, USUAL, |w| {
    let (certificate, own) = (Certificate::new()?, Certificate::new()?);
    let _green = green(w, certificate.server()?)?;
    let secure =
        App::secure_on(&w.topology.developer.namespace, &[([127, 0, 0, 1], LOCAL).into()], "blue", own.server()?)?;
    let mut cli = w.intercept(&w.alice, LOCAL, &[])?;
    ensure!(cli.events("live")[0]["local"] == "as_sent");
    ensure!(get(w, &own, &[])?.starts_with("blue"), "the client's own TLS, to the developer's certificate");
    let event = told(&mut cli, "passed")?;
    ensure!(
        event["local"] == "as_sent"
            && event["reason"].as_str().is_some_and(|why| why.contains("as the clients send it"))
    );
    cli.leave()?;
    drop(secure);
    // With the app's certificate it is plaintext.
    let _blue = w.local(LOCAL, "blue")?;
    w.config.pods[0].tls = vec![(PORT, certificate.clone())];
    w.agent.rewrite(&w.config.text(&w.agent.key())?)?;
    w.agent.process.wait_for_line("the configuration is read again", SOON)?;
    wait::until_true("the certificate in use", SOON, || {
        let mut cli = w.intercept(&w.alice, LOCAL, &[])?;
        let decrypted = cli.events("live")[0]["local"] == "plaintext";
        if decrypted {
            ensure!(get(w, &certificate, &[])?.starts_with("blue"));
        }
        ensure!(cli.interrupt()? == 0);
        Ok(decrypted)
    })
});

once!(a_local_service_that_speaks_tls_gets_it, GIVEN, |w| {
    let (certificate, own) = (given(w), Certificate::new()?);
    let mut server = certificate.server()?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    let _green = green(w, server.clone())?;
    let mut local = own.server()?;
    local.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let blue = App::secure_on(&w.topology.developer.namespace, &[([127, 0, 0, 1], LOCAL).into()], "blue", local)?;
    let mut cli = w.intercept(&w.alice, LOCAL, &["--header", ALICE, "--local-tls"])?;
    ensure!(cli.events("live")[0]["local"] == "tls" && told(&mut cli, "decrypted")?["local"] == "tls");
    let mut config = certificate.client(rustls::ALL_VERSIONS)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut client = connect(w, Family::V4, config)?;
    ensure!(client.get("/", &[ALICE])?.text().starts_with("blue") && client.get("/", &[])?.text().starts_with("green"));
    let agreed = blue.seen()[0].tls.clone().context("over TLS")?;
    ensure!((agreed.server_name.as_deref(), agreed.alpn.as_deref()) == (Some(tls::NAME), Some(&b"http/1.1"[..])));
    // A service that does not speak it is told apart.
    drop(blue);
    let _plain = w.local(LOCAL, "blue")?;
    let refused = connect(w, Family::V4, certificate.client(&[&TLS13])?)?.get("/", &[ALICE])?;
    ensure!(refused.status == 502 && refused.text().contains("--local-tls"), "{refused:?}");
    cli.leave()
});

once!(bodies_upgrades_and_ends_are_as_in_clear, GIVEN, |w| {
    const SIZE: u64 = 20_000_000;
    let certificate = given(w);
    let _apps = (green(w, certificate.server()?)?, w.local(LOCAL, "blue")?);
    let cli = w.alice()?;
    for user in ["x-user: bob", ALICE] {
        let mut client = connect(w, Family::V4, certificate.client(rustls::ALL_VERSIONS)?)?;
        client.send(redir_rig::http::request("GET", &format!("/download/{SIZE}"), &[user]))?;
        let (mut pattern, mut offset) = (Pattern::default(), 0);
        let (_, length) = client.response_with(|piece| {
            ensure!(pattern.check(offset, piece), "wrong bytes near {offset}");
            offset += piece.len() as u64;
            Ok(())
        })?;
        ensure!(length as u64 == SIZE);
        client.send(redir_rig::http::request("POST", "/upload", &[user, &format!("content-length: {SIZE}")]))?;
        let (mut pattern, mut block, mut sent) = (Pattern::default(), vec![0; 100_000], 0);
        while sent < SIZE {
            pattern.fill(sent, &mut block);
            client.send(&block)?;
            sent += block.len() as u64;
        }
        ensure!(client.response()?.text() == format!("whole {SIZE}\n"));
        client.send(redir_rig::http::request("GET", "/upgrade", &[user, "connection: upgrade", "upgrade: echo"]))?;
        ensure!(client.response()?.status == 101);
        // What would match is a frame now.
        let frame = redir_rig::http::request("GET", "/", &[ALICE]);
        client.send(&frame)?;
        let mut echoed = vec![0; frame.len()];
        std::io::Read::read_exact(&mut client.stream, &mut echoed)?;
        ensure!(echoed == frame.as_bytes());
        // The client's close_notify, and the service's own after it.
        client.stream.conn.send_close_notify();
        client.stream.flush()?;
        ensure!(client.closed()?, "an end without close_notify would be an error");
    }
    let mut reset = connect(w, Family::V4, certificate.client(rustls::ALL_VERSIONS)?)?;
    let error = reset.get("/reset", &[]).expect_err("the app resets");
    ensure!(format!("{error:#}").contains("reset"), "{error:#}");
    cli.leave()
});

once!(other_peoples_tls_on_both_ends, GIVEN, |w| {
    let certificate = given(w);
    let _blue = w.local(LOCAL, "blue")?;
    let at = format!("{}:{PORT}", w.pod().ip(Family::V4));
    for version in ["-tls1_2", "-tls1_3"] {
        let mut server = Command::new("openssl");
        server.args(["s_server", "-www", "-port", &PORT.to_string(), version, "-alpn", "http/1.1"]);
        server.arg("-cert").arg(certificate.cert_file()).arg("-key").arg(certificate.key_file());
        let mut server = w.pod().namespace.spawn("openssl s_server", &mut server)?;
        server.wait_for_line("ACCEPT", SOON)?;
        let mut cli = w.alice()?;
        told(&mut cli, "decrypted")?;
        for (user, needle) in [(ALICE, "blue"), ("x-user: bob", "s_server -www")] {
            let request = format!("GET / HTTP/1.0\r\n{user}\r\n\r\n");
            let script = format!(
                "printf '{request}' | openssl s_client -connect {at} -servername {} -alpn http/1.0,http/1.1 \
                 -CAfile {} -verify_return_error -ign_eof 2>&1",
                tls::NAME,
                certificate.cert_file().display()
            );
            let mut client =
                w.client().namespace.spawn("openssl s_client", Command::new("sh").args(["-c", &script]))?;
            client.wait(SOON)?;
            let log = client.log();
            ensure!(log.contains(needle) && log.contains("Verify return code: 0"), "{log}");
            ensure!(log.contains("ALPN protocol: http/1.1"), "{log}");
            let name = if version == "-tls1_2" { "TLSv1.2" } else { "TLSv1.3" };
            ensure!(log.contains(&format!("New, {name}")), "{log}");
        }
        cli.leave()?;
        server.kill()?;
    }
    Ok(())
});

once!(a_client_that_the_agent_cannot_answer_still_reaches_the_app, GIVEN, |w| {
    // CBC with a static RSA key exchange: openssl has it, rustls does not.
    const OLD: &str = "AES128-SHA256";
    let directory = tempfile::tempdir()?;
    let (cert, key) = (directory.path().join("rsa.crt"), directory.path().join("rsa.key"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=web.test", "-days", "2"])
        .arg("-out")
        .arg(&cert)
        .arg("-keyout")
        .arg(&key)
        .output()?;
    ensure!(made.status.success(), "{made:?}");
    fs::copy(&cert, given(w).cert_file())?;
    fs::copy(&key, given(w).key_file())?;
    w.agent.process.wait_for_line("the certificate is read again", SOON)?;
    let mut server = Command::new("openssl");
    server.args(["s_server", "-www", "-port", &PORT.to_string(), "-cipher", "ALL"]);
    server.arg("-cert").arg(&cert).arg("-key").arg(&key);
    let mut server = w.pod().namespace.spawn("openssl s_server", &mut server)?;
    server.wait_for_line("ACCEPT", SOON)?;
    let mut cli = w.alice()?;
    told(&mut cli, "decrypted")?;
    let at = format!("{}:{PORT}", w.pod().ip(Family::V4));
    let script = format!(
        "printf 'GET / HTTP/1.0\r\n{ALICE}\r\n\r\n' | openssl s_client -connect {at} -tls1_2 -cipher {OLD} -ign_eof 2>&1"
    );
    let mut client = w.client().namespace.spawn("openssl s_client", Command::new("sh").args(["-c", &script]))?;
    client.wait(SOON)?;
    ensure!(client.log().contains("s_server -www") && client.log().contains(OLD), "{}", client.log());
    let event = told(&mut cli, "unread")?;
    ensure!(event["reason"].as_str().is_some_and(|why| why.contains("versions or ciphers")), "{event}");
    cli.leave()
});

once!(the_key_is_the_guardians_alone, Scenario { wrapper: &["env", "REDIR_LOG=trace"], ..GIVEN }, |w| {
    const SECRET: &str = "s3cr3t-7f1c";
    let certificate = given(w);
    let _apps = (green(w, certificate.server()?)?, w.local(LOCAL, "blue")?);
    let mut cli = w.alice()?;
    for user in [ALICE, "x-user: bob"] {
        let headers = [user, &format!("authorization: Bearer {SECRET}"), &format!("cookie: {SECRET}")];
        let mut client = connect(w, Family::V4, certificate.client(rustls::ALL_VERSIONS)?)?;
        ensure!(client.get(&format!("/?token={SECRET}"), &headers)?.status == 200);
    }
    // As the worker's user nobody opens it, and the worker has not got it from anybody who could.
    let mut cat = Command::new("cat");
    cat.arg(certificate.key_file()).uid(60744).gid(60744);
    ensure!(!cat.output()?.status.success());
    let worker = w.agent.worker()?;
    let status = fs::read_to_string(format!("/proc/{worker}/status"))?;
    ensure!(status.contains("Uid:\t60744\t60744\t60744\t60744") && status.contains("CapEff:\t0000000000000000"));
    for descriptor in fs::read_dir(format!("/proc/{worker}/fd"))? {
        let target = fs::read_link(descriptor?.path()).unwrap_or_default();
        let target = target.to_string_lossy().into_owned();
        ensure!(!target.contains("tls.key") && !target.contains("certificates"), "the worker keeps {target}");
    }
    let metrics = Agent::metrics(w.node())?;
    cli.interrupt()?;
    w.agent.terminate(SOON)?;
    let body: Vec<&str> = certificate.key().lines().filter(|line| !line.starts_with('-')).collect();
    for (name, text) in [("agent", w.agent.process.log()), ("redir", cli.process.log()), ("metrics", metrics)] {
        for secret in body.iter().chain(&[SECRET]) {
            ensure!(!text.contains(secret), "the log of {name}: {:?}", text.lines().find(|l| l.contains(secret)));
        }
    }
    ensure!(w.agent.process.log().contains("TRACE"), "the log was on");
    Ok(())
});

once!(check_names_bad_files_and_warns_of_expired_ones, GIVEN, |w| {
    let mut certificate = given(w);
    let check = || -> Result<(bool, String)> {
        let mut check = Command::new(binaries::find("redir-agent")?);
        let output = check.arg("check").arg("--config").arg(w.agent.config()).output()?;
        Ok((output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned()))
    };
    let (good, text) = check()?;
    ensure!(good && text.contains("pod web-1 port 8080: certificate") && text.contains("valid until"), "{text}");
    certificate.expire()?;
    let (good, text) = check()?;
    ensure!(good && text.contains("warning: expired on"), "{text}");
    fs::write(certificate.key_file(), Certificate::new()?.key())?;
    let (good, text) = check()?;
    ensure!(
        !good && text.contains("problem: pod web-1 port 8080: the key in") && text.contains("belong together"),
        "{text}"
    );
    fs::remove_file(certificate.key_file())?;
    let (good, text) = check()?;
    ensure!(!good && text.contains("there is no key file"), "{text}");
    Ok(())
});
