//! Clients that do not read what a developer sends them.

use std::time::Duration;

use redir_tunnel::STALLED_STREAMS;
use tokio::{task::JoinSet, time::timeout};

use super::rig::{Behaviour, Developer, PATIENCE, Rig, request};

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
