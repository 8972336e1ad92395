//! What can go wrong in the datapath, each with the next step for the admin.

use std::fmt;
use std::io;

/// Why a pod could not be intercepted, or its programs not changed.
#[derive(Debug)]
pub(crate) enum DatapathError {
    /// The kernel refused for lack of capabilities.
    Permission {
        /// What was tried.
        action: &'static str,
    },
    /// The kernel counts maps and programs against a limit, which is used up.
    LockedMemory {
        /// What was tried.
        action: &'static str,
        /// `RLIMIT_MEMLOCK`, bytes.
        limit: u64,
    },
    /// The kernel has no eBPF, or lacks what a program needs.
    KernelTooOld {
        /// What the kernel said.
        detail: String,
    },
    /// TCX was asked for and the kernel has none.
    NoTcx,
    /// The kernel's verifier or loader refused a program.
    Load {
        /// The program.
        program: &'static str,
        /// What the kernel said, the verifier's log included.
        detail: String,
    },
    /// Signals interrupted the verifier each time.
    Interrupted {
        /// The program.
        program: &'static str,
    },
    /// A program could not be attached to a device.
    Attach {
        /// The program.
        program: &'static str,
        /// The device in the pod.
        device: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A program could not be taken off its hook.
    Detach(io::Error),
    /// The clsact qdisc or its filters could not be read or changed.
    Clsact {
        /// What was tried.
        action: &'static str,
        /// The device in the pod.
        device: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A map could not be read or written.
    Map {
        /// The map.
        name: &'static str,
        /// What the kernel said.
        detail: String,
    },
    /// The pod's network namespace could not be entered.
    Netns(io::Error),
    /// The pod has no device that carries one of its addresses, or more addresses than the map holds.
    Spec(&'static str),
}

impl DatapathError {
    /// The device went before it was given its program.
    pub(super) fn is_of_a_device_that_went(&self) -> bool {
        match self {
            Self::Attach { source, .. } | Self::Clsact { source, .. } => source.raw_os_error() == Some(libc::ENODEV),
            _ => false,
        }
    }
}

impl fmt::Display for DatapathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Permission { action } => write!(
                f,
                "{action}: the kernel does not permit it; run redir-agent as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN"
            ),
            Self::KernelTooOld { detail } => {
                write!(
                    f,
                    "this kernel cannot run redir's programs ({detail}); use Linux 5.10 or newer, built with CONFIG_BPF_SYSCALL"
                )
            }
            Self::LockedMemory { action, limit } => write!(
                f,
                "{action}: this kernel counts all of root's maps and programs against RLIMIT_MEMLOCK, which is {} KiB here; start redir-agent with a higher limit (`ulimit -l unlimited`, LimitMEMLOCK=infinity), or let it raise the limit itself by CAP_SYS_RESOURCE (in Kubernetes the chart's value raiseMemlock)",
                limit / 1024
            ),
            Self::NoTcx => f.write_str(
                "attach = \"tcx\": this kernel has no TCX; set attach = \"auto\", or use a kernel that has it",
            ),
            Self::Load { program, detail } => {
                write!(f, "load {program}: {detail}; please report this with the output of `uname -r`")
            }
            Self::Interrupted { program } => write!(
                f,
                "load {program}: signals interrupt the kernel's verifier each time; look at what sends them to redir-agent (a debugger, a profiler), it is tried again"
            ),
            Self::Attach { program, device, source } => {
                write!(
                    f,
                    "attach {program} to {device}: {source}; check the device with `ip link` in the pod's network namespace"
                )
            }
            Self::Detach(source) => {
                write!(f, "detach a program: {source}; restart redir-agent, what is left goes with its process")
            }
            Self::Clsact { action, device, source } => {
                write!(
                    f,
                    "{action} on {device}: {source}; check `tc qdisc show` and `tc filter show` in the pod's network namespace"
                )
            }
            Self::Map { name, detail } => write!(f, "map {name}: {detail}; restart redir-agent"),
            Self::Netns(source) => {
                write!(
                    f,
                    "enter the pod's network namespace: {source}; run redir-agent with CAP_SYS_ADMIN, and check that the pod still runs"
                )
            }
            Self::Spec(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for DatapathError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Attach { source, .. } | Self::Clsact { source, .. } | Self::Netns(source) | Self::Detach(source) => {
                Some(source)
            }
            Self::Permission { .. }
            | Self::LockedMemory { .. }
            | Self::KernelTooOld { .. }
            | Self::NoTcx
            | Self::Load { .. }
            | Self::Interrupted { .. }
            | Self::Map { .. }
            | Self::Spec(_) => None,
        }
    }
}
