//! BPF links by their descriptors: created first on their hook, and detached even while others hold duplicates.
//!
//! aya makes links too, but keeps their descriptors to itself; the worker must hold duplicates.
#![expect(unsafe_code, reason = "the bpf system call")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Where a program is attached, with the kernel's numbers (`enum bpf_attach_type`).
#[derive(Clone, Copy, Debug)]
pub(super) enum AttachType<'a> {
    /// Ingress of a device, before every other program there.
    TcxIngress(u32),
    /// Egress of a device, before every other program there.
    TcxEgress(u32),
    /// Socket lookups of a network namespace.
    SkLookup(BorrowedFd<'a>),
}

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_DETACH: libc::c_long = 34;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_SK_LOOKUP: u32 = 36;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
/// Before the program named in `relative`; before all of them if none is named.
const BPF_F_BEFORE: u32 = 1 << 3;

/// The part of `union bpf_attr` that `BPF_LINK_CREATE` reads for these hooks.
#[derive(Default)]
#[repr(C)]
struct LinkCreateAttr {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    relative: u32,
    unused: u32,
    expected_revision: u64,
}

const _: () = assert!(size_of::<LinkCreateAttr>() == 32);

/// The part of `union bpf_attr` that `BPF_OBJ_GET_INFO_BY_FD` reads.
#[repr(C)]
struct ObjInfoAttr {
    fd: u32,
    length: u32,
    info: u64,
}

/// `struct bpf_link_info` of a TCX link.
#[derive(Default)]
#[repr(C)]
struct BpfLinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    unused: u32,
    device: u32,
    attach_type: u32,
}

/// Attaches a loaded program. The link lives as long as its descriptor and the duplicates of it.
pub(super) fn create(program: BorrowedFd<'_>, hook: AttachType<'_>) -> io::Result<OwnedFd> {
    let (target, attach_type, flags) = match hook {
        AttachType::TcxIngress(device) => (device, BPF_TCX_INGRESS, BPF_F_BEFORE),
        AttachType::TcxEgress(device) => (device, BPF_TCX_EGRESS, BPF_F_BEFORE),
        AttachType::SkLookup(netns) => (number(netns.as_raw_fd()), BPF_SK_LOOKUP, 0),
    };
    let program = number(program.as_raw_fd());
    let mut attributes = LinkCreateAttr { program, target, attach_type, flags, ..LinkCreateAttr::default() };
    let fd = bpf(BPF_LINK_CREATE, &mut attributes)?;
    // SAFETY: the kernel has just made this descriptor for us (close-on-exec); nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether the system call itself is forbidden (by seccomp, or a security module), whatever is asked of it.
pub(super) fn is_forbidden() -> bool {
    /// No kernel has so many kinds of maps.
    const UNKNOWN_KIND: [u32; 5] = [u32::MAX, 4, 4, 1, 0];
    let answer = bpf(BPF_MAP_CREATE, &mut { UNKNOWN_KIND });
    matches!(answer.map_err(|error| error.raw_os_error()), Err(Some(libc::EPERM | libc::EACCES | libc::ENOSYS)))
}

/// Takes the program off its hook; duplicates of the link stay open and do nothing.
pub(super) fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    bpf(BPF_LINK_DETACH, &mut number(link.as_raw_fd())).map(drop)
}

/// The index of the device that a TCX link is on; 0 once the device is gone.
pub(super) fn device(link: BorrowedFd<'_>) -> io::Result<u32> {
    let mut info = BpfLinkInfo::default();
    let length = u32::try_from(size_of::<BpfLinkInfo>()).map_err(io::Error::other)?;
    let mut attributes = ObjInfoAttr { fd: number(link.as_raw_fd()), length, info: (&raw mut info).addr() as u64 };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attributes)?;
    Ok(info.device)
}

/// The system call; the result is a descriptor, or zero.
pub(super) fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<RawFd> {
    // SAFETY: `attributes` is valid for its length and no longer than the kernel's union; these commands only read it,
    // and write no more than the length it gives of what it points to, which lives as long as the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    RawFd::try_from(result).map_err(io::Error::other)
}

/// A descriptor in the kernel's unsigned field. A borrowed one is never negative.
fn number(fd: RawFd) -> u32 {
    fd.cast_unsigned()
}
