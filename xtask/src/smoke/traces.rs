//! What redir might leave on nodes and in pods, as words that are compared or must be empty.
//!
//! Owns: how that is looked at, and what a node lacks for it. Must not judge it.

use std::collections::BTreeSet;

use anyhow::Result;
use redir_rig::namespace::checked;
use serde_json::Value;

use super::world::SmokePod;
use crate::cluster::Cluster;

/// What redir might leave in a node's own network namespace: programs on its devices, addresses, rules. `bpftool` shows
/// links and the file system of programs for the whole machine, where others have theirs: `left_in` looks at those.
pub(super) fn nodes_state(cluster: &Cluster) -> Result<Vec<(String, String)>> {
    let mut states = Vec::new();
    for node in cluster.nodes()? {
        let mut state = String::new();
        for command in
            [&["bpftool", "-j", "net", "show"][..], &["ip", "-brief", "link", "show", "type", "dummy"], &["ip", "rule"]]
        {
            let script = format!("{LOOK}\nlook \"$@\"");
            let words = checked(cluster.enter(&node.name)?.args(["sh", "-c", &script, "sh"]).args(command), None)?;
            state += &format!("{}: {}\n", command.join(" "), without_numbers(&words));
        }
        states.push((node.name, state));
    }
    Ok(states)
}

/// What `bpftool -j` says of programs, without the numbers that the kernel gives: a network that loads its own anew, as
/// Cilium does when it feels like it, has others afterwards.
fn without_numbers(words: &str) -> String {
    fn strip(value: &mut Value) {
        match value {
            Value::Array(values) => values.iter_mut().for_each(strip),
            Value::Object(fields) => {
                fields.retain(|name, _| name != "id" && !name.ends_with("_id"));
                fields.values_mut().for_each(strip);
            }
            _ => (),
        }
    }
    let Ok(mut value) = serde_json::from_str::<Value>(words) else { return words.to_owned() };
    strip(&mut value);
    value.to_string()
}

/// What redir has left in a pod or on its node, in words; empty if nothing. An agent's links end with the processes that
/// hold them, so none of these may be left in the node's network namespace; a clsact filter and a queueing discipline
/// would stay in the pod's.
pub(super) fn left_in(cluster: &Cluster, pod: &SmokePod) -> Result<String> {
    let script = "\
        own=$(readlink /proc/self/ns/net)
        command -v pidof >/dev/null || echo \"left out: pidof\"
        for agent in $(pidof redir-agent); do
            [ \"$(readlink /proc/$agent/ns/net)\" = \"$own\" ] && echo \"redir-agent still runs: $agent\"
        done
        ls /sys/fs/bpf 2>/dev/null | grep redir
        [ -n \"$pid\" ] || { echo \"no process of the pod was found\"; exit 0; }
        programs=$(look bpftool net show) && queues=$(look tc qdisc show) && rules=$(look ip rule) || exit 1
        echo \"$programs\" | grep -e redir -e '^left out: '
        echo \"$queues\" | grep -e clsact -e '^left out: '
        echo \"$rules\" | grep -v -e 'lookup local' -e 'lookup main' -e 'lookup default'
        true";
    beside(cluster, pod, script)
}

/// Runs a script on a pod's node; `$pid` is one of the pod's processes there, or empty, and [`LOOK`] is in the pod's network.
pub(super) fn beside(cluster: &Cluster, pod: &SmokePod, script: &str) -> Result<String> {
    // The kubelet's systemd driver writes `_` for the `-` of a UID.
    let find = "\
        pod=pod$(echo \"$1\" | tr - .)
        pid=$(grep -l \"$pod\" /proc/[0-9]*/cgroup 2>/dev/null | head -n 1 | cut -d / -f 3)
        inside=\"nsenter --net=/proc/$pid/ns/net\"";
    checked(cluster.enter(&pod.node)?.args(["sh", "-c", &format!("{find}\n{LOOK}\n{script}"), "sh", &pod.uid]), None)
}

/// What could not be looked at, as the end of a sentence; empty if all was.
pub(super) fn left_out(words: &str) -> String {
    let missing: BTreeSet<&str> = words.lines().filter_map(without_program).collect();
    if missing.is_empty() {
        return String::new();
    }
    format!("; left out, since the node has no such program: {}", Vec::from_iter(missing).join(", "))
}

/// The program that is missing, if a line of [`LOOK`]'s says so.
pub(super) fn without_program(line: &str) -> Option<&str> {
    line.split_once("left out: ").map(|(_, program)| program)
}

/// For scripts on a node: `look PROGRAM ARGUMENT…` runs it, or says that the node, as kind's, does not have it.
const LOOK: &str = "\
    look() {
        if command -v \"$1\" >/dev/null; then ${inside-} \"$@\" || exit 1; else echo \"left out: $1\"; fi
    }";

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn programs_are_compared_without_the_numbers_of_the_kernel() {
        let shown = |id: u32, name: &str| {
            format!(r#"[{{"tc":[{{"devname":"eth0","name":"{name}","prog_id":{id},"link_id":{id}}}]}}]"#)
        };
        assert_eq!(without_numbers(&shown(1, "a")), without_numbers(&shown(2, "a")));
        assert_ne!(without_numbers(&shown(1, "a")), without_numbers(&shown(1, "b")));
        assert_eq!(without_numbers("0: from all lookup local"), "0: from all lookup local");
    }

    fn looked(words: &str) -> (bool, String) {
        let output = Command::new("sh").args(["-c", &format!("{LOOK}\nlook {words}\necho and on")]).output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    }

    #[test]
    fn what_a_node_lacks_is_said_and_what_fails_is_an_error() {
        assert_eq!(looked("echo 'a  b'"), (true, "a  b\nand on\n".into()));
        assert_eq!(left_out(&looked("echo 'a  b'").1), "");
        let (succeeds, words) = looked("no-such-program net show");
        assert!(succeeds, "{words}");
        assert_eq!(left_out(&words), "; left out, since the node has no such program: no-such-program");
        assert_eq!(looked("false"), (false, String::new()));
    }
}
