//! Whether the other end of a tunnel is alive: the one place that decides it, at both ends.
//!
//! Owns what is known of the other end (what was heard, what is outstanding, signs that it is gone) as a state machine
//! without clock or socket. Must not end anything: whoever owns the tunnel does. Called by the agent's session and by
//! `redir`'s, every [`LivenessLimits::look`] and at each sign.
//!
//! Four things end or pause a tunnel:
//! - **Silence**: nothing was heard for [`LivenessLimits::silence`]: down. QUIC's keep-alives see to it that a living end is
//!   not silent.
//! - **A hint** that nobody listens at the other end's address: it is asked a few times, one probe timeout apart. Down if
//!   nothing at all is heard meanwhile. Anybody may forge hints: they are followed once in [`HINT_PAUSE`].
//! - **A wake-up**: this machine slept, and the other end may have given the tunnel up. It is asked in the same way.
//! - **Nothing acknowledged** for [`UNANSWERED`], or four round trips if that is longer, while something is outstanding:
//!   the agent gives new requests to the app until the developer's end acknowledges again. The agent's keep-alive sees to
//!   it that something is outstanding soon.

use std::time::Duration;

use tokio::time::Instant;

use crate::transport::IDLE;

/// What a QUIC connection has counted so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameCounts {
    /// Frames received, in packets that only the other end can have sent.
    heard: u64,
    /// Of them, acknowledgements.
    acknowledged: u64,
    /// Frames sent that the other end must acknowledge.
    asked: u64,
}

impl FrameCounts {
    /// Of this connection, until now.
    pub fn of(connection: &quinn::Connection) -> Self {
        let stats = connection.stats();
        let (received, sent) = (stats.frame_rx, stats.frame_tx);
        let eliciting = |frames: &quinn::FrameStats| {
            let control =
                frames.max_data + frames.max_stream_data + frames.max_streams_bidi + frames.stream_data_blocked;
            let ends =
                frames.reset_stream + frames.stop_sending + frames.new_connection_id + frames.retire_connection_id;
            frames.stream + frames.ping + frames.crypto + frames.path_challenge + frames.path_response + control + ends
        };
        Self { heard: eliciting(&received) + received.acks, acknowledged: received.acks, asked: eliciting(&sent) }
    }
}

/// How a tunnel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelState {
    /// It answers, or nothing was asked.
    Alive,
    /// What was sent is not acknowledged: it gets no new requests.
    Unanswered,
    /// It is down.
    Down,
}

/// What a look has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LivenessReport {
    /// How the tunnel is.
    pub state: TunnelState,
    /// Something must be sent now that the other end acknowledges.
    pub ping: bool,
}

/// How often one end looks, and how long it waits.
#[derive(Clone, Copy, Debug)]
pub struct LivenessLimits {
    /// Time between two looks.
    pub look: Duration,
    /// A tunnel from which nothing came for so long is down.
    pub silence: Duration,
    /// How often the other end is asked after a hint or a wake-up.
    pings: u32,
    /// Time between two of these, at least: a process that lives may wait for a CPU.
    probe: Duration,
}

impl LivenessLimits {
    /// The agent's, about a developer's end. Silence: eight keep-alives of it. A look at either end may be late, and a
    /// vanished machine may go unnoticed for 10 s. A probe takes two looks, of which the second may be early.
    pub const AGENT: Self = Self {
        look: Duration::from_millis(100),
        silence: Duration::from_secs(8),
        pings: 3,
        probe: Duration::from_millis(180),
    };
    /// The developer's, about an agent: after a wake-up it has 2 s to answer.
    pub const DEVELOPER: Self =
        Self { look: Duration::from_millis(500), silence: IDLE, pings: 4, probe: Duration::from_millis(480) };
}

const _: () = assert!(LivenessLimits::AGENT.probe.as_millis() < 2 * LivenessLimits::AGENT.look.as_millis());
const _: () = assert!(LivenessLimits::DEVELOPER.probe.as_millis() < LivenessLimits::DEVELOPER.look.as_millis());

/// See the module.
#[derive(Debug)]
pub struct TunnelLiveness {
    limits: LivenessLimits,
    counted: FrameCounts,
    looked: Instant,
    heard: Instant,
    /// Since when something is outstanding of which nothing was acknowledged.
    outstanding: Option<Instant>,
    unanswered: bool,
    /// How long it may be silent.
    patience: Duration,
    asking: Option<OpenQuestion>,
    /// Hints count from then on.
    hints_from: Instant,
}

/// The other end is asked whether it lives.
#[derive(Clone, Copy, Debug)]
struct OpenQuestion {
    pings: u32,
    next: Instant,
    /// What was heard before the first ping.
    heard: u64,
}

impl TunnelLiveness {
    /// Of a tunnel that is up now.
    pub fn new(limits: LivenessLimits, counted: FrameCounts, now: Instant) -> Self {
        Self {
            limits,
            counted,
            looked: now,
            heard: now,
            outstanding: None,
            unanswered: false,
            patience: limits.silence,
            asking: None,
            hints_from: now,
        }
    }

    /// All that the tunnel carried goes on in another of the same redir: it is most likely dead.
    pub fn replaced(&mut self) {
        self.patience = SILENCE_REPLACED;
    }

    /// Somebody says that nobody listens there; true if the other end is asked about it.
    pub fn hinted(&mut self, now: Instant) -> bool {
        if self.asking.is_some() || now < self.hints_from {
            return false;
        }
        self.hints_from = now + HINT_PAUSE;
        self.ask_now(now);
        true
    }

    /// This machine slept: the other end is asked, unless it is being asked already.
    pub fn woke(&mut self, now: Instant) {
        if self.asking.is_none() {
            self.ask_now(now);
        }
    }

    /// Whether it is being asked.
    pub fn is_asking(&self) -> bool {
        self.asking.is_some()
    }

    /// How long nothing was heard, as far as the looks tell.
    pub fn silent_for(&self, now: Instant) -> Duration {
        now.duration_since(self.heard)
    }

    /// What came before is counted by the next look, and is no answer.
    fn ask_now(&mut self, now: Instant) {
        self.asking = Some(OpenQuestion { pings: 0, next: now, heard: 0 });
    }

    /// What is so now; to be called every [`LivenessLimits::look`].
    pub fn look(&mut self, counted: FrameCounts, rtt: Duration, now: Instant) -> LivenessReport {
        self.forgive(now);
        let heard = counted.heard != self.counted.heard;
        if heard {
            self.heard = now;
        }
        if counted.acknowledged != self.counted.acknowledged {
            (self.outstanding, self.unanswered) = (None, false);
        } else if counted.asked != self.counted.asked && self.outstanding.is_none() {
            self.outstanding = Some(now);
        }
        self.counted = counted;
        let unanswered_for = self.outstanding.map(|since| now.duration_since(since));
        self.unanswered |= unanswered_for.is_some_and(|time| time >= UNANSWERED.max(rtt * 4));
        let (ping, gone) = self.ask(rtt, now);
        let state = match () {
            () if gone || now.duration_since(self.heard) >= self.patience => TunnelState::Down,
            () if self.unanswered => TunnelState::Unanswered,
            () => TunnelState::Alive,
        };
        // QUIC's own next probe may be far off, after a silence.
        LivenessReport { state, ping: ping || (heard && self.unanswered) }
    }

    /// Time in which this agent did not run says nothing about the other end.
    fn forgive(&mut self, now: Instant) {
        let lost = now.duration_since(self.looked).saturating_sub(self.limits.look * 2);
        self.looked = now;
        self.heard += lost;
        if let Some(since) = &mut self.outstanding {
            *since += lost;
        }
        // One that was not asked yet is asked now: it was this pause that raised the question.
        if let Some(asking) = self.asking.as_mut().filter(|asking| asking.pings > 0) {
            asking.next += lost;
        }
    }

    /// Whether to ping now, and whether nobody has answered.
    fn ask(&mut self, rtt: Duration, now: Instant) -> (bool, bool) {
        let Some(asking) = &mut self.asking else { return (false, false) };
        if asking.pings == 0 {
            asking.heard = self.counted.heard;
        } else if asking.heard != self.counted.heard {
            self.asking = None;
            return (false, false);
        }
        if now < asking.next {
            return (false, false);
        }
        if asking.pings == self.limits.pings {
            return (false, true);
        }
        asking.pings += 1;
        // RFC 9002, 6.2.1: with a variance of half the round trip, as long as it is not known better.
        asking.next = now + (rtt * 3 + ACK_DELAY).max(self.limits.probe);
        (true, false)
    }
}

/// How long a tunnel may be silent whose redir has dialled another: two keep-alives may be lost.
const SILENCE_REPLACED: Duration = Duration::from_millis(2500);
/// How long nothing may be acknowledged while something is outstanding, before new requests go to the app.
const UNANSWERED: Duration = Duration::from_secs(1);
/// How long an end may keep an acknowledgement (RFC 9000, 18.2, `max_ack_delay`).
const ACK_DELAY: Duration = Duration::from_millis(25);
/// How often hints are followed.
const HINT_PAUSE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: LivenessLimits = LivenessLimits::AGENT;
    const LOOK: Duration = LIMITS.look;
    const RTT: Duration = Duration::from_millis(10);

    /// A tunnel, its clock, and what it has counted.
    struct Tunnel {
        liveness: TunnelLiveness,
        counted: FrameCounts,
        now: Instant,
    }

    impl Tunnel {
        fn new() -> Self {
            let (counted, now) = (FrameCounts::default(), Instant::now());
            Self { liveness: TunnelLiveness::new(LIMITS, counted, now), counted, now }
        }

        /// Looks until `time` is over; the pings that were asked for, and how it is then.
        fn run(&mut self, time: Duration, rtt: Duration) -> (usize, TunnelState) {
            let (until, mut pings) = (self.now + time, 0);
            loop {
                self.now += LOOK;
                let looked = self.liveness.look(self.counted, rtt, self.now);
                if looked.ping {
                    pings += 1;
                    self.counted.asked += 1;
                }
                if self.now >= until || looked.state == TunnelState::Down {
                    return (pings, looked.state);
                }
            }
        }

        fn acknowledges(&mut self) {
            (self.counted.heard, self.counted.acknowledged) = (self.counted.heard + 1, self.counted.acknowledged + 1);
        }

        fn is(&mut self, after_millis: u64) -> TunnelState {
            self.run(Duration::from_millis(after_millis), RTT).1
        }
    }

    #[test]
    fn a_hint_that_nobody_contradicts_ends_it_after_three_pings() {
        let mut tunnel = Tunnel::new();
        assert!(tunnel.liveness.hinted(tunnel.now));
        let began = tunnel.now;
        assert_eq!(tunnel.run(Duration::from_secs(3), RTT), (3, TunnelState::Down));
        assert!(tunnel.now - began <= Duration::from_millis(1000), "{:?}", tunnel.now - began);
    }

    #[test]
    fn anything_that_is_heard_after_a_ping_contradicts_a_hint() {
        for pings in 1..=3 {
            let mut tunnel = Tunnel::new();
            assert!(tunnel.liveness.hinted(tunnel.now));
            // Heard before the first ping: it was on its way already.
            tunnel.counted.heard += 1;
            let mut sent = 0;
            while sent < pings {
                sent += tunnel.run(LOOK, RTT).0;
            }
            tunnel.acknowledges();
            assert_eq!(tunnel.run(Duration::from_secs(3), RTT), (0, TunnelState::Alive), "after {pings} pings");
        }
    }

    #[test]
    fn hints_are_followed_once_in_five_seconds() {
        let mut tunnel = Tunnel::new();
        let mut pings = 0;
        for _ in 0..1000 {
            tunnel.liveness.hinted(tunnel.now);
            let (more, life) = tunnel.run(LOOK, RTT);
            assert_eq!(life, TunnelState::Alive);
            pings += more;
            if more > 0 {
                tunnel.acknowledges();
            }
        }
        assert_eq!(pings, 20, "1000 looks are 100 seconds");
    }

    #[test]
    fn what_is_not_acknowledged_for_a_second_stops_new_requests_until_something_is_heard() {
        let mut tunnel = Tunnel::new();
        tunnel.counted.asked += 1;
        assert_eq!(tunnel.is(1000), TunnelState::Alive);
        assert_eq!(tunnel.is(200), TunnelState::Unanswered);
        tunnel.counted.asked += 1;
        assert_eq!(tunnel.is(2000), TunnelState::Unanswered);
        // Something comes from there: it is asked at once, since only an answer shows that our packets arrive.
        tunnel.counted.heard += 1;
        assert_eq!(tunnel.run(LOOK, RTT), (1, TunnelState::Unanswered));
        tunnel.acknowledges();
        assert_eq!(tunnel.is(100), TunnelState::Alive);
        // With nothing outstanding an idle tunnel is no silent one.
        assert_eq!(tunnel.is(3000), TunnelState::Alive);
    }

    #[test]
    fn a_long_path_may_take_four_round_trips() {
        let mut tunnel = Tunnel::new();
        tunnel.counted.asked += 1;
        let rtt = Duration::from_millis(500);
        assert_eq!(tunnel.run(Duration::from_millis(2000), rtt).1, TunnelState::Alive);
        assert_eq!(tunnel.run(Duration::from_millis(200), rtt).1, TunnelState::Unanswered);
    }

    #[test]
    fn silence_ends_it_and_sooner_if_it_was_replaced() {
        for (replaced, limit) in [(false, LIMITS.silence), (true, SILENCE_REPLACED)] {
            let mut tunnel = Tunnel::new();
            if replaced {
                tunnel.liveness.replaced();
            }
            let began = tunnel.now;
            assert_eq!(tunnel.run(limit * 2, RTT).1, TunnelState::Down);
            assert!(tunnel.now - began >= limit && tunnel.now - began <= limit + LOOK * 2);
        }
    }

    #[test]
    fn an_agent_that_did_not_run_blames_nobody() {
        let mut tunnel = Tunnel::new();
        tunnel.counted.asked += 1;
        assert!(tunnel.liveness.hinted(tunnel.now));
        assert_eq!(tunnel.run(LOOK, RTT), (1, TunnelState::Alive));
        tunnel.now += Duration::from_secs(60);
        assert_eq!(tunnel.is(100), TunnelState::Alive);
    }

    /// A clock that goes on while the machine sleeps: the first look afterwards finds both.
    #[test]
    fn a_pause_does_not_put_off_the_question_that_it_raises() {
        let (limits, counted, mut now) = (LivenessLimits::DEVELOPER, FrameCounts::default(), Instant::now());
        let mut liveness = TunnelLiveness::new(limits, counted, now);
        liveness.look(counted, RTT, now);
        now += Duration::from_secs(600);
        liveness.woke(now);
        let woke = now;
        let mut report = liveness.look(counted, RTT, now);
        assert!(report.ping, "it is asked at once");
        while report.state != TunnelState::Down && now - woke < Duration::from_secs(10) {
            now += limits.look;
            report = liveness.look(counted, RTT, now);
        }
        assert_eq!((report.state, now - woke), (TunnelState::Down, Duration::from_secs(2)));
    }

    #[test]
    fn after_a_sleep_the_agent_has_two_seconds_to_answer() {
        let limits = LivenessLimits::DEVELOPER;
        for answers_at in [None, Some(1), Some(3)] {
            let (mut counted, mut now) = (FrameCounts::default(), Instant::now());
            let mut liveness = TunnelLiveness::new(limits, counted, now);
            assert!(!liveness.look(counted, RTT, now).ping, "nothing is asked without a reason");
            let woke = now;
            liveness.woke(now);
            let mut states = Vec::new();
            for look in 0..6 {
                if answers_at == Some(look) {
                    counted.heard += 1;
                }
                let report = liveness.look(counted, RTT, now);
                states.push(report.state);
                if report.state == TunnelState::Down {
                    break;
                }
                now += limits.look;
            }
            assert_eq!(liveness.is_asking(), answers_at.is_none());
            match answers_at {
                None => assert_eq!((states.last(), now - woke), (Some(&TunnelState::Down), Duration::from_secs(2))),
                Some(_) => assert_eq!(states, [TunnelState::Alive; 6]),
            }
        }
    }
}
