//! Requests of a worker, granted and refused, in real namespaces with the real programs. Needs root.

use std::{
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    time::Duration,
};

use redir_abi::Reason;
use redir_api::names;
use redir_rig::{
    snapshot::Snapshot,
    topology::{Topology, unique_prefix},
};
use socket2::Socket;

use super::*;
use redir_ipc::{self as ipc, BindAddress, HandedSockets, ListenerGate};

mod devices;
mod numbers;
mod permissions;
mod taken_over;

/// One pod (`web-1`, ports 8080 and 8081) and one namespace without an address (`bare`).
struct PodsRig {
    topology: Topology,
    config: NodeConfig,
    pods: PodTable,
    before: Snapshot,
}

/// The ways of attaching that this kernel has.
fn hooks() -> Vec<AttachSetting> {
    let tcx = redir_rig::tcx::is_here().then_some(AttachSetting::Tcx);
    tcx.into_iter().chain([AttachSetting::Clsact]).collect()
}

impl PodsRig {
    fn new(attach: AttachSetting) -> Self {
        let topology = Topology::new(&unique_prefix("t"), 1).expect("namespaces: run as root");
        let netns = topology.pod().namespace.path().to_owned();
        let before = Snapshot::take(&topology.pod().namespace).expect("bpftool, ip");
        let pods = PodTable::new(HostNamespaces::new().expect("own namespace"), attach, names::WORKER_USER, None);
        Self { config: config(&netns, "8080, 8081"), topology, pods, before }
    }

    fn ask(&mut self, request: Request) -> Result<GrantedReply, RequestRefusal> {
        self.pods.serve(&self.config, request, &mut |_, _| {}).expect("a request")
    }

    fn arm(&mut self, port: u16) -> Result<GrantedReply, RequestRefusal> {
        let armed = self.ask(Request::Arm { pod: web(), port })?;
        self.ask(Request::Steer { pod: web(), port, gate: ListenerGate::AppListening })?;
        Ok(armed)
    }

    fn programs(&self) -> String {
        Snapshot::take(&self.topology.pod().namespace).expect("bpftool").programs().to_owned()
    }

    fn address(&self) -> IpAddr {
        self.topology.pod().v4.into()
    }

    fn sockets(&mut self, ip: IpAddr, ports: &[u16]) -> Result<GrantedReply, RequestRefusal> {
        self.ask(Request::Sockets {
            pod: web(),
            bind: BindAddress { ip, scope: 0 },
            ports: ports.to_vec(),
            for_trial: false,
        })
    }

    fn assert_restored(&self) {
        self.before.restored(&self.topology.pod().namespace, Duration::from_secs(5)).expect("nothing is left");
    }
}

fn config(netns: &Path, ports: &str) -> NodeConfig {
    let text = format!(
        "[agent]\nlisten = \"127.0.0.1:7447\"\nkey = \"/k\"\n\
         [[pod]]\nname = \"web-1\"\nnetns = \"{}\"\nports = [{ports}]\n\
         [[pod]]\nname = \"own\"\nnetns = \"/proc/self/ns/net\"\n\
         [[pod]]\nname = \"missing\"\nnetns = \"/run/netns/redir-no-such\"\n\
         [[pod]]\nname = \"file\"\nnetns = \"/etc/hostname\"\n\
         [[pod]]\nname = \"mount\"\nnetns = \"/proc/self/ns/mnt\"\n",
        netns.display()
    );
    NodeConfig::parse(&text, Path::new("agent.toml")).expect("good")
}

fn web() -> PodName {
    PodName::new("web-1").expect("good")
}

#[test]
fn a_pod_is_armed_disarmed_and_released_without_a_trace() {
    for attach in hooks() {
        let mut rig = PodsRig::new(attach);
        let (reply, fds) = rig.arm(8080).expect("armed");
        let Reply::Armed(told @ ipc::ArmedReply { earlier: 0, handed: HandedSockets::Both, .. }) = reply else {
            panic!("first port: {reply:?}")
        };
        assert!(told.pod_addresses.contains(&rig.address()));
        assert!(told.loopback_addresses.contains(&"127.0.0.1".parse().expect("address")));
        let link_count = fds.len() - 4;
        // reflect and steer, each also on lo, and the companion; with clsact the companion alone is a link.
        assert_eq!(link_count, if attach == AttachSetting::Tcx { 5 } else { 1 });
        let mut fds = fds.into_iter();
        let agent_port = rig.pods.armed[&web()].agent_port();
        for family in ["127.0.0.1", "::1"] {
            let listener = TcpListener::from(fds.next().expect("a listener"));
            let at = SocketAddr::new(family.parse().expect("address"), agent_port);
            assert_eq!(listener.local_addr().expect("bound"), at);
        }
        assert!(rig.programs().contains("redir_steer") && rig.programs().contains("redir_reflect"));
        let links = Snapshot::take(&rig.topology.pod().namespace).expect("a look").links().lines().count();
        // Each kernel that has TCX attaches the companion as well.
        assert_eq!(links, usize::from(redir_rig::tcx::exists().expect("as root")));

        let (reply, second) = rig.arm(8081).expect("armed");
        assert_eq!(reply, Reply::Armed(ipc::ArmedReply { handed: HandedSockets::Nothing, ..told }));
        assert!(second.is_empty());
        let refused = rig.ask(Request::Release { pod: web() }).expect_err("armed");
        assert_eq!(refused.code, RefusalCode::Busy);

        for port in [8080, 8081, 8081] {
            rig.ask(Request::Disarm { pod: web(), port }).expect("disarmed");
        }
        assert!(!rig.programs().contains("redir_steer") && rig.programs().contains("redir_reflect"));
        let (bind, ports) = (BindAddress { ip: rig.address(), scope: 0 }, vec![700]);
        let refused = rig.ask(Request::Sockets { pod: web(), bind, ports, for_trial: true }).expect_err("no companion");
        assert_eq!(refused.code, RefusalCode::NotArmed, "such a leg would reach the app");
        rig.arm(8080).expect("armed again while draining");
        assert!(rig.programs().contains("redir_steer"));
        rig.ask(Request::Disarm { pod: web(), port: 8080 }).expect("disarmed");
        rig.ask(Request::Release { pod: web() }).expect("released");
        rig.assert_restored();
        rig.ask(Request::Release { pod: web() }).expect("released already");
        assert!(matches!(rig.arm(8080), Ok((Reply::Armed(ipc::ArmedReply { handed: HandedSockets::Both, .. }), _))));
    }
}

#[test]
fn connections_from_before_are_counted_without_the_agents_own() {
    let mut rig = PodsRig::new(AttachSetting::Auto);
    let at = SocketAddr::new(rig.address(), 8080);
    let pod = &rig.topology.pod().namespace;
    let app = pod.run(|| TcpListener::bind(at)).expect("inside").expect("bound");
    let client = rig.topology.client.namespace.connect(at).expect("connected");
    let low = SocketAddr::new(rig.topology.client.v4.into(), 20_000);
    let as_from_the_agent = rig.topology.client.namespace.connect_from(low, at).expect("connected");
    let accepted = [app.accept().expect("accepted"), app.accept().expect("accepted")];
    let (Reply::Armed(told), _fds) = rig.arm(8080).expect("armed") else { panic!("armed") };
    assert_eq!(told.earlier, 1);
    let (Reply::Armed(told), _) = rig.arm(8081).expect("armed") else { panic!("armed") };
    assert_eq!(told.earlier, 0);
    // The app still holds what looks like a dead worker's connection: its source port is not given out until it is closed.
    let errnos = |rig: &mut PodsRig| match rig.sockets(at.ip(), &[20_000, 20_001]).expect("granted") {
        (Reply::Sockets { errnos, .. }, _) => errnos,
        other => panic!("{other:?}"),
    };
    assert_eq!(errnos(&mut rig), [libc::EADDRINUSE, 0]);
    drop((client, as_from_the_agent, accepted));
    assert_eq!(errnos(&mut rig), [0, 0]);
}

#[test]
fn requests_outside_the_configuration_are_refused_and_leave_nothing() {
    let mut rig = PodsRig::new(AttachSetting::Auto);
    rig.topology.pod().namespace.ip("link set eth0 down\naddr flush dev eth0").expect("no address");
    let before = Snapshot::take(&rig.topology.pod().namespace).expect("bpftool");
    let cases = [
        ("nobody", 8080, RefusalCode::UnknownPod, "redir list"),
        ("web-1", 80, RefusalCode::PortNotAllowed, "`ports`"),
        ("own", 8080, RefusalCode::Namespace, "hostNetwork"),
        ("missing", 8080, RefusalCode::Namespace, "start the pod"),
        ("file", 8080, RefusalCode::Namespace, "is not a network namespace"),
        ("mount", 8080, RefusalCode::Namespace, "run the agent as root"),
        ("web-1", 8080, RefusalCode::Namespace, "wait until the pod has its IP"),
    ];
    for (pod, port, code, words) in cases {
        let pod = PodName::new(pod).expect("good");
        let refused = rig.ask(Request::Arm { pod: pod.clone(), port }).expect_err(words);
        assert_eq!(refused.code, code, "{}", refused.sentence);
        assert!(refused.sentence.contains(words), "{}", refused.sentence);
        let refused = rig.ask(Request::Stats { pod }).expect_err("not armed");
        assert_eq!(refused.code, RefusalCode::NotArmed);
    }
    before.restored(&rig.topology.pod().namespace, Duration::from_secs(1)).expect("nothing is left");
}

#[test]
fn upstream_sockets_are_the_pods_and_only_on_reserved_ports() {
    let mut rig = PodsRig::new(AttachSetting::Auto);
    let ip = rig.address();
    assert_eq!(rig.sockets(ip, &[700]).expect_err("not armed").code, RefusalCode::NotArmed);
    rig.arm(8080).expect("armed");
    for port in [511, 1024, 8080, 9999, 30000] {
        assert_eq!(rig.sockets(ip, &[700, port]).expect_err("reserved").code, RefusalCode::PortNotReserved);
    }
    let taken = rig.topology.pod().namespace.run(|| TcpListener::bind((ip, 702))).expect("inside").expect("bound");
    let (reply, fds) = rig.sockets(ip, &[512, 702, 29999]).expect("granted");
    assert_eq!(reply, Reply::Sockets { errnos: vec![0, libc::EADDRINUSE, 0], first: 1 });
    for (fd, port) in fds.into_iter().zip([512, 29999]) {
        let socket = Socket::from(fd);
        assert_eq!(socket.local_addr().expect("bound").as_socket(), Some(SocketAddr::new(ip, port)));
    }
    drop(taken);
    let elsewhere = rig.topology.node.v4.into();
    let (reply, fds) = rig.sockets(elsewhere, &[700]).expect("answered");
    assert_eq!((reply, fds.len()), (Reply::Sockets { errnos: vec![libc::EADDRNOTAVAIL], first: 0 }, 0));
}

#[test]
fn quick_requests_about_other_pods_are_answered_between_the_steps_of_slow_work() {
    for attach in hooks() {
        let mut rig = PodsRig::new(attach);
        let peer = rig.topology.peer.namespace.path().to_owned();
        let text = format!(
            "[agent]\nlisten = \"127.0.0.1:7447\"\nkey = \"/k\"\n\
             [[pod]]\nname = \"web-1\"\nnetns = \"{}\"\n[[pod]]\nname = \"web-2\"\nnetns = \"{}\"\n",
            rig.topology.pod().namespace.path().display(),
            peer.display()
        );
        rig.config = NodeConfig::parse(&text, Path::new("agent.toml")).expect("good");
        rig.arm(8080).expect("armed");
        let other = || PodName::new("web-2").expect("good");
        let bind = BindAddress { ip: rig.address(), scope: 0 };
        let arm = Request::Arm { pod: other(), port: 8080 };
        let disarm = Request::Disarm { pod: other(), port: 8080 };
        // The programs of a device and of `lo`, the companion, and their hooks.
        for (slow, least) in [(arm, 9), (disarm, 3), (Request::Release { pod: other() }, 1)] {
            let (mut answered, mut longest, mut last) = (0, Duration::ZERO, Instant::now());
            let mut meanwhile = |home: &HostNamespaces, armed: &mut ArmedPods| {
                longest = longest.max(last.elapsed());
                let sockets = Request::Sockets { pod: web(), bind, ports: vec![700], for_trial: false };
                let granted = serve_quick(home, armed, sockets).expect("a quick request").expect("granted");
                assert!(matches!(granted.0, Reply::Sockets { errnos, .. } if errnos == [0]));
                answered += 1;
                last = Instant::now();
            };
            let shown = format!("{slow:?}");
            rig.pods.serve(&rig.config, slow, &mut meanwhile).expect("a request").expect("granted");
            eprintln!("{attach:?}, {shown}: {answered} steps, the longest took {longest:?}");
            assert!(answered >= least, "{shown}: {answered}");
        }
        // The pod that is worked on comes back, whatever the work was.
        assert!(rig.ask(Request::Stats { pod: web() }).is_ok());
    }
}

#[test]
fn counters_and_bypass_are_the_pods() {
    let mut rig = PodsRig::new(AttachSetting::Auto);
    rig.arm(8080).expect("armed");
    let client = rig.topology.client.v4.into();
    let bypass = Request::Bypass { pod: web(), client, how_long: Duration::from_secs(1) };
    assert_eq!(rig.ask(bypass).expect("granted").0, Reply::Done);
    let (Reply::Stats { counters }, _) = rig.ask(Request::Stats { pod: web() }).expect("granted") else {
        panic!("counters")
    };
    assert_eq!(counters.len(), Reason::ALL.len());
}

#[test]
fn after_the_workers_death_steering_ends_at_once_and_reflection_three_seconds_later() {
    for attach in hooks() {
        let mut rig = PodsRig::new(attach);
        // As in life: the duplicates of the links die with the worker, which is before the guardian hears of it.
        drop(rig.arm(8080).expect("armed"));
        let now = Instant::now();
        rig.pods.worker_died(now);
        assert!(!rig.programs().contains("redir_steer") && rig.programs().contains("redir_reflect"));
        let due = rig.pods.next_expiry().expect("lingers");
        assert_eq!(due.duration_since(now), Duration::from_secs(3));

        // The next worker arms the same pod while the dead one's programs linger.
        drop(rig.arm(8080).expect("armed"));
        rig.pods.expire(due, &mut |_, _| {});
        assert_eq!(rig.pods.next_expiry(), None);
        assert!(rig.programs().contains("redir_steer") && rig.programs().contains("redir_reflect"));
        rig.pods.worker_died(now);
        rig.pods.expire(due, &mut |_, _| {});
        rig.assert_restored();
    }
}

#[test]
fn dropping_the_guardians_state_leaves_nothing() {
    for attach in hooks() {
        let mut rig = PodsRig::new(attach);
        let (_, held_by_the_worker) = rig.arm(8080).expect("armed");
        rig.pods = PodTable::new(HostNamespaces::new().expect("own namespace"), attach, names::WORKER_USER, None);
        rig.assert_restored();
        drop(held_by_the_worker);
    }
}

#[test]
fn a_new_configuration_takes_back_what_it_no_longer_allows() {
    let mut rig = PodsRig::new(AttachSetting::Auto);
    rig.arm(8080).expect("armed");
    rig.arm(8081).expect("armed");
    rig.config = config(rig.topology.pod().namespace.path(), "8081");
    rig.pods.restrict(&rig.config);
    assert_eq!(rig.pods.armed[&web()].ports(), [8081]);
    assert!(rig.programs().contains("redir_steer"));
    rig.config.pods.clear();
    rig.pods.restrict(&rig.config);
    assert!(!rig.programs().contains("redir_steer"));
    let ip = rig.address();
    rig.sockets(ip, &[700]).expect("connections drain");
    rig.ask(Request::Release { pod: web() }).expect("released");
    rig.assert_restored();
}

#[test]
fn a_replaced_pod_is_told_once_and_armed_anew_only_after_its_release() {
    let mut rig = PodsRig::new(AttachSetting::Auto);
    rig.arm(8080).expect("armed");
    assert_eq!(rig.pods.gone(&rig.config), []);
    rig.config = config(rig.topology.peer.namespace.path(), "8080, 8081");
    assert_eq!(rig.pods.gone(&rig.config), [web()]);
    assert_eq!(rig.pods.gone(&rig.config), []);
    assert_eq!(rig.arm(8081).expect_err("the old one").code, RefusalCode::Busy);
    rig.ask(Request::Disarm { pod: web(), port: 8080 }).expect("disarmed");
    rig.ask(Request::Release { pod: web() }).expect("released");
    rig.assert_restored();
    rig.arm(8080).expect("the new one");
    let programs = Snapshot::take(&rig.topology.peer.namespace).expect("bpftool").programs().to_owned();
    assert!(programs.contains("redir_steer"));
    assert_eq!(rig.pods.gone(&rig.config), []);
}

#[test]
fn the_guardian_is_home_again_after_every_request() {
    let mut rig = PodsRig::new(AttachSetting::Auto);
    let own = || std::fs::read_link("/proc/thread-self/ns/net").expect("readable");
    let before = own();
    rig.arm(8080).expect("armed");
    let ip = rig.address();
    let (_, fds) = rig.sockets(ip, &[700]).expect("granted");
    assert_eq!(own(), before);
    assert!(fds[0].as_fd().try_clone_to_owned().is_ok());
}

#[test]
fn a_flush_ends_with_its_port_though_the_pod_stays_armed() {
    let mut rig = PodsRig::new(AttachSetting::Auto);
    let at = SocketAddr::new(rig.address(), 8080);
    let connect = || {
        let app = TcpListener::bind(at)?;
        let client = TcpStream::connect(at)?;
        Ok::<_, std::io::Error>((client, app.accept()?, app))
    };
    let _connection = rig.topology.pod().namespace.run(connect).expect("inside").expect("connected");
    rig.arm(8080).expect("armed");
    rig.arm(8081).expect("armed");
    rig.pods.begin_flush(7, web(), 8080, Instant::now()).expect("begun");
    rig.ask(Request::Disarm { pod: web(), port: 8080 }).expect("disarmed");
    let (seq, answer) = rig.pods.flush(Instant::now()).expect("over at once");
    assert!(matches!((seq, answer), (7, Ok((Reply::Flushed { closed: 0, left: 0 }, _)))));
}
