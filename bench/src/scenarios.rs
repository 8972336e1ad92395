//! The scenarios and their order. Each gives its records; what they mean is in `goals`.

mod builds;
mod cells;
mod filters;
mod idle;
mod matched;
mod mixed;
mod node;
mod resilience;
mod steering;
mod time_to_live;
mod unmatched;

pub(crate) use builds::BASELINE;
pub(crate) use steering::REDIRECT;

use std::{fs, io::ErrorKind, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use crate::{
    figures::Record,
    goals::Row,
    pace::{DEFAULT, Pace, Progress, QUICK},
    parser, report,
    world::World,
};

/// One of BENCH's scenarios.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// Another pod of the node is intercepted
    N,
    /// An intercepted port, unmatched requests
    U,
    /// The same with many filters
    F,
    /// Matched requests
    M,
    /// Unmatched requests beside matched ones
    X,
    /// Faults under 2,000 requests/s
    R,
    /// From the command to the first matched answer
    T,
    /// What idle connections and tunnels hold
    I,
    /// The head parser
    P,
}

const ALL: [Scenario; 9] = [
    Scenario::N,
    Scenario::U,
    Scenario::F,
    Scenario::M,
    Scenario::X,
    Scenario::R,
    Scenario::T,
    Scenario::I,
    Scenario::P,
];

/// The command line.
#[derive(Debug, Args)]
pub struct Options {
    /// Which ones; without any, those that a goal is about
    #[arg(ignore_case = true)]
    scenarios: Vec<Scenario>,
    /// Within a minute, whether it all works; its figures say nothing
    #[arg(long)]
    quick: bool,
    /// Also what no goal asks for: hours. Interrupted, the same command goes on where it was
    #[arg(long, conflicts_with = "quick")]
    all: bool,
    /// Only these others (`haproxy`, `nginx`, `envoy`, `ssh`, `rathole`, `rusnel`, `bore`); `none` for none
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// Only cells whose name contains this, for whoever works on one
    #[arg(long)]
    cell: Option<String>,
    /// Other than 20 rounds: more narrow the intervals, the figures of fewer nobody should quote
    #[arg(long)]
    rounds: Option<usize>,
    /// Another build in the same rounds: its `redir-agent`, or the folder that has it. A `redir` beside it is its CLI. Only of
    /// U, M and I; fails if the build under test is worse
    #[arg(long, value_name = "PATH", conflicts_with_all = ["all", "quick"])]
    against: Option<PathBuf>,
    /// Where `results.json`, `README.md` and the charts go
    #[arg(long)]
    out: PathBuf,
}

/// What a scenario works with.
struct Bench<'a> {
    world: &'a mut World,
    /// Where the other build is, if two are compared.
    twin: Option<&'a mut World>,
    /// How often the builds have changed their worlds.
    block: usize,
    pace: Pace,
    /// Also what no goal asks for.
    all: bool,
    progress: &'a mut Progress,
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
    parser: Vec<Row>,
}

impl Bench<'_> {
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
pub fn run(options: &Options) -> Result<bool> {
    let mut pace = if options.quick { QUICK } else { DEFAULT };
    pace.rounds = options.rounds.unwrap_or(pace.rounds);
    let asked = |scenario: &Scenario| match options.scenarios.is_empty() {
        true => match scenario {
            // No goal is about it.
            Scenario::X => options.all || options.quick,
            // Its own quick run is `parser --quick`: without optimisation it takes minutes.
            Scenario::P => !options.quick,
            _ => true,
        },
        false => options.scenarios.contains(scenario),
    };
    let wanted: Vec<Scenario> = ALL.into_iter().filter(asked).collect();
    if options.against.is_some() {
        builds::check(&wanted, &options.scenarios)?;
        pace.rounds = pace.rounds.div_ceil(builds::BLOCKS);
    }
    let takes = |scenario: Scenario| match options.against {
        Some(_) => builds::takes(scenario, pace),
        None => scenario.takes(pace, options.all),
    };
    let mut progress = Progress::begin(wanted.iter().map(|scenario| takes(*scenario)).sum());
    let mut world = World::new(4).context("build the bench's namespaces")?;
    let mut twin = options.against.as_deref().map(builds::twin).transpose()?;
    let folder = tempfile::tempdir()?;
    let (mut records, mut parser) = (Vec::new(), Vec::new());
    let mut shown = vec![world.senders()];
    let mut left_out = subset(options);
    let mut whole = true;
    for scenario in &wanted {
        progress.next(&format!("{scenario:?}"), takes(*scenario));
        let mut context = Bench {
            world: &mut world,
            twin: twin.as_mut(),
            block: 0,
            pace,
            all: options.all,
            progress: &mut progress,
            peers: &options.peers,
            cell: options.cell.as_deref(),
            folder: folder.path().to_owned(),
            out: options.out.clone(),
            left_out: Vec::new(),
            shown: Vec::new(),
            parser: Vec::new(),
        };
        let part = Part::of(*scenario, options);
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
                    context.left_out.push(format!("{scenario:?}, which failed: {error:#}"));
                    eprintln!("error: scenario {scenario:?}: {error:#}");
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
        Part::forget(options)?;
    }
    left_out.sort();
    left_out.dedup();
    let notes = report::Notes { shown, left_out };
    if options.against.is_some() {
        return Ok(report::builds::write(&options.out, pace, builds::BLOCKS, records, notes)? && whole);
    }
    Ok(report::write(&options.out, pace, records, parser, notes)? && whole)
}

/// What a shorter run goes without.
fn subset(options: &Options) -> Vec<String> {
    let sentence = if options.quick {
        "Quick: two rounds of 0.3 s, a twentieth of the connections and repetitions, of the lines only W2 and W2L, no P"
    } else if options.all || options.against.is_some() {
        return Vec::new();
    } else {
        "What no goal is about: X, more connections, heads, bodies, filters and peers (`--all`)"
    };
    vec![sentence.to_owned()]
}

impl Scenario {
    fn run(self, context: &mut Bench<'_>) -> Result<Vec<Record>> {
        match self {
            Self::N => node::run(context),
            Self::U => unmatched::run(context),
            Self::F => filters::run(context),
            Self::M => matched::run(context),
            Self::X => context.long(mixed::run),
            Self::R => resilience::run(context),
            Self::T => time_to_live::run(context),
            Self::I => idle::run(context),
            Self::P => parser(context),
        }
    }

    /// With all peers, on a machine as small as two cores: a guess for the time left.
    fn takes(self, pace: Pace, all: bool) -> Duration {
        // Contenders in short rounds and in long ones, seconds for each of the latter, seconds for all.
        let (short, long, each, fixed) = match (self, all) {
            (Self::N, _) => (6, 0, 0, 10),
            (Self::U, false) => (20, 0, 0, 10),
            (Self::U, true) => (116, 0, 0, 60),
            (Self::F, false) => (2, 0, 0, 5),
            (Self::F, true) => (9, 0, 0, 120),
            (Self::M, false) => (8, 13, 0, 30),
            (Self::M, true) => (15, 55, 0, 30),
            (Self::X, _) => (0, 5, 0, 30),
            (Self::R, _) => (0, 0, 17, 0),
            (Self::T, _) => (0, 0, 0, 130),
            (Self::I, _) => (0, 0, 0, 40),
            (Self::P, _) => (0, 0, 0, 45),
        };
        let rounds = |pace: Pace| u32::try_from(pace.rounds).unwrap_or(1);
        let long_rounds = rounds(pace.long());
        let measured = pace.measurement() * short * rounds(pace) + pace.long().measurement() * long * long_rounds;
        let others = Duration::from_secs(each) * long_rounds + Duration::from_secs(fixed);
        measured + others / u32::try_from(pace.cut.min(10)).unwrap_or(1)
    }
}

/// A scenario's figures while a run of hours is not at its end.
struct Part(Option<PathBuf>);

impl Part {
    fn folder(options: &Options) -> PathBuf {
        options.out.join("parts")
    }

    fn of(scenario: Scenario, options: &Options) -> Self {
        // The parser's are soon made again, and have files of their own.
        let kept = options.all && scenario != Scenario::P;
        Self(kept.then(|| Self::folder(options).join(format!("{scenario:?}.json"))))
    }

    fn done(&self) -> Result<Option<Vec<Record>>> {
        let Some(text) = self.0.as_ref().and_then(|file| fs::read_to_string(file).ok()) else { return Ok(None) };
        serde_json::from_str(&text)
            .map(Some)
            .context("a part of an earlier run cannot be read: remove the folder `parts`")
    }

    fn keep(&self, records: &[Record]) -> Result<()> {
        let Some(file) = &self.0 else { return Ok(()) };
        fs::create_dir_all(file.parent().context("a file is in a folder")?)?;
        fs::write(file, serde_json::to_string(records)?).with_context(|| format!("write {}", file.display()))
    }

    fn forget(options: &Options) -> Result<()> {
        match fs::remove_dir_all(Self::folder(options)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error).context("remove the parts"),
            _ => Ok(()),
        }
    }
}

/// Its figures are in files of its own, beside the others; its goals are among all.
fn parser(context: &mut Bench<'_>) -> Result<Vec<Record>> {
    context.progress.say("P: the head parser next to httparse", Duration::from_secs(60));
    context.parser = parser::measure(context.pace.cut > 1, Some(&context.out))?.iter().map(Row::of_parser).collect();
    Ok(Vec::new())
}
