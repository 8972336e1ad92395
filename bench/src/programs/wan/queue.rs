//! One of netfilter's queues, as far as an emulated link needs it: numbers of packets come, verdicts go. Messages as in
//! linux/netfilter/nfnetlink_queue.h.

use std::{
    io::{ErrorKind, Read, Write},
    os::fd::{AsFd, BorrowedFd},
};

use anyhow::{Context, Result, bail, ensure};
use socket2::{Domain, Protocol, Socket, Type};

/// Numbers of linux/netlink.h, nfnetlink.h and nfnetlink_queue.h.
const AF_NETLINK: i32 = 16;
const NETLINK_NETFILTER: i32 = 12;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLMSG_ERROR: u16 = 2;
const SUBSYSTEM: u16 = 3 << 8;
const PACKET: u16 = SUBSYSTEM;
const VERDICT: u16 = SUBSYSTEM | 1;
const CONFIG: u16 = SUBSYSTEM | 2;
const VERDICT_BATCH: u16 = SUBSYSTEM | 3;
const CFG_CMD: u16 = 1;
const CFG_PARAMS: u16 = 2;
const CFG_QUEUE_MAXLEN: u16 = 3;
const CFG_MASK: u16 = 4;
const CFG_FLAGS: u16 = 5;
const F_GSO: u32 = 4;
const PACKET_HDR: u16 = 1;
const VERDICT_HDR: u16 = 2;
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
const ENOBUFS: i32 = 105;

/// Packets that are under way at most; more are lost.
const ROOM: u32 = 20_000;
/// For the kernel's words about them.
const BUFFER: usize = 32 << 20;
/// nlmsghdr and nfgenmsg.
const HEAD: usize = 16 + 4;

/// The queue.
pub(super) struct NetfilterQueue {
    socket: Socket,
    number: u16,
    buffer: Vec<u8>,
}

impl NetfilterQueue {
    /// Binds it in the calling thread's namespace; `joined`: packets come as they are, also those that the kernel has
    /// joined.
    pub(super) fn open(number: u16, joined: bool) -> Result<Self> {
        let socket = Socket::new(Domain::from(AF_NETLINK), Type::RAW, Some(Protocol::from(NETLINK_NETFILTER)))?;
        socket.set_recv_buffer_size(BUFFER)?;
        let mut queue = Self { socket, number, buffer: vec![0; 1 << 16] };
        // NFQNL_CFG_CMD_BIND of any family, and NFQNL_COPY_META.
        queue.configure("bind", &[(CFG_CMD, &[1, 0, 0, 0])])?;
        queue.configure("ask for no bytes", &[(CFG_PARAMS, &[0, 0, 0, 0, 1])])?;
        queue.configure("make room", &[(CFG_QUEUE_MAXLEN, &ROOM.to_be_bytes())])?;
        let flags = if joined { F_GSO } else { 0 };
        queue
            .configure("take joined packets", &[(CFG_MASK, &F_GSO.to_be_bytes()), (CFG_FLAGS, &flags.to_be_bytes())])?;
        queue.socket.set_nonblocking(true)?;
        Ok(queue)
    }

    fn configure(&mut self, what: &str, attributes: &[(u16, &[u8])]) -> Result<()> {
        self.send(CONFIG, NLM_F_REQUEST | NLM_F_ACK, attributes).with_context(|| what.to_owned())?;
        loop {
            let length = (&self.socket).read(&mut self.buffer).with_context(|| what.to_owned())?;
            // Packets may come before the answer; the load has not begun, and they are asked for again.
            if number_at::<2>(&self.buffer[..length], 4).map(u16::from_ne_bytes) == Some(NLMSG_ERROR) {
                let code =
                    number_at::<4>(&self.buffer[..length], 16).map(i32::from_ne_bytes).context("half an answer")?;
                ensure!(code == 0, "{what}: {}", std::io::Error::from_raw_os_error(-code));
                return Ok(());
            }
        }
    }

    /// The next packet's number, if one is there.
    pub(super) fn take(&mut self) -> Result<Option<u32>> {
        loop {
            let length = match (&self.socket).read(&mut self.buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                // Some were lost, as on a link that is too full.
                Err(error) if error.raw_os_error() == Some(ENOBUFS) => continue,
                Err(error) => return Err(error).context("read from netfilter"),
            };
            let message = &self.buffer[..length];
            match number_at::<2>(message, 4).map(u16::from_ne_bytes) {
                Some(PACKET) => return packet(message).map(Some),
                // A verdict on a packet that went with its device.
                Some(NLMSG_ERROR) => {}
                kind => bail!("netfilter says {kind:?}"),
            }
        }
    }

    /// Lets this packet go, and all before it.
    pub(super) fn accept_until(&self, packet: u32) -> Result<()> {
        self.verdict(VERDICT_BATCH, NF_ACCEPT, packet)
    }

    /// Loses it.
    pub(super) fn drop(&self, packet: u32) -> Result<()> {
        self.verdict(VERDICT, NF_DROP, packet)
    }

    fn verdict(&self, kind: u16, verdict: u32, packet: u32) -> Result<()> {
        let head = [verdict.to_be_bytes(), packet.to_be_bytes()].concat();
        self.send(kind, NLM_F_REQUEST, &[(VERDICT_HDR, &head)])
    }

    fn send(&self, kind: u16, flags: u16, attributes: &[(u16, &[u8])]) -> Result<()> {
        let mut message = vec![0; HEAD];
        message[18..20].copy_from_slice(&self.number.to_be_bytes());
        for (kind, value) in attributes {
            message.extend(u16::try_from(4 + value.len())?.to_ne_bytes());
            message.extend(kind.to_ne_bytes());
            message.extend(*value);
            message.resize(message.len().next_multiple_of(4), 0);
        }
        let length = u32::try_from(message.len())?;
        message[..4].copy_from_slice(&length.to_ne_bytes());
        message[4..6].copy_from_slice(&kind.to_ne_bytes());
        message[6..8].copy_from_slice(&flags.to_ne_bytes());
        (&self.socket).write_all(&message).context("tell netfilter")
    }
}

impl AsFd for NetfilterQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The number in a packet's message.
fn packet(message: &[u8]) -> Result<u32> {
    let mut at = HEAD;
    while let (Some(length), Some(kind)) = (number_at::<2>(message, at), number_at::<2>(message, at + 2)) {
        if u16::from_ne_bytes(kind) == PACKET_HDR {
            return number_at::<4>(message, at + 4).map(u32::from_be_bytes).context("half a packet's head");
        }
        at += usize::from(u16::from_ne_bytes(length)).max(4).next_multiple_of(4);
    }
    bail!("a packet without a number")
}

fn number_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packets_number_is_found_behind_other_attributes() {
        let mut message = vec![0; HEAD];
        message.extend([7, 0, 9, 0, 1, 2, 3, 0]);
        message.extend([11, 0, 1, 0, 0, 0, 1, 2, 8, 0, 2, 0]);
        assert_eq!(packet(&message).unwrap(), 0x102);
        assert!(packet(&message[..HEAD + 8]).is_err());
    }
}
