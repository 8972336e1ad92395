//! Generated orders of events, against a naive reader of the rules.

use super::*;

/// What a naive reader of the rules would keep: the order of first arrivals, forgotten after a minute away.
#[derive(Default)]
struct RegistryModel {
    /// (key, token, live in session, filtered, pod, when lost)
    entries: Vec<(Pin, u8, Option<u64>, bool, u8, Instant)>,
}

#[test]
fn generated_orders_of_events_agree_with_a_naive_model() {
    for seed in 1..=60 {
        let mut dice = Dice::new(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let mut world = RegistryRig::new();
        let pins = [world.alice, world.bob];
        let mut model = RegistryModel::default();
        for _ in 0..120 {
            let (session, pin) = {
                let session = dice.roll(6);
                (session, pins[usize::from(session % 2 == 1)])
            };
            match dice.roll(10) {
                0..=5 => {
                    let (token, pod) = (u8::try_from(dice.roll(5)).unwrap(), u8::try_from(1 + dice.roll(2)).unwrap());
                    let name = format!("web-{pod}");
                    let is_filtered = dice.roll(2) == 0;
                    let request = if is_filtered { filtered(token, &name, "x") } else { request(token, &name) };
                    world.register(session, pin, request).unwrap();
                    let now = world.now;
                    model.entries.retain(|entry| entry.2.is_some() || now < entry.5 + SENIORITY);
                    let found = model.entries.iter_mut().find(|entry| (entry.0, entry.1) == (pin, token));
                    match found {
                        Some(entry) => (entry.2, entry.3, entry.4) = (Some(session), is_filtered, pod),
                        None => model.entries.push((pin, token, Some(session), is_filtered, pod, now)),
                    }
                }
                6 | 7 => {
                    world.registry.end_session(SessionId(session), world.now);
                    for entry in model.entries.iter_mut().filter(|entry| entry.2 == Some(session)) {
                        (entry.2, entry.5) = (None, world.now);
                    }
                }
                8 => {
                    let token = u8::try_from(dice.roll(5)).unwrap();
                    world.registry.leave(&pin, &LeaveScope::Token(Token([token; 16]))).ok();
                    model.entries.retain(|entry| entry.2.is_none() || (entry.0, entry.1) != (pin, token));
                }
                _ => world.now += Duration::from_secs(dice.roll(90)),
            }
            for pod in 1..=2_u8 {
                let expected = |want_filtered: bool| -> Vec<(Pin, u8)> {
                    let live = model.entries.iter().filter(|entry| entry.2.is_some() && entry.4 == pod);
                    live.filter(|entry| entry.3 == want_filtered).map(|entry| (entry.0, entry.1)).collect()
                };
                let (filtered, globals) = world.contest(&format!("web-{pod}"), 8080);
                let named = |ids: Vec<u64>| -> Vec<(Pin, u8)> {
                    let requests = ids.into_iter().map(|id| world.registry.intercept(id).unwrap());
                    requests.map(|request| (request.pin, request.grant.request.token.0[0])).collect()
                };
                assert_eq!(named(filtered), expected(true), "seed {seed}");
                assert_eq!(named(globals), expected(false), "seed {seed}");
            }
        }
    }
}
