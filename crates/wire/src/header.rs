//! What the agent writes at the start of a data stream, before the client's bytes.

use std::net::{IpAddr, SocketAddr};

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use crate::error::Malformed;
use crate::{limits, proto};

/// Whose connection a data stream carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamHeader {
    /// The agent's number of the intercept.
    pub intercept: u64,
    /// The pod that the client talks to.
    pub pod: String,
    /// The client's address.
    pub client: SocketAddr,
    /// The address that the client connected to.
    pub destination: SocketAddr,
    /// The client speaks TLS, which the agent decrypts: what follows is cleartext.
    pub tls: Option<ClientTls>,
}

/// What a decrypted client has agreed on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTls {
    /// The name that it asked for (SNI).
    pub server_name: Option<String>,
    /// The protocol that it speaks (ALPN).
    pub alpn: Option<Vec<u8>>,
}

impl StreamHeader {
    /// The header's bytes: a big-endian `u16` length, then protobuf.
    pub fn encode(&self) -> Result<Bytes, Malformed> {
        let header = proto::StreamHeader {
            intercept: self.intercept,
            pod: self.pod.clone(),
            client: Some(address_to_proto(self.client)),
            destination: Some(address_to_proto(self.destination)),
            tls: self.tls.as_ref().map(|tls| proto::ClientTls {
                server_name: tls.server_name.clone().unwrap_or_default(),
                alpn: tls.alpn.clone().unwrap_or_default(),
            }),
        };
        let length = header.encoded_len();
        let mut out = BytesMut::with_capacity(LENGTH + length);
        match u16::try_from(length) {
            Ok(prefix) if length <= limits::HEADER => out.put_u16(prefix),
            _ => return Err(TOO_LONG),
        }
        header.encode_raw(&mut out);
        Ok(out.freeze())
    }

    /// How many bytes follow the length's two.
    pub fn length(prefix: [u8; LENGTH]) -> Result<usize, Malformed> {
        let length = usize::from(u16::from_be_bytes(prefix));
        if length > limits::HEADER { Err(TOO_LONG) } else { Ok(length) }
    }

    /// Reads a header without its length.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let header = proto::StreamHeader::decode(bytes).map_err(|_| Malformed::Encoding)?;
        if header.pod.len() > limits::NAME {
            return Err(Malformed::TooLong { what: "a pod's name", limit: limits::NAME });
        }
        Ok(Self {
            intercept: header.intercept,
            pod: header.pod,
            client: address_from_proto(header.client.as_ref(), "the client's address")?,
            destination: address_from_proto(header.destination.as_ref(), "the destination's address")?,
            tls: header.tls.map(|tls| ClientTls {
                server_name: Some(tls.server_name).filter(|name| !name.is_empty()),
                alpn: Some(tls.alpn).filter(|protocol| !protocol.is_empty()),
            }),
        })
    }
}

fn address_to_proto(address: SocketAddr) -> proto::Address {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    proto::Address { ip, port: u32::from(address.port()) }
}

fn address_from_proto(address: Option<&proto::Address>, what: &'static str) -> Result<SocketAddr, Malformed> {
    let address = address.ok_or(Malformed::Missing(what))?;
    let port = u16::try_from(address.port).map_err(|_| Malformed::Invalid(what))?;
    let ip = if let Ok(octets) = <[u8; 4]>::try_from(address.ip.as_slice()) {
        IpAddr::from(octets)
    } else if let Ok(octets) = <[u8; 16]>::try_from(address.ip.as_slice()) {
        IpAddr::from(octets)
    } else {
        return Err(Malformed::Invalid(what));
    };
    Ok(SocketAddr::new(ip, port))
}

/// Bytes of the length.
pub const LENGTH: usize = 2;
const TOO_LONG: Malformed = Malformed::TooLong { what: "a stream's header", limit: limits::HEADER };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_come_back() {
        let named = ClientTls { server_name: Some("n".repeat(255)), alpn: Some(vec![0xff; 255]) };
        for (client, destination, tls) in [
            ("192.0.2.7:40000", "10.0.0.1:8080", None),
            ("[2001:db8::7]:1", "[fd00::1]:65535", Some(ClientTls::default())),
            ("192.0.2.7:1", "10.0.0.1:1", Some(named)),
        ] {
            let header = StreamHeader {
                intercept: u64::MAX,
                pod: "p".repeat(253),
                client: client.parse().unwrap(),
                destination: destination.parse().unwrap(),
                tls,
            };
            let bytes = header.encode().unwrap();
            let (prefix, rest) = bytes.split_first_chunk().unwrap();
            assert_eq!(StreamHeader::length(*prefix), Ok(rest.len()));
            assert_eq!(StreamHeader::decode(rest), Ok(header));
        }
    }

    #[test]
    fn hostile_headers_are_refused() {
        assert_eq!(StreamHeader::length([0xff, 0xff]), Err(TOO_LONG));
        assert!(matches!(StreamHeader::decode(&[]), Err(Malformed::Missing(_))));
        assert_eq!(StreamHeader::decode(&[0xff; 9]), Err(Malformed::Encoding));
        let mut header = proto::StreamHeader {
            intercept: 1,
            pod: "p".into(),
            client: Some(proto::Address { ip: vec![1, 2, 3], port: 1 }),
            destination: None,
            tls: None,
        };
        assert!(matches!(StreamHeader::decode(&header.encode_to_vec()), Err(Malformed::Invalid(_))));
        header.client = Some(proto::Address { ip: vec![1, 2, 3, 4], port: 65536 });
        assert!(matches!(StreamHeader::decode(&header.encode_to_vec()), Err(Malformed::Invalid(_))));
        header.pod = "p".repeat(254);
        assert!(matches!(StreamHeader::decode(&header.encode_to_vec()), Err(Malformed::TooLong { .. })));
    }
}
