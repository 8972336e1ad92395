//! What the programs decide over crafted packets, by `BPF_PROG_TEST_RUN`: the counter that moved, the verdict, and for
//! `reflect` the bytes. Sockets are real. An assignment cannot be carried out in a test run, so it is counted as decided
//! and as failed; that it leads to the agent is `traffic`'s to show.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use aya::programs::{TestRun, TestRunOptions};
use redir_abi::{HEARTBEAT_LIMIT_NANOS, MARK, Reason, program};
use socket2::{Domain, Socket, Type};

use super::super::maps::monotonic_nanos;
use super::super::{Attach, Device, Framing, Gate, PodDatapath, object};
use super::packets::*;
use super::rig::*;

/// `TCX_NEXT`, `TCX_DROP`, `TCX_REDIRECT` as a test run returns them.
const NEXT: u32 = u32::MAX;
const DROP: u32 = 2;
const REDIRECT: u32 = 7;

const LOCAL: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// A pod with an app and the agent's listeners, its programs loaded and attached nowhere.
struct Bench {
    net: Net,
    app: Option<App>,
    listeners: Option<Listeners>,
    datapath: PodDatapath,
    heartbeat: Heartbeat,
    /// The worker's last sign of life, if it is not to be a fresh one for every packet.
    beat: Option<u64>,
}

#[derive(Debug)]
struct Outcome {
    verdict: u32,
    reasons: Vec<Reason>,
    bytes: Vec<u8>,
    mark: u32,
}

impl Bench {
    fn new() -> Self {
        let net = Net::new();
        net.sh("ip addr add 10.77.0.2/32 dev lo; ip addr add fd77::2/128 dev lo nodad; ip route add 10.77.0.0/24 dev lo; ip -6 route add fd77::/64 dev lo");
        let (app, listeners) = (App::new(&net), Listeners::new(&net));
        // Loopback stands for the pod's device: nothing is attached to it.
        let device = Device { index: 1, name: "lo".into(), framing: Framing::Ethernet };
        let addresses = [POD_V4, POD_V6, LOCAL[0], LOCAL[1]];
        let mut datapath = load(&net, &[device], &addresses, &listeners, Attach::Auto);
        datapath.arm(APP_PORT, Gate::AppListening).unwrap();
        let heartbeat = Heartbeat::of(&datapath);
        Self { net, app: Some(app), listeners: Some(listeners), datapath, heartbeat, beat: None }
    }

    fn run(&mut self, program: &'static str, frame: &[u8], mark: u32) -> Outcome {
        match self.beat {
            Some(nanos) => self.heartbeat.set(nanos),
            None => self.heartbeat.beat(),
        }
        let since = Since::now(&self.datapath);
        let mut ctx_in = [0; 12];
        ctx_in[8..].copy_from_slice(&mark.to_ne_bytes());
        let (mut bytes, mut ctx_out) = (vec![0; 512], [0; 256]);
        let program = object::classifier(&mut self.datapath.ebpf, program).unwrap();
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut bytes),
            ctx_in: Some(&ctx_in),
            ctx_out: Some(&mut ctx_out),
            ..TestRunOptions::new()
        };
        let result = self.net.run(|| program.test_run(options)).unwrap();
        bytes.truncate(result.data_size_out.try_into().unwrap());
        let mark = u32::from_ne_bytes(ctx_out[8..12].try_into().unwrap());
        let moved = since.moved(&self.datapath);
        // A lookup of a listener runs nothing here: the companion is not attached.
        Outcome {
            verdict: result.return_value,
            reasons: moved.iter().map(|(reason, _)| *reason).collect(),
            bytes,
            mark,
        }
    }

    /// Runs `steer` and checks that it decided so, and left the packet alone.
    #[track_caller]
    fn steer(&mut self, frame: &Frame, expected: Reason) {
        self.steer_by(program::STEER, frame, 0, expected);
    }

    #[track_caller]
    fn steer_by(&mut self, program: &'static str, frame: &Frame, mark: u32, expected: Reason) {
        let bytes = frame.bytes();
        let outcome = self.run(program, &bytes, mark);
        let assigns = matches!(expected, Reason::SteerAssigned | Reason::SteerCookie);
        let all = if assigns { vec![expected, Reason::SteerAssignFailed] } else { vec![expected] };
        assert_eq!(outcome.reasons, all, "{frame:?}");
        assert_eq!((outcome.verdict, outcome.mark), (NEXT, mark), "{frame:?}");
        assert!(outcome.bytes == bytes, "steer changed the packet: {frame:?}");
    }

    /// Runs `reflect` over a packet with a mark, and checks the reason and that the verdict is the reason's.
    #[track_caller]
    fn reflect(&mut self, frame: &Frame, mark: u32, expected: Reason) -> Outcome {
        let bytes = frame.bytes();
        let outcome = self.run(program::REFLECT, &bytes, mark);
        assert_eq!(outcome.reasons, [expected], "{frame:?}");
        let verdict = match expected.verdict() {
            redir_abi::Verdict::Next => NEXT,
            redir_abi::Verdict::Drop => DROP,
            redir_abi::Verdict::Redirect => REDIRECT,
        };
        assert_eq!(outcome.verdict, verdict, "{frame:?}");
        if verdict != REDIRECT {
            assert!(outcome.bytes == bytes && outcome.mark == mark, "reflect changed a packet it left: {frame:?}");
        }
        outcome
    }

    /// A connection to the app over loopback, from a given port.
    fn connection(&self, address: IpAddr, from: u16, mark: u32) -> (TcpStream, TcpStream) {
        let to = SocketAddr::new(address, APP_PORT);
        let stream = self.net.run(|| {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
            socket.set_reuse_address(true).unwrap();
            socket.set_mark(mark).unwrap();
            socket.bind(&SocketAddr::new(address, from).into()).unwrap();
            socket.connect_timeout(&to.into(), PATIENCE).unwrap();
            TcpStream::from(socket)
        });
        let (accepted, _) = accept(self.app.as_ref().unwrap().of(address));
        (stream, accepted)
    }

    /// Runs the packet until its reason is the expected one: the kernel closes connections in its own time.
    fn steer_until(&mut self, frame: &Frame, expected: Reason) {
        let start = Instant::now();
        loop {
            let outcome = self.run(program::STEER, &frame.bytes(), 0);
            if outcome.reasons == [expected] {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{:?} instead of {expected:?}", outcome.reasons);
            std::thread::yield_now();
        }
    }
}

fn at(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}

fn to_app(client: IpAddr, pod: IpAddr, flags: u8) -> Frame {
    Frame::tcp(at(client, 40_000), at(pod, APP_PORT), flags)
}

#[test]
fn a_syn_is_steered_on_every_kind_of_device() {
    let mut bench = Bench::new();
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
    let mut bench = Bench::new();
    let mut frame = to_app(CLIENT_V4, POD_V4, SYN).bytes();
    // Its destination reads as version 4 without options, its protocol byte as UDP.
    frame[0] = 0x45;
    frame[9] = 17;
    let outcome = bench.run(program::STEER_L3, &frame, 0);
    assert_eq!((outcome.verdict, outcome.reasons), (NEXT, vec![Reason::SteerNotTcp]));
}

#[test]
fn the_agents_own_packets_are_left() {
    let mut bench = Bench::new();
    for (pod, client) in FAMILIES {
        bench.steer_by(program::STEER, &to_app(client, pod, SYN), MARK, Reason::SteerOwnMark);
        bench.steer_by(program::STEER, &to_app(client, pod, SYN), MARK + 1, Reason::SteerAssigned);
    }
}

#[test]
fn other_protocols_and_vlans_are_left() {
    let mut bench = Bench::new();
    for (pod, client) in FAMILIES {
        bench.steer(&Frame::other(client, pod, 17, vec![0; 20]), Reason::SteerNotTcp);
        bench.steer(&to_app(client, pod, SYN).vlan(), Reason::SteerNotIp);
    }
    let mut arp = to_app(CLIENT_V4, POD_V4, SYN).bytes();
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    assert_eq!(bench.run(program::STEER, &arp, 0).reasons, [Reason::SteerNotIp]);
}

#[test]
fn ports_are_steered_one_by_one() {
    let mut bench = Bench::new();
    for (pod, client) in FAMILIES {
        for port in [APP_PORT - 1, APP_PORT + 1, APP_PORT + 64, 0, u16::MAX] {
            bench.steer(&Frame::tcp(at(client, 40_000), at(pod, port), SYN), Reason::SteerNotArmed);
        }
    }
    bench.datapath.disarm(APP_PORT).unwrap();
    bench.steer(&to_app(CLIENT_V4, POD_V4, SYN), Reason::SteerNotArmed);
    for port in [0, 63, 64, u16::MAX] {
        bench.datapath.arm(port, Gate::Always).unwrap();
        bench.steer(&Frame::tcp(at(CLIENT_V4, 40_000), at(POD_V4, port), SYN), Reason::SteerAssigned);
    }
}

#[test]
fn fragments_are_left() {
    const MORE: u16 = 0x2000;
    const DO_NOT: u16 = 0x4000;
    let mut bench = Bench::new();
    let syn = to_app(CLIENT_V4, POD_V4, SYN);
    bench.steer(&syn.clone().v4_fragment(MORE), Reason::SteerFragment);
    bench.steer(&syn.clone().v4_fragment(1), Reason::SteerFragment);
    bench.steer(&syn.clone().v4_fragment(MORE | 1), Reason::SteerFragment);
    bench.steer(&syn.v4_fragment(DO_NOT), Reason::SteerAssigned);
    bench.steer(&to_app(CLIENT_V6, POD_V6, SYN).v6_extension(44, [0; 7]), Reason::SteerFragment);
}

#[test]
fn ip_options_do_not_hide_a_syn() {
    let mut bench = Bench::new();
    let no_operation = [1, 1, 1, 0];
    bench.steer(&to_app(CLIENT_V4, POD_V4, SYN).v4_options(&no_operation), Reason::SteerAssigned);
    bench.steer(&to_app(CLIENT_V4, POD_V4, SYN).v4_options(&[1; 40]), Reason::SteerAssigned);
    let other = Frame::tcp(at(CLIENT_V4, 40_000), at(POD_V4, 81), SYN).v4_options(&no_operation);
    bench.steer(&other, Reason::SteerNotArmed);
    bench.steer(&Frame::other(CLIENT_V4, POD_V4, 17, vec![0; 20]).v4_options(&no_operation), Reason::SteerNotTcp);
}

#[test]
fn of_ipv6_extensions_only_big_tcps_own_is_read() {
    const JUMBO: [u8; 7] = [0, 0xc2, 4, 0, 1, 0, 0];
    let mut bench = Bench::new();
    let syn = to_app(CLIENT_V6, POD_V6, SYN);
    bench.steer(&syn.clone().v6_extension(0, JUMBO), Reason::SteerAssigned);
    bench.steer(&syn.clone().v6_extension(0, [0, 1, 4, 0, 0, 0, 0]), Reason::SteerExtension);
    bench.steer(&syn.clone().v6_extension(0, JUMBO).v6_extension(60, [0, 1, 4, 0, 0, 0, 0]), Reason::SteerExtension);
    for kind in [43, 60] {
        bench.steer(&syn.clone().v6_extension(kind, [0, 1, 4, 0, 0, 0, 0]), Reason::SteerExtension);
    }
    bench.steer(&Frame::other(CLIENT_V6, POD_V6, 17, vec![0; 20]), Reason::SteerNotTcp);
}

#[test]
fn broken_headers_are_left() {
    let mut bench = Bench::new();
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
    let mut bench = Bench::new();
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
    let mut bench = Bench::new();
    for (stranger, client) in [("10.77.0.3".parse().unwrap(), CLIENT_V4), ("fd77::3".parse().unwrap(), CLIENT_V6)] {
        bench.steer(&to_app(client, stranger, SYN), Reason::SteerNotPodIp);
        // On lo every destination is local.
        bench.steer_by(program::STEER_LO, &to_app(client, stranger, SYN), 0, Reason::SteerAssigned);
    }
}

#[test]
fn a_bypassed_client_goes_to_the_app_until_its_time_is_over() {
    let mut bench = Bench::new();
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
fn without_a_fresh_heartbeat_everything_goes_to_the_app() {
    let mut bench = Bench::new();
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
    let mut bench = Bench::new();
    bench.app = None;
    until_closed(&bench.net, APP_PORT);
    for (pod, client) in FAMILIES {
        bench.steer(&to_app(client, pod, SYN), Reason::SteerNotListening);
        bench.datapath.arm(APP_PORT, Gate::Always).unwrap();
        bench.steer(&to_app(client, pod, SYN), Reason::SteerAssigned);
        bench.datapath.arm(APP_PORT, Gate::AppListening).unwrap();
        bench.steer(&to_app(client, pod, SYN), Reason::SteerNotListening);
    }
}

#[test]
fn without_a_listener_of_its_family_a_syn_goes_to_the_app() {
    let mut bench = Bench::new();
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
    let mut bench = Bench::new();
    for local in LOCAL {
        let (client, _accepted) = bench.connection(local, 0, 0);
        let from = client.local_addr().unwrap();
        for flags in [SYN, ACK, ACK | PSH] {
            bench.steer(&Frame::tcp(from, at(local, APP_PORT), flags), Reason::SteerBusy);
        }
    }
}

#[test]
fn a_syn_in_time_wait_is_left_to_the_companion() {
    let mut bench = Bench::new();
    for local in LOCAL {
        let (client, accepted) = bench.connection(local, 0, 0);
        let from = client.local_addr().unwrap();
        drop(accepted);
        drop(client);
        let syn = Frame::tcp(from, at(local, APP_PORT), SYN);
        bench.steer_until(&syn, Reason::SteerTimeWaitRecorded);
        bench.steer(&Frame::tcp(from, at(local, APP_PORT), ACK), Reason::SteerBusy);
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
    let mut bench = Bench::new();
    let mut left = Vec::new();
    for local in LOCAL {
        let (client, accepted) = bench.connection(local, 777, 0);
        drop(accepted);
        drop(client);
        bench.steer_until(&Frame::tcp(at(local, 777), at(local, APP_PORT), SYN), Reason::SteerTimeWait);
        let (client, accepted) = bench.connection(local, 0, 0);
        left.push(client.local_addr().unwrap());
        drop(accepted);
        drop(client);
    }
    bench.app = None;
    for from in left {
        bench.steer_until(&Frame::tcp(from, at(from.ip(), APP_PORT), SYN), Reason::SteerNotListening);
    }
}

#[test]
fn the_agents_packets_turn_around() {
    let mut bench = Bench::new();
    for (pod, client) in FAMILIES {
        for flags in [SYN, ACK, FIN | ACK, RST] {
            // It comes from the pod's address; the app is to see the client's.
            let out = Frame::tcp(at(pod, 700), at(client, APP_PORT), flags);
            let outcome = bench.reflect(&out, MARK, Reason::ReflectOut);
            let back = Frame::tcp(at(client, 700), at(pod, APP_PORT), flags);
            assert_eq!(outcome.bytes[ETHERNET..], back.packet());
            // To the device's own address.
            assert_eq!(outcome.bytes[..6], SOURCE_MAC);
            assert_eq!(outcome.mark, MARK);
        }
    }
}

#[test]
fn options_and_big_tcp_turn_around_too() {
    let mut bench = Bench::new();
    let options = Frame::tcp(at(POD_V4, 700), at(CLIENT_V4, APP_PORT), ACK).v4_options(&[1; 8]);
    let outcome = bench.reflect(&options, MARK, Reason::ReflectOut);
    assert_eq!(
        outcome.bytes[ETHERNET..],
        Frame::tcp(at(CLIENT_V4, 700), at(POD_V4, APP_PORT), ACK).v4_options(&[1; 8]).packet()
    );
    let jumbo = [0, 0xc2, 4, 0, 1, 0, 0];
    let big = Frame::tcp(at(POD_V6, 700), at(CLIENT_V6, APP_PORT), ACK).v6_extension(0, jumbo);
    let outcome = bench.reflect(&big, MARK, Reason::ReflectOut);
    let back = Frame::tcp(at(CLIENT_V6, 700), at(POD_V6, APP_PORT), ACK).v6_extension(0, jumbo);
    assert_eq!(outcome.bytes[ETHERNET..], back.packet());
}

#[test]
fn half_a_packet_of_the_agent_never_leaves_the_pod() {
    let mut bench = Bench::new();
    let out = Frame::tcp(at(POD_V4, 700), at(CLIENT_V4, APP_PORT), ACK);
    bench.reflect(&out.v4_fragment(0x2000), MARK, Reason::ReflectMarkedOther);
    let out = Frame::tcp(at(POD_V6, 700), at(CLIENT_V6, APP_PORT), ACK);
    bench.reflect(&out.v6_extension(44, [0; 7]), MARK, Reason::ReflectMarkedOther);
}

#[test]
fn a_strangers_mark_of_the_same_value_changes_nothing() {
    let mut bench = Bench::new();
    for (pod, client) in FAMILIES {
        bench.reflect(&Frame::tcp(at(pod, 40_000), at(client, 443), SYN), MARK, Reason::ReflectOther);
        bench.reflect(&Frame::tcp(at(pod, 700), at(client, 443), SYN), MARK, Reason::ReflectOther);
        bench.reflect(&Frame::tcp(at(pod, 40_000), at(client, APP_PORT), SYN), MARK, Reason::ReflectOther);
        bench.reflect(&Frame::other(pod, client, 17, vec![0; 20]), MARK, Reason::ReflectOther);
    }
}

#[test]
fn a_syn_into_a_live_connection_of_the_client_is_dropped() {
    let mut bench = Bench::new();
    for local in LOCAL {
        let out = |flags| Frame::tcp(at(local, 701), at(local, APP_PORT), flags);
        bench.reflect(&out(SYN), MARK, Reason::ReflectOut);
        let (client, accepted) = bench.connection(local, 701, 0);
        bench.reflect(&out(SYN), MARK, Reason::ReflectTupleTaken);
        bench.reflect(&out(ACK), MARK, Reason::ReflectOut);
        drop((client, accepted));
    }
}

#[test]
fn what_is_not_the_agents_leaves_the_pod() {
    let mut bench = Bench::new();
    for (pod, client) in FAMILIES {
        bench.reflect(&Frame::tcp(at(pod, APP_PORT), at(client, 40_000), ACK), 0, Reason::ReflectOther);
        bench.reflect(&Frame::tcp(at(pod, 81), at(client, 700), ACK), 0, Reason::ReflectOther);
        bench.reflect(&Frame::tcp(at(pod, APP_PORT), at(client, 700), ACK), 0, Reason::ReflectNotOurs);
        bench.reflect(&Frame::other(pod, client, 17, vec![0; 20]), 0, Reason::ReflectOther);
        bench.reflect(&Frame::tcp(at(pod, APP_PORT), at(client, 700), ACK).vlan(), 0, Reason::ReflectNotIp);
    }
    bench.reflect(
        &Frame::tcp(at(POD_V4, APP_PORT), at(CLIENT_V4, 700), ACK).v4_fragment(0x2000),
        0,
        Reason::ReflectOther,
    );
}

#[test]
fn the_apps_answers_turn_around_also_when_the_port_is_disarmed() {
    let mut bench = Bench::new();
    for local in LOCAL {
        let answer = |port| Frame::tcp(at(local, APP_PORT), at(local, port), ACK);
        let (agent, accepted) = bench.connection(local, 702, MARK);
        let outcome = bench.reflect(&answer(702), 0, Reason::ReflectReply);
        assert_eq!(outcome.mark, MARK);
        bench.datapath.disarm(APP_PORT).unwrap();
        bench.reflect(&answer(702), 0, Reason::ReflectReply);
        bench.datapath.arm(APP_PORT, Gate::AppListening).unwrap();
        // A client's own connection from a reserved port.
        let (client, other) = bench.connection(local, 703, 0);
        bench.reflect(&answer(703), 0, Reason::ReflectNotOurs);
        drop((client, other));
        // The agent has closed first: late segments are its own.
        drop(agent);
        drop(accepted);
        let start = Instant::now();
        while bench.run(program::REFLECT, &answer(702).bytes(), 0).reasons != [Reason::ReflectReplyTimeWait] {
            assert!(start.elapsed() < PATIENCE);
            std::thread::yield_now();
        }
    }
}

#[test]
fn while_the_agent_connects_only_an_answer_to_its_syn_turns_around() {
    let mut bench = Bench::new();
    for (pod, client) in FAMILIES {
        // Nobody is at the client's address: the socket stays in SYN_SENT.
        let _connecting = bench.net.run(|| {
            let to = at(client, APP_PORT);
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
            socket.set_mark(MARK).unwrap();
            socket.bind(&at(pod, 704).into()).unwrap();
            socket.set_nonblocking(true).unwrap();
            assert_eq!(socket.connect(&to.into()).unwrap_err().raw_os_error(), Some(libc::EINPROGRESS));
            socket
        });
        // As the app sends it, to the client's address; the agent's socket is pod:704 → client:APP_PORT.
        let answer = |flags| Frame::tcp(at(pod, APP_PORT), at(client, 704), flags);
        bench.reflect(&answer(ACK), 0, Reason::ReflectNotOurs);
        bench.reflect(&answer(FIN | ACK), 0, Reason::ReflectNotOurs);
        bench.reflect(&answer(SYN | ACK), 0, Reason::ReflectReply);
        bench.reflect(&answer(RST | ACK), 0, Reason::ReflectReply);
    }
}

/// An ICMP error of `kind` that quotes a segment.
fn icmp_error(pod: IpAddr, client: IpAddr, kind: u8, quoted: &Frame) -> Frame {
    let mut payload = vec![kind, 1, 0, 0, 0, 0, 0, 0];
    payload.extend(quoted.packet());
    Frame::other(pod, client, if pod.is_ipv4() { 1 } else { 58 }, payload)
}

#[test]
fn an_icmp_error_about_the_agents_packet_turns_around_inside_and_out() {
    let mut bench = Bench::new();
    for local in LOCAL {
        let (_agent, _accepted) = bench.connection(local, 705, MARK);
        let quoted = |port| Frame::tcp(at(local, port), at(local, APP_PORT), SYN);
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
    let mut bench = Bench::new();
    for (pod, client) in FAMILIES {
        let _connecting = bench.net.run(|| {
            let to = at(client, APP_PORT);
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
            socket.set_mark(MARK).unwrap();
            socket.bind(&at(pod, 707).into()).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _in_progress = socket.connect(&to.into());
            socket
        });
        let kind = if pod.is_ipv4() { 3 } else { 1 };
        // The pod refuses what it saw as client:707 → pod:APP_PORT.
        let seen = Frame::tcp(at(client, 707), at(pod, APP_PORT), SYN);
        let outcome = bench.reflect(&icmp_error(pod, client, kind, &seen), 0, Reason::ReflectIcmp);
        let sent = Frame::tcp(at(pod, 707), at(client, APP_PORT), SYN);
        assert_eq!(outcome.bytes[ETHERNET..], icmp_error(client, pod, kind, &sent).packet());
    }
}
