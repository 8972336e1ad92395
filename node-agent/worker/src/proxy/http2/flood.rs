//! How much a client may send that carries nothing, before it counts as a flood.
//!
//! Pure: heads of frames and the time in, a verdict out. Called by `guard` for every frame of a client.
//!
//! The h2 crate ends a connection for too many CONTINUATION frames, for headers that decode to too much, for streams
//! that are reset before anybody looked at them, and for errors of its own; it takes any number of PING, SETTINGS,
//! WINDOW_UPDATE, PRIORITY and unknown frames, and any number of streams that are opened and reset. Those are counted
//! here, in buckets that fill up again with the time. What a client needs for its work comes with the work: each frame
//! that carries something, in either direction, pays for [`PER_WORK`] that do not. (grpc-go measures its path with a
//! PING for each DATA it gets while none is on its way, at most; browsers and C-core send two WINDOW_UPDATEs for a
//! DATA frame.)

use std::time::Duration;

use tokio::time::Instant;

use super::{
    frames::{CONTINUATION, DATA, HEADERS, Head, RST_STREAM, SETTINGS},
    limits,
};

/// Frames that carry nothing. A keep-alive PING comes every ten seconds or more; a client that opens a thousand streams
/// may send a PRIORITY or a WINDOW_UPDATE with each.
const CONTROL: Rule = Rule { burst: 10_000, per_second: 500 };
/// Streams that the client resets. A client whose deadlines all end at once resets as many as it has open, again and
/// again if it retries; 1,000/s for longer than some seconds is nobody's deadline.
const RESETS: Rule = Rule { burst: 4_000, per_second: 1_000 };
/// Streams that were opened and could not be taken: malformed, too long, beyond the limit of open streams. Each has
/// cost the decoding of its headers. A client that sends them has a fault and does not send thousands.
const BAD: Rule = Rule { burst: 1_000, per_second: 50 };
/// What SETTINGS cost among the frames that carry nothing: they are applied to every open stream. A client sends them
/// once, grpc-go a dozen times while it measures its path.
const SETTINGS_COST: u32 = 50;
/// Frames that one frame with something in it pays for.
const PER_WORK: u32 = 10;

/// How many at once, and how many in the long run.
#[derive(Clone, Copy)]
struct Rule {
    burst: u32,
    per_second: u32,
}

/// What a client sends too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flooded {
    /// Frames that carry nothing.
    Control,
    /// Streams that are opened and reset.
    Resets,
    /// Streams that cannot be taken.
    Bad,
    /// Long lists of headers out of a few bytes.
    Expansion,
    /// Headers that do not end, in time.
    Slow,
    /// Headers that do not end, in the memory that there is.
    Scarce,
}

impl Flooded {
    /// For the log.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Flooded::Control => "frames that carry nothing",
            Flooded::Resets => "streams that are reset",
            Flooded::Bad => "requests that cannot be taken",
            Flooded::Expansion => "lists of headers that are far longer than what was sent",
            Flooded::Slow => "headers that do not end",
            Flooded::Scarce => "headers that do not end, while memory is scarce",
        }
    }
}

/// Long lists, in bytes, that may come out of so many bytes of header blocks in the whole life of a connection: eight times
/// as many, and four of the longest. A table of 4 KiB makes long values hardly shorter; only one value that is named again
/// and again is.
pub(super) fn expansion(decoded: u64, blocks: u64) -> Result<(), Flooded> {
    let most = 4 * u64::from(limits::HEADER_LIST) + 8 * blocks;
    if decoded <= most { Ok(()) } else { Err(Flooded::Expansion) }
}

/// What one client may still send.
#[derive(Debug)]
pub(super) struct Flood {
    control: Bucket,
    resets: Bucket,
    bad: Bucket,
}

impl Flood {
    /// Of a client that has sent nothing.
    pub(super) fn new(now: Instant) -> Self {
        Flood { control: Bucket::full(CONTROL, now), resets: Bucket::full(RESETS, now), bad: Bucket::full(BAD, now) }
    }

    /// The client has sent a frame.
    pub(super) fn frame(&mut self, head: &Head, now: Instant) -> Result<(), Flooded> {
        let cost = match head.kind {
            RST_STREAM => return self.resets.take(1, RESETS, now).then_some(()).ok_or(Flooded::Resets),
            // The h2 crate bounds what belongs to one header block.
            CONTINUATION => return Ok(()),
            HEADERS | DATA if !head.is_idle_data() => {
                self.work(1);
                return Ok(());
            }
            SETTINGS if !head.is_ack() => SETTINGS_COST,
            _ => 1,
        };
        self.control.take(cost, CONTROL, now).then_some(()).ok_or(Flooded::Control)
    }

    /// So many streams were opened and could not be taken.
    pub(super) fn bad(&mut self, streams: u32, now: Instant) -> Result<(), Flooded> {
        self.bad.take(streams, BAD, now).then_some(()).ok_or(Flooded::Bad)
    }

    /// So many frames carried something.
    pub(super) fn work(&mut self, frames: u32) {
        self.control.give(frames.saturating_mul(PER_WORK), CONTROL);
    }
}

/// Fills up with the time.
#[derive(Debug)]
struct Bucket {
    level: u32,
    since: Instant,
}

impl Bucket {
    fn full(rule: Rule, now: Instant) -> Self {
        Bucket { level: rule.burst, since: now }
    }

    fn give(&mut self, count: u32, rule: Rule) {
        self.level = self.level.saturating_add(count).min(rule.burst);
    }

    /// False: there were not so many left.
    fn take(&mut self, count: u32, rule: Rule, now: Instant) -> bool {
        if self.level < count {
            self.fill(rule, now);
        }
        let enough = self.level >= count;
        self.level = self.level.saturating_sub(count);
        enough
    }

    /// What the time has brought; the part of one that it has not stays with the time.
    fn fill(&mut self, rule: Rule, now: Instant) {
        let elapsed = now.saturating_duration_since(self.since);
        let whole = elapsed.as_nanos() * u128::from(rule.per_second) / 1_000_000_000;
        let brought = u32::try_from(whole).unwrap_or(u32::MAX);
        self.since += Duration::from_nanos(1_000_000_000 / u64::from(rule.per_second)).saturating_mul(brought);
        self.give(brought, rule);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::http2::frames::{Fate, Frames, PING, PRIORITY, WINDOW_UPDATE, Watch};

    struct Heads(Vec<Head>);

    impl Watch for Heads {
        fn frame(&mut self, head: &Head) -> Fate {
            self.0.push(*head);
            Fate::Keep
        }

        fn settings(&mut self, _: &[u8]) {}
    }

    fn head(len: u8, kind: u8, flags: u8) -> Head {
        let mut heads = Heads(Vec::new());
        Frames::default().pass(&mut [0, 0, len, kind, flags, 0, 0, 0, 1], &mut heads);
        heads.0[0]
    }

    /// How many of a frame are let through without a pause.
    fn burst(head: Head) -> u32 {
        let now = Instant::now();
        let mut flood = Flood::new(now);
        (0..1_000_000).find(|_| flood.frame(&head, now).is_err()).unwrap_or(u32::MAX)
    }

    #[test]
    fn what_carries_nothing_is_bounded_and_what_carries_something_is_not() {
        assert_eq!(burst(head(8, PING, 0)), 10_000);
        assert_eq!(burst(head(8, PING, 1)), 10_000);
        assert_eq!(burst(head(0, DATA, 0)), 10_000);
        assert_eq!(burst(head(4, WINDOW_UPDATE, 0)), 10_000);
        assert_eq!(burst(head(5, PRIORITY, 0)), 10_000);
        assert_eq!(burst(head(9, 0xee, 0)), 10_000);
        assert_eq!(burst(head(6, SETTINGS, 0)), 200);
        assert_eq!(burst(head(4, RST_STREAM, 0)), 4_000);
        assert_eq!(burst(head(1, DATA, 0)), u32::MAX);
        assert_eq!(burst(head(0, DATA, 1)), u32::MAX);
        assert_eq!(burst(head(9, HEADERS, 4)), u32::MAX);
    }

    #[test]
    fn time_and_work_pay_for_more() {
        let mut now = Instant::now();
        let mut flood = Flood::new(now);
        let ping = head(8, PING, 0);
        let drain = |flood: &mut Flood, now| (0..100_000).take_while(|_| flood.frame(&ping, now).is_ok()).count();
        assert_eq!(drain(&mut flood, now), 10_000);
        now += Duration::from_millis(1_001);
        assert_eq!(drain(&mut flood, now), 500);
        now += Duration::from_millis(1);
        assert_eq!(drain(&mut flood, now), 1, "half of one was left over");
        flood.work(3);
        assert_eq!(drain(&mut flood, now), 30);
        flood.work(u32::MAX);
        assert_eq!(drain(&mut flood, now), 10_000, "never more than at the start");
    }

    #[test]
    fn a_busy_client_with_every_habit_at_once_is_never_a_flood() {
        // 20,000 messages a second in small frames, each answered with a PING and two WINDOW_UPDATEs; 900 resets a second.
        let mut now = Instant::now();
        let mut flood = Flood::new(now);
        for message in 0..200_000 {
            now += Duration::from_micros(50);
            for frame in [head(60, DATA, 0), head(8, PING, 0), head(4, WINDOW_UPDATE, 0), head(4, WINDOW_UPDATE, 0)] {
                flood.frame(&frame, now).unwrap();
            }
            if message % 22 == 0 {
                flood.frame(&head(4, RST_STREAM, 0), now).unwrap();
            }
        }
    }

    #[test]
    fn requests_that_cannot_be_taken_are_bounded() {
        let now = Instant::now();
        let mut flood = Flood::new(now);
        flood.bad(1_000, now).unwrap();
        assert_eq!(flood.bad(1, now), Err(Flooded::Bad));
        flood.bad(50, now + Duration::from_secs(1)).unwrap();
    }

    #[test]
    fn lists_may_be_longer_than_what_was_sent_only_so_far() {
        expansion(4 << 20, 0).unwrap();
        assert_eq!(expansion((4 << 20) + 1, 0), Err(Flooded::Expansion));
        expansion((4 << 20) + 8_000, 1_000).unwrap();
        // Long values that are sent again each time, as Huffman makes them shorter, for ever.
        expansion(1 << 40, 1 << 39).unwrap();
    }
}
