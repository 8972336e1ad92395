//! `HOST:PORT`, of an agent and of the developer's service.
//!
//! Owns: what a host may look like. Must not look names up. Called by: `values`.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU16;
use std::str::FromStr;

use redir_wire::limits;

use crate::model::values::{AgentAddress, ServiceAddress};
use crate::wording::values as say;

/// What is wrong with a `HOST:PORT`.
enum AddressFault<'a> {
    NoPort,
    /// This is no port.
    Port(&'a str),
    /// An IPv6 address without its brackets.
    Brackets,
    Host,
}

fn host_and_port(text: &str) -> Result<(&str, NonZeroU16), AddressFault<'_>> {
    let (host, port) = text.rsplit_once(':').ok_or(AddressFault::NoPort)?;
    let port = port.parse::<NonZeroU16>().map_err(|_| AddressFault::Port(port))?;
    let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) if inner.parse::<Ipv6Addr>().is_ok() => inner,
        Some(_) => return Err(AddressFault::Host),
        None if host.contains(':') => return Err(AddressFault::Brackets),
        None => host,
    };
    let sane = |b: u8| b.is_ascii_alphanumeric() || b"-_.:".contains(&b);
    if host.is_empty() || host.len() > 253 || !host.bytes().all(sane) {
        return Err(AddressFault::Host);
    }
    Ok((host, port))
}

impl FromStr for AgentAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match host_and_port(text) {
            Ok((host, port)) => Ok(Self { host: host.to_owned(), port }),
            Err(AddressFault::NoPort) => Err(say::agent_without_port(text)),
            Err(AddressFault::Port(port)) => Err(say::agent_port(text, port)),
            Err(AddressFault::Brackets) => Err(say::agent_brackets(text)),
            Err(AddressFault::Host) => Err(say::agent_host(text)),
        }
    }
}

impl FromStr for ServiceAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains("://") {
            return Err(say::service_url(text));
        }
        let (host, port) = match host_and_port(text) {
            Ok((host, port)) => (host, port),
            Err(AddressFault::NoPort | AddressFault::Host) => return Err(say::service_address(text)),
            Err(AddressFault::Port(port)) => return Err(say::service_port(text, port)),
            Err(AddressFault::Brackets) => return Err(say::service_brackets(text)),
        };
        // What agents show of it is bounded.
        if text.len() > limits::NAME {
            return Err(say::service_address(text));
        }
        match host.parse::<IpAddr>() {
            Ok(address) if address.is_unspecified() => Err(say::service_anywhere(text)),
            Ok(_) | Err(_) => Ok(Self { host: host.to_owned(), port }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agent_addresses() {
        for good in ["node-1:7447", "10.0.0.1:7447", "[::1]:7447", "node.example.com:1"] {
            assert_eq!(good.parse::<AgentAddress>().unwrap().to_string(), good);
        }
        for bad in ["node-1", "node-1:", "node-1:0", ":7447", "::1:7447", "[::1]", "[node]:1", "a b:1", "http://a:1"] {
            assert!(bad.parse::<AgentAddress>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn service_addresses() {
        for good in ["localhost:3000", "10.0.0.1:80", "[::1]:5173", "host.docker.internal:3000"] {
            assert_eq!(good.parse::<ServiceAddress>().unwrap().to_string(), good);
        }
        for (bad, expected) in [
            ("3000", "localhost:3000"),
            (":3000", "names no host"),
            ("localhost:0", "`0` in `localhost:0`"),
            ("localhost:http", "`http`"),
            ("::1:3000", "[::1]:3000"),
            ("http://localhost:3000", "without http://"),
            ("0.0.0.0:3000", "127.0.0.1"),
            ("[::]:3000", "127.0.0.1"),
            ("a b:1", "names no host"),
        ] {
            let error = bad.parse::<ServiceAddress>().unwrap_err();
            assert!(error.contains(expected), "{bad}: {error}");
        }
    }
}
