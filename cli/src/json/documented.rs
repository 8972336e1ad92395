//! The tables of events in `docs/src/json-events.md` and `redir intercept --help` against what is written.

use std::collections::{BTreeMap, BTreeSet};

use redir_wire::{ConnectionBytes, EarlierConnections, Listening, Miss, PodFlush, PodTls, RequestEvent, UnixMillis};

use super::*;
use crate::events::{AppListening, LivePod};
use crate::wording::help;

const PAGE: &str = include_str!("../../../docs/src/json-events.md");

type Fields = BTreeMap<String, BTreeSet<String>>;

/// Whether `redir intercept` writes it: a new kind of event has to be put into the table, or into [`samples`] at least.
fn is_of_intercept(event: &Event) -> bool {
    match event {
        Event::Connected { .. }
        | Event::Created { .. }
        | Event::Status { .. }
        | Event::Recreated { .. }
        | Event::Live(_)
        | Event::Tls { .. }
        | Event::Flushed { .. }
        | Event::App(_)
        | Event::NotIntercepted { .. }
        | Event::InterceptedAgain { .. }
        | Event::Probe { .. }
        | Event::NotLive { .. }
        | Event::Refused { .. }
        | Event::Conflict(_)
        | Event::ConflictOver(_)
        | Event::Overlap(_)
        | Event::OverlapOver(_)
        | Event::Request { .. }
        | Event::Connection { .. }
        | Event::NobodyAnswers { .. }
        | Event::Lost { .. }
        | Event::Restored { .. }
        | Event::Bypassed { .. }
        | Event::Command(_)
        | Event::Ended { .. } => true,
        Event::ClusterIntercept(_)
        | Event::Workload(_)
        | Event::Happened { .. }
        | Event::Check(_)
        | Event::Step(_)
        | Event::Pod { .. }
        | Event::Intercept { .. }
        | Event::Tunnel { .. }
        | Event::Left { .. } => false,
    }
}

/// One of each kind that `redir intercept` writes.
fn samples() -> Vec<Event> {
    let text = String::new;
    let request = RequestEvent {
        intercept: 7,
        when: UnixMillis(0),
        method: text(),
        path: text(),
        status: 200,
        micros: 1,
        pod: text(),
        client: text(),
        missed: 0,
        outcome: RequestOutcome::Answered,
        grpc_status: None,
        bytes: Some(ConnectionBytes::default()),
    };
    let clash = InterceptConflict {
        agent: text(),
        pod: text(),
        id: None,
        developer: text(),
        whose: Owner::Other,
        since: UnixMillis(0),
        takes: Takes::Shared,
    };
    let live = LivePod {
        agent: text(),
        id: 7,
        pod: text(),
        port: 80,
        to: text(),
        local: ServiceInput::Plaintext,
        tls: false,
        filter: None,
        addresses: Vec::new(),
        earlier_connections: 0,
        earlier: EarlierConnections::Stay,
        after_ms: 1,
        listening: None,
        even_if_down: false,
        curl: None,
        first: true,
    };
    let app = AppListening {
        agent: text(),
        pod: text(),
        port: 80,
        listening: Listening::Nobody,
        even_if_down: false,
        filtered: false,
        curl: None,
    };
    let miss = Miss { cause: text(), sentence: text() };
    let tls = PodTls { handling: TlsHandling::Unread, sentence: text() };
    let command = [
        CommandState::Started { pid: 1 },
        CommandState::Ready { addresses: Vec::new(), taken: Vec::new() },
        CommandState::Ended { code: 0 },
    ];
    let mut samples = vec![
        Event::Connected { agent: text(), address: text(), developer: text() },
        Event::Created { intercept: text(), namespace: text(), target: text() },
        Event::Status { live: 1, pods: 1, missing: Vec::new() },
        Event::Recreated { intercept: text() },
        Event::Live(live),
        Event::App(app),
        Event::NotIntercepted { agent: text(), pod: text(), port: 80, miss },
        Event::InterceptedAgain { agent: text(), pod: text(), port: 80, cause: text() },
        Event::Tls { agent: text(), pod: text(), port: 80, tls, local: None },
        Event::Flushed { agent: text(), pod: text(), port: 80, flushed: PodFlush::default() },
        Event::Probe { agent: text(), pod: text(), port: 80, sentence: text() },
        Event::NotLive { agent: text(), pod: text(), state: Liveness::Lost, reason: text() },
        Event::Refused { agent: text(), reason: text() },
        Event::Conflict(clash.clone()),
        Event::ConflictOver(clash.clone()),
        Event::Overlap(clash.clone()),
        Event::OverlapOver(clash),
        Event::Request { agent: text(), event: request.clone() },
        Event::Connection { agent: text(), event: request },
        Event::NobodyAnswers { to: text() },
        Event::Lost { agent: text(), reason: text() },
        Event::Restored { agent: text(), pods: Vec::new(), after_ms: 1 },
        Event::Bypassed { agent: text(), id: 7, requests: 1 },
        Event::Ended { reason: text() },
    ];
    samples.extend(command.map(Event::Command));
    samples
}

fn written() -> Fields {
    let mut written = Fields::new();
    for event in samples() {
        assert!(is_of_intercept(&event), "{event:?}");
        let Value::Object(fields) = value(&event) else { panic!("{event:?} is no object") };
        let name = fields["event"].as_str().unwrap().to_owned();
        written.entry(name).or_default().extend(fields.into_iter().map(|(field, _)| field).filter(|f| f != "event"));
    }
    written
}

/// Without what is in parentheses: values and explanations.
fn outside_parentheses(text: &str) -> String {
    text.split('(').enumerate().map(|(n, part)| if n == 0 { part } else { part.split_once(')').unwrap().1 }).collect()
}

fn quoted(text: &str) -> impl Iterator<Item = String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned)
}

#[test]
fn the_page_has_every_event_with_its_fields() {
    let table = PAGE.split("| event | fields |").nth(1).expect("the table of events");
    let mut documented = Fields::new();
    for row in table.lines().skip(2).take_while(|line| line.starts_with('|')) {
        let (names, fields) = row.trim_start_matches('|').split_once('|').unwrap();
        for name in quoted(names) {
            documented.insert(name, quoted(&outside_parentheses(fields)).collect());
        }
    }
    assert_eq!(documented, written());
}

#[test]
fn the_help_has_every_event_with_its_fields() {
    let list = help::INTERCEPT_EXAMPLES.split("With -o json").nth(1).expect("the list of events");
    let mut documented: BTreeMap<String, String> = BTreeMap::new();
    let mut name = String::new();
    for line in list.lines().skip(1).take_while(|line| line.starts_with("  ")) {
        let text = match line[2..].starts_with(' ') {
            true => line,
            false => {
                let (first, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
                first.clone_into(&mut name);
                rest
            }
        };
        documented.entry(name.clone()).or_default().push_str(text);
    }
    let written = written();
    assert_eq!(documented.keys().collect::<Vec<_>>(), written.keys().collect::<Vec<_>>());
    let as_conflict = documented["conflict"].clone();
    for (name, fields) in written {
        let text = if documented[&name].contains("as conflict") { &as_conflict } else { &documented[&name] };
        let words: Vec<&str> = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
        for field in fields {
            assert!(words.contains(&field.as_str()), "{name} has no {field} in the help: {text}");
        }
    }
}
