//! Real connections through a pod's datapath, attached with TCX and with clsact.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr},
    time::{Duration, Instant},
};

use redir_abi::Reason;

use super::{super::SteerGate, intercepted::*, rig::*};

#[test]
fn a_client_reaches_the_agent_and_the_app_sees_the_client() {
    for attach in hooks() {
        let pod = InterceptedPod::new(attach);
        for (address, client) in FAMILIES {
            let since = CounterDelta::now(&pod.datapath);
            let (from, agent) = pod.steered(None, address);
            let (up, app) = pod.reflected(777, address, client);
            for (a, b) in [(&from, &agent), (&agent, &from), (&up, &app), (&app, &up)] {
                carries(a, b, &bytes());
            }
            assert_eq!(since.count(&pod.datapath, Reason::SteerAssigned), 1);
            assert_eq!(since.count(&pod.datapath, Reason::SteerAssignFailed), 0);
            assert!(since.count(&pod.datapath, Reason::ReflectOut) > 1);
            assert!(since.count(&pod.datapath, Reason::ReflectReply) > 1);
        }
    }
}

#[test]
fn half_closes_and_resets_go_through_the_reflection() {
    for attach in hooks() {
        let pod = InterceptedPod::new(attach);
        for (address, client) in FAMILIES {
            let (mut up, mut app) = pod.reflected(600, address, client);
            up.shutdown(Shutdown::Write).unwrap();
            assert_eq!(app.read(&mut [0]).unwrap(), 0);
            app.write_all(b"late").unwrap();
            drop(app);
            let mut rest = Vec::new();
            up.read_to_end(&mut rest).unwrap();
            assert_eq!(rest, b"late");
            let (mut up, app) = pod.reflected(601, address, client);
            reset_on_close(&app);
            drop(app);
            assert_eq!(up.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
            let (up, mut app) = pod.reflected(602, address, client);
            reset_on_close(&up);
            drop(up);
            assert_eq!(app.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
            // The same port again, after either side has closed first.
            for agent_first in [true, false] {
                let (up, app) = pod.reflected(603, address, client);
                let (first, mut second) = if agent_first { (up, app) } else { (app, up) };
                drop(first);
                assert_eq!(second.read(&mut [0]).unwrap(), 0);
            }
        }
    }
}

#[test]
fn late_segments_for_a_leg_in_time_wait_do_not_reach_the_client() {
    for attach in hooks() {
        let pod = InterceptedPod::new(attach);
        for (address, client) in FAMILIES {
            let (up, mut app) = pod.reflected(604, address, client);
            drop(up);
            assert_eq!(app.read(&mut [0]).unwrap(), 0);
            let since = CounterDelta::now(&pod.datapath);
            let start = Instant::now();
            while app.write_all(b"into the void").is_ok() {
                assert!(start.elapsed() < patience(), "the app is not told that nobody reads");
            }
            // Both happen: the agent's socket is in FIN_WAIT2 until the kernel trades it for a TIME_WAIT one.
            let turned = since.count(&pod.datapath, Reason::ReflectReplyTimeWait)
                + since.count(&pod.datapath, Reason::ReflectReply);
            assert!(turned > 0, "{:?}", since.moved(&pod.datapath));
            assert_eq!(
                since.count(&pod.datapath, Reason::ReflectNotOurs),
                0,
                "leaked: {:?}",
                since.moved(&pod.datapath)
            );
        }
    }
}

#[test]
fn an_app_that_refuses_refuses_the_agent() {
    for attach in hooks() {
        let mut pod = InterceptedPod::new(attach);
        for (address, client) in FAMILIES {
            let table = if address.is_ipv4() { "ip" } else { "ip6" };
            pod.pair.pod.sh(&format!(
                "nft 'add table {table} t; add chain {table} t in {{ type filter hook input priority 0; }}; add rule {table} t in tcp dport {APP_PORT} tcp sport 620 reject'"
            ));
            let since = CounterDelta::now(&pod.datapath);
            let refused = upstream(&pod.datapath, &pod.pair.pod, address, 620, client).unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
            // A first one is lost on a socket that is still busy sending.
            assert!(since.count(&pod.datapath, Reason::ReflectIcmp) > 0);
        }
        pod.stop_app();
        for (address, client) in FAMILIES {
            let refused = upstream(&pod.datapath, &pod.pair.pod, address, 621, client).unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
            // And a client sees what it would see without redir.
            assert_eq!(pod.connect(None, address).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
        }
    }
}

#[test]
fn a_tuple_in_time_wait_is_steered_by_the_companion() {
    for attach in hooks() {
        let pod = InterceptedPod::new(attach);
        for (address, client) in FAMILIES {
            let from = SocketAddr::new(client, 40_404);
            for round in 0..3 {
                let since = CounterDelta::now(&pod.datapath);
                let (mut client, agent) = pod.steered(Some(from), address);
                if round > 0 {
                    assert_eq!(since.count(&pod.datapath, Reason::SteerTimeWaitRecorded), 1);
                    assert_eq!(since.count(&pod.datapath, Reason::LookupAssigned), 1);
                }
                // The agent closes first: TIME_WAIT is on the pod's side.
                drop(agent);
                assert_eq!(client.read(&mut [0]).unwrap(), 0);
                drop(client);
                until_time_wait(&pod.pair.pod, from);
            }
        }
    }
}

/// Waits until the pod's side of a connection has come to TIME_WAIT.
fn until_time_wait(pod: &TestNetns, peer: SocketAddr) {
    let start = Instant::now();
    while !pod.sh("ss -Htan state time-wait").contains(&peer.to_string()) {
        assert!(start.elapsed() < patience(), "no TIME_WAIT for {peer}");
    }
}

#[test]
fn syn_cookies_are_the_agents() {
    for attach in hooks() {
        let pod = InterceptedPod::new(attach);
        pod.pair.pod.sh("echo 2 > /proc/sys/net/ipv4/tcp_syncookies");
        for (address, _) in FAMILIES {
            let since = CounterDelta::now(&pod.datapath);
            let (client, agent) = pod.steered(None, address);
            carries(&client, &agent, b"cookie");
            assert_eq!(since.count(&pod.datapath, Reason::SteerCookie), 1);
        }
    }
}

#[test]
fn clients_inside_the_pod_are_steered_too() {
    for attach in hooks() {
        let pod = InterceptedPod::new(attach);
        let others: [IpAddr; 2] = [Ipv4Addr::new(127, 0, 0, 5).into(), Ipv6Addr::LOCALHOST.into()];
        for address in [Ipv4Addr::LOCALHOST.into(), others[0], others[1], POD_V4, POD_V6] {
            pod.heartbeat.beat();
            let client = connect(&pod.pair.pod, None, SocketAddr::new(address, APP_PORT)).unwrap();
            let (agent, peer) = accept(pod.listeners.of(address));
            assert_eq!(peer, client.local_addr().unwrap());
            assert_eq!(agent.local_addr().unwrap().ip(), address);
            // The agent's own leg to the app is not steered again, nor reflected.
            let up = upstream(&pod.datapath, &pod.pair.pod, address, 640, address).unwrap();
            let (app, seen) = accept(pod.app.of(address));
            assert_eq!(seen, SocketAddr::new(address, 640));
            carries(&up, &app, b"inside");
            reset_on_close(&up);
        }
    }
}

#[test]
fn netfilter_and_strict_reverse_paths_are_no_obstacle() {
    for attach in hooks() {
        let pod = InterceptedPod::new(attach);
        pod.pair.pod.sh("for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 1 > $f; done");
        pod.pair.pod.sh(
            "nft 'add table inet t; add chain inet t a { type nat hook prerouting priority -100; }; add rule inet t a tcp dport 9 redirect to :10;
             add chain inet t b { type nat hook postrouting priority 100; }; add rule inet t b oifname eth0 masquerade;
             add chain inet t c { type filter hook input priority 0; }; add rule inet t c ct state invalid drop;
             add chain inet t d { type filter hook output priority 0; }; add rule inet t d ct state invalid drop'",
        );
        for (address, client) in FAMILIES {
            let (from, agent) = pod.steered(None, address);
            let (up, app) = pod.reflected(650, address, client);
            for (a, b) in [(&from, &agent), (&agent, &from), (&up, &app), (&app, &up)] {
                carries(a, b, &bytes());
            }
        }
    }
}

#[test]
fn what_the_pod_redirects_to_its_mesh_proxy_stays_the_proxys() {
    for attach in hooks() {
        let pod = InterceptedPod::new(attach);
        pod.pair.pod.sh(&format!(
            "nft 'add table inet t; add chain inet t a {{ type nat hook prerouting priority -100; }}; add rule inet t a tcp dport {APP_PORT} redirect to :15006'",
        ));
        for (address, _) in FAMILIES {
            let any = if address.is_ipv4() { "0.0.0.0:15006" } else { "[::]:15006" };
            let proxy = pod.pair.pod.run(|| plain_listener(any.parse().unwrap()));
            let client = pod.connect(None, address).unwrap();
            let (_proxied, from) = accept(&proxy);
            assert_eq!(from, client.local_addr().unwrap());
            assert!(!is_waiting(pod.listeners.of(address)) && !is_waiting(pod.app.of(address)));
        }
    }
}

#[test]
fn where_a_mesh_takes_what_leaves_the_pod_nothing_goes_astray_and_the_app_keeps_its_clients() {
    for attach in hooks() {
        for (address, client) in FAMILIES {
            let pod = InterceptedPod::new(attach);
            pod.pair.pod.sh(
                "nft 'add table inet t; add chain inet t a { type nat hook output priority -100; }; add rule inet t a oifname eth0 meta l4proto tcp redirect to :15001'",
            );
            let any = if address.is_ipv4() { "0.0.0.0:15001" } else { "[::]:15001" };
            let proxy = pod.pair.pod.run(|| plain_listener(any.parse().unwrap()));
            pod.steered(None, address);
            let since = CounterDelta::now(&pod.datapath);
            let leg = upstream(&pod.datapath, &pod.pair.pod, address, 660, client);
            assert_eq!(leg.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
            assert!(since.count(&pod.datapath, Reason::ReflectRerouted) > 0 && !is_waiting(&proxy));
            pod.all_reach_app();
        }
    }
}

#[test]
fn the_companion_is_known_to_be_gone_while_steering_is_detached() {
    for attach in hooks() {
        let mut pod = InterceptedPod::new(attach);
        assert!(pod.datapath.looks_up());
        pod.datapath.detach_steer(&mut || {}).unwrap();
        assert!(!pod.datapath.looks_up());
        pod.datapath.attach(&mut || {}).unwrap();
        assert!(pod.datapath.looks_up());
        pod.all_are_steered();
    }
}

#[test]
fn on_a_kernel_without_the_companion_steer_assigns_by_itself() {
    for attach in hooks() {
        let mut pod = InterceptedPod::new(attach);
        pod.datapath.detach_steer(&mut || {}).unwrap();
        pod.datapath.no_companion = Some("none".into());
        pod.datapath.attach(&mut || {}).unwrap();
        let since = CounterDelta::now(&pod.datapath);
        pod.all_are_steered();
        assert_eq!(since.count(&pod.datapath, Reason::LookupAssigned), 0);
        assert_eq!(since.count(&pod.datapath, Reason::SteerAssignFailed), 0);
    }
}

#[test]
fn packets_over_64_kib_and_without_offloads_turn_around() {
    for attach in hooks() {
        let pod = InterceptedPod::new(attach);
        // BIG TCP: the kernel puts a hop-by-hop header into IPv6.
        for net in [&pod.pair.pod, &pod.pair.client] {
            if let Err(error) = net.try_sh("ip link set eth0 gso_max_size 185000 gro_max_size 185000") {
                redir_rig::left_out(&format!("BIG TCP: this kernel refuses it: {}", error.trim()));
                break;
            }
        }
        let big = bytes().repeat(16);
        for (address, client) in FAMILIES {
            let (from, agent) = pod.steered(None, address);
            let (up, app) = pod.reflected(651, address, client);
            for (a, b) in [(&from, &agent), (&agent, &from), (&up, &app), (&app, &up)] {
                carries(a, b, &big);
            }
        }
        for net in [&pod.pair.pod, &pod.pair.client] {
            net.sh("ip link set eth0 gso_max_segs 1 gso_max_size 1500");
        }
        for (address, client) in FAMILIES {
            let (up, app) = pod.reflected(652, address, client);
            carries(&up, &app, &bytes());
            carries(&app, &up, &bytes());
        }
    }
}

#[test]
fn connections_from_before_the_intercept_stay_the_apps() {
    for attach in hooks() {
        let pair = PodAndClient::new();
        let app = TestApp::new(&pair.pod);
        let before = FAMILIES.map(|(address, _)| {
            let client = connect(&pair.client, None, SocketAddr::new(address, APP_PORT)).unwrap();
            (client, accept(app.of(address)).0)
        });
        drop(app);
        until_closed(&pair.pod, APP_PORT);
        let devices = pair.devices();
        let pod = InterceptedPod::on(pair, &devices, attach);
        for (client, accepted) in &before {
            carries(client, accepted, &bytes());
            carries(accepted, client, &bytes());
        }
        assert!(!is_waiting(&pod.listeners.v4) && !is_waiting(&pod.listeners.v6));
    }
}

#[test]
fn whatever_stops_the_agent_new_connections_reach_the_app() {
    for attach in hooks() {
        let mut pod = InterceptedPod::new(attach);
        for (address, _) in FAMILIES {
            pod.steered(None, address);
        }
        // It hangs.
        pod.heartbeat.set(1);
        for (address, _) in FAMILIES {
            let _client = connect(&pod.pair.client, None, SocketAddr::new(address, APP_PORT)).unwrap();
            accept(pod.app.of(address));
        }
        // The port is not wanted any more.
        pod.datapath.disarm(APP_PORT).unwrap();
        pod.all_reach_app();
        pod.datapath.arm(APP_PORT, SteerGate::AppListening).unwrap();
        pod.all_are_steered();
        // A client has no upstream port left.
        for (address, client) in FAMILIES {
            pod.datapath.bypass(client, patience() * 10).unwrap();
            pod.reaches_app(address);
            pod.datapath.bypass(client, Duration::ZERO).unwrap();
            pod.steered(None, address);
        }
        // The guardian detaches.
        pod.datapath.detach_steer(&mut || {}).unwrap();
        pod.all_reach_app();
        pod.datapath.attach(&mut || {}).unwrap();
        pod.all_are_steered();
        // It dies: the listeners go with it.
        let gone = std::mem::replace(&mut pod.listeners, TestListeners::new(&TestNetns::new())).port;
        until_closed(&pod.pair.pod, gone);
        pod.all_reach_app();
    }
}

#[test]
fn what_was_steered_drains_after_steering_has_stopped() {
    for attach in hooks() {
        let mut pod = InterceptedPod::new(attach);
        let legs = FAMILIES.map(|(address, client)| (pod.steered(None, address), pod.reflected(660, address, client)));
        pod.datapath.disarm(APP_PORT).unwrap();
        pod.datapath.detach_steer(&mut || {}).unwrap();
        for ((client, agent), (up, app)) in &legs {
            for (a, b) in [(client, agent), (agent, client), (up, app), (app, up)] {
                carries(a, b, &bytes());
            }
        }
    }
}

#[test]
fn a_port_without_gate_is_steered_while_the_app_is_down() {
    for attach in hooks() {
        let mut pod = InterceptedPod::new(attach);
        pod.stop_app();
        pod.datapath.arm(APP_PORT, SteerGate::Always).unwrap();
        for (address, _) in FAMILIES {
            pod.steered(None, address);
        }
    }
}

#[test]
fn the_app_can_bind_its_port_again() {
    for attach in hooks() {
        let mut pod = InterceptedPod::new(attach);
        let _live = FAMILIES.map(|(address, _)| pod.steered(None, address));
        pod.stop_app();
        pod.app = TestApp::new(&pod.pair.pod);
        for (address, client) in FAMILIES {
            pod.steered(None, address);
            pod.reflected(670, address, client);
        }
    }
}
