//! `redir-bench load`: requests over a fixed number of connections, from one thread. With `--rate` at a fixed schedule,
//! each latency counted from when the request was due, sent or not (no coordinated omission); without, each connection
//! asks again as soon as it was answered, which finds the capacity. Never retries: what goes wrong is a failed request.

mod connection;

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Args;
use hdrhistogram::Histogram;
use nix::sys::{
    time::TimeSpec,
    timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
};
use serde::{Deserialize, Serialize};

use super::{Events, Interest};
use connection::{Connection, Exchange, Step};

/// Its command line.
#[derive(Debug, Clone, Args)]
pub struct LoadOptions {
    /// Where the requests go
    #[arg(long)]
    to: SocketAddr,
    /// How many connections
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Requests a second, over all connections; without it, as many as there can be
    #[arg(long)]
    rate: Option<f64>,
    /// A connection for each request
    #[arg(long)]
    close: bool,
    /// Requests that are written at once on a connection; their latency is the last answer's
    #[arg(long, default_value_t = 1)]
    pipeline: usize,
    /// The path; the app answers `/N` with N bytes more
    #[arg(long, default_value = "/")]
    path: String,
    /// More headers, `name: value`
    #[arg(long = "header")]
    headers: Vec<String>,
    /// Bytes of each request's body
    #[arg(long, default_value_t = 0)]
    upload: usize,
    /// What each answer's body begins with
    #[arg(long)]
    expect: String,
    /// Milliseconds before anything counts
    #[arg(long, default_value_t = 1000)]
    warm: u64,
    /// Milliseconds that count
    #[arg(long, default_value_t = 4000)]
    counted: u64,
}

/// What it prints, as one line of JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LoadFigures {
    /// Answered requests in the counted time.
    pub requests: u64,
    /// Failed ones, also while warming up.
    pub failed: u64,
    /// Why the first failed.
    pub reason: Option<String>,
    /// Seconds that counted.
    pub seconds: f64,
    /// Bytes sent and read in the counted time, heads included.
    pub bytes: u64,
    /// Quantile and microseconds.
    pub quantiles: Vec<(f64, f64)>,
}

/// What of the distribution is kept: enough for a curve.
pub const QUANTILES: [f64; 17] =
    [0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.995, 0.999, 1.0];

const TIMER: u64 = u64::MAX;
/// A request that is not answered by then has failed.
const PATIENCE: Duration = Duration::from_secs(15);

/// The schedule of an open loop, and what is due but has no free connection yet.
struct OpenLoopSchedule {
    timer: TimerFd,
    interval: Duration,
    next: Instant,
    waiting: VecDeque<Instant>,
}

struct LoadRun<'a> {
    options: &'a LoadOptions,
    exchange: Exchange,
    events: Events,
    connections: Vec<Connection>,
    free: VecDeque<usize>,
    begin: Instant,
    latencies: Histogram<u64>,
    report: LoadFigures,
}

/// Loads, then gives what was seen.
pub fn run(options: &LoadOptions) -> Result<LoadFigures> {
    let now = Instant::now();
    let begin = now + Duration::from_millis(options.warm);
    let end = begin + Duration::from_millis(options.counted);
    let report = LoadFigures { requests: 0, failed: 0, reason: None, seconds: 0.0, bytes: 0, quantiles: Vec::new() };
    let mut run = LoadRun {
        options,
        exchange: Exchange {
            requests: request(options).repeat(options.pipeline),
            count: options.pipeline,
            expect: options.expect.clone(),
        },
        events: Events::new()?,
        connections: (0..options.connections).map(|_| Connection::new(options.to)).collect(),
        free: (0..options.connections).collect(),
        begin,
        latencies: Histogram::new(3)?,
        report,
    };
    match options.rate {
        None => run.saturate(end)?,
        Some(rate) => {
            let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK)?;
            run.events.add(&timer, TIMER, Interest::INPUT)?;
            let interval = Duration::from_secs_f64(1.0 / rate);
            run.open_loop(OpenLoopSchedule { timer, interval, next: now, waiting: VecDeque::new() }, end)?;
        }
    }
    Ok(run.finish(end))
}

fn request(options: &LoadOptions) -> Vec<u8> {
    let method = if options.upload > 0 { "POST" } else { "GET" };
    let mut text =
        format!("{method} {} HTTP/1.1\r\nhost: web\r\nuser-agent: redir-bench\r\naccept: */*\r\n", options.path);
    for header in &options.headers {
        text += &format!("{header}\r\n");
    }
    if options.upload > 0 {
        text += &format!("content-length: {}\r\n", options.upload);
    }
    let mut bytes = (text + "\r\n").into_bytes();
    bytes.resize(bytes.len() + options.upload, b'.');
    bytes
}

impl LoadRun<'_> {
    fn saturate(&mut self, end: Instant) -> Result<()> {
        while Instant::now() < end {
            while let Some(free) = self.free.pop_front() {
                self.start(free, Instant::now())?;
            }
            for number in self.events.wait(Some(end.saturating_duration_since(Instant::now())))? {
                self.step(number)?;
            }
        }
        Ok(())
    }

    /// Until the schedule ends and everything due before was answered.
    fn open_loop(&mut self, mut schedule: OpenLoopSchedule, end: Instant) -> Result<()> {
        loop {
            let now = Instant::now();
            while schedule.next <= now && schedule.next < end {
                schedule.waiting.push_back(schedule.next);
                schedule.next += schedule.interval;
            }
            while !schedule.waiting.is_empty()
                && let Some(free) = self.free.pop_front()
            {
                let due = schedule.waiting.pop_front().expect("looked at just before");
                self.start(free, due)?;
            }
            let all_answered = schedule.waiting.is_empty() && self.free.len() == self.connections.len();
            if schedule.next >= end && (all_answered || now > end + PATIENCE) {
                return Ok(());
            }
            if schedule.next < end {
                let wait = schedule.next.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
                schedule.timer.set(Expiration::OneShot(TimeSpec::from_duration(wait)), TimerSetTimeFlags::empty())?;
            }
            for number in self.events.wait(Some(PATIENCE))? {
                if number == TIMER {
                    // Taken so that it does not fire again; how often it did is in the schedule.
                    schedule.timer.wait()?;
                } else {
                    self.step(number)?;
                }
            }
        }
    }

    fn start(&mut self, free: usize, due: Instant) -> Result<()> {
        let connection = &mut self.connections[free];
        let step = connection.begin(due, &self.events, free as u64, &self.exchange);
        self.done(free, step)
    }

    fn step(&mut self, number: u64) -> Result<()> {
        let number = usize::try_from(number)?;
        let step = self.connections[number].step(&self.events, number as u64, &self.exchange);
        self.done(number, step)
    }

    fn done(&mut self, number: usize, step: Result<Step>) -> Result<()> {
        let connection = &mut self.connections[number];
        let moved = connection.moved();
        if Instant::now() >= self.begin {
            self.report.bytes += moved;
        }
        match step {
            Ok(Step::Waiting) => return Ok(()),
            Ok(Step::Answered) => {
                if connection.due() >= self.begin {
                    let took = connection.due().elapsed();
                    self.latencies.record(u64::try_from(took.as_nanos())?)?;
                    self.report.requests += self.exchange.count as u64;
                }
                if self.options.close {
                    connection.close();
                }
            }
            Err(error) => {
                self.report.failed += 1;
                self.report.reason.get_or_insert(format!("{error:#}"));
                connection.close();
            }
        }
        self.free.push_back(number);
        Ok(())
    }

    fn finish(mut self, end: Instant) -> LoadFigures {
        // An open load has waited for its requests; a saturating one ends with some under way, and what of a body is still in
        // buffers must not take its time from the next round.
        match self.options.rate {
            Some(_) => self.report.failed += (self.connections.len() - self.free.len()) as u64,
            None => self.connections.iter().for_each(Connection::reset_at_its_end),
        }
        self.report.seconds = end.duration_since(self.begin).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "nanoseconds below 2^52")]
        let quantiles = QUANTILES.iter().map(|q| (*q, self.latencies.value_at_quantile(*q) as f64 / 1000.0));
        self.report.quantiles = quantiles.collect();
        self.report
    }
}
