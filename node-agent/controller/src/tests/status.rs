//! What the status and Events of an Intercept say.

use super::*;

fn report(resolved: &ResolvedCluster, states: &[(u64, PodState, &str)]) -> InterceptReports {
    let pods = states.iter().map(|(number, state, reason)| PodInterceptReport {
        pod: PodName::new(&uid(*number)).unwrap(),
        addresses: vec!["10.0.0.1".into()],
        state: *state,
        reason: (*reason).into(),
        since: 1_700_000_000_123,
        nobody_listens: false,
    });
    let conflict = ConflictReport { pod: "a".into(), developer: "bob".into(), since: 0, everything: true };
    let report = InterceptReport { pods: pods.collect(), conflicts: vec![conflict] };
    resolved.intercepts.keys().map(|token| (*token, report.clone())).collect()
}

#[test]
fn the_status_says_pod_by_pod_how_it_stands() {
    let selector = json!({"selector": {"matchLabels": {"app": "web"}}});
    let pods =
        vec![pod(1, "a", &json!({})), pod(2, "b", &json!({})), pod(3, "c", &json!({"spec": {"hostNetwork": true}}))];
    let (resolved, _) = resolve(&world(pods, vec![intercept(50, &selector, &json!({}))]));
    let of = |reports: &InterceptReports| entries(&resolved, reports, &introduction()).remove(&token(50)).unwrap();

    let before = of(&InterceptReports::new());
    assert_eq!(before.state, AgentState::Waiting);
    let states: Vec<PodState> = before.pods.iter().map(|pod| pod.state).collect();
    assert_eq!(states, [PodState::Waiting, PodState::Waiting, PodState::Refused]);

    let coming = of(&report(&resolved, &[(1, PodState::Live, ""), (2, PodState::Pending, "")]));
    assert_eq!(coming.state, AgentState::Pending);
    let live = of(&report(&resolved, &[(1, PodState::Live, ""), (2, PodState::Live, "")]));
    assert_eq!((live.state, live.pods[0].port, live.pods[0].state), (AgentState::Partial, Some(8080), PodState::Live));
    assert!(live.reason.starts_with("c: ") && live.reason.contains("hostNetwork"), "{}", live.reason);
    assert_eq!((live.conflicts[0].user.as_str(), live.conflicts[0].everything), ("bob", true));
    let lost = of(&report(&resolved, &[(1, PodState::Refused, "no"), (2, PodState::Lost, "gone")]));
    assert_eq!((lost.state, &*lost.reason), (AgentState::Refused, "a: no"));
}

#[test]
fn an_intercept_without_a_pod_here_is_not_spoken_of() {
    let (resolved, _) = resolve(&world(vec![], vec![intercept(50, &target("Pod", "a"), &json!({}))]));
    assert!(entries(&resolved, &InterceptReports::new(), &introduction()).is_empty());
}

#[test]
fn a_refused_one_is_told_by_its_pods_agents_without_its_secrets() {
    let mut spec = target("Pod", "a");
    merge(&mut spec, &json!({"filter": {"all": [{"header": {"name": "x", "regex": "secret("}}]}}));
    let (resolved, _) = resolve(&world(vec![pod(1, "a", &json!({}))], vec![intercept(50, &spec, &json!({}))]));
    let entries = entries(&resolved, &InterceptReports::new(), &introduction());
    let entry = &entries[&token(50)];
    assert_eq!(entry.state, AgentState::Refused);
    assert!(entry.reason.contains("regular expression") && !entry.reason.contains("secret"), "{}", entry.reason);
    let notices = ReportedEvents::default().tell(&resolved, &entries);
    assert_eq!(notices.iter().map(|notice| notice.kind).collect::<Vec<_>>(), [NoticeKind::Refused]);
    assert!(!notices[0].note.contains("secret"));
}

#[test]
fn start_end_and_refusal_are_told_once() {
    let plain = vec![intercept(50, &target("Pod", "a"), &json!({}))];
    let (resolved, _) = resolve(&world(vec![pod(1, "a", &json!({}))], plain));
    let mut told = ReportedEvents::default();
    let mut tell = |resolved: &ResolvedCluster, reports: &InterceptReports| -> Vec<WorkloadNotice> {
        told.tell(resolved, &entries(resolved, reports, &introduction()))
    };
    assert_eq!(tell(&resolved, &InterceptReports::new()), []);
    let live = report(&resolved, &[(1, PodState::Live, "")]);
    let [started] = &tell(&resolved, &live)[..] else { panic!("one notice") };
    assert_eq!(started.kind, NoticeKind::Started);
    assert_eq!(started.workload.as_ref().map(|workload| &*workload.kind), Some("Pod"));
    assert!(started.note.contains("alice") && started.note.contains("all connections"), "{}", started.note);
    assert_eq!(tell(&resolved, &live), []);
    let refused = report(&resolved, &[(1, PodState::Refused, "no room")]);
    let kinds: Vec<_> = tell(&resolved, &refused).into_iter().map(|notice| notice.kind).collect();
    assert_eq!(kinds, [NoticeKind::Ended, NoticeKind::Refused]);
    assert_eq!(tell(&resolved, &refused), []);
    assert_eq!(tell(&resolved, &live).len(), 1);
    let (gone, _) = resolve(&world(vec![pod(1, "a", &json!({}))], vec![]));
    let [ended] = &tell(&gone, &InterceptReports::new())[..] else { panic!("one notice") };
    assert_eq!((ended.kind, ended.workload.is_some()), (NoticeKind::Ended, true));
}

/// The next controller finds what this one has written, and does not tell it once more.
#[test]
fn a_controller_goes_on_with_what_an_earlier_one_has_told() {
    let plain = vec![intercept(50, &target("Pod", "a"), &json!({}))];
    let (resolved, _) = resolve(&world(vec![pod(1, "a", &json!({}))], plain));
    for (state, next) in [(PodState::Live, NoticeKind::Ended), (PodState::Refused, NoticeKind::Started)] {
        let written = entries(&resolved, &report(&resolved, &[(1, state, "why")]), &introduction());
        let mut told = ReportedEvents::default();
        told.resume(&resolved, written.iter().map(|(token, entry)| (*token, entry)));
        assert_eq!(told.tell(&resolved, &written), []);
        let other = if state == PodState::Live { PodState::Refused } else { PodState::Live };
        let now = entries(&resolved, &report(&resolved, &[(1, other, "why")]), &introduction());
        assert_eq!(told.tell(&resolved, &now)[0].kind, next);
    }
}
