//! The scenarios and their order. Each gives its records; what they mean is in `goals`.

mod builds;
mod cells;
mod filters;
mod first_answer;
mod idle;
mod matched;
mod mixed;
mod neighbour;
mod resilience;
mod steering;

mod unmatched;

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use clap::Args;
use redir_bench_options::{BenchOptions, Scenario};

use crate::{
    figures::CellRecord,
    goals::GoalRow,
    pace::{DEFAULT, Pace, ProgressLog, QUICK},
    parser, report,
    world::BenchWorld,
};

/// The command line of `redir-bench run`.
#[derive(Debug, Args)]
pub struct RunOptions {
    #[command(flatten)]
    bench: BenchOptions,
    /// Where `results.json`, `README.md` and the charts go
    #[arg(long)]
    out: PathBuf,
}

/// What a scenario works with.
struct BenchRun<'a> {
    world: &'a mut BenchWorld,
    /// Where the other build is, if two are compared.
    twin: Option<&'a mut BenchWorld>,
    /// How often the builds have changed their worlds.
    block: usize,
    pace: Pace,
    /// Also what no goal asks for.
    all: bool,
    progress: &'a mut ProgressLog,
    peers: &'a [String],
    cell: Option<&'a str>,
    folder: PathBuf,
    /// Where the results go.
    out: PathBuf,
    /// What could not be had, in sentences.
    left_out: Vec<String>,
    /// What the run has shown of its own settings.
    shown: Vec<String>,
    /// What the parser reaches.
    parser: Vec<GoalRow>,
}

impl BenchRun<'_> {
    /// Does something that a short round cannot fill.
    fn long<T>(&mut self, measure: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let before = self.pace;
        self.pace = before.long();
        let measured = measure(self);
        self.pace = before;
        measured
    }

    /// Whether a cell of this name is asked for.
    fn wants(&self, cell: &str) -> bool {
        self.cell.is_none_or(|part| cell.contains(part))
    }

    /// Whether a peer of this name is asked for.
    fn asked(&self, name: &str) -> bool {
        let name = name.to_lowercase();
        !self.builds_only() && self.peers.is_empty()
            || self.peers.iter().any(|peer| name.starts_with(&peer.to_lowercase()))
    }
}

/// Runs what was asked for and writes the report; false if a scenario failed, or a request that should not have.
pub fn run(RunOptions { bench: options, out }: &RunOptions) -> Result<bool> {
    let mut pace = if options.quick { QUICK } else { DEFAULT };
    pace.rounds = options.rounds.unwrap_or(pace.rounds);
    let asked = |scenario: &Scenario| match options.scenarios.is_empty() {
        true => match scenario {
            // No goal is about it.
            Scenario::Mixed => options.all || options.quick,
            // Its own quick run is `parser --quick`: without optimisation it takes minutes.
            Scenario::Parser => !options.quick,
            _ => true,
        },
        false => options.scenarios.contains(scenario),
    };
    let wanted: Vec<Scenario> = Scenario::ALL.into_iter().filter(asked).collect();
    if options.against.is_some() {
        builds::check(&wanted, &options.scenarios)?;
        pace.rounds = pace.rounds.div_ceil(builds::BLOCKS);
    }
    let takes = |scenario: Scenario| match options.against {
        Some(_) => builds::takes(scenario, pace),
        None => takes_about(scenario, pace, options.all),
    };
    let mut progress = ProgressLog::begin(wanted.iter().map(|scenario| takes(*scenario)).sum());
    let mut world = BenchWorld::new(4).context("build the bench's namespaces")?;
    let mut twin = options.against.as_deref().map(builds::twin).transpose()?;
    let folder = tempfile::tempdir()?;
    let (mut records, mut parser) = (Vec::new(), Vec::new());
    let mut shown = vec![world.senders()];
    let mut left_out = subset(options);
    let mut whole = true;
    for scenario in &wanted {
        progress.next(scenario.name(), takes(*scenario));
        let mut context = BenchRun {
            world: &mut world,
            twin: twin.as_mut(),
            block: 0,
            pace,
            all: options.all,
            progress: &mut progress,
            peers: &options.peers,
            cell: options.cell.as_deref(),
            folder: folder.path().to_owned(),
            out: out.clone(),
            left_out: Vec::new(),
            shown: Vec::new(),
            parser: Vec::new(),
        };
        let part = ScenarioPart::of(*scenario, options.all, out);
        let seen = match part.done()? {
            Some(seen) => seen,
            None => match builds::run(*scenario, &mut context) {
                Ok(seen) => {
                    part.keep(&seen)?;
                    seen
                }
                // What the others have measured is worth as much as before.
                Err(error) => {
                    whole = false;
                    context.left_out.push(format!("{}, which failed: {error:#}", scenario.name()));
                    eprintln!("error: scenario {}: {error:#}", scenario.name());
                    Vec::new()
                }
            },
        };
        left_out.append(&mut context.left_out);
        shown.append(&mut context.shown);
        parser.append(&mut context.parser);
        records.extend(seen);
    }
    world.stop_agent()?;
    if let Some(twin) = &mut twin {
        twin.stop_agent()?;
    }
    if whole {
        ScenarioPart::forget(out)?;
    }
    left_out.sort();
    left_out.dedup();
    let notes = report::RunNotes { shown, left_out };
    if options.against.is_some() {
        return Ok(report::builds::write(out, pace, builds::BLOCKS, records, notes)? && whole);
    }
    Ok(report::write(out, pace, records, parser, notes)? && whole)
}

/// What a shorter run goes without.
fn subset(options: &BenchOptions) -> Vec<String> {
    let sentence = if options.quick {
        "Quick: two rounds of 0.3 s, a twentieth of the connections and repetitions, of the emulated links only W2 and W2L, no `parser`"
    } else if options.all || options.against.is_some() {
        return Vec::new();
    } else {
        "What no goal is about: `mixed`, more connections, heads, bodies, filters and peers (`--all`)"
    };
    vec![sentence.to_owned()]
}

/// Measures one scenario.
fn measure(scenario: Scenario, context: &mut BenchRun<'_>) -> Result<Vec<CellRecord>> {
    match scenario {
        Scenario::Neighbour => neighbour::run(context),
        Scenario::Unmatched => unmatched::run(context),
        Scenario::Filters => filters::run(context),
        Scenario::Matched => matched::run(context),
        Scenario::Mixed => context.long(mixed::run),
        Scenario::Resilience => resilience::run(context),
        Scenario::FirstAnswer => first_answer::run(context),
        Scenario::Idle => idle::run(context),
        Scenario::Parser => parser(context),
    }
}

/// With all peers, on a machine as small as two cores: a guess for the time left.
fn takes_about(scenario: Scenario, pace: Pace, all: bool) -> Duration {
    // Contenders in short rounds and in long ones, seconds for each of the latter, seconds for all.
    let (short, long, each, fixed) = match (scenario, all) {
        (Scenario::Neighbour, _) => (6, 0, 0, 10),
        (Scenario::Unmatched, false) => (20, 0, 0, 10),
        (Scenario::Unmatched, true) => (116, 0, 0, 60),
        (Scenario::Filters, false) => (2, 0, 0, 5),
        (Scenario::Filters, true) => (9, 0, 0, 120),
        (Scenario::Matched, false) => (8, 13, 0, 30),
        (Scenario::Matched, true) => (15, 55, 0, 30),
        (Scenario::Mixed, _) => (0, 5, 0, 30),
        (Scenario::Resilience, _) => (0, 0, 17, 0),
        (Scenario::FirstAnswer, _) => (0, 0, 0, 130),
        (Scenario::Idle, _) => (0, 0, 0, 40),
        (Scenario::Parser, _) => (0, 0, 0, 45),
    };
    let rounds = |pace: Pace| u32::try_from(pace.rounds).unwrap_or(1);
    let long_rounds = rounds(pace.long());
    let measured = pace.measurement() * short * rounds(pace) + pace.long().measurement() * long * long_rounds;
    let others = Duration::from_secs(each) * long_rounds + Duration::from_secs(fixed);
    measured + others / u32::try_from(pace.cut.min(10)).unwrap_or(1)
}

/// A scenario's figures while a run of hours is not at its end.
struct ScenarioPart(Option<PathBuf>);

impl ScenarioPart {
    fn folder(out: &Path) -> PathBuf {
        out.join("parts")
    }

    fn of(scenario: Scenario, all: bool, out: &Path) -> Self {
        // The parser's are soon made again, and have files of their own.
        let kept = all && scenario != Scenario::Parser;
        Self(kept.then(|| Self::folder(out).join(format!("{}.json", scenario.name()))))
    }

    fn done(&self) -> Result<Option<Vec<CellRecord>>> {
        let Some(text) = self.0.as_ref().and_then(|file| fs::read_to_string(file).ok()) else { return Ok(None) };
        serde_json::from_str(&text)
            .map(Some)
            .context("a part of an earlier run cannot be read: remove the folder `parts`")
    }

    fn keep(&self, records: &[CellRecord]) -> Result<()> {
        let Some(file) = &self.0 else { return Ok(()) };
        fs::create_dir_all(file.parent().context("a file is in a folder")?)?;
        fs::write(file, serde_json::to_string(records)?).with_context(|| format!("write {}", file.display()))
    }

    fn forget(out: &Path) -> Result<()> {
        match fs::remove_dir_all(Self::folder(out)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error).context("remove the parts"),
            _ => Ok(()),
        }
    }
}

/// Its figures are in files of its own, beside the others; its goals are among all.
fn parser(context: &mut BenchRun<'_>) -> Result<Vec<CellRecord>> {
    context.progress.say("parser: the head parser next to httparse", Duration::from_secs(60));
    context.parser =
        parser::measure(context.pace.cut > 1, Some(&context.out))?.iter().map(GoalRow::of_parser).collect();
    Ok(Vec::new())
}
