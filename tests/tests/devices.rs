//! Pods with more devices than one: those of VPN sidecars, and those that come while the pod is intercepted.
#![cfg(target_os = "linux")]

use std::{net::IpAddr, process::Command};

use redir_rig::{
    Http, Process,
    topology::{FAMILIES, Family},
};
use redir_tests::{LOCAL, PORT, SOON, USUAL, World, both, reserved};

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

/// A VPN between client and pod, as long as the process lives.
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
