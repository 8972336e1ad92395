//! The few rtnetlink requests that clsact needs, in the calling thread's network namespace.
//!
//! Owns bytes on a netlink socket and nothing else: whose qdisc it is, is decided in `clsact`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// Which side of a device, as the parent of a filter (`TC_H_CLSACT` with `TC_H_MIN_INGRESS`, `TC_H_MIN_EGRESS`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum FilterParent {
    Ingress = 0xffff_fff2,
    Egress = 0xffff_fff3,
}

/// One filter of a device, as the kernel names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TcFilter {
    pub(super) device: u32,
    pub(super) direction: FilterParent,
    pub(super) priority: u16,
    pub(super) handle: u32,
    /// Of a BPF filter.
    pub(super) name: Option<String>,
}

const TC_H_CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
const ETH_P_ALL: u16 = 3;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const ECHO: u16 = 8;
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;
const DUMP: u16 = 0x300;

/// `nlmsghdr` and `tcmsg`.
const HEADER: usize = 16;
const TC_HEADER: usize = 20;

/// Adds the clsact qdisc; `AlreadyExists` if the device has one, or an ingress qdisc.
pub(super) fn add_clsact(device: u32) -> io::Result<()> {
    let mut request =
        RouteRequest::new(libc::RTM_NEWQDISC, ACK | CREATE | EXCLUSIVE, device, CLSACT_HANDLE, TC_H_CLSACT, 0);
    request.attribute(TCA_KIND, b"clsact\0");
    request.exchange().map(drop)
}

/// Deletes the clsact qdisc with every filter on it.
pub(super) fn delete_clsact(device: u32) -> io::Result<()> {
    let mut request = RouteRequest::new(libc::RTM_DELQDISC, ACK, device, CLSACT_HANDLE, TC_H_CLSACT, 0);
    request.attribute(TCA_KIND, b"clsact\0");
    request.exchange().map(drop)
}

/// Adds a BPF filter whose return value is the verdict. Priority 0 leaves the choice to the kernel.
pub(super) fn add_filter(
    device: u32,
    direction: FilterParent,
    priority: u16,
    name: &str,
    program: BorrowedFd<'_>,
) -> io::Result<TcFilter> {
    let mut request = RouteRequest::new(
        libc::RTM_NEWTFILTER,
        ACK | ECHO | CREATE | EXCLUSIVE,
        device,
        0,
        direction as u32,
        info(priority),
    );
    request.attribute(TCA_KIND, b"bpf\0");
    request.nested(TCA_OPTIONS, |options| {
        options.attribute(TCA_BPF_FD, &program.as_raw_fd().to_ne_bytes());
        options.attribute(TCA_BPF_NAME, &[name.as_bytes(), b"\0"].concat());
        options.attribute(TCA_BPF_FLAGS, &TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes());
    });
    let replies = request.exchange()?;
    let added = replies.iter().find_map(|reply| filter(reply, direction));
    added.ok_or_else(|| io::Error::other("the kernel did not say which filter it has made"))
}

/// Deletes one filter.
pub(super) fn delete_filter(of: &TcFilter) -> io::Result<()> {
    RouteRequest::new(libc::RTM_DELTFILTER, ACK, of.device, of.handle, of.direction as u32, info(of.priority))
        .exchange()
        .map(drop)
}

/// The filters of a device; none if it has no qdisc for them. A filter without handle is a classifier's head, not a filter.
pub(super) fn filters(device: u32, direction: FilterParent) -> io::Result<Vec<TcFilter>> {
    let replies = RouteRequest::new(libc::RTM_GETTFILTER, DUMP, device, 0, direction as u32, 0).exchange()?;
    Ok(replies
        .iter()
        .filter_map(|reply| filter(reply, direction))
        .filter(|f| f.handle != 0 && f.device == device)
        .collect())
}

/// Whether a filter is still there; in doubt it is.
pub(super) fn holds(filter: &TcFilter) -> bool {
    let found = filters(filter.device, filter.direction);
    found.map_or_else(|error| error.raw_os_error() != Some(libc::ENODEV), |found| found.contains(filter))
}

fn info(priority: u16) -> u32 {
    u32::from(priority) << 16 | u32::from(ETH_P_ALL.to_be())
}

fn filter(reply: &RouteReply, direction: FilterParent) -> Option<TcFilter> {
    if reply.kind != libc::RTM_NEWTFILTER {
        return None;
    }
    let attributes = reply.body.get(TC_HEADER..)?;
    let name = attribute(attributes, TCA_OPTIONS).and_then(|options| attribute(options, TCA_BPF_NAME));
    let name = name.map(|text| String::from_utf8_lossy(text.strip_suffix(b"\0").unwrap_or(text)).into_owned());
    Some(TcFilter {
        device: word(&reply.body, 4)?,
        handle: word(&reply.body, 8)?,
        direction,
        priority: u16::try_from(word(&reply.body, 16)? >> 16).ok()?,
        name,
    })
}

/// The value of the first attribute of a kind.
fn attribute(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    /// Nested and byte-order flags.
    const KIND: u16 = 0x3fff;
    loop {
        let length = usize::from(half(attributes, 0)?);
        let value = attributes.get(4..length)?;
        if half(attributes, 2)? & KIND == kind {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

struct RouteReply {
    kind: u16,
    body: Vec<u8>,
}

/// A request under construction.
struct RouteRequest {
    bytes: Vec<u8>,
}

impl RouteRequest {
    fn new(kind: u16, flags: u16, device: u32, handle: u32, parent: u32, info: u32) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend(0_u32.to_ne_bytes()); // length, known at the end
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((flags | REQUEST).to_ne_bytes());
        bytes.extend([0; 8]); // sequence and port: one request a socket
        bytes.extend([0; 4]); // any family
        for field in [device, handle, parent, info] {
            bytes.extend(field.to_ne_bytes());
        }
        Self { bytes }
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.nested(kind, |inner| inner.bytes.extend(value));
    }

    fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend(kind.to_ne_bytes());
        fill(self);
        let length = u16::try_from(self.bytes.len() - start).expect("attributes are short");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn exchange(mut self) -> io::Result<Vec<RouteReply>> {
        let length = u32::try_from(self.bytes.len()).expect("requests are short");
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
        send(socket.as_raw_fd(), &self.bytes, MsgFlags::empty())?;
        replies(&socket)
    }
}

/// Reads until the kernel says that it is done, or that it has failed.
fn replies(socket: &OwnedFd) -> io::Result<Vec<RouteReply>> {
    let mut replies = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let received = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = &buffer[..received];
        while let (Some(length), Some(kind)) = (word(rest, 0), half(rest, 4)) {
            let length = usize::try_from(length).map_err(io::Error::other)?;
            let body = rest.get(HEADER..length).ok_or_else(|| io::Error::other("a short netlink message"))?;
            match i32::from(kind) {
                libc::NLMSG_DONE => return Ok(replies),
                libc::NLMSG_ERROR => return acknowledged(body).map(|()| replies),
                _ => replies.push(RouteReply { kind, body: body.to_vec() }),
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

fn acknowledged(body: &[u8]) -> io::Result<()> {
    match word(body, 0).map(u32::cast_signed) {
        Some(0) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(-error)),
        None => Err(io::Error::other("a short netlink error")),
    }
}
