//! An agent's end of the tunnel, on loopback: the real endpoint and messages, with the test as the agent's mind.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use quinn::{Connection, RecvStream, SendStream};
use redir_tunnel::{AgentControl, AgentEndpoint, Authorised, Identity, Pin};
use redir_wire::session::FromDeveloper;
use redir_wire::{
    Bye, ClientTls, CloseCode, InterceptRequest, InterceptState, Left, LeftIntercept, Liveness, PodState, StreamHeader,
    ToAgent, ToDeveloper, UnixMillis,
};

/// Nothing here takes longer, also on a machine at load 30.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// Waits, but not forever.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("{what}: not within {LIMIT:?}"))
}

/// The endpoint, on a free port.
pub(crate) struct Agent {
    endpoint: Option<AgentEndpoint>,
    identity: Identity,
    authorised: Authorised,
    address: SocketAddr,
}

impl Agent {
    pub(crate) fn start(developers: &[Pin]) -> Self {
        let authorised = Authorised::default();
        authorised.replace(developers.iter().copied());
        let identity = Identity::generate().unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let endpoint = Some(AgentEndpoint::start(socket, &identity, authorised.clone()).unwrap());
        Self { endpoint, identity, authorised, address }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn pin(&self) -> Pin {
        self.identity.pin()
    }

    /// Its lines of `redir.toml`.
    pub(crate) fn config(&self, name: &str) -> String {
        format!("[agents.{name}]\naddress = \"{}\"\nkey = \"{}\"\n", self.address, self.pin())
    }

    /// The next developer that comes in with a key that is known.
    pub(crate) async fn accept(&mut self) -> Session {
        let endpoint = self.endpoint.as_ref().expect("the agent runs");
        soon("a tunnel", async {
            loop {
                let handshake = endpoint.accept().await.expect("the endpoint is open");
                if let Ok((connection, _)) = handshake.finish().await {
                    return Session::greet(connection).await;
                }
            }
        })
        .await
    }

    /// Refuses whoever comes in, until the test is over.
    pub(crate) async fn turn_away(&self) {
        let endpoint = self.endpoint.as_ref().expect("the agent runs");
        while let Some(handshake) = endpoint.accept().await {
            assert!(handshake.finish().await.is_err(), "a stranger came in");
        }
    }

    /// Ends as a replaced agent does, and comes back on the same port with the same key.
    pub(crate) async fn restart(&mut self) {
        self.endpoint.take().expect("the agent runs").close(CloseCode::Shutdown).await;
        // The old socket goes with its last task.
        let socket = soon("the port to be free", async {
            loop {
                match UdpSocket::bind(self.address) {
                    Ok(socket) => return socket,
                    Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse),
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        self.endpoint = Some(AgentEndpoint::start(socket, &self.identity, self.authorised.clone()).unwrap());
    }
}

/// One developer's tunnel, greeted.
pub(crate) struct Session {
    pub(crate) connection: Connection,
    control: AgentControl,
}

impl Session {
    /// Takes the control stream and answers the greeting.
    async fn greet(connection: Connection) -> Self {
        let control = soon("the control stream", AgentControl::accept(&connection)).await.unwrap();
        let mut session = Self { connection, control };
        let hello = session.next().await;
        let ToAgent::Hello(greeting) = &hello.message else { panic!("{hello:?}") };
        assert!(greeting.software.starts_with("redir ") && greeting.user.starts_with("alice"), "{greeting:?}");
        session.control.welcome(hello.seq, "node-1", "alice", "test-agent 1").unwrap();
        session.control.flush().await.unwrap();
        session
    }

    /// The next message from the developer; pings are answered.
    pub(crate) async fn next(&mut self) -> FromDeveloper {
        loop {
            let next = soon("a message from redir", self.control.next()).await.unwrap();
            let said = next.expect("redir ended the control stream");
            match said.message {
                ToAgent::Ping(number) => self.say(said.seq, &ToDeveloper::Pong(number)).await,
                _ => return said,
            }
        }
    }

    /// The next message, which must be an intercept request.
    pub(crate) async fn request(&mut self) -> (u32, InterceptRequest) {
        let said = self.next().await;
        let ToAgent::Intercept(request) = said.message else { panic!("{said:?}") };
        (said.seq, request)
    }

    pub(crate) async fn say(&mut self, answers: u32, message: &ToDeveloper) {
        self.control.say(answers, message).unwrap();
        self.control.flush().await.unwrap();
    }

    /// Says why it ends, as an agent does before it closes the tunnel.
    pub(crate) async fn bye(mut self, code: CloseCode) -> Connection {
        self.say(0, &ToDeveloper::Bye(Bye { code, sentence: code.to_string() })).await;
        self.control.finish().await.unwrap();
        self.connection
    }

    /// Grants an intercept request: these pods are in these states.
    pub(crate) async fn grant(
        &mut self,
        seq: u32,
        request: &InterceptRequest,
        id: u64,
        pods: &[(&str, Liveness, &str)],
    ) {
        self.say(seq, &ToDeveloper::Intercept(state(request, id, pods))).await;
    }

    /// Opens a client connection's stream.
    pub(crate) async fn open(&self, intercept: u64) -> (SendStream, RecvStream) {
        self.open_with(intercept, None).await
    }

    /// The same; `tls` if the agent decrypts it.
    pub(crate) async fn open_with(&self, intercept: u64, tls: Option<ClientTls>) -> (SendStream, RecvStream) {
        soon("a stream", self.try_open_with(intercept, tls)).await.unwrap()
    }

    /// The same, where redir may be gone.
    pub(crate) async fn try_open(&self, intercept: u64) -> Result<(SendStream, RecvStream), quinn::WriteError> {
        self.try_open_with(intercept, None).await
    }

    async fn try_open_with(
        &self,
        intercept: u64,
        tls: Option<ClientTls>,
    ) -> Result<(SendStream, RecvStream), quinn::WriteError> {
        self.try_open_to("10.0.0.2:8080".parse().unwrap(), intercept, tls).await
    }

    /// A stream of a client that has dialled this address of the pod.
    pub(crate) async fn try_open_to(
        &self,
        destination: SocketAddr,
        intercept: u64,
        tls: Option<ClientTls>,
    ) -> Result<(SendStream, RecvStream), quinn::WriteError> {
        let (mut send, receive) = self.connection.open_bi().await?;
        let header =
            StreamHeader { intercept, pod: "web-1".into(), client: "10.0.0.9:4000".parse().unwrap(), destination, tls };
        send.write_all(&header.encode().unwrap()).await?;
        Ok((send, receive))
    }
}

/// What an agent says that has ended intercepts of these numbers.
pub(crate) fn left(ids: &[Option<u64>]) -> ToDeveloper {
    let intercepts = ids.iter().map(|id| LeftIntercept { id: *id, what: "web-1:8080".into() });
    ToDeveloper::Left(Left { intercepts: intercepts.collect() })
}

/// The state of an intercept.
pub(crate) fn state(request: &InterceptRequest, id: u64, pods: &[(&str, Liveness, &str)]) -> InterceptState {
    let pod = |(name, state, reason): &(&str, Liveness, &str)| PodState {
        flushed: None,
        pod: (*name).to_owned(),
        addresses: vec!["10.0.0.2".into()],
        state: *state,
        reason: (*reason).to_owned(),
        earlier_connections: 3,
        since: UnixMillis(0),
        tls: None,
        probes: Vec::new(),
        listening: None,
        misses: Vec::new(),
    };
    let pods = pods.iter().map(pod).collect();
    let (conflicts, overlaps) = (Vec::new(), Vec::new());
    InterceptState {
        id,
        token: request.token,
        since: UnixMillis(0),
        pods,
        conflicts,
        overlaps,
        bypassed: 0,
        even_if_down: request.even_if_down,
        forwarded: request.forwarded,
    }
}
