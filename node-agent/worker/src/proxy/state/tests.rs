//! The states without sockets: bytes and ends in, actions out.

use std::{sync::Arc, time::Duration};

use redir_config::PodName;
use redir_http::{OpaqueReason, engine::Origin};
use tokio::time::Instant;

use super::*;
use crate::{
    memory::{self, Purpose},
    metrics::Metrics,
    proxy::{
        attention::Attention,
        flow::ClientSide,
        http2::preface::PREFACE,
        leg::{Leg, LegError},
    },
    upstream::UpstreamError,
};

/// The head of SETTINGS without any.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

/// A connection that is all bytes.
struct Machine {
    route: Route,
    access: Access,
    requests: Requests,
    flow: Flow,
    state: Box<dyn ConnectionState>,
}

impl Machine {
    /// Where nothing is intercepted, and the app's leg is being opened.
    fn new() -> Self {
        Self::begun(by_plan(None))
    }

    fn begun(next: Next) -> Self {
        let client = "192.0.2.1:4000".parse().unwrap();
        let access = Access::open(&PodName::new("web-1").unwrap(), 8080, client, &Arc::new(Metrics::new()));
        let (route, requests, flow) = (Route::for_test(client), Requests::default(), Flow::new());
        let mut machine = Machine { route, access, requests, flow, state: next.state };
        machine.flow.legs.push(Leg::new(Origin::App, Box::pin(std::future::pending())));
        machine
    }

    fn ask<T>(&mut self, question: impl FnOnce(&mut dyn ConnectionState, &mut Context<'_>) -> T) -> T {
        let Machine { route, access, requests, flow, state } = self;
        question(&mut **state, &mut Context { route, access, requests, flow })
    }

    /// The client has sent these as well.
    fn client(&mut self, bytes: &[u8]) -> Action {
        self.flow.up.append(bytes);
        self.ask(|state, at| state.client_bytes(None, at))
    }

    /// The app has sent these as well.
    fn app(&mut self, bytes: &[u8]) -> Action {
        self.flow.leg_mut(Origin::App).unwrap().down.append(bytes);
        self.ask(|state, at| state.origin_bytes(Origin::App, at))
    }

    /// The client's first bytes are written.
    fn forwarded(&mut self, action: &Action) -> usize {
        let &Action::Forward(Forward { to: Origin::App, len, .. }) = action else {
            panic!("it is forwarded to the app")
        };
        self.flow.up.take(len);
        len
    }

    /// The app's first bytes are written.
    fn written(&mut self, action: &Action) -> AfterWrite {
        let &Action::Write { len, then } = action else { panic!("it is written") };
        self.flow.leg_mut(Origin::App).unwrap().down.take(len);
        if then != AfterWrite::More {
            self.ask(|state, at| state.answer_complete(at));
        }
        then
    }

    /// What it becomes.
    fn becomes(&mut self, action: Action) -> Legs {
        let Action::Become(next) = action else { panic!("it becomes another state") };
        let Next { state, legs } = *next;
        self.state = state;
        legs
    }

    /// Nothing moves until this moment.
    fn rest(&mut self, now: Instant) -> Result<Option<Instant>, Action> {
        self.ask(|state, at| state.at_rest(now, at))
    }

    fn app_ends(&mut self, error: Option<LegError>) -> Action {
        let leg = self.flow.leg_mut(Origin::App).unwrap();
        leg.end_for_test(error);
        leg.take_end();
        self.ask(|state, at| state.origin_end(Origin::App, at))
    }
}

#[test]
fn requests_and_answers_are_forwarded_one_by_one() {
    let mut machine = Machine::new();
    for _ in 0..2 {
        let action = machine.client(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(machine.forwarded(&action), 27);
        let action = machine.app(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        assert_eq!(machine.written(&action), AfterWrite::Answered);
    }
    assert_eq!((machine.access.app_requests, machine.requests.len()), (2, 2), "the driver says what is written");
}

#[test]
fn a_head_that_does_not_end_is_waited_for_and_then_goes_on_unread() {
    let mut machine = Machine::new();
    assert!(matches!(machine.client(b"GET / HTTP/1.1\r\nHos"), Action::Wait));
    let now = Instant::now();
    let Ok(Some(until)) = machine.rest(now) else { panic!("it waits") };
    assert_eq!(until, now + Duration::from_secs(30));
    assert!(matches!(machine.client(b"t: x\r\n"), Action::Wait));
    let Ok(Some(same)) = machine.rest(now + Duration::from_secs(29)) else { panic!("it waits") };
    assert_eq!(same, until, "however often a byte comes");
    let Err(action) = machine.rest(until) else { panic!("no longer") };
    assert!(matches!(machine.becomes(action), Legs::Only(Origin::App, None)));
    assert_eq!(machine.access.opaque, Some(OpaqueReason::HeadTooSlow.as_str()));
    assert_eq!(machine.forwarded_all(), 25);
}

#[test]
fn what_finds_no_memory_goes_on_unread() {
    let mut machine = Machine::new();
    assert!(matches!(machine.client(b"GET / HTTP/1.1\r\nHos"), Action::Wait));
    assert_eq!(machine.ask(|state, at| state.unfinished(at)), Unfinished { client: true, leg: None });
    let action = machine.ask(|state, at| state.memory_scarce(Side::Client, at));
    machine.becomes(action);
    assert_eq!(machine.access.opaque, Some(OpaqueReason::MemoryScarce.as_str()));
    assert_eq!(machine.forwarded_all(), 19);
}

impl Machine {
    /// Opaque: everything that the client has sent goes on.
    fn forwarded_all(&mut self) -> usize {
        let action = self.ask(|state, at| state.client_bytes(None, at));
        let len = self.forwarded(&action);
        assert!(self.flow.up.is_empty());
        len
    }
}

#[test]
fn an_app_that_ends_before_anything_was_said_is_still_written_to() {
    let mut machine = Machine::new();
    let action = machine.app_ends(None);
    machine.becomes(action);
    assert_eq!(machine.access.opaque, Some(OpaqueReason::ServerFirst.as_str()));
    // The end is told to the new state as well.
    let action = machine.ask(|state, at| state.origin_end(Origin::App, at));
    assert!(matches!(action, Action::EndClient));
    let action = machine.ask(|state, at| state.client_end(at));
    assert!(matches!(action, Action::PassEnd(Some(Origin::App))));
    machine.flow.client_side = ClientSide::Told;
    let action = machine.ask(|state, at| state.after_turn(at));
    assert!(matches!(action, Action::End(End::Closed("both_closed"))));
}

#[test]
fn an_app_that_cannot_be_reached_resets_its_client() {
    let mut machine = Machine::new();
    let action = machine.app_ends(Some(LegError::Upstream(UpstreamError::Refused)));
    assert!(matches!(action, Action::Wait), "the client may still say nothing");
    let action = machine.ask(|state, at| state.after_turn(at));
    assert!(matches!(action, Action::End(End::Reset(_))));
}

#[test]
fn a_client_that_ends_inside_a_head_hands_it_to_the_app() {
    let mut machine = Machine::new();
    assert!(matches!(machine.client(b"GET / HTT"), Action::Wait));
    assert!(matches!(machine.ask(|state, at| state.client_end(at)), Action::AskAgain));
    let action = machine.ask(|state, at| state.client_bytes(None, at));
    machine.becomes(action);
    assert_eq!(machine.forwarded_all(), 9);
    assert!(matches!(machine.ask(|state, at| state.client_end(at)), Action::PassEnd(Some(Origin::App))));
}

#[test]
fn a_preface_goes_ahead_alone_and_settings_make_it_http2() {
    let mut machine = Machine::begun(Next::kept(preface::ExpectPreface::new(None)));
    assert!(matches!(machine.client(&PREFACE[..20]), Action::Wait));
    let action = machine.client(&[&PREFACE[20..], SETTINGS].concat());
    assert!(matches!(machine.becomes(action), Legs::Kept));
    let action = machine.ask(|state, at| state.client_bytes(None, at));
    let Action::Forward(forward) = &action else { panic!("it is passed on") };
    assert_eq!((forward.len, forward.part), (PREFACE.len(), Part::Opening));
    machine.forwarded(&action);
    machine.flow.client = Attention::Held;
    assert!(matches!(machine.app(&SETTINGS[..5]), Action::Wait));
    assert!(matches!(machine.app(&SETTINGS[5..]), Action::Hold));
    let action = machine.ask(|state, at| state.after_turn(at));
    assert!(matches!(action, Action::Http2 { to: Origin::App, upgrade: None }));
}

#[test]
fn an_app_that_does_not_answer_a_preface_with_settings_gets_everything() {
    let mut machine = Machine::begun(Next::kept(preface::ExpectPreface::new(None)));
    let action = machine.client(PREFACE);
    machine.becomes(action);
    let action = machine.ask(|state, at| state.client_bytes(None, at));
    machine.forwarded(&action);
    let action = machine.app(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    assert!(matches!(machine.becomes(action), Legs::Only(Origin::App, None)));
    assert_eq!(machine.access.opaque, Some(OpaqueReason::Http2.as_str()));
}

#[test]
fn whoever_is_silent_behind_a_preface_is_spoken_to_after_a_second() {
    let mut machine = Machine::begun(Next::kept(preface::ExpectPreface::new(None)));
    let now = Instant::now();
    assert!(matches!(machine.rest(now), Ok(None)), "nobody has said anything");
    let action = machine.client(PREFACE);
    machine.becomes(action);
    let action = machine.ask(|state, at| state.client_bytes(None, at));
    machine.forwarded(&action);
    let Ok(Some(until)) = machine.rest(now) else { panic!("it waits") };
    assert_eq!(until, now + Duration::from_secs(1));
    assert!(matches!(machine.rest(until), Err(Action::Http2 { to: Origin::App, .. })));
}

#[test]
fn a_developer_who_ends_before_the_preface_is_whole_does_not_make_it_http2() {
    let mut machine = Machine::begun(Next::kept(preface::ExpectPreface::new(None)));
    assert!(matches!(machine.client(&PREFACE[..16]), Action::Wait));
    let alice = Origin::Developer(redir_http::filter::Key(1));
    machine.flow.legs.push(Leg::new(alice, Box::pin(std::future::pending())));
    let action = machine.ask(|state, at| state.origin_end(alice, at));
    assert!(matches!(action, Action::CloseLeg));
}

/// In a process of its own: the budget is all connections'.
#[test]
fn a_first_header_block_that_finds_no_memory_makes_the_connection_opaque() {
    let test = "proxy::state::tests::a_first_header_block_that_finds_no_memory_makes_the_connection_opaque";
    if !memory::tests::alone(test) {
        return;
    }
    const OPEN: [u8; 9] = [0, 0, 100, 1, 0, 0, 0, 0, 1];
    let unread = [SETTINGS, &OPEN, &[0; 40]].concat();
    let handed_over = || {
        let mut machine = Machine::begun(Next::kept(preface::ExpectPreface::new(None)));
        let action = machine.client(&[PREFACE, &unread[..]].concat());
        machine.becomes(action);
        let action = machine.ask(|state, at| state.client_bytes(None, at));
        machine.forwarded(&action);
        machine.flow.client = Attention::Held;
        assert!(matches!(machine.app(SETTINGS), Action::Hold));
        let action = machine.ask(|state, at| state.after_turn(at));
        (machine, action)
    };
    let all = memory::tests::exhaust(Purpose::LongMessage);
    let (mut machine, action) = handed_over();
    assert!(matches!(machine.becomes(action), Legs::Only(Origin::App, None)));
    assert_eq!(machine.forwarded_all(), unread.len(), "as it came");
    assert_eq!(machine.access.opaque, Some(OpaqueReason::MemoryScarce.as_str()));
    drop(all);
    let (_, action) = handed_over();
    assert!(matches!(action, Action::Http2 { .. }), "with memory it is waited for");
}
