//! What `reflect` decides over crafted packets, and what it makes of them.

use std::{net::IpAddr, os::fd::AsFd, time::Instant};

use redir_abi::{MARK, Reason, program};
use socket2::{Domain, Socket, Type};

use super::{super::SteerGate, bench::*, packets::*, rig::*};

#[test]
fn a_legs_packets_turn_around_and_a_mark_makes_none_of_anything() {
    let mut bench = ProgramBench::new();
    for (pod, client) in FAMILIES {
        for flags in [SYN, ACK, FIN | ACK, RST] {
            // It comes from the pod's address; the app is to see the client's.
            let out = TestFrame::tcp(at(pod, 700), at(client, APP_PORT), flags);
            bench.reflect(&out, MARK, Reason::ReflectOther);
            bench.remember(at(pod, 700), at(client, APP_PORT));
            let outcome = bench.reflect(&out, 0, Reason::ReflectOutLate);
            bench.forget();
            let back = TestFrame::tcp(at(client, 700), at(pod, APP_PORT), flags);
            assert_eq!(outcome.bytes[ETHERNET..], back.packet());
            // To the device's own address.
            assert_eq!(outcome.bytes[..6], SOURCE_MAC);
            assert_eq!(outcome.mark, MARK);
        }
    }
}

#[test]
fn options_and_big_tcp_turn_around_too() {
    let mut bench = ProgramBench::new();
    let options = TestFrame::tcp(at(POD_V4, 700), at(CLIENT_V4, APP_PORT), ACK).v4_options(&[1; 8]);
    bench.remember(at(POD_V4, 700), at(CLIENT_V4, APP_PORT));
    let outcome = bench.reflect(&options, 0, Reason::ReflectOutLate);
    assert_eq!(
        outcome.bytes[ETHERNET..],
        TestFrame::tcp(at(CLIENT_V4, 700), at(POD_V4, APP_PORT), ACK).v4_options(&[1; 8]).packet()
    );
    let jumbo = [0, 0xc2, 4, 0, 1, 0, 0];
    let big = TestFrame::tcp(at(POD_V6, 700), at(CLIENT_V6, APP_PORT), ACK).v6_extension(0, jumbo);
    bench.remember(at(POD_V6, 700), at(CLIENT_V6, APP_PORT));
    let outcome = bench.reflect(&big, 0, Reason::ReflectOutLate);
    let back = TestFrame::tcp(at(CLIENT_V6, 700), at(POD_V6, APP_PORT), ACK).v6_extension(0, jumbo);
    assert_eq!(outcome.bytes[ETHERNET..], back.packet());
}

#[test]
fn a_strangers_mark_of_the_same_value_changes_nothing() {
    let mut bench = ProgramBench::new();
    for (pod, client) in FAMILIES {
        bench.reflect(&TestFrame::tcp(at(pod, 40_000), at(client, 443), SYN), MARK, Reason::ReflectOther);
        bench.reflect(&TestFrame::tcp(at(pod, 700), at(client, 443), SYN), MARK, Reason::ReflectOther);
        bench.reflect(&TestFrame::tcp(at(pod, 40_000), at(client, APP_PORT), SYN), MARK, Reason::ReflectOther);
        bench.reflect(&TestFrame::other(pod, client, 17, vec![0; 20]), MARK, Reason::ReflectOther);
    }
}

#[test]
fn what_is_not_the_agents_leaves_the_pod() {
    let mut bench = ProgramBench::new();
    for (pod, client) in FAMILIES {
        bench.reflect(&TestFrame::tcp(at(pod, APP_PORT), at(client, 40_000), ACK), 0, Reason::ReflectOther);
        bench.reflect(&TestFrame::tcp(at(pod, 81), at(client, 700), ACK), 0, Reason::ReflectOther);
        bench.reflect(&TestFrame::tcp(at(pod, APP_PORT), at(client, 700), ACK), 0, Reason::ReflectNotOurs);
        bench.reflect(&TestFrame::other(pod, client, 17, vec![0; 20]), 0, Reason::ReflectOther);
        bench.reflect(&TestFrame::tcp(at(pod, APP_PORT), at(client, 700), ACK).vlan(), 0, Reason::ReflectNotIp);
    }
    bench.reflect(
        &TestFrame::tcp(at(POD_V4, APP_PORT), at(CLIENT_V4, 700), ACK).v4_fragment(0x2000),
        0,
        Reason::ReflectOther,
    );
}

#[test]
fn the_apps_answers_turn_around_also_when_the_port_is_disarmed() {
    let mut bench = ProgramBench::new();
    for local in LOCAL {
        let answer = |port| TestFrame::tcp(at(local, APP_PORT), at(local, port), ACK);
        let (agent, accepted) = bench.connection(local, 702, true);
        let outcome = bench.reflect(&answer(702), 0, Reason::ReflectReply);
        assert_eq!(outcome.mark, MARK);
        bench.datapath.disarm(APP_PORT).unwrap();
        bench.reflect(&answer(702), 0, Reason::ReflectReply);
        bench.datapath.arm(APP_PORT, SteerGate::AppListening).unwrap();
        // A client's own connection from a reserved port.
        let (client, other) = bench.connection(local, 703, false);
        bench.reflect(&answer(703), 0, Reason::ReflectNotOurs);
        drop((client, other));
        // The agent has closed first: late segments are its own.
        ProgramBench::end(agent, accepted);
        let start = Instant::now();
        while bench.run(program::REFLECT, &answer(702).bytes(), 0).reasons != [Reason::ReflectReplyTimeWait] {
            assert!(start.elapsed() < patience());
            std::thread::yield_now();
        }
    }
}

#[test]
fn while_the_agent_connects_only_an_answer_to_its_syn_turns_around() {
    let mut bench = ProgramBench::new();
    for (pod, client) in FAMILIES {
        // Nobody is at the client's address: the socket stays in SYN_SENT.
        let _connecting = bench.net.run(|| {
            let to = at(client, APP_PORT);
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
            bench.datapath.make_leg(socket.as_fd(), false).unwrap();
            socket.bind(&at(pod, 704).into()).unwrap();
            socket.set_nonblocking(true).unwrap();
            assert_eq!(socket.connect(&to.into()).unwrap_err().raw_os_error(), Some(libc::EINPROGRESS));
            socket
        });
        // As the app sends it, to the client's address; the agent's socket is pod:704 → client:APP_PORT.
        let answer = |flags| TestFrame::tcp(at(pod, APP_PORT), at(client, 704), flags);
        bench.reflect(&answer(ACK), 0, Reason::ReflectNotOurs);
        bench.reflect(&answer(FIN | ACK), 0, Reason::ReflectNotOurs);
        bench.reflect(&answer(SYN | ACK), 0, Reason::ReflectReply);
        bench.reflect(&answer(RST | ACK), 0, Reason::ReflectReply);
    }
}

/// An ICMP error of `kind` that quotes a segment.
fn icmp_error(pod: IpAddr, client: IpAddr, kind: u8, quoted: &TestFrame) -> TestFrame {
    let mut payload = vec![kind, 1, 0, 0, 0, 0, 0, 0];
    payload.extend(quoted.packet());
    TestFrame::other(pod, client, if pod.is_ipv4() { 1 } else { 58 }, payload)
}

#[test]
fn an_icmp_error_about_the_agents_packet_turns_around_inside_and_out() {
    let mut bench = ProgramBench::new();
    for local in LOCAL {
        let (_agent, _accepted) = bench.connection(local, 705, true);
        let quoted = |port| TestFrame::tcp(at(local, port), at(local, APP_PORT), SYN);
        let kinds: &[u8] = if local.is_ipv4() { &[3, 11, 12] } else { &[1, 2, 3, 4] };
        for kind in kinds {
            let error = icmp_error(local, local, *kind, &quoted(705));
            let outcome = bench.reflect(&error, 0, Reason::ReflectIcmp);
            assert_eq!(outcome.mark, MARK);
            bench.reflect(&icmp_error(local, local, *kind, &quoted(706)), 0, Reason::ReflectOther);
            bench.reflect(&icmp_error(local, local, *kind, &quoted(40_000)), 0, Reason::ReflectOther);
        }
        // An echo request is no error.
        let echo = if local.is_ipv4() { 8 } else { 128 };
        bench.reflect(&icmp_error(local, local, echo, &quoted(705)), 0, Reason::ReflectOther);
    }
}

#[test]
fn an_icmp_error_is_swapped_in_both_headers() {
    let mut bench = ProgramBench::new();
    for (pod, client) in FAMILIES {
        let _connecting = bench.net.run(|| {
            let to = at(client, APP_PORT);
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
            bench.datapath.make_leg(socket.as_fd(), false).unwrap();
            socket.bind(&at(pod, 707).into()).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _in_progress = socket.connect(&to.into());
            socket
        });
        let kind = if pod.is_ipv4() { 3 } else { 1 };
        // The pod refuses what it saw as client:707 → pod:APP_PORT.
        let seen = TestFrame::tcp(at(client, 707), at(pod, APP_PORT), SYN);
        let outcome = bench.reflect(&icmp_error(pod, client, kind, &seen), 0, Reason::ReflectIcmp);
        let sent = TestFrame::tcp(at(pod, 707), at(client, APP_PORT), SYN);
        assert_eq!(outcome.bytes[ETHERNET..], icmp_error(client, pod, kind, &sent).packet());
    }
}
