//! Writing and reading the fields of a fixed-size message, one after the other, zeros behind the last.
//!
//! Owns bounds checks and nothing else: a field that does not fit or does not parse is `MalformedMessage`, never a panic.
//! Numbers are native-endian: both ends are the same binary on the same machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use redir_config::PodName;

/// A message that this binary would not have written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MalformedMessage;

/// Fills a message of exactly `N` bytes.
pub(super) struct MessageWriter<const N: usize> {
    buffer: [u8; N],
    at: usize,
}

impl<const N: usize> MessageWriter<N> {
    pub(super) fn new() -> Self {
        Self { buffer: [0; N], at: 0 }
    }

    /// Appends bytes. The callers' limits keep every message below `N` (asserted by tests at the limits).
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        let end = self.at + bytes.len();
        self.buffer[self.at..end].copy_from_slice(bytes);
        self.at = end;
        self
    }

    pub(super) fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }

    pub(super) fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_ne_bytes())
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_ne_bytes())
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_ne_bytes())
    }

    /// A number of items below 256, or bytes of text below 64 KiB, is written before them.
    pub(super) fn count(&mut self, count: usize) -> &mut Self {
        self.u16(u16::try_from(count).expect("lists in messages are short"))
    }

    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        self.count(text.len()).bytes(text.as_bytes())
    }

    pub(super) fn ip(&mut self, ip: IpAddr) -> &mut Self {
        match ip {
            IpAddr::V4(ip) => self.u8(4).bytes(&ip.octets()),
            IpAddr::V6(ip) => self.u8(6).bytes(&ip.octets()),
        }
    }

    pub(super) fn finish(&self) -> [u8; N] {
        self.buffer
    }
}

/// Takes a message apart.
pub(super) struct MessageReader<'a> {
    rest: &'a [u8],
}

impl<'a> MessageReader<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8], MalformedMessage> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(MalformedMessage)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const L: usize>(&mut self) -> Result<[u8; L], MalformedMessage> {
        self.bytes(L)?.try_into().map_err(|_| MalformedMessage)
    }

    pub(super) fn u8(&mut self) -> Result<u8, MalformedMessage> {
        Ok(u8::from_ne_bytes(self.array()?))
    }

    pub(super) fn u16(&mut self) -> Result<u16, MalformedMessage> {
        Ok(u16::from_ne_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, MalformedMessage> {
        Ok(u32::from_ne_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, MalformedMessage> {
        Ok(u64::from_ne_bytes(self.array()?))
    }

    /// A number of items, at most `max`.
    pub(super) fn count(&mut self, max: usize) -> Result<usize, MalformedMessage> {
        let count = usize::from(self.u16()?);
        if count > max { Err(MalformedMessage) } else { Ok(count) }
    }

    pub(super) fn text(&mut self, max: usize) -> Result<&'a str, MalformedMessage> {
        let count = self.count(max)?;
        std::str::from_utf8(self.bytes(count)?).map_err(|_| MalformedMessage)
    }

    pub(super) fn ip(&mut self) -> Result<IpAddr, MalformedMessage> {
        match self.u8()? {
            4 => Ok(IpAddr::V4(Ipv4Addr::from(self.array::<4>()?))),
            6 => Ok(IpAddr::V6(Ipv6Addr::from(self.array::<16>()?))),
            _ => Err(MalformedMessage),
        }
    }

    /// What follows the last field must be zeros, so that every message has one encoding only.
    pub(super) fn finish(self) -> Result<(), MalformedMessage> {
        if self.rest.iter().all(|byte| *byte == 0) { Ok(()) } else { Err(MalformedMessage) }
    }
}

pub(super) fn read_pod(r: &mut MessageReader<'_>) -> Result<PodName, MalformedMessage> {
    PodName::new(r.text(PodName::MAX)?).map_err(|_| MalformedMessage)
}

pub(super) fn read_port(r: &mut MessageReader<'_>) -> Result<u16, MalformedMessage> {
    match r.u16()? {
        0 => Err(MalformedMessage),
        port => Ok(port),
    }
}

pub(super) fn read_yes_or_no(r: &mut MessageReader<'_>) -> Result<bool, MalformedMessage> {
    match r.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(MalformedMessage),
    }
}
