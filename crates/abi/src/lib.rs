//! What the eBPF programs and the guardian agree on: names, numbers, key shapes and counters.
//!
//! Owns every constant that both sides of the kernel boundary must see alike. Does no I/O and knows neither aya nor the
//! kernel's headers. Read by `ebpf/` (kernel side, `no_std`) and by the guardian's datapath; the worker uses the mark,
//! the reserved ranges and the heartbeat's times.
#![no_std]

mod addr;
mod ports;
mod reason;

pub use addr::MappedAddress;
pub use ports::{PORT_WORDS, PortBit, PortWord, REFLECTED, RESERVED_HIGH, RESERVED_LOW, STEERED, UNGATED, is_reserved};
pub use reason::{PacketVerdict, ProgramName, REASONS, Reason};

/// The mark of a packet between `reflect`, which has turned it, and `steer`, which takes it off again: no socket carries
/// it, and nothing is decided by it but that `steer` leaves the packet alone. Its bits are outside the masks in common use
/// (0x1, 0xff, 0xfff, 0x4000, 0x8000, 0xf0000, 0xff0000).
pub const MARK: u32 = 0x5200_3000;

/// Notes of turned SYNs that are kept for the worker to read; 32 KiB a pod. A leg's note is at its number modulo this, and
/// is read within the leg's connect: a note that was overwritten says nothing, and the leg is tried again.
pub const TURNED_SLOTS: u32 = 4096;

/// Bit of a leg's number, and of a record's time: the leg only tries the way, and is taken by the listener for that.
pub const TRIAL: u64 = 1 << 63;

/// In place of a leg's number, on the agent's listeners and whatever they have accepted: such a socket never opens a connection.
pub const ACCEPTS: u64 = 0;

/// Where the note of the leg with this number is.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "below the number of slots")]
pub const fn turned_slot(number: u64) -> u32 {
    (number % TURNED_SLOTS as u64) as u32
}

/// How old the worker's heartbeat may be, in nanoseconds of `CLOCK_MONOTONIC`, before steering passes everything to the app.
/// Two seconds: a worker that is merely slow is not cut off, a hung one stalls a client by no more than two SYN retries.
pub const HEARTBEAT_LIMIT_NANOS: u64 = 2_000_000_000;

/// How often the worker writes its heartbeat, in milliseconds: eight beats may be lost before the limit.
pub const HEARTBEAT_EVERY_MILLIS: u64 = 250;

/// How long a tuple that was recorded stays good for the `sk_lookup` companion, in nanoseconds. It runs microseconds later,
/// unless the CPU is taken away meanwhile: then a second is little. A record is of one tuple and is taken once.
pub const RECORD_NANOS: u64 = 1_000_000_000;

/// Tuples that can be recorded at a time: more than all CPUs have under way; those whose packet went elsewhere give way.
pub const RECORD_ENTRIES: u32 = 4096;

/// How long the tuple of a leg is known after its last packet that opened or ended it, in nanoseconds: as long as the kernel
/// keeps a connection in TIME_WAIT or FIN_WAIT2.
pub const LEG_NANOS: u64 = 60_000_000_000;

/// Tuples of legs that are known at a time; the least recently used gives way, and with it only its late segments: a leg
/// that lives is known by its socket. 8,192 are 0.9 MB a pod and the legs of 8 s at 1,000 new connections a second.
pub const LEG_ENTRIES: u32 = 8192;

/// Client addresses (and IPv6 /64s, by their first address) that can be bypassed at once, for each pod; the least recently used gives way.
pub const BYPASS_ENTRIES: u32 = 1024;

/// Addresses one pod may have: a hundred networks with both families and link-local ones.
pub const POD_IP_ENTRIES: u32 = 512;

/// Names of the programs, as `bpftool` and `tc` show them (the kernel keeps 15 bytes).
pub mod program {
    /// Ingress of a pod's device with an Ethernet header.
    pub const STEER: &str = "redir_steer";
    /// Ingress of a pod's device without a link-layer header.
    pub const STEER_L3: &str = "redir_steer_l3";
    /// Ingress of `lo`.
    pub const STEER_LO: &str = "redir_steer_lo";
    /// Egress of a pod's device with an Ethernet header.
    pub const REFLECT: &str = "redir_reflect";
    /// Egress of a pod's device without a link-layer header.
    pub const REFLECT_L3: &str = "redir_refl_l3";
    /// The `sk_lookup` companion: gives new connections that `steer` has recorded to the agent's listener.
    pub const SK_LOOKUP: &str = "redir_sk_lookup";
    /// Filter of the agent's sockets in the pod.
    pub const FILTER: &str = "redir_filter";
    /// Egress of `lo`.
    pub const REFLECT_LO: &str = "redir_refl_lo";
    /// All that can be attached to a device's hooks: what a killed predecessor may have left.
    pub const CLASSIFIERS: [&str; 6] = [STEER, STEER_L3, STEER_LO, REFLECT, REFLECT_L3, REFLECT_LO];
}

/// Names of the maps.
pub mod map {
    /// Array of one `u32`: the port of the agent's listeners in this pod's network namespace; 0 before it is set.
    pub const AGENT_PORT: &str = "AGENT_PORT";
    /// Array of one `u32`: 1 while the companion is attached; otherwise `steer` assigns sockets by itself.
    pub const COMPANION: &str = "COMPANION";
    /// Array of one `u32`: 1 once a SYN of the agent to the app was sent elsewhere; from then on nothing is steered.
    pub const DIVERTED: &str = "DIVERTED";
    /// Array of one `u32`: 1 once the programs are detached; from then on no socket of the agent in the pod gets a packet.
    pub const RELEASED: &str = "RELEASED";
    /// Array of [`PortWord`](crate::PortWord), [`PORT_WORDS`](crate::PORT_WORDS) long: what is done with each port. Written by the guardian.
    pub const PORTS: &str = "PORTS";
    /// Hash: [`MappedAddress`](crate::MappedAddress) → `u8`, the pod's own addresses.
    pub const POD_IPS: &str = "POD_IPS";
    /// LRU hash: [`MappedAddress`](crate::MappedAddress) of a client → `u64`, monotonic nanoseconds until which it is not steered.
    pub const BYPASS: &str = "BYPASS";
    /// Array of one `u64` that can be mapped: the worker's last sign of life, monotonic nanoseconds.
    pub const HEARTBEAT: &str = "HEARTBEAT";
    /// Socket storage: the number of each socket that the guardian has made for a leg, a `u64` from 1 that never comes
    /// twice in a pod, or [`ACCEPTS`](crate::ACCEPTS). The object has a stand-in; the guardian makes the map, which needs type
    /// information.
    pub const LEG_SOCKETS: &str = "LEG_SOCKETS";
    /// Array of [`TURNED_SLOTS`](crate::TURNED_SLOTS) `u64` that can be mapped, by [`turned_slot`](crate::turned_slot): the
    /// number of the leg whose SYN was turned round, or seen on `lo` where nothing turns.
    pub const TURNED: &str = "TURNED";
    /// LRU hash: tuple of a leg of the agent to the app → `u64`, monotonic nanoseconds of the last packet that opened or
    /// ended it. The key never leaves the kernel.
    pub const LEGS: &str = "LEGS";
    /// Per-CPU array of `u64`, indexed by [`Reason`](crate::Reason).
    pub const STATS: &str = "STATS";
    /// SOCKMAP of the agent's listeners, at [`LISTENER_V4`] and [`LISTENER_V6`], and [`LISTENERS_OF_TRIAL`] further on of
    /// those that take the legs that only try the way.
    pub const LISTENERS: &str = "LISTENERS";
    /// Index of the IPv4 listener in [`LISTENERS`].
    pub const LISTENER_V4: u32 = 0;
    /// Index of the IPv6 listener in [`LISTENERS`].
    pub const LISTENER_V6: u32 = 1;
    /// Added to the index of a listener.
    pub const LISTENERS_OF_TRIAL: u32 = 2;
}
