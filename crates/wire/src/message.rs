//! The messages, as the rest of redir sees them: checked, without optional fields that are always there.
//!
//! `Debug` of a filter's values and of a token shows none: they may be secrets.

use std::collections::BTreeMap;
use std::fmt;

use redir_http::filter::{Condition, FilterError, Mode};

/// What a developer's `redir` says to an agent.
#[derive(Clone, Debug, PartialEq)]
pub enum ToAgent {
    /// First message of all.
    Hello(Hello),
    /// Intercept these pods' port. Answered by [`InterceptState`] or [`Refused`].
    Intercept(InterceptRequest),
    /// End intercepts of this developer. Answered by [`Left`] or [`Refused`].
    Leave(LeaveScope),
    /// What is intercepted, and what can be. Answered by [`Listing`].
    List,
    /// The status of this developer's tunnels and intercepts. Answered by [`StatusReport`].
    Status,
    /// Answered by [`ToDeveloper::Pong`] with the same number.
    Ping(u64),
}

/// What an agent says to a developer's `redir`.
#[derive(Clone, Debug, PartialEq)]
pub enum ToDeveloper {
    /// Answer to [`Hello`].
    Welcome(Welcome),
    /// The state of one intercept: the answer to a [`InterceptRequest`], and again at every change.
    Intercept(InterceptState),
    /// One matched request is complete.
    Request(RequestEvent),
    /// Answer to [`ToAgent::List`].
    Listing(Listing),
    /// Answer to [`ToAgent::Status`].
    Status(StatusReport),
    /// Answer to [`ToAgent::Leave`].
    Left(Left),
    /// An intercept of this session was ended by the agent or from another `redir` of the same developer.
    Ended(Ended),
    /// A request was not granted.
    Refused(Refused),
    /// Answer to [`ToAgent::Ping`].
    Pong(u64),
    /// Last message before the agent closes the tunnel.
    Bye(Bye),
}

/// The developer's greeting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// [`crate::VERSION`] of the developer's side.
    pub version: u32,
    /// Name and release, such as `redir 0.1.0`.
    pub software: String,
    /// Whom to show to others beside the authorised name, such as `alice@laptop`; may be empty.
    pub user: String,
}

/// The agent's greeting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// [`crate::VERSION`] of the agent's side.
    pub version: u32,
    /// Name and release, such as `redir-agent 0.1.0`.
    pub software: String,
    /// The agent's name (its node).
    pub agent: String,
    /// The name under which the agent knows this developer's key.
    pub developer: String,
}

/// Sixteen random bytes that the developer's side chooses for each intercept: it keeps its seniority when it redials.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub [u8; 16]);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// A set of labels; a pod matches if it has all of them.
pub type Labels = BTreeMap<String, String>;

/// Which pods are meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Selector {
    /// The pod of this name.
    Pod(String),
    /// Every pod with these labels; never empty.
    Labels(Labels),
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(name) => f.write_str(name),
            Self::Labels(labels) => {
                for (index, (key, value)) in labels.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    write!(f, "{comma}{key}={value}")?;
                }
                Ok(())
            }
        }
    }
}

/// What a developer asks an agent to intercept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterceptRequest {
    /// Names the intercept across redials.
    pub token: Token,
    /// Which pods.
    pub selector: Selector,
    /// Which port of them; never 0.
    pub port: u16,
    /// Which requests; `None` is all of them.
    pub filter: Option<Filter>,
    /// Where the developer's service listens, as text for people, such as `127.0.0.1:3000`.
    pub to: String,
    /// Who answers kubelet probes.
    pub probes: Probes,
    /// What becomes of connections that the app has already.
    pub earlier: EarlierConnections,
    /// Whether connections come to the developer also while nobody listens on the port in the pod. Only without a filter.
    pub even_if_down: bool,
    /// Whether the agent writes the client's address into matched HTTP requests (`X-Forwarded-For` and its like).
    pub forwarded: bool,
}

/// What becomes of connections that the app accepted on the port before it was intercepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EarlierConnections {
    /// They stay with the app until they end by themselves.
    #[default]
    Stay,
    /// They are closed once they are idle, so that their clients connect anew.
    Close,
}

/// Who answers kubelet probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Probes {
    /// The app, whatever the filter says.
    App,
    /// The developer, like any other request.
    Developer,
}

/// Conditions on an HTTP request; never empty. What they mean, and whether they make sense, is `redir_http`'s.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Filter {
    /// How the conditions go together.
    pub mode: Mode,
    /// The conditions, in the order they were given.
    pub conditions: Vec<Condition>,
    /// Whether the CORS preflights of such requests are meant too.
    pub preflights: bool,
}

impl Filter {
    /// The filter, checked and compiled.
    ///
    /// # Errors
    /// What is wrong with it, with the next step.
    pub fn compile(&self) -> Result<redir_http::filter::Filter, FilterError> {
        let filter = redir_http::filter::Filter::new(self.mode, self.conditions.clone())?;
        if self.preflights { filter.with_preflights() } else { Ok(filter) }
    }
}

/// Which intercepts of this developer to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaveScope {
    /// The one with this token.
    Token(Token),
    /// The one with this id.
    Id(u64),
    /// Those that name these pods, on this port, or on any port if `None`.
    Selector(Selector, Option<u16>),
    /// All of them.
    All,
}

/// Milliseconds since 1970, for people to read; nothing is decided by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMillis(pub u64);

/// The state of one intercept on this agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterceptState {
    /// The agent's number for it; what [`crate::StreamHeader::intercept`] names.
    pub id: u64,
    /// The request's token.
    pub token: Token,
    /// Since when, kept over redials.
    pub since: UnixMillis,
    /// Pod by pod.
    pub pods: Vec<PodState>,
    /// Older or more specific intercepts that take requests from this one. Empty: it wins everywhere.
    pub conflicts: Vec<Conflict>,
    /// Intercepts that this one takes requests from. An agent that does not tell it leaves it empty.
    pub overlaps: Vec<Conflict>,
    /// Matched requests and connections that went to the app so far, because the developer's machine did not answer the
    /// agent. Kept over redials; 0 from an agent that does not tell it.
    pub bypassed: u64,
    /// The agent does what [`InterceptRequest::even_if_down`] asks for. An agent that does not know it leaves it false.
    pub even_if_down: bool,
    /// The agent does what [`InterceptRequest::forwarded`] asks for. An agent that does not know it leaves it false.
    pub forwarded: bool,
}

/// The state of one intercept in one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodState {
    /// The pod's name.
    pub pod: String,
    /// Its addresses that are not loopback, as far as the agent knows them.
    pub addresses: Vec<String>,
    /// Whether its traffic is steered.
    pub state: Liveness,
    /// Why not, and what to do; empty when live.
    pub reason: String,
    /// Connections that the app had before, which stay with it.
    pub earlier_connections: u32,
    /// Since when it is in this state.
    pub since: UnixMillis,
    /// What becomes of TLS, as soon as the agent knows that the port speaks it.
    pub tls: Option<PodTls>,
    /// Probes and health checks that come to the developer although nobody asked for them: a sentence each, with the
    /// condition that keeps it away.
    pub probes: Vec<String>,
    /// What came of closing earlier connections, once that is over.
    pub flushed: Option<PodFlush>,
    /// Whether somebody listens on the port in the pod, as far as the agent knows.
    pub listening: Option<Listening>,
    /// Connections that the intercept does not reach, one for each cause that was seen.
    pub misses: Vec<Miss>,
}

/// What came of closing connections from before the intercept ([`EarlierConnections::Close`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodFlush {
    /// Connections that were closed.
    pub closed: u32,
    /// Connections that were in use all the time, and stay with the app.
    pub left: u32,
    /// Why it could not be done, and what to do; else empty.
    pub reason: String,
}

/// Whether somebody listens on an intercepted port in the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Listening {
    /// On an address that clients can reach.
    Yes,
    /// Nobody: the kernel refuses connections.
    Nobody,
    /// On a loopback address alone: only clients inside the pod can reach it.
    LoopbackOnly,
}

/// Why an intercept does not reach some connections to its port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Miss {
    /// For programs, such as `proxy_protocol`; a newer agent knows more of them.
    pub cause: String,
    /// For people: why, and what to do.
    pub sentence: String,
}

/// What becomes of TLS on an intercepted port, for one intercept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodTls {
    /// For programs.
    pub handling: TlsHandling,
    /// For people: why, and what to do.
    pub sentence: String,
}

/// What becomes of TLS connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsHandling {
    /// They go to the app, unread.
    Unread,
    /// They go to the developer as the client sends them.
    Passed,
    /// The agent decrypts them.
    Decrypted,
    /// There are none, though the agent was given a certificate.
    Clear,
    /// Something that this version does not know.
    Other,
}

/// Whether a pod's traffic is steered for an intercept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Liveness {
    /// Being armed.
    Pending,
    /// New connections are looked at.
    Live,
    /// Could not be armed.
    Refused,
    /// Was live and no longer is.
    Lost,
}

/// Another intercept that wants some of the same requests; whose they are says the list that it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The agent's number for the other; `None` from an agent that does not tell it.
    pub id: Option<u64>,
    /// In which pod.
    pub pod: String,
    /// Whose.
    pub developer: String,
    /// Since when it exists.
    pub since: UnixMillis,
    /// What the winner of the two takes from the loser.
    pub takes: Takes,
}

/// What a winning intercept takes from the one that lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Takes {
    /// Every request: this one gets nothing in that pod.
    Everything,
    /// The requests that both want.
    Shared,
}

/// One matched request, after its answer. The path has no query; no header, no body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestEvent {
    /// The intercept's id.
    pub intercept: u64,
    /// When the request came.
    pub when: UnixMillis,
    /// As the client wrote it; escape before showing.
    pub method: String,
    /// As the client wrote it, without the query; escape before showing. Empty for a connection that is not HTTP.
    pub path: String,
    /// The answer's status; 0 if there was none.
    pub status: u16,
    /// From the request's first byte to the answer's last.
    pub micros: u64,
    /// In which pod.
    pub pod: String,
    /// The client's address.
    pub client: String,
    /// Events that were dropped before this one because the queue was full.
    pub missed: u64,
    /// Who answered, or why nobody did.
    pub outcome: RequestOutcome,
    /// The `grpc-status` of a gRPC answer.
    pub grpc_status: Option<u32>,
    /// What a connection that is not HTTP carried; `None` while it is open.
    pub bytes: Option<ConnectionBytes>,
}

/// How a matched request ended. An agent that does not tell it says [`RequestOutcome::Answered`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RequestOutcome {
    /// The developer's service answered.
    #[default]
    Answered,
    /// The agent answered itself, or ended a connection that is not HTTP, since the developer's side could not; why.
    Refused(String),
    /// The client left before the answer was complete.
    ClientLeft,
    /// The answer broke off, or never came.
    Cut,
    /// Something that this version does not know.
    Other,
}

/// Bytes of one client connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionBytes {
    /// From the client.
    pub received: u64,
    /// To the client.
    pub sent: u64,
}

/// What is intercepted, and what can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The pods that this developer may intercept.
    pub pods: Vec<PodEntry>,
    /// The intercepts in those pods, anybody's.
    pub intercepts: Vec<InterceptEntry>,
}

/// A pod that can be intercepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodEntry {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// The ports that may be intercepted; empty is any.
    pub ports: Vec<u16>,
}

/// One intercept in one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterceptEntry {
    /// The agent's number for it.
    pub id: u64,
    /// Whose.
    pub developer: String,
    /// Whether it is the asking developer's.
    pub owner: Owner,
    /// In which pod.
    pub pod: String,
    /// Which port.
    pub port: u16,
    /// What it matches, without values (they may be secrets); empty is everything.
    pub filter: String,
    /// Where it goes on the developer's machine; empty for another developer's.
    pub to: String,
    /// Since when.
    pub since: UnixMillis,
    /// Whether that pod's traffic is steered for it.
    pub state: Liveness,
    /// Why not; empty when live.
    pub reason: String,
    /// Matched requests or connections so far.
    pub requests: u64,
    /// What becomes of TLS, as in [`PodState::tls`].
    pub tls: Option<PodTls>,
    /// As in [`PodState::listening`].
    pub listening: Option<Listening>,
}

/// Whose an intercept is, seen by who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// The asking developer's.
    You,
    /// Another developer's.
    Other,
}

/// The status of this developer's tunnels and intercepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusReport {
    /// The agent's name.
    pub agent: String,
    /// The agent's software.
    pub software: String,
    /// This developer's tunnels to this agent.
    pub tunnels: Vec<TunnelStatus>,
    /// This developer's intercepts, pod by pod.
    pub intercepts: Vec<InterceptEntry>,
}

/// The status of one tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelStatus {
    /// The developer's address as the agent sees it.
    pub address: String,
    /// What its greeting said.
    pub user: String,
    /// Since when.
    pub since: UnixMillis,
    /// Round-trip time.
    pub rtt_micros: u64,
    /// UDP payload bytes to the developer.
    pub sent_bytes: u64,
    /// UDP payload bytes from the developer.
    pub received_bytes: u64,
    /// Data streams open now.
    pub streams: u64,
    /// Data streams so far.
    pub streams_total: u64,
    /// Whether the question came through it.
    pub asking: bool,
}

/// Intercepts that were ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// Each of them.
    pub intercepts: Vec<LeftIntercept>,
}

/// An intercept that was ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftIntercept {
    /// The agent's number for it; `None` from an agent that does not tell it.
    pub id: Option<u64>,
    /// What it was, for people, such as `web-1:8080`.
    pub what: String,
}

/// An intercept that the agent ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The agent's number for it.
    pub id: u64,
    /// The request's token.
    pub token: Token,
    /// Why, as a sentence.
    pub sentence: String,
}

/// A request that was not granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What kind of refusal.
    pub code: RefusedCode,
    /// Why and what to do next, as a sentence without a period.
    pub sentence: String,
}

/// Kinds of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusedCode {
    /// The versions are more than one apart.
    Version,
    /// No pod by that name or with those labels that this developer may intercept.
    NoSuchPod,
    /// The port is not one of those that may be intercepted.
    PortNotAllowed,
    /// The filter cannot be compiled.
    BadFilter,
    /// Too many intercepts or too long an answer.
    TooMany,
    /// The token is in use by another live session.
    TokenInUse,
    /// There is no such intercept.
    NotFound,
    /// This agent does not know the message or a part of it.
    Unsupported,
    /// The message has a field that is missing, too long or out of range.
    Malformed,
    /// The agent is shutting down.
    Shutdown,
    /// This developer may not have other people's connections closed.
    FlushNotAllowed,
    /// The agent has no memory for the answer now, and has done nothing: to be asked again in a moment.
    NoMemory,
    /// A kind that this version does not know.
    Other,
}

/// Why the agent closes the tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bye {
    /// The code that the connection will be closed with.
    pub code: crate::CloseCode,
    /// For people.
    pub sentence: String,
}
