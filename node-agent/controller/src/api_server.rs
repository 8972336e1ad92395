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

use super::{driver::ControllerVitals, jitter::jittered};

/// Cheap to clone; a service for [`Client::new`].
#[derive(Clone)]
pub(super) struct ApiServer(Arc<ApiServerInner>);

struct ApiServerInner {
    base: Config,
    servers: Mutex<ServerAddresses>,
    contact: watch::Sender<ServerContact>,
    vitals: watch::Sender<ControllerVitals>,
}

/// The addresses.
struct ServerAddresses {
    /// Those that were given: these stay.
    given: usize,
    all: Vec<ServerAddress>,
    /// The one that answered last, which is asked first.
    first: usize,
}

#[derive(Clone)]
struct ServerAddress {
    url: Uri,
    client: Client,
}

/// Whether the API server is heard: it has answered the last call, and not that it is not able to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ServerContact {
    heard: bool,
    since: Instant,
    /// How often it has come back.
    returns: u64,
    /// When it did last.
    returned: Option<Instant>,
}

impl ServerContact {
    /// Whether being heard now is a return, for which others begin anew: not of one that answers this and not that, again and
    /// again, or it would be asked by all agents without a pause.
    fn is_return(&self) -> bool {
        !self.heard && (self.since.elapsed() >= LONG_SILENCE || !self.has_just_returned())
    }

    fn has_just_returned(&self) -> bool {
        self.returned.is_some_and(|returned| returned.elapsed() < RETURNS)
    }
}

impl ApiServer {
    /// `base` says how to reach it, `named` is an address that comes before.
    pub(super) fn new(
        base: Config,
        named: Option<&Uri>,
        vitals: watch::Sender<ControllerVitals>,
    ) -> kube::Result<Self> {
        let mut base = base;
        base.connect_timeout = Some(CONNECT);
        base.read_timeout = Some(READ);
        // It waits ever longer inside of a call, whatever has happened meanwhile.
        base.default_retry = false;
        let mut all = Vec::new();
        if let Some(named) = named {
            all.push(ServerAddress::by_address(&base, named.clone())?);
        }
        all.push(ServerAddress { url: base.cluster_url.clone(), client: Client::try_from(base.clone())? });
        let servers = Mutex::new(ServerAddresses { given: all.len(), all, first: 0 });
        let contact =
            watch::Sender::new(ServerContact { heard: false, since: Instant::now(), returns: 0, returned: None });
        vitals.send_modify(|vitals| vitals.silent_since = Some(Instant::now()));
        Ok(Self(Arc::new(ApiServerInner { base, servers, contact, vitals })))
    }

    /// A client that asks here. Each has a task of its own: clone it.
    pub(super) fn client(&self) -> Client {
        Client::new(self.clone(), self.0.base.default_namespace.clone())
    }

    pub(super) fn is_heard(&self) -> bool {
        self.0.contact.borrow().heard
    }

    /// How often it has come back: whoever counted tries before begins anew.
    pub(super) fn returns(&self) -> u64 {
        self.0.contact.borrow().returns
    }

    /// Waits until it comes back; for ever while it is heard.
    pub(super) async fn heard_again(&self) {
        let mut contact = self.0.contact.subscribe();
        let before = contact.borrow_and_update().returns;
        // The sender is this one's own.
        contact.wait_for(|contact| contact.returns != before).await.ok();
    }

    /// Asks, while it is not heard, whether it is there: whoever waits for it waits no longer than for this.
    pub(super) async fn look_for(self) {
        let mut contact = self.0.contact.subscribe();
        loop {
            let ServerContact { heard, since, .. } = *contact.borrow_and_update();
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
        let ask = |(index, server): (usize, ServerAddress)| async move {
            let request = Request::get("/readyz").body(Body::empty()).ok()?;
            let answer = timeout(LOOK, server.client.send(request)).await.ok()?.ok()?;
            // One that comes up says so with 500.
            let is_up = answers(answer.status()) && answer.status() != StatusCode::INTERNAL_SERVER_ERROR;
            is_up.then_some((index, server.url))
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
        // Nothing proves that an address which was read is the API server's: it would get the token.
        if self.0.base.accept_invalid_certs {
            return;
        }
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
            match known.map_or_else(|| ServerAddress::by_address(&self.0.base, url), Ok) {
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

    /// Asks, and notes whether there was an answer in time: those who ask would give up without a word.
    async fn ask(self, request: Request<Body>) -> kube::Result<Response<Body>> {
        let limit = answer_limit(request.uri());
        let unanswered = |_| Err(kube::Error::Service("the API server does not answer".into()));
        let result = timeout(limit, self.ask_each(request)).await.unwrap_or_else(unanswered);
        match &result {
            Ok(answer) if answers(answer.status()) => self.note(None),
            Ok(answer) => self.note(Some(&answer.status())),
            Err(error) => self.note(Some(error)),
        }
        result
    }

    /// Asks at each address until there is a connection: nothing was sent where there is none.
    async fn ask_each(&self, request: Request<Body>) -> kube::Result<Response<Body>> {
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
                    if answers(answer.status()) {
                        self.prefer(index, &servers[index].url);
                    }
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
        result.unwrap_or(Err(kube::Error::Service("no address of the API server".into())))
    }

    /// Notes whether it is heard, or why not.
    fn note(&self, silence: Option<&dyn std::fmt::Display>) {
        let mut is_told = false;
        self.0.contact.send_if_modified(|contact| {
            let news = contact.heard != silence.is_none();
            if news {
                let is_return = silence.is_none() && contact.is_return();
                is_told = is_return || silence.is_some() && !contact.has_just_returned();
                *contact = ServerContact { heard: silence.is_none(), since: Instant::now(), ..*contact };
                if is_return {
                    (contact.returns, contact.returned) = (contact.returns + 1, Some(contact.since));
                }
                let since = silence.map(|_| contact.since);
                self.0.vitals.send_modify(|vitals| vitals.silent_since = since);
            }
            news
        });
        match silence {
            Some(error) if is_told => {
                tracing::warn!(%error, "the API server cannot be heard; what is known stays in force");
            }
            Some(error) => tracing::debug!(%error, "the API server cannot be heard"),
            None if is_told => tracing::info!("the API server is heard again"),
            None => {}
        }
    }

    fn servers(&self) -> MutexGuard<'_, ServerAddresses> {
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

impl ServerAddress {
    /// At an address of its own, where it shows the name that every API server's certificate has.
    fn by_address(base: &Config, url: Uri) -> kube::Result<Self> {
        let mut config = base.clone();
        config.cluster_url = url.clone();
        config.tls_server_name = Some(SERVER_NAME.to_owned());
        Ok(Self { url, client: Client::try_from(config)? })
    }
}

/// Whether a server that answers so is one to work with: not what stands before it, and not one that does not know the agent.
/// One that refuses a call, or has no room for it, is heard: that call alone is made again, more and more seldom.
fn answers(status: StatusCode) -> bool {
    let silent = [
        StatusCode::UNAUTHORIZED,
        StatusCode::BAD_GATEWAY,
        StatusCode::SERVICE_UNAVAILABLE,
        StatusCode::GATEWAY_TIMEOUT,
    ];
    !silent.contains(&status)
}

/// How long the beginning of an answer may take.
fn answer_limit(uri: &Uri) -> Duration {
    let has = |name: &str| uri.query().is_some_and(|query| query.split('&').any(|field| field.starts_with(name)));
    if has("limit=") || has("watch=") { LONG_ANSWER } else { ANSWER }
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
/// How long the beginning of an answer may take: less than any caller waits.
const ANSWER: Duration = Duration::from_secs(4);
/// That of a list, which may be large, and of a watch, for which nobody else has a limit.
const LONG_ANSWER: Duration = Duration::from_secs(20);
/// How long one question to one address may take.
const LOOK: Duration = Duration::from_secs(5);
/// How soon a server that is not heard is looked for, and looked for again: with the time it becomes more seldom, by this share of
/// it.
const FIRST_LOOK: Duration = Duration::from_millis(750);
const LOOK_SHARE: u32 = 60;
const LONGEST_LOOK: Duration = Duration::from_secs(3);
/// A silence from which on being heard is a return, and how soon after a return a shorter one is none.
const LONG_SILENCE: Duration = Duration::from_secs(2);
const RETURNS: Duration = Duration::from_secs(10);
/// Control planes are moved seldom.
const ADDRESSES: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
