//! HTTP/2 with prior knowledge: who gets which stream, and what happens where one end does not speak it.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, atomic::Ordering},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, client, ext::Protocol, server};
use http::{HeaderName, HeaderValue, Method, Request, Response};
use redir_wire::{CloseCode, RequestOutcome, StreamCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
};

use super::rig::{Behaviour, Developer, Rig, soon};
use crate::{access::Access, proxy::http2::preface::PREFACE};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// An HTTP/2 service on a loopback socket: answers with its name and the path; echoes `/echo`; holds `/hold` until it is
/// told to answer; closes with GOAWAY after `/goaway`, without it after `/close`; resets `/reset`.
pub(super) struct Service {
    pub(super) address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
    held: mpsc::UnboundedReceiver<server::SendResponse<Bytes>>,
    _tasks: JoinSet<()>,
}

impl Service {
    pub(super) async fn start(name: &'static str) -> Self {
        Self::with(name, server::Builder::new()).await
    }

    async fn with(name: &'static str, builder: server::Builder) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Vec<String>>>::default();
        let (holds, held) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        let noted = seen.clone();
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                open.spawn(talk(socket, name, builder.clone(), noted.clone(), holds.clone()));
            }
        });
        Service { address, seen, held, _tasks: tasks }
    }

    pub(super) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

async fn talk(
    socket: TcpStream,
    name: &'static str,
    builder: server::Builder,
    seen: Arc<Mutex<Vec<String>>>,
    held: mpsc::UnboundedSender<server::SendResponse<Bytes>>,
) {
    let Ok(mut connection) = builder.handshake::<_, Bytes>(socket).await else { return };
    let mut streams = JoinSet::new();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let path = request.uri().path().to_owned();
        seen.lock().unwrap().push(path.clone());
        match &*path {
            "/hold" => held.send(respond).unwrap(),
            "/reset" => respond.send_reset(Reason::ENHANCE_YOUR_CALM),
            "/grpc" => {
                let mut to = respond.send_response(Response::new(()), false).unwrap();
                to.send_data("body".into(), false).unwrap();
                to.send_trailers([(GRPC_STATUS, HeaderValue::from(5))].into_iter().collect()).unwrap();
            }
            "/trailers-only" => {
                let head = Response::builder().header(GRPC_STATUS, 7).body(()).unwrap();
                respond.send_response(head, true).unwrap();
            }
            "/pour" => {
                let mut to = respond.send_response(Response::new(()), false).unwrap();
                to.send_data(vec![0; 4 << 20].into(), true).unwrap();
            }
            "/echo" => {
                let to = respond.send_response(Response::new(()), false).unwrap();
                streams.spawn(echo(request.into_body(), to));
            }
            _ => {
                let mut to = respond.send_response(Response::new(()), false).unwrap();
                to.send_data(format!("{name} {path}").into(), true).unwrap();
            }
        }
        match &*path {
            "/goaway" => connection.graceful_shutdown(),
            "/close" => {
                // The answer is written, and nothing after it.
                std::future::poll_fn(|cx| std::task::Poll::Ready(connection.poll_closed(cx).is_ready())).await;
                return;
            }
            _ => {}
        }
    }
}

async fn echo(mut from: RecvStream, mut to: SendStream<Bytes>) {
    while let Some(Ok(bytes)) = from.data().await {
        let _ = from.flow_control().release_capacity(bytes.len());
        to.send_data(bytes, false).unwrap();
    }
    let _ = to.send_data(Bytes::new(), true);
}

/// A client's HTTP/2 connection.
pub(super) struct Client {
    requests: client::SendRequest<Bytes>,
    connection: tokio::task::JoinHandle<Result<(), h2::Error>>,
    served: tokio::task::JoinHandle<Access>,
}

impl Client {
    pub(super) async fn new(rig: &Rig) -> Self {
        let client = rig.client().await;
        let (requests, connection) = client::handshake(client.socket).await.unwrap();
        Client { requests, connection: tokio::spawn(connection), served: client.served }
    }

    pub(super) fn request(path: &str, user: Option<&str>) -> http::request::Builder {
        let request = Request::builder().uri(format!("http://web{path}"));
        match user {
            Some(user) => request.header("x-user", user),
            None => request,
        }
    }

    pub(super) async fn send(
        &mut self,
        request: http::request::Builder,
        ends: bool,
    ) -> (client::ResponseFuture, SendStream<Bytes>) {
        let mut requests = soon(self.requests.clone().ready()).await.unwrap();
        requests.send_request(request.body(()).unwrap(), ends).unwrap()
    }

    /// The status and body of an answer.
    pub(super) async fn ask(&mut self, path: &str, user: Option<&str>) -> (u16, String) {
        let (response, _) = self.send(Self::request(path, user), true).await;
        answer(response).await
    }

    /// A request that is reset.
    async fn ask_reset(&mut self, path: &str, user: &str) {
        let (response, _) = self.send(Self::request(path, Some(user)), true).await;
        assert!(soon(response).await.unwrap_err().is_reset());
    }

    /// Ends in order; what the agent counted.
    pub(super) async fn done(self) -> Access {
        drop(self.requests);
        soon(self.connection).await.unwrap().unwrap();
        soon(self.served).await.unwrap()
    }
}

pub(super) async fn answer(response: client::ResponseFuture) -> (u16, String) {
    let (head, body) = soon(response).await.unwrap().into_parts();
    (head.status.as_u16(), text(body).await)
}

async fn text(mut body: RecvStream) -> String {
    let mut text = Vec::new();
    while let Some(bytes) = soon(body.data()).await {
        text.extend_from_slice(&bytes.unwrap());
    }
    String::from_utf8(text).unwrap()
}

/// An app and a developer's service that speak HTTP/2, with the filter `x-user: alice`.
pub(super) async fn world() -> (Rig, Service, Service, Developer) {
    let mut rig = Rig::new().await;
    let (app, blue) = (Service::start("green").await, Service::start("blue").await);
    rig.app.address = app.address;
    let alice = Developer::at(1, blue.address).await;
    rig.plan(&[("alice", &alice)], None);
    (rig, app, blue, alice)
}

#[tokio::test]
async fn streams_of_one_connection_are_decided_one_by_one() {
    let (rig, app, blue, alice) = world().await;
    let mut client = Client::new(&rig).await;
    for n in 0..5 {
        assert_eq!(client.ask(&format!("/{n}"), None).await, (200, format!("green /{n}")));
        assert_eq!(client.ask(&format!("/{n}"), Some("alice")).await, (200, format!("blue /{n}")));
        assert_eq!(client.ask(&format!("/{n}"), Some("bob")).await, (200, format!("green /{n}")));
    }
    // Interleaved, while both are open.
    let echo = |user| Client::request("/echo", user).method(Method::POST);
    let (to_app, mut up) = client.send(echo(None), false).await;
    let (to_alice, mut up_alice) = client.send(echo(Some("alice")), false).await;
    for _ in 0..10 {
        up.send_data(Bytes::from_static(b"a"), false).unwrap();
        up_alice.send_data(Bytes::from_static(b"b"), false).unwrap();
    }
    up_alice.send_data(Bytes::new(), true).unwrap();
    up.send_data(Bytes::new(), true).unwrap();
    assert_eq!(answer(to_app).await, (200, "a".repeat(10)));
    assert_eq!(answer(to_alice).await, (200, "b".repeat(10)));
    drop((up, up_alice));
    let access = client.done().await;
    assert_eq!((access.app_requests, access.developer_requests), (11, 6));
    assert_eq!(alice.intercept.requests.load(Ordering::Relaxed), 6);
    assert_eq!(access.opaque, None);
    assert!(access.tally.received.load(Ordering::Relaxed) > 500 && access.tally.sent.load(Ordering::Relaxed) > 500);
    assert_eq!((app.seen().len(), blue.seen().len()), (11, 6));
    assert_eq!(*alice.streams.borrow(), 1, "one leg for the connection");
}

#[tokio::test]
async fn the_plan_of_the_moment_decides_each_stream() {
    let (rig, app, mut blue, mut alice) = world().await;
    let mut client = Client::new(&rig).await;
    let (held, _) = client.send(Client::request("/hold", Some("alice")), true).await;
    let mut respond = soon(blue.held.recv()).await.unwrap();
    rig.no_plan();
    assert_eq!(client.ask("/a", Some("alice")).await.1, "green /a");
    // What was under way goes on.
    respond.send_response(Response::new(()), false).unwrap().send_data("late".into(), true).unwrap();
    drop(respond);
    assert_eq!(answer(held).await, (200, "late".into()));
    // The leg has ended with it, and is opened again.
    rig.plan(&[("alice", &alice)], None);
    assert_eq!(client.ask("/b", Some("alice")).await.1, "blue /b");
    alice.arrived(2).await;
    client.done().await;
    assert_eq!(app.seen(), ["/a"]);
}

#[tokio::test]
async fn a_developers_leg_that_has_closed_is_opened_again() {
    let (rig, app, blue, mut alice) = world().await;
    let mut client = Client::new(&rig).await;
    for (n, path) in ["/goaway", "/close", "/x"].into_iter().enumerate() {
        assert_eq!(client.ask(path, Some("alice")).await, (200, format!("blue {path}")));
        alice.arrived(n + 1).await;
        // Closed as a restarted service closes: the agent has heard of it when nothing of the old leg is left.
        if path != "/x" {
            soon(async {
                while alice.intercept.tunnel.streams().0 > 0 {
                    tokio::task::yield_now().await;
                }
            })
            .await;
        }
    }
    assert_eq!(client.ask("/y", None).await.1, "green /y");
    client.done().await;
    assert_eq!((app.seen().len(), blue.seen().len()), (1, 3));
}

#[tokio::test]
async fn a_reset_of_a_developers_service_is_passed_on() {
    let (rig, _app, _blue, _alice) = world().await;
    let mut client = Client::new(&rig).await;
    let (response, _) = client.send(Client::request("/reset", Some("alice")), true).await;
    let error = soon(response).await.unwrap_err();
    assert!(error.is_remote() && error.is_reset());
    assert_eq!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM));
    assert_eq!(client.ask("/x", Some("alice")).await.1, "blue /x");
    client.done().await;
}

#[tokio::test]
async fn the_developer_is_told_of_grpcs_status_and_who_ended_a_stream() {
    let (_rig, _app, mut blue, mut alice, mut client) = {
        let (rig, app, blue, alice) = world().await;
        let client = Client::new(&rig).await;
        (rig, app, blue, alice, client)
    };
    for (path, status) in [("/grpc", Some(5)), ("/trailers-only", Some(7)), ("/plain", None)] {
        client.ask(path, Some("alice")).await;
        let event = alice.told().await;
        assert_eq!((event.path.as_str(), event.status, event.grpc_status), (path, 200, status));
        assert_eq!(event.outcome, RequestOutcome::Answered, "{path}");
    }
    let (response, mut up) = client.send(Client::request("/hold", Some("alice")), false).await;
    let _held = soon(blue.held.recv()).await.unwrap();
    up.send_reset(Reason::CANCEL);
    drop((response, up));
    let event = alice.told().await;
    assert_eq!((event.path.as_str(), event.status, event.outcome), ("/hold", 0, RequestOutcome::ClientLeft));
    client.ask_reset("/reset", "alice").await;
    let event = alice.told().await;
    assert_eq!((event.path.as_str(), event.status, event.outcome), ("/reset", 0, RequestOutcome::Cut));
    client.done().await;
}

#[tokio::test]
async fn a_developers_service_that_is_down_is_told_in_the_clients_own_words() {
    let mut rig = Rig::new().await;
    let app = Service::start("green").await;
    rig.app.address = app.address;
    let mut alice = Developer::new(1, "unused", Behaviour::Refuse(StreamCode::Refused)).await;
    rig.plan(&[("alice", &alice)], None);
    let mut client = Client::new(&rig).await;
    let sentence = "redir: the developer's service refused the connection (intercept of alice to 127.0.0.1:3000)";
    assert_eq!(client.ask("/", Some("alice")).await, (502, format!("{sentence}\n")));

    let grpc = Client::request("/s/m", Some("alice")).method(Method::POST).header("content-type", "application/grpc");
    let (response, mut up) = client.send(grpc, false).await;
    let (head, body) = soon(response).await.unwrap().into_parts();
    assert_eq!((head.status.as_u16(), body.is_end_stream()), (200, true));
    assert_eq!(head.headers["content-type"], "application/grpc");
    assert_eq!(head.headers["grpc-status"], "14");
    assert_eq!(head.headers["grpc-message"], sentence);
    let refused = RequestOutcome::Refused("the developer's service refused the connection".to_owned());
    for (status, grpc_status) in [(502, None), (200, Some(14))] {
        let event = alice.told().await;
        assert_eq!((event.status, event.grpc_status, event.outcome), (status, grpc_status, refused.clone()));
    }
    // The rest of the request is not wanted, and that is no error.
    assert_eq!(soon(std::future::poll_fn(|cx| up.poll_reset(cx))).await.unwrap(), Reason::NO_ERROR);
    drop((up, body));

    let (response, _) = client.send(Client::request("/", Some("alice")).method(Method::HEAD), true).await;
    let response = soon(response).await.unwrap();
    assert_eq!((response.status().as_u16(), response.body().is_end_stream()), (502, true));
    drop(response);
    assert_eq!(client.ask("/", None).await.1, "green /");
    let access = client.done().await;
    assert_eq!((access.app_requests, access.developer_requests), (1, 3));
    assert_eq!(rig.metrics.requests_refused.get(), 3);
}

#[tokio::test]
async fn a_developers_service_without_http2_is_named() {
    let mut rig = Rig::new().await;
    let app = Service::start("green").await;
    rig.app.address = app.address;
    let alice = Developer::new(1, "blue", Behaviour::Serve).await;
    // It takes what it is sent for an HTTP/1 request, and answers it.
    rig.plan(&[("alice", &alice)], None);
    let mut client = Client::new(&rig).await;
    let (status, body) = client.ask("/", Some("alice")).await;
    assert_eq!(status, 502);
    assert!(body.starts_with("redir: the developer's service does not speak HTTP/2 in clear"), "{body}");
    client.done().await;
}

#[tokio::test]
async fn a_lost_tunnel_is_a_504_then_a_reset_then_the_app() {
    let (rig, app, mut blue, alice) = world().await;
    let mut client = Client::new(&rig).await;
    let (begun, _) = client.send(Client::request("/hold", Some("alice")), true).await;
    let mut half = soon(blue.held.recv()).await.unwrap();
    let mut body = half.send_response(Response::new(()), false).unwrap();
    body.send_data("half".into(), false).unwrap();
    let mut begun = soon(begun).await.unwrap().into_body();
    assert_eq!(soon(begun.data()).await.unwrap().unwrap()[..], b"half"[..]);
    let (waiting, _) = client.send(Client::request("/hold", Some("alice")), true).await;
    let _respond = soon(blue.held.recv()).await.unwrap();
    alice.tunnel.close(CloseCode::Done).await;
    let (status, body) = answer(waiting).await;
    assert_eq!(status, 504);
    assert!(body.starts_with("redir: the tunnel to the developer is gone"), "{body}");
    let error = soon(begun.data()).await.unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
    drop(begun);
    // The plan is not changed yet: nothing was sent, so the app gets it.
    assert_eq!(client.ask("/after", Some("alice")).await, (200, "green /after".into()));
    let access = client.done().await;
    assert_eq!(app.seen(), ["/after"]);
    assert_eq!((access.app_requests, access.developer_requests), (1, 2));
}

#[tokio::test]
async fn the_apps_end_waits_for_what_a_developer_has_under_way() {
    let (rig, _app, mut blue, _alice) = world().await;
    let mut client = Client::new(&rig).await;
    let (held, _) = client.send(Client::request("/hold", Some("alice")), true).await;
    let mut respond = soon(blue.held.recv()).await.unwrap();
    assert_eq!(client.ask("/close", None).await.1, "green /close");
    let refused = soon(async {
        loop {
            match client.requests.clone().ready().await {
                Ok(_) => tokio::task::yield_now().await,
                Err(error) => return error,
            }
        }
    });
    assert_eq!(refused.await.reason(), Some(Reason::NO_ERROR), "the client is told at once");
    respond.send_response(Response::new(()), false).unwrap().send_data("late".into(), true).unwrap();
    drop(respond);
    assert_eq!(answer(held).await, (200, "late".into()));
    soon(client.connection).await.unwrap().unwrap();
    soon(client.served).await.unwrap();
}

#[tokio::test]
async fn an_app_that_closes_while_nothing_is_under_way_closes_the_client() {
    let (rig, app, _blue, _alice) = world().await;
    for path in ["/close", "/goaway"] {
        let mut client = Client::new(&rig).await;
        assert_eq!(client.ask(path, None).await.1, format!("green {path}"));
        soon(client.connection).await.unwrap().unwrap();
        soon(client.served).await.unwrap();
    }
    drop(app);
}

#[tokio::test]
async fn beside_filters_a_global_intercept_gets_the_rest_and_the_app_only_probes() {
    let (rig, app, blue, alice) = world().await;
    let red = Service::start("red").await;
    let bob = Developer::at(2, red.address).await;
    rig.plan(&[("alice", &alice)], Some(&bob));
    let mut client = Client::new(&rig).await;
    assert_eq!(client.ask("/a", Some("alice")).await.1, "blue /a");
    assert_eq!(client.ask("/b", None).await.1, "red /b");
    assert_eq!(app.seen(), [""; 0]);
    let probe = Client::request("/grpc.health.v1.Health/Check", Some("alice"))
        .header("user-agent", "kube-probe/1.31 grpc-go/1.70");
    let (response, _) = client.send(probe, true).await;
    assert_eq!(answer(response).await.1, "green /grpc.health.v1.Health/Check");
    // When bob leaves, the rest is the app's again, on the same connection.
    rig.plan(&[("alice", &alice)], None);
    assert_eq!(client.ask("/c", None).await.1, "green /c");
    let access = client.done().await;
    assert_eq!((access.app_requests, access.developer_requests), (2, 2));
    assert_eq!((blue.seen().len(), red.seen().len()), (1, 1));
}

#[tokio::test]
async fn a_global_developer_who_is_down_refuses_only_what_is_his() {
    let (rig, app, _blue, alice) = world().await;
    for behaviour in [Behaviour::Refuse(StreamCode::Refused), Behaviour::Silent] {
        let bob = Developer::new(2, "unused", behaviour).await;
        rig.plan(&[("alice", &alice)], Some(&bob));
        let mut client = Client::new(&rig).await;
        assert_eq!(client.ask("/a", Some("alice")).await.1, "blue /a");
        if matches!(behaviour, Behaviour::Refuse(_)) {
            assert_eq!(client.ask("/b", None).await.0, 502);
        }
        client.done().await;
    }
    assert_eq!(app.seen(), [""; 0]);
}

/// Nothing is lost or doubled of the preface that waited for the stream.
#[tokio::test]
async fn a_global_developer_whose_tunnel_is_down_leaves_his_requests_to_the_app() {
    let (rig, app, _blue, alice) = world().await;
    let bob = Developer::new(2, "unused", Behaviour::Serve).await;
    bob.intercept.tunnel.end();
    rig.plan(&[("alice", &alice)], Some(&bob));
    let mut client = Client::new(&rig).await;
    assert_eq!(client.ask("/a", Some("alice")).await.1, "blue /a");
    assert_eq!(client.ask("/b", None).await.1, "green /b");
    client.done().await;
    assert_eq!(app.seen().len(), 1);
}

#[tokio::test]
async fn extended_connect_is_refused_by_a_developer_who_does_not_take_it() {
    let mut rig = Rig::new().await;
    let mut builder = server::Builder::new();
    builder.enable_connect_protocol();
    let (app, blue) = (Service::with("green", builder.clone()).await, Service::start("blue").await);
    let red = Service::with("red", builder).await;
    rig.app.address = app.address;
    let (alice, bob) = (Developer::at(1, blue.address).await, Developer::at(2, red.address).await);
    rig.plan(&[("alice", &alice), ("bob", &bob)], None);
    let mut client = Client::new(&rig).await;
    client.ask("/", None).await;
    let mut websocket = async |user| {
        let request = Client::request("/chat", user).method(Method::CONNECT);
        let request = request.extension(Protocol::from_static("websocket"));
        let (response, _up) = client.send(request, false).await;
        answer(response).await
    };
    assert_eq!(websocket(None).await, (200, "green /chat".into()));
    assert_eq!(websocket(Some("bob")).await, (200, "red /chat".into()));
    let (status, body) = websocket(Some("alice")).await;
    assert_eq!(status, 502);
    assert!(body.contains("does not take extended CONNECT"), "{body}");
}

/// Reads to the end.
async fn all(socket: &mut TcpStream) -> Vec<u8> {
    let mut got = Vec::new();
    soon(socket.read_to_end(&mut got)).await.unwrap();
    got
}

async fn exactly(socket: &mut TcpStream, expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    soon(socket.read_exact(&mut got)).await.unwrap();
    assert_eq!(got.escape_ascii().to_string(), expected.escape_ascii().to_string());
}

/// An app that the test itself plays, and a filter.
async fn played() -> (Rig, TcpListener, Developer) {
    let mut rig = Rig::new().await;
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    rig.app.address = app.local_addr().unwrap();
    let alice = Developer::new(1, "blue", Behaviour::Serve).await;
    rig.plan(&[("alice", &alice)], None);
    (rig, app, alice)
}

/// What a client sends with its preface.
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

#[tokio::test]
async fn an_app_without_http2_is_left_alone_with_what_the_client_said() {
    let (rig, listener, _alice) = played().await;
    let mut client = rig.client().await;
    let said = [&PREFACE[..], &SETTINGS, b"anything"].concat();
    client.send(&said).await;
    let (mut app, _) = soon(listener.accept()).await.unwrap();
    // Nothing but the preface before the app has answered.
    exactly(&mut app, PREFACE).await;
    app.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    exactly(&mut app, &said[PREFACE.len()..]).await;
    client.send(b"more").await;
    exactly(&mut app, b"more").await;
    app.shutdown().await.unwrap();
    assert_eq!(client.rest().await, b"HTTP/1.1 400 Bad Request\r\n\r\n");
    let access = client.done().await;
    assert_eq!(access.opaque, Some("http2"));
}

#[tokio::test]
async fn what_only_begins_like_a_preface_goes_on_as_it_came() {
    for said in
        [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rx"[..], b"PRI /x HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\nhost: x\r\n\r\n"]
    {
        let (rig, listener, _alice) = played().await;
        let mut client = rig.client().await;
        for byte in said {
            client.send([*byte]).await;
        }
        let (mut app, _) = soon(listener.accept()).await.unwrap();
        exactly(&mut app, said).await;
        app.write_all(b"what?").await.unwrap();
        drop(app);
        assert_eq!(client.rest().await, b"what?");
        assert_eq!(client.done().await.opaque, Some("http2"));
    }
}

#[tokio::test]
async fn an_app_that_closes_on_a_preface_closes_the_client() {
    let (rig, listener, _alice) = played().await;
    let mut client = rig.client().await;
    client.send(PREFACE).await;
    let (mut app, _) = soon(listener.accept()).await.unwrap();
    exactly(&mut app, PREFACE).await;
    drop(app);
    assert_eq!(client.rest().await, b"");
    client.done().await;
}

#[tokio::test]
async fn a_client_that_ends_inside_its_preface_ends_there() {
    let (rig, listener, _alice) = played().await;
    let mut client = rig.client().await;
    client.send(&PREFACE[..10]).await;
    client.socket.shutdown().await.unwrap();
    let (mut app, _) = soon(listener.accept()).await.unwrap();
    assert_eq!(all(&mut app).await, PREFACE[..10]);
    drop(app);
    client.done().await;
}

#[tokio::test]
async fn an_app_that_sends_its_settings_first_is_waited_for_and_so_is_the_client() {
    let (rig, _app, _blue, _alice) = world().await;
    // The h2 crate's server speaks as soon as it is connected: the client comes late.
    let late = rig.client().await;
    // So that the agent hears the app: it runs when this task does not.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let (requests, connection) = client::handshake(late.socket).await.unwrap();
    let mut client = Client { requests, connection: tokio::spawn(connection), served: late.served };
    assert_eq!(client.ask("/a", Some("alice")).await.1, "blue /a");
    assert_eq!(client.ask("/a", None).await.1, "green /a");
    client.done().await;

    // A client that waits for such bytes is no HTTP/2 client, and the app none that speaks it.
    let (rig, listener, _alice) = played().await;
    let mut client = rig.client().await;
    let (mut app, _) = soon(listener.accept()).await.unwrap();
    app.write_all(&SETTINGS).await.unwrap();
    exactly(&mut client.socket, &SETTINGS).await;
    client.send(b"hello").await;
    exactly(&mut app, b"hello").await;
    drop(app);
    client.rest().await;
    assert_eq!(client.done().await.opaque, Some("server_first"));
}

#[tokio::test]
async fn an_app_that_waits_for_the_clients_settings_gets_the_agents() {
    let (rig, listener, _alice) = played().await;
    let mut client = rig.client().await;
    client.send([&PREFACE[..], &SETTINGS].concat()).await;
    let (mut app, _) = soon(listener.accept()).await.unwrap();
    exactly(&mut app, PREFACE).await;
    let mut head = [0; 9];
    soon(app.read_exact(&mut head)).await.unwrap();
    assert_eq!(head[3..], [4, 0, 0, 0, 0, 0]);
    app.write_all(&SETTINGS).await.unwrap();
    let mut answered = [0; 9];
    soon(client.socket.read_exact(&mut answered)).await.unwrap();
    assert_eq!(answered[3..], [4, 0, 0, 0, 0, 0]);
    drop(client.socket);
    soon(client.served).await.unwrap();
}

#[tokio::test]
async fn without_a_filter_nothing_is_taken_apart() {
    let (rig, listener, _alice) = played().await;
    rig.no_plan();
    let mut client = rig.client().await;
    client.send([&PREFACE[..], &SETTINGS].concat()).await;
    let (mut app, _) = soon(listener.accept()).await.unwrap();
    exactly(&mut app, &[&PREFACE[..], &SETTINGS].concat()).await;
    drop(app);
    client.rest().await;
    assert_eq!(client.done().await.opaque, Some("http2"));
}
