//! What `steer` decides over crafted packets.

use std::{net::Ipv6Addr, time::Duration};

use redir_abi::{HEARTBEAT_LIMIT_NANOS, MARK, Reason, program};

use super::{super::SteerGate, super::maps::monotonic_nanos, bench::*, packets::*, rig::*};

#[test]
fn a_syn_is_steered_on_every_kind_of_device() {
    let mut bench = ProgramBench::new();
    for (pod, client) in FAMILIES {
        let syn = to_app(client, pod, SYN);
        bench.steer(&syn, Reason::SteerAssigned);
        bench.steer(&to_app(client, pod, SYN | ECE_CWR), Reason::SteerAssigned);
        bench.steer(&to_app(client, pod, SYN | PSH), Reason::SteerAssigned);
        bench.steer_by(program::STEER_LO, &syn, 0, Reason::SteerAssigned);
    }
}

/// A test run always has an Ethernet header, which the program for bare devices takes for an IP header.
#[test]
fn a_program_for_bare_devices_leaves_an_ethernet_frame() {
    let mut bench = ProgramBench::new();
    let mut frame = to_app(CLIENT_V4, POD_V4, SYN).bytes();
    // Its destination reads as version 4 without options, its protocol byte as UDP.
    frame[0] = 0x45;
    frame[9] = 17;
    let outcome = bench.run(program::STEER_L3, &frame, 0);
    assert_eq!((outcome.verdict, outcome.reasons), (NEXT, vec![Reason::SteerNotTcp]));
}

#[test]
fn the_agents_own_packets_are_left() {
    let mut bench = ProgramBench::new();
    for (pod, client) in FAMILIES {
        // The mark has done its part.
        let outcome = bench.run(program::STEER, &to_app(client, pod, SYN).bytes(), MARK);
        assert_eq!((outcome.reasons, outcome.verdict, outcome.mark), (vec![Reason::SteerOwnMark], NEXT, 0));
        // On `lo` nobody sets it, and whoever does gets nothing by it.
        bench.steer_by(program::STEER_LO, &to_app(client, pod, SYN), MARK, Reason::SteerAssigned);
        bench.steer_by(program::STEER, &to_app(client, pod, SYN), MARK + 1, Reason::SteerAssigned);
    }
}

#[test]
fn a_syn_whose_options_only_the_app_can_answer_is_the_apps() {
    let mut bench = ProgramBench::new();
    // As the kernel writes them: maximum segment size, SACK, timestamps, filler, window scale.
    let usual = [2, 4, 5, 180, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7];
    let md5 = [&[1, 1, 19, 18][..], &[9; 16]].concat();
    let late_md5 = [&[2, 4, 5, 180, 1, 1, 19, 18][..], &[9; 16]].concat();
    let ao = [29, 16, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14];
    let capable = [30, 4, 0x01, 0x01];
    let join = [&[2, 4, 5, 180, 30, 12, 0x10, 1][..], &[7; 8]].concat();
    let hidden_by_the_end = [&[0, 0, 0, 0][..], &md5].concat();
    let broken = [&[8, 1, 1, 1][..], &md5].concat();
    for (pod, client) in FAMILIES {
        for (options, expected) in [
            (&usual[..], Reason::SteerAssigned),
            (&md5, Reason::SteerSigned),
            (&late_md5, Reason::SteerSigned),
            (&ao, Reason::SteerSigned),
            (&capable, Reason::SteerAssigned),
            (&join, Reason::SteerJoin),
            (&hidden_by_the_end, Reason::SteerAssigned),
            (&broken, Reason::SteerAssigned),
            (&[1; 40], Reason::SteerMalformed),
        ] {
            bench.steer(&to_app(client, pod, SYN).tcp_options(options), expected);
        }
    }
}

#[test]
fn other_protocols_and_vlans_are_left() {
    let mut bench = ProgramBench::new();
    for (pod, client) in FAMILIES {
        bench.steer(&TestFrame::other(client, pod, 17, vec![0; 20]), Reason::SteerNotTcp);
        bench.steer(&to_app(client, pod, SYN).vlan(), Reason::SteerNotIp);
    }
    let mut arp = to_app(CLIENT_V4, POD_V4, SYN).bytes();
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    assert_eq!(bench.run(program::STEER, &arp, 0).reasons, [Reason::SteerNotIp]);
}

#[test]
fn ports_are_steered_one_by_one() {
    let mut bench = ProgramBench::new();
    for (pod, client) in FAMILIES {
        for port in [APP_PORT - 1, APP_PORT + 1, APP_PORT + 64, 0, u16::MAX] {
            bench.steer(&TestFrame::tcp(at(client, 40_000), at(pod, port), SYN), Reason::SteerNotArmed);
        }
    }
    bench.datapath.disarm(APP_PORT).unwrap();
    bench.steer(&to_app(CLIENT_V4, POD_V4, SYN), Reason::SteerNotArmed);
    for port in [0, 63, 64, u16::MAX] {
        bench.datapath.arm(port, SteerGate::Always).unwrap();
        bench.steer(&TestFrame::tcp(at(CLIENT_V4, 40_000), at(POD_V4, port), SYN), Reason::SteerAssigned);
    }
}

#[test]
fn fragments_are_left() {
    const MORE: u16 = 0x2000;
    const DO_NOT: u16 = 0x4000;
    let mut bench = ProgramBench::new();
    let syn = to_app(CLIENT_V4, POD_V4, SYN);
    bench.steer(&syn.clone().v4_fragment(MORE), Reason::SteerFragment);
    bench.steer(&syn.clone().v4_fragment(1), Reason::SteerFragment);
    bench.steer(&syn.clone().v4_fragment(MORE | 1), Reason::SteerFragment);
    bench.steer(&syn.v4_fragment(DO_NOT), Reason::SteerAssigned);
    bench.steer(&to_app(CLIENT_V6, POD_V6, SYN).v6_extension(44, [0; 7]), Reason::SteerFragment);
}

#[test]
fn ip_options_do_not_hide_a_syn() {
    let mut bench = ProgramBench::new();
    let no_operation = [1, 1, 1, 0];
    bench.steer(&to_app(CLIENT_V4, POD_V4, SYN).v4_options(&no_operation), Reason::SteerAssigned);
    bench.steer(&to_app(CLIENT_V4, POD_V4, SYN).v4_options(&[1; 40]), Reason::SteerAssigned);
    let other = TestFrame::tcp(at(CLIENT_V4, 40_000), at(POD_V4, 81), SYN).v4_options(&no_operation);
    bench.steer(&other, Reason::SteerNotArmed);
    bench.steer(&TestFrame::other(CLIENT_V4, POD_V4, 17, vec![0; 20]).v4_options(&no_operation), Reason::SteerNotTcp);
}

#[test]
fn of_ipv6_extensions_only_big_tcps_own_is_read() {
    const JUMBO: [u8; 7] = [0, 0xc2, 4, 0, 1, 0, 0];
    let mut bench = ProgramBench::new();
    let syn = to_app(CLIENT_V6, POD_V6, SYN);
    bench.steer(&syn.clone().v6_extension(0, JUMBO), Reason::SteerAssigned);
    bench.steer(&syn.clone().v6_extension(0, [0, 1, 4, 0, 0, 0, 0]), Reason::SteerExtension);
    bench.steer(&syn.clone().v6_extension(0, JUMBO).v6_extension(60, [0, 1, 4, 0, 0, 0, 0]), Reason::SteerExtension);
    for kind in [43, 60] {
        bench.steer(&syn.clone().v6_extension(kind, [0, 1, 4, 0, 0, 0, 0]), Reason::SteerExtension);
    }
    bench.steer(&TestFrame::other(CLIENT_V6, POD_V6, 17, vec![0; 20]), Reason::SteerNotTcp);
}

#[test]
fn broken_headers_are_left() {
    let mut bench = ProgramBench::new();
    let good = to_app(CLIENT_V4, POD_V4, SYN).bytes();
    let mut version = good.clone();
    version[ETHERNET] = 0x55;
    let mut short = good.clone();
    short[ETHERNET] = 0x44;
    let cut = good[..ETHERNET + 20 + 12].to_vec();
    let mut version_6 = to_app(CLIENT_V6, POD_V6, SYN).v6_extension(0, [0, 0xc2, 4, 0, 1, 0, 0]).bytes();
    version_6[ETHERNET] = 0x40;
    for frame in [version, short, cut, version_6] {
        let outcome = bench.run(program::STEER, &frame, 0);
        assert_eq!((outcome.verdict, outcome.reasons), (NEXT, vec![Reason::SteerMalformed]));
    }
}

#[test]
fn only_flags_that_open_are_steered() {
    let mut bench = ProgramBench::new();
    for (pod, client) in FAMILIES {
        for flags in [0, FIN, RST, PSH, SYN | ACK, SYN | FIN, SYN | RST, RST | ACK, FIN | ACK, FIN | ACK | PSH] {
            bench.steer(&to_app(client, pod, flags), Reason::SteerFlags);
        }
        for flags in [ACK, ACK | PSH] {
            bench.steer(&to_app(client, pod, flags), Reason::SteerNoCookie);
        }
    }
}

#[test]
fn only_the_pods_own_addresses_are_steered() {
    let mut bench = ProgramBench::new();
    for (stranger, client) in [("10.77.0.3".parse().unwrap(), CLIENT_V4), ("fd77::3".parse().unwrap(), CLIENT_V6)] {
        bench.steer(&to_app(client, stranger, SYN), Reason::SteerNotPodIp);
        // On lo every destination is local.
        bench.steer_by(program::STEER_LO, &to_app(client, stranger, SYN), 0, Reason::SteerAssigned);
    }
}

#[test]
fn a_bypassed_client_goes_to_the_app_until_its_time_is_over() {
    let mut bench = ProgramBench::new();
    for (pod, client) in FAMILIES {
        bench.datapath.bypass(client, Duration::from_secs(60)).unwrap();
        bench.steer(&to_app(client, pod, SYN), Reason::SteerBypassed);
        let neighbour = if client.is_ipv4() { "10.77.0.9" } else { "fd77::9" }.parse().unwrap();
        bench.steer(&to_app(neighbour, pod, SYN), Reason::SteerAssigned);
        bench.datapath.bypass(client, Duration::ZERO).unwrap();
        bench.steer(&to_app(client, pod, SYN), Reason::SteerAssigned);
    }
}

#[test]
fn a_bypassed_ipv6_network_is_bypassed_whole_and_no_other() {
    let mut bench = ProgramBench::new();
    let (pod, client) = FAMILIES[1];
    let network = "fd77::".parse().unwrap();
    bench.datapath.bypass(network, Duration::from_secs(60)).unwrap();
    for address in [client, "fd77::9:8:7:6".parse().unwrap()] {
        bench.steer(&to_app(address, pod, SYN), Reason::SteerBypassed);
    }
    let neighbour = "fd77:0:0:1::9".parse().unwrap();
    bench.steer(&to_app(neighbour, pod, SYN), Reason::SteerAssigned);
    bench.datapath.bypass(network, Duration::ZERO).unwrap();
    bench.steer(&to_app(client, pod, SYN), Reason::SteerAssigned);
}

#[test]
fn without_a_fresh_heartbeat_everything_goes_to_the_app() {
    let mut bench = ProgramBench::new();
    for (pod, client) in FAMILIES {
        let syn = to_app(client, pod, SYN);
        let now = monotonic_nanos().unwrap();
        for beat in [0, now - HEARTBEAT_LIMIT_NANOS - 1, now + 3_600_000_000_000, u64::MAX] {
            bench.beat = Some(beat);
            bench.steer(&syn, Reason::SteerStale);
        }
        bench.beat = Some(monotonic_nanos().unwrap() - HEARTBEAT_LIMIT_NANOS / 2);
        bench.steer(&syn, Reason::SteerAssigned);
    }
}

#[test]
fn the_app_must_listen_unless_the_port_goes_without() {
    let mut bench = ProgramBench::new();
    bench.app = None;
    until_closed(&bench.net, APP_PORT);
    for (pod, client) in FAMILIES {
        bench.steer(&to_app(client, pod, SYN), Reason::SteerNotListening);
        bench.datapath.arm(APP_PORT, SteerGate::Always).unwrap();
        bench.steer(&to_app(client, pod, SYN), Reason::SteerAssigned);
        bench.datapath.arm(APP_PORT, SteerGate::AppListening).unwrap();
        bench.steer(&to_app(client, pod, SYN), Reason::SteerNotListening);
    }
}

#[test]
fn an_app_that_serves_both_families_by_one_socket_listens_for_both() {
    let mut bench = ProgramBench::new();
    bench.app = None;
    until_closed(&bench.net, APP_PORT);
    let _dual = bench.net.run(|| std::net::TcpListener::bind((Ipv6Addr::UNSPECIFIED, APP_PORT)).unwrap());
    for (pod, client) in FAMILIES {
        bench.steer(&to_app(client, pod, SYN), Reason::SteerAssigned);
    }
}

#[test]
fn without_a_listener_of_its_family_a_syn_goes_to_the_app() {
    let mut bench = ProgramBench::new();
    let port = bench.listeners.as_ref().unwrap().port;
    // The listeners die with their last descriptor, although the companion's map knows them.
    bench.listeners = None;
    until_closed(&bench.net, port);
    bench.steer(&to_app(CLIENT_V4, POD_V4, SYN), Reason::SteerNoListener);
    bench.steer(&to_app(CLIENT_V6, POD_V6, SYN), Reason::SteerNoListener);
    // A stranger's IPv6 listener that answers for IPv4 too.
    let _dual = bench.net.run(|| std::net::TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap());
    bench.steer(&to_app(CLIENT_V4, POD_V4, SYN), Reason::SteerNoListener);
}

#[test]
fn a_live_connection_is_left() {
    let mut bench = ProgramBench::new();
    for local in LOCAL {
        let (client, _accepted) = bench.connection(local, 0, false);
        let from = client.local_addr().unwrap();
        for flags in [SYN, ACK, ACK | PSH] {
            bench.steer(&TestFrame::tcp(from, at(local, APP_PORT), flags), Reason::SteerBusy);
        }
    }
}

#[test]
fn a_syn_in_time_wait_is_left_to_the_companion() {
    let mut bench = ProgramBench::new();
    for local in LOCAL {
        let (client, accepted) = bench.connection(local, 0, false);
        let from = client.local_addr().unwrap();
        ProgramBench::end(accepted, client);
        let syn = TestFrame::tcp(from, at(local, APP_PORT), SYN);
        bench.steer_until(&syn, Reason::SteerTimeWaitRecorded);
        bench.steer(&TestFrame::tcp(from, at(local, APP_PORT), ACK), Reason::SteerBusy);
        bench.datapath.bypass(local, Duration::from_secs(60)).unwrap();
        bench.steer(&syn, Reason::SteerBypassed);
        bench.datapath.bypass(local, Duration::ZERO).unwrap();
        bench.beat = Some(0);
        bench.steer(&syn, Reason::SteerStale);
        bench.beat = None;
    }
}

#[test]
fn a_syn_in_time_wait_needs_the_app_and_an_unreserved_port() {
    let mut bench = ProgramBench::new();
    let mut left = Vec::new();
    for local in LOCAL {
        let (client, accepted) = bench.connection(local, 777, false);
        ProgramBench::end(accepted, client);
        bench.steer_until(&TestFrame::tcp(at(local, 777), at(local, APP_PORT), SYN), Reason::SteerTimeWait);
        let (client, accepted) = bench.connection(local, 0, false);
        left.push(client.local_addr().unwrap());
        ProgramBench::end(accepted, client);
    }
    bench.app = None;
    for from in left {
        bench.steer_until(&TestFrame::tcp(from, at(from.ip(), APP_PORT), SYN), Reason::SteerNotListening);
    }
}
