//! Who gets in, who does not, and with which sentence.

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Instant;

use quinn::crypto::rustls::QuicClientConfig;
use redir_wire::CloseCode;
use rustls::client::AlwaysResolvesClientRawPublicKeys;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;

use super::{TestAgent, dial_test, within};
use crate::handshakes::{MOST_OF_CLIENT, PROVE_CLIENT_ABOVE};
use crate::tls::{SeenPin, developer_config};
use crate::{AgentEndpoint, DialError, Identity, Lost, Pin, dial};

#[tokio::test]
async fn each_end_sees_the_others_key() {
    let alice = Identity::generate().unwrap();
    let agent = TestAgent::start(&[&alice]);
    let (welcomed, dialled) = tokio::join!(within(agent.welcome()), dial_test(&agent, &alice));
    assert_eq!(welcomed.1, alice.pin());
    dialled.unwrap();
}

/// A socket of both families has IPv4 addresses as mapped ones, which nobody reads.
#[tokio::test]
async fn ipv4_addresses_are_shown_as_such_on_a_socket_of_both_families() {
    let alice = Identity::generate().unwrap();
    let agent = TestAgent::start_on(UdpSocket::bind("[::]:0").unwrap(), &Identity::generate().unwrap(), &[&alice]);
    let addresses = [(std::net::Ipv4Addr::LOCALHOST, agent.address.port()).into()];
    let shown = async {
        let handshake = agent.endpoint.accept().await.unwrap();
        let address = handshake.address();
        (address, super::greet(handshake).await)
    };
    let dialled = within(dial(&addresses, &alice, agent.pin, "redir test", "alice"));
    let ((shown, _greeted), dialled) = tokio::join!(within(shown), dialled);
    assert!(shown.is_ipv4(), "{shown}");
    assert_eq!(dialled.unwrap().tunnel.address(), addresses[0]);
}

#[tokio::test]
async fn an_unknown_key_is_refused_with_a_sentence() {
    let (alice, mallory) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let agent = TestAgent::start(&[&alice]);
    let (refused, dialled) = tokio::join!(refuses(&agent.endpoint), dial_test(&agent, &mallory));
    refused.unwrap_err();
    let error = dialled.unwrap_err();
    assert!(matches!(error, DialError::UnknownKey { key, .. } if key == mallory.pin()), "{error}");
    let sentence = error.to_string();
    assert!(sentence.contains(&mallory.pin().to_string()) && sentence.contains("ask its administrator"), "{sentence}");
}

#[tokio::test]
async fn a_removed_key_is_refused_and_an_added_one_accepted() {
    let (alice, bob) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let agent = TestAgent::start(&[&alice]);
    within(agent.pair(&alice)).await;
    agent.authorised.replace([bob.pin()]);
    let (refused, dialled) = tokio::join!(refuses(&agent.endpoint), dial_test(&agent, &alice));
    refused.unwrap_err();
    assert!(matches!(dialled.unwrap_err(), DialError::UnknownKey { .. }));
    within(agent.pair(&bob)).await;
}

#[tokio::test]
async fn an_agent_with_another_key_is_refused_with_both_keys_named() {
    let alice = Identity::generate().unwrap();
    let agent = TestAgent::start(&[&alice]);
    let expected = Identity::generate().unwrap().pin();
    let addresses = [agent.address];
    let (refused, dialled) =
        tokio::join!(refuses(&agent.endpoint), within(dial(&addresses, &alice, expected, "redir test", "alice")));
    refused.unwrap_err();
    let error = dialled.unwrap_err();
    assert!(
        matches!(error, DialError::WrongAgent { has, expected: named, .. } if has == agent.pin && named == expected)
    );
    let sentence = error.to_string();
    assert!(sentence.contains(&agent.pin.to_string()) && sentence.contains(&expected.to_string()), "{sentence}");
}

#[tokio::test]
async fn a_stolen_public_key_without_its_private_key_is_refused() {
    let (alice, mallory) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let agent = TestAgent::start(&[&alice]);
    let mut tls = developer_config(&mallory, agent.pin, SeenPin::default()).unwrap();
    let stolen = CertifiedKey::new(vec![CertificateDer::from(alice.spki().to_vec())], mallory.certified().key.clone());
    tls.client_auth_cert_resolver = Arc::new(AlwaysResolvesClientRawPublicKeys::new(Arc::new(stolen)));
    let (refused, client) = tokio::join!(refuses(&agent.endpoint), within(bare_dial(&agent, tls)));
    refused.unwrap_err();
    // decrypt_error or bad_certificate: the signature is not alice's.
    assert!(matches!(client, Lost::Alert(alert) if alert != crate::error::ACCESS_DENIED), "{client:?}");
}

#[tokio::test]
async fn an_agents_stolen_public_key_is_refused() {
    let (alice, mallory) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let real = Identity::generate().unwrap();
    let authorised = crate::Authorised::default();
    authorised.replace([alice.pin()]);
    let mut tls = crate::tls::agent_config(&mallory, authorised).unwrap();
    let stolen = CertifiedKey::new(vec![CertificateDer::from(real.spki().to_vec())], mallory.certified().key.clone());
    tls.cert_resolver = Arc::new(rustls::server::AlwaysResolvesServerRawPublicKeys::new(Arc::new(stolen)));
    let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(tls).unwrap();
    let server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let endpoint = quinn::Endpoint::server(server, "127.0.0.1:0".parse().unwrap()).unwrap();
    let addresses = [endpoint.local_addr().unwrap()];
    let serve = async { endpoint.accept().await.unwrap().await.is_ok() };
    let (served, dialled) =
        tokio::join!(within(serve), within(dial(&addresses, &alice, real.pin(), "redir test", "alice")));
    assert!(!served);
    dialled.unwrap_err();
}

#[tokio::test]
async fn another_protocol_is_refused() {
    let alice = Identity::generate().unwrap();
    let agent = TestAgent::start(&[&alice]);
    let mut tls = developer_config(&alice, agent.pin, SeenPin::default()).unwrap();
    tls.alpn_protocols = vec![b"redir/2".to_vec()];
    let (refused, client) = tokio::join!(refuses(&agent.endpoint), within(bare_dial(&agent, tls)));
    refused.unwrap_err();
    assert_eq!(client, Lost::Alert(crate::error::NO_APPLICATION_PROTOCOL));
}

#[tokio::test]
async fn a_developer_without_a_key_is_refused() {
    let alice = Identity::generate().unwrap();
    let agent = TestAgent::start(&[&alice]);
    let mut tls = developer_config(&alice, agent.pin, SeenPin::default()).unwrap();
    tls.client_auth_cert_resolver = Arc::new(NoKey);
    let (refused, client) = tokio::join!(refuses(&agent.endpoint), within(bare_dial(&agent, tls)));
    refused.unwrap_err();
    assert!(matches!(client, Lost::Alert(_)), "{client:?}");
}

#[tokio::test]
async fn nobody_there_is_told_as_such() {
    let alice = Identity::generate().unwrap();
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let error = within(dial(&[address], &alice, alice.pin(), "redir test", "alice")).await.unwrap_err();
    assert!(matches!(error, DialError::Silent(at) if at == address), "{error}");
    assert!(matches!(
        within(dial(&[], &alice, alice.pin(), "redir test", "alice")).await.unwrap_err(),
        DialError::NoAddress
    ));
}

#[tokio::test]
async fn the_address_that_answers_wins() {
    let alice = Identity::generate().unwrap();
    let agent = TestAgent::start(&[&alice]);
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addresses = [silent.local_addr().unwrap(), agent.address];
    let (_, dialled) =
        tokio::join!(within(agent.welcome()), within(dial(&addresses, &alice, agent.pin, "redir test", "alice")));
    assert_eq!(dialled.unwrap().tunnel.address(), agent.address);
}

/// More at once than the agent takes from addresses that have not proved themselves.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_gets_in() {
    const CROWD: usize = 60;
    let alice = Identity::generate().unwrap();
    let agent = TestAgent::start(&[&alice]);
    let (address, pin) = (agent.address, agent.pin);
    let mut dials = tokio::task::JoinSet::new();
    for _ in 0..CROWD {
        let alice = alice.clone();
        dials.spawn(async move { dial(&[address], &alice, pin, "redir test", "alice").await });
    }
    let mut handshakes = tokio::task::JoinSet::new();
    let mut controls = Vec::new();
    while controls.len() < CROWD {
        tokio::select! {
            handshake = agent.endpoint.accept() => {
                handshakes.spawn(super::greet(handshake.unwrap()));
            }
            Some(greeted) = handshakes.join_next() => controls.push(greeted.unwrap()),
        }
    }
    for dialled in within(dials.join_all()).await {
        dialled.unwrap();
    }
}

#[tokio::test]
async fn a_closed_tunnel_says_why() {
    let alice = Identity::generate().unwrap();
    let agent = TestAgent::start(&[&alice]);
    let (_connection, _control, dialled) = within(agent.pair(&alice)).await;
    let (lost, ()) = tokio::join!(within(dialled.tunnel.lost()), agent.endpoint.close(CloseCode::Shutdown));
    assert!(matches!(lost, Lost::Closed(CloseCode::Shutdown, _)), "{lost:?}");
}

/// The guardian keeps the socket when a worker dies: developers of the dead one are told by its successor.
#[tokio::test]
async fn a_new_process_on_the_same_socket_ends_the_old_ones_tunnels() {
    let alice = Identity::generate().unwrap();
    let identity = Identity::generate().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let first = {
        let _inside = runtime.enter();
        TestAgent::start_on(socket.try_clone().unwrap(), &identity, &[&alice])
    };
    let (connection, control, dialled) = within(first.pair(&alice)).await;
    // Dies without a word: the runtime ends before anything can be sent.
    runtime.shutdown_background();
    let second = TestAgent::start_on(socket, &identity, &[&alice]);
    let began = Instant::now();
    // The keep-alive, or anything else that the developer sends, is answered with a reset.
    assert_eq!(within(dialled.tunnel.lost()).await, Lost::Restarted);
    assert!(began.elapsed() < crate::IDLE / 2, "told, not timed out");
    drop((connection, control, second));
}

/// What the agent's handshake says.
async fn refuses(endpoint: &AgentEndpoint) -> Result<(quinn::Connection, Pin), quinn::ConnectionError> {
    within(async { endpoint.accept().await.unwrap().finish().await }).await
}

/// A whole ClientHello after which nothing comes: from an address that has proved itself, more than it has places.
#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_of_an_address_makes_room() {
    let alice = Identity::generate().unwrap();
    let agent = TestAgent::start(&[&alice]);
    let mut dialling = tokio::task::JoinSet::new();
    let mut begun = Vec::new();
    for number in 0..=MOST_OF_CLIENT {
        let (address, pin, alice) = (agent.address, agent.pin, alice.clone());
        dialling.spawn(async move { dial(&[address], &alice, pin, "redir test", "").await });
        let handshake = within(agent.endpoint.accept()).await.unwrap();
        assert_eq!(handshake.is_validated(), number >= PROVE_CLIENT_ABOVE, "handshake {number}");
        begun.push(handshake);
    }
    let last = begun.pop().unwrap();
    begun.swap_remove(0).finish().await.expect_err("it has made room");
    within(last.finish()).await.unwrap();
}

/// Dials with a configuration of its own, and says how the connection ended.
async fn bare_dial(agent: &TestAgent, tls: rustls::ClientConfig) -> Lost {
    let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let crypto = QuicClientConfig::try_from(tls).unwrap();
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
    match endpoint.connect(agent.address, "agent").unwrap().await {
        Ok(connection) => Lost::from(&connection.closed().await),
        Err(error) => Lost::from(&error),
    }
}

#[derive(Debug)]
struct NoKey;

impl rustls::client::ResolvesClientCert for NoKey {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn only_raw_public_keys(&self) -> bool {
        true
    }

    fn has_certs(&self) -> bool {
        false
    }
}
