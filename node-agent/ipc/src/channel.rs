//! One message in one datagram over the SEQPACKET socket pair, with descriptors beside it.
//!
//! Owns `sendmsg`/`recvmsg` and the ownership of received descriptors. Never blocks: `WouldBlock` is the caller's to wait out.

use std::{
    io::{self, IoSlice},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, recv, sendmsg, socketpair};

/// Most descriptors beside one message; the kernel's limit is 253 (`SCM_MAX_FD`).
pub const MAX_FDS: usize = 64;

/// Room for them: the header of a control message and the numbers, in words that are aligned for it.
const CONTROL_WORDS: usize = (size_of::<libc::cmsghdr>() + MAX_FDS * size_of::<RawFd>()) / size_of::<u64>();

/// A nonblocking, close-on-exec pair: the guardian's end, the worker's end.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?)
}

/// A nonblocking, close-on-exec pair of stream sockets, for what other processes say to each other.
pub fn stream_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socketpair(AddressFamily::Unix, SockType::Stream, None, flags)?)
}

/// Sends one message whole, or fails.
pub fn send(socket: BorrowedFd<'_>, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let rights = if raw.is_empty() { &rights[..0] } else { &rights[..] };
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(message)], rights, flags, None)?;
    Ok(())
}

/// Receives one message with its descriptors (close-on-exec); 0 bytes mean that the other end is closed. A process that
/// runs out of descriptors gets the first of them, in order, and the message all the same.
#[expect(unsafe_code, reason = "nix gives an error for a cut list of descriptors, and leaks those that came")]
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [0_u64; CONTROL_WORDS];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: a `msghdr` of zeros is one without address, parts and control.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = space.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&space);
    // SAFETY: the part and the control space are valid for their lengths and outlive the call.
    let length =
        unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC) };
    let length = usize::try_from(length).map_err(|_negative| io::Error::last_os_error())?;
    Ok((length, descriptors(&message)))
}

/// The descriptors that the kernel has made for a received message.
#[expect(unsafe_code, reason = "control messages are read through pointers")]
fn descriptors(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: `recvmsg` has filled the control space and set its length; the macros stay within it (cmsg(3)).
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while let Some(control) = header.as_ref() {
            if (control.cmsg_level, control.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
                let bytes = control.cmsg_len - libc::CMSG_LEN(0) as usize;
                let data = libc::CMSG_DATA(header).cast::<RawFd>();
                fds.extend((0..bytes / size_of::<RawFd>()).map(|at| own(data.add(at).read_unaligned())));
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    fds
}

/// Receives one message and lets the kernel discard descriptors beside it: the guardian takes none from the worker.
/// Returns the length that was sent, which may exceed the buffer's.
pub fn receive_plain(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(recv(socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC)?)
}

#[expect(unsafe_code, reason = "SCM_RIGHTS hands descriptors over as numbers")]
fn own(raw: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for this process, and nobody else knows its number.
    unsafe { OwnedFd::from_raw_fd(raw) }
}
