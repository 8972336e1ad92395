//! What a worker that was taken over can do with the sockets that the guardian has given it: reach the pod's app, and nothing
//! else. It plays the attacker with the very descriptors that come over the control socket.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::mman::{MapFlags, ProtFlags, mmap, munmap},
    time::{ClockId, clock_gettime},
};
use redir_abi::MARK;
use redir_rig::{
    topology::{FAMILIES, Family, Host},
    wait,
};
use socket2::{Domain, SockAddr, SockRef, Type};

use super::*;

/// Generous, for a machine with much to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// The armed pod, its app on port 8080, and one more service on its loopback addresses.
struct TakenOver {
    rig: PodsRig,
    /// What the worker got for the armed port.
    handed: Vec<OwnedFd>,
    apps: Vec<TcpListener>,
    _private: Vec<TcpListener>,
}

impl TakenOver {
    fn new(attach: AttachSetting) -> Self {
        let mut rig = PodsRig::new(attach);
        let pod = &rig.topology.pods[0].namespace;
        let listen = |ip: IpAddr, port: u16| pod.run(|| listener(ip, port)).expect("inside");
        let apps = FAMILIES.map(|family| listen(family.any(), 8080)).into();
        let private = FAMILIES.map(|family| listen(family.loopback(), 6379)).into();
        let (_, handed) = rig.arm(8080).expect("armed");
        Self { rig, handed, apps, _private: private }
    }

    fn pod(&self) -> &Host {
        &self.rig.topology.pods[0]
    }

    fn leg(&mut self, family: Family, port: u16) -> Socket {
        let ip = self.pod().ip(family);
        self.leg_at(ip, port)
    }

    fn leg_at(&mut self, ip: IpAddr, port: u16) -> Socket {
        let (reply, mut fds) = self.rig.sockets(ip, &[port]).expect("granted");
        assert_eq!(fds.len(), 1, "{reply:?}");
        Socket::from(fds.remove(0))
    }

    /// A client's connection, and the worker's end of it.
    fn accepted(&mut self, family: Family) -> (TcpStream, Socket) {
        let [v4, v6, heartbeat, ..] = &self.handed[..] else { panic!("listeners and a heartbeat") };
        beat(heartbeat);
        let to = self.pod().at(family, 8080);
        let from = &self.rig.topology.client.namespace;
        let client = from.run(|| TcpStream::connect_timeout(&to, PATIENCE)).expect("inside").expect("connected");
        let listener = SockRef::from(if family == Family::V4 { v4 } else { v6 });
        assert!(waits(&*listener, PATIENCE), "steered");
        (client, listener.accept().expect("accepted").0)
    }

    /// Until the programs have dropped so many packets for a reason.
    fn until_dropped(&mut self, reason: Reason, packets: u64) {
        wait::until_true(format!("{packets} times {reason:?}"), PATIENCE, || Ok(self.count(reason) >= packets))
            .expect("dropped");
    }

    fn count(&mut self, reason: Reason) -> u64 {
        let (Reply::Stats { counters }, _) = self.rig.ask(Request::Stats { pod: web() }).expect("granted") else {
            panic!("counters")
        };
        counters[reason as usize]
    }

    /// A leg of the pod reaches the app here, as a client of that address.
    fn reaches_app(&mut self, family: Family, port: u16) {
        let to = self.rig.topology.client.at(family, 8080);
        let client = SocketAddr::new(to.ip(), port);
        let leg = self.leg(family, port);
        leg.set_nonblocking(false).expect("flag");
        leg.connect_timeout(&to.into(), PATIENCE).expect("the app");
        let (mut app, peer) = accept(&self.apps[usize::from(family == Family::V6)]);
        assert_eq!(peer, client);
        (&leg).write_all(b"hello").expect("sent");
        leg.shutdown(Shutdown::Write).expect("shut");
        let mut got = String::new();
        app.read_to_string(&mut got).expect("received");
        assert_eq!(got, "hello");
    }
}

fn listener(ip: IpAddr, port: u16) -> TcpListener {
    let at = SocketAddr::new(ip, port);
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, None).expect("socket");
    if at.is_ipv6() {
        socket.set_only_v6(true).expect("option");
    }
    socket.bind(&at.into()).expect("bound");
    socket.listen(64).expect("listens");
    socket.into()
}

/// A connection that is begun; whether it comes about is seen later.
fn begin(socket: &Socket, to: SocketAddr) {
    socket.set_nonblocking(true).expect("flag");
    let begun = socket.connect(&to.into()).expect_err("under way");
    assert_eq!(begun.raw_os_error(), Some(libc::EINPROGRESS), "{to}");
}

/// The same from somewhere else.
fn begin_from(host: &Host, from: Option<SocketAddr>, to: SocketAddr) -> Socket {
    let begin = || {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).expect("socket");
        if let Some(from) = from {
            socket.bind(&from.into()).expect("bound");
        }
        begin(&socket, to);
        socket
    };
    host.namespace.run(begin).expect("inside")
}

fn is_connected(socket: &Socket) -> bool {
    socket.peer_addr().is_ok()
}

fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    assert!(waits(listener, PATIENCE), "nobody connected");
    listener.accept().expect("accepted")
}

fn waits(listener: &impl AsFd, limit: Duration) -> bool {
    let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::try_from(limit).expect("short")).expect("polled") == 1
}

/// Shows the programs that the worker lives, as the worker does.
#[expect(unsafe_code, reason = "shared memory with the programs")]
fn beat(heartbeat: &OwnedFd) {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("a clock");
    let nanos = u64::try_from(Duration::from(now).as_nanos()).expect("some centuries");
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a fresh mapping of a whole page, written to once and unmapped.
    unsafe {
        let page =
            mmap(None, 4096.try_into().expect("a page"), access, MapFlags::MAP_SHARED, heartbeat, 0).expect("mapped");
        page.cast::<u64>().write_volatile(nanos);
        munmap(page, 4096).expect("unmapped");
    }
}

/// Takes a socket's connection, or its queue, off it, after which it may connect anew.
#[expect(unsafe_code, reason = "no wrapper for an address without a family")]
fn disconnect(socket: &Socket) {
    let nowhere = [0_u8; 16];
    // SAFETY: the address is as long as the length says; its family is AF_UNSPEC.
    let result = unsafe { libc::connect(socket.as_raw_fd(), nowhere.as_ptr().cast(), 16) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// Fast Open's way to send data with the SYN, which needs no cookie if the sender says so.
fn send_with_syn(socket: &Socket, to: SocketAddr) {
    let sent = socket.send_to_with_flags(b"GET / HTTP/1.0\r\n\r\n", &SockAddr::from(to), libc::MSG_FASTOPEN);
    // It says that the connection is under way, or how it has ended.
    assert!(sent.is_err() || sent.is_ok_and(|sent| sent > 0));
}

#[test]
fn a_leg_reaches_the_app_and_nothing_else() {
    for attach in hooks() {
        let mut taken_over = TakenOver::new(attach);
        let topology = &taken_over.rig.topology;
        let hosts = [&topology.peer, &topology.node, &topology.client];
        let mut elsewhere = Vec::new();
        let mut targets = Vec::new();
        for family in FAMILIES {
            // Another pod, the node, and what is outside: the API server's port, and the agent's own kind of ports.
            for host in hosts {
                for port in [6443, 10_250] {
                    elsewhere.push(host.namespace.run(|| listener(host.ip(family), port)).expect("inside"));
                    targets.push((family, host.at(family, port)));
                }
            }
            // Services of the pod itself that nobody intercepts.
            targets.push((family, SocketAddr::new(family.loopback(), 6379)));
            targets.push((family, taken_over.pod().at(family, 81)));
        }
        let mut legs = Vec::new();
        for (n, (family, to)) in (0..).zip(targets) {
            let [leg, fast] = [700 + n, 20_700 + n].map(|port| taken_over.leg(family, port));
            begin(&leg, to);
            send_with_syn(&fast, to);
            legs.extend([(to, leg), (to, fast)]);
        }
        let dropped = legs.len() as u64;
        taken_over.until_dropped(Reason::ReflectElsewhere, dropped);
        for (to, leg) in &legs {
            assert!(!is_connected(leg), "{attach:?} {to}");
        }
        assert!(elsewhere.iter().all(|listener| !waits(listener, Duration::ZERO)), "{attach:?}");
        drop(legs);
        let armed = taken_over.rig.pods.armed.get_mut(&web()).expect("armed");
        assert!(armed.new_elsewhere() >= dropped, "the guardian is told");
        // Steering goes on for the others.
        assert_eq!(taken_over.count(Reason::ReflectRerouted), 0);
        for family in FAMILIES {
            taken_over.reaches_app(family, 600);
        }
    }
}

#[test]
fn a_leg_whose_source_the_pod_rewrites_reaches_nobody_either() {
    for attach in hooks() {
        let mut taken_over = TakenOver::new(attach);
        let rule = "add table ip m; add chain ip m out { type nat hook postrouting priority 100; }; \
                    add rule ip m out oifname eth0 meta l4proto tcp masquerade to :40000-50000";
        taken_over.pod().namespace.output(&["nft", rule]).expect("a rule");
        let topology = &taken_over.rig.topology;
        let elsewhere = topology.peer.namespace.run(|| listener(topology.peer.v4.into(), 6443)).expect("inside");
        let to = topology.peer.at(Family::V4, 6443);
        let leg = taken_over.leg(Family::V4, 700);
        begin(&leg, to);
        taken_over.until_dropped(Reason::ReflectRerouted, 1);
        assert!(!is_connected(&leg) && !waits(&elsewhere, Duration::ZERO));
    }
}

#[test]
fn a_leg_that_listens_gets_nobody_from_outside_or_inside() {
    for attach in hooks() {
        let mut taken_over = TakenOver::new(attach);
        let mut connections = Vec::new();
        let mut listening = Vec::new();
        for (family, port) in FAMILIES.into_iter().flat_map(|family| [(family, 700), (family, 20_700)]) {
            let leg = taken_over.leg(family, port);
            leg.listen(16).expect("it may");
            let topology = &taken_over.rig.topology;
            let at = taken_over.pod().at(family, port);
            for host in [&topology.client, &topology.peer, &topology.node, taken_over.pod()] {
                connections.push(begin_from(host, None, at));
            }
            listening.push(leg);
        }
        taken_over.until_dropped(Reason::FilterSyn, connections.len() as u64);
        assert!(connections.iter().all(|connection| !is_connected(connection)), "{attach:?}");
        assert!(listening.iter().all(|leg| !waits(leg, Duration::ZERO)), "{attach:?}");
    }
}

/// It could only wait: for the listener, such a connection is none of an intercepted port.
#[test]
fn a_program_of_the_pod_that_dials_the_agents_listener_is_refused_at_once() {
    for attach in hooks() {
        let mut taken_over = TakenOver::new(attach);
        let port = taken_over.rig.pods.armed[&web()].agent_port();
        for family in FAMILIES {
            let before = taken_over.count(Reason::LookupAgentPort);
            let at = SocketAddr::new(family.loopback(), port);
            let dial = || TcpStream::connect_timeout(&at, PATIENCE).expect_err("nobody's service");
            let refused = taken_over.pod().namespace.run(dial).expect("inside");
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{attach:?} {at}");
            assert_eq!(taken_over.count(Reason::LookupAgentPort), before + 1);
            // What is steered still gets there.
            drop(taken_over.accepted(family));
        }
        assert_eq!(taken_over.count(Reason::FilterSyn), 0);
    }
}

/// Both ends connect at once, each from its own port: no listener is needed, and neither end sends the first SYN alone.
#[test]
fn a_leg_does_not_meet_an_accomplice_half_way() {
    for attach in hooks() {
        let mut taken_over = TakenOver::new(attach);
        for family in FAMILIES {
            let leg = taken_over.leg(family, 700);
            let accomplice = taken_over.rig.topology.peer.at(family, 6443);
            begin(&leg, accomplice);
            let before = taken_over.count(Reason::FilterSyn);
            let at = taken_over.pod().at(family, 700);
            let other = begin_from(&taken_over.rig.topology.peer, Some(accomplice), at);
            taken_over.until_dropped(Reason::FilterSyn, before + 1);
            assert!(!is_connected(&leg) && !is_connected(&other), "{attach:?} {family:?}");
        }
    }
}

#[test]
fn a_leg_that_is_kept_beyond_the_release_of_the_pod_is_of_no_use() {
    for attach in hooks() {
        let mut taken_over = TakenOver::new(attach);
        let legs: Vec<_> = FAMILIES.map(|family| (family, taken_over.leg(family, 700))).into();
        let listening = taken_over.leg(Family::V4, 20_700);
        listening.listen(16).expect("it may");
        taken_over.rig.ask(Request::Disarm { pod: web(), port: 8080 }).expect("disarmed");
        taken_over.rig.ask(Request::Release { pod: web() }).expect("released");
        taken_over.rig.assert_restored();
        let topology = &taken_over.rig.topology;
        let mut others = Vec::new();
        for (family, leg) in &legs {
            let at = topology.peer.at(*family, 6443);
            others.push(topology.peer.namespace.run(|| listener(at.ip(), at.port())).expect("inside"));
            begin(leg, at);
        }
        let client = begin_from(&topology.client, None, taken_over.pod().at(Family::V4, 20_700));
        // Nothing counts any more. Each SYN has arrived once its sender repeats it.
        wait::until_true("the SYNs are repeated", PATIENCE, || {
            Ok(repeated(taken_over.pod()) == legs.len() && repeated(&topology.client) == 1)
        })
        .expect("nobody answers");
        assert!(legs.iter().all(|(_, leg)| !is_connected(leg)) && !is_connected(&client), "{attach:?}");
    }
}

/// How many connections of a host the kernel has begun again, as it does after a second without an answer.
fn repeated(host: &Host) -> usize {
    let begun = host.namespace.output(&["ss", "-Htno", "state", "syn-sent"]).expect("ss");
    begun.lines().filter(|line| line.contains("timer:(on,") && !line.contains(",0)")).count()
}

/// What the kernel has made for an accepted connection can be taken off it, and then it is any socket of the pod.
#[test]
fn what_the_worker_has_accepted_and_its_listeners_open_no_connection() {
    for attach in hooks() {
        let mut taken_over = TakenOver::new(attach);
        let peer = &taken_over.rig.topology.peer;
        let elsewhere = FAMILIES.map(|family| peer.namespace.run(|| listener(peer.ip(family), 6443)).expect("inside"));
        let outside = FAMILIES.map(|family| peer.at(family, 6443));
        let mut sockets = Vec::new();
        for (family, to) in FAMILIES.into_iter().zip(outside) {
            for to in [to, taken_over.pod().at(family, 81)] {
                let (client, accepted) = taken_over.accepted(family);
                disconnect(&accepted);
                begin(&accepted, to);
                sockets.push(accepted);
                drop(client);
            }
        }
        // One that is bound anew, to listen.
        let (_client, accepted) = taken_over.accepted(Family::V4);
        disconnect(&accepted);
        let at = taken_over.pod().at(Family::V4, 9000);
        accepted.bind(&at.into()).expect("it may");
        accepted.listen(16).expect("it may");
        let before = taken_over.count(Reason::FilterSyn);
        let client = begin_from(&taken_over.rig.topology.client, None, at);
        taken_over.until_dropped(Reason::FilterSyn, before + 1);
        assert!(!is_connected(&client) && !waits(&accepted, Duration::ZERO));
        // And the listeners, towards the pod's own services.
        for (family, handed) in FAMILIES.into_iter().zip(taken_over.handed.drain(..2)) {
            let listener = Socket::from(handed);
            disconnect(&listener);
            begin(&listener, SocketAddr::new(family.loopback(), 6379));
            sockets.push(listener);
        }
        taken_over.until_dropped(Reason::ReflectElsewhere, sockets.len() as u64);
        assert!(sockets.iter().all(|socket| !is_connected(socket)), "{attach:?}");
        assert!(elsewhere.iter().all(|listener| !waits(listener, Duration::ZERO)), "{attach:?}");
    }
}

#[test]
fn what_the_worker_has_accepted_is_of_no_use_beyond_the_release_of_the_pod() {
    for attach in hooks() {
        let mut taken_over = TakenOver::new(attach);
        let (_client, accepted) = taken_over.accepted(Family::V4);
        taken_over.rig.ask(Request::Disarm { pod: web(), port: 8080 }).expect("disarmed");
        taken_over.rig.ask(Request::Release { pod: web() }).expect("released");
        let peer = &taken_over.rig.topology.peer;
        let _elsewhere = peer.namespace.run(|| listener(peer.v4.into(), 6443)).expect("inside");
        disconnect(&accepted);
        begin(&accepted, peer.at(Family::V4, 6443));
        wait::until_true("the SYN is repeated", PATIENCE, || Ok(repeated(taken_over.pod()) == 1))
            .expect("nobody answers");
        assert!(!is_connected(&accepted), "{attach:?}");
    }
}

#[test]
fn the_filter_of_a_leg_cannot_be_changed_or_taken_off() {
    let mut taken_over = TakenOver::new(hooks()[0]);
    let leg = taken_over.leg(Family::V4, 700);
    // Even by root; the worker is not.
    for changed in [leg.detach_filter(), leg.attach_filter(&[])] {
        assert_eq!(changed.expect_err("locked").kind(), ErrorKind::PermissionDenied);
    }
    assert!(leg.set_mark(MARK).is_ok(), "a mark decides nothing: see the datapath's own tests");
}

#[test]
fn a_leg_works_as_before_in_a_pod_that_was_released_and_armed_again() {
    for attach in hooks() {
        let mut taken_over = TakenOver::new(attach);
        for round in 0..2 {
            for family in FAMILIES {
                taken_over.reaches_app(family, 610 + round);
            }
            taken_over.rig.ask(Request::Disarm { pod: web(), port: 8080 }).expect("disarmed");
            taken_over.rig.ask(Request::Release { pod: web() }).expect("released");
            taken_over.rig.arm(8080).expect("armed");
        }
        wait::until_true("no packet went elsewhere", PATIENCE, || Ok(taken_over.count(Reason::ReflectElsewhere) == 0))
            .expect("none");
    }
}
