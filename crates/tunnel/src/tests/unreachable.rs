//! What the agent hears of a developer's process that was killed.

use std::net::{SocketAddr, UdpSocket};

use redir_wire::ToDeveloper;

use super::{TestAgent, greet, within};
use crate::{Identity, dial};

/// Dials, and is killed: the socket is closed, and nothing was said.
async fn killed(address: SocketAddr, agent: &TestAgent, identity: &Identity) -> quinn::Connection {
    let (identity, pin) = (identity.clone(), agent.pin);
    let developer = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let dialled = runtime.block_on(dial(&[address], &identity, pin, "redir test", "")).unwrap();
        // Without their runtime its tasks say nothing any more.
        drop(runtime);
        drop(dialled);
    });
    let (connection, _, mut control) = within(async { greet(agent.endpoint.accept().await.unwrap()).await }).await;
    tokio::task::spawn_blocking(|| developer.join().unwrap()).await.unwrap();
    let watch = agent.endpoint.unreachable_hints().watch(connection.remote_address());
    control.say(0, &ToDeveloper::Pong(0)).unwrap();
    control.flush().await.unwrap();
    within(watch.hinted()).await;
    connection
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_developer_is_hinted_at_and_others_go_on() {
    let alice = Identity::generate().unwrap();
    // IPv4, IPv6, and IPv4 through a socket of both.
    for (bound, host) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1"), ("[::]:0", "127.0.0.1"), ("[::]:0", "::1")]
    {
        let identity = Identity::generate().unwrap();
        let agent = TestAgent::start_on(UdpSocket::bind(bound).unwrap(), &identity, &[&alice]);
        let address = SocketAddr::new(host.parse().unwrap(), agent.address.port());
        let reached = TestAgent { address, ..agent };
        let (living, mut control, mut dialled) = within(reached.pair(&alice)).await;
        let watch = reached.endpoint.unreachable_hints().watch(living.remote_address());
        let dead = killed(address, &reached, &alice).await;
        assert!(dead.close_reason().is_none(), "a hint alone ends nothing");
        // What the kernel says of the one costs the other no packet.
        for number in 1..200 {
            control.say(0, &ToDeveloper::Pong(number)).unwrap();
            control.flush().await.unwrap();
            let heard = within(dialled.control.next()).await.unwrap().unwrap();
            assert_eq!(heard.message, ToDeveloper::Pong(number));
        }
        assert_eq!(living.stats().path.lost_packets, 0, "{bound} {host}");
        assert!(tokio::time::timeout(std::time::Duration::ZERO, watch.hinted()).await.is_err());
    }
}
