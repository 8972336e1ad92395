//! Answers as tables: `list`, `status`, `describe` and `doctor`.

use redir_api::PodState;
use redir_wire::{InterceptEntry, Listening, Liveness, Owner, TlsHandling, UnixMillis};

use crate::escape::{escape, escape_sentence};
use crate::events::Event;
use crate::model::check::Finding;
use crate::model::rows::InterceptRow;
use crate::model::values::join_labels;
use crate::paint::{Colour, Paint};
use crate::timestamps;

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
