//! What a leg leaves behind: segments of the app that come when the agent's socket is gone, and what the kernel answers.
//! Nothing of it may leave the pod.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use aya::maps::HashMap;
use redir_abi::{Reason, map};

use super::super::PodDatapath;
use super::intercepted::*;
use super::rig::*;

/// Counts at the client what comes to it, or goes from it, with a port that only legs have.
struct Leaks<'a> {
    client: &'a Net,
}

impl<'a> Leaks<'a> {
    fn watch(client: &'a Net, ports: &str) -> Self {
        client.sh(&format!(
            "nft 'add table netdev w; add chain netdev w in {{ type filter hook ingress device eth0 priority 0; }};
             add rule netdev w in tcp sport {{ {ports} }} counter; add rule netdev w in tcp dport {{ {ports} }} counter'"
        ));
        Self { client }
    }

    #[track_caller]
    fn none(&self) {
        let rules = self.client.sh("nft list table netdev w");
        assert_eq!(rules.matches("packets 0 bytes 0").count(), 2, "something reached the client: {rules}");
    }
}

/// Lets the agent's socket go with a reset that the app never hears of.
fn vanish(pod: &Net, leg: TcpStream, port: u16) {
    let lost = format!("inet lost{port}");
    pod.sh(&format!(
        "nft 'add table {lost}; add chain {lost} in {{ type filter hook input priority 0; }}; add rule {lost} in tcp sport {port} tcp flags & rst == rst drop'"
    ));
    reset_on_close(&leg);
    let from = leg.local_addr().unwrap();
    drop(leg);
    let start = Instant::now();
    while !pod.sh(&format!("ss -Htan 'src {from}'")).is_empty() {
        assert!(start.elapsed() < PATIENCE, "the agent's socket is still there");
    }
    pod.sh(&format!("nft delete table {lost}"));
}

#[test]
fn what_comes_late_for_a_leg_and_the_kernels_reset_stay_in_the_pod() {
    for attach in BOTH {
        let pod = Intercepted::new(attach);
        let leaks = Leaks::watch(&pod.pair.client, "605, 20605");
        for (address, client) in FAMILIES {
            for port in [605, 20_605] {
                let (up, mut app) = pod.reflected(port, address, client);
                vanish(&pod.pair.pod, up, port);
                let since = Since::now(&pod.datapath);
                app.write_all(b"late").unwrap();
                assert_eq!(app.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
                assert_eq!(since.count(&pod.datapath, Reason::ReflectReplyLate), 1, "{:?}", since.moved(&pod.datapath));
                assert_eq!(since.count(&pod.datapath, Reason::ReflectOutLate), 1, "{:?}", since.moved(&pod.datapath));
                leaks.none();
            }
        }
    }
}

/// Waits until the app's end of a leg is closed for good.
fn until_gone(pod: &Net, peer: SocketAddr) {
    let start = Instant::now();
    while !pod.sh(&format!("ss -Htan 'dst {peer}'")).is_empty() {
        assert!(start.elapsed() < PATIENCE, "the app's end is still there");
    }
}

#[test]
fn a_client_that_takes_a_legs_port_gets_its_own_answers() {
    for attach in BOTH {
        let mut pod = Intercepted::new(attach);
        for (address, client) in FAMILIES {
            let from = SocketAddr::new(client, 607);
            // Steered or not, the answer is the client's.
            for steered in [true, false] {
                let (up, app) = pod.reflected(607, address, client);
                reset_on_close(&up);
                drop((up, app));
                until_gone(&pod.pair.pod, from);
                pod.datapath.bypass(client, if steered { Duration::ZERO } else { PATIENCE * 10 }).unwrap();
                let stream = pod.connect(Some(from), address).unwrap();
                let (accepted, peer) = accept(if steered { pod.listeners.of(address) } else { pod.app.of(address) });
                assert_eq!(peer, from);
                exchange(&stream, &accepted);
                reset_on_close(&stream);
                drop((stream, accepted));
                until_gone(&pod.pair.pod, from);
            }
        }
    }
}

fn exchange(a: &TcpStream, b: &TcpStream) {
    carries(a, b, &bytes());
    carries(b, a, &bytes());
}

#[test]
fn a_process_of_the_pod_with_a_legs_ports_keeps_its_own_connection() {
    for attach in BOTH {
        let pod = Intercepted::new(attach);
        for (address, client) in FAMILIES {
            let (up, app) = pod.reflected(608, address, client);
            reset_on_close(&up);
            drop((up, app));
            until_gone(&pod.pair.pod, SocketAddr::new(client, 608));
            let there = pod.pair.client.run(|| plain_listener(SocketAddr::new(client, APP_PORT)));
            let to = SocketAddr::new(client, APP_PORT);
            let own = connect(&pod.pair.pod, Some(SocketAddr::new(address, 608)), to).unwrap();
            let (accepted, peer) = accept(&there);
            assert_eq!(peer, SocketAddr::new(address, 608));
            exchange(&own, &accepted);
        }
    }
}

#[test]
fn a_leg_that_lives_is_known_when_its_tuple_is_not_any_more() {
    for attach in BOTH {
        let mut pod = Intercepted::new(attach);
        for (address, client) in FAMILIES {
            let (up, app) = pod.reflected(609, address, client);
            forget_legs(&mut pod.datapath);
            exchange(&up, &app);
            // Its end is known again.
            vanish(&pod.pair.pod, up, 609);
            (&app).write_all(b"late").unwrap();
            assert_eq!((&app).read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        }
    }
}

/// As if many other legs had displaced them.
fn forget_legs(datapath: &mut PodDatapath) {
    let mut legs: HashMap<_, [u8; 36], u64> = datapath.ebpf.map_mut(map::LEGS).unwrap().try_into().unwrap();
    let known: Vec<_> = legs.keys().map(Result::unwrap).collect();
    assert!(!known.is_empty());
    known.iter().for_each(|leg| legs.remove(leg).unwrap());
}
