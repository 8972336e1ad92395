//! What the tests of a connection use: a real app and a developer's real service on loopback sockets, a real tunnel
//! between a real QUIC endpoint and a real developer, and clients whose other end is served as the agent serves it.

use std::{
    collections::HashMap,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use redir_config::{
    PodName,
    certificates::{Certificates, Pair},
};
use redir_http::filter::{Condition, Filter, Key, Mode, Subject, Table, Test};
use redir_tunnel::{AgentControl, AgentEndpoint, Authorised, Identity, Tunnel, dial};
use redir_wire::{ClientTls, RequestEvent, StreamCode};
use rustls::{ClientConfig, ServerConfig};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};
use tokio_util::sync::CancellationToken;

use super::super::{
    Shutdown,
    route::{AppDialer, Route},
    run,
};
use crate::{
    access::Access,
    metrics::Metrics,
    misses::Misses,
    plan::{Intercept, Plan, Plans},
    tls::{self, Finding, GivenFor, Tls},
};

/// Longer than anything here takes, also on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);
/// The port that clients dialled, as the plans know it.
const PORT: u16 = 8080;

/// A result that must come in time.
pub(super) async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("in time")
}

/// Everything around one agent's connections.
pub(super) struct Rig {
    pub(super) app: Service,
    pub(super) plans: Plans,
    pub(super) pod: PodName,
    pub(super) metrics: Arc<Metrics>,
    pub(super) tls: Tls,
    pub(super) misses: Misses,
    pub(super) draining: CancellationToken,
    pub(super) abort: CancellationToken,
}

impl Rig {
    /// An app, and no intercept.
    pub(super) async fn new() -> Self {
        Rig {
            app: Service::start("green").await,
            plans: Plans::default(),
            pod: PodName::new("web-1").unwrap(),
            metrics: Arc::new(Metrics::new()),
            tls: Tls::new(&Certificates::default(), GivenFor::Ports, true),
            misses: Misses::default(),
            draining: CancellationToken::new(),
            abort: CancellationToken::new(),
        }
    }

    /// The port's plan from now on; a filter is a value of the header x-user.
    pub(super) fn plan(&self, filtered: &[(&str, &Developer)], global: Option<&Developer>) {
        self.set(self.planned(filtered, global));
    }

    /// The port's plan from now on.
    pub(super) fn set(&self, plan: Plan) {
        self.plans.replace(HashMap::from([(self.pod.clone(), vec![Arc::new(plan)])]));
    }

    /// The plan that [`Rig::plan`] sets.
    pub(super) fn planned(&self, filtered: &[(&str, &Developer)], global: Option<&Developer>) -> Plan {
        let mut table = Vec::new();
        let mut intercepts = Vec::new();
        for (user, developer) in filtered {
            let test = Test::Exact(user.as_bytes().to_vec());
            let condition = Condition { subject: Subject::Header(b"x-user".to_vec()), test, negate: false };
            table.push((Key(developer.intercept.id), Filter::new(Mode::All, vec![condition]).unwrap()));
            intercepts.push(developer.intercept.clone());
        }
        if let Some(developer) = global {
            table.push((Key(developer.intercept.id), Filter::everything()));
        }
        Plan {
            port: PORT,
            table: Arc::new(Table::new(table)),
            filtered: intercepts,
            global: global.map(|developer| developer.intercept.clone()),
            probes_to_app: true,
        }
    }

    /// Nothing is intercepted any more.
    pub(super) fn no_plan(&self) {
        self.plans.replace(HashMap::new());
    }

    /// A client's connection, served as a steered one.
    pub(super) async fn client(&self) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let (socket, peer) = accepted.unwrap();
        self.serve(client.unwrap(), socket, peer)
    }

    /// As [`Rig::client`], with so little room in the kernel that an unread answer keeps the agent writing.
    pub(super) async fn narrow_client(&self) -> Client {
        const ROOM: u32 = 4096;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpSocket::new_v4().unwrap();
        client.set_recv_buffer_size(ROOM).unwrap();
        let (client, accepted) = tokio::join!(client.connect(listener.local_addr().unwrap()), listener.accept());
        let (socket, peer) = accepted.unwrap();
        socket2::SockRef::from(&socket).set_send_buffer_size(ROOM as usize).unwrap();
        self.serve(client.unwrap(), socket, peer)
    }

    fn serve(&self, client: TcpStream, socket: TcpStream, peer: SocketAddr) -> Client {
        let mut route = Route {
            plans: self.plans.clone(),
            pod: self.pod.clone(),
            client: peer,
            destination: SocketAddr::from(([10, 0, 0, 1], PORT)),
            app: AppDialer::Direct(self.app.address),
            tls: self.tls.clone(),
            misses: self.misses.clone(),
            secured: None,
        };
        let shutdown = Shutdown { draining: self.draining.clone(), abort: self.abort.clone() };
        let (pod, metrics) = (self.pod.clone(), self.metrics.clone());
        let served = tokio::spawn(async move {
            let mut access = Access::open(&pod, PORT, peer, &metrics);
            run(&socket, &mut route, &shutdown, &mut access).await;
            access
        });
        Client { socket: client, unread: Vec::new(), served }
    }

    /// The port's certificates from now on.
    pub(super) fn give(&self, pairs: &[&Pair]) {
        let pairs = pairs.iter().map(|pair| (*pair).clone()).collect();
        self.tls.replace(&Certificates([((self.pod.clone(), PORT), pairs)].into()));
    }

    /// What was found out about TLS on the port.
    pub(super) fn finding(&self) -> Option<Finding> {
        self.tls.finding(&self.pod, PORT).map(|(finding, _)| finding)
    }
}

/// One client connection.
pub(super) struct Client<S = TcpStream> {
    pub(super) socket: S,
    unread: Vec<u8>,
    pub(super) served: JoinHandle<Access>,
}

/// An answer's head and body.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

impl Client {
    /// Shakes hands with whoever answers.
    pub(super) async fn secure(self, config: ClientConfig) -> std::io::Result<Client<TlsStream<TcpStream>>> {
        let connector = TlsConnector::from(Arc::new(config));
        let socket = soon(connector.connect(tls::testing::name(), self.socket)).await?;
        Ok(Client { socket, unread: self.unread, served: self.served })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub(super) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.socket.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Asks for a path, as this user if one is given, and reads the answer.
    pub(super) async fn ask(&mut self, path: &str, user: Option<&str>) -> Answer {
        self.send(request(path, user)).await;
        self.answer().await
    }

    /// Reads at least so many bytes, which the next answer begins with.
    pub(super) async fn read_at_least(&mut self, count: usize) {
        while self.unread.len() < count {
            self.more().await;
        }
    }

    /// Reads one answer with a Content-Length.
    pub(super) async fn answer(&mut self) -> Answer {
        let end = loop {
            if let Some(end) = self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            self.more().await;
        };
        let head = String::from_utf8(self.unread.drain(..end).collect()).unwrap();
        let length = content_length(&head);
        while self.unread.len() < length {
            self.more().await;
        }
        Answer { head, body: self.unread.drain(..length).collect() }
    }

    async fn more(&mut self) {
        let mut block = vec![0; 65536];
        let count = soon(self.socket.read(&mut block)).await.unwrap();
        assert!(count > 0, "the connection ended, with {:?} unread", String::from_utf8_lossy(&self.unread));
        self.unread.extend_from_slice(&block[..count]);
    }

    /// Everything up to the FIN.
    pub(super) async fn rest(&mut self) -> Vec<u8> {
        let mut rest = std::mem::take(&mut self.unread);
        soon(self.socket.read_to_end(&mut rest)).await.unwrap();
        rest
    }

    pub(super) async fn expect_reset(&mut self) {
        let mut byte = [0];
        let error = soon(self.socket.read(&mut byte)).await.expect_err("a reset");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }

    /// Ends the connection and tells what the agent counted.
    pub(super) async fn done(self) -> Access {
        drop(self.socket);
        soon(self.served).await.unwrap()
    }
}

pub(super) fn request(path: &str, user: Option<&str>) -> String {
    let user = user.map(|user| format!("X-User: {user}\r\n")).unwrap_or_default();
    format!("GET {path} HTTP/1.1\r\nHost: web\r\n{user}\r\n")
}

fn content_length(head: &str) -> usize {
    let line = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    line.map_or(0, |length| length.parse().unwrap())
}

/// An HTTP service on a loopback socket: answers with its name; closes after `/close`, without an answer on `/die`,
/// echoes bodies, never ends on `/pour`, answers before the body on `/early`. Keeps what it was sent.
pub(super) struct Service {
    pub(super) address: SocketAddr,
    pub(super) connections: Arc<AtomicUsize>,
    pub(super) seen: Arc<Mutex<Vec<u8>>>,
    _task: JoinSet<()>,
}

impl Service {
    pub(super) async fn start(name: &'static str) -> Self {
        Self::serve(move |socket, keep| talk(socket, name, keep)).await
    }

    /// Speaks TLS.
    pub(super) async fn secure(name: &'static str, config: ServerConfig) -> Self {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Self::serve(move |socket, keep| {
            let acceptor = acceptor.clone();
            async move {
                if let Ok(socket) = acceptor.accept(socket).await {
                    talk(socket, name, keep).await;
                }
            }
        })
        .await
    }

    /// Answers each connection with `talk`.
    async fn serve<T, F>(talk: T) -> Self
    where
        T: Fn(TcpStream, Arc<Mutex<Vec<u8>>>) -> F + Clone + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, seen) = (Arc::<AtomicUsize>::default(), Arc::<Mutex<Vec<u8>>>::default());
        let (count, keep) = (connections.clone(), seen.clone());
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                open.spawn(talk.clone()(socket, keep.clone()));
            }
        });
        Service { address, connections, seen, _task: task }
    }

    pub(super) fn seen(&self) -> String {
        String::from_utf8(self.seen.lock().unwrap().clone()).unwrap()
    }
}

async fn talk(mut socket: impl AsyncRead + AsyncWrite + Unpin, name: &'static str, seen: Arc<Mutex<Vec<u8>>>) {
    let mut unread = Vec::new();
    let mut block = vec![0; 65536];
    loop {
        let Some(end) = unread.windows(4).position(|window| window == b"\r\n\r\n") else {
            match socket.read(&mut block).await {
                Ok(0) | Err(_) => return,
                Ok(count) => {
                    seen.lock().unwrap().extend_from_slice(&block[..count]);
                    unread.extend_from_slice(&block[..count]);
                }
            }
            continue;
        };
        let head = String::from_utf8(unread.drain(..end + 4).collect()).unwrap();
        if head.starts_with("POST /early ") {
            // Answers before it has the body, says something that nobody asked for, and reads on.
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 400").await;
            while socket.read(&mut block).await.is_ok_and(|count| count > 0) {}
            return;
        }
        let length = content_length(&head);
        while unread.len() < length {
            match socket.read(&mut block).await {
                Ok(0) | Err(_) => return,
                Ok(count) => unread.extend_from_slice(&block[..count]),
            }
        }
        let body: Vec<u8> = unread.drain(..length).collect();
        let body = if body.is_empty() { name.as_bytes() } else { &body };
        let path = head.split(' ').nth(1).unwrap();
        if path == "/die" {
            return;
        }
        if path == "/pour" {
            pour(&mut socket).await;
            return;
        }
        let close = if path == "/close" { "Connection: close\r\n" } else { "" };
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{close}\r\n", body.len());
        if socket.write_all(answer.as_bytes()).await.is_err() || socket.write_all(body).await.is_err() {
            return;
        }
        // Through TLS the last bytes may wait in the session, and reading does not send them.
        if socket.flush().await.is_err() {
            return;
        }
        // `/last` closes cleanly after an answer that did not say so, as a restarted service does.
        if path == "/close" || path == "/last" {
            return;
        }
    }
}

/// Answers with more than anybody reads, until the connection ends.
async fn pour(socket: &mut (impl AsyncWrite + Unpin)) {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", u64::MAX >> 1);
    let mut block = head.into_bytes();
    while socket.write_all(&block).await.is_ok() {
        block = vec![0; 64 * 1024];
    }
}

/// What the developer's side does with a stream.
#[derive(Clone, Copy)]
pub(super) enum Behaviour {
    /// Connects it to the service.
    Serve,
    /// Refuses it.
    Refuse(StreamCode),
    /// Takes it and says nothing.
    Silent,
}

/// A developer with a tunnel and a service.
pub(super) struct Developer {
    pub(super) intercept: Arc<Intercept>,
    pub(super) service: Service,
    pub(super) tunnel: Tunnel,
    /// Streams that arrived.
    pub(super) streams: tokio::sync::watch::Receiver<usize>,
    /// What the newest stream's header says of TLS.
    pub(super) header: Arc<Mutex<Option<ClientTls>>>,
    /// What the developer is told.
    events: crate::tunnel_handle::backlog::EventQueue,
    _endpoint: AgentEndpoint,
    _tasks: JoinSet<()>,
}

impl Developer {
    pub(super) async fn new(id: u64, name: &'static str, behaviour: Behaviour) -> Self {
        let service = Service::start(name).await;
        let address = service.address;
        Self::with(id, behaviour, service, address).await
    }

    /// With a service that the test itself plays.
    pub(super) async fn at(id: u64, address: SocketAddr) -> Self {
        Self::with(id, Behaviour::Serve, Service::start("unused").await, address).await
    }

    async fn with(id: u64, behaviour: Behaviour, service: Service, to: SocketAddr) -> Self {
        let (agent, alice) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let authorised = Authorised::default();
        authorised.replace([alice.pin()]);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let endpoint = AgentEndpoint::start(socket, &agent, authorised).unwrap();
        let accept = async {
            let handshake = endpoint.accept().await.expect("a handshake");
            let (connection, _) = handshake.finish().await.unwrap();
            let mut control = AgentControl::accept(&connection).await.unwrap();
            control.next().await.unwrap();
            control.welcome(1, "agent", "alice", "test").unwrap();
            control.flush().await.unwrap();
            (connection, control)
        };
        let addresses = [address];
        let (dialled, (connection, agent_control)) =
            soon(async { tokio::join!(dial(&addresses, &alice, agent.pin(), "test", "alice"), accept) }).await;
        let dialled = dialled.unwrap();
        let mut tasks = JoinSet::new();
        let (arrived, streams) = tokio::sync::watch::channel(0);
        let header = Arc::<Mutex<_>>::default();
        tasks.spawn(answer_streams(dialled.tunnel.clone(), behaviour, to, arrived, header.clone()));
        let controls = (dialled.control, agent_control);
        tasks.spawn(async move {
            let _controls = controls;
            std::future::pending::<()>().await;
        });
        let (intercept, events) = Intercept::for_test(id, PodName::new("web-1").unwrap(), connection);
        Developer {
            intercept: Arc::new(intercept),
            events,
            service,
            tunnel: dialled.tunnel,
            streams,
            header,
            _endpoint: endpoint,
            _tasks: tasks,
        }
    }

    /// The next request or connection that the developer is told of.
    pub(super) async fn told(&mut self) -> RequestEvent {
        soon(self.events.recv()).await.expect("the intercept lives")
    }

    /// Its requests tell the client's address.
    pub(super) fn forwarding(mut self) -> Self {
        Arc::get_mut(&mut self.intercept).expect("no plan has it yet").forwarded = true;
        self
    }

    /// Waits until this many streams have arrived.
    pub(super) async fn arrived(&mut self, count: usize) {
        soon(self.streams.wait_for(|streams| *streams >= count)).await.unwrap();
    }
}

async fn answer_streams(
    tunnel: Tunnel,
    behaviour: Behaviour,
    service: SocketAddr,
    arrived: tokio::sync::watch::Sender<usize>,
    header: Arc<Mutex<Option<ClientTls>>>,
) {
    let mut open = JoinSet::new();
    while let Ok(arrival) = tunnel.accept().await {
        let stream = arrival.header().await.unwrap();
        header.lock().unwrap().clone_from(&stream.header.tls);
        arrived.send_modify(|count| *count += 1);
        let tunnel = tunnel.clone();
        open.spawn(async move {
            match behaviour {
                Behaviour::Refuse(code) => stream.refuse(code),
                Behaviour::Silent => {
                    let _stream = stream;
                    std::future::pending::<()>().await;
                }
                Behaviour::Serve => {
                    let tcp = TcpStream::connect(service).await.unwrap();
                    redir_tunnel::relay(tcp, stream.send, stream.recv, tunnel.budget()).await;
                }
            }
        });
    }
}

/// The size of the future that serves one connection.
pub(super) fn served_size() -> usize {
    type Run<F> = fn(&'static TcpStream, &'static mut Route, &'static Shutdown, &'static mut Access) -> F;
    fn of<F: Future>(_: Run<F>) -> usize {
        size_of::<F>()
    }
    of(run)
}
