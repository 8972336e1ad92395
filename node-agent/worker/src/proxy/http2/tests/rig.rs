//! A client and an app, both of the h2 crate, at the ends of in-memory pipes, with the served connection between them.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use h2::{
    RecvStream, SendStream,
    client::{self, ResponseFuture, SendRequest},
    server::{self, SendResponse},
};
use http::{HeaderMap, Request, Response};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::mpsc,
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::super::{AppIo, Ended, First, preface::PREFACE, serve_from};
use crate::{
    access::Access,
    metrics::Metrics,
    proxy::{Shutdown, route::Route},
};
use redir_config::PodName;

/// Longer than anything here takes, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// What a pipe holds, as a socket would.
const PIPE: usize = 64 * 1024;

/// A result that must come in time.
pub(super) async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("in time")
}

/// What the app is asked, and how it answers.
pub(super) type Arrived = (Request<RecvStream>, SendResponse<Bytes>);

/// The two ends of a served connection, raw.
pub(super) struct Pipes {
    pub(super) client: DuplexStream,
    pub(super) app: DuplexStream,
    pub(super) draining: CancellationToken,
    pub(super) abort: CancellationToken,
    pub(super) served: JoinHandle<Ended>,
}

impl Pipes {
    /// Serves a connection whose client has sent its preface, and nothing else.
    pub(super) async fn new() -> Self {
        let (mut client, mut ours) = duplex(PIPE);
        let (app, mut to_app) = duplex(PIPE);
        client.write_all(PREFACE).await.unwrap();
        ours.read_exact(&mut [0; PREFACE.len()]).await.unwrap();
        to_app.write_all(PREFACE).await.unwrap();
        let (draining, abort) = (CancellationToken::new(), CancellationToken::new());
        let shutdown = Shutdown { draining: draining.clone(), abort: abort.clone() };
        let served = tokio::spawn(async move {
            let peer = SocketAddr::from(([192, 0, 2, 1], 4000));
            let route = Route::for_test(peer);
            let mut access = Access::open(&PodName::new("web-1").unwrap(), 8080, peer, &Arc::new(Metrics::new()));
            let first = First::App(to_app, Bytes::new());
            serve_from(ours, Bytes::from_static(PREFACE), first, &route, &shutdown, &mut access).await
        });
        Pipes { client, app, draining, abort, served }
    }
}

/// Nothing dials the app here: it is there already.
impl From<AppIo> for DuplexStream {
    fn from(_: AppIo) -> Self {
        unreachable!("the route of these tests leads nowhere")
    }
}

/// A served connection between a client and an app that speak HTTP/2.
pub(super) struct Rig {
    pub(super) requests: SendRequest<Bytes>,
    pub(super) arrived: mpsc::Receiver<Arrived>,
    pub(super) app: mpsc::Sender<Order>,
    pub(super) draining: CancellationToken,
    pub(super) abort: CancellationToken,
    pub(super) served: JoinHandle<Ended>,
    /// The client's and the app's connections, and how they end.
    pub(super) client: JoinHandle<Result<(), h2::Error>>,
    pub(super) _tasks: JoinSet<()>,
}

/// What the app's connection does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    /// GOAWAY, and what is under way goes on.
    Graceful,
    /// GOAWAY with this code, at once.
    Abrupt(h2::Reason),
    /// Nothing is said.
    Vanish,
}

impl Rig {
    pub(super) async fn new() -> Self {
        Self::with(client::Builder::new(), server::Builder::new()).await
    }

    /// With what client and app announce.
    pub(super) async fn with(client: client::Builder, app: server::Builder) -> Self {
        let pipes = Pipes::new().await;
        let mut tasks = JoinSet::new();
        let (arrivals, arrived) = mpsc::channel(1024);
        let (orders, mut ordered) = mpsc::channel(4);
        tasks.spawn(async move {
            let mut connection = app.handshake::<_, Bytes>(pipes.app).await.unwrap();
            loop {
                tokio::select! {
                    request = connection.accept() => match request {
                        Some(Ok(request)) => arrivals.send(request).await.unwrap(),
                        Some(Err(_)) | None => return,
                    },
                    Some(order) = ordered.recv() => match order {
                        Order::Graceful => connection.graceful_shutdown(),
                        Order::Abrupt(reason) => connection.abrupt_shutdown(reason),
                        Order::Vanish => return,
                    },
                }
            }
        });
        let swallowed = Swallowed::new(pipes.client);
        let (requests, connection) = soon(client.handshake(swallowed)).await.unwrap();
        Rig {
            requests,
            arrived,
            app: orders,
            draining: pipes.draining,
            abort: pipes.abort,
            served: pipes.served,
            client: tokio::spawn(connection),
            _tasks: tasks,
        }
    }

    /// Sends a request's head.
    pub(super) async fn ask(
        &mut self,
        request: http::request::Builder,
        ends: bool,
    ) -> (ResponseFuture, SendStream<Bytes>) {
        let mut requests = soon(self.requests.clone().ready()).await.unwrap();
        requests.send_request(request.body(()).unwrap(), ends).unwrap()
    }

    /// What the app gets next.
    pub(super) async fn arrival(&mut self) -> Arrived {
        soon(self.arrived.recv()).await.expect("the app is there")
    }

    /// Waits until the client's connection takes no new requests, since it has heard; why.
    pub(super) async fn refused(&self) -> h2::Error {
        soon(async {
            loop {
                match self.requests.clone().ready().await {
                    Ok(_) => tokio::task::yield_now().await,
                    Err(error) => return error,
                }
            }
        })
        .await
    }

    /// A GET that the app answers with its path.
    pub(super) async fn works(&mut self, path: &str) {
        let (response, _) = self.ask(get(path), true).await;
        let (request, mut respond) = self.arrival().await;
        assert_eq!(request.uri().path(), path);
        let mut body = respond.send_response(Response::new(()), false).unwrap();
        body.send_data(path.to_owned().into(), true).unwrap();
        let (_, body, _) = whole(response).await;
        assert_eq!(body, path.as_bytes());
    }
}

/// The preface was sent already.
struct Swallowed {
    pipe: DuplexStream,
    left: usize,
}

impl Swallowed {
    fn new(pipe: DuplexStream) -> Self {
        Swallowed { pipe, left: PREFACE.len() }
    }
}

impl tokio::io::AsyncRead for Swallowed {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.pipe).poll_read(cx, buf)
    }
}

impl tokio::io::AsyncWrite for Swallowed {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        if self.left > 0 {
            let count = self.left.min(bytes.len());
            self.left -= count;
            return std::task::Poll::Ready(Ok(count));
        }
        std::pin::Pin::new(&mut self.pipe).poll_write(cx, bytes)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}

/// `GET http://web/…`
pub(super) fn get(path: &str) -> http::request::Builder {
    Request::get(format!("http://web{path}"))
}

/// `POST http://web/…`
pub(super) fn post(path: &str) -> http::request::Builder {
    Request::post(format!("http://web{path}"))
}

/// A whole answer: head, body, trailers.
pub(super) async fn whole(response: ResponseFuture) -> (http::response::Parts, Vec<u8>, Option<HeaderMap>) {
    let (head, body) = soon(response).await.unwrap().into_parts();
    let (body, trailers) = rest(body).await.unwrap();
    (head, body, trailers)
}

/// A whole body and its trailers.
pub(super) async fn rest(mut body: RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut bytes = Vec::new();
    while let Some(piece) = soon(body.data()).await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len()).unwrap();
        bytes.extend_from_slice(&piece);
    }
    Ok((bytes, soon(body.trailers()).await?))
}

/// Sends a body as there is room for it.
pub(super) async fn pour(to: &mut SendStream<Bytes>, mut bytes: Bytes, ends: bool) {
    while !bytes.is_empty() {
        to.reserve_capacity(bytes.len());
        let room = soon(std::future::poll_fn(|cx| to.poll_capacity(cx))).await.expect("open").unwrap();
        let piece = bytes.split_to(room.min(bytes.len()));
        to.send_data(piece, ends && bytes.is_empty()).unwrap();
    }
}
