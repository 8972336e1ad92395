//! `resilience`: unmatched requests while an intercept comes, goes, loses its CLI and its agent: how many fail, how slow the rest
//! gets. Each request is on a connection of its own and never tried again. Connections that were inside a killed process
//! are counted apart: their SYN was sent before it was gone.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use redir_rig::{Cli, Load, load::Outcome};

use super::BenchRun;
use crate::{cost::MIDDLE, figures::CellRecord, world::PORT};

/// Requests a second; fewer in a quick run, which must also work with a debug build on a busy machine.
const RATE: usize = 2000;
/// Before and after an event; the slowest of this many after it are its bump.
const SPAN: usize = 3000;

/// Seconds of a piece of the timeline.
const PIECE: f64 = 0.02;

const EVENTS: [&str; 5] = ["attach", SECOND_PORT, "detach", "CLI killed", "agent killed"];

/// A port of the pod is intercepted while another is already; the requests go to the new one.
const SECOND_PORT: &str = "second port";
/// That port.
const OTHER: u16 = PORT + 1;
/// What none of the load's requests carries.
const FILTER: [&str; 2] = ["--header", "x-user: bench"];

pub(super) fn run(bench: &mut BenchRun<'_>) -> Result<Vec<CellRecord>> {
    let mut records = Vec::new();
    let repetitions = (bench.pace.long().rounds / bench.pace.cut.min(2)).max(1);
    for event in EVENTS {
        let mut metrics: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        let (mut failed, mut reason, mut timeline) = (0, None, Vec::new());
        for repetition in 0..repetitions {
            bench
                .progress
                .say(&format!("resilience: {event}, {} of {repetitions}", repetition + 1), Duration::from_secs(5));
            let seen = once(bench, event).with_context(|| event.to_owned())?;
            for (name, value) in seen.metrics {
                metrics.entry(name.to_owned()).or_default().push(value);
            }
            failed += seen.failed;
            if timeline.is_empty() {
                timeline = seen.timeline;
            }
            reason = reason.or(seen.reason);
        }
        records.push(CellRecord {
            scenario: "resilience".into(),
            cell: event.to_owned(),
            contender: "redir".into(),
            pins: format!("agent and app on CPU {MIDDLE}, load on any"),
            metrics,
            quantiles: Vec::new(),
            timeline,
            failed,
            reason,
        });
    }
    Ok(records)
}

struct EventFigures {
    metrics: [(&'static str, f64); 4],
    timeline: Vec<(f64, f64)>,
    failed: u64,
    reason: Option<String>,
}

fn once(bench: &mut BenchRun<'_>, event: &str) -> Result<EventFigures> {
    let world = &mut *bench.world;
    world.start_agent()?;
    let mut intercept = if event == "attach" { None } else { Some(world.intercept(&FILTER)?) };
    let other = (event == SECOND_PORT).then(|| world.app_on(OTHER)).transpose()?;
    let mut second = None;
    // A second is enough to see whether it works.
    let span = bench.pace.pieces(SPAN) / bench.pace.cut.min(2);
    let rate = u32::try_from(bench.pace.pieces(RATE))?;
    let mut to = world.app(0);
    if other.is_some() {
        to.set_port(OTHER);
    }
    let load = Load::start(&world.topology.client.namespace, to, rate, "/", &[])?;
    load.wait_for(span, Instant::now())?;
    let began = Instant::now();
    match event {
        "attach" => intercept = Some(world.intercept(&FILTER)?),
        SECOND_PORT => second.insert(world.start_intercept_of(0, OTHER, &FILTER)?).wait_live().map(drop)?,
        "detach" => intercept.take().map_or(Ok(()), Cli::leave)?,
        "CLI killed" => intercept.take().context("no intercept")?.process.kill()?,
        _ => world.kill_agent()?,
    }
    let gone = Instant::now();
    load.wait_for(span, gone)?;
    let report = load.stop()?;
    drop((second, intercept, other));
    // An agent whose CLI was killed still believes in it for a while; the next repetition has a new one.
    world.stop_agent()?;
    let inside = report.failed(None, (event == "agent killed").then_some(gone));
    let after = report.failed(if event == "agent killed" { Some(gone) } else { None }, None);
    let (before, during) = (p99(&report.outcomes, None, Some(began)), p99(&report.outcomes, Some(began), None));
    let inside = if event == "agent killed" { inside.len() } else { 0 };
    #[expect(clippy::cast_precision_loss, reason = "counts below 2^52")]
    let metrics = [
        ("failed", after.len() as f64),
        ("reset inside", inside as f64),
        ("p99 before ms", before),
        ("p99 bump ms", during - before),
    ];
    let reason = after.first().and_then(|outcome| outcome.result.clone().err());
    Ok(EventFigures { metrics, timeline: timeline(&report.outcomes, began), failed: after.len() as u64, reason })
}

/// The slowest answer by when its SYN was sent, from a second before the event to three after it.
fn timeline(outcomes: &[Outcome], event: Instant) -> Vec<(f64, f64)> {
    let mut slowest: BTreeMap<i64, f64> = BTreeMap::new();
    for outcome in outcomes.iter().filter(|outcome| outcome.result.is_ok()) {
        let before = event.saturating_duration_since(outcome.syn).as_secs_f64();
        let since = outcome.syn.saturating_duration_since(event).as_secs_f64() - before;
        #[expect(clippy::cast_possible_truncation, reason = "seconds of a run")]
        let piece = (since / PIECE).floor() as i64;
        let entry = slowest.entry(piece).or_default();
        *entry = entry.max(outcome.took.as_secs_f64() * 1e3);
    }
    #[expect(clippy::cast_precision_loss, reason = "some hundred pieces")]
    let points = slowest.into_iter().map(|(piece, ms)| (piece as f64 * PIECE, ms));
    points.filter(|(since, _)| (-1.0..3.0).contains(since)).collect()
}

/// In milliseconds, of the answered ones whose SYN was sent in the span.
fn p99(outcomes: &[Outcome], from: Option<Instant>, to: Option<Instant>) -> f64 {
    let within = |o: &&Outcome| from.is_none_or(|t| o.syn >= t) && to.is_none_or(|t| o.syn < t) && o.result.is_ok();
    let mut times: Vec<Duration> = outcomes.iter().filter(within).map(|o| o.took).collect();
    times.sort_unstable();
    times.get(times.len() * 99 / 100).map_or(f64::NAN, |took| took.as_secs_f64() * 1e3)
}
