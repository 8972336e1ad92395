//! `--against`: two builds of redir in the same rounds, each in a world of its own. After each of a few blocks they change
//! their worlds and start anew, so that what a world or a process happens to get (ports, memory's layout) is no build's.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use redir_bench_options::Scenario;

use super::{BenchRun, measure};
use crate::{
    figures::CellRecord,
    pace::Pace,
    peers::{BASELINE, Contender, WorldSite},
    world::{BenchWorld, RedirBuild},
};

/// How often all of it is measured with new processes.
pub(super) const BLOCKS: usize = 4;
const COMPARED: [Scenario; 3] = [Scenario::Unmatched, Scenario::Matched, Scenario::Idle];

/// A usage error unless each scenario can be compared.
pub(super) fn check(wanted: &[Scenario], asked: &[Scenario]) -> Result<()> {
    ensure!(
        !asked.is_empty() && wanted.iter().all(|scenario| COMPARED.contains(scenario)),
        "--against compares {}: name some of them",
        COMPARED.map(Scenario::name).join(", ")
    );
    Ok(())
}

/// About what a scenario takes in all blocks.
pub(super) fn takes(scenario: Scenario, pace: Pace) -> Duration {
    let blocks = u32::try_from(BLOCKS).unwrap_or(1);
    let rounds = |pace: Pace| u32::try_from(pace.rounds).unwrap_or(1) * pace.measurement();
    let block = match scenario {
        Scenario::Unmatched => 2 * 4 * (rounds(pace) + pace.warming().measurement()),
        Scenario::Matched => 2 * (3 * rounds(pace) + 13 * (rounds(pace.long()) + pace.warming().measurement())),
        _ => Duration::from_secs(60),
    };
    (block + Duration::from_secs(5)) * blocks
}

/// The world of the other build.
pub(super) fn twin(path: &Path) -> Result<BenchWorld> {
    let build = baseline(path)?;
    let mut world = BenchWorld::new(2).context("build the namespaces of the other build")?;
    world.set_build(build)?;
    Ok(world)
}

fn baseline(path: &Path) -> Result<RedirBuild> {
    let path = fs::canonicalize(path).with_context(|| format!("find {}", path.display()))?;
    let agent = if path.is_dir() { path.join("redir-agent") } else { path };
    if !agent.is_file() {
        bail!("{} is no redir-agent: build it there, or name another path", agent.display());
    }
    let beside = agent.with_file_name("redir");
    let cli: PathBuf = if beside.is_file() { beside } else { redir_rig::binaries::find("redir")? };
    Ok(RedirBuild { name: BASELINE, programs: Some([agent, cli]) })
}

/// A scenario, in blocks if two builds are compared.
pub(super) fn run(scenario: Scenario, bench: &mut BenchRun<'_>) -> Result<Vec<CellRecord>> {
    let mut records = measure(scenario, bench)?;
    if let Some(twin) = &bench.twin {
        let [agent, cli] = twin.build().programs.clone().context("a twin has a build of its own")?;
        bench.shown.push(format!("{BASELINE}: {} and {}", agent.display(), cli.display()));
        let measured = in_changed_places(bench, BenchRun::swap_builds, |bench, block| {
            bench.block = block;
            merge(&mut records, measure(scenario, bench)?);
            Ok(())
        });
        bench.block = 0;
        measured?;
    }
    Ok(records)
}

/// Measures each block but the first after the builds have changed their places. Afterwards each is in its own again, also if
/// something has failed: other scenarios follow.
fn in_changed_places<B>(
    bench: &mut B,
    swap: impl Fn(&mut B) -> Result<()>,
    mut measure: impl FnMut(&mut B, usize) -> Result<()>,
) -> Result<()> {
    let mut is_changed = false;
    let mut blocks = 1..BLOCKS;
    let measured = blocks.try_for_each(|block| {
        swap(bench)?;
        is_changed = !is_changed;
        measure(bench, block)
    });
    let back = if is_changed { swap(bench) } else { Ok(()) };
    measured.and(back)
}

/// Adds rounds to those that are there.
pub(super) fn merge(all: &mut Vec<CellRecord>, more: Vec<CellRecord>) {
    for record in more {
        let same = |old: &&mut CellRecord| old.cell == record.cell && old.contender == record.contender;
        let Some(old) = all.iter_mut().find(same) else {
            all.push(record);
            continue;
        };
        for (name, values) in record.metrics {
            old.metrics.entry(name).or_default().extend(values);
        }
        old.failed += record.failed;
        old.reason = old.reason.take().or(record.reason);
    }
}

impl BenchRun<'_> {
    /// The world of a site.
    pub(super) fn at(&self, site: WorldSite) -> &BenchWorld {
        match (site, &self.twin) {
            (WorldSite::Twin, Some(twin)) => twin,
            _ => self.world,
        }
    }

    /// Whether builds are compared, and nobody else was asked for.
    pub(super) fn builds_only(&self) -> bool {
        self.twin.is_some() && self.peers.is_empty()
    }

    /// Whether a contender is redir, of either build.
    pub(super) fn is_build(&self, name: &str) -> bool {
        [Some(&*self.world), self.twin.as_deref()].into_iter().flatten().any(|world| world.build().name == name)
    }

    /// Does something in every world that has an agent.
    pub(super) fn each_world<T>(&mut self, mut what: impl FnMut(&mut BenchWorld) -> Result<T>) -> Result<Vec<T>> {
        let mut all = vec![what(self.world)?];
        if let Some(twin) = &mut self.twin {
            all.push(what(twin)?);
        }
        Ok(all)
    }

    /// A contender of every world that has an agent.
    pub(super) fn each_site(&self, contender: impl Fn(&BenchWorld) -> Contender) -> Vec<Contender> {
        let twin = self.twin.iter().map(|twin| contender(twin).at(WorldSite::Twin));
        [contender(self.world)].into_iter().chain(twin).collect()
    }

    /// The worlds change their places, each with its build.
    pub(super) fn swap_sites(&mut self) {
        if let Some(twin) = &mut self.twin {
            std::mem::swap(self.world, *twin);
        }
    }

    /// The builds change their worlds.
    fn swap_builds(&mut self) -> Result<()> {
        let Some(twin) = &mut self.twin else { return Ok(()) };
        let builds = (self.world.build().clone(), twin.build().clone());
        self.world.set_build(builds.1)?;
        twin.set_build(builds.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn builds_are_in_their_own_places_again_whatever_fails() {
        for fails in [None, Some(1), Some(2), Some(3)] {
            let (mut builds, mut seen) = (["redir", BASELINE], Vec::new());
            let swap = |builds: &mut [&str; 2]| {
                builds.swap(0, 1);
                Ok(())
            };
            let measured = in_changed_places(&mut builds, swap, |builds, block| {
                seen.push(builds[0]);
                ensure!(fails != Some(block), "it fails");
                Ok(())
            });
            assert_eq!((measured.is_err(), builds), (fails.is_some(), ["redir", BASELINE]), "{fails:?}");
            assert_eq!(seen, &[BASELINE, "redir", BASELINE][..fails.unwrap_or(3)]);
        }
    }

    #[test]
    fn rounds_of_all_blocks_are_kept_by_build() {
        let record = |contender: &str, value: f64| CellRecord {
            scenario: "idle".into(),
            cell: "tunnel".into(),
            contender: contender.into(),
            pins: String::new(),
            metrics: BTreeMap::from([("bytes each".to_owned(), vec![value])]),
            quantiles: Vec::new(),
            timeline: Vec::new(),
            failed: 1,
            reason: None,
        };
        let mut all = vec![record("redir", 1.0), record(BASELINE, 2.0)];
        merge(&mut all, vec![record(BASELINE, 4.0), record("redir", 3.0)]);
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].metrics["bytes each"], [1.0, 3.0]);
        assert_eq!((all[1].metrics["bytes each"].as_slice(), all[1].failed), ([2.0, 4.0].as_slice(), 2));
    }

    #[test]
    fn what_is_no_build_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let error = baseline(folder.path()).expect_err("empty").to_string();
        assert!(error.contains("redir-agent") && error.contains("build it"), "{error}");
        let agent = folder.path().join("redir-agent");
        let cli = folder.path().join("redir");
        for file in [&agent, &cli] {
            fs::write(file, "").expect("write");
        }
        let agent = fs::canonicalize(agent).expect("there");
        let build = RedirBuild { name: BASELINE, programs: Some([agent.clone(), agent.with_file_name("redir")]) };
        assert_eq!(baseline(folder.path()).expect("a build"), build);
        assert_eq!(baseline(&agent).expect("the same"), build);
    }
}
