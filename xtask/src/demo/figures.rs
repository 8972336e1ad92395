//! The figures at the end: what was timed on the way, and the latency that redir adds, measured against a control in the
//! same run: the same service on a port of the same pod that nobody intercepts.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use redir_rig::http;
use redir_rig::topology::Family;

use super::story::{Story, precise};
use super::world::{CONTROL, DemoWorld, HEADER, PORT};

/// Requests of each kind. The three kinds take turns request by request, so that a slow moment of the machine meets all.
const REQUESTS: usize = 1500;

/// What was measured.
#[derive(Default)]
pub(super) struct DemoTimes {
    pub(super) live: Option<Duration>,
    pub(super) first_answer: Option<Duration>,
    pub(super) after_ctrl_c: Option<Duration>,
    pub(super) worker_back: Option<Duration>,
    pub(super) agent_back: Option<Duration>,
    latency: Option<LatencyFigures>,
}

/// Medians in microseconds; added = of the differences to the control's request just before.
struct LatencyFigures {
    direct: f64,
    unmatched: f64,
    matched: f64,
}

/// Measures all three kinds.
pub(super) fn latency(story: &mut Story, world: &DemoWorld, times: &mut DemoTimes) -> Result<()> {
    story.scene(
        "What it costs",
        &format!(
            "{REQUESTS} requests of each kind in turns, kept alive; the control is a port of the pod nobody intercepts"
        ),
    );
    let mut control = LatencyProbe::new(world, CONTROL, &[], "green")?;
    let mut unmatched = LatencyProbe::new(world, PORT, &[], "green")?;
    let mut matched = LatencyProbe::new(world, PORT, &[HEADER], "orange")?;
    let (mut direct, mut more_unmatched, mut more_matched) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..REQUESTS {
        let base = control.ask()?;
        direct.push(base);
        more_unmatched.push(unmatched.ask()? - base);
        more_matched.push(matched.ask()? - base);
    }
    let latency =
        LatencyFigures { direct: median(direct), unmatched: median(more_unmatched), matched: median(more_matched) };
    latency.print(story);
    times.latency = Some(latency);
    Ok(())
}

impl LatencyFigures {
    fn print(&self, story: &Story) {
        story.say(&format!(
            "direct {:.0} µs   unmatched {:+.0} µs   matched, through the tunnel {:+.0} µs",
            self.direct, self.unmatched, self.matched
        ));
    }
}

/// A kept-alive connection that asks one thing over and over, with nothing of its own to do between write and read: what
/// the client does meanwhile would hide what redir adds.
struct LatencyProbe {
    stream: TcpStream,
    request: String,
    expected: &'static str,
}

impl LatencyProbe {
    fn new(world: &DemoWorld, port: u16, headers: &[&str], expected: &'static str) -> Result<LatencyProbe> {
        let stream = world.dial(world.topology.pod().at(Family::V4, port))?.stream;
        Ok(LatencyProbe { stream, request: http::request("GET", "/", headers), expected })
    }

    /// One request, in microseconds.
    fn ask(&mut self) -> Result<f64> {
        let mut answer = [0; 4096];
        let began = Instant::now();
        self.stream.write_all(self.request.as_bytes())?;
        let mut length = 0;
        // The service's answer is a head and one line.
        while !answer[..length].ends_with(b"\n") || answer[..length].ends_with(b"\r\n") {
            let more = self.stream.read(&mut answer[length..])?;
            ensure!(more > 0, "the connection ended within an answer");
            length += more;
        }
        let time = began.elapsed();
        let text = String::from_utf8_lossy(&answer[..length]);
        let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        ensure!(body.starts_with(self.expected), "expected {}, got {text:?}", self.expected);
        Ok(time.as_secs_f64() * 1e6)
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

impl DemoTimes {
    /// All of them, one a line.
    pub(super) fn print(&self, story: &mut Story) {
        story.scene("Measured", "on this machine, in this run; from the command's start, its process start included");
        let rows = [
            ("`redir intercept` to live in both pods", self.live),
            ("`redir intercept` to the first intercepted answer", self.first_answer),
            ("Ctrl-C to the first answer from the app", self.after_ctrl_c),
            ("kill -9 of the worker to intercepted again", self.worker_back),
            ("start of a new agent to intercepted again", self.agent_back),
        ];
        for (what, time) in rows {
            if let Some(time) = time {
                story.say(&format!("{what:<52} {:>8}", precise(time)));
            }
        }
        if let Some(latency) = &self.latency {
            story.say(&format!("{:<52} {:>5.0} µs", "a request to the app, direct (median)", latency.direct));
            story.say(&format!("{:<52} {:>+5.0} µs", "  added when the request is unmatched", latency.unmatched));
            story
                .say(&format!("{:<52} {:>+5.0} µs", "  added when it is matched, through the tunnel", latency.matched));
        }
    }
}
