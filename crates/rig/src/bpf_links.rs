//! The BPF links of a network namespace (`sk_lookup`), which `bpftool net` does not show.
//!
//! `bpftool link` walks through the links of the whole machine and fails when one, of another test, vanishes under it. This
//! walk goes on.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
};

/// The kinds of attachment (`enum bpf_attach_type` in linux/bpf.h) of the links on a namespace, which has this inode.
pub(crate) fn of_namespace(inode: u64) -> io::Result<Vec<u32>> {
    let mut found = Vec::new();
    let mut id = 0;
    while let Some(next) = unless_gone(next_id(id))? {
        id = next;
        let Some(link) = unless_gone(open(id))? else { continue };
        let info = info(&link)?;
        if info.kind == BPF_LINK_TYPE_NETNS && u64::from(info.netns_inode) == inode {
            found.push(info.attach_type);
        }
    }
    Ok(found)
}

/// `None` where the kernel has no such link, no more, or has not attached it yet.
fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EAGAIN)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The beginning of `union bpf_attr` for `BPF_LINK_GET_NEXT_ID` and `BPF_LINK_GET_FD_BY_ID`.
#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// The same for `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
struct InfoByFd {
    fd: u32,
    length: u32,
    info: u64,
}

/// `struct bpf_link_info` of a link on a network namespace.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    padding: u32,
    netns_inode: u32,
    attach_type: u32,
}

fn next_id(id: u32) -> io::Result<u32> {
    let mut request = ById { id, ..ById::default() };
    bpf(BPF_LINK_GET_NEXT_ID, &mut request)?;
    Ok(request.next_id)
}

#[expect(unsafe_code, reason = "the system call's result is the only owner of the descriptor")]
fn open(id: u32) -> io::Result<OwnedFd> {
    let fd = bpf(BPF_LINK_GET_FD_BY_ID, &mut ById { id, ..ById::default() })?;
    // SAFETY: the kernel has just given out this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn info(link: &OwnedFd) -> io::Result<LinkInfo> {
    let mut info = LinkInfo::default();
    let length = u32::try_from(size_of::<LinkInfo>()).map_err(io::Error::other)?;
    let fd = link.as_raw_fd().cast_unsigned();
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut InfoByFd { fd, length, info: (&raw mut info) as u64 })?;
    Ok(info)
}

#[expect(unsafe_code, reason = "the bpf system call has no wrapper here")]
fn bpf<T>(command: libc::c_int, request: &mut T) -> io::Result<RawFd> {
    // SAFETY: the kernel reads and writes `request` within the size given, and, for its information, the `LinkInfo` that it
    // points to within the length given; both live until the call returns.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(request), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { RawFd::try_from(result).map_err(io::Error::other) }
}

const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_LINK_GET_FD_BY_ID: libc::c_int = 30;
const BPF_LINK_GET_NEXT_ID: libc::c_int = 31;
const BPF_LINK_TYPE_NETNS: u32 = 5;
