//! Both ends over real QUIC on loopback, in one process.

#[cfg(target_os = "linux")]
mod flood;
mod handshake;
mod streams;
#[cfg(target_os = "linux")]
mod unreachable;

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use redir_wire::{ToAgent, ToDeveloper};

use crate::{AgentControl, AgentEndpoint, Authorised, Dialled, Handshake, Identity, Pin, dial};

/// An agent on loopback, and the key it has.
struct TestAgent {
    endpoint: AgentEndpoint,
    authorised: Authorised,
    address: SocketAddr,
    pin: Pin,
}

impl TestAgent {
    fn start(developers: &[&Identity]) -> Self {
        let identity = Identity::generate().unwrap();
        Self::start_on(UdpSocket::bind("127.0.0.1:0").unwrap(), &identity, developers)
    }

    fn start_on(socket: UdpSocket, identity: &Identity, developers: &[&Identity]) -> Self {
        let authorised = Authorised::default();
        authorised.replace(developers.iter().map(|developer| developer.pin()));
        let endpoint = AgentEndpoint::start(socket, identity, authorised.clone()).unwrap();
        let address = endpoint.address().unwrap();
        Self { endpoint, authorised, address, pin: identity.pin() }
    }

    /// Takes one tunnel and greets it.
    async fn welcome(&self) -> (quinn::Connection, Pin, AgentControl) {
        greet(self.endpoint.accept().await.unwrap()).await
    }

    /// A tunnel with both its ends.
    async fn pair(&self, developer: &Identity) -> (quinn::Connection, AgentControl, Dialled) {
        let (agent, dialled) = tokio::join!(self.welcome(), dial_test(self, developer));
        (agent.0, agent.2, dialled.unwrap())
    }
}

async fn greet(handshake: Handshake) -> (quinn::Connection, Pin, AgentControl) {
    greet_finished(handshake.finish().await.unwrap()).await
}

async fn greet_finished((connection, pin): (quinn::Connection, Pin)) -> (quinn::Connection, Pin, AgentControl) {
    let mut control = AgentControl::accept(&connection).await.unwrap();
    let hello = control.next().await.unwrap().unwrap();
    assert!(matches!(hello.message, ToAgent::Hello(_)));
    control.welcome(hello.seq, "node-1", "alice", "redir-agent test").unwrap();
    control.flush().await.unwrap();
    (connection, pin, control)
}

async fn dial_test(agent: &TestAgent, developer: &Identity) -> Result<Dialled, crate::DialError> {
    within(dial(&[agent.address], developer, agent.pin, "redir test", "alice@laptop")).await
}

/// Fails loudly instead of hanging.
async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("must be done long before")
}

#[tokio::test]
async fn greeting_questions_and_answers() {
    let alice = Identity::generate().unwrap();
    let agent = TestAgent::start(&[&alice]);
    let (_, mut agent_control, mut dialled) = within(agent.pair(&alice)).await;
    assert_eq!(dialled.welcome.agent, "node-1");
    let seq = dialled.control.ask(&ToAgent::Ping(7)).unwrap();
    let (asked, answered) = tokio::join!(
        async {
            let asked = agent_control.next().await.unwrap().unwrap();
            agent_control.say(asked.seq, &ToDeveloper::Pong(7)).unwrap();
            agent_control.flush().await.unwrap();
            asked
        },
        within(dialled.control.next())
    );
    assert_eq!((asked.seq, asked.message), (seq, ToAgent::Ping(7)));
    let answered = answered.unwrap().unwrap();
    assert_eq!((answered.answers, answered.message), (seq, ToDeveloper::Pong(7)));
}
