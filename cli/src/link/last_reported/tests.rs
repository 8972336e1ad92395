use redir_http::filter::{Condition, Mode, Subject, Test};
use redir_wire::{Takes, Token, UnixMillis};

use super::*;

fn wanted() -> DesiredIntercept {
    DesiredIntercept::for_test("app=web")
}

fn state(pods: &[(&str, Liveness)], conflicts: &[&str]) -> InterceptState {
    let pod = |(name, state): &(&str, Liveness)| PodState {
        flushed: None,
        pod: (*name).to_owned(),
        addresses: vec!["10.0.0.2".into()],
        state: *state,
        reason: String::new(),
        earlier_connections: 0,
        since: UnixMillis(0),
        tls: None,
        probes: Vec::new(),
        listening: None,
        misses: Vec::new(),
    };
    // `bob` takes from us, and from `-bob` we take; `bob 9` has a number.
    let conflict = |text: &&str| {
        let (developer, id) =
            text.trim_start_matches('-').split_once(' ').unwrap_or((text.trim_start_matches('-'), ""));
        Conflict {
            id: id.parse().ok(),
            pod: "a".into(),
            developer: developer.to_owned(),
            since: UnixMillis(0),
            takes: Takes::Shared,
        }
    };
    let (overlaps, conflicts): (Vec<&str>, Vec<&str>) = conflicts.iter().partition(|text| text.starts_with('-'));
    InterceptState {
        id: 7,
        token: Token([1; 16]),
        since: UnixMillis(0),
        pods: pods.iter().map(pod).collect(),
        conflicts: conflicts.iter().map(conflict).collect(),
        overlaps: overlaps.iter().map(conflict).collect(),
        bypassed: 0,
        even_if_down: false,
        forwarded: false,
    }
}

fn who(clash: &InterceptConflict) -> String {
    clash.id.map_or_else(|| clash.developer.clone(), |id| format!("{} {id}", clash.developer))
}

fn kinds(reported: &mut LastReported, state: &InterceptState) -> Vec<String> {
    let kind = |event: Event| match event {
        Event::Live(live) => format!("live {} {}", live.pod, live.first),
        Event::NotLive { pod, state, .. } => format!("{state:?} {pod}"),
        Event::Restored { pods, .. } => format!("restored {}", pods.join(" ")),
        Event::Conflict(clash) => format!("conflict {}", who(&clash)),
        Event::ConflictOver(clash) => format!("over {}", who(&clash)),
        Event::Overlap(clash) => format!("overlap {}", who(&clash)),
        Event::OverlapOver(clash) => format!("overlap over {}", who(&clash)),
        Event::Flushed { pod, flushed, .. } => format!("flushed {pod} {}/{}", flushed.closed, flushed.left),
        Event::Bypassed { requests, .. } => format!("bypassed {requests}"),
        Event::App(app) => format!("app {} {:?} {:?}", app.pod, app.listening, app.curl.is_some()),
        Event::NotIntercepted { pod, miss, .. } => format!("missed {pod} {}", miss.cause),
        Event::InterceptedAgain { pod, cause, .. } => format!("again {pod} {cause}"),
        Event::Tls { pod, tls, local, .. } => format!("tls {pod} {:?} {local:?}", tls.handling),
        other => panic!("{other:?}"),
    };
    reported.changes("node-1", &wanted(), state, 5).into_iter().map(kind).collect()
}

#[test]
fn a_probe_is_told_once() {
    let mut reported = LastReported::new(true);
    let mut both = state(&[("a", Liveness::Live), ("b", Liveness::Live)], &[]);
    for pod in &mut both.pods {
        pod.probes = vec!["the liveness probe comes to you".into()];
    }
    let probes = |events: Vec<Event>| events.into_iter().filter(|event| matches!(event, Event::Probe { .. })).count();
    let events = reported.changes("n", &wanted(), &both, 1);
    assert!(matches!(events.first(), Some(Event::Live(_))), "{events:?}");
    assert_eq!(probes(events), 1);
    assert_eq!(probes(reported.changes("n", &wanted(), &both, 1)), 0);
    reported.tunnel_lost();
    assert_eq!(probes(reported.changes("n", &wanted(), &both, 1)), 0);
    both.pods[1].probes.push("another".into());
    assert_eq!(probes(reported.changes("n", &wanted(), &both, 1)), 1);
}

#[test]
fn every_change_is_told_once() {
    use Liveness::{Live, Lost, Pending, Refused};
    let mut reported = LastReported::default();
    assert!(!settled(&state(&[("a", Pending), ("b", Live)], &[])));
    assert_eq!(kinds(&mut reported, &state(&[("a", Pending), ("b", Live)], &[])), ["live b true"]);
    let refused = state(&[("a", Refused), ("b", Live)], &["bob"]);
    assert_eq!(kinds(&mut reported, &refused), ["Refused a", "conflict bob"]);
    assert!(kinds(&mut reported, &refused).is_empty());
    assert_eq!(kinds(&mut reported, &state(&[("a", Live), ("b", Lost)], &[])), ["live a false", "Lost b", "over bob"]);
}

#[test]
fn an_app_that_is_not_there_is_told_and_tried_when_it_is() {
    use Liveness::{Live, Pending};
    let mut reported = LastReported::default();
    let with = |liveness, listening| {
        let mut state = state(&[("a", liveness)], &[]);
        state.pods[0].listening = listening;
        state
    };
    assert!(kinds(&mut reported, &with(Pending, None)).is_empty());
    assert_eq!(
        kinds(&mut reported, &with(Live, Some(Listening::Nobody))),
        ["live a false"],
        "told with it, no line to try"
    );
    assert!(kinds(&mut reported, &with(Live, Some(Listening::Nobody))).is_empty());
    assert_eq!(kinds(&mut reported, &with(Live, Some(Listening::LoopbackOnly))), ["app a LoopbackOnly false"]);
    assert_eq!(kinds(&mut reported, &with(Live, Some(Listening::Yes))), ["app a Yes true"]);
    assert_eq!(kinds(&mut reported, &with(Live, Some(Listening::Nobody))), ["app a Nobody false"]);
    assert_eq!(kinds(&mut reported, &with(Live, Some(Listening::Yes))), ["app a Yes false"], "one line to try");
    reported.tunnel_lost();
    assert_eq!(kinds(&mut reported, &with(Live, Some(Listening::Yes))), ["restored a"]);
    reported.tunnel_lost();
    assert_eq!(kinds(&mut reported, &with(Live, Some(Listening::Nobody))), ["restored a", "app a Nobody false"]);
}

#[test]
fn an_agent_that_does_not_tell_is_taken_as_before() {
    let mut reported = LastReported::default();
    let told = state(&[("a", Liveness::Live)], &[]);
    assert_eq!(kinds(&mut reported, &told), ["live a true"]);
}

#[test]
fn each_cause_is_told_once_for_a_pod() {
    let mut reported = LastReported::default();
    let with = |causes: &[&str], earlier| {
        let mut state = state(&[("a", Liveness::Live)], &[]);
        let miss = |cause: &&str| Miss { cause: (*cause).to_owned(), sentence: "so; do".into() };
        state.pods[0].misses = causes.iter().map(miss).collect();
        state.pods[0].earlier_connections = earlier;
        state
    };
    assert_eq!(kinds(&mut reported, &with(&[], 2)), ["live a true", "missed a earlier_connections"]);
    assert_eq!(kinds(&mut reported, &with(&["x"], 2)), ["missed a x"]);
    assert_eq!(kinds(&mut reported, &with(&["x", "y"], 2)), ["missed a y"]);
    assert!(kinds(&mut reported, &with(&["x"], 2)).is_empty());
}

#[test]
fn what_passes_for_a_while_is_told_with_its_end_each_time() {
    let mut reported = LastReported::default();
    let with = |causes: &[&str], liveness| {
        let mut state = state(&[("a", liveness)], &[]);
        let miss = |cause: &&str| Miss { cause: (*cause).to_owned(), sentence: "so; do".into() };
        state.pods[0].misses = causes.iter().map(miss).collect();
        state
    };
    let live = Liveness::Live;
    assert_eq!(kinds(&mut reported, &with(&["client_passes"], live)), ["live a true", "missed a client_passes"]);
    assert!(kinds(&mut reported, &with(&["client_passes"], live)).is_empty());
    assert!(kinds(&mut reported, &with(&[], Liveness::Pending)).is_empty(), "nothing is known of it");
    assert_eq!(
        kinds(&mut reported, &with(&["pod_passes"], live))[1..],
        ["missed a pod_passes", "again a client_passes"]
    );
    assert_eq!(kinds(&mut reported, &with(&[], live)), ["again a pod_passes"]);
    assert_eq!(kinds(&mut reported, &with(&["pod_passes"], live)), ["missed a pod_passes"]);
}

#[test]
fn an_agent_that_makes_up_pods_fills_no_memory() {
    let mut reported = LastReported::default();
    for round in 0..20 {
        let names: Vec<String> = (0..1000).map(|number| format!("pod-{round}-{number}")).collect();
        let pods: Vec<_> = names.iter().map(|name| (name.as_str(), Liveness::Live)).collect();
        let mut state = state(&pods, &[]);
        for pod in &mut state.pods {
            pod.listening = Some(Listening::Nobody);
            pod.flushed = Some(PodFlush::default());
            pod.probes = vec![format!("of {}", pod.pod)];
            pod.misses = vec![Miss { cause: "x".into(), sentence: "so; do".into() }];
        }
        reported.changes("node-1", &wanted(), &state, 0);
        reported.tunnel_lost();
    }
    let LastReported { tls, flushed, probes, apps, misses, lost, .. } = &reported;
    for count in [tls.len(), flushed.len(), probes.len(), apps.len(), misses.len(), lost.len()] {
        assert!(count <= limits::ENTRIES + 1000, "{count}");
    }
}

#[test]
fn conflicts_are_told_one_by_one() {
    let mut reported = LastReported::default();
    let mut told = |conflicts: &[&str]| kinds(&mut reported, &state(&[], conflicts));
    assert_eq!(told(&["bob 3", "-carol 9"]), ["conflict bob 3", "overlap carol 9"]);
    assert_eq!(told(&["bob 3", "bob 4", "-carol 9"]), ["conflict bob 4"]);
    assert_eq!(told(&["bob 4", "-carol 10"]), ["over bob 3", "overlap carol 10", "overlap over carol 9"]);
    assert_eq!(
        told(&["bob"]),
        ["conflict bob", "over bob 4", "overlap over carol 10"],
        "an agent that tells no numbers"
    );
    let mut reported = LastReported::new(true);
    let mut told = |conflicts: &[&str]| kinds(&mut reported, &state(&[], conflicts));
    assert_eq!(told(&["bob 3", "bob 4"]), ["conflict bob", "conflict bob"], "a cluster's have names");
    assert_eq!(told(&["bob 4"]), ["over bob"]);
}

#[test]
fn what_was_live_is_restored() {
    use Liveness::{Live, Pending};
    let mut reported = LastReported::default();
    kinds(&mut reported, &state(&[("a", Live), ("b", Pending)], &[]));
    assert!(reported.tunnel_lost() && !reported.any_live());
    assert!(!reported.tunnel_lost(), "told once");
    assert_eq!(kinds(&mut reported, &state(&[("a", Live), ("b", Live)], &[])), ["restored a", "live b false"]);
}

#[test]
fn what_went_past_is_told_once() {
    use Liveness::Live;
    let mut reported = LastReported::default();
    let with = |bypassed| InterceptState { bypassed, ..state(&[("a", Live)], &[]) };
    assert_eq!(kinds(&mut reported, &with(0)), ["live a true"]);
    assert_eq!(kinds(&mut reported, &with(3)), ["bypassed 3"]);
    assert!(kinds(&mut reported, &with(3)).is_empty());
    assert!(reported.tunnel_lost());
    assert_eq!(kinds(&mut reported, &with(5)), ["restored a", "bypassed 2"], "the agent has counted on");
    assert!(kinds(&mut reported, &with(0)).is_empty(), "another agent process");
    assert_eq!(kinds(&mut reported, &with(1)), ["bypassed 1"]);
}

#[test]
fn tls_is_told_once_for_each_change() {
    use Liveness::Live;
    let mut reported = LastReported::default();
    let with = |handling| {
        let mut state = state(&[("a", Live)], &[]);
        state.pods[0].tls = Some(PodTls { handling, sentence: "so; do".into() });
        state
    };
    assert_eq!(kinds(&mut reported, &state(&[("a", Live)], &[])), ["live a true"]);
    assert_eq!(kinds(&mut reported, &with(TlsHandling::Passed)), ["tls a Passed Some(AsSent)"]);
    assert!(kinds(&mut reported, &with(TlsHandling::Passed)).is_empty());
    assert_eq!(kinds(&mut reported, &with(TlsHandling::Decrypted)), ["tls a Decrypted Some(Plaintext)"]);
    assert_eq!(kinds(&mut reported, &with(TlsHandling::Unread)), ["tls a Unread None"]);
    assert!(reported.tunnel_lost());
    assert_eq!(kinds(&mut reported, &with(TlsHandling::Unread)), ["restored a"], "as it was before");
}

#[test]
fn closed_connections_are_told_once_also_after_a_redial() {
    let mut reported = LastReported::default();
    let mut live = state(&[("a", Liveness::Live)], &[]);
    assert_eq!(kinds(&mut reported, &live), ["live a true"]);
    live.pods[0].flushed = Some(redir_wire::PodFlush { closed: 12, left: 1, reason: String::new() });
    assert_eq!(kinds(&mut reported, &live), ["flushed a 12/1"]);
    assert_eq!(kinds(&mut reported, &live), [""; 0]);
    reported.tunnel_lost();
    assert_eq!(kinds(&mut reported, &live), ["restored a"]);
}

#[test]
fn what_the_service_gets_is_stated() {
    let tls = |handling| PodTls { handling, sentence: String::new() };
    let of = |speaks, filter: bool, handling: Option<TlsHandling>| {
        let get = Condition { subject: Subject::Method, test: Test::Exact("GET".into()), negate: false };
        let filter = filter.then_some(redir_wire::Filter { mode: Mode::All, conditions: vec![get], preflights: false });
        local(&DesiredIntercept { speaks, filter, ..wanted() }, handling.map(tls).as_ref())
    };
    assert_eq!(of(ServiceProtocol::Plaintext, true, None), Some(ServiceInput::Plaintext));
    assert_eq!(of(ServiceProtocol::Plaintext, false, None), Some(ServiceInput::AsSent));
    assert_eq!(of(ServiceProtocol::Tls, true, None), Some(ServiceInput::Tls));
    assert_eq!(of(ServiceProtocol::Tls, true, Some(TlsHandling::Decrypted)), Some(ServiceInput::Tls));
    assert_eq!(
        of(ServiceProtocol::Tls, false, Some(TlsHandling::Passed)),
        Some(ServiceInput::AsSent),
        "it is TLS already"
    );
    assert_eq!(of(ServiceProtocol::Tls, true, Some(TlsHandling::Unread)), None);
}
