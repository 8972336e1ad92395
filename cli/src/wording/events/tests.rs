use redir_wire::PodEntry;

use super::*;
use crate::curl::CurlLine;

const NOW: UnixMillis = UnixMillis(1_795_460_584_005);

fn plain(event: &Event) -> Vec<String> {
    lines(event, Paint::Plain, Charset::Ascii, NOW)
}

fn is(subject: Subject, test: Test) -> Condition {
    Condition { subject, test, negate: false }
}

fn live(earlier_connections: u32, first: bool) -> Event {
    let conditions = vec![
        is(Subject::Header("x-user".into()), Test::Exact("alice".into())),
        is(Subject::Path, Test::Prefix("/api".into())),
    ];
    Event::Live(LivePod {
        agent: "node-1".into(),
        id: 7,
        pod: "web-1".into(),
        port: 8080,
        to: "127.0.0.1:3000".into(),
        local: ServiceInput::Plaintext,
        tls: false,
        filter: Some(Filter { mode: Mode::All, conditions, preflights: false }),
        addresses: vec!["10.0.0.2".into()],
        earlier_connections,
        earlier: EarlierConnections::Stay,
        after_ms: 41,
        listening: None,
        even_if_down: false,
        curl: Some(CurlLine::of(&["curl", "-H", "x-user: alice", "http://10.0.0.2:8080/api"])),
        first,
    })
}

#[test]
fn an_app_that_does_not_listen() {
    let app = |listening, even_if_down, filtered| {
        let (agent, pod) = ("node-1".to_owned(), "web-1".to_owned());
        app_sentence(&AppListening { agent, pod, port: 8099, listening, even_if_down, filtered, curl: None })
    };
    let nobody = "nobody listens on port 8099 of web-1";
    assert_eq!(app(Listening::Nobody, true, false), format!("{nobody}: your service answers all the same"));
    let refused = format!("{nobody}: requests are refused, as without redir; start the app");
    assert_eq!(app(Listening::Nobody, false, true), refused);
    assert_eq!(app(Listening::Nobody, false, false), format!("{refused}, or answer for it with --even-if-down"));
    assert!(app(Listening::LoopbackOnly, false, true).ends_with("as without redir; let it listen on 0.0.0.0 or [::]"));
    assert_eq!(app(Listening::Yes, false, true), "the app listens on port 8099 of web-1 now");
}

#[test]
fn a_live_pod() {
    assert_eq!(
        plain(&live(3, true)),
        [
            "live  web-1:8080 -> 127.0.0.1:3000, requests with header x-user: alice and path /api... (agent node-1, 41.0 ms)",
            "try   curl -H 'x-user: alice' http://10.0.0.2:8080/api",
        ]
    );
    assert_eq!(plain(&live(0, false)).len(), 1);
}

#[test]
fn filters() {
    let not = |condition| Condition { negate: true, ..condition };
    let conditions = vec![
        is(Subject::Header("x-user".into()), Test::Present),
        is(Subject::Cookie("sid".into()), Test::Exact("zo\u{eb}".into())),
        not(is(Subject::Query("q".into()), Test::Prefix("a".into()))),
        not(is(Subject::Baggage("b".into()), Test::Regex("a|b".into()))),
        is(Subject::Method, Test::Regex("GET|HEAD".into())),
    ];
    assert_eq!(
        filter(Some(&Filter { mode: Mode::All, conditions, preflights: false }), Charset::Ascii),
        r"requests with header x-user and cookie sid=zo\xc3\xab and without query q=a... and without baggage b matching a|b and with method matching GET|HEAD"
    );
    let conditions =
        vec![not(is(Subject::Method, Test::Exact("GET".into()))), is(Subject::Path, Test::Exact("/a".into()))];
    assert_eq!(
        filter(Some(&Filter { mode: Mode::Any, conditions, preflights: false }), Charset::Ascii),
        "requests without method GET or with path /a"
    );
    assert_eq!(filter(None, Charset::Ascii), "every request");
    let own = vec![is(Subject::Header("x-user".into()), Test::Exact("zo\u{eb}".into()))];
    let own = filter(Some(&Filter { mode: Mode::All, conditions: own, preflights: false }), Charset::Utf8);
    assert_eq!(own, "requests with header x-user: zo\u{eb}");
}

#[test]
fn conflicts() {
    let clash = |whose, id, takes| InterceptConflict {
        agent: "node-1".into(),
        pod: "web-1".into(),
        id,
        developer: "bob".into(),
        whose,
        since: UnixMillis(NOW.0 - 720_000),
        takes,
    };
    let of_bob = clash(Owner::Other, Some(7), Takes::Shared);
    for (event, expected) in [
        (
            Event::Conflict(of_bob.clone()),
            "conflict  web-1: bob (intercept 7) gets the requests that both want, intercepting since 12 min ago (18:51:04 UTC): ask bob, or choose another condition",
        ),
        (
            Event::Conflict(clash(Owner::You, Some(7), Takes::Everything)),
            "conflict  web-1: another redir of yours (intercept 7) gets every request that you want, intercepting since 12 min ago (18:51:04 UTC): end it with `redir leave 7`, or choose another condition",
        ),
        (
            Event::Conflict(clash(Owner::You, None, Takes::Everything)),
            "conflict  web-1: another redir of yours gets every request that you want, intercepting since 12 min ago (18:51:04 UTC): end it with `redir leave` (`redir list` shows which it is), or choose another condition",
        ),
        (Event::ConflictOver(of_bob.clone()), "free  web-1: bob (intercept 7) takes no requests from you any more"),
        (
            Event::Overlap(of_bob.clone()),
            "overlap  web-1: bob (intercept 7), intercepting since 12 min ago (18:51:04 UTC), wants some of your requests too: you get those that both want",
        ),
        (
            Event::Overlap(clash(Owner::Other, Some(7), Takes::Everything)),
            "overlap  web-1: bob (intercept 7), intercepting since 12 min ago (18:51:04 UTC), gets nothing while you intercept: you get every request that both want",
        ),
        (Event::OverlapOver(of_bob), "over  web-1: bob (intercept 7) wants no requests of yours any more"),
    ] {
        assert_eq!(plain(&event), [expected]);
    }
}

#[test]
fn what_goes_wrong() {
    let refused = Event::NotLive {
        agent: "node-1".into(),
        pod: "web-2".into(),
        state: Liveness::Refused,
        reason: "no\nthing".into(),
    };
    assert_eq!(plain(&refused), ["refused  web-2 on node-1: no\\x0athing"]);
    let lost = Event::Lost { agent: "node-1".into(), reason: "timed out".into() };
    assert_eq!(plain(&lost), ["lost  the tunnel to node-1 (timed out): requests go to the app, dialling again"]);
    let restored = Event::Restored { agent: "node-1".into(), pods: vec!["web-1".into()], after_ms: 2100 };
    assert_eq!(plain(&restored), ["live  again on node-1 after 2.10 s: web-1"]);
    let bypassed = |requests| plain(&Event::Bypassed { agent: "node-1".into(), id: 3, requests });
    assert_eq!(bypassed(1), ["missed  1 matched request went to the app while this machine did not answer node-1"]);
    assert_eq!(bypassed(12), ["missed  12 matched requests went to the app while this machine did not answer node-1"]);
}

#[test]
fn tables() {
    let labels = [("app".to_owned(), "web".to_owned())].into();
    let pod = PodEntry { name: "web-1".into(), labels, ports: vec![8080, 9090] };
    let any = PodEntry { name: "a-long-name".into(), labels: [].into(), ports: Vec::new() };
    let events = [Event::Pod { agent: "node-1".into(), pod }, Event::Pod { agent: "node-1".into(), pod: any }];
    assert_eq!(
        table(&pods(&events), Paint::Plain),
        "POD          PORTS      LABELS   AGENT\n\
         web-1        8080,9090  app=web  node-1\n\
         a-long-name  any        -        node-1\n"
    );
}
