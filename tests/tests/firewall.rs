//! What a pod's own rules do to the agent's legs: where they cannot pass, nothing is intercepted and the developer is told;
//! where only some ports pass, those are used; and rules that go by marks are none of a leg's business.
#![cfg(target_os = "linux")]

use anyhow::{Result, ensure};
use redir_rig::{Topology, topology::FAMILIES, wait};
use redir_tests::{LOCAL, SOON, Scenario, USUAL, World, both};

const ALICE: &str = "x-user: alice";

fn nft(topology: &Topology, rules: &str) -> Result<()> {
    topology.pod().namespace.output_with(&["nft", "-f", "-"], Some(rules)).map(drop)
}

/// The developer hears why, and clients reach the app as without redir.
fn refused(w: &World, words: &str) -> Result<()> {
    let (_green, _blue) = (w.green()?, w.local(LOCAL, "blue")?);
    let mut cli = w.start(&w.alice, LOCAL, &["--header", ALICE])?;
    let line = cli.process.wait_for_line("firewall", SOON)?;
    ensure!(line.contains(words), "{line}");
    for family in FAMILIES {
        for _ in 0..3 {
            ensure!(w.get(family, &[ALICE])?.starts_with("green"));
        }
    }
    Ok(())
}

/// Both kinds of requests, decided and answered.
fn intercepted(w: &World) -> Result<()> {
    for family in FAMILIES {
        for _ in 0..3 {
            ensure!(w.get(family, &[ALICE])?.starts_with("blue"));
            ensure!(w.get(family, &[])? == format!("green {}\n", w.client().ip(family)));
        }
    }
    Ok(())
}

const OUTPUT_POLICY: Scenario = Scenario {
    before: |t| {
        nft(
            t,
            "table inet z { chain o { type filter hook output priority 0; policy drop;
               oifname lo accept; ct state established,related accept; meta l4proto ipv6-icmp accept; }\n}\n",
        )
    },
    ..USUAL
};

both!(a_pod_that_opens_no_connections_is_refused, OUTPUT_POLICY, |w| refused(w, "OUTPUT"));

const OUTPUT_REJECT: Scenario = Scenario {
    before: |t| {
        nft(
            t,
            "table inet z { chain o { type filter hook output priority 0; oifname eth0 tcp dport 8080 ct state new reject with tcp reset; }\n}\n",
        )
    },
    ..USUAL
};

both!(a_pod_that_rejects_connections_to_the_port_is_refused, OUTPUT_REJECT, |w| refused(w, "8080"));

const ROOT_ONLY: Scenario = Scenario {
    before: |t| {
        nft(t, "table inet z { chain o { type filter hook output priority 0; oifname eth0 meta skuid != 0 drop; }\n}\n")
    },
    ..USUAL
};

both!(a_pod_that_lets_only_root_answer_is_refused, ROOT_ONLY, |w| refused(w, "of every user"));

const NO_LOW_PORTS: Scenario = Scenario {
    before: |t| {
        nft(t, "table inet z { chain i { type filter hook input priority 0; iifname eth0 tcp sport < 1024 drop; }\n}\n")
    },
    ..USUAL
};

both!(where_low_source_ports_are_dropped_the_high_ones_are_used, NO_LOW_PORTS, |w| {
    let (_green, _blue) = (w.green()?, w.local(LOCAL, "blue")?);
    let _cli = w.alice()?;
    intercepted(w)
});

const MARKS: Scenario = Scenario {
    before: |t| {
        for line in ["rule add fwmark 1/1 lookup 100", "route add local default dev lo table 100"] {
            t.pod().namespace.ip(line)?;
        }
        nft(
            t,
            "table inet z { chain o { type route hook output priority -150; meta mark set ct mark; ct mark set meta mark; meta mark set 6; }\n}\n",
        )
    },
    ..USUAL
};

both!(rules_and_routes_by_mark_do_not_concern_a_leg, MARKS, |w| {
    let (_green, _blue) = (w.green()?, w.local(LOCAL, "blue")?);
    let _cli = w.alice()?;
    intercepted(w)
});

both!(a_way_that_breaks_later_is_told_and_left_and_taken_again, USUAL, |w| {
    let (_green, _blue) = (w.green()?, w.local(LOCAL, "blue")?);
    let mut cli = w.alice()?;
    intercepted(w)?;
    nft(
        &w.topology,
        "table inet z { chain i { type filter hook input priority 0; iifname eth0 tcp sport 512-1023 drop; iifname eth0 tcp sport 10000-29999 drop; }\n}\n",
    )?;
    // The first connections find out.
    let connections: Vec<_> = (0..2).map(|_| w.http(w.client(), FAMILIES[0])).collect::<Result<_>>()?;
    cli.process.wait_for_line("firewall drops", SOON)?;
    drop(connections);
    for family in FAMILIES {
        ensure!(w.get(family, &[ALICE])?.starts_with("green"));
    }
    nft(&w.topology, "delete table inet z\n")?;
    wait::until("the port is intercepted again", SOON * 3, || {
        Ok(w.get(FAMILIES[0], &[ALICE])?.starts_with("blue").then_some(()))
    })
});

/// The rule takes what ends a leg as well: the app ends its side when nobody is there to turn it.
const UNWATCHED: Scenario = Scenario { sniff: false, ..USUAL };

both!(where_low_source_ports_are_dropped_later_the_next_try_is_from_a_high_one, UNWATCHED, |w| {
    let (_green, _blue) = (w.green()?, w.local(LOCAL, "blue")?);
    let _cli = w.alice()?;
    intercepted(w)?;
    nft(
        &w.topology,
        "table inet z { chain i { type filter hook input priority 0; iifname eth0 tcp sport < 1024 drop; }\n}\n",
    )?;
    // Not one connection is lost, and none goes past the agent.
    intercepted(w)?;
    intercepted(w)?;
    nft(&w.topology, "delete table inet z\n")
});

const FOREIGN_FILTER: Scenario = Scenario {
    before: |t| {
        t.pod().namespace.output(&["tc", "qdisc", "add", "dev", "eth0", "clsact"])?;
        let filter = "tc filter add dev eth0 egress pref 1 protocol all u32 match u32 0 0 flowid 1:1";
        t.pod().namespace.output(&filter.split(' ').collect::<Vec<_>>()).map(drop)
    },
    ..USUAL
};

mod a_filter_of_somebody_else_ends_the_chain {
    use super::*;

    #[test]
    fn behind_ours() -> Result<()> {
        redir_tests::run_by_tcx(FOREIGN_FILTER, |w| {
            let (_green, _blue) = (w.green()?, w.local(LOCAL, "blue")?);
            let _cli = w.alice()?;
            intercepted(w)
        })
    }

    /// Its SYN to an address that nobody has leaves the pod, which the watch on the device must not mind.
    #[test]
    fn before_ours() -> Result<()> {
        redir_tests::run("clsact", Scenario { sniff: false, ..FOREIGN_FILTER }, |w| refused(w, "another program"))
    }
}
