//! Times as people and programs read them, without a time zone database: UTC, and how long ago.
//!
//! Owns: their forms. Must not read a clock, except `now`. Called by: `wording`, `json`.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use redir_wire::UnixMillis;

const DAY: u64 = 86_400;

/// This machine's clock.
pub(crate) fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// `2026-11-23T19:03:04.005Z`
pub(crate) fn rfc3339(at: UnixMillis) -> String {
    format!("{:.3}", timestamp(at))
}

/// `19:03:04`, in UTC.
pub(crate) fn time_of_day(at: UnixMillis) -> String {
    timestamp(at).strftime("%H:%M:%S").to_string()
}

/// What an agent says may be any number: after the year 9999 it is the last moment of that.
fn timestamp(at: UnixMillis) -> Timestamp {
    i64::try_from(at.0).ok().and_then(|millis| Timestamp::from_millisecond(millis).ok()).unwrap_or(Timestamp::MAX)
}

/// `12 min`: how long before `now`, in its largest unit. Clocks that disagree give `0 s`.
pub(crate) fn age(at: UnixMillis, now: UnixMillis) -> String {
    let seconds = now.0.saturating_sub(at.0) / 1000;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..DAY => format!("{} h", seconds / 3600),
        DAY.. => format!("{} d", seconds / DAY),
    }
}

/// `12.3 ms`, or `1.20 s` from a second on.
pub(crate) fn duration(micros: u64) -> String {
    match micros {
        0..1_000_000 => format!("{}.{} ms", micros / 1000, micros / 100 % 10),
        1_000_000.. => format!("{}.{:02} s", micros / 1_000_000, micros / 10_000 % 100),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(rfc3339(UnixMillis(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(UnixMillis(951_782_400_000)), "2000-02-29T00:00:00.000Z");
        assert_eq!(rfc3339(UnixMillis(1_795_460_584_005)), "2026-11-23T19:03:04.005Z");
        assert!(rfc3339(UnixMillis(u64::MAX)).ends_with('Z'));
    }

    #[test]
    fn ages_and_durations() {
        let now = UnixMillis(10_000_000_000);
        let ago = |seconds: u64| age(UnixMillis(now.0 - seconds * 1000), now);
        assert_eq!([ago(0), ago(59), ago(720), ago(7200), ago(2 * DAY)], ["0 s", "59 s", "12 min", "2 h", "2 d"]);
        assert_eq!(age(UnixMillis(now.0 + 5000), now), "0 s");
        assert_eq!([duration(12_345), duration(0), duration(1_204_999)], ["12.3 ms", "0.0 ms", "1.20 s"]);
    }
}
