//! Netlink dumps in the calling thread's network namespace: one question, and its answers message by message.
//!
//! Owns the framing of messages and attributes (linux/netlink.h). What a question means is its caller's. Called by
//! `devices` and `monitor` (rtnetlink(7)), `connections` and `flush` (sock_diag(7)).

use std::{
    io,
    ops::ControlFlow,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::sys::{
    socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket,
        sockopt,
    },
    time::TimeVal,
};

/// A socket of the namespace that it was opened in.
#[derive(Debug)]
pub(super) struct NetlinkSocket {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl NetlinkSocket {
    /// Answers come within microseconds; a kernel that gives none for a second counts as failed.
    pub(super) fn open(protocol: SockProtocol) -> io::Result<Self> {
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(1, 0))?;
        // The kernel fills up to 32 KiB at once where the reader has room for it.
        Ok(Self { socket, buffer: vec![0; 64 << 10] })
    }

    /// Asks for all objects of a kind and hands the body of each answer over. `Interrupted`: the objects changed while
    /// the kernel listed them, so that some may be missing.
    pub(super) fn dump(&mut self, kind: u16, question: &[u8], mut each: impl FnMut(&[u8])) -> io::Result<()> {
        self.dump_until(kind, question, |body| {
            each(body);
            ControlFlow::Continue(())
        })
    }

    /// The same until `each` has had enough; then the socket must not be used again.
    pub(super) fn dump_until(
        &mut self,
        kind: u16,
        question: &[u8],
        mut each: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> io::Result<()> {
        self.ask(kind, REQUEST | DUMP, question)?;
        let mut interrupted = false;
        loop {
            let length = recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty())?;
            for message in NetlinkMessages(&self.buffer[..length]) {
                let NetlinkMessage { kind, flags, body } = message?;
                interrupted |= flags & DUMP_INTERRUPTED != 0;
                match i32::from(kind) {
                    libc::NLMSG_DONE | libc::NLMSG_ERROR => {
                        acknowledged(body)?;
                        return if interrupted { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) };
                    }
                    _ if each(body).is_break() => return Ok(()),
                    _ => {}
                }
            }
        }
    }

    /// Asks about one object; the error is the kernel's.
    pub(super) fn one<T>(
        &mut self,
        kind: u16,
        question: &[u8],
        read: impl FnOnce(&[u8]) -> Option<T>,
    ) -> io::Result<T> {
        self.ask(kind, REQUEST, question)?;
        let message = self.answer()?;
        match i32::from(message.kind) {
            libc::NLMSG_ERROR => Err(acknowledged(message.body).err().unwrap_or(io::ErrorKind::InvalidData.into())),
            _ => read(message.body).ok_or_else(|| io::ErrorKind::InvalidData.into()),
        }
    }

    /// Asks for a thing to be done; the error is the kernel's.
    pub(super) fn order(&mut self, kind: u16, order: &[u8]) -> io::Result<()> {
        self.ask(kind, REQUEST | ACKNOWLEDGE, order)?;
        acknowledged(self.answer()?.body)
    }

    fn answer(&mut self) -> io::Result<NetlinkMessage<'_>> {
        let length = recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty())?;
        NetlinkMessages(&self.buffer[..length]).next().ok_or(io::ErrorKind::InvalidData)?
    }

    fn ask(&self, kind: u16, flags: u16, question: &[u8]) -> io::Result<()> {
        let length = u32::try_from(HEADER + question.len()).map_err(io::Error::other)?;
        let mut bytes = Vec::with_capacity(HEADER + question.len());
        bytes.extend(length.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        // Sequence and port: one question at a time on each socket.
        bytes.extend([0; 8]);
        bytes.extend(question);
        sendto(self.socket.as_raw_fd(), &bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        Ok(())
    }
}

struct NetlinkMessage<'a> {
    kind: u16,
    flags: u16,
    body: &'a [u8],
}

/// The messages of one datagram.
struct NetlinkMessages<'a>(&'a [u8]);

impl<'a> Iterator for NetlinkMessages<'a> {
    type Item = io::Result<NetlinkMessage<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = self.0;
        let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
        let (Some(kind), Some(flags), Some(body)) = (u16_at(bytes, 4), u16_at(bytes, 6), bytes.get(HEADER..length))
        else {
            self.0 = &[];
            return Some(Err(io::ErrorKind::InvalidData.into()));
        };
        // Messages begin at multiples of four (NLMSG_ALIGN).
        self.0 = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Ok(NetlinkMessage { kind, flags, body }))
    }
}

/// `struct nlmsgerr` and the end of a dump begin with zero or a negative errno.
fn acknowledged(body: &[u8]) -> io::Result<()> {
    match u32_at(body, 0).map_or(-libc::EIO, u32::cast_signed) {
        0.. => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno.saturating_neg())),
    }
}

/// The value of the first attribute of a kind.
pub(super) fn attribute(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    /// Nested and byte-order flags.
    const KIND: u16 = 0x3fff;
    loop {
        let length = usize::from(u16_at(attributes, 0)?);
        let value = attributes.get(4..length)?;
        if u16_at(attributes, 2)? & KIND == kind {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;
const REQUEST: u16 = 0x1;
const ACKNOWLEDGE: u16 = 0x4;
const DUMP: u16 = 0x300;
/// `NLM_F_DUMP_INTR`
const DUMP_INTERRUPTED: u16 = 0x10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_the_kernels() {
        assert_eq!(acknowledged(&(-libc::ENOENT).to_ne_bytes()).expect_err("error").raw_os_error(), Some(libc::ENOENT));
        assert_eq!(acknowledged(&[]).expect_err("short").raw_os_error(), Some(libc::EIO));
        assert!(acknowledged(&[0; 4]).is_ok());
    }

    #[test]
    fn malformed_messages_and_attributes_end_the_reading() {
        for length in [0_u32, 3, 17, 4096] {
            let mut bytes = [0; HEADER];
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            let read: Vec<_> = NetlinkMessages(&bytes).collect();
            assert!(read.len() == 1 && read[0].is_err(), "{length}");
        }
        assert!(NetlinkMessages(&[]).next().is_none());
        for attributes in [&[][..], &[0, 0, 1, 0], &[9, 0, 1, 0, 5], &[4, 0, 2, 0]] {
            assert_eq!(attribute(attributes, 1), None);
        }
        assert_eq!(attribute(&[4, 0, 2, 0, 5, 0, 1, 0, 7], 1), Some(&[7][..]));
    }
}
