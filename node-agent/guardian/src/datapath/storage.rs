//! What the guardian puts on a socket, and what goes with it: socket storage, which only the programs of this pod read and
//! nobody else can write, and a filter.
//!
//! The kernel makes such a map only with type information for its key and value, which the object does not carry: here it is
//! written by hand, two integers. The object has a map that stands in until the programs are loaded.
#![expect(
    unsafe_code,
    reason = "the bpf system call, a descriptor put in another's place, and socket options without a wrapper"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::link::bpf;

/// Makes the map: for each socket a `u64`.
pub(super) fn create() -> io::Result<OwnedFd> {
    let types = load_types()?;
    let mut attributes = MapCreate {
        map_type: BPF_MAP_TYPE_SK_STORAGE,
        key_size: 4,
        value_size: 8,
        flags: BPF_F_NO_PREALLOC | BPF_F_CLONE,
        types: types.as_raw_fd().cast_unsigned(),
        key_type: INT,
        value_type: U64,
        ..MapCreate::default()
    };
    attributes.name[..11].copy_from_slice(b"LEG_SOCKETS");
    own(bpf(BPF_MAP_CREATE, &mut attributes)?)
}

/// Puts the map in the place of another: who names that descriptor gets this map from now on.
pub(super) fn take_place_of(stand_in: BorrowedFd<'_>, map: &OwnedFd) -> io::Result<()> {
    // SAFETY: both are open; the kernel closes the file behind the second and makes it a duplicate of the first, at once.
    let result = unsafe { libc::dup3(map.as_raw_fd(), stand_in.as_raw_fd(), libc::O_CLOEXEC) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Puts a value on a socket.
pub(super) fn put(map: BorrowedFd<'_>, socket: BorrowedFd<'_>, value: u64) -> io::Result<()> {
    let key = socket.as_raw_fd();
    let mut attributes = MapUpdate {
        map: map.as_raw_fd().cast_unsigned(),
        unused: 0,
        key: (&raw const key).addr() as u64,
        value: (&raw const value).addr() as u64,
        flags: 0,
    };
    bpf(BPF_MAP_UPDATE_ELEM, &mut attributes).map(drop)
}

/// Puts a filter on a socket that its holder can neither change nor take off.
pub(super) fn filter_for_good(socket: BorrowedFd<'_>, filter: BorrowedFd<'_>) -> io::Result<()> {
    set_option(socket, libc::SO_ATTACH_BPF, filter.as_raw_fd())?;
    set_option(socket, libc::SO_LOCK_FILTER, 1)
}

fn set_option(socket: BorrowedFd<'_>, option: i32, value: i32) -> io::Result<()> {
    let at = (&raw const value).cast();
    // SAFETY: the value is as long as the length says, and is only read.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, at, INT_LENGTH) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn load_types() -> io::Result<OwnedFd> {
    let blob = types();
    let mut attributes = BtfLoad { types: blob.as_ptr().addr() as u64, size: LENGTH, ..BtfLoad::default() };
    own(bpf(BPF_BTF_LOAD, &mut attributes)?)
}

fn own(fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: the kernel has just made this descriptor for us (close-on-exec); nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `struct btf_header`, `int` as type 1 and a `u64` as type 2 (each `struct btf_type` and the word that an integer has), and
/// their names; see the kernel's Documentation/bpf/btf.rst.
fn types() -> Vec<u8> {
    const KIND_INT: u32 = 1 << 24;
    const SIGNED: u32 = 1 << 24;
    const TYPES: u32 = 32;
    let words = [0x0001_eb9f, 24, 0, TYPES, TYPES, NAMES_LENGTH]
        .into_iter()
        .chain([1, KIND_INT, 4, SIGNED | 32])
        .chain([5, KIND_INT, 8, 64]);
    let mut blob: Vec<u8> = words.flat_map(u32::to_ne_bytes).collect();
    blob.extend_from_slice(NAMES);
    blob
}

const INT_LENGTH: libc::socklen_t = 4;

const NAMES: &[u8; 9] = b"\0int\0u64\0";
const NAMES_LENGTH: u32 = 9;
const _: () = assert!(NAMES.len() == 9);
const LENGTH: u32 = 24 + 32 + NAMES_LENGTH;
const INT: u32 = 1;
const U64: u32 = 2;

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_BTF_LOAD: libc::c_long = 18;
const BPF_MAP_TYPE_SK_STORAGE: u32 = 24;
const BPF_F_NO_PREALLOC: u32 = 1;
/// What a listener accepts gets the listener's value (5.4).
const BPF_F_CLONE: u32 = 1 << 9;

/// The part of `union bpf_attr` that `BPF_MAP_CREATE` reads.
#[derive(Default)]
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    inner_map: u32,
    numa_node: u32,
    name: [u8; 16],
    device: u32,
    types: u32,
    key_type: u32,
    value_type: u32,
}

/// And `BPF_MAP_UPDATE_ELEM`.
#[repr(C)]
struct MapUpdate {
    map: u32,
    unused: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// And `BPF_BTF_LOAD`.
#[derive(Default)]
#[repr(C)]
struct BtfLoad {
    types: u64,
    log: u64,
    size: u32,
    log_size: u32,
    log_level: u32,
    unused: u32,
}

const _: () = assert!(size_of::<MapCreate>() == 60);
const _: () = assert!(size_of::<MapUpdate>() == 32);
