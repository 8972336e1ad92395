//! Streams that a developer's service has not begun with are sent to it again, on a new leg.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use h2::Reason;
use http::Method;
use redir_rig::http2::{DATA, END_STREAM, HEADERS, SETTINGS, frame};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::{
    http2::{Client, Service, answer},
    rig::{Developer, Rig, soon},
};
use crate::proxy::http2::preface::PREFACE;

/// What a service does with the second stream of its first connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Second {
    /// GOAWAY that leaves it out, and the end.
    GoAway,
    /// REFUSED_STREAM.
    Refused,
    /// The end alone, as a service that crashes or has lost its patience.
    Close,
}

const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;

/// A service that speaks frames: it answers each whole stream with its body, but the second of its first `bad` connections.
struct Frames {
    address: std::net::SocketAddr,
    connections: Arc<AtomicUsize>,
    _task: JoinSet<()>,
}

impl Frames {
    async fn start(second: Second, bad: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, mut task) = (Arc::<AtomicUsize>::default(), JoinSet::new());
        let counted = connections.clone();
        task.spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let number = counted.fetch_add(1, Ordering::Relaxed);
                open.spawn(talk(socket, (number < bad).then_some(second)));
            }
        });
        Frames { address, connections, _task: task }
    }
}

async fn talk(mut socket: TcpStream, second: Option<Second>) {
    let mut preface = [0; PREFACE.len()];
    socket.read_exact(&mut preface).await.unwrap();
    socket.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    let (mut body, mut streams) = (Vec::new(), 0);
    loop {
        let mut head = [0; 9];
        if socket.read_exact(&mut head).await.is_err() {
            return;
        }
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        socket.read_exact(&mut payload).await.unwrap();
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        match head[3] {
            HEADERS => streams += 1,
            DATA => body.extend_from_slice(&payload),
            _ => continue,
        }
        if head[4] & END_STREAM == 0 {
            continue;
        }
        match second.filter(|_| streams == 2) {
            Some(Second::GoAway) => {
                let last = [(stream - 2).to_be_bytes(), [0; 4]].concat();
                socket.write_all(&frame(GOAWAY, 0, 0, &last)).await.unwrap();
                return;
            }
            Some(Second::Refused) => {
                socket.write_all(&frame(RST_STREAM, 0, stream, &7_u32.to_be_bytes())).await.unwrap();
            }
            Some(Second::Close) => return,
            None => {
                let answer = [frame(HEADERS, 4, stream, &[0x88]), frame(DATA, END_STREAM, stream, &body)].concat();
                socket.write_all(&answer).await.unwrap();
            }
        }
        body.clear();
    }
}

async fn world(second: Second, bad: usize) -> (Rig, Service, Frames, Developer) {
    let mut rig = Rig::new().await;
    let (app, blue) = (Service::start("green").await, Frames::start(second, bad).await);
    rig.app.address = app.address;
    let alice = Developer::at(1, blue.address).await;
    rig.plan(&[("alice", &alice)], None);
    (rig, app, blue, alice)
}

/// A POST with this body, in two pieces.
async fn post(client: &mut Client, body: &'static [u8]) -> Result<(u16, String), h2::Error> {
    let request = Client::request("/s/m", Some("alice")).method(Method::POST);
    let (response, mut up) = client.send(request, false).await;
    let (first, second) = body.split_at(body.len() / 2);
    up.send_data(first.into(), false).unwrap();
    up.send_data(second.into(), true).unwrap();
    let response = soon(response).await?;
    Ok(answer_of(response).await)
}

async fn answer_of(response: http::Response<h2::RecvStream>) -> (u16, String) {
    let (head, mut body) = response.into_parts();
    let mut text = Vec::new();
    while let Some(bytes) = soon(body.data()).await {
        text.extend_from_slice(&bytes.unwrap());
    }
    (head.status.as_u16(), String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn a_stream_that_was_not_begun_with_is_sent_again_with_its_body() {
    for second in [Second::GoAway, Second::Refused] {
        let (rig, app, blue, alice) = world(second, 1).await;
        let mut client = Client::new(&rig).await;
        for body in [&b"first"[..], b"second", b"third"] {
            let expected = (200, String::from_utf8(body.to_vec()).unwrap());
            assert_eq!(post(&mut client, body).await.unwrap(), expected, "{second:?}");
        }
        assert_eq!(blue.connections.load(Ordering::Relaxed), 2, "{second:?}");
        let access = client.done().await;
        assert_eq!((access.app_requests, access.developer_requests), (0, 3));
        assert_eq!(alice.intercept.requests.load(Ordering::Relaxed), 3, "one event for each request");
        assert!(app.seen().is_empty() && rig.metrics.requests_refused.get() == 0);
    }
}

#[tokio::test]
async fn a_service_that_refuses_again_and_again_is_believed() {
    // Each connection refuses its second stream; so the second request fails on the first leg, and then is a first one.
    let (rig, _app, blue, _alice) = world(Second::GoAway, usize::MAX).await;
    let mut client = Client::new(&rig).await;
    for body in [&b"one"[..], b"two", b"three", b"four"] {
        assert_eq!(post(&mut client, body).await.unwrap().0, 200);
    }
    assert_eq!(blue.connections.load(Ordering::Relaxed), 4);
    client.done().await;
    // And one that refuses each stream.
    let mut rig = Rig::new().await;
    let app = Service::start("green").await;
    rig.app.address = app.address;
    let refuses = Refuses::start().await;
    let alice = Developer::at(1, refuses.address).await;
    rig.plan(&[("alice", &alice)], None);
    let mut client = Client::new(&rig).await;
    let error = post(&mut client, b"never").await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::REFUSED_STREAM));
    assert_eq!(refuses.streams.load(Ordering::Relaxed), 3);
    client.done().await;
}

/// Refuses every stream.
struct Refuses {
    address: std::net::SocketAddr,
    streams: Arc<AtomicUsize>,
    _task: JoinSet<()>,
}

impl Refuses {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (streams, mut task) = (Arc::<AtomicUsize>::default(), JoinSet::new());
        let counted = streams.clone();
        task.spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let counted = counted.clone();
                open.spawn(async move {
                    let mut connection = h2::server::handshake(socket).await.unwrap();
                    while let Some(Ok((_, mut respond))) = connection.accept().await {
                        counted.fetch_add(1, Ordering::Relaxed);
                        respond.send_reset(Reason::REFUSED_STREAM);
                    }
                });
            }
        });
        Refuses { address, streams, _task: task }
    }
}

#[tokio::test]
async fn a_connection_that_just_ended_is_repeated_where_that_changes_nothing() {
    let (rig, app, blue, _alice) = world(Second::Close, 1).await;
    let mut client = Client::new(&rig).await;
    assert_eq!(client.ask("/", Some("alice")).await, (200, String::new()));
    assert_eq!(client.ask("/", Some("alice")).await, (200, String::new()));
    assert_eq!(blue.connections.load(Ordering::Relaxed), 2);
    client.done().await;
    // It may have begun with a POST.
    let (rig, _app, blue, _alice) = world(Second::Close, 1).await;
    let mut client = Client::new(&rig).await;
    assert_eq!(post(&mut client, b"one").await.unwrap().0, 200);
    let (status, text) = post(&mut client, b"two").await.unwrap();
    assert_eq!(status, 502, "{text}");
    assert_eq!(blue.connections.load(Ordering::Relaxed), 1);
    client.done().await;
    assert!(app.seen().is_empty());
}

/// The intercept ends meanwhile: what has an effect is not sent to the app after the developer may have had it.
#[tokio::test]
async fn what_a_developer_may_have_begun_with_is_the_apps_only_where_that_changes_nothing() {
    for (method, expected) in [(Method::GET, Ok(200)), (Method::DELETE, Err(Some(Reason::INTERNAL_ERROR)))] {
        let mut rig = Rig::new().await;
        let (app, service) = (Service::start("green").await, TcpListener::bind("127.0.0.1:0").await.unwrap());
        rig.app.address = app.address;
        let alice = Developer::at(1, service.local_addr().unwrap()).await;
        rig.plan(&[("alice", &alice)], None);
        let mut client = Client::new(&rig).await;
        let ask = || Client::request("/a", Some("alice")).method(method.clone());
        let (first, _) = client.send(ask(), true).await;
        let (socket, _) = soon(service.accept()).await.unwrap();
        let mut blue = soon(h2::server::handshake(socket)).await.unwrap();
        let (_, mut respond) = soon(blue.accept()).await.unwrap().unwrap();
        respond.send_response(http::Response::new(()), true).unwrap();
        let (second, _) = tokio::select! {
            first = soon(first) => {
                assert_eq!(first.unwrap().status(), 200);
                client.send(ask(), true).await
            }
            _ = blue.accept() => panic!("there is no second request yet"),
        };
        let _second = soon(blue.accept()).await.unwrap().unwrap();
        rig.no_plan();
        drop(blue);
        let got = soon(second).await.map(|answer| answer.status().as_u16()).map_err(|error| error.reason());
        assert_eq!(got, expected, "{method}");
        assert_eq!(app.seen().len(), usize::from(expected.is_ok()));
        client.done().await;
    }
}

/// The kubelet's gRPC probes, by the user agent of its library.
#[tokio::test]
async fn a_global_intercept_leaves_probes_to_the_app() {
    let mut rig = Rig::new().await;
    let (app, blue) = (Service::start("green").await, Service::start("blue").await);
    rig.app.address = app.address;
    let alice = Developer::at(1, blue.address).await;
    rig.plan(&[], Some(&alice));
    let mut client = Client::new(&rig).await;
    assert_eq!(client.ask("/a", None).await, (200, "blue /a".into()));
    let probe =
        Client::request("/grpc.health.v1.Health/Check", None).header("user-agent", "kube-probe/1.30 grpc-go/1.60");
    let (response, _) = client.send(probe, true).await;
    assert_eq!(answer(response).await, (200, "green /grpc.health.v1.Health/Check".into()));
    assert_eq!(client.ask("/b", Some("bob")).await, (200, "blue /b".into()));
    let access = client.done().await;
    assert_eq!((access.app_requests, access.developer_requests), (1, 2));
    assert_eq!(app.seen(), ["/grpc.health.v1.Health/Check"]);
    assert_eq!(blue.seen(), ["/a", "/b"]);
}
