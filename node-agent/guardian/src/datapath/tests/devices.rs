//! Devices and addresses other than one veth with global addresses.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    time::Instant,
};

use redir_abi::Reason;

use super::{
    super::{LinkLayer, PodDevice, SteerGate},
    intercepted::*,
    packets::{SYN, TestFrame},
    rig::*,
    wire,
};

#[test]
fn link_local_clients_are_steered_and_seen() {
    for attach in hooks() {
        let pair = PodAndClient::new();
        let (here, there) = (link_local(&pair.pod), link_local(&pair.client));
        let (app, listeners) = (TestApp::new(&pair.pod), TestListeners::new(&pair.pod));
        let mut datapath = load(&pair.pod, &pair.devices(), &[here.into()], &listeners, attach);
        datapath.arm(APP_PORT, SteerGate::AppListening).unwrap();
        datapath.attach(&mut || {}).unwrap();
        let heartbeat = TestHeartbeat::of(&datapath);
        let scoped = |net: &TestNetns, address, port| SocketAddrV6::new(address, port, 0, net.index_of("eth0")).into();
        until_not_tentative(&pair);
        heartbeat.beat();
        let _client = connect(&pair.client, None, scoped(&pair.client, here, APP_PORT)).unwrap();
        accept(&listeners.v6);
        let (from, to) = (scoped(&pair.pod, here, 653), scoped(&pair.pod, there, APP_PORT));
        let up = upstream_between(&datapath, &pair.pod, from, to).unwrap();
        let (accepted, peer) = accept(&app.v6);
        assert_eq!((peer.ip(), peer.port()), (there.into(), 653));
        carries(&up, &accepted, &bytes());
        carries(&accepted, &up, &bytes());
    }
}

#[test]
fn a_pod_may_have_several_devices() {
    for attach in hooks() {
        let pair = PodAndClient::new();
        wire::join(&pair.pod, &pair.client, "eth1");
        pair.pod.sh("ip addr add 10.78.0.2/24 dev eth1; ip link set eth1 up");
        pair.client.sh("ip addr add 10.78.0.1/24 dev eth1; ip link set eth1 up");
        let mut devices = pair.devices();
        devices.push(PodDevice { index: pair.pod.index_of("eth1"), name: "eth1".into(), framing: LinkLayer::Ethernet });
        let (app, listeners) = (TestApp::new(&pair.pod), TestListeners::new(&pair.pod));
        let second: IpAddr = Ipv4Addr::new(10, 78, 0, 2).into();
        let mut datapath = load(&pair.pod, &devices, &[POD_V4, second], &listeners, attach);
        datapath.arm(APP_PORT, SteerGate::AppListening).unwrap();
        datapath.attach(&mut || {}).unwrap();
        let heartbeat = TestHeartbeat::of(&datapath);
        for (address, client) in [(POD_V4, CLIENT_V4), (second, Ipv4Addr::new(10, 78, 0, 1).into())] {
            heartbeat.beat();
            let _client = connect(&pair.client, None, SocketAddr::new(address, APP_PORT)).unwrap();
            accept(listeners.of(address));
            let up = upstream(&datapath, &pair.pod, address, 680, client).unwrap();
            let (accepted, peer) = accept(app.of(address));
            assert_eq!(peer, SocketAddr::new(client, 680));
            carries(&up, &accepted, &bytes());
            carries(&accepted, &up, &bytes());
        }
    }
}

#[test]
fn a_device_without_link_layer_header_is_steered_and_reflected() {
    for attach in hooks() {
        let (pod, client) = (TestNetns::new(), TestNetns::new());
        let Some(tunnel) = wire::TunPair::join(&pod, &client) else { return };
        pod.sh("ip addr add 10.77.0.2/24 dev tun0; ip addr add fd77::2/64 dev tun0 nodad; ip link set tun0 up");
        client.sh("ip addr add 10.77.0.1/24 dev tun0; ip addr add fd77::1/64 dev tun0 nodad; ip link set tun0 up");
        let pair = PodAndClient { pod, client };
        let device = PodDevice { index: pair.pod.index_of("tun0"), name: "tun0".into(), framing: LinkLayer::Bare };
        let pod = InterceptedPod::on(pair, &[device], attach);
        for (address, client) in FAMILIES {
            let (from, agent) = pod.steered(None, address);
            let (up, app) = pod.reflected(690, address, client);
            for (a, b) in [(&from, &agent), (&agent, &from), (&up, &app), (&app, &up)] {
                carries(a, b, &bytes());
            }
        }
        drop(pod);
        drop(tunnel);
    }
}

#[test]
fn a_tagged_frame_is_not_the_pods() {
    for attach in hooks() {
        let pod = InterceptedPod::new(attach);
        let since = CounterDelta::now(&pod.datapath);
        let syn = TestFrame::tcp(SocketAddr::new(CLIENT_V4, 40_000), SocketAddr::new(POD_V4, APP_PORT), SYN).vlan();
        // The stack takes the tag off before the hook: only its absence from the bytes is visible there.
        wire::send(&pod.pair.client, "eth0", &syn.bytes());
        let start = Instant::now();
        while since.count(&pod.datapath, Reason::SteerNotIp) == 0 {
            assert!(start.elapsed() < patience(), "{:?}", since.moved(&pod.datapath));
        }
        assert_eq!(since.count(&pod.datapath, Reason::SteerAssigned), 0);
    }
}

/// The address that the kernel gives to a device by itself, once the link is up at both ends.
fn link_local(net: &TestNetns) -> Ipv6Addr {
    let start = Instant::now();
    loop {
        let shown = net.sh("ip -6 -o addr show dev eth0 scope link | sed 's/.*inet6 //; s,/.*,,'");
        if let Ok(address) = shown.trim().parse() {
            return address;
        }
        assert!(start.elapsed() < patience(), "no link-local address");
    }
}

/// Waits until duplicate address detection is over at both ends.
fn until_not_tentative(pair: &PodAndClient) {
    let start = Instant::now();
    while [&pair.pod, &pair.client].iter().any(|net| !net.sh("ip -6 -o addr show tentative").is_empty()) {
        assert!(start.elapsed() < patience(), "an address is still tentative");
    }
}
