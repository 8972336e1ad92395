//! Events as JSON, one object a line.
//!
//! Owns: which event becomes which of [`lines`], and that each is ASCII. Must not print. Called by: `screen`, `commands`.

mod described;
mod lines;

use std::net::SocketAddr;

use redir_api::PodState;
use redir_wire::{InterceptEntry, Listening, Liveness, Owner, RequestEvent, RequestOutcome, Takes, TlsHandling};
use serde::Serialize;
use serde_json::{Value, json};

use self::lines::{
    ActionName, AdminLine, AnswerLine, CommandStateName, ConflictLine, ConflictOverLine, ConnectionState, FindingName,
    InterceptLine, InterceptPodLine, ListeningName, LivenessName, NamedReason, OutcomeName, PodStateName, RightLine,
    ServiceInputName, ServiceStateName, TakesName, TlsHandlingName,
};
use crate::curl::CurlLine;
use crate::escape::{Charset, escape, escape_sentence};
use crate::events::{AdminStep, CommandState, Event, InterceptConflict, ObjectAction, ServiceInput};
use crate::model::access::AccessRight;
use crate::model::check::Finding;
use crate::model::rows::InterceptRow;
use crate::timestamps::rfc3339;
use crate::wording::events::app_sentence;

pub(crate) use self::described::{admin_help, answer_help, intercept_help};

/// One line, ASCII only, without its newline. What is about one intercepted port names it.
pub(crate) fn line(event: &Event, port: Option<u16>) -> String {
    let mut value = value(event);
    if let (Some(port), Value::Object(fields)) = (port, &mut value) {
        fields.entry("port").or_insert_with(|| json!(port));
    }
    ascii(&value.to_string())
}

fn value(event: &Event) -> Value {
    match event {
        Event::ClusterIntercept(_)
        | Event::Workload(_)
        | Event::Happened { .. }
        | Event::Check(_)
        | Event::Pod { .. }
        | Event::Intercept { .. }
        | Event::Tunnel { .. }
        | Event::Left { .. } => to_value(answer_line(event)),
        Event::Step(step) => to_value(Some(admin_line(step))),
        _ => to_value(intercept_line(event)),
    }
}

/// Types of strings and numbers always become JSON.
fn to_value(line: Option<impl Serialize>) -> Value {
    line.and_then(|line| serde_json::to_value(line).ok()).unwrap_or_default()
}

fn intercept_line(event: &Event) -> Option<InterceptLine> {
    Some(match event.clone() {
        Event::Connected { agent, address, developer } => InterceptLine::Connected { agent, address, developer },
        Event::Created { intercept, namespace, target } => InterceptLine::Created { intercept, namespace, target },
        Event::Status { live, pods, missing } => {
            InterceptLine::Status { live, pods, missing: missing.iter().map(named_reason).collect() }
        }
        Event::Recreated { intercept } => InterceptLine::Recreated { intercept },
        Event::Live(live) => InterceptLine::Live {
            agent: live.agent,
            id: live.id,
            pod: live.pod,
            port: live.port,
            to: live.to,
            local: service_input(live.local),
            app: live.listening.map(listening),
            addresses: live.addresses,
            earlier_connections: live.earlier_connections,
            after_ms: live.after_ms,
            curl: curl_line(live.curl.as_ref()),
        },
        Event::App(app) => InterceptLine::App {
            reason: escape_sentence(&app_sentence(&app)),
            state: listening(app.listening),
            curl: curl_line(app.curl.as_ref()),
            agent: app.agent,
            pod: app.pod,
            port: app.port,
        },
        Event::NotIntercepted { agent, pod, port, miss } => InterceptLine::NotIntercepted {
            agent,
            pod,
            port,
            cause: miss.cause,
            reason: escape_sentence(&miss.sentence),
        },
        Event::InterceptedAgain { agent, pod, port, cause } => {
            InterceptLine::InterceptedAgain { agent, pod, port, cause }
        }
        Event::Tls { agent, pod, port, tls, local } => InterceptLine::Tls {
            agent,
            pod,
            port,
            state: tls_handling(tls.handling),
            local: local.map(service_input),
            reason: escape_sentence(&tls.sentence),
        },
        Event::Flushed { agent, pod, port, flushed } => InterceptLine::Flushed {
            agent,
            pod,
            port,
            closed: flushed.closed,
            left: flushed.left,
            reason: Some(escape_sentence(&flushed.reason)).filter(|reason| !reason.is_empty()),
        },
        Event::Probe { agent, pod, port, sentence } => {
            InterceptLine::Probe { agent, pod, port, reason: escape_sentence(&sentence) }
        }
        Event::NotLive { agent, pod, state, reason } => {
            InterceptLine::Refused { agent, pod: Some(pod), state: liveness(state), reason: escape_sentence(&reason) }
        }
        Event::Refused { agent, reason } => {
            InterceptLine::Refused { agent, pod: None, state: LivenessName::Refused, reason: escape_sentence(&reason) }
        }
        Event::Conflict(with) => InterceptLine::Conflict(conflict(with)),
        Event::Overlap(with) => InterceptLine::Overlap(conflict(with)),
        Event::ConflictOver(with) => InterceptLine::ConflictOver(conflict_over(with)),
        Event::OverlapOver(with) => InterceptLine::OverlapOver(conflict_over(with)),
        Event::Request { agent, event } => request(agent, event),
        Event::Connection { agent, event } => connection(agent, event),
        Event::Lost { agent, reason } => InterceptLine::Lost { agent, reason: escape_sentence(&reason) },
        Event::Restored { agent, pods, after_ms } => InterceptLine::Restored { agent, pods, after_ms },
        Event::Bypassed { agent, id, requests } => InterceptLine::Bypassed { agent, id, requests },
        Event::NobodyAnswers { to } => InterceptLine::Service { state: ServiceStateName::Silent, to },
        Event::Command(state) => command(&state),
        Event::Ended { reason } => InterceptLine::Ended { reason: escape_sentence(&reason) },
        Event::ClusterIntercept(_)
        | Event::Workload(_)
        | Event::Happened { .. }
        | Event::Check(_)
        | Event::Step(_)
        | Event::Pod { .. }
        | Event::Intercept { .. }
        | Event::Tunnel { .. }
        | Event::Left { .. } => return None,
    })
}

fn answer_line(event: &Event) -> Option<AnswerLine> {
    Some(match event.clone() {
        Event::Pod { agent, pod } => AnswerLine::Pod {
            agent,
            pod: pod.name,
            labels: pod.labels,
            ports: Some(pod.ports).filter(|ports| !ports.is_empty()),
        },
        Event::Workload(workload) => {
            AnswerLine::Workload { namespace: workload.namespace, target: workload.target, ports: workload.ports }
        }
        Event::Intercept { agent, entry } => static_intercept(agent, entry),
        Event::ClusterIntercept(row) => cluster_intercept(row),
        Event::Tunnel { agent, software, tunnel } => AnswerLine::Tunnel {
            agent,
            software,
            address: tunnel.address,
            user: tunnel.user,
            since: rfc3339(tunnel.since),
            rtt_ms: milliseconds(tunnel.rtt_micros),
            streams: tunnel.streams,
            streams_total: tunnel.streams_total,
            sent_bytes: tunnel.sent_bytes,
            received_bytes: tunnel.received_bytes,
            asking: tunnel.asking,
        },
        Event::Left { agent, what, count, ids } => AnswerLine::Left { agent, what, count, ids },
        Event::Happened { at, reason, object, node, message } => {
            AnswerLine::Happened { at: rfc3339(at), reason, object, node, message }
        }
        Event::Check(check) => AnswerLine::Check {
            check: check.what.to_owned(),
            finding: match check.finding {
                Finding::Good => FindingName::Good,
                Finding::Note => FindingName::Note,
                Finding::Problem => FindingName::Problem,
            },
            sentence: escape_sentence(&check.sentence),
            missing: check.missing.iter().map(right).collect(),
        },
        _ => return None,
    })
}

fn admin_line(step: &AdminStep) -> AdminLine {
    match step.clone() {
        AdminStep::Object { action, kind, name, namespace, is_dry_run } => {
            AdminLine::Object { action: action_name(action), kind, name, namespace, dry_run: is_dry_run }
        }
        AdminStep::Agents { ready, wanted } => AdminLine::Agents { ready, wanted },
        AdminStep::AgentNotReady { node, pod, reason } => {
            AdminLine::AgentNotReady { node, pod, reason: escape_sentence(&reason) }
        }
        AdminStep::Remark { sentence } => AdminLine::Remark { sentence: escape_sentence(&sentence) },
        AdminStep::Done { sentence } => AdminLine::Done { sentence: escape_sentence(&sentence) },
    }
}

fn named_reason((name, reason): &(String, String)) -> NamedReason {
    NamedReason { name: name.clone(), reason: escape_sentence(reason) }
}

fn curl_line(curl: Option<&CurlLine>) -> Option<String> {
    curl.map(|line| line.shown(Charset::Ascii))
}

fn request(agent: String, event: RequestEvent) -> InterceptLine {
    InterceptLine::Request {
        agent,
        id: event.intercept,
        pod: event.pod,
        client: event.client,
        when: rfc3339(event.when),
        method: escape(&event.method),
        path: escape(&event.path),
        status: Some(event.status).filter(|status| *status != 0),
        grpc_status: event.grpc_status,
        outcome: outcome(&event.outcome),
        reason: refusal(&event.outcome),
        ms: milliseconds(event.micros),
        missed: event.missed,
    }
}

fn connection(agent: String, event: RequestEvent) -> InterceptLine {
    InterceptLine::Connection {
        agent,
        id: event.intercept,
        pod: event.pod,
        client: event.client,
        when: rfc3339(event.when),
        state: if event.bytes.is_some() { ConnectionState::Closed } else { ConnectionState::Open },
        received: event.bytes.map(|bytes| bytes.received),
        sent: event.bytes.map(|bytes| bytes.sent),
        outcome: outcome(&event.outcome),
        reason: refusal(&event.outcome),
        ms: milliseconds(event.micros),
        missed: event.missed,
    }
}

fn outcome(outcome: &RequestOutcome) -> OutcomeName {
    match outcome {
        RequestOutcome::Answered => OutcomeName::Answered,
        RequestOutcome::Refused(_) => OutcomeName::Refused,
        RequestOutcome::ClientLeft => OutcomeName::ClientLeft,
        RequestOutcome::Cut => OutcomeName::Cut,
        RequestOutcome::Other => OutcomeName::Other,
    }
}

fn refusal(outcome: &RequestOutcome) -> Option<String> {
    match outcome {
        RequestOutcome::Refused(why) => Some(escape_sentence(why)),
        RequestOutcome::Answered | RequestOutcome::ClientLeft | RequestOutcome::Cut | RequestOutcome::Other => None,
    }
}

fn conflict(with: InterceptConflict) -> ConflictLine {
    ConflictLine {
        agent: with.agent,
        pod: with.pod,
        developer: with.developer,
        yours: with.whose == Owner::You,
        id: with.id,
        since: rfc3339(with.since),
        takes: match with.takes {
            Takes::Everything => TakesName::Everything,
            Takes::Shared => TakesName::Shared,
        },
    }
}

fn conflict_over(with: InterceptConflict) -> ConflictOverLine {
    ConflictOverLine { agent: with.agent, pod: with.pod, developer: with.developer, id: with.id }
}

fn command(state: &CommandState) -> InterceptLine {
    let texts = |addresses: &[SocketAddr]| Some(addresses.iter().map(ToString::to_string).collect());
    let (pid, port, addresses, taken, code) = (None, None, None, None, None);
    match state {
        CommandState::Started { pid } => {
            InterceptLine::Command { state: CommandStateName::Started, pid: Some(*pid), port, addresses, taken, code }
        }
        CommandState::Ready { addresses, taken } => InterceptLine::Command {
            state: CommandStateName::Ready,
            port: addresses.first().map(SocketAddr::port),
            addresses: texts(addresses),
            taken: texts(taken),
            pid,
            code,
        },
        CommandState::Ended { code } => {
            InterceptLine::Command { state: CommandStateName::Ended, code: Some(*code), pid, port, addresses, taken }
        }
    }
}

fn static_intercept(agent: String, entry: InterceptEntry) -> AnswerLine {
    AnswerLine::StaticIntercept {
        agent,
        id: entry.id,
        developer: entry.developer,
        yours: entry.owner == Owner::You,
        pod: entry.pod,
        port: entry.port,
        filter: entry.filter,
        to: Some(entry.to).filter(|to| !to.is_empty()),
        since: rfc3339(entry.since),
        state: liveness(entry.state),
        reason: escape_sentence(&entry.reason),
        requests: entry.requests,
        tls: entry.tls.map(|tls| tls_handling(tls.handling)),
        app: entry.listening.map(listening),
    }
}

fn cluster_intercept(row: InterceptRow) -> AnswerLine {
    let pod_state = |state| match state {
        PodState::Waiting => PodStateName::Waiting,
        PodState::Pending => PodStateName::Pending,
        PodState::Live => PodStateName::Live,
        PodState::Refused => PodStateName::Refused,
        PodState::Lost => PodStateName::Lost,
    };
    AnswerLine::ClusterIntercept {
        live: row.live(),
        pods: row
            .pods
            .into_iter()
            .map(|pod| InterceptPodLine {
                node: pod.node,
                pod: pod.pod,
                addresses: pod.addresses,
                port: pod.port,
                state: pod_state(pod.state),
                reason: escape_sentence(&pod.reason),
                nobody_listens: pod.nobody_listens,
            })
            .collect(),
        reasons: row.reasons.iter().map(named_reason).collect(),
        namespace: row.namespace,
        name: row.name,
        target: row.target,
        port: row.port,
        developer: row.user,
        developer_checked: row.is_checked,
        from: row.from,
        yours: row.is_own,
        since: rfc3339(row.since),
        filter: row.filter,
        to: row.to,
    }
}

fn service_input(local: ServiceInput) -> ServiceInputName {
    match local {
        ServiceInput::Plaintext => ServiceInputName::Plaintext,
        ServiceInput::Tls => ServiceInputName::Tls,
        ServiceInput::AsSent => ServiceInputName::AsSent,
    }
}

fn listening(listening: Listening) -> ListeningName {
    match listening {
        Listening::Yes => ListeningName::Listening,
        Listening::Nobody => ListeningName::Nobody,
        Listening::LoopbackOnly => ListeningName::LoopbackOnly,
    }
}

fn tls_handling(handling: TlsHandling) -> TlsHandlingName {
    match handling {
        TlsHandling::Unread => TlsHandlingName::Unread,
        TlsHandling::Passed => TlsHandlingName::Passed,
        TlsHandling::Decrypted => TlsHandlingName::Decrypted,
        TlsHandling::Clear => TlsHandlingName::Clear,
        TlsHandling::Other => TlsHandlingName::Other,
    }
}

fn right(right: &AccessRight) -> RightLine {
    RightLine {
        verb: right.verb.to_owned(),
        group: right.group.to_owned(),
        resource: right.resource.to_owned(),
        name: right.name.clone(),
    }
}

fn action_name(action: ObjectAction) -> ActionName {
    match action {
        ObjectAction::Create => ActionName::Create,
        ObjectAction::Apply => ActionName::Apply,
        ObjectAction::Change => ActionName::Change,
        ObjectAction::Delete => ActionName::Delete,
        ObjectAction::Keep => ActionName::Keep,
    }
}

fn liveness(state: Liveness) -> LivenessName {
    match state {
        Liveness::Pending => LivenessName::Pending,
        Liveness::Live => LivenessName::Live,
        Liveness::Refused => LivenessName::Refused,
        Liveness::Lost => LivenessName::Lost,
    }
}

/// Milliseconds with three digits behind the point.
fn milliseconds(micros: u64) -> f64 {
    // The nearest double of a decimal with three places prints as that decimal again.
    let text = format!("{}.{:03}", micros / 1000, micros % 1000);
    text.parse().unwrap_or_default()
}

/// JSON's own escapes for what is not ASCII: a terminal that shows the line is safe from C1 controls too.
fn ascii(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let mut units = [0_u16; 2];
    for character in json.chars() {
        match character {
            ' '..='~' => out.push(character),
            _ => character.encode_utf16(&mut units).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}"))),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use redir_wire::{RequestEvent, UnixMillis};

    use super::*;

    #[test]
    fn a_request() {
        let event = RequestEvent {
            intercept: 7,
            when: UnixMillis(1_795_460_584_005),
            method: "GET".into(),
            path: "/a\u{1b}é".into(),
            status: 0,
            micros: 12_345,
            pod: "web-1".into(),
            client: "10.0.0.9:4000".into(),
            missed: 0,
            outcome: redir_wire::RequestOutcome::Answered,
            grpc_status: None,
            bytes: None,
        };
        let line = line(&Event::Request { agent: "node-1".into(), event }, Some(8080));
        assert_eq!(
            line,
            r#"{"agent":"node-1","client":"10.0.0.9:4000","event":"request","grpc_status":null,"id":7,"method":"GET","missed":0,"ms":12.345,"outcome":"answered","path":"/a\\x1b\\xc3\\xa9","pod":"web-1","port":8080,"reason":null,"status":null,"when":"2026-11-23T19:03:04.005Z"}"#
        );
    }

    #[test]
    fn any_text_stays_ascii_and_valid() {
        let nasty = "\u{0}\u{1b}[2J\u{7f}\u{9b}é\u{1f600}\"\\\n";
        let line = line(&Event::Left { agent: nasty.into(), what: nasty.into(), count: 1, ids: vec![3] }, None);
        assert!(line.bytes().all(|b| (0x20..=0x7e).contains(&b)), "{line}");
        let back: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(back["what"], nasty);
    }
}
