//! How ports are armed and disarmed, tried again, and given up.

use super::*;

/// Whatever is wanted when, and whatever fails: in the end exactly what is wanted is armed, one thing at a time.
#[test]
fn arming_ends_where_it_should() {
    let pods = ["a", "b"].map(pod_name);
    for seed in 1..=200 {
        let mut dice = Dice::new(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let mut arming = ArmingState::default();
        let (mut now, clock) = (Instant::now(), SystemTime::now());
        let mut armed: BTreeMap<(PodName, u16), ListenerGate> = BTreeMap::new();
        let mut wanted = BTreeMap::new();
        let mut running: Vec<ArmingOp> = Vec::new();
        for step in 0..200 {
            let last = step >= 150;
            if !last && dice.roll(4) == 0 {
                wanted = (0..dice.roll(5))
                    .map(|_| {
                        let pod = pods[usize::try_from(dice.roll(2)).unwrap()].clone();
                        let gate = if dice.roll(2) == 0 { ListenerGate::Always } else { ListenerGate::AppListening };
                        ((pod, u16::try_from(1 + dice.roll(3)).unwrap()), gate)
                    })
                    .collect();
            }
            if !last && dice.roll(12) == 0 {
                arming.renew(&pods[usize::try_from(dice.roll(2)).unwrap()]);
            }
            arming.want(wanted.iter().map(|(port, gate)| (port, *gate)));
            running.extend(arming.next(now));
            for pod in &pods {
                assert!(running.iter().filter(|op| op.pod() == pod).count() <= 1, "seed {seed}: two at once");
            }
            if !running.is_empty() && (last || dice.roll(2) == 0) {
                let op = running.swap_remove(usize::try_from(dice.roll(running.len() as u64)).unwrap());
                let fails = !last && dice.roll(3) == 0;
                let outcome = match &op {
                    _ if fails => ArmingOutcome::Failed { reason: "no".into(), retry: Duration::from_secs(1) },
                    ArmingOp::Arm(pod, port, gate) => {
                        let before = armed.insert((pod.clone(), *port), *gate);
                        assert!(before.is_none(), "seed {seed}: armed twice");
                        ArmingOutcome::Armed { earlier: 3, addresses: vec![], app: None }
                    }
                    ArmingOp::Regate(pod, port, gate) => {
                        let before = armed.insert((pod.clone(), *port), *gate);
                        assert!(
                            before.is_some_and(|before| before != *gate),
                            "seed {seed}: steered without being armed"
                        );
                        ArmingOutcome::Regated
                    }
                    ArmingOp::Disarm(pod, port) => {
                        assert!(armed.remove(&(pod.clone(), *port)).is_some(), "seed {seed}: disarmed twice");
                        ArmingOutcome::Disarmed
                    }
                };
                arming.done(&op, outcome, clock, now);
            }
            now += Duration::from_millis(500);
        }
        assert_eq!(armed, wanted, "seed {seed}");
        assert!(running.is_empty() && arming.retry_at().is_none(), "seed {seed}");
        for (pod, port) in wanted.keys() {
            assert!(matches!(arming.status(pod, *port), PortStatus::Live { earlier: 3, .. }));
        }
    }
}

fn gated<'a>(
    ports: impl IntoIterator<Item = &'a (PodName, u16)>,
) -> impl Iterator<Item = (&'a (PodName, u16), ListenerGate)> {
    ports.into_iter().map(|port| (port, ListenerGate::AppListening))
}

#[test]
fn another_gate_is_set_in_place_and_changes_nothing_else() {
    let mut arming = ArmingState::default();
    let (now, clock) = (Instant::now(), SystemTime::now());
    let port = (pod_name("a"), 80);
    arming.want(gated([&port]));
    let op = arming.next(now).remove(0);
    arming.done(&op, ArmingOutcome::Armed { earlier: 3, addresses: vec![], app: None }, clock, now);
    let live = arming.status(&port.0, 80);
    arming.want([(&port, ListenerGate::Always)].into_iter());
    let op = arming.next(now).remove(0);
    assert_eq!(op, ArmingOp::Regate(port.0.clone(), 80, ListenerGate::Always));
    assert_eq!(arming.status(&port.0, 80), live);
    arming.done(&op, ArmingOutcome::Regated, clock + Duration::from_secs(9), now);
    assert_eq!((arming.status(&port.0, 80), arming.next(now)), (live.clone(), vec![]));
    // Nobody knows what it has after a change that failed: it begins anew.
    arming.want(gated([&port]));
    let op = arming.next(now).remove(0);
    arming.done(&op, ArmingOutcome::Failed { reason: "no".into(), retry: Duration::from_secs(1) }, clock, now);
    assert_eq!(arming.next(now), [ArmingOp::Disarm(port.0.clone(), 80)]);
    arming.done(&ArmingOp::Disarm(port.0.clone(), 80), ArmingOutcome::Disarmed, clock, now);
    assert_eq!(arming.next(now), [ArmingOp::Arm(port.0.clone(), 80, ListenerGate::AppListening)]);
}

#[test]
fn only_the_global_intercept_that_gets_the_port_says_whether_the_app_must_listen() {
    let mut world = RegistryRig::new();
    let (alice, bob) = (world.alice, world.bob);
    let gate = |world: &RegistryRig| world.registry.contests()[&(pod_name("web-1"), 8080)].gate();
    let both = InterceptRequest { even_if_down: true, ..filtered(9, "web-1", "alice") };
    assert_eq!(world.register(1, alice, both), Err(RefusedCode::Unsupported));
    world.register(1, alice, filtered(1, "web-1", "alice")).unwrap();
    assert_eq!(gate(&world), ListenerGate::AppListening);
    let id = world.register(2, bob, InterceptRequest { even_if_down: true, ..request(2, "web-1") }).unwrap();
    assert_eq!(gate(&world), ListenerGate::Always);
    assert!(world.state(id).even_if_down);
    world.register(1, alice, request(3, "web-1")).unwrap();
    assert_eq!(gate(&world), ListenerGate::Always, "a younger one gets nothing");
    world.registry.leave(&bob, &LeaveScope::All).unwrap();
    assert_eq!(gate(&world), ListenerGate::AppListening);
}

#[test]
fn a_port_that_cannot_be_armed_says_why_and_is_tried_again() {
    let mut arming = ArmingState::default();
    let (now, clock) = (Instant::now(), SystemTime::now());
    let port = (pod_name("a"), 80);
    arming.want(gated([&port]));
    let op = arming.next(now).remove(0);
    let retry = Duration::from_secs(1);
    arming.done(&op, ArmingOutcome::Failed { reason: "no such namespace".into(), retry }, clock, now);
    assert!(matches!(arming.status(&port.0, 80), PortStatus::Refused { reason, .. } if reason == "no such namespace"));
    assert_eq!(arming.next(now), []);
    assert_eq!(arming.retry_at(), Some(now + retry));
    assert_eq!(arming.next(now + retry), [ArmingOp::Arm(port.0.clone(), 80, ListenerGate::AppListening)]);
    arming.done(&op, ArmingOutcome::Armed { earlier: 0, addresses: vec![], app: None }, clock, now);
    assert!(!arming.is_idle());
    arming.renew(&port.0);
    let op = arming.next(now).remove(0);
    assert_eq!(op, ArmingOp::Disarm(port.0.clone(), 80));
    arming.done(&op, ArmingOutcome::Disarmed, clock, now);
    assert!(matches!(arming.status(&port.0, 80), PortStatus::Lost { .. }));
    assert_eq!(
        arming.next(now),
        [ArmingOp::Arm(port.0.clone(), 80, ListenerGate::AppListening)],
        "at once: the namespace is new"
    );
    let again = ArmingOp::Arm(port.0.clone(), 80, ListenerGate::AppListening);
    arming.done(&again, ArmingOutcome::Armed { earlier: 0, addresses: vec![], app: None }, clock, now);
    arming.stop();
    arming.want(gated([]));
    let op = arming.next(now).remove(0);
    arming.done(&op, ArmingOutcome::Disarmed, clock, now);
    assert!(arming.is_idle());
    assert!(matches!(arming.status(&port.0, 80), PortStatus::Lost { .. }));
}

#[test]
fn a_port_that_is_being_disarmed_is_not_live_for_a_new_intercept() {
    let mut arming = ArmingState::default();
    let (now, clock) = (Instant::now(), SystemTime::now());
    let port = (pod_name("a"), 80);
    let armed = || ArmingOutcome::Armed { earlier: 0, addresses: vec![], app: None };
    arming.want(gated([&port]));
    let arm = arming.next(now).remove(0);
    arming.done(&arm, armed(), clock, now);
    arming.want(gated([]));
    let disarm = arming.next(now).remove(0);
    arming.want(gated([&port]));
    assert_eq!(arming.status(&port.0, 80), PortStatus::Pending);
    arming.done(&disarm, ArmingOutcome::Disarmed, clock, now);
    assert_eq!(arming.next(now), std::slice::from_ref(&arm));
    assert_eq!(arming.status(&port.0, 80), PortStatus::Pending);
    arming.done(&arm, armed(), clock, now);
    assert!(matches!(arming.status(&port.0, 80), PortStatus::Live { .. }));
}

/// What may be tried again waits for the pod; a time that is over would wake the hub without an end.
#[test]
fn nothing_is_due_before_the_pod_may_be_touched() {
    let (clock, now) = (SystemTime::now(), Instant::now());
    let mut arming = ArmingState::default();
    let ports = [(pod_name("web-1"), 8080), (pod_name("web-1"), 9090)];
    arming.want(gated(&ports));
    let failed = |retry| ArmingOutcome::Failed { reason: "no".into(), retry: Duration::from_secs(retry) };
    let armed = arming.next(now).remove(0);
    arming.done(&armed, ArmingOutcome::Armed { earlier: 0, addresses: vec![], app: None }, clock, now);
    let refused = arming.next(now).remove(0);
    arming.done(&refused, failed(1), clock, now);
    arming.want(gated(&ports[1..]));
    let disarm = arming.next(now).remove(0);
    assert!(matches!(disarm, ArmingOp::Disarm(_, 8080)));
    arming.done(&disarm, failed(10), clock, now);
    assert_eq!(arming.retry_at(), Some(now + Duration::from_secs(10)));
    assert!(arming.next(now + Duration::from_secs(5)).is_empty());
    assert_eq!(arming.next(now + Duration::from_secs(10)), [disarm]);
}

#[test]
fn what_is_busy_is_asked_for_less_and_less_often() {
    let (clock, mut now) = (SystemTime::now(), Instant::now());
    let mut arming = ArmingState::default();
    let port = (pod_name("a"), 80);
    arming.want(gated([&port]));
    let mut fail = |reason: &str, millis| {
        let op = arming.next(now).remove(0);
        let outcome = ArmingOutcome::Failed { reason: reason.into(), retry: Duration::from_millis(millis) };
        arming.done(&op, outcome, clock, now);
        assert_eq!(arming.failing(&port.0, 80).map(String::as_str), Some(reason));
        let pause = arming.retry_at().unwrap() - now;
        now += pause;
        pause.as_millis()
    };
    let pauses: Vec<_> = (0..8).map(|_| fail("busy", 100)).collect();
    assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    assert_eq!([fail("no pod", 1000), fail("no pod", 1000)], [1000, 1000]);
    assert_eq!([fail("busy", 100), fail("busy", 100)], [100, 200], "another reason begins anew");
}

/// The next arm is the new namespace's already: it is not undone.
#[test]
fn a_replaced_pod_with_nothing_armed_is_armed_once() {
    let (clock, now) = (SystemTime::now(), Instant::now());
    let mut arming = ArmingState::default();
    let port = (pod_name("a"), 80);
    arming.want(gated([&port]));
    let arm = arming.next(now).remove(0);
    arming.done(&arm, ArmingOutcome::Failed { reason: "no".into(), retry: Duration::ZERO }, clock, now);
    arming.renew(&port.0);
    assert_eq!(arming.next(now), std::slice::from_ref(&arm));
    arming.done(&arm, ArmingOutcome::Armed { earlier: 0, addresses: vec![], app: None }, clock, now);
    assert_eq!(arming.next(now), []);
    assert!(matches!(arming.status(&port.0, 80), PortStatus::Live { .. }));
}

#[test]
fn a_pod_whose_way_breaks_is_lost_and_tried_again_less_and_less_often() {
    let mut arming = ArmingState::default();
    let (mut now, clock) = (Instant::now(), SystemTime::now());
    let (low, high) = ((pod_name("a"), 80), (pod_name("a"), 81));
    let armed = || ArmingOutcome::Armed { earlier: 0, addresses: vec![], app: None };
    let arm = |port| ArmingOp::Arm(pod_name("a"), port, ListenerGate::AppListening);
    assert!(!arming.broken(&low.0, "nobody there", now));
    arming.want(gated([&low, &high]));
    for seconds in [5, 10, 20, 40, 80, 160, 320, 320] {
        for port in [80, 81] {
            assert_eq!(arming.next(now), [arm(port)]);
            arming.done(&arm(port), armed(), clock, now);
        }
        assert!(arming.broken(&low.0, "the firewall", now));
        assert!(!arming.broken(&low.0, "said twice", now));
        for port in [80, 81] {
            assert_eq!(arming.next(now), [ArmingOp::Disarm(low.0.clone(), port)]);
            arming.done(&ArmingOp::Disarm(low.0.clone(), port), ArmingOutcome::Disarmed, clock, now);
            let status = arming.status(&low.0, port);
            assert!(matches!(&status, PortStatus::Lost { reason, .. } if reason == "the firewall"), "{status:?}");
        }
        let pause = Duration::from_secs(seconds);
        assert_eq!((arming.next(now), arming.retry_at()), (vec![], Some(now + pause)));
        now += pause;
    }
    // After a calm while it begins anew.
    for port in [80, 81] {
        assert_eq!(arming.next(now), [arm(port)]);
        arming.done(&arm(port), armed(), clock, now);
    }
    now += Duration::from_secs(601);
    assert!(arming.broken(&low.0, "again", now));
    for port in [80, 81] {
        arming.next(now);
        arming.done(&ArmingOp::Disarm(low.0.clone(), port), ArmingOutcome::Disarmed, clock, now);
    }
    assert_eq!(arming.retry_at(), Some(now + Duration::from_secs(5)));
}
