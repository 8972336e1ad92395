//! What the agent needs of the process it runs in, looked at before anything is touched. What the kernel can is tried
//! (`kernel`).
//!
//! Owns the list of capabilities with their reasons. Changes nothing. Called by `run` and `check`.

use std::{fs, io};

/// What this process may do, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostCapabilities {
    capabilities: u64,
    release: String,
    place: RuntimeEnvironment,
}

/// Where the agent runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RuntimeEnvironment {
    /// On a host that names its pods' namespaces.
    Host,
    /// On a Kubernetes node, whose pods it must find.
    Kubernetes,
}

impl HostCapabilities {
    pub(super) fn look(place: RuntimeEnvironment) -> io::Result<Self> {
        let status = fs::read_to_string("/proc/self/status")?;
        let release = fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();
        Ok(Self { capabilities: effective(&status), release, place })
    }

    /// Why the agent cannot run here, with the next step.
    pub(super) fn verdict(&self) -> Result<(), String> {
        let lacking = self.lacking();
        if lacking.is_empty() {
            return Ok(());
        }
        Err(format!(
            "the agent lacks {}; run it as root (in a container: add these to its capabilities)",
            lacking.join(", ")
        ))
    }

    /// For `redir-agent check`.
    pub(super) fn describe(&self) -> Vec<String> {
        let lacking = self.lacking();
        let capabilities = match lacking.is_empty() {
            true => "capabilities: all that the agent needs".into(),
            false => format!("capabilities: lacks {}", lacking.join(", ")),
        };
        let mut facts = vec![format!("kernel {}", self.release), capabilities];
        facts.extend(self.unprotected().map(|lacking| format!("warning: {lacking}")));
        facts
    }

    /// What is worse here for want of a capability, one sentence each.
    fn unprotected(&self) -> impl Iterator<Item = String> {
        let lacking = TO_PROTECT.iter().filter(|(bit, _, _)| self.capabilities >> bit & 1 == 0);
        lacking.map(|(_, name, reason)| format!("the agent lacks {name} ({reason}); add it to its capabilities"))
    }

    /// Whether memory that is locked is not counted.
    pub(super) fn may_lock_memory(&self) -> bool {
        self.capabilities >> CAP_IPC_LOCK & 1 == 1
    }

    fn lacking(&self) -> Vec<String> {
        let admin = self.capabilities >> CAP_SYS_ADMIN & 1 == 1;
        let finding: &[_] = if self.place == RuntimeEnvironment::Kubernetes { &TO_FIND_PODS } else { &[] };
        NEEDED
            .iter()
            .chain(finding)
            .filter(|(bit, _, _)| self.capabilities >> bit & 1 == 0 && !(admin && *bit == CAP_BPF))
            .map(|(_, name, reason)| format!("{name} ({reason})"))
            .collect()
    }
}

/// Whether the calling thread has what loading programs and making maps takes.
pub(super) fn may_load_programs() -> bool {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let has = |bit| effective(&status) >> bit & 1 == 1;
    (has(CAP_BPF) && has(CAP_NET_ADMIN)) || has(CAP_SYS_ADMIN)
}

fn effective(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0)
}

const CAP_NET_ADMIN: u32 = 12;
const CAP_IPC_LOCK: u32 = 14;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_BPF: u32 = 39;
/// Bit (`linux/capability.h`), name, what for.
const NEEDED: [(u32, &str, &str); 7] = [
    (CAP_SYS_ADMIN, "CAP_SYS_ADMIN", "to enter pods' network namespaces"),
    (CAP_NET_ADMIN, "CAP_NET_ADMIN", "to attach programs and mark sockets"),
    (CAP_BPF, "CAP_BPF", "to load programs"),
    (10, "CAP_NET_BIND_SERVICE", "for source ports below 1024"),
    (7, "CAP_SETUID", "to start the worker without privileges"),
    (6, "CAP_SETGID", "to start the worker without privileges"),
    (5, "CAP_KILL", "to end a hung worker"),
];
/// Not needed to run; without one the agent says what is missing.
const TO_PROTECT: [(u32, &str, &str); 2] = [
    (18, "CAP_SYS_CHROOT", "to keep the worker from every file"),
    (CAP_IPC_LOCK, "CAP_IPC_LOCK", "to keep the guardian in memory when that is short"),
];
/// In Kubernetes besides: `/proc/PID/ns/net` of another user's process, or of one with more capabilities, is opened under
/// PTRACE_MODE_READ_FSCREDS (ptrace(2)), also where the node's `/proc` is mounted into a container without hostPID.
const TO_FIND_PODS: [(u32, &str, &str); 1] = [(19, "CAP_SYS_PTRACE", "to find pods' network namespaces")];

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(capabilities: u64) -> HostCapabilities {
        HostCapabilities { capabilities, release: "6.18.0".into(), place: RuntimeEnvironment::Host }
    }

    #[test]
    fn root_may_run() {
        assert_eq!(machine(u64::MAX).verdict(), Ok(()));
        assert_eq!(machine(!(1 << CAP_BPF)).verdict(), Ok(()), "CAP_SYS_ADMIN includes CAP_BPF");
    }

    #[test]
    fn what_is_missing_is_named_with_its_reason() {
        let nobody = machine(0).verdict().expect_err("nothing");
        for (_, name, reason) in NEEDED {
            assert!(nobody.contains(&format!("{name} ({reason})")), "{nobody}");
        }
        assert!(nobody.contains("run it as root"), "{nobody}");
        let one = machine(!(1 << 12)).verdict().expect_err("one");
        assert!(one.contains("lacks CAP_NET_ADMIN (") && !one.contains("CAP_KILL"), "{one}");
    }

    #[test]
    fn a_kubernetes_node_needs_one_more() {
        let without = machine(!(1 << 19));
        assert_eq!(without.verdict(), Ok(()));
        let verdict = HostCapabilities { place: RuntimeEnvironment::Kubernetes, ..without }.verdict().expect_err("one");
        assert!(verdict.contains("lacks CAP_SYS_PTRACE ("), "{verdict}");
    }

    #[test]
    fn what_only_protects_is_missed_and_told() {
        let without = machine(!(1 << 18 | 1 << CAP_IPC_LOCK));
        assert_eq!(without.verdict(), Ok(()));
        assert!(!without.may_lock_memory() && machine(u64::MAX).may_lock_memory());
        let told = without.describe().join("\n");
        assert!(told.contains("warning: the agent lacks CAP_SYS_CHROOT (to keep the worker"), "{told}");
        assert!(told.contains("CAP_IPC_LOCK (to keep the guardian in memory"), "{told}");
        assert_eq!(machine(u64::MAX).unprotected().count(), 0);
    }

    #[test]
    fn status_is_read() {
        assert_eq!(effective("Name:\tx\nCapPrm:\t01\nCapEff:\t000001ffffffffff\n"), 0x1ff_ffff_ffff);
        assert_eq!(effective("garbage"), 0);
    }
}
