//! Both ends in one process, and one end against bytes that no honest other end sends.

use std::collections::BTreeMap;

use bytes::BytesMut;
use redir_http::filter::{Condition, Mode, Subject, Test};

use super::{AgentSession, DeveloperSession};
use crate::codec::put_frame;
use crate::error::{Malformed, SessionError};
use crate::message::*;
use crate::{CloseCode, VERSION, common_version, limits, proto};

/// A welcomed pair.
fn pair() -> (DeveloperSession, AgentSession) {
    let mut developer = DeveloperSession::new("redir test", "alice@laptop").unwrap();
    let mut agent = AgentSession::default();
    agent.receive(&developer.output());
    let hello = agent.poll().unwrap().unwrap();
    assert!(
        matches!(&hello.message, ToAgent::Hello(hello) if hello.user == "alice@laptop" && hello.version == VERSION)
    );
    agent.welcome(hello.seq, "node-1", "alice", "redir-agent test").unwrap();
    developer.receive(&agent.output());
    let welcome = developer.poll().unwrap().unwrap();
    assert_eq!(welcome.answers, hello.seq);
    assert!(matches!(&welcome.message, ToDeveloper::Welcome(welcome) if welcome.agent == "node-1"));
    (developer, agent)
}

fn request() -> InterceptRequest {
    InterceptRequest {
        token: Token([7; 16]),
        selector: Selector::Labels(BTreeMap::from([("app".into(), "web".into()), ("tier".into(), String::new())])),
        port: 8080,
        filter: Some(Filter {
            mode: Mode::Any,
            conditions: vec![
                is(Subject::Header("x-debug".into()), Test::Present),
                is(Subject::Header("x-user".into()), Test::Exact("alice".into())),
                is(Subject::Header("x-team".into()), Test::Prefix("core-".into())),
                is(Subject::Path, Test::Regex("/api/.*".into())),
                is(Subject::Method, Test::Exact("GET".into())),
            ],
            preflights: true,
        }),
        to: "127.0.0.1:3000".into(),
        probes: Probes::Developer,
        earlier: EarlierConnections::Close,
        even_if_down: false,
        forwarded: true,
    }
}

fn is(subject: Subject, test: Test) -> Condition {
    Condition { subject, test, negate: false }
}

/// Every subject with every test, both ways round.
fn conditions() -> Vec<Condition> {
    let subjects: [fn() -> Subject; 6] = [
        || Subject::Header("x-user".into()),
        || Subject::Query("user".into()),
        || Subject::Cookie("sid".into()),
        || Subject::Baggage("tenant".into()),
        || Subject::Path,
        || Subject::Method,
    ];
    let tests: [fn() -> Test; 7] = [
        || Test::Present,
        || Test::Exact("zo\u{eb}".into()),
        || Test::Exact(vec![]),
        || Test::Exact(b"zo\xeb".into()),
        || Test::Prefix("/a".into()),
        || Test::Prefix(b"\xff".into()),
        || Test::Regex("a|b".into()),
    ];
    let each = subjects.iter().flat_map(|subject| tests.iter().map(|test| is(subject(), test())));
    each.flat_map(|condition| [condition.clone(), Condition { negate: true, ..condition }]).collect()
}

fn entry() -> InterceptEntry {
    InterceptEntry {
        id: 3,
        developer: "bob".into(),
        owner: Owner::Other,
        pod: "web-1".into(),
        port: 8080,
        filter: "header x-user (exact)".into(),
        to: String::new(),
        since: UnixMillis(1),
        state: Liveness::Live,
        reason: String::new(),
        requests: 12,
        tls: None,
        listening: Some(Listening::Nobody),
    }
}

#[test]
fn every_question_comes_through() {
    let (mut developer, mut agent) = pair();
    let selector = Selector::Pod("web-1".into());
    // A method is never empty on the wire.
    let named = |condition: &Condition| condition.subject != Subject::Method || condition.test != Test::Exact(vec![]);
    let some_conditions = conditions().into_iter().filter(named).take(limits::CONDITIONS).collect();
    let questions = [
        ToAgent::Intercept(request()),
        ToAgent::Intercept(InterceptRequest {
            filter: None,
            selector: selector.clone(),
            probes: Probes::App,
            earlier: EarlierConnections::Stay,
            ..request()
        }),
        ToAgent::Intercept(InterceptRequest { filter: None, even_if_down: true, forwarded: false, ..request() }),
        ToAgent::Intercept(InterceptRequest {
            filter: Some(Filter { mode: Mode::All, conditions: some_conditions, preflights: false }),
            ..request()
        }),
        ToAgent::Leave(LeaveScope::Token(Token([9; 16]))),
        ToAgent::Leave(LeaveScope::Id(3)),
        ToAgent::Leave(LeaveScope::Selector(selector.clone(), None)),
        ToAgent::Leave(LeaveScope::Selector(selector, Some(8080))),
        ToAgent::Leave(LeaveScope::All),
        ToAgent::List,
        ToAgent::Status,
        ToAgent::Ping(u64::MAX),
    ];
    for question in questions {
        let seq = developer.ask(&question).unwrap();
        // Byte by byte: a message may come in any pieces.
        let bytes = developer.output();
        let (last, rest) = bytes.split_last().unwrap();
        for byte in rest {
            agent.receive(&[*byte]);
            assert_eq!(agent.poll(), Ok(None));
        }
        assert!(agent.is_midway());
        agent.receive(&[*last]);
        let heard = agent.poll().unwrap().unwrap();
        assert_eq!((heard.seq, heard.message), (seq, question));
        assert!(!agent.is_midway());
    }
}

#[test]
fn every_answer_comes_through() {
    let (mut developer, mut agent) = pair();
    let pod = PodState {
        pod: "web-1".into(),
        addresses: vec!["10.0.0.1".into(), "fd00::1".into()],
        state: Liveness::Lost,
        reason: "gone".into(),
        earlier_connections: 4,
        since: UnixMillis(2),
        tls: Some(PodTls { handling: TlsHandling::Unread, sentence: "no certificate; ask".into() }),
        probes: vec!["a probe comes to you; keep it away".into()],
        flushed: Some(PodFlush { closed: 12, left: 1, reason: "no module; load it".into() }),
        listening: None,
        misses: vec![Miss { cause: "proxy_protocol".into(), sentence: "a proxy is in front; ask".into() }],
    };
    let listening = [Listening::Yes, Listening::Nobody, Listening::LoopbackOnly];
    let listening = listening.map(|listening| PodState { listening: Some(listening), misses: vec![], ..pod.clone() });
    let conflict = Conflict {
        id: Some(7),
        pod: "web-1".into(),
        developer: "bob".into(),
        since: UnixMillis(1),
        takes: Takes::Shared,
    };
    let overlap = Conflict { takes: Takes::Everything, ..conflict.clone() };
    let left = |id| LeftIntercept { id, what: "web-1:8080".into() };
    let event = RequestEvent {
        intercept: 3,
        when: UnixMillis(5),
        method: "GET".into(),
        path: "/a".into(),
        status: 200,
        micros: 900,
        pod: "web-1".into(),
        client: "192.0.2.1:1".into(),
        missed: 2,
        outcome: RequestOutcome::Refused("nobody listens".into()),
        grpc_status: Some(14),
        bytes: Some(ConnectionBytes { received: 3, sent: 4 }),
    };
    let with =
        |outcome| ToDeveloper::Request(RequestEvent { outcome, grpc_status: None, bytes: None, ..event.clone() });
    let tunnel = TunnelStatus {
        address: "192.0.2.1:5".into(),
        user: "alice".into(),
        since: UnixMillis(1),
        rtt_micros: 20,
        sent_bytes: 1,
        received_bytes: 2,
        streams: 3,
        streams_total: 4,
        asking: true,
    };
    let answers = [
        ToDeveloper::Intercept(InterceptState {
            id: 3,
            token: Token([1; 16]),
            since: UnixMillis(9),
            pods: [vec![pod], listening.into()].concat(),
            conflicts: vec![conflict],
            overlaps: vec![overlap],
            bypassed: 7,
            even_if_down: true,
            forwarded: true,
        }),
        ToDeveloper::Request(event.clone()),
        with(RequestOutcome::Answered),
        with(RequestOutcome::ClientLeft),
        with(RequestOutcome::Cut),
        with(RequestOutcome::Other),
        ToDeveloper::Listing(Listing {
            pods: vec![PodEntry {
                name: "web-1".into(),
                labels: BTreeMap::from([("app".into(), "web".into())]),
                ports: vec![8080, 9090],
            }],
            intercepts: vec![entry()],
        }),
        ToDeveloper::Status(StatusReport {
            agent: "node-1".into(),
            software: "redir-agent".into(),
            tunnels: vec![tunnel],
            intercepts: vec![entry()],
        }),
        ToDeveloper::Left(Left { intercepts: vec![left(Some(3)), left(Some(4))] }),
        ToDeveloper::Left(Left { intercepts: vec![left(None)] }),
        ToDeveloper::Ended(Ended { id: 3, token: Token([2; 16]), sentence: "left".into() }),
        ToDeveloper::Refused(Refused { code: RefusedCode::PortNotAllowed, sentence: "no".into() }),
        ToDeveloper::Pong(7),
        ToDeveloper::Bye(Bye { code: CloseCode::KeyRemoved, sentence: "bye".into() }),
    ];
    for (number, answer) in (0..).zip(answers) {
        agent.send(number, &answer).unwrap();
        developer.receive(&agent.output());
        let heard = developer.poll().unwrap().unwrap();
        assert_eq!((heard.answers, heard.message), (number, answer));
    }
}

#[test]
fn neighbouring_versions_talk_and_others_are_refused_with_a_sentence() {
    assert_eq!(common_version(3, 3), Some(3));
    assert_eq!(common_version(3, 2), Some(2));
    assert_eq!(common_version(3, 4), Some(3));
    assert_eq!(common_version(3, 5), None);
    assert_eq!(common_version(3, 1), None);
    assert_eq!(common_version(1, 0), None);

    for (version, fits) in [(VERSION, true), (VERSION + 1, true), (VERSION + 2, false), (0, false)] {
        let mut agent = AgentSession::default();
        agent.receive(&frame(&hello(version)));
        match agent.poll() {
            Ok(Some(_)) => assert!(fits),
            Err(SessionError::Version { theirs, .. }) => {
                assert!(!fits && theirs == version);
                let mut developer = DeveloperSession::new("redir test", "").unwrap();
                developer.receive(&agent.output());
                let refused = developer.poll().unwrap().unwrap().message;
                let ToDeveloper::Refused(refused) = refused else { panic!("{refused:?}") };
                assert_eq!(refused.code, RefusedCode::Version);
                assert!(refused.sentence.contains("update"), "{}", refused.sentence);
            }
            other => panic!("{other:?}"),
        }
    }
    let mut developer = DeveloperSession::new("redir test", "").unwrap();
    let welcome = proto::Welcome { version: VERSION + 2, ..Default::default() };
    developer.receive(&frame(&proto::ToDeveloper { answers: 1, body: Some(proto::ToDeveloperBody::Welcome(welcome)) }));
    assert!(matches!(developer.poll(), Err(SessionError::Version { .. })));
}

#[test]
fn what_comes_out_of_order_ends_the_session() {
    let mut agent = AgentSession::default();
    agent.receive(&frame(&question(1, proto::ToAgentBody::List(proto::Empty {}))));
    assert!(matches!(agent.poll(), Err(SessionError::Order(_))));

    let mut agent = AgentSession::default();
    agent.receive(&frame(&hello(VERSION)));
    agent.receive(&frame(&question(2, proto::ToAgentBody::Ping(1))));
    assert!(agent.poll().is_ok());
    assert!(matches!(agent.poll(), Err(SessionError::Order(_))), "the greeting is not answered yet");

    let (_, mut agent) = pair();
    agent.receive(&frame(&hello(VERSION)));
    assert!(matches!(agent.poll(), Err(SessionError::Order(_))));

    let mut developer = DeveloperSession::new("redir test", "").unwrap();
    developer.receive(&frame(&proto::ToDeveloper { answers: 1, body: Some(proto::ToDeveloperBody::Pong(1)) }));
    assert!(matches!(developer.poll(), Err(SessionError::Order(_))));
}

#[test]
fn a_question_that_is_not_known_is_refused_and_the_session_goes_on() {
    let (mut developer, mut agent) = pair();
    let unknown = proto::ToAgent { seq: 9, body: None };
    agent.receive(&frame(&unknown));
    agent.receive(&frame(&question(10, proto::ToAgentBody::Ping(4))));
    assert_eq!(agent.poll().unwrap().unwrap().message, ToAgent::Ping(4));
    developer.receive(&agent.output());
    let heard = developer.poll().unwrap().unwrap();
    assert_eq!(heard.answers, 9);
    assert!(matches!(heard.message, ToDeveloper::Refused(Refused { code: RefusedCode::Unsupported, .. })));
}

#[test]
fn an_answer_that_is_not_known_is_passed_over() {
    let (mut developer, mut agent) = pair();
    developer.receive(&frame(&proto::ToDeveloper { answers: 0, body: None }));
    agent.send(0, &ToDeveloper::Pong(1)).unwrap();
    developer.receive(&agent.output());
    assert_eq!(developer.poll().unwrap().unwrap().message, ToDeveloper::Pong(1));
}

#[test]
fn bytes_that_are_no_message_end_the_session() {
    for bytes in [&[0, 0, 0, 2, 0xff, 0xff][..], &[0x7f, 0, 0, 0], &[0, 0, 0, 3, 0x52, 0x7f, 0]] {
        let (_, mut agent) = pair();
        agent.receive(bytes);
        assert!(matches!(agent.poll(), Err(SessionError::Malformed(_))), "{bytes:?}");
    }
}

/// Each request has one thing wrong; a condition that is not understood must never be left out.
#[test]
fn hostile_requests_are_refused() {
    type Break = fn(&mut proto::InterceptRequest);
    let breaks: &[(&str, Break)] = &[
        ("short token", |request| request.token.truncate(15)),
        ("long token", |request| request.token.push(0)),
        ("no selector", |request| request.selector = None),
        ("unknown selector", |request| request.selector = Some(proto::Selector { kind: None })),
        ("no labels", |request| labels(request).clear()),
        ("a label twice", |request| {
            let label = labels(request)[0].clone();
            labels(request).push(label);
        }),
        ("an empty label key", |request| labels(request)[0].key.clear()),
        ("a long label key", |request| labels(request)[0].key = "k".repeat(limits::LABEL_KEY + 1)),
        ("a long label value", |request| labels(request)[0].value = "v".repeat(limits::LABEL_VALUE + 1)),
        ("too many labels", |request| {
            *labels(request) = (0..=limits::LABELS)
                .map(|index| proto::Label { key: format!("k{index}"), value: String::new() })
                .collect();
        }),
        ("an empty pod name", |request| {
            request.selector = Some(proto::Selector { kind: Some(proto::SelectorKind::Pod(String::new())) });
        }),
        ("port 0", |request| request.port = 0),
        ("port 65536", |request| request.port = 65536),
        ("a long address", |request| request.to = "x".repeat(limits::NAME + 1)),
        ("no combination", |request| filter(request).combine = 0),
        ("an unknown combination", |request| filter(request).combine = 3),
        ("no condition", |request| filter(request).conditions.clear()),
        ("an unknown condition", |request| filter(request).conditions[0].kind = None),
        ("too many conditions", |request| {
            let condition = filter(request).conditions[0].clone();
            filter(request).conditions = vec![condition; limits::CONDITIONS + 1];
        }),
        ("a header without a name", |request| {
            filter(request).conditions[0].kind = Some(proto::ConditionKind::HeaderPresent(String::new()));
        }),
        ("a header without a text", |request| {
            let header = proto::NamedText { name: "x".into(), value: None };
            filter(request).conditions[0].kind = Some(proto::ConditionKind::Header(header));
        }),
        ("a cookie without a name", |request| {
            let value = Some(proto::Text { kind: Some(proto::TextKind::Present(proto::Empty {})) });
            let cookie = proto::NamedText { name: String::new(), value };
            filter(request).conditions[0].kind = Some(proto::ConditionKind::Cookie(cookie));
        }),
        ("an unknown condition turned around", |request| {
            let unknown = Box::new(proto::Condition { kind: None });
            filter(request).conditions[0].kind = Some(proto::ConditionKind::Not(unknown));
        }),
        ("a condition turned around twice", |request| {
            let once = proto::ConditionKind::Not(Box::new(filter(request).conditions[0].clone()));
            let twice = proto::ConditionKind::Not(Box::new(proto::Condition { kind: Some(once) }));
            filter(request).conditions[0].kind = Some(twice);
        }),
        ("long bytes", |request| {
            let text = proto::Text { kind: Some(proto::TextKind::ExactBytes(vec![b'x'; limits::TEXT + 1])) };
            filter(request).conditions[0].kind = Some(proto::ConditionKind::Path(text));
        }),
        ("an unknown text", |request| {
            filter(request).conditions[0].kind = Some(proto::ConditionKind::Path(proto::Text { kind: None }));
        }),
        ("a long text", |request| {
            let text = proto::Text { kind: Some(proto::TextKind::Regex("x".repeat(limits::TEXT + 1))) };
            filter(request).conditions[0].kind = Some(proto::ConditionKind::Path(text));
        }),
    ];
    for (what, change) in breaks {
        let (mut developer, mut agent) = pair();
        let proto::ToAgentBody::Intercept(mut broken) = (&ToAgent::Intercept(request())).into() else { panic!() };
        change(&mut broken);
        agent.receive(&frame(&question(5, proto::ToAgentBody::Intercept(broken))));
        assert_eq!(agent.poll(), Ok(None), "{what}");
        developer.receive(&agent.output());
        let heard = developer.poll().unwrap().unwrap();
        assert_eq!(heard.answers, 5, "{what}");
        let ToDeveloper::Refused(refused) = heard.message else { panic!("{what}: {:?}", heard.message) };
        assert!(matches!(refused.code, RefusedCode::Malformed | RefusedCode::Unsupported), "{what}: {refused:?}");
    }
}

/// The filters of the first release, as its agents read them.
mod first {
    use prost::{Message, Oneof};

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Condition {
        #[prost(oneof = "Kind", tags = "1, 2, 3, 4")]
        pub(super) kind: Option<Kind>,
    }

    #[derive(Clone, PartialEq, Oneof)]
    pub(super) enum Kind {
        #[prost(string, tag = "1")]
        HeaderPresent(String),
        #[prost(message, tag = "2")]
        Header(Header),
        #[prost(message, tag = "3")]
        Path(Text),
        #[prost(string, tag = "4")]
        Method(String),
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Header {
        #[prost(string, tag = "1")]
        pub(super) name: String,
        #[prost(message, optional, tag = "2")]
        pub(super) value: Option<Text>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Text {
        #[prost(oneof = "TextKind", tags = "1, 2, 3")]
        pub(super) kind: Option<TextKind>,
    }

    #[derive(Clone, PartialEq, Oneof)]
    pub(super) enum TextKind {
        #[prost(string, tag = "1")]
        Exact(String),
        #[prost(string, tag = "2")]
        Prefix(String),
        #[prost(string, tag = "3")]
        Regex(String),
    }

    /// What that release makes of a condition; `None`: it refuses the filter.
    pub(super) fn reads(condition: &Condition) -> Option<(&'static str, String, Option<TextKind>)> {
        let text = |text: &Text| text.kind.clone();
        Some(match condition.kind.as_ref()? {
            Kind::HeaderPresent(name) => ("header", name.clone(), None),
            Kind::Header(header) => ("header", header.name.clone(), Some(text(header.value.as_ref()?)?)),
            Kind::Path(path) => ("path", String::new(), Some(text(path)?)),
            Kind::Method(method) => ("method", String::new(), Some(TextKind::Exact(method.clone()))),
        })
    }
}

/// It reads each condition as it is meant, or not at all.
#[test]
fn an_agent_of_the_first_release_refuses_what_it_does_not_know() {
    use first::TextKind::{Exact, Prefix, Regex};
    use prost::Message as _;
    let mut known = 0;
    for condition in conditions() {
        let Condition { subject, test, negate } = &condition;
        let sent = Filter { mode: Mode::All, conditions: vec![condition.clone()], preflights: false };
        let request = ToAgent::Intercept(InterceptRequest { filter: Some(sent.clone()), ..request() });
        let proto::ToAgentBody::Intercept(body) = (&request).into() else { panic!() };
        let encoded = body.filter.unwrap().conditions[0].encode_to_vec();
        let read = first::Condition::decode(&encoded[..]).unwrap();
        let text = match test {
            Test::Present => None,
            Test::Exact(value) => std::str::from_utf8(value).ok().map(|text| Exact(text.into())),
            Test::Prefix(value) => std::str::from_utf8(value).ok().map(|text| Prefix(text.into())),
            Test::Regex(pattern) => Some(Regex(pattern.clone())),
        };
        let meant = match (subject, &text) {
            _ if *negate => None,
            (Subject::Header(_), None) if *test == Test::Present => Some(("header", "x-user".to_owned(), None)),
            (Subject::Header(_), Some(_)) => Some(("header", "x-user".to_owned(), text)),
            (Subject::Path, Some(_)) => Some(("path", String::new(), text)),
            (Subject::Method, Some(Exact(_))) => Some(("method", String::new(), text)),
            _ => None,
        };
        assert_eq!(first::reads(&read), meant, "{condition:?}");
        if meant.is_some() {
            known += 1;
            // What it knows, its own redir sends in the same bytes.
            assert_eq!(read.encode_to_vec(), encoded, "{condition:?}");
        }
    }
    assert_eq!(known, 5 + 4 + 2);
}

/// The answers of an agent of the first release: without numbers, without overlaps.
#[test]
fn answers_of_the_first_release_are_understood() {
    let (mut developer, _) = pair();
    let left = proto::Left { what: vec!["web-1:8080".into(), "web-2:80".into()], ids: vec![] };
    let conflict = proto::Conflict { pod: "web-1".into(), developer: "bob".into(), since: 1, takes: 2, id: 0 };
    let state = proto::InterceptState { token: vec![1; 16], conflicts: vec![conflict], ..Default::default() };
    for body in [proto::ToDeveloperBody::Left(left), proto::ToDeveloperBody::Intercept(state)] {
        developer.receive(&frame(&proto::ToDeveloper { answers: 0, body: Some(body) }));
        match developer.poll().unwrap().unwrap().message {
            ToDeveloper::Left(left) => {
                assert!(left.intercepts.len() == 2 && left.intercepts.iter().all(|left| left.id.is_none()));
            }
            ToDeveloper::Intercept(state) => {
                assert!(state.conflicts[0].id.is_none() && state.overlaps.is_empty());
                assert!(!state.even_if_down && !state.forwarded);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_message_over_the_limit_is_not_sent() {
    let (_, mut agent) = pair();
    let entries = vec![InterceptEntry { reason: "r".repeat(2000), ..entry() }; 1000];
    let listing = ToDeveloper::Listing(Listing { pods: vec![], intercepts: entries });
    assert!(matches!(agent.send(1, &listing), Err(Malformed::TooLong { .. })));
    assert!(agent.output().is_empty());
}

#[test]
fn secrets_are_not_in_debug_text() {
    let text = format!("{:?}", ToAgent::Intercept(request()));
    assert!(!text.contains("alice") && !text.contains("core-") && text.contains("x-user"), "{text}");
    assert!(!text.contains("[7, 7"), "{text}");
}

/// Anything at all: an error or nothing, never a panic, never unbounded memory.
#[test]
fn noise_is_survived() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()[0]
    };
    for _ in 0..2000 {
        let (mut developer, mut agent) = pair();
        let length = byte() % 64;
        let mut bytes = vec![0, 0, 0, length];
        bytes.extend((0..length).map(|_| byte()));
        // Half of them look like one of our messages.
        if length > 3 && byte() % 2 == 0 {
            bytes[4] = 0x52 + (byte() % 10) * 8;
            bytes[5] = length - 2;
        }
        agent.receive(&bytes);
        agent.poll().ok();
        developer.receive(&bytes);
        developer.poll().ok();
        crate::StreamHeader::decode(&bytes).ok();
    }
}

fn hello(version: u32) -> proto::ToAgent {
    question(1, proto::ToAgentBody::Hello(proto::Hello { version, ..Default::default() }))
}

fn question(seq: u32, body: proto::ToAgentBody) -> proto::ToAgent {
    proto::ToAgent { seq, body: Some(body) }
}

fn frame(message: &impl prost::Message) -> BytesMut {
    let mut out = BytesMut::new();
    put_frame(message, &mut out).unwrap();
    assert_eq!(out.len(), 4 + message.encoded_len());
    out
}

fn labels(request: &mut proto::InterceptRequest) -> &mut Vec<proto::Label> {
    match request.selector.as_mut().unwrap().kind.as_mut().unwrap() {
        proto::SelectorKind::Labels(labels) => &mut labels.labels,
        proto::SelectorKind::Pod(_) => panic!("the request has labels"),
    }
}

fn filter(request: &mut proto::InterceptRequest) -> &mut proto::Filter {
    request.filter.as_mut().unwrap()
}
