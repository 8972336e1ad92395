//! A developer who intercepts, an agent that grants it, and the developer's service.

use quinn::{ReadError, ReadToEndError, RecvStream};
use redir_wire::{InterceptRequest, LeaveScope, Listing, Liveness, PodEntry, StreamCode, ToAgent, ToDeveloper};
use tokio::net::{TcpListener, TcpStream};

use super::Home;
use super::agent::{Agent, Session, left, soon};
use super::process::Redir;

/// An agent, a developer with a key that it knows, and a service of their own.
pub(crate) struct Scene {
    pub(crate) home: Home,
    pub(crate) agent: Agent,
    pub(crate) service: Option<TcpListener>,
    pub(crate) port: u16,
}

impl Scene {
    pub(crate) async fn new() -> Self {
        let home = Home::new();
        let developer = home.keygen();
        let agent = Agent::start(&[developer]);
        home.write_config(&agent.config("node-1"));
        let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { home, agent, port: service.local_addr().unwrap().port(), service: Some(service) }
    }

    /// Nothing answers on the developer's port.
    pub(crate) fn without_service(mut self) -> Self {
        self.service = None;
        self
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The next connection to the service; redir looks once before whether it runs.
    pub(crate) async fn connection(&self) -> TcpStream {
        soon("a connection", async {
            loop {
                let (connection, _) = self.service.as_ref().unwrap().accept().await.unwrap();
                let mut first = [0];
                if connection.peek(&mut first).await.unwrap() > 0 {
                    return connection;
                }
            }
        })
        .await
    }

    pub(crate) fn intercept(&self, more: &[&str]) -> Redir {
        let port = format!("8080:{}", self.port());
        let arguments: Vec<&str> = ["intercept", "web-1", "--port", &port].iter().chain(more).copied().collect();
        Redir::start(self.home.command(&arguments))
    }

    /// Answers what is asked before a command is started.
    pub(crate) async fn list(&mut self, pods: &[&str]) {
        self.list_ports(pods, &[8080]).await;
    }

    /// The same, with the ports that may be intercepted.
    pub(crate) async fn list_ports(&mut self, pods: &[&str], ports: &[u16]) {
        let mut session = self.agent.accept().await;
        let question = session.next().await;
        assert_eq!(question.message, ToAgent::List);
        let pod = |name: &&str| PodEntry { name: (*name).to_owned(), labels: [].into(), ports: ports.to_vec() };
        let listing = Listing { pods: pods.iter().map(pod).collect(), intercepts: Vec::new() };
        session.say(question.seq, &ToDeveloper::Listing(listing)).await;
        soon("the close", session.connection.closed()).await;
    }

    /// Runs until pod web-1 is live as intercept 7.
    pub(crate) async fn live(&mut self, more: &[&str]) -> (Redir, Session, InterceptRequest) {
        let mut redir = self.intercept(&[&["-o", "json"], more].concat());
        if more.contains(&"--") {
            self.list(&["web-1"]).await;
        }
        let mut session = self.agent.accept().await;
        let (seq, request) = session.request().await;
        session.grant(seq, &request, 7, &[("web-1", Liveness::Live, "")]).await;
        redir.event("live").await;
        (redir, session, request)
    }
}

/// Answers redir's leave-taking.
pub(crate) async fn let_go(session: &mut Session, request: &InterceptRequest) {
    let said = session.next().await;
    assert_eq!(said.message, ToAgent::Leave(LeaveScope::Token(request.token)));
    session.say(said.seq, &left(&[Some(7)])).await;
}

pub(crate) async fn reset(receive: &mut RecvStream) -> StreamCode {
    match soon("a reset", receive.read_to_end(100)).await {
        Err(ReadToEndError::Read(ReadError::Reset(code))) => StreamCode::from_number(code.into_inner()),
        other => panic!("{other:?}"),
    }
}
