//! Clients that do not read what a developer sends them.

use std::time::Duration;

use redir_tunnel::STALLED_STREAMS;
use tokio::{task::JoinSet, time::timeout};

use super::{
    http2,
    rig::{Behaviour, Developer, PATIENCE, Rig, request},
};
use crate::memory::{
    Purpose,
    tests::{alone, exhaust},
};

/// More of them than the tunnel's window has room for: the slowest are reset, and everybody else is served.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_do_not_read_do_not_stall_the_tunnel() {
    const TOO_MANY: usize = 16;
    let rig = Rig::new().await;
    let alice = Developer::new(1, "blue", Behaviour::Serve).await;
    rig.plan(&[("alice", &alice)], None);
    let mut reader = rig.client().await;
    assert_eq!(reader.ask("/", Some("alice")).await.text(), "blue");
    let (mut sockets, mut served) = (Vec::new(), JoinSet::new());
    for _ in 0..STALLED_STREAMS + TOO_MANY {
        let mut client = rig.client().await;
        client.send(request("/pour", Some("alice"))).await;
        sockets.push(client.socket);
        served.spawn(client.served);
    }
    // Nothing ends before its time, and on a busy machine later: so many connections share its CPUs.
    timeout(15 * PATIENCE, async {
        for _ in 0..TOO_MANY {
            served.join_next().await.unwrap().unwrap().unwrap();
        }
        while alice.intercept.tunnel.stalled() != STALLED_STREAMS {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the slowest to be reset");
    assert!(served.try_join_next().is_none(), "the others are within the budget");
    assert_eq!(reader.ask("/", Some("alice")).await.text(), "blue");
    let mut newcomer = rig.client().await;
    assert_eq!(newcomer.ask("/", Some("alice")).await.text(), "blue");
    drop(sockets);
}

/// The same with HTTP/2, where a leg is not read while memory is scarce.
#[test]
fn clients_that_do_not_read_http2_do_not_stall_the_tunnel() {
    const TOO_MANY: usize = 8;
    if !alone("proxy::tests::slow::clients_that_do_not_read_http2_do_not_stall_the_tunnel") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (rig, _app, _blue, alice) = http2::world().await;
        let all = exhaust(Purpose::SlowReader);
        let mut clients = Vec::new();
        for _ in 0..STALLED_STREAMS + TOO_MANY {
            let mut client = http2::Client::new(&rig).await;
            let asked = client.send(http2::Client::request("/pour", Some("alice")), true).await;
            clients.push((client, asked));
        }
        let tunnel = &alice.intercept.tunnel;
        timeout(PATIENCE, async {
            while tunnel.streams().0 != STALLED_STREAMS as u64 || tunnel.stalled() != STALLED_STREAMS {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("{:?} streams, {} stalled", tunnel.streams(), tunnel.stalled()));
        assert_eq!(tunnel.streams().1, (STALLED_STREAMS + TOO_MANY) as u64, "each had one");
        drop((clients, all));
    });
}
