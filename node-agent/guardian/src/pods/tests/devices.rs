//! Devices and addresses that come, change and go while a pod is armed.

use std::os::fd::OwnedFd;

use redir_rig::wait;

use super::*;
use redir_ipc::PodNetwork;

/// A busy machine's.
const SOON: Duration = Duration::from_secs(20);

impl PodsRig {
    fn ip(&self, batch: &str) {
        self.topology.pod().namespace.ip(batch).expect("ip");
    }

    /// Does what the supervisor does when a pod's monitor is readable, until nothing more is to be done or told.
    fn look_until(&mut self, what: &str, done: impl Fn(&NetworkUpdate, &str) -> bool) -> NetworkUpdate {
        let mut told = NetworkUpdate::default();
        wait::until_true(what, SOON, || {
            for (reply, links) in look(&mut self.pods) {
                told.take(reply, &links);
            }
            Ok(done(&told, &self.programs()))
        })
        .unwrap_or_else(|error| panic!("{error:#}: {told:?} {}", self.programs()));
        told
    }

    fn index(&self, device: &str) -> u32 {
        let index = || nix::net::if_::if_nametoindex(device).expect("a device");
        self.topology.pod().namespace.run(index).expect("inside")
    }

    /// How often a program is attached to a device.
    fn attached(programs: &str, device: &str, program: &str) -> usize {
        let on_device = |line: &&str| line.starts_with(&format!("{device}(")) || line.contains(&format!(" {device} "));
        programs.lines().filter(on_device).filter(|line| line.split([' ', '\t']).any(|word| word == program)).count()
    }

    fn both_on(programs: &str, device: &str) -> bool {
        let count = |program| Self::attached(programs, device, program);
        count("redir_steer") == 1 && count("redir_reflect") == 1
    }
}

/// Looks at a pod that has changed, as the supervisor does.
fn look(pods: &mut PodTable) -> Vec<GrantedReply> {
    let now = Instant::now();
    let changed = pods.next_changed(now);
    changed.map(|name| pods.look(&name, now, &mut |_, _| {})).unwrap_or_default()
}

/// What the worker would know.
#[derive(Debug, Default)]
struct NetworkUpdate {
    pod: Vec<IpAddr>,
    links: usize,
    messages: usize,
}

impl NetworkUpdate {
    fn take(&mut self, reply: Reply, links: &[OwnedFd]) {
        let Reply::Network(PodNetwork { pod, first, pod_addresses, .. }) = reply else { panic!("{reply:?}") };
        assert_eq!(pod, web());
        if first {
            (self.pod, self.links) = (Vec::new(), 0);
        }
        self.pod.extend(pod_addresses);
        self.links += links.len();
        self.messages += 1;
    }

    fn has(&self, ip: &str) -> bool {
        self.pod.contains(&ip.parse().expect("address"))
    }
}

#[test]
fn a_pod_with_a_tun_device_is_armed() {
    for attach in hooks() {
        let mut rig = PodsRig::new(attach);
        rig.ip("tuntap add tun0 mode tun\naddr add 10.9.0.2/24 dev tun0\naddr add fd09::2/64 dev tun0 nodad\nlink set tun0 up");
        let (reply, fds) = rig.arm(8080).expect("armed");
        let Reply::Armed(told) = reply else { panic!("{reply:?}") };
        assert!(told.pod_addresses.contains(&"10.9.0.2".parse().expect("address")), "{told:?}");
        let programs = rig.programs();
        assert_eq!(PodsRig::attached(&programs, "tun0", "redir_steer_l3"), 1, "{programs}");
        assert_eq!(PodsRig::attached(&programs, "tun0", "redir_refl_l3"), 1, "{programs}");
        assert!(PodsRig::both_on(&programs, "eth0"), "{programs}");
        drop(fds);
        rig.ask(Request::Disarm { pod: web(), port: 8080 }).expect("disarmed");
        rig.ask(Request::Release { pod: web() }).expect("released");
        rig.ip("link del tun0");
        rig.assert_restored();
    }
}

#[test]
fn devices_of_every_kind_that_packets_can_take_are_given_programs() {
    let mut rig = PodsRig::new(AttachSetting::Auto);
    rig.ip("tuntap add tap0 mode tap\nlink add vx0 type vxlan id 7 remote 10.210.1.1 dstport 4789\nlink add br9 type bridge");
    rig.ip("link add mac0 link eth0 type macvlan\nlink add port0 type veth peer name far0\nlink set port0 master br9");
    let devices = ["tap0", "vx0", "br9", "mac0"];
    for (n, device) in devices.iter().enumerate() {
        rig.ip(&format!("addr add 10.9.{n}.2/24 dev {device}\nlink set {device} up"));
    }
    rig.ip("link set port0 up");
    let _worker_holds = rig.arm(8080).expect("armed");
    let programs = rig.programs();
    assert!(devices.iter().all(|device| PodsRig::both_on(&programs, device)), "{programs}");
    assert!(!programs.contains("port0"), "what it receives is the bridge's: {programs}");
    rig.ask(Request::Disarm { pod: web(), port: 8080 }).expect("disarmed");
    rig.ask(Request::Release { pod: web() }).expect("released");
    devices.iter().chain(&["port0"]).for_each(|device| rig.ip(&format!("link del {device}")));
    rig.assert_restored();
}

#[test]
fn devices_and_addresses_that_come_later_are_taken_and_those_that_go_are_forgotten() {
    for attach in hooks() {
        let mut rig = PodsRig::new(attach);
        let _worker_holds = rig.arm(8080).expect("armed");
        // A second device, as a runtime makes it: unnamed, without address, down; then named, addressed, up.
        rig.ip("link add tmp0 type veth peer name far0\nlink set far0 up\nlink set tmp0 name net1");
        rig.ip("addr add 10.8.0.2/24 dev net1\naddr add fd08::2/64 dev net1 nodad\nlink set net1 up");
        let told = rig.look_until("net1 to be taken", |told, programs| {
            told.has("10.8.0.2") && told.has("fd08::2") && PodsRig::both_on(programs, "net1")
        });
        assert!(told.has(&rig.address().to_string()), "the first device's stays: {told:?}");
        // Both ends are devices of the pod here: eth0, net1, far0, with lo (both ways) and the companion.
        assert_eq!(told.links, if attach == AttachSetting::Tcx { 9 } else { 1 }, "{told:?}");

        // An address more on a device that is there, and a device without address, which a route may take.
        rig.ip("addr add 10.210.1.99/24 dev eth0\nlink add route0 type veth peer name route1\nlink set route0 up");
        rig.look_until("a later address", |told, programs| {
            told.has("10.210.1.99") && PodsRig::both_on(programs, "route0") && !PodsRig::both_on(programs, "route1")
        });

        // Renamed, down and up: it keeps its programs all the while.
        rig.ip("link set net1 down\nlink set net1 name vpn0\nlink set vpn0 up");
        rig.look_until("a renamed device", |_, programs| PodsRig::both_on(programs, "vpn0"));

        // One in the place of another, faster than anybody looks, with its index.
        let index = rig.index("vpn0");
        rig.ip(&format!(
            "link del vpn0\nlink add vpn0 index {index} type veth peer name far0\naddr add 10.8.0.3/24 dev vpn0\nlink set vpn0 up"
        ));
        let told = rig.look_until("a device in another's place", |told, programs| {
            told.has("10.8.0.3") && PodsRig::both_on(programs, "vpn0")
        });
        assert!(!told.has("10.8.0.2"), "{told:?}");

        // One that comes and goes before it is looked at.
        rig.ip("link add brief0 type veth peer name brief1\naddr add 10.7.0.1/24 dev brief0\nlink set brief0 up\nlink del brief0");
        rig.ip("link del vpn0\nlink del route0\naddr del 10.210.1.99/24 dev eth0");
        let told = rig.look_until("the rest to be forgotten", |told, _| !told.pod.is_empty() && !told.has("10.8.0.3"));
        assert!(!told.has("10.210.1.99") && told.has(&rig.address().to_string()), "{told:?}");

        rig.ask(Request::Disarm { pod: web(), port: 8080 }).expect("disarmed");
        rig.ask(Request::Release { pod: web() }).expect("released");
        rig.assert_restored();
    }
}

#[test]
fn a_hundred_devices_are_taken_at_the_start_and_later() {
    let tcx = redir_rig::tcx::is_here();
    let mut rig = PodsRig::new(AttachSetting::Auto);
    // A filter has no descriptor; the companion has.
    let links = |devices: usize| if tcx { 2 * devices + 3 } else { 1 };
    let some = |range: std::ops::Range<u32>| -> String {
        range
            .map(|n| {
                format!("link add m{n} link eth0 type macvlan\naddr add 10.100.{n}.1/24 dev m{n}\nlink set m{n} up\n")
            })
            .collect()
    };
    rig.ip(&some(0..60));
    let (reply, fds) = rig.arm(8080).expect("armed");
    let Reply::Armed(told) = reply else { panic!("{reply:?}") };
    assert!(told.pod_addresses.len() > redir_ipc::MAX_ADDRESSES, "more than an answer holds");
    // The listeners, the two maps, and as many links as there is room for.
    assert_eq!(fds.len(), if tcx { redir_ipc::MAX_FDS } else { 4 + links(61) });
    let told = rig.look_until("the rest to be told", |told, _| told.has("10.100.59.1"));
    assert_eq!(told.links, links(61), "{told:?}");
    rig.ip(&some(60..110));
    let told = rig.look_until("all to be taken", |told, programs| {
        told.has("10.100.109.1") && (0..110).all(|n| PodsRig::both_on(programs, &format!("m{n}")))
    });
    assert_eq!(told.links, links(111), "{} messages", told.messages);
    rig.ask(Request::Disarm { pod: web(), port: 8080 }).expect("disarmed");
    assert!(!rig.programs().contains("redir_steer"));
    rig.ask(Request::Release { pod: web() }).expect("released");
    rig.ip(&(0..110).map(|n| format!("link del m{n}\n")).collect::<String>());
    rig.assert_restored();
}

#[test]
fn a_pod_that_changes_all_the_time_is_looked_at_seldom_and_an_overrun_loses_nothing() {
    let mut rig = PodsRig::new(AttachSetting::Auto);
    let _worker_holds = rig.arm(8080).expect("armed");
    let flood: String = (0..4000)
        .map(|n| format!("addr add 10.9.{}.{}/32 dev eth0\naddr del 10.9.{0}.{1}/32 dev eth0\n", n / 250, n % 250 + 1))
        .collect();
    let PodsRig { topology, pods, .. } = &mut rig;
    let namespace = &topology.pod().namespace;
    let mut looks = 0;
    std::thread::scope(|scope| {
        let flooding = scope.spawn(|| namespace.ip(&flood).expect("ip"));
        while !flooding.is_finished() {
            looks += usize::from(!look(pods).is_empty());
        }
    });
    assert!(looks < 40, "{looks} looks with news at 8000 changes");
    rig.ip("addr add 10.9.77.77/32 dev eth0");
    rig.look_until("the last address", |told, _| told.has("10.9.77.77") && told.pod.len() < 10);
}
