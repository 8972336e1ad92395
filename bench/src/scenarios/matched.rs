//! `matched`: matched requests, to the developer's machine and back, next to tunnels in the same place: on W0, a network without
//! delay, and over links of the world.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{
    BenchRun,
    cells::{CpuPlacement, LoadCell},
};
use crate::{
    figures::{CellRecord, median},
    peers::{
        Contender, MATCHED, WorldSite,
        tunnel::{self, TunnelPeer},
    },
    programs::START,
    wan::{LinkProfile, W1, W2, W2L, W3, W3L},
    world::BenchWorld,
};

/// A load, and the tunnels that a goal compares redir with; without any, the link itself is the control.
struct MatchedLoad {
    name: &'static str,
    load: &'static [&'static str],
    pins: CpuPlacement,
    tunnels: &'static [TunnelPeer],
}

/// Where nothing is in the way; all three next to others.
const W0: [MatchedLoad; 3] = [
    MatchedLoad {
        name: "W0, 1 connection",
        load: &["--rate", "1000"],
        pins: CpuPlacement::Together,
        tunnels: &[TunnelPeer::Ssh, TunnelPeer::Rusnel, TunnelPeer::Rathole],
    },
    MatchedLoad {
        name: "W0, 8 MB answers",
        load: &["--path", "/8000000"],
        pins: CpuPlacement::Apart,
        tunnels: &[TunnelPeer::Rusnel],
    },
    MatchedLoad {
        name: "W0, 8 MB bodies up",
        load: &["--upload", "8000000"],
        pins: CpuPlacement::Apart,
        tunnels: &[TunnelPeer::Rusnel],
    },
];

const fn on_a_link(name: &'static str, load: &'static [&'static str], tunnels: &'static [TunnelPeer]) -> MatchedLoad {
    MatchedLoad { name, load, pins: CpuPlacement::Apart, tunnels }
}

/// Slower than a round trip on the longest.
const SMALL: MatchedLoad = on_a_link("1 connection", &["--rate", "10"], &[]);
const IDLE: MatchedLoad = on_a_link("after 1.5 s idle", &["--rate", "0.66"], &[]);
const DOWN: MatchedLoad = on_a_link("one long answer", &["--path", "/900000000"], &[]);
const UP: MatchedLoad = on_a_link("one long body up", &["--upload", "200000000"], &[]);
const LOSSY: MatchedLoad = on_a_link("8 connections", &["--connections", "8", "--rate", "50"], &[TunnelPeer::Ssh]);

/// The links with the loads that goals are about.
const LINKS: [(LinkProfile, &[MatchedLoad]); 5] =
    [(W2, &[SMALL, IDLE, DOWN, UP]), (W2L, &[LOSSY]), (W1, &[SMALL]), (W3, &[SMALL, IDLE, DOWN, UP]), (W3L, &[LOSSY])];

pub(super) fn run(bench: &mut BenchRun<'_>) -> Result<Vec<CellRecord>> {
    let intercepts = bench.each_world(|world| world.intercept(&["--header", MATCHED]))?;
    let mut contenders = bench.each_site(Contender::matched);
    for (contender, intercept) in contenders.iter_mut().zip(intercepts) {
        contender.processes = vec![intercept.process];
    }
    for tunnel in tunnel::ALL {
        // What no goal compares with is for the long run.
        if bench.asked(tunnel.name()) && (bench.all || tunnel != TunnelPeer::Bore) {
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
    // A quick run shows that links work, on one of each kind.
    let links = if bench.pace.cut > 1 { 2 } else { LINKS.len() };
    for (profile, loads) in &LINKS[..links] {
        records.extend(bench.long(|bench| over(bench, *profile, loads, &mut contenders))?);
    }
    Ok(records)
}

/// A load's cell with redir and those that it is about.
fn measure(
    bench: &mut BenchRun<'_>,
    name: &str,
    load: &MatchedLoad,
    contenders: &mut [Contender],
) -> Result<Vec<CellRecord>> {
    let cell = LoadCell { scenario: "matched", name, load: load.load, pins: load.pins };
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

/// The tunnels stay up while the link comes and goes, as they do when somebody walks out of the office.
fn over(
    bench: &mut BenchRun<'_>,
    profile: LinkProfile,
    loads: &[MatchedLoad],
    contenders: &mut [Contender],
) -> Result<Vec<CellRecord>> {
    let round_trips = bench.each_world(|world| {
        world.set_link(Some(profile), 1)?;
        round_trip(world)
    })?;
    let mut records = Vec::new();
    for load in loads {
        let measured = measure(bench, &format!("{}, {}", profile.name, load.name), load, contenders)?;
        records.extend(measured.into_iter().map(|record| {
            let twin = contenders.iter().any(|other| other.name == record.contender && other.site == WorldSite::Twin);
            against(record, profile, round_trips[usize::from(twin)])
        }));
    }
    bench.each_world(|world| world.set_link(None, 1))?;
    Ok(records)
}

/// Adds what a link allows to what was seen.
fn against(mut record: CellRecord, profile: LinkProfile, round_trip: Duration) -> CellRecord {
    let derived = |name: &str, of: &dyn Fn(f64) -> f64| -> Vec<f64> {
        record.metrics.get(name).into_iter().flatten().map(|value| of(*value)).collect()
    };
    let above = derived("p50 µs", &|p50| p50 / 1e3 - round_trip.as_secs_f64() * 1e3);
    let share = derived("MB/s", &|rate| rate * 8.0 / f64::from(profile.rate));
    record.metrics.insert("ms above a round trip".into(), above);
    record.metrics.insert("share of the link".into(), share);
    record.pins = format!("{}; {:.2} ms seen; {}", profile.spelled(), round_trip.as_secs_f64() * 1e3, record.pins);
    record
}

/// What a SYN and its answer take over the link, the median of some.
fn round_trip(world: &BenchWorld) -> Result<Duration> {
    let developer = &world.topology.developer.namespace;
    let mut seen = Vec::new();
    for _ in 0..21 {
        let began = Instant::now();
        drop(developer.connect_with(world.app(1), START, |_| Ok(()))?);
        seen.push(began.elapsed().as_secs_f64());
    }
    median(&seen).map(Duration::from_secs_f64).context("nothing was seen")
}
