//! `/healthz`, `/readyz` and `/metrics` on the loopback admin address.
//!
//! Must not be reachable from other machines (the configuration refuses such an address) and must not slow the data
//! path: few connections, each with a deadline. Nobody shuts the kubelet's probe out, without whose answer it ends the agent:
//! a newcomer takes the place of the oldest connection on which nothing is being answered. Called by `worker::run`.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Bytes, header, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpListener,
    task::{AbortHandle, JoinSet},
    time::{Instant, timeout},
};

/// Connections served at once: a scraper, a prober and a person.
pub(crate) const CONNECTIONS: usize = 16;
/// A connection ends after this, whatever it does.
const DEADLINE: Duration = Duration::from_secs(30);
/// A head that takes longer is not waited for.
const HEAD_DEADLINE: Duration = Duration::from_secs(5);
/// A pause after an accept that failed, so that exhausted file descriptors are no busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// The controller says something each five seconds.
const CONTROLLER_SILENCE: Duration = Duration::from_secs(15);
const PLAIN: &str = "text/plain; charset=utf-8";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether the agent is ready: its tunnel endpoint listens and its configuration is loaded.
#[derive(Clone, Debug, Default)]
pub(crate) struct AgentReadiness(Arc<ReadinessState>);

#[derive(Debug, Default)]
struct ReadinessState {
    ready: AtomicBool,
    elsewhere: Mutex<LastControllerReport>,
}

/// What the controller has said, and when.
#[derive(Clone, Copy, Debug, Default)]
struct LastControllerReport {
    /// When the controller was last heard; `None`: there is none, or not yet.
    controller: Option<Instant>,
    /// Since when it does not hear the API server.
    silent_since: Option<Instant>,
}

impl AgentReadiness {
    /// Sets what `/readyz` answers.
    pub(crate) fn set(&self, ready: bool) {
        self.0.ready.store(ready, Ordering::Relaxed);
    }

    /// The controller has said something.
    pub(crate) fn controller_is_heard(&self) {
        self.elsewhere().controller = Some(Instant::now());
    }

    /// Whether it has said something a short time ago.
    pub(crate) fn hears_controller(&self) -> bool {
        self.elsewhere().controller.is_some_and(|heard| heard.elapsed() < CONTROLLER_SILENCE)
    }

    /// Says for how long the API server has not been heard; `None`: it is. The agent stays as ready as it is, since what is known
    /// stays in force: a rollout must not end, nor an agent be taken for broken, because the API server is away.
    pub(crate) fn set_api_server_silent_since(&self, silent: Option<Duration>) {
        self.elsewhere().silent_since = silent.and_then(|silent| Instant::now().checked_sub(silent));
    }

    fn elsewhere(&self) -> MutexGuard<'_, LastControllerReport> {
        self.0.elsewhere.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `/readyz`.
    fn answer(&self) -> (StatusCode, String) {
        let (status, mut text) = match self.0.ready.load(Ordering::Relaxed) {
            true => (StatusCode::OK, "ready\n".to_owned()),
            false => (StatusCode::SERVICE_UNAVAILABLE, "not ready: starting or shutting down\n".to_owned()),
        };
        let LastControllerReport { controller, silent_since } = *self.elsewhere();
        if let Some(silent) = controller.map(|heard| heard.elapsed()).filter(|silent| *silent >= CONTROLLER_SILENCE) {
            let seconds = silent.as_secs();
            text.push_str(&format!(
                "the agent's controller has not been heard for {seconds} s and is started again; what is known stays in force\n"
            ));
        } else if let Some(since) = silent_since {
            let seconds = since.elapsed().as_secs();
            text.push_str(&format!(
                "the API server has not been heard for {seconds} s; what is known stays in force\n"
            ));
        }
        (status, text)
    }
}

/// The listener of the admin address; not of a runtime yet, since the worker may not listen any more once it has one.
pub(crate) fn bind(address: SocketAddr) -> anyhow::Result<std::net::TcpListener> {
    let bound =
        std::net::TcpListener::bind(address).and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
    bound.with_context(|| {
        format!(
            "listen on {address} for /metrics: choose another address for agent.admin, or end the program that has it"
        )
    })
}

/// Serves until it is dropped; `scrape` makes the text of `/metrics`.
pub(crate) async fn serve<S, T>(listener: TcpListener, readiness: AgentReadiness, scrape: S)
where
    S: Fn() -> T + Clone + Send + Sync + 'static,
    T: Future<Output = Result<String, std::fmt::Error>> + Send,
{
    let (mut connections, mut places) = (JoinSet::new(), AdminConnections::default());
    loop {
        while connections.try_join_next().is_some() {}
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                tracing::warn!(%error, "could not accept an admin connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        places.make_room();
        let (readiness, scrape) = (readiness.clone(), scrape.clone());
        let answering = Arc::new(AtomicBool::new(false));
        let busy = answering.clone();
        let connection = connections.spawn(async move {
            let service = service_fn(|request| async {
                busy.store(true, Ordering::Relaxed);
                let answer = answer(request, &readiness, &scrape).await;
                busy.store(false, Ordering::Relaxed);
                answer
            });
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(HEAD_DEADLINE).max_buf_size(16 * 1024);
            if let Ok(Err(error)) = timeout(DEADLINE, server.serve_connection(TokioIo::new(socket), service)).await {
                tracing::debug!(%error, "an admin connection ended badly");
            }
        });
        places.0.push(AdminConnection { connection, answering });
    }
}

/// The connections that are served, the oldest first.
#[derive(Default)]
struct AdminConnections(Vec<AdminConnection>);

struct AdminConnection {
    connection: AbortHandle,
    /// A request is whole and its answer is being made.
    answering: Arc<AtomicBool>,
}

impl AdminConnections {
    /// Leaves room for one more connection.
    fn make_room(&mut self) {
        self.0.retain(|place| !place.connection.is_finished());
        if self.0.len() < CONNECTIONS {
            return;
        }
        let idle = self.0.iter().position(|place| !place.answering.load(Ordering::Relaxed));
        // Whoever has begun last is the likeliest to be there still.
        self.0.remove(idle.unwrap_or(0)).connection.abort();
    }
}

async fn answer<S, T, B>(
    request: Request<B>,
    readiness: &AgentReadiness,
    scrape: &S,
) -> Result<Response<Full<Bytes>>, Infallible>
where
    S: Fn() -> T,
    T: Future<Output = Result<String, std::fmt::Error>>,
{
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return Ok(text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n"));
    }
    Ok(match request.uri().path() {
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" => {
            let (status, body) = readiness.answer();
            typed(status, body, PLAIN)
        }
        "/metrics" => match scrape().await {
            Ok(metrics) => typed(StatusCode::OK, metrics, OPENMETRICS),
            Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be encoded\n"),
        },
        _ => text(StatusCode::NOT_FOUND, "there is /healthz, /readyz and /metrics\n"),
    })
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    typed(status, body, PLAIN)
}

fn typed(status: StatusCode, body: impl Into<Bytes>, kind: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;

    async fn ask(address: SocketAddr, path: &str) -> String {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket
            .write_all(format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn answers_health_readiness_and_metrics() {
        let listener = TcpListener::from_std(bind("127.0.0.1:0".parse().unwrap()).unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let readiness = AgentReadiness::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, readiness.clone(), || async { Ok("figures\n".to_owned()) }));

        assert!(ask(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(ask(address, "/readyz").await.starts_with("HTTP/1.1 503"));
        readiness.set(true);
        assert!(ask(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        readiness.set_api_server_silent_since(Some(Duration::ZERO));
        let silent = ask(address, "/readyz").await;
        assert!(silent.starts_with("HTTP/1.1 200") && silent.contains("has not been heard for 0 s"), "{silent}");
        readiness.set_api_server_silent_since(None);
        assert!(ask(address, "/readyz").await.ends_with("\r\n\r\nready\n"));
        assert!(ask(address, "/metrics").await.ends_with("figures\n"));
        assert!(ask(address, "/other").await.starts_with("HTTP/1.1 404"));
    }

    #[tokio::test]
    async fn a_taken_address_is_told_with_the_next_step() {
        let taken = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let error = bind(taken.local_addr().unwrap()).unwrap_err();
        assert!(error.to_string().contains("choose another address for agent.admin"));
    }

    /// Whether the other end has closed it.
    async fn is_closed(socket: &mut TcpStream) -> bool {
        let mut byte = [0];
        !matches!(timeout(Duration::ZERO, socket.read(&mut byte)).await, Err(_) | Ok(Ok(1..)))
    }

    #[tokio::test]
    async fn half_requests_do_not_keep_a_probe_from_its_answer() {
        let listener = TcpListener::from_std(bind("127.0.0.1:0".parse().unwrap()).unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, AgentReadiness::default(), std::future::pending));
        // The answer to one is being made.
        let mut scraper = TcpStream::connect(address).await.unwrap();
        scraper.write_all(b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut held = Vec::new();
        for _ in 0..48 {
            let mut half = TcpStream::connect(address).await.unwrap();
            half.write_all(b"GET /healthz HTTP/1.1\r\nhost:").await.unwrap();
            held.push(half);
        }
        let began = Instant::now();
        for _ in 0..4 {
            assert!(timeout(HEAD_DEADLINE, ask(address, "/healthz")).await.unwrap().starts_with("HTTP/1.1 200"));
        }
        // The kubelet's own deadline is a second; this machine may be busy.
        assert!(began.elapsed() < HEAD_DEADLINE - Duration::from_secs(1), "{:?}", began.elapsed());
        assert!(is_closed(&mut held[0]).await, "the oldest made room");
        assert!(!is_closed(&mut scraper).await, "an answer that is being made is waited for");
    }
}
