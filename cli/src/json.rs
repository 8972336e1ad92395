//! Events as JSON, one object a line: the schema that `redir intercept --help` documents.
//!
//! Owns: the names of the fields. Must not print. Called by: `screen`.

use std::net::SocketAddr;

use redir_wire::{InterceptEntry, Listening, Liveness, Owner, RequestOutcome, Takes, TlsHandling};
use serde_json::{Value, json};

use crate::cluster::diagnosis::Finding;
use crate::cluster::rights::Right;
use crate::cluster::rows::InterceptRow;
use crate::escape::{Charset, escape, escape_sentence};
use crate::events::{AdminStep, CommandState, Event, InterceptConflict, ObjectAction, ServiceInput};
use crate::timestamps::rfc3339;
use crate::wording::events::app_sentence;

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
        Event::Connected { agent, address, developer } => {
            json!({"event": "connected", "agent": agent, "address": address, "developer": developer})
        }
        Event::Created { intercept, namespace, target } => {
            json!({"event": "created", "intercept": intercept, "namespace": namespace, "target": target})
        }
        Event::Status { live, pods, missing } => {
            let missing: Vec<Value> =
                missing.iter().map(|(name, why)| json!({"name": name, "reason": escape_sentence(why)})).collect();
            json!({"event": "standing", "live": live, "pods": pods, "missing": missing})
        }
        Event::ClusterIntercept(row) => wish(row),
        Event::Check(check) => json!({
            "event": "check", "check": check.what, "finding": finding(check.finding),
            "sentence": escape_sentence(&check.sentence), "missing": check.missing.iter().map(right).collect::<Vec<_>>(),
        }),
        Event::Step(step) => self::step(step),
        Event::Workload(workload) => json!({
            "event": "workload", "namespace": workload.namespace, "target": workload.target, "ports": workload.ports,
        }),
        Event::Happened { at, reason, object, node, message } => json!({
            "event": "happened", "at": rfc3339(*at), "reason": reason, "object": object, "node": node, "message": message,
        }),
        Event::Recreated { intercept } => json!({"event": "recreated", "intercept": intercept}),
        Event::Live(live) => json!({
            "event": "live", "agent": live.agent, "id": live.id, "pod": live.pod, "port": live.port, "to": live.to,
            "local": local(live.local), "app": live.listening.map(listening), "addresses": live.addresses, "earlier_connections": live.earlier_connections, "after_ms": live.after_ms,
            "curl": live.curl.as_ref().map(|line| line.shown(Charset::Ascii)),
        }),
        Event::Tls { agent, pod, port, tls, local: gets } => json!({
            "event": "tls", "agent": agent, "pod": pod, "port": port, "state": handling(tls.handling),
            "local": gets.map(local), "reason": escape_sentence(&tls.sentence),
        }),
        Event::Flushed { agent, pod, port, flushed } => json!({
            "event": "flushed", "agent": agent, "pod": pod, "port": port, "closed": flushed.closed, "left": flushed.left,
            "reason": Some(escape_sentence(&flushed.reason)).filter(|reason| !reason.is_empty()),
        }),
        Event::Probe { agent, pod, port, sentence } => json!({
            "event": "probe", "agent": agent, "pod": pod, "port": port, "reason": escape_sentence(sentence),
        }),
        Event::App(app) => json!({
            "event": "app", "agent": app.agent, "pod": app.pod, "port": app.port, "state": listening(app.listening),
            "reason": escape_sentence(&app_sentence(app)),
            "curl": app.curl.as_ref().map(|line| line.shown(Charset::Ascii)),
        }),
        Event::NotIntercepted { agent, pod, port, miss } => json!({
            "event": "not_intercepted", "agent": agent, "pod": pod, "port": port, "cause": miss.cause,
            "reason": escape_sentence(&miss.sentence),
        }),
        Event::InterceptedAgain { agent, pod, port, cause } => json!({
            "event": "intercepted_again", "agent": agent, "pod": pod, "port": port, "cause": cause,
        }),
        Event::NotLive { agent, pod, state, reason } => json!({
            "event": "refused", "agent": agent, "pod": pod, "state": liveness(*state), "reason": escape_sentence(reason),
        }),
        Event::Refused { agent, reason } => {
            json!({"event": "refused", "agent": agent, "pod": null, "state": "refused", "reason": escape_sentence(reason)})
        }
        Event::Conflict(with) => clash("conflict", with),
        Event::ConflictOver(with) => clash_over("conflict_over", with),
        Event::Overlap(with) => clash("overlap", with),
        Event::OverlapOver(with) => clash_over("overlap_over", with),
        Event::Request { agent, event } => json!({
            "event": "request", "agent": agent, "id": event.intercept, "pod": event.pod, "client": event.client,
            "when": rfc3339(event.when), "method": escape(&event.method), "path": escape(&event.path),
            "status": (event.status != 0).then_some(event.status), "grpc_status": event.grpc_status,
            "outcome": outcome(&event.outcome), "reason": reason(&event.outcome), "ms": milliseconds(event.micros),
            "missed": event.missed,
        }),
        Event::Connection { agent, event } => json!({
            "event": "connection", "agent": agent, "id": event.intercept, "pod": event.pod, "client": event.client,
            "when": rfc3339(event.when), "state": if event.bytes.is_some() { "closed" } else { "open" },
            "received": event.bytes.map(|bytes| bytes.received), "sent": event.bytes.map(|bytes| bytes.sent),
            "outcome": outcome(&event.outcome), "reason": reason(&event.outcome), "ms": milliseconds(event.micros),
            "missed": event.missed,
        }),
        Event::Lost { agent, reason } => json!({"event": "lost", "agent": agent, "reason": escape_sentence(reason)}),
        Event::Restored { agent, pods, after_ms } => {
            json!({"event": "restored", "agent": agent, "pods": pods, "after_ms": after_ms})
        }
        Event::Bypassed { agent, id, requests } => {
            json!({"event": "bypassed", "agent": agent, "id": id, "requests": requests})
        }
        Event::NobodyAnswers { to } => json!({"event": "service", "state": "silent", "to": to}),
        Event::Command(state) => command(state),
        Event::Ended { reason } => json!({"event": "ended", "reason": escape_sentence(reason)}),
        Event::Pod { agent, pod } => json!({
            "event": "pod", "agent": agent, "pod": pod.name, "labels": pod.labels,
            "ports": if pod.ports.is_empty() { Value::Null } else { json!(pod.ports) },
        }),
        Event::Intercept { agent, entry } => intercept(agent, entry),
        Event::Tunnel { agent, software, tunnel } => json!({
            "event": "tunnel", "agent": agent, "software": software, "address": tunnel.address, "user": tunnel.user,
            "since": rfc3339(tunnel.since), "rtt_ms": milliseconds(tunnel.rtt_micros), "streams": tunnel.streams,
            "streams_total": tunnel.streams_total, "sent_bytes": tunnel.sent_bytes,
            "received_bytes": tunnel.received_bytes, "asking": tunnel.asking,
        }),
        Event::Left { agent, what, count, ids } => {
            json!({"event": "left", "agent": agent, "what": what, "count": count, "ids": ids})
        }
    }
}

fn outcome(outcome: &RequestOutcome) -> &'static str {
    match outcome {
        RequestOutcome::Answered => "answered",
        RequestOutcome::Refused(_) => "refused",
        RequestOutcome::ClientLeft => "client_left",
        RequestOutcome::Cut => "cut",
        RequestOutcome::Other => "other",
    }
}

fn reason(outcome: &RequestOutcome) -> Option<String> {
    match outcome {
        RequestOutcome::Refused(why) => Some(escape_sentence(why)),
        RequestOutcome::Answered | RequestOutcome::ClientLeft | RequestOutcome::Cut | RequestOutcome::Other => None,
    }
}

fn clash(event: &str, with: &InterceptConflict) -> Value {
    json!({
        "event": event, "agent": with.agent, "pod": with.pod, "developer": with.developer,
        "yours": with.whose == Owner::You, "id": with.id, "since": rfc3339(with.since),
        "takes": match with.takes { Takes::Everything => "everything", Takes::Shared => "shared" },
    })
}

fn clash_over(event: &str, with: &InterceptConflict) -> Value {
    json!({"event": event, "agent": with.agent, "pod": with.pod, "developer": with.developer, "id": with.id})
}

fn command(state: &CommandState) -> Value {
    match state {
        CommandState::Started { pid } => json!({"event": "command", "state": "started", "pid": pid}),
        CommandState::Ready { addresses, taken } => json!({
            "event": "command", "state": "ready", "port": addresses.first().map(SocketAddr::port),
            "addresses": addresses, "taken": taken,
        }),
        CommandState::Ended { code } => json!({"event": "command", "state": "ended", "code": code}),
    }
}

fn intercept(agent: &str, entry: &InterceptEntry) -> Value {
    json!({
        "event": "intercept", "agent": agent, "id": entry.id, "developer": entry.developer,
        "yours": entry.owner == Owner::You, "pod": entry.pod, "port": entry.port, "filter": entry.filter,
        "to": (!entry.to.is_empty()).then_some(&entry.to), "since": rfc3339(entry.since),
        "state": liveness(entry.state), "reason": escape_sentence(&entry.reason), "requests": entry.requests,
        "tls": entry.tls.as_ref().map(|tls| handling(tls.handling)), "app": entry.listening.map(listening),
    })
}

fn local(local: ServiceInput) -> &'static str {
    match local {
        ServiceInput::Plaintext => "plaintext",
        ServiceInput::Tls => "tls",
        ServiceInput::AsSent => "as_sent",
    }
}

fn listening(listening: Listening) -> &'static str {
    match listening {
        Listening::Yes => "listening",
        Listening::Nobody => "nobody",
        Listening::LoopbackOnly => "loopback_only",
    }
}

fn handling(handling: TlsHandling) -> &'static str {
    match handling {
        TlsHandling::Unread => "unread",
        TlsHandling::Passed => "passed",
        TlsHandling::Decrypted => "decrypted",
        TlsHandling::Clear => "clear",
        TlsHandling::Other => "other",
    }
}

fn finding(finding: Finding) -> &'static str {
    match finding {
        Finding::Good => "good",
        Finding::Note => "note",
        Finding::Problem => "problem",
    }
}

fn right(right: &Right) -> Value {
    json!({"verb": right.verb, "group": right.group, "resource": right.resource, "name": right.name})
}

fn step(step: &AdminStep) -> Value {
    match step {
        AdminStep::Object { action, kind, name, namespace, is_dry_run } => json!({
            "event": "object", "action": action_name(*action), "kind": kind, "name": name, "namespace": namespace,
            "dry_run": is_dry_run,
        }),
        AdminStep::Agents { ready, wanted } => json!({"event": "agents", "ready": ready, "wanted": wanted}),
        AdminStep::AgentNotReady { node, pod, reason } => json!({
            "event": "agent_not_ready", "node": node, "pod": pod, "reason": escape_sentence(reason),
        }),
        AdminStep::Remark { sentence } => json!({"event": "remark", "sentence": escape_sentence(sentence)}),
        AdminStep::Done { sentence } => json!({"event": "done", "sentence": escape_sentence(sentence)}),
    }
}

fn action_name(action: ObjectAction) -> &'static str {
    match action {
        ObjectAction::Create => "create",
        ObjectAction::Apply => "apply",
        ObjectAction::Change => "change",
        ObjectAction::Delete => "delete",
        ObjectAction::Keep => "keep",
    }
}

fn wish(row: &InterceptRow) -> Value {
    let pods: Vec<Value> = row
        .pods
        .iter()
        .map(|pod| {
            json!({
                "node": pod.node, "pod": pod.pod, "addresses": pod.addresses, "port": pod.port, "state": pod.state,
                "reason": escape_sentence(&pod.reason), "nobody_listens": pod.nobody_listens,
            })
        })
        .collect();
    let reasons: Vec<Value> =
        row.reasons.iter().map(|(node, reason)| json!({"name": node, "reason": escape_sentence(reason)})).collect();
    json!({
        "event": "intercept", "namespace": row.namespace, "name": row.name, "target": row.target, "port": row.port,
        "developer": row.user, "developer_checked": row.is_checked, "from": row.from, "yours": row.is_own, "since": rfc3339(row.since), "filter": row.filter,
        "to": row.to, "live": row.live(), "pods": pods, "reasons": reasons,
    })
}

fn liveness(state: Liveness) -> &'static str {
    match state {
        Liveness::Pending => "pending",
        Liveness::Live => "live",
        Liveness::Refused => "refused",
        Liveness::Lost => "lost",
    }
}

/// Milliseconds with three digits behind the point.
fn milliseconds(micros: u64) -> Value {
    // The nearest double of a decimal with three places prints as that decimal again.
    let text = format!("{}.{:03}", micros / 1000, micros % 1000);
    text.parse::<f64>().map_or(Value::Null, Value::from)
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
mod documented;

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
