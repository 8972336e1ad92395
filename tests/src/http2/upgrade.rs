//! An origin that speaks HTTP/1 until a client offers HTTP/2 with `Upgrade: h2c` (RFC 7540, 3.2).

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, Result};
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, join},
    net::TcpStream,
};

use super::{Seen, Shared};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SWITCHING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
/// A frame's head.
const HEAD: usize = 9;

/// Answers requests of HTTP/1 with the version, one after the other; one with an offer, and all that follow, in HTTP/2.
pub(super) async fn serve(mut stream: TcpStream, client: SocketAddr, shared: Arc<Shared>) -> Result<()> {
    let mut unread = Vec::new();
    loop {
        let Some(end) = ends(&mut stream, &mut unread).await? else { return Ok(()) };
        if unread.starts_with(PREFACE) {
            return go_on(stream, unread, client, shared).await;
        }
        let head: Vec<u8> = unread.drain(..end).collect();
        let request = Request::parse(&head).context("a request")?;
        while unread.len() < request.length {
            more(&mut stream, &mut unread).await?.context("a body")?;
        }
        unread.drain(..request.length);
        if request.headers.get("upgrade").is_some_and(|protocol| protocol == "h2c") {
            stream.write_all(SWITCHING).await?;
            return upgraded(stream, unread, request, client, shared).await;
        }
        let line = format!("{} {}", request.method, request.target);
        shared.seen().push(Seen { client, line, headers: request.headers, reset: None });
        let (version, length) = (shared.version, shared.version.len());
        let body = if request.method == "HEAD" { "" } else { version };
        let answer = format!("HTTP/1.1 200 OK\r\nx-version: {version}\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(answer.as_bytes()).await?;
    }
}

struct Request {
    method: String,
    target: String,
    headers: HeaderMap,
    length: usize,
}

impl Request {
    fn parse(head: &[u8]) -> Option<Self> {
        let head = std::str::from_utf8(head).ok()?;
        let mut lines = head.lines();
        let (method, rest) = lines.next()?.split_once(' ')?;
        let (target, _) = rest.split_once(' ')?;
        let mut headers = HeaderMap::new();
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            headers.append(HeaderName::try_from(name).ok()?, HeaderValue::from_str(value.trim()).ok()?);
        }
        let length = headers.get("content-length").map_or(Some(0), |length| length.to_str().ok()?.parse().ok())?;
        Some(Request { method: method.into(), target: target.into(), headers, length })
    }

    /// The header block of stream 1, in literals that no table remembers.
    fn block(&self) -> Vec<u8> {
        let text = |bytes: &[u8]| [&[u8::try_from(bytes.len()).expect("short")], bytes].concat();
        let field = |name: &str, value: &[u8]| [&[0][..], &text(name.as_bytes()), &text(value)].concat();
        let host = self.headers.get("host").map_or(&[][..], HeaderValue::as_bytes);
        let mut block = field(":method", self.method.as_bytes());
        block.extend(field(":scheme", b"http"));
        block.extend(field(":authority", host));
        block.extend(field(":path", self.target.as_bytes()));
        // The stream has no body: it came in HTTP/1.
        let left_out = ["host", "connection", "upgrade", "http2-settings", "content-length"];
        for (name, value) in self.headers.iter().filter(|(name, _)| !left_out.contains(&name.as_str())) {
            block.extend(field(name.as_str(), value.as_bytes()));
        }
        block
    }
}

/// Reads to the end of a head; `None` is the client's end.
async fn ends(stream: &mut TcpStream, unread: &mut Vec<u8>) -> Result<Option<usize>> {
    loop {
        if let Some(end) = unread.windows(4).position(|four| four == b"\r\n\r\n") {
            return Ok(Some(end + 4));
        }
        if more(stream, unread).await?.is_none() {
            return Ok(None);
        }
    }
}

async fn more(stream: &mut TcpStream, unread: &mut Vec<u8>) -> Result<Option<()>> {
    Ok((stream.read_buf(unread).await? > 0).then_some(()))
}

/// The h2 crate sees a client that has sent the request as stream 1 itself, behind its SETTINGS.
async fn upgraded(
    mut stream: TcpStream,
    mut unread: Vec<u8>,
    request: Request,
    client: SocketAddr,
    shared: Arc<Shared>,
) -> Result<()> {
    let settings = loop {
        if let Some(head) = unread.get(PREFACE.len()..PREFACE.len() + HEAD) {
            let end = PREFACE.len() + HEAD + usize::from(head[1]) * 256 + usize::from(head[2]);
            if unread.len() >= end {
                break end;
            }
        }
        more(&mut stream, &mut unread).await?.context("a preface")?;
    };
    let block = request.block();
    let length = u16::try_from(block.len())?.to_be_bytes();
    // HEADERS with END_STREAM and END_HEADERS.
    let frame = [&[0, length[0], length[1], 1, 5, 0, 0, 0, 1], &block[..]].concat();
    unread.splice(settings..settings, frame);
    go_on(stream, unread, client, shared).await
}

async fn go_on(stream: TcpStream, unread: Vec<u8>, client: SocketAddr, shared: Arc<Shared>) -> Result<()> {
    let (reader, writer) = stream.into_split();
    super::serve(join(std::io::Cursor::new(unread).chain(reader), writer), client, shared).await
}
