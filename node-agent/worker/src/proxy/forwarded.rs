//! The client's address in the requests of an intercept that asks for it (`--forwarded`).
//!
//! Owns: the fields that are written, alike in HTTP/1 and HTTP/2. Matched requests are changed so only where it was asked
//! for. Must not be given a request that goes to the app. Called by `connection` and `http2` when a matched request is sent.
//!
//! `X-Forwarded-For` gets the peer's address behind whatever the client sent, as one field: many a service reads only the
//! first. `X-Forwarded-Proto` and `X-Forwarded-Host` say what the pod's client did, where no proxy before has said what its
//! own did. `Forwarded` (RFC 7239) is continued where the client sent it: some frameworks prefer it to the others.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, header, request::Parts};

/// What is known of a request's sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Forwarded {
    client: IpAddr,
    scheme: &'static str,
}

impl Forwarded {
    /// Of a client, whose requests came over TLS or not.
    pub(super) fn new(client: SocketAddr, tls: bool) -> Self {
        Self { client: client.ip().to_canonical(), scheme: if tls { "https" } else { "http" } }
    }

    /// A whole HTTP/1 head, from its request line to its empty line, with the fields. All else is as it was.
    pub(super) fn head(self, head: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(head.len() + ROOM);
        let mut sent = ReceivedFields::default();
        for (index, line) in lines(head).enumerate() {
            let (name, value) = field(line);
            match ForwardedField::of(name) {
                _ if index == 0 => out.extend_from_slice(line),
                Some(ForwardedField::For) => sent.addresses.push(value),
                Some(ForwardedField::Forwarded) => sent.elements.push(value),
                kind => {
                    sent.note(kind, value);
                    out.extend_from_slice(line);
                }
            }
        }
        for (name, value) in self.fields(&sent) {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(&value);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
        out
    }

    /// A request of HTTP/2 with the fields.
    pub(super) fn parts(self, head: &mut Parts) {
        let values = |name| head.headers.get_all(name).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>();
        let host = head.uri.authority().map(|authority| authority.as_str().as_bytes());
        let sent = ReceivedFields {
            addresses: values(FOR),
            elements: values(FORWARDED),
            host: host.or_else(|| values(header::HOST.as_str()).first().copied()),
            has_proto: head.headers.contains_key(PROTO),
            has_host: head.headers.contains_key(HOST),
        };
        let fields: Vec<_> = self.fields(&sent).collect();
        for (name, value) in fields {
            set(&mut head.headers, name, &value);
        }
    }

    fn fields<'a>(self, sent: &ReceivedFields<'a>) -> impl Iterator<Item = (&'static str, Vec<u8>)> + use<'a> {
        let addresses = joined(&sent.addresses, self.client.to_string().as_bytes());
        let elements = (!sent.elements.is_empty()).then(|| joined(&sent.elements, self.element().as_bytes()));
        let proto = (!sent.has_proto).then(|| self.scheme.as_bytes().to_vec());
        let host = sent.host.filter(|host| !sent.has_host && !host.is_empty()).map(<[u8]>::to_vec);
        let fields = [(FOR, Some(addresses)), (FORWARDED, elements), (PROTO, proto), (HOST, host)];
        fields.into_iter().filter_map(|(name, value)| Some((name, value?)))
    }

    /// An element of `Forwarded`: an IPv6 address is in brackets and quotes (RFC 7239, 6).
    fn element(self) -> String {
        match self.client {
            IpAddr::V4(client) => format!("for={client};proto={}", self.scheme),
            IpAddr::V6(client) => format!("for=\"[{client}]\";proto={}", self.scheme),
        }
    }
}

/// What the client has sent of these fields.
#[derive(Default)]
struct ReceivedFields<'a> {
    addresses: Vec<&'a [u8]>,
    elements: Vec<&'a [u8]>,
    host: Option<&'a [u8]>,
    has_proto: bool,
    has_host: bool,
}

impl<'a> ReceivedFields<'a> {
    fn note(&mut self, kind: Option<ForwardedField>, value: &'a [u8]) {
        match kind {
            Some(ForwardedField::Proto) => self.has_proto = true,
            Some(ForwardedField::ForwardedHost) => self.has_host = true,
            Some(ForwardedField::Host) => self.host = Some(value),
            Some(ForwardedField::For | ForwardedField::Forwarded) | None => {}
        }
    }
}

/// A field that matters here.
#[derive(Clone, Copy)]
enum ForwardedField {
    For,
    Forwarded,
    Proto,
    ForwardedHost,
    Host,
}

impl ForwardedField {
    fn of(name: &[u8]) -> Option<Self> {
        let known = [
            (FOR, Self::For),
            (FORWARDED, Self::Forwarded),
            (PROTO, Self::Proto),
            (HOST, Self::ForwardedHost),
            ("Host", Self::Host),
        ];
        known.into_iter().find(|(known, _)| name.eq_ignore_ascii_case(known.as_bytes())).map(|(_, kind)| kind)
    }
}

/// The lines of a head with their ends, without the empty one behind them.
fn lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    head.split_inclusive(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty())
}

/// Name and value of a field line.
fn field(line: &[u8]) -> (&[u8], &[u8]) {
    let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
    let (name, value) = line.split_at(colon);
    (name, value.strip_prefix(b":").unwrap_or_default().trim_ascii())
}

/// What was sent, and the new one behind it.
fn joined(sent: &[&[u8]], last: &[u8]) -> Vec<u8> {
    let sent = sent.iter().copied().filter(|value| !value.is_empty());
    sent.chain([last]).collect::<Vec<_>>().join(&b", "[..])
}

/// Puts one field in the place of all of its name, where the first of them was.
fn set(headers: &mut HeaderMap, name: &'static str, value: &[u8]) {
    // Both were a header's already, or are ASCII.
    let name = HeaderName::from_bytes(name.as_bytes());
    if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
        headers.insert(name, value);
    }
}

const FOR: &str = "X-Forwarded-For";
const PROTO: &str = "X-Forwarded-Proto";
const HOST: &str = "X-Forwarded-Host";
const FORWARDED: &str = "Forwarded";
/// Bytes for what is written, of an IPv6 client and a host of ordinary length.
const ROOM: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn of(client: &str, tls: bool) -> Forwarded {
        Forwarded::new(client.parse().unwrap(), tls)
    }

    fn head(client: &str, tls: bool, fields: &str) -> String {
        let head = format!("GET /a?b HTTP/1.1\r\n{fields}\r\n");
        let head = String::from_utf8(of(client, tls).head(head.as_bytes())).unwrap();
        head.strip_prefix("GET /a?b HTTP/1.1\r\n").unwrap().to_owned()
    }

    #[test]
    fn the_address_is_written_behind_what_was_sent() {
        assert_eq!(
            head("192.0.2.7:4000", false, "Host: web\r\nx-A: b\r\n"),
            "Host: web\r\nx-A: b\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: web\r\n\r\n"
        );
        assert_eq!(
            head(
                "[2001:db8::7]:1",
                true,
                "x-forwarded-for: 10.1.1.1 ,10.2.2.2\r\nhost:web:8080\r\nX-FORWARDED-FOR:\r\nX-Forwarded-For:\t10.3.3.3\r\n"
            ),
            "host:web:8080\r\nX-Forwarded-For: 10.1.1.1 ,10.2.2.2, 10.3.3.3, 2001:db8::7\r\n\
             X-Forwarded-Proto: https\r\nX-Forwarded-Host: web:8080\r\n\r\n"
        );
        assert_eq!(
            head("[::ffff:192.0.2.7]:1", false, ""),
            "X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: http\r\n\r\n",
            "HTTP/1.0 without a host"
        );
    }

    /// An ingress has said what its own client did: the service must see what the app sees.
    #[test]
    fn what_a_proxy_said_before_stays() {
        let said = "Host: web\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: shop.example\r\n";
        assert_eq!(head("192.0.2.7:1", false, said), format!("{said}X-Forwarded-For: 192.0.2.7\r\n\r\n"));
        assert_eq!(
            head("[2001:db8::7]:1", false, "Forwarded: for=10.1.1.1;proto=https\r\nX-Forwarded-Proto: https\r\n"),
            "X-Forwarded-Proto: https\r\nX-Forwarded-For: 2001:db8::7\r\n\
             Forwarded: for=10.1.1.1;proto=https, for=\"[2001:db8::7]\";proto=http\r\n\r\n"
        );
    }

    #[test]
    fn bytes_that_are_no_text_stay() {
        let head = b"GET /\xff HTTP/1.1\r\nx-a: \xfe\x80 \r\nCookie: a:b\r\n\r\n";
        let written = of("192.0.2.7:1", false).head(head);
        assert!(written.starts_with(&head[..head.len() - 2]), "{}", written.escape_ascii());
        assert!(written.ends_with(b"\r\n\r\n"));
    }

    #[test]
    fn http2_gets_the_same() {
        let request = http::Request::get("http://web:8080/a")
            .header("x-forwarded-for", "10.1.1.1")
            .header("x-a", "b")
            .header("x-forwarded-for", "10.2.2.2");
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        of("192.0.2.7:1", true).parts(&mut parts);
        let fields: Vec<_> =
            parts.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        assert_eq!(
            fields,
            [
                "x-forwarded-for: 10.1.1.1, 10.2.2.2, 192.0.2.7",
                "x-a: b",
                "x-forwarded-proto: https",
                "x-forwarded-host: web:8080"
            ]
        );
    }
}
