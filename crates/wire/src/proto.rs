//! The messages' protobuf form. Private: everything outside sees [`crate::message`], which is checked.
//!
//! Tags are never used twice. Enumerations keep 0 for "not said".

use prost::{Message, Oneof};

macro_rules! messages {
    ($($(#[$outer:meta])* $name:ident { $($(#[$inner:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$outer])*
        #[derive(Clone, PartialEq, Message)]
        pub(crate) struct $name { $($(#[$inner])* pub(crate) $field: $type,)* }
    )*};
}

messages! {
    ToAgent {
        #[prost(uint32, tag = "1")] seq: u32,
        #[prost(oneof = "ToAgentBody", tags = "10, 11, 12, 13, 14, 15")] body: Option<ToAgentBody>,
    }
    ToDeveloper {
        /// The `seq` this answers; 0 if unasked.
        #[prost(uint32, tag = "1")] answers: u32,
        #[prost(oneof = "ToDeveloperBody", tags = "10, 11, 12, 13, 14, 15, 16, 17, 18, 19")] body: Option<ToDeveloperBody>,
    }
    Empty {}
    Hello {
        #[prost(uint32, tag = "1")] version: u32,
        #[prost(string, tag = "2")] software: String,
        #[prost(string, tag = "3")] user: String,
    }
    Welcome {
        #[prost(uint32, tag = "1")] version: u32,
        #[prost(string, tag = "2")] software: String,
        #[prost(string, tag = "3")] agent: String,
        #[prost(string, tag = "4")] developer: String,
    }
    Label {
        #[prost(string, tag = "1")] key: String,
        #[prost(string, tag = "2")] value: String,
    }
    Labels {
        #[prost(message, repeated, tag = "1")] labels: Vec<Label>,
    }
    Selector {
        #[prost(oneof = "SelectorKind", tags = "1, 2")] kind: Option<SelectorKind>,
    }
    InterceptRequest {
        #[prost(bytes = "vec", tag = "1")] token: Vec<u8>,
        #[prost(message, optional, tag = "2")] selector: Option<Selector>,
        #[prost(uint32, tag = "3")] port: u32,
        #[prost(message, optional, tag = "4")] filter: Option<Filter>,
        #[prost(string, tag = "5")] to: String,
        #[prost(bool, tag = "6")] probes_to_developer: bool,
        #[prost(bool, tag = "20")] flush: bool,
        #[prost(bool, tag = "7")] even_if_down: bool,
        #[prost(bool, tag = "8")] forwarded: bool,
    }
    Filter {
        /// 1 all, 2 any.
        #[prost(uint32, tag = "1")] combine: u32,
        #[prost(message, repeated, tag = "2")] conditions: Vec<Condition>,
        #[prost(bool, tag = "3")] preflights: bool,
    }
    Condition {
        #[prost(oneof = "ConditionKind", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9")] kind: Option<ConditionKind>,
    }
    NamedText {
        #[prost(string, tag = "1")] name: String,
        #[prost(message, optional, tag = "2")] value: Option<Text>,
    }
    Text {
        #[prost(oneof = "TextKind", tags = "1, 2, 3, 4, 5, 6")] kind: Option<TextKind>,
    }
    Leave {
        #[prost(oneof = "LeaveScopeKind", tags = "1, 2, 3, 4")] kind: Option<LeaveScopeKind>,
    }
    LeaveSelector {
        #[prost(message, optional, tag = "1")] selector: Option<Selector>,
        /// 0 is any.
        #[prost(uint32, tag = "2")] port: u32,
    }
    InterceptState {
        #[prost(uint64, tag = "1")] id: u64,
        #[prost(bytes = "vec", tag = "2")] token: Vec<u8>,
        #[prost(uint64, tag = "3")] since: u64,
        #[prost(message, repeated, tag = "4")] pods: Vec<PodState>,
        #[prost(message, repeated, tag = "5")] conflicts: Vec<Conflict>,
        /// Never in `conflicts`: whoever does not know these would take the winner for the loser.
        #[prost(message, repeated, tag = "6")] overlaps: Vec<Conflict>,
        #[prost(uint64, tag = "7")] bypassed: u64,
        #[prost(bool, tag = "30")] even_if_down: bool,
        #[prost(bool, tag = "31")] forwarded: bool,
    }
    PodState {
        #[prost(string, tag = "1")] pod: String,
        #[prost(uint32, tag = "2")] state: u32,
        #[prost(string, tag = "3")] reason: String,
        #[prost(uint32, tag = "4")] earlier_connections: u32,
        #[prost(uint64, tag = "5")] since: u64,
        #[prost(string, repeated, tag = "6")] addresses: Vec<String>,
        #[prost(message, optional, tag = "20")] tls: Option<PodTls>,
        #[prost(string, repeated, tag = "23")] probes: Vec<String>,
        #[prost(message, optional, tag = "21")] flushed: Option<PodFlush>,
        /// 1 yes, 2 nobody, 3 loopback only.
        #[prost(uint32, tag = "30")] listening: u32,
        #[prost(message, repeated, tag = "31")] misses: Vec<Miss>,
    }
    PodFlush {
        #[prost(uint32, tag = "1")] closed: u32,
        #[prost(uint32, tag = "2")] left: u32,
        #[prost(string, tag = "3")] reason: String,
    }
    Miss {
        #[prost(string, tag = "1")] cause: String,
        #[prost(string, tag = "2")] sentence: String,
    }
    PodTls {
        /// 1 unread, 2 passed, 3 decrypted, 4 clear.
        #[prost(uint32, tag = "1")] handling: u32,
        #[prost(string, tag = "2")] sentence: String,
    }
    Conflict {
        #[prost(string, tag = "1")] pod: String,
        #[prost(string, tag = "2")] developer: String,
        #[prost(uint64, tag = "3")] since: u64,
        /// 1 everything, 2 shared.
        #[prost(uint32, tag = "4")] takes: u32,
        /// 0 is not said.
        #[prost(uint64, tag = "5")] id: u64,
    }
    RequestEvent {
        #[prost(uint64, tag = "1")] intercept: u64,
        #[prost(uint64, tag = "2")] when: u64,
        #[prost(string, tag = "3")] method: String,
        #[prost(string, tag = "4")] path: String,
        #[prost(uint32, tag = "5")] status: u32,
        #[prost(uint64, tag = "6")] micros: u64,
        #[prost(string, tag = "7")] pod: String,
        #[prost(string, tag = "8")] client: String,
        #[prost(uint64, tag = "9")] missed: u64,
        #[prost(uint32, tag = "30")] outcome: u32,
        /// Of the agent's own answer: why.
        #[prost(string, tag = "31")] reason: String,
        #[prost(uint32, optional, tag = "32")] grpc_status: Option<u32>,
        #[prost(message, optional, tag = "33")] bytes: Option<ConnectionBytes>,
    }
    ConnectionBytes {
        #[prost(uint64, tag = "1")] received: u64,
        #[prost(uint64, tag = "2")] sent: u64,
    }
    Listing {
        #[prost(message, repeated, tag = "1")] pods: Vec<PodEntry>,
        #[prost(message, repeated, tag = "2")] intercepts: Vec<InterceptEntry>,
    }
    PodEntry {
        #[prost(string, tag = "1")] name: String,
        #[prost(message, repeated, tag = "2")] labels: Vec<Label>,
        #[prost(uint32, repeated, tag = "3")] ports: Vec<u32>,
    }
    InterceptEntry {
        #[prost(uint64, tag = "1")] id: u64,
        #[prost(string, tag = "2")] developer: String,
        #[prost(bool, tag = "3")] yours: bool,
        #[prost(string, tag = "4")] pod: String,
        #[prost(uint32, tag = "5")] port: u32,
        #[prost(string, tag = "6")] filter: String,
        #[prost(string, tag = "7")] to: String,
        #[prost(uint64, tag = "8")] since: u64,
        #[prost(uint32, tag = "9")] state: u32,
        #[prost(string, tag = "10")] reason: String,
        #[prost(uint64, tag = "11")] requests: u64,
        #[prost(message, optional, tag = "20")] tls: Option<PodTls>,
        /// As in `PodState`.
        #[prost(uint32, tag = "30")] listening: u32,
    }
    StatusReport {
        #[prost(string, tag = "1")] agent: String,
        #[prost(string, tag = "2")] software: String,
        #[prost(message, repeated, tag = "3")] tunnels: Vec<TunnelStatus>,
        #[prost(message, repeated, tag = "4")] intercepts: Vec<InterceptEntry>,
    }
    TunnelStatus {
        #[prost(string, tag = "1")] address: String,
        #[prost(string, tag = "2")] user: String,
        #[prost(uint64, tag = "3")] since: u64,
        #[prost(uint64, tag = "4")] rtt_micros: u64,
        #[prost(uint64, tag = "5")] sent_bytes: u64,
        #[prost(uint64, tag = "6")] received_bytes: u64,
        #[prost(uint64, tag = "7")] streams: u64,
        #[prost(uint64, tag = "8")] streams_total: u64,
        #[prost(bool, tag = "9")] asking: bool,
    }
    Left {
        #[prost(string, repeated, tag = "1")] what: Vec<String>,
        /// One for each of `what`, or none at all.
        #[prost(uint64, repeated, tag = "2")] ids: Vec<u64>,
    }
    Ended {
        #[prost(uint64, tag = "1")] id: u64,
        #[prost(bytes = "vec", tag = "2")] token: Vec<u8>,
        #[prost(string, tag = "3")] sentence: String,
    }
    Refused {
        #[prost(uint32, tag = "1")] code: u32,
        #[prost(string, tag = "2")] sentence: String,
    }
    Bye {
        #[prost(uint64, tag = "1")] code: u64,
        #[prost(string, tag = "2")] sentence: String,
    }
    Address {
        /// 4 or 16 octets.
        #[prost(bytes = "vec", tag = "1")] ip: Vec<u8>,
        #[prost(uint32, tag = "2")] port: u32,
    }
    StreamHeader {
        #[prost(uint64, tag = "1")] intercept: u64,
        #[prost(string, tag = "2")] pod: String,
        #[prost(message, optional, tag = "3")] client: Option<Address>,
        #[prost(message, optional, tag = "4")] destination: Option<Address>,
        #[prost(message, optional, tag = "20")] tls: Option<ClientTls>,
    }
    ClientTls {
        /// Empty: the client named none.
        #[prost(string, tag = "1")] server_name: String,
        /// Empty: none was agreed.
        #[prost(bytes = "vec", tag = "2")] alpn: Vec<u8>,
    }
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum ToAgentBody {
    #[prost(message, tag = "10")]
    Hello(Hello),
    #[prost(message, tag = "11")]
    Intercept(InterceptRequest),
    #[prost(message, tag = "12")]
    Leave(Leave),
    #[prost(message, tag = "13")]
    List(Empty),
    #[prost(message, tag = "14")]
    Status(Empty),
    #[prost(uint64, tag = "15")]
    Ping(u64),
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum ToDeveloperBody {
    #[prost(message, tag = "10")]
    Welcome(Welcome),
    #[prost(message, tag = "11")]
    Intercept(InterceptState),
    #[prost(message, tag = "12")]
    Request(RequestEvent),
    #[prost(message, tag = "13")]
    Listing(Listing),
    #[prost(message, tag = "14")]
    Status(StatusReport),
    #[prost(message, tag = "15")]
    Left(Left),
    #[prost(message, tag = "16")]
    Ended(Ended),
    #[prost(message, tag = "17")]
    Refused(Refused),
    #[prost(uint64, tag = "18")]
    Pong(u64),
    #[prost(message, tag = "19")]
    Bye(Bye),
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum SelectorKind {
    #[prost(string, tag = "1")]
    Pod(String),
    #[prost(message, tag = "2")]
    Labels(Labels),
}

/// Everything that a condition says is inside its variant: beside it, what an older agent does not know would be left out,
/// and the rest would match other requests than were asked for.
#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum ConditionKind {
    #[prost(string, tag = "1")]
    HeaderPresent(String),
    #[prost(message, tag = "2")]
    Header(NamedText),
    #[prost(message, tag = "3")]
    Path(Text),
    /// Exactly this one.
    #[prost(string, tag = "4")]
    Method(String),
    #[prost(message, tag = "5")]
    Query(NamedText),
    #[prost(message, tag = "6")]
    Cookie(NamedText),
    #[prost(message, tag = "7")]
    Baggage(NamedText),
    #[prost(message, tag = "8")]
    MethodText(Text),
    #[prost(message, tag = "9")]
    Not(Box<Condition>),
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum TextKind {
    #[prost(string, tag = "1")]
    Exact(String),
    #[prost(string, tag = "2")]
    Prefix(String),
    #[prost(string, tag = "3")]
    Regex(String),
    #[prost(message, tag = "4")]
    Present(Empty),
    /// As `Exact` and `Prefix`, for what is not UTF-8.
    #[prost(bytes = "vec", tag = "5")]
    ExactBytes(Vec<u8>),
    #[prost(bytes = "vec", tag = "6")]
    PrefixBytes(Vec<u8>),
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum LeaveScopeKind {
    #[prost(bytes = "vec", tag = "1")]
    Token(Vec<u8>),
    #[prost(uint64, tag = "2")]
    Id(u64),
    #[prost(message, tag = "3")]
    Selector(LeaveSelector),
    #[prost(message, tag = "4")]
    All(Empty),
}
