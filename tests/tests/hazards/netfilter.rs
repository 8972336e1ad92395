//! Filters and NAT in the pod and on the node.

use super::*;

const STRICT: Scenario = Scenario {
    before: |t| {
        for key in ["all", "eth0", "lo"] {
            t.pod().namespace.sysctl(&format!("net.ipv4.conf.{key}.rp_filter"), "1")?;
        }
        Ok(())
    },
    ..USUAL
};

both!(strict_reverse_path_filter, STRICT, |w| {
    let _apps = both_apps(w)?;
    let _cli = w.alice()?;
    requests(w, 5)
});

const NFT: Scenario = Scenario {
    before: |t| {
        t.pod()
            .namespace
            .output_with(
                &["nft", "-f", "-"],
                Some(
                    "table inet z {
                        chain n1 { type nat hook prerouting priority -100; tcp dport 9 redirect to 10; }
                        chain n2 { type nat hook postrouting priority 100; oifname eth0 masquerade; }
                        chain i { type filter hook input priority 0; ct state invalid counter drop; }
                        chain o { type filter hook output priority 0; ct state invalid counter drop; }
                        chain p { type filter hook prerouting priority 0; ct state invalid counter drop; }
                     }\n",
                ),
            )
            .map(drop)
    },
    ..USUAL
};

both!(nat_and_invalid_drop_by_nft, NFT, |w| {
    let _cli = w.alice()?;
    for family in FAMILIES {
        exchange(w, &listen(w, family)?, family, 20)?;
    }
    let _apps = both_apps(w)?;
    requests(w, 5)
});

const LEGACY: Scenario = Scenario {
    before: |t| {
        for iptables in ["iptables-legacy", "ip6tables-legacy"] {
            for rule in [
                "-t nat -A PREROUTING -p tcp --dport 9 -j REDIRECT --to-ports 10",
                "-t nat -A POSTROUTING -o eth0 -j MASQUERADE",
                "-A INPUT -m conntrack --ctstate INVALID -j DROP",
                "-A OUTPUT -m conntrack --ctstate INVALID -j DROP",
                "-t mangle -A PREROUTING -m conntrack --ctstate INVALID -j DROP",
                "-A INPUT -i eth0 -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT",
            ] {
                let command: Vec<&str> = [iptables].into_iter().chain(rule.split(' ')).collect();
                t.pod().namespace.output(&command)?;
            }
        }
        Ok(())
    },
    ..USUAL
};

both!(nat_and_invalid_drop_by_iptables, LEGACY, |w| {
    let _cli = w.alice()?;
    for family in FAMILIES {
        exchange(w, &listen(w, family)?, family, 20)?;
    }
    let _apps = both_apps(w)?;
    requests(w, 5)
});

/// A legacy table, once looked at, stays registered: it is there before the first look.
const TABLES: Scenario = Scenario {
    before: |t| {
        for iptables in ["iptables-legacy", "ip6tables-legacy"] {
            t.pod().namespace.output(&[iptables, "-L", "-n"])?;
        }
        Ok(())
    },
    limit: Duration::from_secs(120),
    ..USUAL
};

both!(an_icmp_reject_in_the_pod_ends_the_leg_at_once, TABLES, |w| {
    let _apps = both_apps(w)?;
    let mut cli = w.alice()?;
    for (time, (family, iptables)) in (1..).zip([(Family::V4, "iptables-legacy"), (Family::V6, "ip6tables-legacy")]) {
        // The agent's legs come from these, the client's own packets do not.
        let rule = "INPUT -p tcp --dport 8080 -m multiport --sports 512:1023,10000:29999 -j REJECT";
        let command = |action| [iptables, action].into_iter().chain(rule.split(' ')).collect::<Vec<_>>();
        w.pod().namespace.output(&command("-I"))?;
        let begin = Instant::now();
        // The reset may come before the client has looked at its new connection.
        let ended = w.connect(w.client(), family).and_then(|mut client| read_all(&mut client));
        ensure!(ended.is_err() || ended.is_ok_and(|b| b.is_empty()));
        ensure!(begin.elapsed() < wait::scaled(Duration::from_secs(3)), "{:?}", begin.elapsed());
        // The way is found broken; not before may it be whole again, or the port would be taken back later.
        cli.wait_events("refused", time, SOON)?;
        w.pod().namespace.output(&command("-D"))?;
        ensure!(w.get(family, &[])?.starts_with("green"));
        wait::until_true("the port is intercepted again", SOON * 3, || {
            Ok(w.get(family, &[ALICE])?.starts_with("blue"))
        })?;
    }
    w.sniff.silent()
});

/// Service address → the pod itself, by the node: the pod's own packet comes back to it.
const HAIRPIN: Scenario = Scenario {
    before: |t| {
        t.node.namespace.output_with(
            &["nft", "-f", "-"],
            Some(
                "table ip t {
                    chain pre { type nat hook prerouting priority -100; ip daddr 10.96.0.10 tcp dport 80 dnat to 10.210.1.11:8080; }
                    chain post { type nat hook postrouting priority 100; ip saddr 10.210.1.11 ip daddr 10.210.1.11 masquerade; }
                 }\n",
            ),
        )?;
        t.node.namespace.output(&["bridge", "link", "set", "dev", "vweb-1", "hairpin", "on"]).map(drop)
    },
    ..USUAL
};

both!(a_pod_that_calls_its_own_service, HAIRPIN, |w| {
    let _apps = both_apps(w)?;
    let _cli = w.alice()?;
    let service: SocketAddr = ([10, 96, 0, 10], 80).into();
    for _ in 0..5 {
        let mut http = Http::new(w.pod().namespace.connect(service)?);
        // Masqueraded by the node: its address is what the app sees, as without redir.
        ensure!(http.get("/", &[])?.text() == format!("green {}\n", w.topology.node.v4));
        ensure!(http.get("/", &[ALICE])?.text().starts_with("blue"));
    }
    Ok(())
});

/// Somebody else's filter: looks at everything and passes it on.
const CHAINED: Scenario = Scenario {
    before: |t| {
        t.pod().namespace.output(&["tc", "qdisc", "add", "dev", "eth0", "clsact"])?;
        for direction in ["ingress", "egress"] {
            let filter = ["tc", "filter", "add", "dev", "eth0", direction, "prio", "7", "protocol", "all"];
            t.pod().namespace.output(&[&filter[..], &["bpf", "bytecode", "1,6 0 0 0,"]].concat())?;
        }
        Ok(())
    },
    ..USUAL
};

both!(another_program_on_the_same_hook_stays, CHAINED, |w| {
    let _apps = both_apps(w)?;
    let cli = w.alice()?;
    requests(w, 2)?;
    cli.leave()
    // The last look compares the filters.
});
