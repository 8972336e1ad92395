//! The API server, by whichever of its addresses answers.
//!
//! Owns: the addresses, of which the Service's cluster IP is only one, since kube-proxy may follow a server that comes back
//! half a minute late; and whether the server is heard. Must not know what is asked. Called by: `driver`, and as the client
//! of everything that asks.

use std::{
    error::Error as _,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use http::{Request, Response, StatusCode, Uri};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, Client, Config, client::Body};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::jitter::jittered;
use crate::worker::admin::Readiness;

/// Cheap to clone; a service for [`Client::new`].
#[derive(Clone)]
pub(super) struct ApiServer(Arc<Inner>);

struct Inner {
    base: Config,
    servers: Mutex<Servers>,
    contact: watch::Sender<Contact>,
    readiness: Readiness,
}

/// The addresses.
struct Servers {
    /// Those that were given: these stay.
    given: usize,
    all: Vec<Server>,
    /// The one that answered last, which is asked first.
    first: usize,
}

#[derive(Clone)]
struct Server {
    url: Uri,
    client: Client,
}

/// Whether the API server is heard: it has answered the last call, and not that it is not able to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Contact {
    heard: bool,
    since: Instant,
    /// How often it has been heard after it was not.
    returns: u64,
}

impl ApiServer {
    /// `base` says how to reach it, `named` is an address that comes before.
    pub(super) fn new(base: Config, named: Option<&Uri>, readiness: Readiness) -> kube::Result<Self> {
        let mut base = base;
        base.connect_timeout = Some(CONNECT);
        base.read_timeout = Some(READ);
        // It waits ever longer inside of a call, whatever has happened meanwhile.
        base.default_retry = false;
        let mut all = Vec::new();
        if let Some(named) = named {
            all.push(Server::by_address(&base, named.clone())?);
        }
        all.push(Server { url: base.cluster_url.clone(), client: Client::try_from(base.clone())? });
        let servers = Mutex::new(Servers { given: all.len(), all, first: 0 });
        let contact = watch::Sender::new(Contact { heard: false, since: Instant::now(), returns: 0 });
        readiness.set_api_server_silent_since(Some(Instant::now()));
        Ok(Self(Arc::new(Inner { base, servers, contact, readiness })))
    }

    /// A client that asks here. Each has a task of its own: clone it.
    pub(super) fn client(&self) -> Client {
        Client::new(self.clone(), self.0.base.default_namespace.clone())
    }

    pub(super) fn is_heard(&self) -> bool {
        self.0.contact.borrow().heard
    }

    /// How often it has been heard after it was not: whoever counted tries before begins anew.
    pub(super) fn returns(&self) -> u64 {
        self.0.contact.borrow().returns
    }

    /// Waits until it is heard after it was not; for ever while it is.
    pub(super) async fn heard_again(&self) {
        let mut contact = self.0.contact.subscribe();
        let was_heard = contact.borrow_and_update().heard;
        let mut silent = !was_heard;
        // The sender is this one's own.
        while contact.changed().await.is_ok() {
            let heard = contact.borrow_and_update().heard;
            if silent && heard {
                return;
            }
            silent = !heard;
        }
    }

    /// Asks, while it is not heard, whether it is there: whoever waits for it waits no longer than for this.
    pub(super) async fn look_for(self) {
        let mut contact = self.0.contact.subscribe();
        loop {
            let Contact { heard, since, .. } = *contact.borrow_and_update();
            if heard {
                if contact.changed().await.is_err() {
                    return;
                }
                continue;
            }
            sleep(jittered(FIRST_LOOK + since.elapsed() / LOOK_SHARE).min(LONGEST_LOOK)).await;
            if !self.is_heard() {
                self.look().await;
            }
        }
    }

    /// One question to every address at once.
    async fn look(&self) {
        let servers = self.servers().all.clone();
        let ask = |(index, server): (usize, Server)| async move {
            let request = Request::get("/readyz").body(Body::empty()).ok()?;
            let answer = timeout(LOOK, server.client.send(request)).await.ok()?.ok()?;
            answers(answer.status()).then_some((index, server.url))
        };
        let mut asked: FuturesUnordered<_> = servers.into_iter().enumerate().map(ask).collect();
        while let Some(answer) = asked.next().await {
            if let Some((index, url)) = answer {
                self.prefer(index, &url);
                self.note(None);
                return;
            }
        }
    }

    /// Keeps the server's own addresses up to date, as far as the agent may read them.
    pub(super) async fn follow_addresses(self, client: Client) {
        let api = Api::<EndpointSlice>::namespaced(client, NAMESPACE);
        loop {
            match timeout(LOOK, api.get(SERVICE)).await {
                Ok(Ok(slice)) => self.learn(addresses(&slice)),
                Ok(Err(error)) => tracing::debug!(%error, "the API server's own addresses cannot be read"),
                Err(_) => tracing::debug!("the API server does not tell its own addresses"),
            }
            tokio::select! {
                () = sleep(jittered(ADDRESSES)) => {}
                () = self.heard_again() => {}
            }
        }
    }

    /// Takes the addresses in place of those that were read before. A server that ends takes itself out of the list: an empty
    /// one says nothing.
    fn learn(&self, urls: Vec<Uri>) {
        if urls.is_empty() {
            return;
        }
        let mut servers = self.servers();
        let given = servers.given;
        if servers.all[given..].iter().map(|server| &server.url).eq(&urls) {
            return;
        }
        let first = servers.all[servers.first].url.clone();
        let known = servers.all.split_off(given);
        for url in urls {
            let known = known.iter().find(|server| server.url == url).cloned();
            match known.map_or_else(|| Server::by_address(&self.0.base, url), Ok) {
                Ok(server) => servers.all.push(server),
                Err(error) => tracing::warn!(%error, "an address of the API server cannot be used"),
            }
        }
        servers.first = servers.all.iter().position(|server| server.url == first).unwrap_or(0);
        tracing::info!(addresses = ?servers.all.iter().map(|server| server.url.to_string()).collect::<Vec<_>>(), "the API server's addresses");
    }

    fn prefer(&self, index: usize, url: &Uri) {
        let mut servers = self.servers();
        if servers.first != index && servers.all.get(index).is_some_and(|server| server.url == *url) {
            servers.first = index;
            tracing::info!(address = %url, "the API server is asked at another of its addresses");
        }
    }

    /// Asks at each address until there is a connection: nothing was sent where there is none.
    async fn ask(self, request: Request<Body>) -> kube::Result<Response<Body>> {
        let (servers, first) = {
            let servers = self.servers();
            (servers.all.clone(), servers.first)
        };
        let (parts, body) = request.into_parts();
        let mut body = Some(body);
        let mut result = None;
        for turn in 0..servers.len() {
            let index = (first + turn) % servers.len();
            // What comes in pieces can be sent once; the agent sends nothing such.
            let again = body.as_ref().and_then(Body::try_clone);
            let is_last = turn + 1 == servers.len() || again.is_none();
            let Some(sent) = (if is_last { body.take() } else { again }) else { break };
            let asked = servers[index].client.send(Request::from_parts(parts.clone(), sent)).await;
            match asked {
                Err(error) if !is_last && is_unconnected(&error) => {
                    tracing::debug!(address = %servers[index].url, %error, "the API server is not reached there");
                }
                Ok(answer) => {
                    self.prefer(index, &servers[index].url);
                    result = Some(Ok(answer));
                    break;
                }
                Err(error) => {
                    result = Some(Err(error));
                    break;
                }
            }
        }
        // There is an address, and its turn gives a result.
        let result = result.unwrap_or(Err(kube::Error::Service("no address of the API server".into())));
        match &result {
            Ok(answer) if answers(answer.status()) => self.note(None),
            Ok(answer) => self.note(Some(&answer.status())),
            Err(error) => self.note(Some(error)),
        }
        result
    }

    /// Notes whether it is heard, or why not.
    fn note(&self, silence: Option<&dyn std::fmt::Display>) {
        let news = self.0.contact.send_if_modified(|contact| {
            let news = contact.heard != silence.is_none();
            if news {
                let returns = contact.returns + u64::from(silence.is_none());
                *contact = Contact { heard: silence.is_none(), since: Instant::now(), returns };
                self.0.readiness.set_api_server_silent_since(silence.map(|_| contact.since));
            }
            news
        });
        match silence {
            Some(error) if news => {
                tracing::warn!(%error, "the API server cannot be heard; what is known stays in force");
            }
            None if news => tracing::info!("the API server is heard again"),
            _ => {}
        }
    }

    fn servers(&self) -> MutexGuard<'_, Servers> {
        self.0.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl tower::Service<Request<Body>> for ApiServer {
    type Response = Response<Body>;
    type Error = kube::Error;
    type Future = Pin<Box<dyn Future<Output = kube::Result<Response<Body>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<kube::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.clone().ask(request))
    }
}

impl Server {
    /// At an address of its own, where it shows the name that every API server's certificate has.
    fn by_address(base: &Config, url: Uri) -> kube::Result<Self> {
        let mut config = base.clone();
        config.cluster_url = url.clone();
        config.tls_server_name = Some(SERVER_NAME.to_owned());
        Ok(Self { url, client: Client::try_from(config)? })
    }
}

/// Whether a server that answers so can be worked with; one that comes up or is overloaded says that it cannot.
fn answers(status: StatusCode) -> bool {
    !status.is_server_error() && status != StatusCode::TOO_MANY_REQUESTS
}

/// Whether there was no connection, so that the request cannot have been taken.
fn is_unconnected(error: &kube::Error) -> bool {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<hyper_util::client::legacy::Error>() {
            return error.is_connect();
        }
        source = error.source();
    }
    false
}

/// The URLs of the servers behind the Service.
fn addresses(slice: &EndpointSlice) -> Vec<Uri> {
    let port = slice.ports.iter().flatten().find_map(|port| u16::try_from(port.port?).ok());
    let Some(port) = port else { return Vec::new() };
    let ready = slice
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false));
    let ips = ready.flat_map(|endpoint| &endpoint.addresses).filter_map(|ip| ip.parse().ok());
    let url = |ip: std::net::IpAddr| format!("https://{}", std::net::SocketAddr::new(ip, port)).parse().ok();
    ips.filter_map(url).take(MOST_ADDRESSES).collect()
}

/// Where every API server keeps its own addresses.
const NAMESPACE: &str = "default";
const SERVICE: &str = "kubernetes";
/// A name that every API server's certificate has, as its clients in the cluster may call it so.
const SERVER_NAME: &str = "kubernetes.default.svc";
/// More are not tried.
const MOST_ADDRESSES: usize = 8;
/// How long a connection with its TLS may take before the next address is tried.
const CONNECT: Duration = Duration::from_secs(2);
/// How long a server may say nothing: longer than any watch lasts (290 s).
const READ: Duration = Duration::from_secs(300);
/// How long one question to one address may take.
const LOOK: Duration = Duration::from_secs(5);
/// How soon a server that is not heard is looked for, and looked for again: with the time it becomes more seldom, by this share of
/// it.
const FIRST_LOOK: Duration = Duration::from_millis(750);
const LOOK_SHARE: u32 = 60;
const LONGEST_LOOK: Duration = Duration::from_secs(3);
/// Control planes are moved seldom.
const ADDRESSES: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(endpoints: &serde_json::Value) -> EndpointSlice {
        let whole = json!({"addressType": "IPv4", "metadata": {}, "ports": [{"name": "https", "port": 6443}], "endpoints": endpoints});
        serde_json::from_value(whole).expect("an EndpointSlice")
    }

    #[test]
    fn the_addresses_of_servers_that_are_ready_are_taken() {
        let read = addresses(&slice(&json!([
            {"addresses": ["192.0.2.1"]},
            {"addresses": ["192.0.2.2"], "conditions": {"ready": false}},
            {"addresses": ["2001:db8::3", "no address"], "conditions": {"ready": true}},
        ])));
        assert_eq!(read, ["https://192.0.2.1:6443", "https://[2001:db8::3]:6443"].map(Uri::from_static));
        assert_eq!(addresses(&slice(&json!([]))), [] as [Uri; 0]);
    }

    #[tokio::test]
    async fn an_address_that_answered_is_asked_first_also_when_the_others_change() {
        let base = Config::new(Uri::from_static("https://192.0.2.10"));
        let server = ApiServer::new(base, None, Readiness::default()).expect("made");
        let url = |host: u8| format!("https://192.0.2.{host}:6443").parse::<Uri>().expect("a URL");
        let first = |server: &ApiServer| {
            let servers = server.servers();
            servers.all[servers.first].url.clone()
        };
        server.learn(vec![url(1), url(2)]);
        server.prefer(2, &url(2));
        server.learn(vec![url(3), url(2), url(1)]);
        assert_eq!(first(&server), url(2));
        // The index is of another list.
        server.prefer(1, &url(1));
        assert_eq!(first(&server), url(2));
        server.learn(Vec::new());
        let count = server.servers().all.len();
        assert_eq!((count, first(&server)), (4, url(2)), "a server that ends takes itself out");
        server.learn(vec![url(4)]);
        assert_eq!(first(&server), Uri::from_static("https://192.0.2.10"));
    }
}
