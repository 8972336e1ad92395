//! The maps, and the questions the programs ask them. Names and shapes are `redir_abi`'s.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, SockMap},
    programs::SkLookupContext,
};
use redir_abi as abi;

use crate::raw;

#[map]
static AGENT_PORT: Array<u32> = Array::with_max_entries(1, 0);
#[map]
static PORTS: Array<abi::PortWord> = Array::with_max_entries(abi::PORT_WORDS, 0);
#[map]
static POD_IPS: HashMap<AddressKey, u8> = HashMap::with_max_entries(abi::POD_IP_ENTRIES, BPF_F_NO_PREALLOC);
#[map]
static BYPASS: LruHashMap<AddressKey, u64> = LruHashMap::with_max_entries(abi::BYPASS_ENTRIES, 0);
#[map]
static HEARTBEAT: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static STATS: PerCpuArray<u64> = PerCpuArray::with_max_entries(abi::REASONS, 0);
#[map]
static LISTENERS: SockMap = SockMap::with_max_entries(4, 0);
#[map]
static DIVERTED: Array<u32> = Array::with_max_entries(1, 0);
#[map]
static RELEASED: Array<u32> = Array::with_max_entries(1, 0);
#[map]
static COMPANION: Array<u32> = Array::with_max_entries(1, 0);
/// What `steer` left to the companion, and when (monotonic nanoseconds). Not one record for each CPU: the kernel may
/// take a whole batch of packets through ingress before the first of them is looked up.
#[map]
static RECORDED: LruHashMap<ConnectionRecord, u64> = LruHashMap::with_max_entries(abi::RECORD_ENTRIES, 0);

/// The legs of the agent to the app, as the app sees them, and when something last opened or ended one. A leg that lives is
/// known by its socket; this knows it when the socket is gone.
#[map]
static LEGS: LruHashMap<ConnectionRecord, u64> = LruHashMap::with_max_entries(abi::LEG_ENTRIES, 0);

/// Stands in for the socket storage that the guardian makes before the programs are loaded.
#[map]
static LEG_SOCKETS: Array<u64> = Array::with_max_entries(1, 0);
#[map]
static TURNED: Array<u64> = Array::with_max_entries(abi::TURNED_SLOTS, BPF_F_MMAPABLE);

#[map]
static SCRATCH: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);

/// `abi::MappedAddress` as the words it has in a packet.
pub type AddressKey = [u32; 4];

/// The tuple of a connection to the app, real or the agent's leg, from the client's address. Never leaves the kernel.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ConnectionRecord {
    pub client: AddressKey,
    pub pod: AddressKey,
    /// Both ports as they stand in the TCP header.
    pub ports: u32,
}

const _: () = assert!(size_of::<ConnectionRecord>() == 36);

/// What is done with a port.
#[derive(Clone, Copy)]
pub struct PortState {
    pub steered: bool,
    pub ungated: bool,
    pub reflected: bool,
}

#[inline(always)]
pub fn port(port: u16) -> PortState {
    let at = abi::PortBit::of(port);
    match PORTS.get(at.word) {
        Some(word) => PortState {
            steered: word[abi::STEERED] & at.bit != 0,
            ungated: word[abi::UNGATED] & at.bit != 0,
            reflected: word[abi::REFLECTED] & at.bit != 0,
        },
        None => PortState { steered: false, ungated: false, reflected: false },
    }
}

/// The port of the agent's listeners; 0, where nobody listens, until it is set.
#[inline(always)]
pub fn agent_port() -> u16 {
    raw::value(AGENT_PORT.get_ptr(0)).unwrap_or(0) as u16
}

#[inline(always)]
pub fn is_pod_ip(address: &AddressKey) -> bool {
    raw::value(POD_IPS.get_ptr(address)).is_some()
}

/// Whether a client's new connections are left to the app for now: its own, or those of its whole IPv6 /64.
#[inline(always)]
pub fn is_bypassed<const V6: bool>(client: &AddressKey) -> bool {
    bypassed(client) || V6 && bypassed(&[client[0], client[1], 0, 0])
}

#[inline(always)]
fn bypassed(client: &AddressKey) -> bool {
    match raw::value(BYPASS.get_ptr(client)) {
        Some(until) => raw::monotonic_nanos() < until,
        None => false,
    }
}

/// Whether the worker has shown life within the limit. A beat from the future is no life either.
#[inline(always)]
pub fn worker_is_alive() -> bool {
    let Some(beat) = raw::value(HEARTBEAT.get_ptr(0)) else { return false };
    let limit = abi::HEARTBEAT_LIMIT_NANOS;
    // The worker writes on another CPU: its beat may be a moment ahead of our clock.
    raw::monotonic_nanos().wrapping_sub(beat).wrapping_add(limit) <= 2 * limit
}

#[inline(always)]
pub fn count(reason: abi::Reason) {
    raw::increment(STATS.get_ptr_mut(reason as u32));
}

/// Whether the companion is attached, so that it can give new connections to the agent.
#[inline(always)]
pub fn has_companion() -> bool {
    raw::value(COMPANION.get_ptr(0)).unwrap_or(0) != 0
}

/// Whether a packet of the agent to the app was sent elsewhere.
#[inline(always)]
pub fn is_diverted() -> bool {
    raw::value(DIVERTED.get_ptr(0)).unwrap_or(0) != 0
}

/// Whether the pod's programs are detached, so that nothing looks at what its sockets send.
#[inline(always)]
pub fn is_released() -> bool {
    raw::value(RELEASED.get_ptr(0)).unwrap_or(0) != 0
}

#[inline(always)]
pub fn set_diverted() {
    raw::write(DIVERTED.get_ptr_mut(0), 1);
}

/// A word of this CPU, for one run of a program.
#[inline(always)]
pub fn scratch() -> Option<*mut u32> {
    SCRATCH.get_ptr_mut(0)
}

/// The map of the legs' sockets, for the helpers.
#[inline(always)]
pub fn leg_sockets() -> *mut c_void {
    core::ptr::from_ref(&LEG_SOCKETS).cast_mut().cast()
}

/// Notes for the worker that the leg's SYN was turned round, or seen on `lo`.
#[inline(always)]
pub fn note_turned(number: u64) {
    raw::write(TURNED.get_ptr_mut(abi::turned_slot(number)), number);
}

/// Which of the agent's listeners takes a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum ListenerRole {
    Agent,
    /// The connection only tries the way.
    Trial,
}

#[inline(always)]
pub fn record(record: &ConnectionRecord, taker: ListenerRole) -> bool {
    let trial = if taker == ListenerRole::Trial { abi::TRIAL } else { 0 };
    RECORDED.insert(record, raw::monotonic_nanos() | trial, 0).is_ok()
}

#[inline(always)]
pub fn forget_record(record: &ConnectionRecord) {
    let _unknown = RECORDED.remove(record);
}

/// A record that was taken back.
#[derive(Clone, Copy)]
pub struct TakenRecord {
    pub taker: ListenerRole,
    /// Too old to be of the packet under way.
    pub late: bool,
}

/// Takes a record back, if there is one.
#[inline(always)]
pub fn take(record: &ConnectionRecord) -> Option<TakenRecord> {
    let at = raw::value(RECORDED.get_ptr(record))?;
    // Once for each record: if it is gone already, another lookup has taken it.
    let taken = RECORDED.remove(record).is_ok();
    let late = raw::monotonic_nanos().wrapping_sub(at & !abi::TRIAL) > abi::RECORD_NANOS;
    let taker = if at & abi::TRIAL == 0 { ListenerRole::Agent } else { ListenerRole::Trial };
    taken.then_some(TakenRecord { taker, late })
}

/// Notes that a packet has opened or ended a leg, or came late for one.
#[inline(always)]
pub fn remember_leg(leg: &ConnectionRecord) {
    // Fails only under memory pressure of the map itself; then late segments of this leg are not known.
    let _unknown = LEGS.insert(leg, raw::monotonic_nanos(), 0);
}

/// Whether a tuple is that of a leg, or was within the last minute.
#[inline(always)]
pub fn is_leg(leg: &ConnectionRecord) -> bool {
    let Some(at) = raw::value(LEGS.get_ptr(leg)) else { return false };
    raw::monotonic_nanos().wrapping_sub(at) <= abi::LEG_NANOS
}

/// The client itself opens a connection with the tuple: what the app sends there is for the client from now on.
#[inline(always)]
pub fn forget_leg(leg: &ConnectionRecord) {
    let _unknown = LEGS.remove(leg);
}

/// Selects a listener for a lookup.
#[inline(always)]
pub fn select_listener(ctx: &SkLookupContext, v6: bool, taker: ListenerRole) -> bool {
    let family = if v6 { abi::map::LISTENER_V6 } else { abi::map::LISTENER_V4 };
    let index = if taker == ListenerRole::Trial { family + abi::map::LISTENERS_OF_TRIAL } else { family };
    LISTENERS.redirect_sk_lookup(ctx, index, 0).is_ok()
}
