//! What a pod's namespace looks like from outside the app: attached programs, addresses, routes, rules, firewall, sysctls.
//! Taken before and after a test; both must be equal.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, bail};

use crate::{bpf_links, namespace::Namespace, tcx, wait};

/// The state of a namespace, by the command that showed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    parts: BTreeMap<String, String>,
}

const COMMANDS: &[&[&str]] = &[
    &["bpftool", "net", "show"],
    &["tc", "qdisc", "show"],
    &["tc", "filter", "show", "dev", "eth0", "ingress"],
    &["tc", "filter", "show", "dev", "eth0", "egress"],
    &["tc", "filter", "show", "dev", "lo", "ingress"],
    &["tc", "filter", "show", "dev", "lo", "egress"],
    &["ip", "addr", "show"],
    &["ip", "-4", "route", "show", "table", "all"],
    &["ip", "-6", "route", "show", "table", "all"],
    &["ip", "-4", "rule", "show"],
    &["ip", "-6", "rule", "show"],
    &["nft", "list", "ruleset"],
    &["iptables-legacy-save"],
    &["ip6tables-legacy-save"],
];

/// Begins as what an agent may have attached does, for [`Snapshot::of_successor`].
const LINKS: &str = "bpftool link of this namespace";

const SYSCTLS: &[&str] = &[
    "net.ipv4.ip_forward",
    "net.ipv4.ip_nonlocal_bind",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_fwmark_accept",
    "net.ipv4.fwmark_reflect",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_tw_reuse",
    "net.ipv4.conf.all.rp_filter",
    "net.ipv4.conf.eth0.rp_filter",
    "net.ipv4.conf.lo.rp_filter",
    "net.ipv4.conf.all.route_localnet",
    "net.ipv4.conf.all.accept_local",
    "net.ipv4.conf.eth0.accept_local",
    "net.ipv6.conf.all.forwarding",
    "net.ipv6.ip_nonlocal_bind",
    "net.ipv6.fwmark_reflect",
];

impl Snapshot {
    /// Looks at the namespace now.
    pub fn take(namespace: &Namespace) -> Result<Self> {
        let mut parts = BTreeMap::new();
        for command in COMMANDS {
            parts.insert(command.join(" "), stable(&shown_by(namespace, command)?));
        }
        for key in SYSCTLS {
            parts.insert((*key).to_owned(), namespace.read_sysctl(key)?);
        }
        parts.insert(LINKS.to_owned(), links(namespace)?);
        let attached = steady(|| tcx::attached(namespace))?;
        parts.insert("bpftool net show".to_owned(), shown(&parts) + &attached);
        Ok(Self { parts })
    }

    /// Looks at a namespace that was made anew in the place of this snapshot's. What an agent may have attached there by now
    /// is as it was here: nobody can look faster than the agent does.
    pub fn of_successor(&self, namespace: &Namespace) -> Result<Self> {
        let mut successor = Self::take(namespace)?;
        let attached =
            self.parts.iter().filter(|(command, _)| command.starts_with("bpftool") || command.starts_with("tc "));
        successor.parts.extend(attached.map(|(command, shown)| (command.clone(), shown.clone())));
        Ok(successor)
    }

    /// The BPF links on the namespace itself, a line each.
    pub fn links(&self) -> &str {
        self.parts.get(LINKS).map_or("", String::as_str)
    }

    /// The programs attached in the namespace, as `bpftool net` shows them.
    pub fn programs(&self) -> &str {
        self.parts.get("bpftool net show").map_or("", String::as_str)
    }

    /// The lines that differ, with the command that shows them. Empty = equal.
    pub fn difference(&self, after: &Self) -> String {
        let changed = self.parts.iter().filter_map(|(command, before)| {
            let now = after.parts.get(command)?;
            (before != now).then(|| format!("{command}:\n--- before\n{before}\n--- after\n{now}\n"))
        });
        changed.collect()
    }

    /// Waits until the namespace looks as in this snapshot again; the error shows what is left.
    pub fn restored(&self, namespace: &Namespace, limit: Duration) -> Result<()> {
        let mut left = None;
        let waited = wait::until_true("the namespace to look as before", limit, || {
            // On a busy machine one look may take seconds: the last one begins within the limit, and counts.
            let difference = self.difference(&Self::take(namespace)?);
            left = Some(difference).filter(|difference| !difference.is_empty());
            Ok(left.is_none())
        });
        match (waited, left) {
            (Ok(()), _) => Ok(()),
            (Err(_), Some(left)) => bail!("{}: something is left after {limit:?}\n{left}", namespace.name()),
            (Err(error), None) => Err(error.context(format!("look at {}", namespace.name()))),
        }
    }
}

/// Without what changes by itself: remaining lifetimes, packet counters of rules, comments with the time.
fn stable(text: &str) -> String {
    let kept = text.lines().filter(|line| !line.starts_with('#') && !line.contains("valid_lft"));
    kept.map(|line| without_counters(line).trim_end().to_owned() + "\n").collect()
}

/// `counter packets 3 bytes 180` → `counter`, `[3:180]` → nothing, IPv6 routes' `expires 12sec` → nothing, and
/// cached path MTUs are dropped.
fn without_counters(line: &str) -> String {
    let mut words = Vec::new();
    let mut skip = false;
    for word in line.split(' ') {
        if std::mem::take(&mut skip) {
            continue;
        }
        match word {
            "packets" | "bytes" | "expires" => skip = true,
            w if w.starts_with('[') && w.ends_with(']') && w.contains(':') => {}
            w => words.push(w),
        }
    }
    words.join(" ")
}

/// Runs a command, `bpftool` more than once if need be.
fn shown_by(namespace: &Namespace, command: &[&str]) -> Result<String> {
    match command {
        ["bpftool", ..] => steady(|| namespace.output(command)),
        _ => namespace.output(command),
    }
}

/// `bpftool` walks through the programs of the whole machine, and fails when one (of another test) vanishes
/// meanwhile: it is asked until it gets through.
fn steady<T>(once: impl Fn() -> Result<T>) -> Result<T> {
    (0..20).find_map(|_| once().ok()).map_or_else(once, Ok)
}

/// What `bpftool net` says; an old one does not know of TCX.
fn shown(parts: &BTreeMap<String, String>) -> String {
    parts.get("bpftool net show").cloned().unwrap_or_default()
}

/// The BPF links on the namespace itself (`sk_lookup`), which `bpftool net` does not show.
fn links(namespace: &Namespace) -> Result<String> {
    let inode = namespace.inode()?;
    let attached = bpf_links::of_namespace(inode).context("list the BPF links of this machine")?;
    Ok(attached.into_iter().map(|kind| format!("netns, attached as {kind}\n")).collect())
}
