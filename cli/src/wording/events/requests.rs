//! The lines of matched requests, and of connections that are not HTTP.

use redir_wire::{ConnectionBytes, RequestEvent, RequestOutcome};

use crate::escape::{escape, escape_sentence};
use crate::paint::{Colour, Paint};
use crate::timestamps;

/// Bytes of a path that are shown to people.
const PATH_SHOWN: usize = 200;
/// The names of gRPC's status codes, from 0 on.
const GRPC_CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// `19:03:04  GET /path  200  12.3 ms  web-1`
pub(super) fn request(event: &RequestEvent, paint: Paint) -> Vec<String> {
    let what = format!("{} {}", escape(&event.method), short(&event.path));
    let mut lines = missed(event, "requests");
    lines.push(line(event, &what, &result(event, paint), paint));
    lines
}

/// `19:03:04  connection  received 1.2 kB, sent 3.4 MB  2.10 s  web-1`
pub(super) fn connection(event: &RequestEvent, paint: Paint) -> Vec<String> {
    let result = match (&event.outcome, event.bytes) {
        (RequestOutcome::Refused(_), _) => paint.with(Colour::Red, "refused"),
        (_, Some(ConnectionBytes { received, sent })) => {
            format!("received {}, sent {}", bytes(received), bytes(sent))
        }
        (_, None) => "open".to_owned(),
    };
    let mut lines = missed(event, "lines");
    lines.push(line(event, "connection", &result, paint));
    lines
}

/// What a flood of connections leaves out.
pub(crate) fn connections_left_out(lines: u64) -> String {
    format!("({lines} more lines about connections were left out: while there are many, one a second is shown)")
}

fn missed(event: &RequestEvent, what: &str) -> Vec<String> {
    match event.missed {
        0 => Vec::new(),
        missed => vec![format!("({missed} more {what} came than could be shown)")],
    }
}

fn line(event: &RequestEvent, what: &str, result: &str, paint: Paint) -> String {
    let why = match &event.outcome {
        RequestOutcome::Refused(why) => format!(": {}", escape_sentence(why)),
        RequestOutcome::Answered | RequestOutcome::ClientLeft | RequestOutcome::Cut | RequestOutcome::Other => {
            String::new()
        }
    };
    format!(
        "{}  {what}  {result}  {}  {}{why}",
        paint.with(Colour::Dim, &timestamps::time_of_day(event.when)),
        timestamps::duration(event.micros),
        escape(&event.pod),
    )
}

/// `200`, `502 by redir`, `200, grpc 14 UNAVAILABLE`, `client left`
fn result(event: &RequestEvent, paint: Paint) -> String {
    let grpc = event.grpc_status.map(|code| (code, format!(", grpc {code}{}", grpc_name(code)))).unwrap_or_default();
    let colour = match (event.status, grpc.0) {
        (0 | 500.., _) | (_, 1..) => Colour::Red,
        (400..500, 0) => Colour::Yellow,
        (1..400, 0) => Colour::Green,
    };
    let status = match event.status {
        0 => "---".to_owned(),
        status => format!("{status}{}", grpc.1),
    };
    match (&event.outcome, event.status) {
        (RequestOutcome::Answered | RequestOutcome::Other, _) => paint.with(colour, &status),
        (RequestOutcome::Refused(_), _) => paint.with(Colour::Red, &format!("{status} by redir")),
        (RequestOutcome::ClientLeft, 0) => paint.with(Colour::Yellow, "client left"),
        (RequestOutcome::ClientLeft, _) => paint.with(Colour::Yellow, &format!("{status}, client left")),
        (RequestOutcome::Cut, 0) => paint.with(Colour::Red, "no answer"),
        (RequestOutcome::Cut, _) => paint.with(Colour::Red, &format!("{status}, cut off")),
    }
}

fn grpc_name(code: u32) -> String {
    let name = usize::try_from(code).ok().and_then(|code| GRPC_CODES.get(code));
    name.map(|name| format!(" {name}")).unwrap_or_default()
}

/// A path as people can read it; programs get all of it.
fn short(path: &str) -> String {
    match path.as_bytes().get(..PATH_SHOWN) {
        Some(front) if path.len() > PATH_SHOWN => escape(front) + "…",
        _ => escape(path),
    }
}

/// `999 B`, `1.2 kB`, `3.4 MB`
fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if count < 1_000 {
        return format!("{count} B");
    }
    let (mut tenths, mut unit) = (count / 100, 0);
    while tenths >= 10_000 && unit + 1 < UNITS.len() {
        tenths /= 1_000;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use redir_wire::UnixMillis;

    use super::*;

    fn event(path: &str, status: u16) -> RequestEvent {
        RequestEvent {
            intercept: 7,
            when: UnixMillis(1_795_460_584_005),
            method: "GET".into(),
            path: path.into(),
            status,
            micros: 12_345,
            pod: "web-1".into(),
            client: "10.0.0.9:4000".into(),
            missed: 0,
            outcome: RequestOutcome::Answered,
            grpc_status: None,
            bytes: None,
        }
    }

    fn plain(event: &RequestEvent) -> Vec<String> {
        request(event, Paint::Plain)
    }

    #[test]
    fn requests() {
        assert_eq!(plain(&event("/a", 200)), ["19:03:04  GET /a  200  12.3 ms  web-1"]);
        let missed = RequestEvent { missed: 2, ..event("/\u{1b}[2J\n", 0) };
        assert_eq!(
            plain(&missed),
            ["(2 more requests came than could be shown)", "19:03:04  GET /\\x1b[2J\\x0a  ---  12.3 ms  web-1"]
        );
        let long = "/".repeat(PATH_SHOWN);
        assert_eq!(plain(&event(&long, 200)), [format!("19:03:04  GET {long}  200  12.3 ms  web-1")]);
        let longer = format!("{long}x");
        assert_eq!(plain(&event(&longer, 200)), [format!("19:03:04  GET {long}…  200  12.3 ms  web-1")]);
        let coloured = request(&event("/a", 503), Paint::Coloured);
        assert_eq!(coloured, ["\u{1b}[2m19:03:04\u{1b}[0m  GET /a  \u{1b}[31m503\u{1b}[0m  12.3 ms  web-1"]);
    }

    #[test]
    fn who_answered_is_said() {
        let of = |status, outcome, grpc_status| {
            let event = RequestEvent { outcome, grpc_status, ..event("/a", status) };
            plain(&event).remove(0).replace("19:03:04  GET /a  ", "").replace("  12.3 ms  web-1", "")
        };
        let refused = || RequestOutcome::Refused("nobody\nlistens".into());
        assert_eq!(of(502, refused(), None), "502 by redir: nobody\\x0alistens");
        assert_eq!(of(200, refused(), Some(14)), "200, grpc 14 UNAVAILABLE by redir: nobody\\x0alistens");
        assert_eq!(of(200, RequestOutcome::Answered, Some(0)), "200, grpc 0 OK");
        assert_eq!(of(200, RequestOutcome::Answered, Some(99)), "200, grpc 99");
        assert_eq!(of(0, RequestOutcome::ClientLeft, None), "client left");
        assert_eq!(of(200, RequestOutcome::ClientLeft, None), "200, client left");
        assert_eq!(of(0, RequestOutcome::Cut, None), "no answer");
        assert_eq!(of(200, RequestOutcome::Cut, None), "200, cut off");
        assert_eq!(of(200, RequestOutcome::Other, None), "200");
    }

    #[test]
    fn connections() {
        let of = |outcome, bytes| {
            let event = RequestEvent { outcome, bytes, method: String::new(), ..event("", 0) };
            connection(&event, Paint::Plain).remove(0).replace("19:03:04  connection  ", "")
        };
        let some = |received, sent| Some(ConnectionBytes { received, sent });
        assert_eq!(of(RequestOutcome::Answered, None), "open  12.3 ms  web-1");
        let closed = of(RequestOutcome::Answered, some(1_250, 3_400_000));
        assert_eq!(closed, "received 1.2 kB, sent 3.4 MB  12.3 ms  web-1");
        let refused = of(RequestOutcome::Refused("no".into()), some(0, 0));
        assert_eq!(refused, "refused  12.3 ms  web-1: no");
    }

    #[test]
    fn sizes() {
        let sizes = [0, 999, 1_000, 999_949, 1_000_000, 12_345_678_901, u64::MAX].map(bytes);
        assert_eq!(sizes, ["0 B", "999 B", "1.0 kB", "999.9 kB", "1.0 MB", "12.3 GB", "18446744.0 TB"]);
    }
}
