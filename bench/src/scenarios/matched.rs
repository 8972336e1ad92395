//! M: matched requests, to the developer's machine and back, next to tunnels in the same place: on W0, a network without
//! delay, and over lines of the world.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{
    Bench,
    cells::{Cell, Pins},
};
use crate::{
    figures::{Record, median},
    peers::{
        Contender, MATCHED, Site,
        tunnel::{self, Tunnel},
    },
    wan::{Profile, W1, W2, W2L, W3, W3L},
    world::{START, World},
};

/// A load, and the tunnels that a goal compares redir with; without any, the line itself is the control.
struct Load {
    name: &'static str,
    load: &'static [&'static str],
    pins: Pins,
    tunnels: &'static [Tunnel],
}

/// Where nothing is in the way; all three next to others.
const W0: [Load; 3] = [
    Load {
        name: "W0, 1 connection",
        load: &["--rate", "1000"],
        pins: Pins::Together,
        tunnels: &[Tunnel::Ssh, Tunnel::Rusnel, Tunnel::Rathole],
    },
    Load { name: "W0, 8 MB answers", load: &["--path", "/8000000"], pins: Pins::Apart, tunnels: &[Tunnel::Rusnel] },
    Load { name: "W0, 8 MB bodies up", load: &["--upload", "8000000"], pins: Pins::Apart, tunnels: &[Tunnel::Rusnel] },
];

const fn on_a_line(name: &'static str, load: &'static [&'static str], tunnels: &'static [Tunnel]) -> Load {
    Load { name, load, pins: Pins::Apart, tunnels }
}

/// Slower than a round trip on the longest.
const SMALL: Load = on_a_line("1 connection", &["--rate", "10"], &[]);
const IDLE: Load = on_a_line("after 1.5 s idle", &["--rate", "0.66"], &[]);
const DOWN: Load = on_a_line("one long answer", &["--path", "/900000000"], &[]);
const UP: Load = on_a_line("one long body up", &["--upload", "200000000"], &[]);
const LOSSY: Load = on_a_line("8 connections", &["--connections", "8", "--rate", "50"], &[Tunnel::Ssh]);

/// The lines with the loads that goals are about.
const LINES: [(Profile, &[Load]); 5] =
    [(W2, &[SMALL, IDLE, DOWN, UP]), (W2L, &[LOSSY]), (W1, &[SMALL]), (W3, &[SMALL, IDLE, DOWN, UP]), (W3L, &[LOSSY])];

pub(super) fn run(bench: &mut Bench<'_>) -> Result<Vec<Record>> {
    let intercepts = bench.each_world(|world| world.intercept(&["--header", MATCHED]))?;
    let mut contenders = bench.each_site(Contender::matched);
    for (contender, intercept) in contenders.iter_mut().zip(intercepts) {
        contender.processes = vec![intercept.process];
    }
    for tunnel in tunnel::ALL {
        // What no goal compares with is for the long run.
        if bench.asked(tunnel.name()) && (bench.all || tunnel != Tunnel::Bore) {
            match tunnel.start(bench.world, &bench.folder) {
                Ok(contender) => contenders.push(contender),
                Err(error) => bench.left_out.push(format!("{}: {error:#}", tunnel.name())),
            }
        }
    }
    let mut records = Vec::new();
    for load in &W0 {
        records.extend(measure(bench, load.name, load, &mut contenders)?);
    }
    // A quick run shows that lines work, on one of each kind.
    let lines = if bench.pace.cut > 1 { 2 } else { LINES.len() };
    for (profile, loads) in &LINES[..lines] {
        records.extend(bench.long(|bench| over(bench, *profile, loads, &mut contenders))?);
    }
    Ok(records)
}

/// A load's cell with redir and those that it is about.
fn measure(bench: &mut Bench<'_>, name: &str, load: &Load, contenders: &mut [Contender]) -> Result<Vec<Record>> {
    let cell = Cell { scenario: "M", name, load: load.load, pins: load.pins };
    let wanted = |contender: &Contender| {
        bench.all
            || bench.is_build(&contender.name)
            || load.tunnels.iter().any(|tunnel| tunnel.name() == contender.name)
    };
    // In front, since all are kept alive.
    contenders.sort_by_key(|contender| !wanted(contender));
    let count = contenders.iter().filter(|contender| wanted(contender)).count();
    cell.run(bench, &contenders[..count])
}

/// The tunnels stay up while the line comes and goes, as they do when somebody walks out of the office.
fn over(bench: &mut Bench<'_>, profile: Profile, loads: &[Load], contenders: &mut [Contender]) -> Result<Vec<Record>> {
    let round_trips = bench.each_world(|world| {
        world.set_line(Some(profile), 1)?;
        round_trip(world)
    })?;
    let mut records = Vec::new();
    for load in loads {
        let measured = measure(bench, &format!("{}, {}", profile.name, load.name), load, contenders)?;
        records.extend(measured.into_iter().map(|record| {
            let twin = contenders.iter().any(|other| other.name == record.contender && other.site == Site::Twin);
            against(record, profile, round_trips[usize::from(twin)])
        }));
    }
    bench.each_world(|world| world.set_line(None, 1))?;
    Ok(records)
}

/// Adds what a line allows to what was seen.
fn against(mut record: Record, profile: Profile, round_trip: Duration) -> Record {
    let derived = |name: &str, of: &dyn Fn(f64) -> f64| -> Vec<f64> {
        record.metrics.get(name).into_iter().flatten().map(|value| of(*value)).collect()
    };
    let above = derived("p50 µs", &|p50| p50 / 1e3 - round_trip.as_secs_f64() * 1e3);
    let share = derived("MB/s", &|rate| rate * 8.0 / f64::from(profile.rate));
    record.metrics.insert("ms above a round trip".into(), above);
    record.metrics.insert("share of the line".into(), share);
    record.pins = format!("{}; {:.2} ms seen; {}", profile.spelled(), round_trip.as_secs_f64() * 1e3, record.pins);
    record
}

/// What a SYN and its answer take over the line, the median of some.
fn round_trip(world: &World) -> Result<Duration> {
    let developer = &world.topology.developer.namespace;
    let mut seen = Vec::new();
    for _ in 0..21 {
        let began = Instant::now();
        drop(developer.connect_with(world.app(1), START, |_| Ok(()))?);
        seen.push(began.elapsed().as_secs_f64());
    }
    median(&seen).map(Duration::from_secs_f64).context("nothing was seen")
}
