//! What a leg leaves behind: segments of the app that come when the agent's socket is gone, and what the kernel answers.
//! Nothing of it may leave the pod.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use aya::maps::HashMap;
use redir_abi::{MARK, Reason, map};
use socket2::{Domain, Socket, Type};

use super::{
    super::{AttachMode, PodDatapath},
    intercepted::*,
    rig::*,
    wire::join,
};

/// Counts at the client what comes to it, or goes from it, with a port that only legs have.
struct LeakCounter<'a> {
    client: &'a TestNetns,
}

impl<'a> LeakCounter<'a> {
    fn watch(client: &'a TestNetns, ports: &str) -> Self {
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
fn vanish(pod: &TestNetns, leg: TcpStream, port: u16) {
    let lost = format!("inet lost{port}");
    pod.sh(&format!(
        "nft 'add table {lost}; add chain {lost} in {{ type filter hook input priority 0; }}; add rule {lost} in tcp sport {port} tcp flags & rst == rst drop'"
    ));
    reset_on_close(&leg);
    let from = leg.local_addr().unwrap();
    drop(leg);
    let start = Instant::now();
    while !pod.sh(&format!("ss -Htan 'src {from}'")).is_empty() {
        assert!(start.elapsed() < patience(), "the agent's socket is still there");
    }
    pod.sh(&format!("nft delete table {lost}"));
}

#[test]
fn what_comes_late_for_a_leg_and_the_kernels_reset_stay_in_the_pod() {
    for attach in hooks() {
        let pod = InterceptedPod::new(attach);
        let leaks = LeakCounter::watch(&pod.pair.client, "605, 20605");
        for (address, client) in FAMILIES {
            for port in [605, 20_605] {
                let (up, mut app) = pod.reflected(port, address, client);
                vanish(&pod.pair.pod, up, port);
                let since = CounterDelta::now(&pod.datapath);
                app.write_all(b"late").unwrap();
                assert_eq!(app.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
                assert_eq!(since.count(&pod.datapath, Reason::ReflectReplyLate), 1, "{:?}", since.moved(&pod.datapath));
                assert_eq!(since.count(&pod.datapath, Reason::ReflectOutLate), 1, "{:?}", since.moved(&pod.datapath));
                leaks.none();
            }
        }
    }
}

#[test]
fn the_answers_of_time_wait_stay_in_the_pod_whatever_netfilter_does_to_marks() {
    for attach in hooks() {
        let pod = InterceptedPod::new(attach);
        let leaks = LeakCounter::watch(&pod.pair.client, "606");
        for (address, client) in FAMILIES {
            let (up, mut app) = pod.reflected(606, address, client);
            drop(up);
            assert_eq!(app.read(&mut [0]).unwrap(), 0);
            pod.pair.pod.sh("nft 'add table inet m; add chain inet m out { type route hook output priority -150; }; add rule inet m out meta mark set 7'");
            drop(app);
            until_gone(&pod.pair.pod, SocketAddr::new(client, 606));
            pod.pair.pod.sh("nft delete table inet m");
            leaks.none();
        }
    }
}

/// Waits until the app's end of a leg is closed for good.
fn until_gone(pod: &TestNetns, peer: SocketAddr) {
    let start = Instant::now();
    while !pod.sh(&format!("ss -Htan 'dst {peer}'")).is_empty() {
        assert!(start.elapsed() < patience(), "the app's end is still there");
    }
}

#[test]
fn a_client_that_takes_a_legs_port_gets_its_own_answers() {
    for attach in hooks() {
        let mut pod = InterceptedPod::new(attach);
        for (address, client) in FAMILIES {
            let from = SocketAddr::new(client, 607);
            // Steered or not, the answer is the client's.
            for steered in [true, false] {
                let (up, app) = pod.reflected(607, address, client);
                reset_on_close(&up);
                drop((up, app));
                until_gone(&pod.pair.pod, from);
                pod.datapath.bypass(client, if steered { Duration::ZERO } else { patience() * 10 }).unwrap();
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
    for attach in hooks() {
        let pod = InterceptedPod::new(attach);
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
    for attach in hooks() {
        let mut pod = InterceptedPod::new(attach);
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

#[test]
fn rules_that_rewrite_marks_and_routes_by_mark_do_not_touch_a_leg() {
    for attach in hooks() {
        let pod = InterceptedPod::new(attach);
        let leaks = LeakCounter::watch(&pod.pair.client, "610");
        let passes = || {
            for (address, client) in FAMILIES {
                let (up, app) = pod.reflected(610, address, client);
                exchange(&up, &app);
                leaks.none();
                reset_on_close(&up);
                drop((up, app));
                until_gone(&pod.pair.pod, SocketAddr::new(client, 610));
            }
        };
        // TPROXY's recipe: whatever has a mark with the lowest bit stays in the pod.
        let table = "ip rule add fwmark 1/1 lookup 100; ip route add local default dev lo table 100; \
                     ip -6 rule add fwmark 1/1 lookup 100; ip -6 route add local default dev lo table 100";
        pod.pair.pod.sh(table);
        passes();
        // A VPN's recipe, and a plain one.
        for rule in ["meta mark set ct mark", "meta mark set 6"] {
            pod.pair.pod.sh(&format!(
                "nft 'add table inet m; add chain inet m out {{ type route hook output priority -150; }}; add rule inet m out {rule}'"
            ));
            passes();
            pod.pair.pod.sh("nft delete table inet m");
        }
    }
}

#[test]
fn a_forged_mark_neither_reaches_the_app_as_a_client_nor_stops_the_steering() {
    for attach in hooks() {
        let pod = InterceptedPod::new(attach);
        for (address, client) in FAMILIES {
            let forge = |from: u16, to: SocketAddr| {
                pod.pair.pod.run(|| {
                    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
                    socket.set_mark(MARK).unwrap();
                    socket.set_reuse_address(true).unwrap();
                    socket.bind(&SocketAddr::new(address, from).into()).unwrap();
                    socket.connect_timeout(&to.into(), patience()).map(|()| TcpStream::from(socket))
                })
            };
            // Out to the client's host, where it wanted to go.
            let there = pod.pair.client.run(|| plain_listener(SocketAddr::new(client, APP_PORT)));
            let forged = forge(611, SocketAddr::new(client, APP_PORT)).unwrap();
            assert_eq!(accept(&there).1, forged.local_addr().unwrap());
            // And by `lo`, to another port and to the app's.
            assert_eq!(forge(612, SocketAddr::new(address, 81)).unwrap_err().kind(), ErrorKind::ConnectionRefused);
            let inside = forge(613, SocketAddr::new(address, APP_PORT)).unwrap();
            let (_agent, peer) = accept(pod.listeners.of(address));
            assert_eq!(peer, inside.local_addr().unwrap());
            assert!(!is_waiting(pod.app.of(address)));
            pod.steered(None, address);
        }
    }
}

#[test]
fn a_syn_into_a_live_connection_of_the_client_is_dropped() {
    for attach in hooks() {
        let mut pod = InterceptedPod::new(attach);
        for (address, client) in FAMILIES {
            pod.datapath.bypass(client, patience() * 10).unwrap();
            let own = pod.connect(Some(SocketAddr::new(client, 614)), address).unwrap();
            let (app, _) = accept(pod.app.of(address));
            let since = CounterDelta::now(&pod.datapath);
            let leg = upstream(&pod.datapath, &pod.pair.pod, address, 614, client).unwrap_err();
            assert_eq!(leg.kind(), ErrorKind::TimedOut);
            assert!(since.count(&pod.datapath, Reason::ReflectTupleTaken) > 0);
            exchange(&own, &app);
        }
    }
}

#[test]
fn only_what_was_turned_round_is_noted() {
    for attach in hooks() {
        let pod = InterceptedPod::new(attach);
        for (address, client) in FAMILIES {
            let (socket, number) = leg_socket(&pod, address, 615);
            assert_eq!(noted(&pod.datapath, number), 0);
            pod.pair.pod.run(|| socket.connect_timeout(&SocketAddr::new(client, APP_PORT).into(), patience())).unwrap();
            assert_eq!(noted(&pod.datapath, number), number);
            accept(pod.app.of(address));
            // To the pod itself it goes by `lo`, where nothing is turned.
            let (socket, number) = leg_socket(&pod, address, 616);
            pod.pair
                .pod
                .run(|| socket.connect_timeout(&SocketAddr::new(address, APP_PORT).into(), patience()))
                .unwrap();
            assert_eq!(noted(&pod.datapath, number), number);
            assert_eq!(accept(pod.app.of(address)).1, SocketAddr::new(address, 616));
        }
        // By a device that came later, with the route to the client.
        join(&pod.pair.client, &pod.pair.pod, "late0");
        pod.pair.client.sh("ip addr add 10.88.0.1/24 dev late0; ip link set late0 up");
        pod.pair.pod.sh("ip addr add 10.88.0.2/24 dev late0; ip link set late0 up");
        let stranger = pod.pair.client.run(|| plain_listener(SocketAddr::new([10, 88, 0, 1].into(), APP_PORT)));
        let (socket, number) = leg_socket(&pod, POD_V4, 617);
        let to = SocketAddr::new([10, 88, 0, 1].into(), APP_PORT);
        pod.pair.client.sh("ip route add 10.77.0.2/32 dev late0 via 10.88.0.2 || true");
        pod.pair.pod.run(|| socket.connect_timeout(&to.into(), patience())).unwrap();
        accept(&stranger);
        assert_eq!(noted(&pod.datapath, number), 0, "a stranger has answered");
    }
}

#[test]
fn a_filter_that_ends_the_chain_before_ours_shows_by_the_note() {
    let pair = PodAndClient::new();
    pair.pod.sh(
        "tc qdisc add dev eth0 clsact; tc filter add dev eth0 egress pref 1 protocol all u32 match u32 0 0 flowid 1:1",
    );
    let devices = pair.devices();
    let pod = InterceptedPod::on(pair, &devices, AttachMode::Clsact);
    for (address, client) in FAMILIES {
        let stranger = pod.pair.client.run(|| plain_listener(SocketAddr::new(client, APP_PORT)));
        let (socket, number) = leg_socket(&pod, address, 618);
        pod.pair.pod.run(|| socket.connect_timeout(&SocketAddr::new(client, APP_PORT).into(), patience())).unwrap();
        accept(&stranger);
        assert_eq!(noted(&pod.datapath, number), 0, "a stranger has answered");
    }
    // Where the kernel has TCX, ours comes before every filter.
    if !redir_rig::tcx::is_here() {
        return;
    }
    let pair = PodAndClient::new();
    pair.pod.sh(
        "tc qdisc add dev eth0 clsact; tc filter add dev eth0 egress pref 1 protocol all u32 match u32 0 0 flowid 1:1",
    );
    let devices = pair.devices();
    let pod = InterceptedPod::on(pair, &devices, AttachMode::Tcx);
    for (address, client) in FAMILIES {
        pod.reflected(619, address, client);
    }
}

#[test]
fn what_is_no_socket_takes_no_number() {
    let pod = InterceptedPod::new(hooks()[0]);
    let (_first, first) = leg_socket(&pod, FAMILIES[0].0, 620);
    let other = std::fs::File::open("/dev/null").unwrap();
    pod.datapath.make_leg(other.as_fd(), false).unwrap_err();
    let (_second, second) = leg_socket(&pod, FAMILIES[0].0, 621);
    assert_eq!(second, first + 1, "who asked for both counts on from the first");
}

fn leg_socket(pod: &InterceptedPod, address: IpAddr, port: u16) -> (Socket, u64) {
    let datapath = &pod.datapath;
    pod.pair.pod.run(|| {
        let socket = Socket::new(Domain::for_address(SocketAddr::new(address, port)), Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&SocketAddr::new(address, port).into()).unwrap();
        let number = datapath.make_leg(socket.as_fd(), false).unwrap();
        (socket, number)
    })
}

/// What the programs have noted where a leg's number belongs.
fn noted(datapath: &PodDatapath, number: u64) -> u64 {
    datapath.maps.turned(redir_abi::turned_slot(number))
}
