//! Every kind of condition from the command line to the decision, and what developers are told of each other's.
#![cfg(target_os = "linux")]

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use redir_rig::{topology::Family, wait};
use redir_tests::{LOCAL, SOON, USUAL, World, once};

/// Sends each request line with its fields on one connection, and says who answered.
fn answers(w: &World, requests: &[(&str, &[u8])]) -> Result<Vec<String>> {
    let mut http = w.http(w.client(), Family::V4)?;
    requests
        .iter()
        .map(|(line, fields)| {
            http.send([line.as_bytes(), b" HTTP/1.1\r\nhost: web\r\n", *fields, b"\r\n"].concat())?;
            Ok(http.response()?.text().split(' ').next().unwrap_or_default().to_owned())
        })
        .collect()
}

/// Every one of `matched` must go to the developer, every one of the others to the app.
fn decides(w: &World, flags: &[&str], matched: &[(&str, &[u8])], others: &[(&str, &[u8])]) -> Result<()> {
    let mut cli = w.start(&w.alice, LOCAL, flags)?;
    let live = cli.wait_live()?;
    for (requests, version) in [(matched, "blue"), (others, "green")] {
        for ((line, fields), answer) in requests.iter().zip(answers(w, requests)?) {
            ensure!(answer == version, "{flags:?}: {answer} answered {line} {}", fields.escape_ascii());
        }
    }
    // The line to try, as a person would: from a shell.
    let curl = live["curl"].as_str().context("a line to try")?;
    let answer = w.client().namespace.output(&["bash", "-c", &format!("{curl} -s --max-time 10")])?;
    ensure!(answer.contains("blue") || curl.contains(" -I "), "{curl}: {answer}");
    cli.leave()
}

once!(preflights_come_along_where_they_are_asked_for, USUAL, |w| {
    let _apps = (w.green()?, w.local(LOCAL, "blue")?);
    let asks = |names: &str| {
        format!("origin: http://x\r\naccess-control-request-method: GET\r\naccess-control-request-headers: {names}\r\n")
    };
    let (user, both, other) = (asks("x-user"), asks("authorization,x-user"), asks("authorization,x-users"));
    let (user, both, other) = (user.as_bytes(), both.as_bytes(), other.as_bytes());
    let filter = ["--header", "x-user: alice", "--not", "--path-prefix", "/health", "--preflight"];
    let get = ("GET /", &b"x-user: alice\r\n"[..]);
    let others =
        [("OPTIONS /", other), ("OPTIONS /health", user), ("GET /", user), ("OPTIONS /", b"origin: http://x\r\n")];
    decides(w, &filter, &[("OPTIONS /", user), ("OPTIONS /a?b", both), get], &others)?;
    decides(w, &filter[..5], &[get], &[("OPTIONS /", user), ("OPTIONS /a?b", both)])
});

once!(every_condition_decides, USUAL, |w| {
    let _apps = (w.green()?, w.local(LOCAL, "blue")?);
    let all = [
        "--header-prefix",
        "X-User: al",
        "--query",
        "v=2",
        "--cookie-regex",
        "sid=[0-9]+",
        "--baggage-present",
        "tenant",
        "--path-prefix",
        "/api",
        "--method-regex",
        "PUT|POST",
        "--not",
        "--header",
        "x-debug: off",
    ];
    let (whole, body) =
        (&b"x-user: alice\r\nCookie: a=b; sid=47\r\nbaggage: x=1,tenant=\r\n"[..], b"content-length: 0\r\n");
    let meets = [whole, body].concat();
    let but = |from: &str, to: &str| String::from_utf8_lossy(&meets).replace(from, to).into_bytes();
    let debug = [&meets[..], b"x-debug: on\r\nX-Debug: off\r\n"].concat();
    decides(
        w,
        &all,
        &[("PUT /api/a?v=2", &meets), ("POST /api?x&v=2&v=3", &[&meets[..], b"x-debug: on\r\n"].concat())],
        &[
            ("PUT /api?v=2", &but("alice", "bob")),
            ("PUT /api?v=2", &but("sid=47", "sid=4x")),
            ("PUT /api?v=2", &but("tenant", "tenants")),
            ("PUT /api?v=2", &debug),
            ("PUT /api?v=1", &meets),
            ("PUT /ap?v=2", &meets),
            ("GET /api?v=2", &meets),
        ],
    )?;
    // Each alone is enough, and the flags that were not used yet.
    let any = [
        "--any",
        "--header-present",
        "x-a",
        "--query-prefix",
        "q=al",
        "--cookie",
        "sid=47",
        "--baggage-regex",
        "t=a|b",
        "--path",
        "/only",
        "--method",
        "PATCH",
    ];
    decides(
        w,
        &any,
        &[
            ("GET /", b"X-A:\r\n"),
            ("GET /?q=alice", b""),
            ("GET /", b"cookie: sid=47\r\n"),
            ("GET /", b"Baggage: t=b;p=1\r\n"),
            ("GET /only?q", b""),
            ("PATCH /", b"content-length: 0\r\n"),
        ],
        &[
            ("GET /only/", b"x-aa: 1\r\ncookie: sid=48; xsid=47\r\nbaggage: t=c, u=a;t=a\r\n"),
            ("GET /?q=bob&qq=al", b"cookie: SID=47\r\n"),
            ("POST /", b"content-length: 0\r\n"),
        ],
    )?;
    decides(w, &["--not", "--method", "GET"], &[("DELETE /", b"")], &[("GET /", b"")])?;
    let rest = [
        "--path-regex",
        "/v[12]/.*",
        "--query-present",
        "q",
        "--query-regex",
        "r=a+",
        "--cookie-prefix",
        "c=",
        "--any",
    ];
    ensure!(
        w.redir(&w.alice, &[&["intercept", "web-1", "--port", "8080"], &rest[..]].concat())?.0 == 2,
        "an empty prefix"
    );
    let rest =
        ["--path-regex", "/v[12]/.*", "--query-regex", "r=a+", "--cookie-prefix", "c=1", "--cookie-present", "d"];
    decides(w, &rest, &[("GET /v2/?r=aa", b"cookie: c=12; d\r\n")], &[("GET /v2/?r=aab", b"cookie: c=12; d\r\n")])?;
    let rest = ["--baggage", "t=a%2Cb", "--baggage-prefix", "u=a", "--query-present", "q"];
    decides(w, &rest, &[("GET /?q", b"baggage: u=ab , t=a%2Cb\r\n")], &[("GET /?q", b"baggage: u=ab , t=a,b\r\n")])
});

once!(values_are_bytes_as_they_are_sent, USUAL, |w| {
    let _apps = (w.green()?, w.local(LOCAL, "blue")?);
    // UTF-8 as it is typed, in a header that comes twice; a comma does not split it.
    decides(
        w,
        &["--header", "x-user: zoë, 1"],
        &[("GET /", "x-user: bob\r\nx-user: \tzoë, 1 \r\n".as_bytes())],
        &[("GET /", b"x-user: zo\xeb, 1\r\n"), ("GET /", "x-user: zoë\r\nx-user: 1\r\n".as_bytes())],
    )?;
    // Bytes that are not UTF-8.
    decides(
        w,
        &["--header-regex", r"x-user: zo\xeb"],
        &[("GET /", b"X-USER: zo\xeb\r\n")],
        &[("GET /", "x-user: zoë\r\n".as_bytes())],
    )?;
    // Empty values, and none at all.
    decides(
        w,
        &["--header-regex", "x-user: ^$"],
        &[("GET /", b"x-user:\r\n"), ("GET /", b"x-user: a\r\nx-user: \t \r\n")],
        &[("GET /", b"x-user: a\r\n"), ("GET /", b"")],
    )?;
    decides(
        w,
        &["--cookie-regex", "sid=^$", "--not", "--query-present", "off"],
        &[("GET /", b"cookie: a=1; sid=\r\n"), ("GET /?offer", b"cookie: a=1\r\ncookie: sid\r\n")],
        &[
            ("GET /", b"cookie: a=1; sid=1\r\n"),
            ("GET /?off", b"cookie: sid\r\n"),
            ("GET /?a&off=0", b"cookie: sid\r\n"),
        ],
    )?;
    // A cookie field for each cookie, as HTTP/2 sends them, and several baggage fields; percent stays percent.
    decides(
        w,
        &["--cookie", "b=2", "--baggage", "t=%C3%AB", "--path", "/caf%C3%A9"],
        &[("GET /caf%C3%A9", b"cookie: a=1\r\ncookie: b=2\r\nbaggage: s=1\r\nbaggage: t=%C3%AB\r\n")],
        &[
            ("GET /caf%c3%a9", b"cookie: b=2\r\nbaggage: t=%C3%AB\r\n"),
            ("GET /caf%C3%A9", "cookie: b=2\r\nbaggage: t=ë\r\n".as_bytes()),
        ],
    )
});

once!(both_sides_of_an_overlap_are_told, USUAL, |w| {
    let _green = w.green()?;
    let _blue = w.local(LOCAL, "blue")?;
    let _orange = w.local(LOCAL + 1, "orange")?;
    let who = |request: &(&str, &[u8])| answers(w, &[*request]).map(|mut one| one.remove(0));
    let both_want: (&str, &[u8]) = ("GET /api", b"x-user: alice\r\n");
    let mut alice = w.start(&w.alice, LOCAL, &["--header", "x-user: alice"])?;
    let number = alice.wait_live()?["id"].clone();
    // Within hers: he gets nothing.
    let mut bob = w.start(&w.bob, LOCAL + 1, &["--path-prefix", "/api", "--header-regex", "x-user: alice"])?;
    let theirs = bob.wait_live()?["id"].clone();
    let conflict = bob.wait_event("conflict", SOON)?;
    ensure!(conflict["developer"] == "alice" && conflict["id"] == number && conflict["yours"] == false, "{conflict}");
    ensure!(conflict["takes"] == "everything" && conflict["since"].is_string(), "{conflict}");
    let overlap = alice.wait_event("overlap", SOON)?;
    ensure!(overlap["developer"] == "bob" && overlap["id"] == theirs && overlap["takes"] == "everything", "{overlap}");
    ensure!(who(&both_want)? == "blue", "the oldest wins");
    bob.leave()?;
    let over = alice.wait_event("overlap_over", SOON)?;
    ensure!(over["developer"] == "bob" && over["id"] == theirs, "{over}");
    // Partly; then the winner ends.
    let mut bob = w.start(&w.bob, LOCAL + 1, &["--any", "--path-prefix", "/api", "--query-present", "q"])?;
    let conflict = bob.wait_event("conflict", SOON)?;
    ensure!(conflict["takes"] == "shared" && conflict["id"] == number, "{conflict}");
    ensure!(alice.wait_events("overlap", 2, SOON)?[1]["takes"] == "shared");
    ensure!(who(&both_want)? == "blue" && who(&("GET /api", b""))? == "orange");
    alice.leave()?;
    let over = bob.wait_event("conflict_over", SOON)?;
    ensure!(over["developer"] == "alice" && over["id"] == number, "{over}");
    wait::until_true("bob to get it", SOON, || Ok(who(&both_want)? == "orange"))?;
    // Values of one's own, and what excludes the other, are no overlap.
    let mut alice = w.start(&w.alice, LOCAL, &["--not", "--path-prefix", "/api", "--not", "--query-present", "q"])?;
    alice.wait_live()?;
    ensure!(who(&("GET /", b""))? == "blue");
    // What is told comes with the state that says live.
    ensure!(alice.events("conflict").is_empty() && bob.events("overlap").is_empty());
    Ok(())
});

// While plans are swapped all the time, each request is decided by one of them: it reaches one service, once, whose it is
// by the conditions, and the answer is that service's.
once!(plans_that_are_swapped_under_load_never_mix, USUAL, |w| {
    let green = w.green()?;
    let blue = w.local(LOCAL, "blue")?;
    let orange = w.local(LOCAL + 1, "orange")?;
    let _bob = w.intercept(&w.bob, LOCAL + 1, &["--header", "x-user: bob"])?;
    let done = AtomicBool::new(false);
    let client = |number: usize| -> Result<usize> {
        let mut http = w.http(w.client(), Family::V4)?;
        let mut round = 0;
        while !done.load(Ordering::Acquire) {
            // Pipelined, so that requests wait for their turn while plans change.
            let users = ["alice", "bob", "eve", "alice"];
            let line = |at: usize, user: &str| {
                format!("GET /{number}.{round}.{at} HTTP/1.1\r\nhost: web\r\nx-user: {user}\r\n\r\n")
            };
            http.send(users.iter().enumerate().map(|(at, user)| line(at, user)).collect::<String>())?;
            for user in users {
                let answer = http.response()?.text();
                let right = match user {
                    "bob" => answer.starts_with("orange"),
                    "eve" => answer.starts_with("green"),
                    _ => answer.starts_with("blue") || answer.starts_with("green"),
                };
                ensure!(right, "{answer:?} answered {user}");
            }
            round += 1;
        }
        Ok(round * 4)
    };
    let sent: usize = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..3).map(|number| scope.spawn(move || client(number))).collect();
        let swapped = (0..8).try_for_each(|_| {
            let alice = w.alice()?;
            let seen = blue.seen().len();
            wait::until_true("requests of alice's", SOON, || Ok(blue.seen().len() > seen + 5))?;
            alice.leave()?;
            let seen = green.seen().len();
            wait::until_true("requests of the app's", SOON, || Ok(green.seen().len() > seen + 5))
        });
        done.store(true, Ordering::Release);
        let sent = clients.into_iter().map(|client| client.join().expect("no panic")).sum::<Result<usize>>();
        swapped.and(sent)
    })?;
    let mut all: Vec<(String, &str)> = Vec::new();
    for (app, version) in [(&green, "green"), (&blue, "blue"), (&orange, "orange")] {
        all.extend(app.seen().into_iter().map(|seen| (seen.head, version)));
    }
    ensure!(all.len() == sent, "{} requests arrived of {sent}", all.len());
    for (head, version) in &all {
        let allowed: &[&str] = match (head.contains("bob"), head.contains("eve")) {
            (true, _) => &["orange"],
            (_, true) => &["green"],
            _ => &["blue", "green"],
        };
        ensure!(allowed.contains(version), "{version} saw {head}");
    }
    let mut lines: Vec<&str> = all.iter().filter_map(|(head, _)| head.lines().next()).collect();
    lines.sort_unstable();
    lines.dedup();
    ensure!(lines.len() == sent, "a request arrived twice");
    Ok(())
});
