//! The desired state against hand-written cases and generated orders of events; the arming against a made-up guardian.

mod arming;
mod model;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use redir_config::{NodeConfig, PodName, certificates::Certificates};
use redir_http::filter::{Condition, Mode, Subject, Test};
use redir_ipc::{AppListening, ListenerGate};
use redir_rig::dice::Dice;
use redir_tunnel::{Identity, Pin};
use redir_wire::{
    Filter, InterceptRequest, InterceptState, LeaveScope, Listing, Liveness, Owner, Probes, RefusedCode, Selector,
    Takes, Token,
};

use super::{
    INTERCEPTS_OF_A_KEY, InterceptRegistry, SENIORITY, SessionId,
    arming::{ArmingOp, ArmingOutcome, ArmingState, PortStatus},
    flushes::FlushResults,
    report::PortFacts,
};
use crate::{
    misses::Misses,
    tls::{GivenFor, Tls},
};

struct RegistryRig {
    registry: InterceptRegistry,
    alice: Pin,
    bob: Pin,
    now: Instant,
    clock: SystemTime,
    arming: ArmingState,
    tls: Tls,
    flushes: FlushResults,
    apps: BTreeMap<(PodName, u16), AppListening>,
    misses: Misses,
}

impl RegistryRig {
    fn new() -> Self {
        let (alice, bob) = (Identity::generate().unwrap().pin(), Identity::generate().unwrap().pin());
        let registry = InterceptRegistry::new(config(&alice, &bob, PODS));
        let (arming, tls) = (ArmingState::default(), Tls::new(&Certificates::default(), GivenFor::Ports, true));
        Self {
            registry,
            alice,
            bob,
            now: Instant::now(),
            clock: SystemTime::now(),
            arming,
            tls,
            flushes: FlushResults::default(),
            apps: BTreeMap::new(),
            misses: Misses::default(),
        }
    }

    fn register(&mut self, session: u64, pin: Pin, request: InterceptRequest) -> Result<u64, RefusedCode> {
        self.clock += Duration::from_secs(1);
        self.now += Duration::from_secs(1);
        let result = self.registry.register(SessionId(session), pin, request, self.clock, self.now);
        result.map_err(|refused| {
            assert!(refused.sentence.contains(';'), "names the next step: {}", refused.sentence);
            refused.code
        })
    }

    fn contest(&self, pod: &str, port: u16) -> (Vec<u64>, Vec<u64>) {
        let contest = self.registry.contests().remove(&(pod_name(pod), port)).unwrap_or_default();
        (contest.filtered, contest.globals)
    }

    /// What others take from an intercept, and what it takes from others.
    fn clashes(&self, id: u64) -> (ConflictList, ConflictList) {
        let state = self.state(id);
        let each = |conflicts: Vec<redir_wire::Conflict>| {
            conflicts
                .into_iter()
                .map(|conflict| {
                    let other = self.registry.intercept(conflict.id.unwrap()).unwrap();
                    assert_eq!(conflict.developer, if other.pin == self.alice { "alice" } else { "bob" });
                    (other.id, conflict.takes)
                })
                .collect()
        };
        (each(state.conflicts), each(state.overlaps))
    }

    fn state(&self, id: u64) -> InterceptState {
        self.registry.state(self.registry.intercept(id).unwrap(), &self.registry.contests(), self.ports())
    }

    fn listing(&self, pin: &Pin) -> Listing {
        self.registry.listing(pin, self.ports())
    }

    fn ports(&self) -> PortFacts<'_> {
        PortFacts {
            arming: &self.arming,
            tls: &self.tls,
            flushes: &self.flushes,
            apps: &self.apps,
            misses: &self.misses,
        }
    }
}

type ConflictList = Vec<(u64, Takes)>;

/// bob may intercept `app = "web"` alone; `db-1` is not his to know of.
const PODS: &str = r#"
    [[pod]]
    name = "web-1"
    labels = { app = "web", n = "1" }
    netns = "/run/netns/web-1"
    ports = [8080]
    [[pod]]
    name = "web-2"
    labels = { app = "web", n = "2" }
    netns = "/run/netns/web-2"
    [[pod]]
    name = "db-1"
    labels = { app = "db" }
    netns = "/run/netns/db-1"
"#;

fn config(alice: &Pin, bob: &Pin, pods: &str) -> Arc<NodeConfig> {
    let text = format!(
        "[agent]\nlisten = \"127.0.0.1:7447\"\nkey = \"/etc/redir/agent.key\"\nadmin = \"127.0.0.1:7448\"\n{pods}\n\
         [[developer]]\nname = \"alice\"\nkey = \"{alice}\"\npods = [{{}}]\n\
         [[developer]]\nname = \"bob\"\nkey = \"{bob}\"\npods = [{{ app = \"web\" }}]\n"
    );
    Arc::new(NodeConfig::parse(&text, Path::new("agent.toml")).unwrap())
}

fn pod_name(name: &str) -> PodName {
    PodName::new(name).unwrap()
}

fn request(token: u8, pod: &str) -> InterceptRequest {
    InterceptRequest {
        earlier: redir_wire::EarlierConnections::Stay,
        token: Token([token; 16]),
        selector: Selector::Pod(pod.into()),
        port: 8080,
        filter: None,
        to: "127.0.0.1:3000".into(),
        probes: Probes::App,
        even_if_down: false,
        forwarded: false,
    }
}

fn filtered(token: u8, pod: &str, user: &str) -> InterceptRequest {
    wanting(request(token, pod), Mode::All, vec![is(Subject::Header("x-user".into()), Test::Exact(user.into()))])
}

fn wanting(request: InterceptRequest, mode: Mode, conditions: Vec<Condition>) -> InterceptRequest {
    InterceptRequest { filter: Some(Filter { mode, conditions, preflights: false }), ..request }
}

fn is(subject: Subject, test: Test) -> Condition {
    Condition { subject, test, negate: false }
}

fn labelled(token: u8, key: &str, value: &str) -> InterceptRequest {
    InterceptRequest { selector: Selector::Labels(BTreeMap::from([(key.into(), value.into())])), ..request(token, "x") }
}

#[test]
fn filtered_wins_over_global_and_the_oldest_among_equals() {
    let mut world = RegistryRig::new();
    let (alice, bob) = (world.alice, world.bob);
    let global = world.register(1, alice, request(1, "web-1")).unwrap();
    let second = world.register(2, bob, request(2, "web-1")).unwrap();
    let first = world.register(2, bob, filtered(3, "web-1", "bob")).unwrap();
    let same = world.register(1, alice, filtered(4, "web-1", "bob")).unwrap();
    let apart = world.register(1, alice, filtered(5, "web-1", "alice")).unwrap();
    assert_eq!(world.contest("web-1", 8080), (vec![first, same, apart], vec![global, second]));
    use Takes::{Everything, Shared};
    // alice's own go to one place.
    assert_eq!(world.clashes(global), (vec![(first, Shared)], vec![(second, Everything)]));
    assert_eq!(world.clashes(second), (vec![(global, Everything)], vec![]));
    assert_eq!(world.clashes(first), (vec![], vec![(same, Everything), (global, Shared)]));
    assert_eq!(world.clashes(same), (vec![(first, Everything)], vec![]));
    // Two exact values of one header are not the same requests.
    assert_eq!(world.clashes(apart), (vec![], vec![]));

    world.registry.end_session(SessionId(2), world.now);
    assert_eq!(world.contest("web-1", 8080), (vec![same, apart], vec![global]));
    assert_eq!(world.clashes(same), (vec![], vec![]), "it wins now");
}

/// For each way in which a younger filter can lie to an older one: what its developer loses.
#[test]
fn overlaps_are_told_to_both_with_the_winner() {
    let user = |test| is(Subject::Header("X-User".into()), test);
    let alice = || user(Test::Exact("alice".into()));
    let path = |test| is(Subject::Path, test);
    let api = || path(Test::Prefix("/api".into()));
    let get = || is(Subject::Method, Test::Exact("GET".into()));
    let cookie = |value: &str| is(Subject::Cookie("sid".into()), Test::Exact(value.into()));
    let not = |condition| Condition { negate: true, ..condition };
    let lost_everything = Some(Takes::Everything);
    let lost_shared = Some(Takes::Shared);
    for (older, younger, lost) in [
        ((Mode::All, vec![alice()]), (Mode::All, vec![alice()]), lost_everything),
        ((Mode::All, vec![alice()]), (Mode::All, vec![alice(), api()]), lost_everything),
        ((Mode::All, vec![alice(), api()]), (Mode::All, vec![alice()]), lost_shared),
        ((Mode::All, vec![user(Test::Present)]), (Mode::All, vec![alice()]), lost_everything),
        ((Mode::All, vec![user(Test::Prefix("al".into()))]), (Mode::All, vec![alice()]), lost_everything),
        ((Mode::All, vec![user(Test::Regex("alice|bob".into()))]), (Mode::All, vec![alice()]), lost_everything),
        ((Mode::All, vec![user(Test::Regex("bob|carol".into()))]), (Mode::All, vec![alice()]), None),
        ((Mode::All, vec![alice()]), (Mode::All, vec![user(Test::Regex("alice|bob".into()))]), lost_shared),
        ((Mode::Any, vec![alice(), api()]), (Mode::All, vec![alice(), get()]), lost_everything),
        ((Mode::All, vec![alice()]), (Mode::Any, vec![alice(), api()]), lost_shared),
        ((Mode::Any, vec![alice(), cookie("a")]), (Mode::Any, vec![cookie("a"), alice()]), lost_everything),
        ((Mode::All, vec![cookie("a")]), (Mode::All, vec![cookie("b")]), None),
        ((Mode::All, vec![alice()]), (Mode::All, vec![api()]), lost_shared),
        ((Mode::All, vec![get()]), (Mode::All, vec![not(get())]), None),
        (
            (Mode::All, vec![not(get())]),
            (Mode::All, vec![is(Subject::Method, Test::Exact("PUT".into()))]),
            lost_everything,
        ),
        ((Mode::All, vec![alice(), not(api())]), (Mode::All, vec![alice()]), lost_shared),
        ((Mode::All, vec![alice(), not(api())]), (Mode::All, vec![alice(), path(Test::Exact("/api/v1".into()))]), None),
    ] {
        let mut world = RegistryRig::new();
        let (alice, bob) = (world.alice, world.bob);
        let shown = format!("{older:?} / {younger:?}");
        let other_pod = world.register(1, alice, wanting(request(1, "web-2"), older.0, older.1.clone())).unwrap();
        let winner = world.register(1, alice, wanting(request(2, "web-1"), older.0, older.1)).unwrap();
        let loser = world.register(2, bob, wanting(request(3, "web-1"), younger.0, younger.1)).unwrap();
        let told = |of: u64| lost.map(|takes| (of, takes)).into_iter().collect::<Vec<_>>();
        assert_eq!(world.clashes(loser), (told(winner), vec![]), "{shown}");
        assert_eq!(world.clashes(winner), (vec![], told(loser)), "{shown}");
        assert_eq!(world.clashes(other_pod), (vec![], vec![]), "{shown}");
        // It is over for the other when either ends.
        let again = world.registry.intercept(loser).unwrap().grant.request.clone();
        world.registry.leave(&bob, &LeaveScope::Id(loser)).unwrap();
        assert_eq!(world.clashes(winner), (vec![], vec![]), "{shown}");
        let loser = world.register(2, bob, again).unwrap();
        assert_eq!(world.clashes(loser).0.len(), usize::from(lost.is_some()), "{shown}");
        world.registry.end_session(SessionId(1), world.now);
        assert_eq!(world.clashes(loser), (vec![], vec![]), "{shown}");
    }
}

#[test]
fn two_filters_of_one_developer_to_one_place_are_no_conflict() {
    let mut world = RegistryRig::new();
    let alice = world.alice;
    let api = || vec![is(Subject::Path, Test::Prefix("/api".into()))];
    let elsewhere = |request| InterceptRequest { to: "127.0.0.1:4000".into(), ..request };
    let first = world.register(1, alice, filtered(1, "web-1", "x")).unwrap();
    let same_place = world.register(2, alice, wanting(request(2, "web-1"), Mode::All, api())).unwrap();
    assert_eq!(world.clashes(first), (vec![], vec![]));
    assert_eq!(world.clashes(same_place), (vec![], vec![]));
    let another = world.register(3, alice, elsewhere(wanting(request(3, "web-1"), Mode::All, api()))).unwrap();
    assert_eq!(world.clashes(another).0, [(first, Takes::Shared), (same_place, Takes::Everything)]);
    let useless = world.register(4, alice, filtered(4, "web-1", "x")).unwrap();
    assert_eq!(world.clashes(useless).0[0], (first, Takes::Everything), "it gets nothing");
}

#[test]
fn a_redial_is_compared_with_younger_ones_too() {
    let mut world = RegistryRig::new();
    let (alice, bob) = (world.alice, world.bob);
    let older = world.register(1, alice, filtered(1, "web-1", "x")).unwrap();
    world.registry.end_session(SessionId(1), world.now);
    let younger = world.register(2, bob, filtered(2, "web-1", "x")).unwrap();
    assert_eq!(world.clashes(younger), (vec![], vec![]));
    assert_eq!(world.register(3, alice, filtered(1, "web-1", "x")), Ok(older));
    assert_eq!(world.clashes(younger), (vec![(older, Takes::Everything)], vec![]));
    assert_eq!(world.clashes(older), (vec![], vec![(younger, Takes::Everything)]));
    // The same token with other conditions is another intercept in the same place.
    assert_eq!(world.register(3, alice, filtered(1, "web-1", "y")), Ok(older));
    assert_eq!(world.clashes(younger), (vec![], vec![]));
}

#[test]
fn a_redial_keeps_its_place_for_a_while_and_only_with_its_own_key() {
    let mut world = RegistryRig::new();
    let (alice, bob) = (world.alice, world.bob);
    let first = world.register(1, alice, request(1, "web-1")).unwrap();
    let second = world.register(2, bob, request(2, "web-1")).unwrap();
    let since = world.registry.intercept(first).unwrap().since;
    world.registry.end_session(SessionId(1), world.now);
    assert_eq!(world.contest("web-1", 8080).1, [second]);
    // bob cannot take alice's place with her token.
    let stolen = world.register(2, bob, request(1, "web-1")).unwrap();
    assert!(stolen > second);
    assert_eq!(world.register(3, alice, request(1, "web-1")), Ok(first));
    assert_eq!(world.contest("web-1", 8080).1, [first, second, stolen]);
    assert_eq!(world.registry.intercept(first).unwrap().since, since);

    world.registry.end_session(SessionId(3), world.now);
    world.now += SENIORITY;
    let late = world.register(4, alice, request(1, "web-1")).unwrap();
    assert_eq!(world.contest("web-1", 8080).1, [second, stolen, late]);
}

#[test]
fn a_redial_before_the_old_tunnel_is_missed_takes_its_place() {
    let mut world = RegistryRig::new();
    let alice = world.alice;
    let first = world.register(1, alice, request(1, "web-1")).unwrap();
    assert_eq!(world.register(2, alice, request(1, "web-1")), Ok(first));
    assert_eq!(world.registry.intercept(first).unwrap().session, SessionId(2));
    world.registry.end_session(SessionId(1), world.now);
    assert_eq!(world.contest("web-1", 8080).1, [first], "the old tunnel's end takes nothing with it");
}

#[test]
fn pods_that_a_key_may_not_see_are_as_good_as_none() {
    let mut world = RegistryRig::new();
    let (alice, bob) = (world.alice, world.bob);
    assert_eq!(world.register(2, bob, request(1, "db-1")), Err(RefusedCode::NoSuchPod));
    assert_eq!(world.register(2, bob, request(1, "nowhere")), Err(RefusedCode::NoSuchPod));
    let sentence = |world: &mut RegistryRig, pod: &str| {
        let now = (world.clock, world.now);
        world
            .registry
            .register(SessionId(2), bob, request(1, pod), now.0, now.1)
            .unwrap_err()
            .sentence
            .replace(pod, "POD")
    };
    assert_eq!(sentence(&mut world, "db-1"), sentence(&mut world, "nowhere"), "they cannot be told apart");
    assert_eq!(world.register(2, bob, labelled(1, "app", "db")), Err(RefusedCode::NoSuchPod));

    let all = world.register(1, alice, request(2, "db-1")).unwrap();
    let listing = world.listing(&bob);
    assert_eq!(listing.pods.iter().map(|pod| pod.name.as_str()).collect::<Vec<_>>(), ["web-1", "web-2"]);
    assert_eq!(listing.intercepts, []);
    let listing = world.listing(&alice);
    assert_eq!(listing.pods.len(), 3);
    assert_eq!(listing.intercepts.iter().map(|entry| entry.id).collect::<Vec<_>>(), [all]);
}

#[test]
fn others_see_what_is_filtered_but_no_value_and_no_address() {
    let mut world = RegistryRig::new();
    let (alice, bob) = (world.alice, world.bob);
    world.register(1, alice, filtered(1, "web-1", "top-secret")).unwrap();
    let seen = world.listing(&bob).intercepts.remove(0);
    assert_eq!((seen.owner, seen.developer.as_str(), seen.to.as_str()), (Owner::Other, "alice", ""));
    assert_eq!(seen.filter, "header x-user (exact)");
    let own = world.listing(&alice).intercepts.remove(0);
    assert_eq!((own.owner, own.to.as_str()), (Owner::You, "127.0.0.1:3000"));
    let text = format!("{:?} {:?}", world.registry, own);
    assert!(!text.contains("top-secret"), "{text}");
}

#[test]
fn ports_and_filters_are_checked() {
    let mut world = RegistryRig::new();
    let alice = world.alice;
    let refused = world.register(1, alice, InterceptRequest { port: 9090, ..request(1, "web-1") });
    assert_eq!(refused, Err(RefusedCode::PortNotAllowed));
    // web-2 allows it, web-1 does not: the intercept says so pod by pod.
    let id = world.register(1, alice, InterceptRequest { port: 9090, ..labelled(1, "app", "web") }).unwrap();
    let state = world.state(id);
    let states: Vec<_> = state.pods.iter().map(|pod| (pod.pod.as_str(), pod.state)).collect();
    assert_eq!(states, [("web-1", Liveness::Refused), ("web-2", Liveness::Pending)]);
    assert!(state.pods[0].reason.contains("8080"), "{}", state.pods[0].reason);

    let bad = wanting(request(2, "web-1"), Mode::All, vec![is(Subject::Path, Test::Regex("(".into()))]);
    let refused = world.registry.register(SessionId(1), alice, bad, world.clock, world.now);
    assert_eq!(refused.unwrap_err().code, RefusedCode::BadFilter);
}

fn numbered(request: InterceptRequest, number: usize) -> InterceptRequest {
    let mut token = request.token;
    token.0[..8].copy_from_slice(&(number as u64).to_be_bytes());
    InterceptRequest { token, ..request }
}

#[test]
fn one_key_has_a_bounded_number_of_intercepts_over_all_tunnels() {
    let mut world = RegistryRig::new();
    let (alice, bob) = (world.alice, world.bob);
    for number in 0..INTERCEPTS_OF_A_KEY {
        world.register(number as u64, alice, numbered(request(0, "web-1"), number)).unwrap();
    }
    assert_eq!(world.register(999, alice, request(255, "web-1")), Err(RefusedCode::TooMany));
    // The same one again takes its own place.
    world.register(999, alice, numbered(request(0, "web-1"), 3)).unwrap();
    world.register(1000, bob, request(255, "web-1")).unwrap();
    world.registry.leave(&alice, &LeaveScope::Token(numbered(request(0, "web-1"), 7).token)).unwrap();
    world.register(999, alice, request(255, "web-1")).unwrap();
}

#[test]
fn the_filters_of_all_keys_take_a_bounded_memory() {
    let mut world = RegistryRig::new();
    let (alice, bob) = (world.alice, world.bob);
    let large = |number| {
        let condition = is(Subject::Header("x-user".into()), Test::Regex(format!("{number:03}[^a]{{2000}}")));
        numbered(wanting(request(0, "web-1"), Mode::All, vec![condition]), number)
    };
    let size = large(0).filter.unwrap().compile().unwrap().size();
    let fit = crate::intercept_filter::MAX_FILTERS / size;
    assert!((INTERCEPTS_OF_A_KEY..2 * INTERCEPTS_OF_A_KEY).contains(&fit), "{fit} of {size} bytes");
    for number in 0..fit {
        let pin = if number < INTERCEPTS_OF_A_KEY { alice } else { bob };
        world.register(1, pin, large(number)).unwrap();
    }
    assert_eq!(world.register(2, bob, large(fit)), Err(RefusedCode::TooMany));
    world.register(2, bob, request(254, "web-1")).unwrap();
    // In the place of another there is room.
    world.register(2, bob, large(fit - 1)).unwrap();
}

#[test]
fn the_regexes_of_all_keys_are_bounded_in_number() {
    let mut world = RegistryRig::new();
    let (alice, bob) = (world.alice, world.bob);
    let with = |number: usize, count: usize| {
        let name = |n| Subject::Header(format!("x-{n}").into());
        let conditions = (0..count).map(|n| is(name(n), Test::Regex(format!("{number}[ab]")))).collect();
        numbered(wanting(request(0, "web-1"), Mode::All, conditions), number)
    };
    for number in 0..crate::intercept_filter::MAX_REGEXES / 32 {
        world.register(1, alice, with(number, 32)).unwrap();
    }
    assert_eq!(world.register(2, bob, with(99, 1)), Err(RefusedCode::TooMany));
    world.register(2, bob, request(254, "web-1")).unwrap();
    let exact = wanting(request(0, "web-1"), Mode::All, vec![is(Subject::Path, Test::Exact("/a".into()))]);
    world.register(2, bob, numbered(exact, 98)).unwrap();
}

#[test]
fn a_new_configuration_takes_pods_away_and_brings_some() {
    let mut world = RegistryRig::new();
    let (alice, bob) = (world.alice, world.bob);
    let id = world.register(1, alice, labelled(1, "app", "web")).unwrap();
    let without = PODS.replace("name = \"web-2\"", "name = \"web-3\"").replace("netns/web-2", "netns/web-3");
    world.registry.configure(config(&alice, &bob, &without));
    assert_eq!(world.contest("web-2", 8080), (vec![], vec![]));
    assert_eq!(world.contest("web-3", 8080), (vec![], vec![id]));
    let state = world.state(id);
    let states: Vec<_> = state.pods.iter().map(|pod| (pod.pod.as_str(), pod.state)).collect();
    assert_eq!(states, [("web-1", Liveness::Pending), ("web-2", Liveness::Lost), ("web-3", Liveness::Pending)]);
}

#[test]
fn leaving_is_for_ones_own_alone() {
    let mut world = RegistryRig::new();
    let (alice, bob) = (world.alice, world.bob);
    let one = world.register(1, alice, request(1, "web-1")).unwrap();
    let two = world.register(2, alice, filtered(2, "web-2", "a")).unwrap();
    let three = world.register(2, alice, labelled(3, "app", "web")).unwrap();
    let theirs = world.register(3, bob, request(4, "web-1")).unwrap();
    let leave = |world: &mut RegistryRig, pin: Pin, which: LeaveScope| {
        world.registry.leave(&pin, &which).map(|all| all.into_iter().map(|leaver| leaver.id).collect::<Vec<_>>())
    };
    assert!(leave(&mut world, bob, LeaveScope::Id(one)).is_err());
    assert!(leave(&mut world, bob, LeaveScope::Token(Token([1; 16]))).is_err());
    let web_2 = Selector::Pod("web-2".into());
    assert_eq!(leave(&mut world, alice, LeaveScope::Selector(web_2, Some(8080))), Ok(vec![two]));
    let web = Selector::Labels(BTreeMap::from([("app".into(), "web".into())]));
    assert_eq!(leave(&mut world, alice, LeaveScope::Selector(web, None)), Ok(vec![one, three]), "all that are within");
    assert_eq!(leave(&mut world, alice, LeaveScope::All), Ok(vec![]));
    assert_eq!(world.contest("web-1", 8080).1, [theirs]);
}
