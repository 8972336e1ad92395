//! What is said when something happens: one line each, two for a pod that is live.

mod requests;

use std::net::SocketAddr;

use redir_api::PodState;
use redir_http::filter::{Condition, Mode, Subject, Test};
use redir_wire::{
    EarlierConnections, Filter, InterceptEntry, Listening, Liveness, Owner, PodFlush, PodTls, Takes, TlsHandling,
    UnixMillis,
};

pub(crate) use self::requests::connections_left_out;
use crate::escape::{Charset, escape, escape_own, escape_sentence};
use crate::events::{AppListening, CommandState, Event, InterceptConflict, LivePod, ServiceInput};
use crate::model::check::Finding;
use crate::model::rows::InterceptRow;
use crate::model::values::join_labels;
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

/// Rows of an answer as aligned columns, a line each, the first row being the heading.
pub(crate) fn table(rows: &[Vec<String>], paint: Paint) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let show = |(index, row): (usize, &Vec<String>)| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let line = cells.join("  ").trim_end().to_owned();
        if index == 0 { paint.with(Colour::Dim, &line) + "\n" } else { line + "\n" }
    };
    rows.iter().enumerate().map(show).collect()
}

/// The table of pods that can be intercepted.
pub(crate) fn pods(events: &[Event]) -> Vec<Vec<String>> {
    let rows = events.iter().filter_map(|event| match event {
        Event::Pod { agent, pod } => {
            let ports = match pod.ports.is_empty() {
                true => "any".to_owned(),
                false => pod.ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
            };
            Some(vec![escape(&pod.name), ports, dash(escape(join_labels(&pod.labels))), escape(agent)])
        }
        _ => None,
    });
    with_heading(&["POD", "PORTS", "LABELS", "AGENT"], rows)
}

/// The table of intercepts.
pub(crate) fn intercepts(events: &[Event], now: UnixMillis) -> Vec<Vec<String>> {
    let rows = events.iter().filter_map(|event| match event {
        Event::Intercept { agent, entry } => Some(intercept(agent, entry, now)),
        _ => None,
    });
    with_heading(
        &["NUMBER", "POD", "PORT", "DEVELOPER", "SINCE", "MATCHES", "TO", "REQUESTS", "APP", "STATE", "AGENT"],
        rows,
    )
}

fn intercept(agent: &str, entry: &InterceptEntry, now: UnixMillis) -> Vec<String> {
    let whose = match entry.owner {
        Owner::You => format!("{} (you)", escape(&entry.developer)),
        Owner::Other => escape(&entry.developer),
    };
    let state = match entry.state {
        Liveness::Pending => "pending".to_owned(),
        Liveness::Live => format!("live{}", entry.tls.as_ref().map_or("", |tls| handling(tls.handling))),
        Liveness::Refused => format!("refused: {}", escape_sentence(&entry.reason)),
        Liveness::Lost => format!("lost: {}", escape_sentence(&entry.reason)),
    };
    vec![
        entry.id.to_string(),
        escape(&entry.pod),
        entry.port.to_string(),
        whose,
        format!("{} ago", timestamps::age(entry.since, now)),
        if entry.filter.is_empty() { "every request".to_owned() } else { escape_sentence(&entry.filter) },
        dash(escape(&entry.to)),
        entry.requests.to_string(),
        dash(listening(entry.listening).to_owned()),
        state,
        escape(agent),
    ]
}

/// Whether somebody listens in the pod.
fn listening(listening: Option<Listening>) -> &'static str {
    match listening {
        None => "",
        Some(Listening::Yes) => "listens",
        Some(Listening::Nobody) => "nobody listens",
        Some(Listening::LoopbackOnly) => "on loopback only",
    }
}

/// Behind `live`.
fn handling(handling: TlsHandling) -> &'static str {
    match handling {
        TlsHandling::Unread => ", TLS goes to the app unread",
        TlsHandling::Passed => ", TLS comes as sent",
        TlsHandling::Decrypted => ", TLS decrypted",
        TlsHandling::Clear => ", no TLS",
        TlsHandling::Other => ", TLS",
    }
}

/// The table of what can be intercepted in a cluster.
pub(crate) fn workloads(events: &[Event]) -> Vec<Vec<String>> {
    let rows = events.iter().filter_map(|event| match event {
        Event::Workload(workload) => {
            Some(vec![escape(&workload.namespace), escape(&workload.target), dash(escape(workload.ports.join(", ")))])
        }
        _ => None,
    });
    with_heading(&["NAMESPACE", "TARGET", "PORTS"], rows)
}

/// The table of a cluster's intercepts.
pub(crate) fn cluster_intercepts(events: &[Event], now: UnixMillis) -> Vec<Vec<String>> {
    let rows = rows(events).map(|row| {
        vec![
            escape(&row.namespace),
            escape(&row.name),
            escape(&row.target),
            escape(&row.port),
            developer(row),
            format!("{} ago", timestamps::age(row.since, now)),
            if row.filter.is_empty() { "every request".to_owned() } else { escape(&row.filter) },
            dash(escape(&row.to)),
            liveness_summary(row),
        ]
    });
    with_heading(&["NAMESPACE", "INTERCEPT", "TARGET", "PORT", "DEVELOPER", "SINCE", "MATCHES", "TO", "STATE"], rows)
}

fn rows(events: &[Event]) -> impl Iterator<Item = &InterceptRow> {
    events.iter().filter_map(|event| match event {
        Event::ClusterIntercept(row) => Some(row),
        _ => None,
    })
}

/// `alice (alice@laptop, you)`. A name that nobody has checked is shown as what its owner claims.
pub(crate) fn developer(row: &InterceptRow) -> String {
    let from = escape(&row.from);
    let remarks = [
        (!from.is_empty()).then_some(from.as_str()),
        (!row.is_checked && !row.user.is_empty()).then_some("name not checked"),
        row.is_own.then_some("you"),
    ];
    let user = dash(escape(&row.user));
    match remarks.into_iter().flatten().collect::<Vec<_>>().join(", ") {
        none if none.is_empty() => user,
        remarks => format!("{user} ({remarks})"),
    }
}

/// `live in 2 of 3 pods`, and the first reason why not in all.
fn liveness_summary(row: &InterceptRow) -> String {
    let why = row.pods.iter().find(|pod| !pod.reason.is_empty()).map(|pod| (&pod.pod, &pod.reason));
    let why = why.or_else(|| row.reasons.first().map(|(node, reason)| (node, reason)));
    let state = match row.pods.len() {
        0 => "no pod".to_owned(),
        1 => format!("live in {} of 1 pod", row.live()),
        many => format!("live in {} of {many} pods", row.live()),
    };
    let nobody = row.pods.iter().find(|pod| pod.nobody_listens).map(|pod| &pod.pod);
    let state = match nobody {
        Some(pod) => format!("{state}; nobody listens on its port in {}", escape(pod)),
        None => state,
    };
    match why {
        Some((what, why)) => format!("{state}; {}: {}", escape(what), escape_sentence(why)),
        None => state,
    }
}

fn pod_state(state: PodState) -> &'static str {
    match state {
        PodState::Waiting => "waiting",
        PodState::Pending => "pending",
        PodState::Live => "live",
        PodState::Refused => "refused",
        PodState::Lost => "lost",
    }
}

/// The table of the pods of a cluster's intercepts.
pub(crate) fn intercept_pods(events: &[Event]) -> Vec<Vec<String>> {
    let rows = rows(events).flat_map(|row| {
        row.pods.iter().map(|pod| {
            vec![
                escape(&row.name),
                escape(&pod.node),
                escape(&pod.pod),
                dash(escape(pod.addresses.join(","))),
                pod.port.map_or_else(|| "-".to_owned(), |port| port.to_string()),
                pod_state(pod.state).to_owned(),
                if pod.nobody_listens { "nobody listens".to_owned() } else { dash(String::new()) },
                dash(escape_sentence(&pod.reason)),
            ]
        })
    });
    with_heading(&["INTERCEPT", "NODE", "POD", "ADDRESS", "PORT", "STATE", "APP", "WHY"], rows)
}

/// One intercept, a field a line.
pub(crate) fn intercept_fields(events: &[Event], now: UnixMillis) -> String {
    let Some(row) = rows(events).next() else { return String::new() };
    let matches = if row.filter.is_empty() { "every request".to_owned() } else { escape(&row.filter) };
    format!(
        "intercept  {}\nnamespace  {}\ntarget     {}\nport       {}\ndeveloper  {}\nmade       {} ago\nmatches    {matches}\nto         {}\nstate      {}\n",
        escape(&row.name),
        escape(&row.namespace),
        escape(&row.target),
        escape(&row.port),
        developer(row),
        timestamps::age(row.since, now),
        dash(escape(&row.to)),
        liveness_summary(row),
    )
}

/// `ok    agents    all 3 agents are ready`
pub(crate) fn check(event: &Event, paint: Paint) -> String {
    let Event::Check(check) = event else { return String::new() };
    let word = match check.finding {
        Finding::Good => paint.with(Colour::Green, "ok   "),
        Finding::Note => paint.with(Colour::Dim, "note "),
        Finding::Problem => paint.with(Colour::Red, "FAIL "),
    };
    format!("{word}  {:<12}  {}", check.what, check.sentence)
}

/// The table of what agents reported.
pub(crate) fn happened(events: &[Event], now: UnixMillis) -> Vec<Vec<String>> {
    let rows = events.iter().filter_map(|event| match event {
        Event::Happened { at, reason, object, node, message } => Some(vec![
            format!("{} ago", timestamps::age(*at, now)),
            escape(reason),
            escape(object),
            dash(escape(node)),
            escape_sentence(message),
        ]),
        _ => None,
    });
    with_heading(&["WHEN", "EVENT", "OBJECT", "AGENT", "WHAT"], rows)
}

/// The table of tunnels.
pub(crate) fn tunnels(events: &[Event], now: UnixMillis) -> Vec<Vec<String>> {
    let rows = events.iter().filter_map(|event| match event {
        Event::Tunnel { agent, software, tunnel } => Some(vec![
            escape(agent),
            escape(software),
            escape(&tunnel.address),
            dash(escape(&tunnel.user)),
            format!("{} ago", timestamps::age(tunnel.since, now)),
            timestamps::duration(tunnel.rtt_micros),
            format!("{} ({} so far)", tunnel.streams, tunnel.streams_total),
            if tunnel.asking { "this question".to_owned() } else { String::new() },
        ]),
        _ => None,
    });
    with_heading(&["AGENT", "SOFTWARE", "YOUR ADDRESS", "FROM", "SINCE", "ROUND TRIP", "CONNECTIONS", ""], rows)
}

fn with_heading(heading: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Vec<Vec<String>> {
    std::iter::once(heading.iter().map(ToString::to_string).collect()).chain(rows).collect()
}

fn dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use redir_wire::PodEntry;

    use super::*;
    use crate::curl::CurlLine;

    const NOW: UnixMillis = UnixMillis(1_795_460_584_005);

    fn plain(event: &Event) -> Vec<String> {
        lines(event, Paint::Plain, Charset::Ascii, NOW)
    }

    fn is(subject: Subject, test: Test) -> Condition {
        Condition { subject, test, negate: false }
    }

    fn live(earlier_connections: u32, first: bool) -> Event {
        let conditions = vec![
            is(Subject::Header("x-user".into()), Test::Exact("alice".into())),
            is(Subject::Path, Test::Prefix("/api".into())),
        ];
        Event::Live(LivePod {
            agent: "node-1".into(),
            id: 7,
            pod: "web-1".into(),
            port: 8080,
            to: "127.0.0.1:3000".into(),
            local: ServiceInput::Plaintext,
            tls: false,
            filter: Some(Filter { mode: Mode::All, conditions, preflights: false }),
            addresses: vec!["10.0.0.2".into()],
            earlier_connections,
            earlier: EarlierConnections::Stay,
            after_ms: 41,
            listening: None,
            even_if_down: false,
            curl: Some(CurlLine::of(&["curl", "-H", "x-user: alice", "http://10.0.0.2:8080/api"])),
            first,
        })
    }

    #[test]
    fn an_app_that_does_not_listen() {
        let app = |listening, even_if_down, filtered| {
            let (agent, pod) = ("node-1".to_owned(), "web-1".to_owned());
            app_sentence(&AppListening { agent, pod, port: 8099, listening, even_if_down, filtered, curl: None })
        };
        let nobody = "nobody listens on port 8099 of web-1";
        assert_eq!(app(Listening::Nobody, true, false), format!("{nobody}: your service answers all the same"));
        let refused = format!("{nobody}: requests are refused, as without redir; start the app");
        assert_eq!(app(Listening::Nobody, false, true), refused);
        assert_eq!(app(Listening::Nobody, false, false), format!("{refused}, or answer for it with --even-if-down"));
        assert!(
            app(Listening::LoopbackOnly, false, true).ends_with("as without redir; let it listen on 0.0.0.0 or [::]")
        );
        assert_eq!(app(Listening::Yes, false, true), "the app listens on port 8099 of web-1 now");
    }

    #[test]
    fn a_live_pod() {
        assert_eq!(
            plain(&live(3, true)),
            [
                "live  web-1:8080 -> 127.0.0.1:3000, requests with header x-user: alice and path /api... (agent node-1, 41.0 ms)",
                "try   curl -H 'x-user: alice' http://10.0.0.2:8080/api",
            ]
        );
        assert_eq!(plain(&live(0, false)).len(), 1);
    }

    #[test]
    fn filters() {
        let not = |condition| Condition { negate: true, ..condition };
        let conditions = vec![
            is(Subject::Header("x-user".into()), Test::Present),
            is(Subject::Cookie("sid".into()), Test::Exact("zo\u{eb}".into())),
            not(is(Subject::Query("q".into()), Test::Prefix("a".into()))),
            not(is(Subject::Baggage("b".into()), Test::Regex("a|b".into()))),
            is(Subject::Method, Test::Regex("GET|HEAD".into())),
        ];
        assert_eq!(
            filter(Some(&Filter { mode: Mode::All, conditions, preflights: false }), Charset::Ascii),
            r"requests with header x-user and cookie sid=zo\xc3\xab and without query q=a... and without baggage b matching a|b and with method matching GET|HEAD"
        );
        let conditions =
            vec![not(is(Subject::Method, Test::Exact("GET".into()))), is(Subject::Path, Test::Exact("/a".into()))];
        assert_eq!(
            filter(Some(&Filter { mode: Mode::Any, conditions, preflights: false }), Charset::Ascii),
            "requests without method GET or with path /a"
        );
        assert_eq!(filter(None, Charset::Ascii), "every request");
        let own = vec![is(Subject::Header("x-user".into()), Test::Exact("zo\u{eb}".into()))];
        let own = filter(Some(&Filter { mode: Mode::All, conditions: own, preflights: false }), Charset::Utf8);
        assert_eq!(own, "requests with header x-user: zo\u{eb}");
    }

    #[test]
    fn conflicts() {
        let clash = |whose, id, takes| InterceptConflict {
            agent: "node-1".into(),
            pod: "web-1".into(),
            id,
            developer: "bob".into(),
            whose,
            since: UnixMillis(NOW.0 - 720_000),
            takes,
        };
        let of_bob = clash(Owner::Other, Some(7), Takes::Shared);
        for (event, expected) in [
            (
                Event::Conflict(of_bob.clone()),
                "conflict  web-1: bob (intercept 7) gets the requests that both want, intercepting since 12 min ago (18:51:04 UTC): ask bob, or choose another condition",
            ),
            (
                Event::Conflict(clash(Owner::You, Some(7), Takes::Everything)),
                "conflict  web-1: another redir of yours (intercept 7) gets every request that you want, intercepting since 12 min ago (18:51:04 UTC): end it with `redir leave 7`, or choose another condition",
            ),
            (
                Event::Conflict(clash(Owner::You, None, Takes::Everything)),
                "conflict  web-1: another redir of yours gets every request that you want, intercepting since 12 min ago (18:51:04 UTC): end it with `redir leave` (`redir list` shows which it is), or choose another condition",
            ),
            (Event::ConflictOver(of_bob.clone()), "free  web-1: bob (intercept 7) takes no requests from you any more"),
            (
                Event::Overlap(of_bob.clone()),
                "overlap  web-1: bob (intercept 7), intercepting since 12 min ago (18:51:04 UTC), wants some of your requests too: you get those that both want",
            ),
            (
                Event::Overlap(clash(Owner::Other, Some(7), Takes::Everything)),
                "overlap  web-1: bob (intercept 7), intercepting since 12 min ago (18:51:04 UTC), gets nothing while you intercept: you get every request that both want",
            ),
            (Event::OverlapOver(of_bob), "over  web-1: bob (intercept 7) wants no requests of yours any more"),
        ] {
            assert_eq!(plain(&event), [expected]);
        }
    }

    #[test]
    fn what_goes_wrong() {
        let refused = Event::NotLive {
            agent: "node-1".into(),
            pod: "web-2".into(),
            state: Liveness::Refused,
            reason: "no\nthing".into(),
        };
        assert_eq!(plain(&refused), ["refused  web-2 on node-1: no\\x0athing"]);
        let lost = Event::Lost { agent: "node-1".into(), reason: "timed out".into() };
        assert_eq!(plain(&lost), ["lost  the tunnel to node-1 (timed out): requests go to the app, dialling again"]);
        let restored = Event::Restored { agent: "node-1".into(), pods: vec!["web-1".into()], after_ms: 2100 };
        assert_eq!(plain(&restored), ["live  again on node-1 after 2.10 s: web-1"]);
        let bypassed = |requests| plain(&Event::Bypassed { agent: "node-1".into(), id: 3, requests });
        assert_eq!(bypassed(1), ["missed  1 matched request went to the app while this machine did not answer node-1"]);
        assert_eq!(
            bypassed(12),
            ["missed  12 matched requests went to the app while this machine did not answer node-1"]
        );
    }

    #[test]
    fn tables() {
        let labels = [("app".to_owned(), "web".to_owned())].into();
        let pod = PodEntry { name: "web-1".into(), labels, ports: vec![8080, 9090] };
        let any = PodEntry { name: "a-long-name".into(), labels: [].into(), ports: Vec::new() };
        let events = [Event::Pod { agent: "node-1".into(), pod }, Event::Pod { agent: "node-1".into(), pod: any }];
        assert_eq!(
            table(&pods(&events), Paint::Plain),
            "POD          PORTS      LABELS   AGENT\n\
             web-1        8080,9090  app=web  node-1\n\
             a-long-name  any        -        node-1\n"
        );
    }
}
