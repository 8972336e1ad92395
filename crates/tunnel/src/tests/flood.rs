//! Handshakes that nobody goes on with, by the real packets of a client that answers where it must.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use redir_rig::quic::half_handshake;
use tokio::runtime::Handle;

use super::{TestAgent, dial_test, greet_finished, within};
use crate::handshakes::MOST;
use crate::{AgentEndpoint, Identity};

/// Serves handshakes for ever, and greets whoever has completed one.
async fn serve(endpoint: &AgentEndpoint) {
    let mut sessions = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            handshake = endpoint.accept() => {
                let handshake = handshake.unwrap();
                sessions.spawn(async move {
                    match handshake.finish().await {
                        Ok(finished) => Some(greet_finished(finished).await),
                        Err(_) => None,
                    }
                });
            }
            Some(session) = sessions.join_next() => {
                // Kept alive.
                let session = session.unwrap();
                sessions.spawn(async move {
                    let _session = session?;
                    std::future::pending().await
                });
            }
        }
    }
}

/// A developer gets in at once while half handshakes come from all of `sources`, one after the other, without end.
async fn gets_in_beside(agent: TestAgent, sources: impl Iterator<Item = IpAddr> + Clone + Send, alice: Identity) {
    let (address, stop) = (agent.address, AtomicBool::new(false));
    let mut slowest = Duration::ZERO;
    // All places are taken first.
    let (filled, full) = tokio::sync::oneshot::channel();
    let flood = || {
        sources.clone().cycle().take(2 * MOST).try_for_each(|source| half_handshake(address, source)).unwrap();
        filled.send(()).unwrap();
        let endless = sources.cycle().take_while(|_| !stop.load(Ordering::Relaxed));
        endless.for_each(|source| half_handshake(address, source).unwrap());
    };
    std::thread::scope(|scope| {
        let flood = scope.spawn(flood);
        let dials = async {
            full.await.unwrap();
            for _ in 0..5 {
                let began = Instant::now();
                dial_test(&agent, &alice).await.unwrap();
                slowest = slowest.max(began.elapsed());
            }
        };
        tokio::task::block_in_place(|| {
            Handle::current().block_on(async {
                tokio::select! {
                    () = serve(&agent.endpoint) => unreachable!("it has no end"),
                    () = dials => {}
                }
            });
        });
        stop.store(true, Ordering::Relaxed);
        flood.join().unwrap();
    });
    // Half of what a handshake may take: one lost packet, or a busy machine.
    assert!(slowest < crate::HANDSHAKE / 2, "{slowest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn half_handshakes_from_one_address_shut_nobody_out() {
    let alice = Identity::generate().unwrap();
    let agent = TestAgent::start(&[&alice]);
    gets_in_beside(agent, std::iter::repeat_n(IpAddr::from([127, 0, 0, 1]), MOST), alice).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_handshakes_from_many_addresses_shut_nobody_out() {
    let alice = Identity::generate().unwrap();
    let agent = TestAgent::start(&[&alice]);
    let sources = (2..=254).flat_map(|last| [10, 20].map(|third| IpAddr::from([127, 0, third, last])));
    gets_in_beside(agent, sources, alice).await;
}

/// Whatever its ClientHello still needs, the agent does not wait for it as long as for the rest.
#[tokio::test]
async fn a_half_hello_has_a_short_deadline() {
    let agent = TestAgent::start(&[]);
    let address = agent.address;
    let half = std::thread::spawn(move || half_handshake(address, IpAddr::from([127, 0, 0, 1])));
    let handshake = within(agent.endpoint.accept()).await.unwrap();
    let began = Instant::now();
    handshake.finish().await.unwrap_err();
    let took = began.elapsed();
    assert!(took < crate::HANDSHAKE - Duration::from_secs(1), "{took:?}");
    half.join().unwrap().unwrap();
}
