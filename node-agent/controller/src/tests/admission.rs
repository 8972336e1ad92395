//! Which Intercepts are taken of those that there are.

use super::*;

/// The reasons of those that are refused, by number.
fn refused(world: &ClusterState) -> BTreeMap<u64, String> {
    let refused = |(token, one): (Token, redir_link::resolved::ResolvedIntercept)| {
        let number = world.intercepts[&token].id.name.trim_start_matches('i').parse().unwrap();
        Some((number, one.granted.err()?))
    };
    resolve(world).0.intercepts.into_iter().filter_map(refused).collect()
}

#[test]
fn a_key_is_the_oldest_intercepts_alone() {
    let made = |number: u64, day: u32, user: &str| {
        let with = json!({"metadata": {"namespace": user, "creationTimestamp": format!("2026-01-{day:02}T00:00:00Z")}});
        intercept(number, &target("Pod", "a"), &with)
    };
    let one_key = vec![made(50, 2, "shop"), made(51, 1, "shop"), made(52, 3, "bank")];
    let mut world = world(vec![pod(1, "a", &json!({}))], one_key);
    let reasons = refused(&world);
    assert_eq!(reasons.keys().collect::<Vec<_>>(), [&50, &52]);
    assert!(reasons[&50].contains("older Intercept names the same developerKey") && reasons[&50].contains(';'));
    let (resolved, _) = resolve(&world);
    assert_eq!((resolved.keys(), resolved.steered().count()), (vec![key(1)], 1));
    world.take(ClusterChange::InterceptGone(token(51)));
    assert_eq!(refused(&world).into_keys().collect::<Vec<_>>(), [52], "the next oldest has it");
}

/// Its own key, and of day 1 plus `number` minutes.
fn of_its_own(number: u64, spec: &Value, namespace: &str) -> InterceptFacts {
    let (day, hour) = (1 + number / 1440, number / 60 % 24);
    let hour = format!("2026-01-{day:02}T{hour:02}:{:02}:00Z", number % 60);
    let key = Pin::of_spki(&number.to_ne_bytes()).to_string();
    let with = json!({"metadata": {"namespace": namespace, "creationTimestamp": hour}, "spec": {"developerKey": key}});
    intercept(number, spec, &with)
}

#[test]
fn a_namespace_has_the_oldest_so_many_and_no_other_namespace_less() {
    let most = MOST_OF_NAMESPACE as u64;
    let mut all: Vec<_> = (0..most + 3).rev().map(|number| of_its_own(number, &target("Pod", "a"), "shop")).collect();
    all.push(of_its_own(900, &target("Pod", "a"), "bank"));
    let world = world(vec![pod(1, "a", &json!({}))], all);
    let reasons = refused(&world);
    assert_eq!(reasons.keys().copied().collect::<Vec<_>>(), [most, most + 1, most + 2]);
    assert!(reasons[&most].contains("128 oldest Intercepts of a namespace; delete"), "{}", reasons[&most]);
}

/// Every agent of the cluster would write each of them.
#[test]
fn any_number_of_intercepts_makes_bounded_work() {
    let bad = merged(&target("Pod", "a"), &json!({"port": "no port!"}));
    let specs = [bad, target("Pod", "a")];
    let all = (0..5000).map(|number| of_its_own(number, &specs[usize::from(number % 2 == 1)], "shop"));
    let all: Vec<_> = all.chain([of_its_own(9000, &target("Pod", "a"), "shop")]).collect();
    let world = world(vec![pod(1, "a", &json!({}))], all);
    let (resolved, _) = resolve(&world);
    assert_eq!(resolved.intercepts.len(), MOST_OF_NAMESPACE + MOST_REFUSED_OF_NAMESPACE);
    let granted = resolved.intercepts.values().filter(|one| one.granted.is_ok()).count();
    assert_eq!(granted, MOST_OF_NAMESPACE, "one that is invalid takes nobody's place");
    let introduction =
        AgentEntry { node: NODE.to_owned(), key: "k".to_owned(), software: "redir", endpoints: Vec::new() };
    let entries = entries(&resolved, &InterceptReports::new(), &introduction);
    let (mut writes, now) = (WriteQueue::default(), Instant::now());
    let mut written = BTreeSet::new();
    loop {
        let due = writes.due(&world, &entries, now);
        if due.is_empty() {
            break;
        }
        assert!(due.len() <= MOST_UNDER_WAY, "{} calls at a time", due.len());
        for (token, _, entry) in due {
            assert!(written.insert(token), "everybody has a turn before anybody has another");
            writes.done(token, entry, &Ok(()), now);
        }
    }
    assert_eq!(written.len(), entries.len());
}

#[test]
fn certificates_of_all_ports_have_a_sum() {
    let mounts = json!({"spec": {"volumes": [{"name": "a", "secret": {"secretName": "web-tls"}}]}});
    let pods = (1..=100).map(|number| pod(number, &format!("p{number}"), &mounts)).collect();
    let web = json!({"selector": {"matchLabels": {"app": "web"}}});
    let mut world = world(pods, vec![intercept(500, &web, &json!({}))]);
    let large = Pair { chain: "c".repeat(60 << 10), key: "key".into() };
    world.take(ClusterChange::Secrets("shop".into(), BTreeMap::from([("web-tls".to_owned(), large)])));
    let Certificates(given) = secrets::certificates(&world, &resolve(&world).0);
    assert_eq!(given.len(), 100, "one that is left out is told as not usable");
    let bytes: usize = given.values().flatten().map(Pair::bytes).sum();
    assert!((3 << 20..=4 << 20).contains(&bytes), "{bytes}");
}

#[test]
fn the_specs_of_a_namespace_have_a_sum() {
    let mut large = target("Pod", "a");
    let condition = json!({"header": {"name": "x", "exact": "y".repeat(4000)}});
    merge(&mut large, &json!({"filter": {"all": [condition]}}));
    let all = (0..80).map(|number| of_its_own(number, &large, "shop")).chain([of_its_own(99, &large, "bank")]);
    let world = world(vec![], all.collect());
    let reasons = refused(&world);
    let taken = (256 << 10) / world.intercepts[&token(0)].bytes as u64;
    assert_eq!(reasons.keys().copied().collect::<Vec<_>>(), (taken..80).collect::<Vec<_>>());
    let last = &reasons[&79];
    assert!(last.contains("256 KiB") && last.contains("; delete"), "{last}");
}

/// Sixty of them, without a pod here, were four OOM kills.
#[test]
fn a_filter_is_compiled_only_where_it_has_a_pod_and_once() {
    let expensive = json!({"header": {"name": "x", "regex": "[a-z]{1,40}-"}});
    let spec = |name: &str| {
        let mut spec = target("Pod", name);
        merge(&mut spec, &json!({"filter": {"all": vec![expensive.clone(); 2]}}));
        spec
    };
    let mut all: Vec<_> = (0..60).map(|number| of_its_own(number, &spec("elsewhere"), "shop")).collect();
    all.push(of_its_own(70, &spec("a"), "shop"));
    let mut world = world(vec![pod(1, "a", &json!({}))], all);
    let (resolved, _) = resolve(&world);
    assert_eq!(resolved.intercepts.len(), 61);
    for (token, one) in &resolved.intercepts {
        let is_here = *token == redir_api::token(&uid(70)).unwrap();
        let granted = one.granted.as_ref().unwrap();
        assert_eq!(matches!(granted.filter, InterceptedRequests::Matching(_)), is_here);
        assert_eq!(world.intercepts[token].filter.is_known(), is_here, "{}", one.id.name);
    }
    assert!(resolved.grant(&Pin::of_spki(&3_u64.to_ne_bytes()), request(token(3))).is_err(), "no pod of it is here");
    // Renewed each minute: it is not compiled again.
    let mut renewed = of_its_own(70, &spec("a"), "shop");
    renewed.renewed = Some("now".into());
    world.take(ClusterChange::Intercept(Box::new(renewed)));
    assert!(world.intercepts[&token(70)].filter.is_known());
    let list = world.intercepts.values().map(|one| InterceptFacts { filter: Default::default(), ..one.clone() });
    let list = list.collect();
    world.take(ClusterChange::Intercepts(list));
    assert!(world.intercepts[&token(70)].filter.is_known() && !world.intercepts[&token(3)].filter.is_known());
}

#[test]
fn nothing_is_intercepted_in_a_forbidden_namespace() {
    let system = json!({"metadata": {"namespace": "kube-system"}});
    let mut world = ClusterState::new(BTreeSet::from(["kube-system".to_owned()]));
    world.take(ClusterChange::Pods(vec![pod(1, "a", &system)]));
    world.take(ClusterChange::Intercepts(vec![of_its_own(50, &target("Pod", "a"), "kube-system")]));
    let (resolved, _) = resolve(&world);
    assert_eq!((resolved.keys().len(), permissions(&world, &resolved).len()), (0, 0));
    let entry = entries(&resolved, &InterceptReports::new(), &introduction()).remove(&token(50)).unwrap();
    assert_eq!(entry.state, AgentState::Refused);
    assert!(entry.reason.contains("namespace kube-system; "), "{}", entry.reason);
}
