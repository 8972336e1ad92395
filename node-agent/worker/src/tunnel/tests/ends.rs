//! Tunnels that are lost, replaced, left or removed, and the intercepts that end with them.

use super::*;
use crate::proxy::DeveloperStream;

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_tunnel_steers_no_more_and_its_redial_has_its_old_place() {
    let world = TunnelRig::new();
    let mut alice = world.dial(&world.alice).await;
    let first = alice.intercept(request(1)).await;
    let mut bob = world.dial(&world.bob).await;
    let loser = bob.intercept(request(2)).await;
    assert_eq!(loser.conflicts[0].takes, Takes::Everything);
    assert_eq!((loser.conflicts[0].developer.as_str(), loser.conflicts[0].since), ("alice", first.since));
    let intercept = world.plan().unwrap().global.clone().unwrap();

    alice.dialled.tunnel.close(redir_wire::CloseCode::Done).await;
    bob.state(|state| state.conflicts.is_empty()).await;
    within(intercept.ended()).await;
    assert!(!intercept.alive());
    let (client, destination) = ("192.0.2.1:4000".parse().unwrap(), "10.0.0.1:8080".parse().unwrap());
    assert_eq!(within(DeveloperStream::open(&intercept, client, destination, None)).await.err(), Some(OpenError::Gone));
    assert_eq!(world.plan().unwrap().global.as_ref().unwrap().id, loser.id);

    let mut alice = world.dial(&world.alice).await;
    let again = alice.intercept(request(1)).await;
    assert_eq!((again.id, again.since, again.conflicts.len()), (first.id, first.since, 0));
    let told = bob.state(|state| !state.conflicts.is_empty()).await;
    assert_eq!(told.conflicts[0].developer, "alice");
    assert!(world.plan().unwrap().global.as_ref().unwrap().alive(), "the new tunnel carries it");

    drop((alice, bob));
    world.plans_become(|plan| plan.is_none()).await;
    world.armed_becomes(&[]).await;
}

/// Intercepts, and then sends no packet any more.
async fn vanished_laptop(world: &TunnelRig) -> Dialled {
    let (address, pin, alice) = (world.address, world.pin, world.alice.clone());
    let laptop = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let dialled = runtime.block_on(async {
            let mut dialled = dial(&[address], &alice, pin, "redir test", "").await.unwrap();
            dialled.control.ask(&ToAgent::Intercept(request(1))).unwrap();
            dialled.control.next().await.unwrap();
            dialled
        });
        drop(runtime);
        dialled
    });
    tokio::task::spawn_blocking(|| laptop.join().unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redir_that_leaves_hears_of_it_when_nothing_is_under_way() {
    let world = TunnelRig::new();
    let mut alice = world.dial(&world.alice).await;
    alice.intercept(filtered(1)).await;
    let under_way = world.plan().unwrap().filtered[0].clone();
    let (client, destination) = ("192.0.2.1:4000".parse().unwrap(), "10.0.0.1:8080".parse().unwrap());
    let mut leg = within(DeveloperStream::open(&under_way, client, destination, None)).await.unwrap();
    let leave = ToAgent::Leave(LeaveScope::Token(Token([1; 16])));
    let first = alice.dialled.control.ask(&leave).unwrap();
    // Asked again, as by one who hears from elsewhere that it has ended: the same answer.
    let second = alice.dialled.control.ask(&leave).unwrap();
    // What is asked later is answered before.
    assert!(matches!(alice.ask(ToAgent::List).await, ToDeveloper::Listing(_)));
    assert!(alice.heard.iter().all(|heard| matches!(heard, ToDeveloper::Intercept(_))), "{:?}", alice.heard);
    assert!(world.plan().is_none(), "new requests are the app's");
    within(std::future::poll_fn(|cx| leg.poll_ending(cx))).await;
    drop(under_way);
    let mut answered = Vec::new();
    while answered.len() < 2 {
        let heard = within(alice.dialled.control.next()).await.unwrap().unwrap();
        if let ToDeveloper::Left(left) = heard.message {
            assert_eq!(left.intercepts[0].what, "web-1:8080");
            answered.push(heard.answers);
        }
    }
    answered.sort_unstable();
    assert_eq!(answered, [first, second]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redir_whose_intercept_was_left_elsewhere_hears_of_it_when_nothing_is_under_way() {
    let world = TunnelRig::new();
    let (mut alice, mut other) = (world.dial(&world.alice).await, world.dial(&world.alice).await);
    alice.intercept(filtered(1)).await;
    let under_way = world.plan().unwrap().filtered[0].clone();
    // Whoever asked hears at once that new requests go to the app.
    assert!(matches!(other.ask(ToAgent::Leave(LeaveScope::All)).await, ToDeveloper::Left(_)));
    assert!(world.plan().is_none());
    assert!(matches!(alice.ask(ToAgent::List).await, ToDeveloper::Listing(_)));
    assert!(alice.heard.iter().all(|heard| matches!(heard, ToDeveloper::Intercept(_))), "{:?}", alice.heard);
    drop(under_way);
    alice.hears(|message| matches!(message, ToDeveloper::Ended(_)).then_some(())).await;
}

/// The old tunnel does not know yet that it is dead, and would swallow what is sent.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_matched_after_a_redial_goes_through_the_new_tunnel() {
    let world = TunnelRig::new();
    let old = vanished_laptop(&world).await;
    let mut awake = world.dial(&world.alice).await;
    let id = awake.intercept(request(1)).await.id;
    let intercept = world.plan().unwrap().global.clone().unwrap();
    let (client, destination) = ("192.0.2.1:4000".parse().unwrap(), "10.0.0.1:8080".parse().unwrap());
    let leg = within(DeveloperStream::open(&intercept, client, destination, None)).await.unwrap();
    let stream = within(within(awake.dialled.tunnel.accept()).await.unwrap().header()).await.unwrap();
    assert_eq!((stream.header.intercept, stream.header.client), (id, client));
    drop((leg, old));
}

/// A laptop that woke up dials again before its old tunnel is noticed to be dead.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_tunnel_that_a_redial_replaced_is_not_waited_out() {
    let world = TunnelRig::new();
    let dialled = vanished_laptop(&world).await;
    let old = world.plan().unwrap().global.clone().unwrap();
    let began = Instant::now();
    let mut awake = world.dial(&world.alice).await;
    assert_eq!(awake.intercept(request(1)).await.id, old.id);
    assert!(world.plan().unwrap().global.as_ref().unwrap().alive());
    within(old.ended()).await;
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    assert!(matches!(awake.ask(ToAgent::Ping(1)).await, ToDeveloper::Pong(1)));
    drop(dialled);
}

/// No packet says so: the developer's machine is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_vanished_laptop_is_noticed() {
    let world = TunnelRig::new();
    let dialled = vanished_laptop(&world).await;
    assert!(world.plan().is_some());
    let began = Instant::now();
    world.plans_become(|plan| plan.is_none()).await;
    assert!(began.elapsed() <= redir_tunnel::IDLE, "{:?}", began.elapsed());
    drop(dialled);
}

#[tokio::test(flavor = "multi_thread")]
async fn leaving_works_from_another_tunnel_of_the_same_key() {
    let world = TunnelRig::new();
    let mut alice = world.dial(&world.alice).await;
    let first = alice.intercept(request(1)).await;
    let mut bob = world.dial(&world.bob).await;
    let refused = bob.ask(ToAgent::Leave(LeaveScope::Id(first.id))).await;
    assert!(matches!(refused, ToDeveloper::Refused(Refused { code: RefusedCode::NotFound, .. })));
    let mut second = world.dial(&world.alice).await;
    let ToDeveloper::Listing(listing) = second.ask(ToAgent::List).await else { panic!() };
    assert_eq!((listing.intercepts[0].id, listing.intercepts[0].owner), (first.id, Owner::You));
    let selector = Selector::Pod("web-1".into());
    let ToDeveloper::Left(left) = second.ask(ToAgent::Leave(LeaveScope::Selector(selector, None))).await else {
        panic!()
    };
    assert_eq!(left.intercepts[0].what, "web-1:8080");
    let ended = alice
        .hears(|message| match message {
            ToDeveloper::Ended(ended) => Some(ended.clone()),
            _ => None,
        })
        .await;
    assert_eq!((ended.id, ended.token), (first.id, Token([1; 16])));
    world.armed_becomes(&[]).await;
    assert!(world.plan().is_none());
    assert!(matches!(alice.ask(ToAgent::Ping(3)).await, ToDeveloper::Pong(3)), "the tunnel goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_removed_loses_its_tunnel_at_once() {
    let world = TunnelRig::new();
    let mut alice = world.dial(&world.alice).await;
    alice.intercept(request(1)).await;
    let mut bob = world.dial(&world.bob).await;
    world.config.send_replace(configuration(&[("bob", &world.bob)]));
    world.plans_become(|plan| plan.is_none()).await;
    let bye = alice
        .hears(|message| match message {
            ToDeveloper::Bye(bye) => Some(bye.clone()),
            _ => None,
        })
        .await;
    assert_eq!(bye.code, redir_wire::CloseCode::KeyRemoved);
    let lost = within(alice.dialled.tunnel.lost()).await;
    assert!(matches!(lost, Lost::Closed(redir_wire::CloseCode::KeyRemoved, _)), "{lost:?}");
    assert!(matches!(bob.ask(ToAgent::Ping(1)).await, ToDeveloper::Pong(1)));
    let error = within(dial(&[world.address], &world.alice, world.pin, "redir test", "")).await.unwrap_err();
    assert!(matches!(error, redir_tunnel::DialError::UnknownKey { .. }), "{error}");
    within(async {
        while world.tunnels.counters().handshakes_refused.value() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
