//! What is said when something happens: one line each, two for a pod that is live.

mod requests;
mod tables;

use std::net::SocketAddr;

use redir_http::filter::{Condition, Mode, Subject, Test};
use redir_wire::{
    EarlierConnections, Filter, Listening, Liveness, Owner, PodFlush, PodTls, Takes, TlsHandling, UnixMillis,
};

pub(crate) use self::requests::connections_left_out;
pub(crate) use self::tables::{
    check, cluster_intercepts, developer, happened, intercept_fields, intercept_pods, intercepts, pods, table, tunnels,
    workloads,
};
use crate::escape::{Charset, escape, escape_own, escape_sentence};
use crate::events::{AppListening, CommandState, Event, InterceptConflict, LivePod, ServiceInput};
use crate::paint::{Colour, Paint};
use crate::timestamps;

/// The lines of an event, without newlines; none for what only programs want to know.
pub(crate) fn lines(event: &Event, paint: Paint, charset: Charset, now: UnixMillis) -> Vec<String> {
    let warn = |word: &str, rest: String| vec![format!("{}  {rest}", paint.with(Colour::Yellow, word))];
    match event {
        Event::Connected { .. } => Vec::new(),
        // The pods' own lines say it to people.
        Event::Created { .. } => Vec::new(),
        Event::Status { live, pods, missing } => progress(*live, *pods, missing, paint),
        Event::Recreated { intercept } => {
            vec![format!("again  the intercept had expired and was made anew as {}", escape(intercept))]
        }
        Event::Live(live) => live_lines(live, paint, charset),
        Event::Flushed { agent: _, pod, port, flushed } => vec![flushed_line(pod, *port, flushed, paint)],
        Event::Tls { agent: _, pod, port, tls, local } => vec![tls_line(pod, *port, tls, *local, paint)],
        Event::Probe { agent: _, pod, port, sentence } => {
            let word = paint.with(Colour::Yellow, "probe");
            vec![format!("{word} {}:{port}: {}", escape(pod), escape_sentence(sentence))]
        }
        Event::App(app) => app_lines(app, paint, charset),
        Event::NotIntercepted { agent: _, pod, port, miss } => {
            warn("missed", format!("{}:{port}: {}", escape(pod), escape_sentence(&miss.sentence)))
        }
        Event::InterceptedAgain { agent: _, pod, port, cause: _ } => {
            vec![format!(
                "{}  {}:{port}: new connections are intercepted again",
                paint.with(Colour::Green, "again"),
                escape(pod)
            )]
        }
        Event::NotLive { agent, pod, state, reason } => {
            let word = match state {
                Liveness::Refused => "refused",
                Liveness::Lost => "lost   ",
                Liveness::Pending => "waiting",
                Liveness::Live => "live   ",
            };
            warn(word, format!("{} on {}: {}", escape(pod), escape(agent), escape_sentence(reason)))
        }
        Event::Refused { agent, reason } => warn("refused", format!("{}: {}", escape(agent), escape_sentence(reason))),
        Event::Conflict(with) => warn("conflict", conflict(with, now)),
        Event::ConflictOver(with) => {
            vec![format!("free  {}: {} takes no requests from you any more", escape(&with.pod), other(with))]
        }
        Event::Overlap(with) => vec![format!("overlap  {}", overlap(with, now))],
        Event::OverlapOver(with) => {
            vec![format!("over  {}: {} wants no requests of yours any more", escape(&with.pod), other(with))]
        }
        Event::Request { agent: _, event } => requests::request(event, paint),
        Event::Connection { agent: _, event } => requests::connection(event, paint),
        Event::Lost { agent, reason } => warn(
            "lost",
            format!(
                "the tunnel to {} ({}): requests go to the app, dialling again",
                escape(agent),
                escape_sentence(reason)
            ),
        ),
        Event::Restored { agent, pods, after_ms } => vec![format!(
            "{}  again on {} after {}: {}",
            paint.with(Colour::Green, "live"),
            escape(agent),
            timestamps::duration(after_ms.saturating_mul(1000)),
            escape(pods.join(", ")),
        )],
        Event::Bypassed { agent, id: _, requests } => vec![format!(
            "{}  {requests} matched request{} went to the app while this machine did not answer {}",
            paint.with(Colour::Yellow, "missed"),
            if *requests == 1 { "" } else { "s" },
            escape(agent),
        )],
        // A note says it to people.
        Event::NobodyAnswers { .. } => Vec::new(),
        Event::Command(state) => vec![command(state)],
        Event::Ended { reason } => vec![format!("ended  {}", escape_sentence(reason))],
        Event::Pod { .. }
        | Event::Intercept { .. }
        | Event::Tunnel { .. }
        | Event::ClusterIntercept(_)
        | Event::Check(_)
        | Event::Step(_)
        | Event::Workload(_)
        | Event::Happened { .. } => Vec::new(),
        Event::Left { agent, what, count, ids: _ } => {
            let several = if *count > 1 { format!(" ({count} intercepts)") } else { String::new() };
            vec![format!("left  {} on {}{several}", escape(what), escape(agent))]
        }
    }
}

/// A line about one of several ports. Some name it by themselves.
pub(crate) fn of_port(port: u16, event: &Event, line: &str) -> String {
    match event {
        Event::Live(_) | Event::Tls { .. } => line.to_owned(),
        _ => format!("{line}  (port {port})"),
    }
}

/// `9 of 10 pods live; node-x: no agent there …`; nothing if one pod is live and no other is meant.
fn progress(live: usize, pods: usize, missing: &[(String, String)], paint: Paint) -> Vec<String> {
    if missing.is_empty() {
        return if pods > 1 {
            vec![format!("{}   {live} of {pods} pods", paint.with(Colour::Green, "all"))]
        } else {
            Vec::new()
        };
    }
    let reasons: Vec<String> =
        missing.iter().map(|(name, why)| format!("{}: {}", escape(name), escape_sentence(why))).collect();
    vec![format!("{}  {live} of {pods} pods; {}", paint.with(Colour::Yellow, "part"), reasons.join("; "))]
}

fn live_lines(live: &LivePod, paint: Paint, charset: Charset) -> Vec<String> {
    let pod = escape(&live.pod);
    let mut lines = vec![format!(
        "{}  {pod}:{} -> {}{}, {} (agent {}, {})",
        paint.with(Colour::Green, "live"),
        live.port,
        live.to,
        match (live.local, live.tls) {
            (ServiceInput::Tls, _) => " over TLS",
            (ServiceInput::Plaintext, true) => " in plaintext",
            (ServiceInput::Plaintext | ServiceInput::AsSent, _) => "",
        },
        filter(live.filter.as_ref(), charset),
        escape(&live.agent),
        timestamps::duration(live.after_ms.saturating_mul(1000)),
    )];
    match (live.earlier_connections, live.earlier) {
        // Told as what is missed.
        (_, EarlierConnections::Stay) | (0, _) => (),
        (1, EarlierConnections::Close) => lines.push("      1 connection opened before is closed once idle".to_owned()),
        (many, EarlierConnections::Close) => {
            lines.push(format!("      {many} connections opened before are closed once idle"));
        }
    }
    if let Some(listening) = live.listening.filter(|listening| *listening != Listening::Yes) {
        let app = AppListening {
            agent: live.agent.clone(),
            pod: live.pod.clone(),
            port: live.port,
            listening,
            even_if_down: live.even_if_down,
            filtered: live.filter.is_some(),
            curl: None,
        };
        lines.push(format!("      {}", paint.with(Colour::Yellow, &app_sentence(&app))));
    }
    if let (true, Some(curl)) = (live.first, &live.curl) {
        lines.push(format!("try   {}", curl.shown(charset)));
    }
    lines
}

fn flushed_line(pod: &str, port: u16, flushed: &PodFlush, paint: Paint) -> String {
    let connections = |count: u32| match count {
        1 => "1 connection".to_owned(),
        many => format!("{many} connections"),
    };
    let (colour, text) = match (flushed.reason.as_str(), flushed.left) {
        ("", 0) => (Colour::Green, format!("{} opened before closed", connections(flushed.closed))),
        ("", left) => {
            let stay =
                if left == 1 { "was in use all the time and stays" } else { "were in use all the time and stay" };
            let closed = connections(flushed.closed);
            (Colour::Yellow, format!("{closed} opened before closed; {} {stay} with the app", connections(left)))
        }
        (reason, _) => {
            let reason = escape_sentence(reason);
            (Colour::Yellow, format!("connections opened before were not closed: {reason}"))
        }
    };
    format!("{} {}:{port}: {text}", paint.with(colour, "flush"), escape(pod))
}

fn app_lines(app: &AppListening, paint: Paint, charset: Charset) -> Vec<String> {
    let colour = if app.listening == Listening::Yes { Colour::Green } else { Colour::Yellow };
    let mut lines = vec![format!("{}   {}", paint.with(colour, "app"), app_sentence(app))];
    lines.extend(app.curl.iter().map(|curl| format!("try   {}", curl.shown(charset))));
    lines
}

/// Connections from before an intercept, which pools of clients hold on to.
pub(crate) fn earlier_connections(count: u32) -> String {
    let what = match count {
        1 => "1 connection opened before stays with the app, and its requests with it".to_owned(),
        many => format!("{many} connections opened before stay with the app, and their requests with them"),
    };
    format!(
        "{what}; clients that keep connections open come to you when they open new ones: restart them, wait for their idle limit, or close them with --flush"
    )
}

/// Whether somebody listens in the pod, and what becomes of requests.
pub(crate) fn app_sentence(app: &AppListening) -> String {
    let (port, pod) = (app.port, escape(&app.pod));
    let who = match app.listening {
        Listening::Yes => return format!("the app listens on port {port} of {pod} now"),
        Listening::Nobody => format!("nobody listens on port {port} of {pod}"),
        Listening::LoopbackOnly => {
            format!(
                "the app listens on port {port} of {pod} on a loopback address alone, where only the pod itself reaches it"
            )
        }
    };
    match (app.even_if_down, app.listening, app.filtered) {
        (true, _, _) => format!("{who}: your service answers all the same"),
        (false, Listening::LoopbackOnly, _) => {
            format!("{who}: requests are refused, as without redir; let it listen on 0.0.0.0 or [::]")
        }
        (false, _, true) => format!("{who}: requests are refused, as without redir; start the app"),
        (false, _, false) => {
            format!(
                "{who}: requests are refused, as without redir; start the app, or answer for it with --even-if-down"
            )
        }
    }
}

fn tls_line(pod: &str, port: u16, tls: &PodTls, local: Option<ServiceInput>, paint: Paint) -> String {
    let gets = match (tls.handling, local) {
        (TlsHandling::Decrypted, Some(ServiceInput::Plaintext)) => {
            ": your service gets plaintext (TLS with --local-tls)"
        }
        (TlsHandling::Decrypted, Some(ServiceInput::Tls)) => ": your service gets TLS",
        _ => "",
    };
    let colour = if tls.handling == TlsHandling::Decrypted { Colour::Green } else { Colour::Yellow };
    format!("{}   {}:{port}: {}{gets}", paint.with(colour, "tls"), escape(pod), escape_sentence(&tls.sentence))
}

/// `requests with header x-user: alice and method POST and without cookie session`
fn filter(filter: Option<&Filter>, charset: Charset) -> String {
    let Some(filter) = filter else { return "every request".to_owned() };
    let joint = match filter.mode {
        Mode::All => " and ",
        Mode::Any => " or ",
    };
    let mut text = "requests ".to_owned();
    let mut before = None;
    for condition in &filter.conditions {
        text += if before.is_some() { joint } else { "" };
        text += match (condition.negate, before) {
            (true, _) => "without ",
            (false, Some(false)) => "",
            (false, _) => "with ",
        };
        text += &self::condition(condition, charset);
        before = Some(condition.negate);
    }
    text + if filter.preflights { ", with their CORS preflights" } else { "" }
}

fn condition(condition: &Condition, charset: Charset) -> String {
    let own = |bytes: &[u8]| escape_own(bytes, charset);
    let (named, between) = match &condition.subject {
        Subject::Header(name) => (format!("header {}", own(name)), ": "),
        Subject::Query(name) => (format!("query {}", own(name)), "="),
        Subject::Cookie(name) => (format!("cookie {}", own(name)), "="),
        Subject::Baggage(name) => (format!("baggage {}", own(name)), "="),
        Subject::Path => ("path".to_owned(), " "),
        Subject::Method => ("method".to_owned(), " "),
    };
    match &condition.test {
        Test::Present => named,
        Test::Exact(value) => format!("{named}{between}{}", own(value)),
        Test::Prefix(value) => format!("{named}{between}{}...", own(value)),
        Test::Regex(pattern) => format!("{named} matching {}", own(pattern.as_bytes())),
    }
}

/// They get what we want.
fn conflict(with: &InterceptConflict, now: UnixMillis) -> String {
    let what = match with.takes {
        Takes::Everything => "gets every request that you want",
        Takes::Shared => "gets the requests that both want",
    };
    let next = match (with.whose, with.id) {
        (Owner::You, Some(id)) => format!("end it with `redir leave {id}`"),
        (Owner::You, None) => "end it with `redir leave` (`redir list` shows which it is)".to_owned(),
        (Owner::Other, _) => format!("ask {}", escape(&with.developer)),
    };
    let (pod, other, since) = (escape(&with.pod), other(with), since(with.since, now));
    format!("{pod}: {other} {what}, intercepting since {since}: {next}, or choose another condition")
}

/// We get what they want.
fn overlap(with: &InterceptConflict, now: UnixMillis) -> String {
    let what = match with.takes {
        Takes::Everything => "gets nothing while you intercept: you get every request that both want",
        Takes::Shared => "wants some of your requests too: you get those that both want",
    };
    let (pod, other, since) = (escape(&with.pod), other(with), since(with.since, now));
    format!("{pod}: {other}, intercepting since {since}, {what}")
}

/// `bob (intercept 7)`
fn other(with: &InterceptConflict) -> String {
    let who = match with.whose {
        Owner::You => "another redir of yours".to_owned(),
        Owner::Other => escape(&with.developer),
    };
    match with.id {
        Some(id) => format!("{who} (intercept {id})"),
        None => who,
    }
}

fn since(since: UnixMillis, now: UnixMillis) -> String {
    format!("{} ago ({} UTC)", timestamps::age(since, now), timestamps::time_of_day(since))
}

fn command(state: &CommandState) -> String {
    match state {
        CommandState::Started { pid } => format!("command  started (process {pid})"),
        CommandState::Ready { addresses, taken } if taken.is_empty() => {
            format!("command  answers on {}", join_addresses(addresses))
        }
        CommandState::Ready { addresses: _, taken } => format!(
            "command  runs, but another process answered on {} before it did: requests may go there",
            join_addresses(taken)
        ),
        CommandState::Ended { code } => format!("command  ended with exit code {code}"),
    }
}

fn join_addresses(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}

#[cfg(test)]
mod tests;
