//! HTTP/2 at both ends of a test: an origin that answers by path, and a client, both of the h2 crate, over real sockets.

mod upgrade;

use std::{
    future::poll_fn,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use h2::{
    PingPong, Reason, RecvStream, SendStream,
    client::{self, ResponseFuture, SendRequest},
    ext::Protocol,
    server::{self, SendResponse},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Version};
use redir_rig::{Namespace, tls, wait};
use rustls::{ClientConfig, ServerConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::watch,
    task::AbortHandle,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// For everything that a client does in one piece.
pub const LIMIT: Duration = Duration::from_secs(30);

/// A request as an origin saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Where it came from.
    pub client: SocketAddr,
    /// The method and the target.
    pub line: String,
    /// Its headers, in order.
    pub headers: HeaderMap,
    /// The code it was reset with, if it was.
    pub reset: Option<Reason>,
}

#[derive(Debug)]
struct Shared {
    version: &'static str,
    seen: Mutex<Vec<Seen>>,
    /// `/hold` is answered, and connections end after what is under way.
    ends: watch::Sender<bool>,
}

/// An HTTP/2 server in a namespace. By path: `/` says its version, with a trailer; `/echo`, and extended CONNECT, what they
/// get, piece by piece, with the request's trailers at the end; `/refused`, and any HEAD, a status alone; `/reset` a code;
/// `/zeros/N` N bytes; `/hold` the version once connections are to end.
#[derive(Debug)]
pub struct Origin {
    shared: Arc<Shared>,
    accepting: AbortHandle,
    /// Nothing is sent: it ends with the listener.
    listening: mpsc::Receiver<()>,
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.accepting.abort();
        // The next origin may want the port at once.
        let _ = self.listening.recv();
    }
}

impl Origin {
    /// Listens; with a configuration it speaks TLS.
    pub fn start(
        namespace: &Namespace,
        address: SocketAddr,
        version: &'static str,
        secure: Option<ServerConfig>,
    ) -> Result<Self> {
        Self::listen(namespace, address, version, Manner::of(secure.map(|config| TlsAcceptor::from(Arc::new(config)))))
    }

    /// Listens, speaks HTTP/1 and goes on with HTTP/2 where a client offers it with `Upgrade: h2c`; or speaks it at once.
    pub fn upgrading(namespace: &Namespace, address: SocketAddr, version: &'static str) -> Result<Self> {
        Self::listen(namespace, address, version, Manner::Upgrades)
    }

    fn listen(namespace: &Namespace, address: SocketAddr, version: &'static str, manner: Manner) -> Result<Self> {
        let listener = namespace.run(|| TcpListener::bind(address))?.with_context(|| format!("listen on {address}"))?;
        listener.set_nonblocking(true)?;
        let shared = Arc::new(Shared { version, seen: Mutex::default(), ends: watch::Sender::new(false) });
        let (closes, listening) = mpsc::channel::<()>();
        let accepting = accept(listener, manner, shared.clone());
        let accepting = namespace.handle()?.spawn(async move {
            let _after_the_listener = closes;
            accepting.await
        });
        Ok(Self { shared, accepting: accepting.abort_handle(), listening })
    }

    /// The requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen().clone()
    }

    /// Sends a GOAWAY on every connection, and answers what is held.
    pub fn end(&self) {
        self.shared.ends.send_replace(true);
    }
}

impl Shared {
    async fn ended(&self) {
        // The sender is beside.
        let _ = self.ends.subscribe().wait_for(|ends| *ends).await;
    }

    fn seen(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How an origin begins.
#[derive(Clone)]
enum Manner {
    Plain,
    Secure(TlsAcceptor),
    Upgrades,
}

impl Manner {
    fn of(acceptor: Option<TlsAcceptor>) -> Self {
        acceptor.map_or(Manner::Plain, Manner::Secure)
    }
}

async fn accept(listener: TcpListener, manner: Manner, shared: Arc<Shared>) -> Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, client) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (shared, manner) = (shared.clone(), manner.clone());
        tokio::spawn(async move {
            match manner {
                Manner::Plain => serve(stream, client, shared).await,
                Manner::Secure(acceptor) => serve(acceptor.accept(stream).await?, client, shared).await,
                Manner::Upgrades => upgrade::serve(stream, client, shared).await,
            }
        });
    }
}

async fn serve(io: impl AsyncRead + AsyncWrite + Unpin + Send, client: SocketAddr, shared: Arc<Shared>) -> Result<()> {
    let mut connection = server::Builder::new().enable_connect_protocol().handshake::<_, Bytes>(io).await?;
    loop {
        tokio::select! {
            next = connection.accept() => {
                let Some(next) = next else { return Ok(()) };
                let (request, respond) = next?;
                tokio::spawn(answer(request, respond, client, shared.clone()));
            }
            () = shared.ended() => {
                connection.graceful_shutdown();
                while let Some(next) = connection.accept().await {
                    let (request, respond) = next?;
                    tokio::spawn(answer(request, respond, client, shared.clone()));
                }
                return Ok(());
            }
        }
    }
}

async fn answer(
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    client: SocketAddr,
    shared: Arc<Shared>,
) -> Result<()> {
    let (head, body) = request.into_parts();
    let line = format!("{} {}", head.method, head.uri);
    let index = {
        let mut seen = shared.seen();
        seen.push(Seen { client, line, headers: head.headers, reset: None });
        seen.len() - 1
    };
    let path = match head.method {
        Method::CONNECT => "/echo",
        Method::HEAD => "/refused",
        _ => head.uri.path(),
    };
    let answered = reply(path, body, respond, &shared).await;
    if let Err(error) = &answered
        && let Some(reason) = error.downcast_ref::<h2::Error>().and_then(h2::Error::reason)
    {
        shared.seen()[index].reset = Some(reason);
    }
    answered
}

async fn reply(path: &str, mut body: RecvStream, mut respond: SendResponse<Bytes>, shared: &Shared) -> Result<()> {
    let head = Response::builder().header("x-version", shared.version);
    match path {
        "/echo" => {
            let mut send = respond.send_response(head.body(())?, false)?;
            while let Some(piece) = body.data().await {
                let piece = piece?;
                body.flow_control().release_capacity(piece.len())?;
                send_all(&mut send, piece).await?;
            }
            send.send_trailers(body.trailers().await?.unwrap_or_default())?;
        }
        "/refused" => {
            respond.send_response(head.header("grpc-status", "7").body(())?, true)?;
        }
        "/reset" => respond.send_reset(ODD),
        zeros if zeros.starts_with("/zeros/") => {
            let mut left: usize = zeros["/zeros/".len()..].parse()?;
            let mut send = respond.send_response(head.body(())?, false)?;
            while left > 0 {
                let piece = left.min(64 * 1024);
                send_all(&mut send, vec![0; piece].into()).await?;
                left -= piece;
            }
            send.send_data(Bytes::new(), true)?;
        }
        path => {
            if path == "/hold" {
                shared.ended().await;
            }
            let mut send = respond.send_response(head.body(())?, false)?;
            send_all(&mut send, shared.version.into()).await?;
            send.send_trailers(HeaderMap::from_iter([(
                http::HeaderName::from_static("x-end"),
                HeaderValue::from_static(shared.version),
            )]))?;
        }
    }
    Ok(())
}

/// A code that neither the agent nor the h2 crate sends by itself.
pub const ODD: Reason = Reason::HTTP_1_1_REQUIRED;

/// Sends as the windows allow.
pub async fn send_all(stream: &mut SendStream<Bytes>, mut data: Bytes) -> Result<()> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let count = poll_fn(|cx| stream.poll_capacity(cx)).await.context("the stream is over")??;
        stream.send_data(data.split_to(count), false)?;
    }
    Ok(())
}

/// An answer with its body read.
#[derive(Debug)]
pub struct Answer {
    /// The head.
    pub head: Response<()>,
    /// The body.
    pub body: Vec<u8>,
    /// The trailers.
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    /// Who answered: the origin's version; none of the agent's own.
    pub fn version(&self) -> &str {
        self.head.headers().get("x-version").and_then(|value| value.to_str().ok()).unwrap_or("nobody")
    }
}

/// A client's connection.
pub struct Client {
    requests: SendRequest<Bytes>,
    /// To measure with.
    pub pings: PingPong,
    ended: tokio::task::JoinHandle<Result<(), h2::Error>>,
}

impl Client {
    /// Connects with prior knowledge, from the namespace of the runtime that it runs on.
    pub async fn connect(to: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        Self::on(stream).await
    }

    /// Connects through TLS and agrees on `h2`.
    pub async fn secure(to: SocketAddr, mut config: ClientConfig) -> Result<Self> {
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let stream = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(tls::NAME)?, stream).await?;
        ensure!(stream.get_ref().1.alpn_protocol() == Some(b"h2"), "the app's choice");
        Self::on(stream).await
    }

    async fn on(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Self> {
        // What its streams hold unread must not keep the others from their windows.
        let mut builder = client::Builder::new();
        builder.enable_push(false).initial_connection_window_size(16 << 20);
        let (requests, mut connection) = builder.handshake(io).await?;
        let pings = connection.ping_pong().context("nobody has it")?;
        let ended = tokio::spawn(connection);
        Ok(Self { requests: requests.ready().await?, pings, ended })
    }

    /// Opens a stream; the body is the caller's.
    pub async fn open(&mut self, path: &str, user: &str) -> Result<(ResponseFuture, SendStream<Bytes>)> {
        self.begin(Request::post(format!("http://web{path}")).header("x-user", user).body(())?, false).await
    }

    /// Opens a stream of extended CONNECT (RFC 8441).
    pub async fn tunnel(&mut self, user: &str) -> Result<(ResponseFuture, SendStream<Bytes>)> {
        let request = Request::builder().method(Method::CONNECT).uri("http://web/chat").header("x-user", user);
        self.begin(request.extension(Protocol::from_static("websocket")).body(())?, false).await
    }

    /// A request without a body; its answer follows.
    pub async fn get(&mut self, path: &str, user: &str) -> Result<ResponseFuture> {
        let request =
            Request::get(format!("http://web{path}")).header("x-user", user).version(Version::HTTP_2).body(())?;
        Ok(self.begin(request, true).await?.0)
    }

    /// The same with fields that make its list of headers at least so many bytes long (RFC 9113, 6.5.2).
    pub async fn get_long(&mut self, path: &str, user: &str, bytes: usize) -> Result<ResponseFuture> {
        const VALUE: usize = 4000;
        let mut request =
            Request::get(format!("http://web{path}")).header("x-user", user).version(Version::HTTP_2).body(())?;
        for number in 0..bytes.div_ceil(VALUE) {
            let value = HeaderValue::from_bytes(&[b'a' + u8::try_from(number % 26)?; VALUE])?;
            request.headers_mut().insert(HeaderName::try_from(format!("x-{number}"))?, value);
        }
        Ok(self.begin(request, true).await?.0)
    }

    /// A request without a body, and its whole answer.
    pub async fn fetch(&mut self, path: &str, user: &str) -> Result<Answer> {
        whole(self.get(path, user).await?).await
    }

    async fn begin(&mut self, request: Request<()>, end: bool) -> Result<(ResponseFuture, SendStream<Bytes>)> {
        poll_fn(|cx| self.requests.poll_ready(cx)).await?;
        Ok(self.requests.send_request(request, end)?)
    }

    /// Waits until the server has ended the connection. The error is the GOAWAY's, or the socket's.
    pub async fn ended(self) -> Result<Result<(), h2::Error>> {
        // A client that can begin no more requests would leave by itself.
        let _stays = self.requests;
        Ok(timeout(wait::scaled(LIMIT), self.ended).await.context("the connection goes on")??)
    }
}

/// Reads an answer to its end.
pub async fn whole(response: ResponseFuture) -> Result<Answer> {
    let (head, mut stream) = response.await?.into_parts();
    let mut body = Vec::new();
    while let Some(piece) = stream.data().await {
        let piece = piece?;
        stream.flow_control().release_capacity(piece.len())?;
        body.extend_from_slice(&piece);
    }
    Ok(Answer { head: Response::from_parts(head, ()), body, trailers: stream.trailers().await? })
}
