//! Pods with more devices than one: those of VPN sidecars, and those that come while the pod is intercepted.
#![cfg(target_os = "linux")]

use std::{net::IpAddr, process::Command};

use redir_rig::{
    Http, Process,
    topology::{FAMILIES, Family},
};
use redir_tests::{LOCAL, PORT, SOON, Scenario, USUAL, World, both, once, reserved};

const ALICE: &str = "x-user: alice";

/// Two tun devices with a wire between them, as a VPN's two ends: frames without a link layer.
const WIRE: &str = r#"
import fcntl, os, struct, threading
def tun(name):
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH", name.encode(), 0x1001))
    return fd
def copy(a, b):
    while True:
        packet = os.read(a, 65536)
        try: os.write(b, packet)
        except OSError: pass
ends = tun("vpn0"), tun("vpn1")
threading.Thread(target=copy, args=ends, daemon=True).start()
print("ready", flush=True)
copy(ends[1], ends[0])
"#;

/// Addresses of a network between client and pod, beside the usual one.
fn ips(family: Family, net: u8) -> [IpAddr; 2] {
    [1, 2].map(|host| match family {
        Family::V4 => [10, 210, net, host].into(),
        Family::V6 => [0xfd10, net.into(), 0, 0, 0, 0, 0, host.into()].into(),
    })
}

/// Commands that give a device its addresses and set it up; `end` is 0 for the client's, 1 for the pod's.
fn up(device: &str, net: u8, end: usize) -> String {
    let (v4, v6) = (ips(Family::V4, net)[end], ips(Family::V6, net)[end]);
    format!("addr add {v4}/24 dev {device}\naddr add {v6}/64 dev {device} nodad\nlink set {device} up\n")
}

/// A VPN between client and pod, while the process is running.
fn vpn(w: &World, net: u8) -> anyhow::Result<Process> {
    let client = &w.client().namespace;
    let mut wire = client.spawn("vpn", Command::new("python3").args(["-c", WIRE]))?;
    wire.wait_for_line("ready", SOON)?;
    client.ip(&format!("link set vpn1 netns {}\n{}", w.pod().namespace.name(), up("vpn0", net, 0)))?;
    w.pod().namespace.ip(&up("vpn1", net, 1))?;
    Ok(wire)
}

/// A cable between client and pod.
fn cable(w: &World, name: &str, net: u8) -> anyhow::Result<()> {
    let (client, pod) = (&w.client().namespace, &w.pod().namespace);
    client.ip(&format!("link add {name} type veth peer name {name} netns {}\n{}", pod.name(), up(name, net, 0)))?;
    pod.ip(&up(name, net, 1))
}

/// The answers to an unmatched and a matched request, over one connection to an address of the pod.
fn ask(w: &World, to: IpAddr) -> anyhow::Result<(String, String)> {
    let mut http = Http::new(w.client().namespace.connect((to, PORT).into())?);
    Ok((http.get("/", &[])?.text(), http.get("/", &[ALICE])?.text()))
}

/// Requests to an address of that network are intercepted, and the app sees where they come from.
fn intercepted(w: &World, net: u8) -> anyhow::Result<()> {
    for family in FAMILIES {
        let [client, pod] = ips(family, net);
        for _ in 0..3 {
            assert_eq!(ask(w, pod)?, (format!("green {client}\n"), "blue 127.0.0.1\n".to_owned()));
        }
    }
    Ok(())
}

both!(pods_with_a_tun_device_are_intercepted, USUAL, |w| {
    let green = w.green()?;
    let _blue = w.local(LOCAL, "blue")?;
    let wire = vpn(w, 8)?;
    let cli = w.alice()?;
    intercepted(w, 8)?;
    for family in FAMILIES {
        assert!(w.get(family, &[ALICE])?.starts_with("blue"));
    }
    assert!(green.clients().iter().all(|client| reserved(client.port())), "{:?}", green.clients());
    cli.leave()?;
    assert_eq!(ask(w, ips(Family::V4, 8)[1])?.1, "green 10.210.8.1\n");
    drop(wire);
    Ok(())
});

both!(devices_that_come_later_are_intercepted, USUAL, |w| {
    let _green = w.green()?;
    let _blue = w.local(LOCAL, "blue")?;
    let cli = w.alice()?;
    // `docker network connect`, a second one, and a VPN that comes up.
    cable(w, "net1", 6)?;
    cable(w, "net2", 7)?;
    let wire = vpn(w, 8)?;
    for net in [6, 7, 8] {
        for family in FAMILIES {
            let to = ips(family, net)[1];
            redir_rig::wait::until_true(format!("{to} to be intercepted"), SOON, || {
                Ok(ask(w, to)?.1.starts_with("blue"))
            })?;
        }
        intercepted(w, net)?;
    }
    // A load balancer's address on `lo`, as where answers go back by themselves.
    w.pod().namespace.ip("addr add 10.210.99.9/32 dev lo")?;
    w.client().namespace.ip("route add 10.210.99.9 via 10.210.6.2")?;
    let balanced = [10, 210, 99, 9].into();
    redir_rig::wait::until_true("the address on lo to be intercepted", SOON, || {
        Ok(ask(w, balanced)?.1.starts_with("blue"))
    })?;
    assert_eq!(ask(w, balanced)?, ("green 10.210.6.1\n".to_owned(), "blue 127.0.0.1\n".to_owned()));
    w.pod().namespace.ip("addr del 10.210.99.9/32 dev lo")?;
    // One goes, another is down for a moment: the rest goes on.
    w.pod()
        .namespace
        .ip("link del net1\nlink set net2 down\nlink set net2 up\naddr replace fd10:7::2/64 dev net2 nodad")?;
    for (net, family) in [(7, Family::V4), (7, Family::V6), (8, Family::V4)] {
        let to = ips(family, net)[1];
        redir_rig::wait::until_true(format!("{to} to be intercepted"), SOON, || {
            Ok(ask(w, to).is_ok_and(|(_, matched)| matched.starts_with("blue")))
        })?;
    }
    for family in FAMILIES {
        assert!(w.get(family, &[ALICE])?.starts_with("blue"));
    }
    drop(wire);
    w.pod().namespace.ip("link del net2")?;
    cli.leave()
});

/// Gives the pod a device of a kind that sits upon another one, whose place is the node; the client is at the other end of the
/// wire. False where this kernel has no such kind, which is said.
fn upon_a_parent(w: &World, kind: &str, net: u8) -> anyhow::Result<bool> {
    let (client, node, pod) = (&w.client().namespace, w.node(), &w.pod().namespace);
    client.ip(&format!("link add net1 type veth peer name par1 netns {}\n{}", node.name(), up("net1", net, 0)))?;
    node.ip("link set par1 up\n")?;
    if let Err(error) = node.ip(&format!("link add link par1 name net1 type {kind}\n")) {
        client.ip("link del net1\n")?;
        redir_rig::left_out(&format!("pods with {kind}: this kernel has none: {error:#}"));
        return Ok(false);
    }
    node.ip(&format!("link set net1 netns {}\n", pod.name()))?;
    pod.ip(&up("net1", net, 1))?;
    if kind.starts_with("ipvlan") && !kind.ends_with("l2") {
        routed_by(w, net)?;
    }
    Ok(true)
}

/// In an ipvlan's layer 3 nobody answers for the pod, and what the pod sends takes its parent's routes.
fn routed_by(w: &World, net: u8) -> anyhow::Result<()> {
    let shown = w.node().output(&["ip", "-j", "link", "show", "dev", "par1"])?;
    let shown: serde_json::Value = serde_json::from_str(&shown)?;
    let hardware = shown[0]["address"].as_str().unwrap_or_default().to_owned();
    for family in FAMILIES {
        let [client, pod] = ips(family, net);
        w.client().namespace.ip(&format!("neigh replace {pod} lladdr {hardware} nud permanent dev net1\n"))?;
        let length = if family == Family::V4 { 32 } else { 128 };
        w.node().ip(&format!("route replace {client}/{length} dev par1\n"))?;
    }
    Ok(())
}

/// What is asked of the pod by such a device is intercepted, and what comes by the usual one as well.
fn intercepted_upon_a_parent(w: &World, kind: &str) -> anyhow::Result<()> {
    let _green = w.green()?;
    let _blue = w.local(LOCAL, "blue")?;
    if !upon_a_parent(w, kind, 6)? {
        return Ok(());
    }
    let cli = w.alice()?;
    intercepted(w, 6)?;
    for family in FAMILIES {
        assert!(w.get(family, &[ALICE])?.starts_with("blue"));
    }
    cli.leave()?;
    w.pod().namespace.ip("link del net1\n")
}

both!(pods_with_a_macvlan_are_intercepted, USUAL, |w| intercepted_upon_a_parent(w, "macvlan mode bridge"));
both!(pods_with_an_ipvlan_of_layer_2_are_intercepted, USUAL, |w| intercepted_upon_a_parent(w, "ipvlan mode l2"));
both!(pods_with_an_ipvlan_of_layer_3_are_intercepted, USUAL, |w| intercepted_upon_a_parent(w, "ipvlan mode l3"));

// Its packets come in past the programs: live, it would be an intercept that gets nothing.
once!(pods_with_an_ipvlan_of_layer_3s_are_refused, USUAL, |w| {
    let _green = w.green()?;
    let _blue = w.local(LOCAL, "blue")?;
    if !upon_a_parent(w, "ipvlan mode l3s", 6)? {
        return Ok(());
    }
    let mut cli = w.start(&w.alice, LOCAL, &["--header", ALICE])?;
    cli.process.wait_for_line("net1 is an ipvlan in mode l3s", SOON)?;
    for family in FAMILIES {
        assert!(w.get(family, &[ALICE])?.starts_with("green"));
        assert!(ask(w, ips(family, 6)[1])?.1.starts_with("green"));
    }
    w.pod().namespace.ip("link del net1\n")
});

/// A pair of netkit devices, which the `ip` of Debian 12 does not know (linux/if_link.h). The argument is the mode.
const NETKIT: &str = r#"
import os, socket, struct, sys
def attribute(kind, value):
    return struct.pack("HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)
peer = attribute(1, struct.pack("BxHiII", 0, 0, 0, 0, 0) + attribute(3, b"net1p\0"))
data = peer + attribute(5, struct.pack("I", {"l2": 0, "l3": 1}[sys.argv[1]]))
link = attribute(3, b"net1\0") + attribute(18, attribute(1, b"netkit\0") + attribute(2, data))
body = struct.pack("BxHiII", 0, 0, 0, 0, 0) + link
netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
netlink.send(struct.pack("IHHII", 16 + len(body), 16, 0x605, 1, 0) + body)
error = struct.unpack_from("i", netlink.recv(65536), 16)[0]
if error: sys.exit(os.strerror(-error))
"#;

fn intercepted_by_netkit(w: &World, mode: &str) -> anyhow::Result<()> {
    let _green = w.green()?;
    let _blue = w.local(LOCAL, "blue")?;
    let (client, pod) = (&w.client().namespace, &w.pod().namespace);
    if let Err(error) = client.output(&["python3", "-c", NETKIT, mode]) {
        let told = format!("{error:#}");
        let last = told.lines().last().unwrap_or_default().trim();
        redir_rig::left_out(&format!("pods with netkit in mode {mode}: this kernel has none: {last}"));
        return Ok(());
    }
    client.ip(&format!("link set net1p netns {}\n{}", pod.name(), up("net1", 6, 0)))?;
    pod.ip(&up("net1p", 6, 1))?;
    let cli = w.alice()?;
    intercepted(w, 6)?;
    cli.leave()?;
    client.ip("link del net1\n")
}

both!(pods_with_netkit_of_layer_2_are_intercepted, USUAL, |w| intercepted_by_netkit(w, "l2"));
both!(pods_with_netkit_of_layer_3_are_intercepted, USUAL, |w| intercepted_by_netkit(w, "l3"));

/// Another program ends what comes in by the pod's device, before ours: nothing of it is seen, and clients reach the app.
const FOREIGN_INGRESS: Scenario = Scenario {
    before: |t| {
        t.pod().namespace.output(&["tc", "qdisc", "add", "dev", "eth0", "clsact"])?;
        let filter = "tc filter add dev eth0 ingress pref 1 protocol all u32 match u32 0 0 flowid 1:1";
        t.pod().namespace.output(&filter.split(' ').collect::<Vec<_>>()).map(drop)
    },
    ..USUAL
};

#[test]
fn clients_of_whom_no_packet_is_seen_are_told_of_once() -> anyhow::Result<()> {
    redir_tests::run("clsact", FOREIGN_INGRESS, |w| {
        let _green = w.green()?;
        let mut cli = w.start(&w.alice, LOCAL, &[])?;
        cli.wait_live()?;
        let mut held = Vec::new();
        let told = redir_rig::wait::until("the missing packets to be told", SOON * 3, || {
            for family in FAMILIES {
                let mut http = w.http(w.client(), family)?;
                assert!(http.get("/", &[])?.text().starts_with("green"), "past the programs");
                held.push(http);
                if held.len() > 20 {
                    held.remove(0);
                }
            }
            Ok(cli.events("not_intercepted").first().cloned())
        })?;
        assert!(told["cause"] == "unseen" && told["port"] == PORT, "{told}");
        drop(held);
        cli.leave()
    })
}
