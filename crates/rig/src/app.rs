//! A real HTTP/1.1 service in a namespace, as the app of a pod or as a developer's own version of it.
//!
//! Answers `<version> <client address>\n` to anything, kept alive. Special paths:
//! `/echo` the head as it was received · `/chunked` a chunked body · `/close` `Connection: close` · `/download/N` N bytes
//! of the [`Pattern`] · `/upload` checks a body against it (also chunked) · `/hold` answers when [`App::release`] is
//! called · `/reset` resets · `/status/N` that status · `/upgrade` 101, then echoes.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rustls::ServerConfig;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::{AbortHandle, JoinSet},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    http,
    namespace::{Namespace, PATIENCE},
    pattern::Pattern,
    wait,
};

/// A running service. Drop (or [`App::stop`]) closes its listeners and connections.
#[derive(Debug)]
pub struct App {
    shared: Arc<Shared>,
    tasks: Vec<AbortHandle>,
    gone: Vec<std::sync::mpsc::Receiver<()>>,
}

#[derive(Debug)]
struct Shared {
    version: Mutex<String>,
    seen: Mutex<Vec<Seen>>,
    clients: Mutex<Vec<SocketAddr>>,
    open: AtomicUsize,
    release: watch::Sender<usize>,
    /// It speaks TLS.
    tls: Option<Arc<ServerConfig>>,
}

/// A request as the service saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// `GET /path?query HTTP/1.1`
    pub line: String,
    /// The head, byte for byte (lossy UTF-8).
    pub head: String,
    /// The client of the connection.
    pub client: SocketAddr,
    /// The service's own address of the connection.
    pub at: SocketAddr,
    /// What the client asked for in TLS, and what came of it.
    pub tls: Option<Agreed>,
}

/// A TLS handshake as the service saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreed {
    /// The name asked for (SNI).
    pub server_name: Option<String>,
    /// The protocol agreed on (ALPN).
    pub alpn: Option<Vec<u8>>,
    /// The version, such as `TLSv1_3`.
    pub version: String,
}

impl App {
    /// Listens on the port on every IPv4 and IPv6 address of the namespace.
    pub fn start(namespace: &Namespace, port: u16, version: &str) -> Result<Self> {
        Self::start_on(namespace, &[([0; 4], port).into(), ([0u16; 8], port).into()], version)
    }

    /// Listens on given addresses.
    pub fn start_on(namespace: &Namespace, addresses: &[SocketAddr], version: &str) -> Result<Self> {
        Self::start_as(namespace, addresses, version, None)
    }

    /// Speaks TLS on given addresses.
    pub fn secure_on(
        namespace: &Namespace,
        addresses: &[SocketAddr],
        version: &str,
        config: ServerConfig,
    ) -> Result<Self> {
        Self::start_as(namespace, addresses, version, Some(Arc::new(config)))
    }

    fn start_as(
        namespace: &Namespace,
        addresses: &[SocketAddr],
        version: &str,
        tls: Option<Arc<ServerConfig>>,
    ) -> Result<Self> {
        let shared = Arc::new(Shared {
            version: Mutex::new(version.to_owned()),
            seen: Mutex::default(),
            clients: Mutex::default(),
            open: AtomicUsize::new(0),
            release: watch::Sender::new(0),
            tls,
        });
        let mut app = Self { shared, tasks: Vec::new(), gone: Vec::new() };
        for &address in addresses {
            let listener = namespace
                .block_on(PATIENCE, async move { listen(address) })?
                .with_context(|| format!("listen on {address} in {}", namespace.name()))?;
            let (alive, gone) = std::sync::mpsc::channel::<()>();
            let shared = Arc::clone(&app.shared);
            let task = namespace.handle()?.spawn(async move {
                serve(listener, shared).await;
                drop(alive);
            });
            app.tasks.push(task.abort_handle());
            app.gone.push(gone);
        }
        Ok(app)
    }

    /// Changes what it answers, from the next request on.
    pub fn set_version(&self, version: &str) {
        version.clone_into(&mut lock(&self.shared.version));
    }

    /// The requests it saw so far.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.shared.seen).clone()
    }

    /// The clients of all connections it accepted so far.
    pub fn clients(&self) -> Vec<SocketAddr> {
        lock(&self.shared.clients).clone()
    }

    /// Connections by client address.
    pub fn by_client(&self) -> BTreeMap<IpAddr, usize> {
        self.clients().iter().fold(BTreeMap::new(), |mut all, client| {
            *all.entry(client.ip().to_canonical()).or_default() += 1;
            all
        })
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::Acquire)
    }

    /// Lets all requests to `/hold` that came so far go on.
    pub fn release(&self) {
        self.shared.release.send_modify(|n| *n += 1);
    }

    /// Closes the listeners and all connections, and waits until that is done.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.tasks.drain(..).for_each(|task| task.abort());
        for gone in self.gone.drain(..) {
            // Nothing is ever sent: this returns when the task is dropped.
            let _ = gone.recv_timeout(wait::scaled(Duration::from_secs(5)));
        }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.end();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    if address.is_ipv6() {
        SockRef::from(&socket).set_only_v6(true)?;
    }
    socket.bind(address)?;
    Ok(socket.listen(1024)?)
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped with this task: the connections end with the service.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                let Ok((stream, client)) = accepted else { continue };
                lock(&shared.clients).push(client);
                let shared = Arc::clone(&shared);
                connections.spawn(async move {
                    shared.open.fetch_add(1, Ordering::AcqRel);
                    let _open = OpenCount(&shared.open);
                    // A client that goes away in the middle is no news to the service.
                    let _ = talk(stream, client, &shared).await;
                });
            }
        }
    }
}

struct OpenCount<'a>(&'a AtomicUsize);

impl Drop for OpenCount<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

async fn talk(stream: TcpStream, client: SocketAddr, shared: &Shared) -> Result<()> {
    stream.set_nodelay(true)?;
    let (stream, agreed): (Box<dyn Stream>, _) = match &shared.tls {
        None => (Box::new(stream), None),
        Some(config) => {
            let stream = TlsAcceptor::from(Arc::clone(config)).accept(stream).await?;
            let session = stream.get_ref().1;
            let agreed = Agreed {
                server_name: session.server_name().map(str::to_owned),
                alpn: session.alpn_protocol().map(<[u8]>::to_vec),
                version: session.protocol_version().map(|version| format!("{version:?}")).unwrap_or_default(),
            };
            (Box::new(stream), Some(agreed))
        }
    };
    Connection { stream, agreed, unread: Vec::new(), client, shared }.run().await
}

/// How a connection ends.
enum ConnectionEnd {
    Finish,
    Reset,
}

/// A client's connection, cleartext or over TLS.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {
    fn tcp(&self) -> &TcpStream;
}

impl Stream for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Stream for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

struct Connection<'a> {
    stream: Box<dyn Stream>,
    agreed: Option<Agreed>,
    unread: Vec<u8>,
    client: SocketAddr,
    shared: &'a Shared,
}

impl Connection<'_> {
    /// To the client's end or the service's own, which it says in TLS too.
    async fn run(mut self) -> Result<()> {
        match self.answers().await? {
            ConnectionEnd::Finish => Ok(self.stream.shutdown().await?),
            ConnectionEnd::Reset => Ok(()),
        }
    }

    async fn answers(&mut self) -> Result<ConnectionEnd> {
        while let Some(head) = self.head().await? {
            let line = head.lines().next().unwrap_or_default().to_owned();
            let at = self.stream.tcp().local_addr()?;
            let tls = self.agreed.clone();
            lock(&self.shared.seen).push(Seen { line: line.clone(), head: head.clone(), client: self.client, at, tls });
            let path = line.split(' ').nth(1).unwrap_or_default();
            let (path, rest) = path.split('?').next().unwrap_or_default().rsplit_once('/').unwrap_or_default();
            match (path, rest) {
                ("/download", n) => self.download(n.parse()?).await?,
                ("", "reset") => {
                    SockRef::from(self.stream.tcp()).set_linger(Some(Duration::ZERO))?;
                    return Ok(ConnectionEnd::Reset);
                }
                ("", "upgrade") => {
                    self.upgrade().await?;
                    break;
                }
                ("", "close") => {
                    self.drop_body(&head).await?;
                    let body = self.answer();
                    self.reply("200 OK", "connection: close\r\n", &body).await?;
                    break;
                }
                ("", "chunked") => self.chunked().await?,
                ("", "upload") => self.upload(&head).await?,
                ("", "hold") => {
                    self.hold().await?;
                    let body = self.answer();
                    self.reply("200 OK", "", &body).await?;
                }
                ("", "echo") => self.reply("200 OK", "", &head).await?,
                ("/status", n) => self.reply(&format!("{n} as asked"), "", "").await?,
                _ => {
                    self.drop_body(&head).await?;
                    let body = self.answer();
                    self.reply("200 OK", "", &body).await?;
                }
            }
        }
        Ok(ConnectionEnd::Finish)
    }

    fn answer(&self) -> String {
        format!("{} {}\n", lock(&self.shared.version), self.client.ip().to_canonical())
    }

    /// The next head without its empty line; `None` at a clean end.
    async fn head(&mut self) -> Result<Option<String>> {
        loop {
            if let Some(end) = self.unread.windows(4).position(|w| w == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&self.unread[..end]).into_owned();
                self.unread.drain(..end + 4);
                return Ok(Some(head));
            }
            if !self.more().await? {
                ensure!(self.unread.is_empty(), "closed in a head");
                return Ok(None);
            }
        }
    }

    async fn more(&mut self) -> Result<bool> {
        self.unread.reserve(64 * 1024);
        Ok(self.stream.read_buf(&mut self.unread).await? > 0)
    }

    async fn reply(&mut self, status: &str, headers: &str, body: &str) -> Result<()> {
        let text = format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len());
        self.stream.write_all(text.as_bytes()).await?;
        Ok(self.stream.flush().await?)
    }

    async fn download(&mut self, length: u64) -> Result<()> {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
        self.stream.write_all(head.as_bytes()).await?;
        let (mut pattern, mut buffer, mut done) = (Pattern::default(), vec![0; 256 * 1024], 0);
        while done < length {
            let n = usize::try_from((length - done).min(buffer.len() as u64))?;
            pattern.fill(done, &mut buffer[..n]);
            self.stream.write_all(&buffer[..n]).await?;
            done += n as u64;
        }
        Ok(self.stream.flush().await?)
    }

    async fn chunked(&mut self) -> Result<()> {
        self.stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
        for piece in self.answer().split_inclusive(' ') {
            self.stream.write_all(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes()).await?;
        }
        self.stream.write_all(b"0\r\n\r\n").await?;
        Ok(self.stream.flush().await?)
    }

    async fn hold(&mut self) -> Result<()> {
        let mut release = self.shared.release.subscribe();
        release.mark_unchanged();
        let mut byte = [0];
        tokio::select! {
            changed = release.changed() => Ok(changed?),
            peeked = self.stream.tcp().peek(&mut byte) => {
                ensure!(peeked? > 0, "the client closed");
                Ok(release.changed().await?)
            }
        }
    }

    async fn upgrade(&mut self) -> Result<()> {
        self.stream
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n")
            .await?;
        loop {
            self.stream.write_all(&self.unread).await?;
            self.stream.flush().await?;
            self.unread.clear();
            if !self.more().await? {
                return Ok(());
            }
        }
    }

    async fn drop_body(&mut self, head: &str) -> Result<()> {
        self.body(head, |_, _| true).await.map(drop)
    }

    async fn upload(&mut self, head: &str) -> Result<()> {
        let mut pattern = Pattern::default();
        let text = match self.body(head, |offset, piece| pattern.check(offset, piece)).await {
            Ok(length) => format!("whole {length}\n"),
            Err(e) => format!("broken: {e:#}\n"),
        };
        self.reply("200 OK", "", &text).await
    }

    /// Reads a body of either framing; gives its length.
    async fn body(&mut self, head: &str, mut check: impl FnMut(u64, &[u8]) -> bool) -> Result<u64> {
        let mut done = 0;
        if http::header(head, "transfer-encoding") != Some("chunked") {
            let length = http::header(head, "content-length").map_or(Ok(0), str::parse)?;
            self.exactly(length, &mut done, &mut check).await?;
            return Ok(done);
        }
        loop {
            let size = u64::from_str_radix(&self.line().await?, 16).context("chunk size")?;
            self.exactly(size, &mut done, &mut check).await?;
            ensure!(self.line().await?.is_empty(), "no end of chunk");
            if size == 0 {
                return Ok(done);
            }
        }
    }

    async fn exactly(&mut self, length: u64, done: &mut u64, check: &mut impl FnMut(u64, &[u8]) -> bool) -> Result<()> {
        let mut left = length;
        while left > 0 {
            if self.unread.is_empty() && !self.more().await? {
                bail!("closed {left} bytes before the end of a body");
            }
            let n = usize::try_from(left.min(self.unread.len() as u64))?;
            ensure!(check(*done, &self.unread[..n]), "wrong bytes near {done}");
            self.unread.drain(..n);
            left -= n as u64;
            *done += n as u64;
        }
        Ok(())
    }

    async fn line(&mut self) -> Result<String> {
        loop {
            if let Some(end) = self.unread.windows(2).position(|w| w == b"\r\n") {
                let line = String::from_utf8_lossy(&self.unread[..end]).into_owned();
                self.unread.drain(..end + 2);
                return Ok(line);
            }
            ensure!(self.more().await?, "closed in a chunk's line");
        }
    }
}
