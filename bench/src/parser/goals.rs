//! What is to be reached, and whether it is.
//!
//! Owns: the goals, and how a ratio is made from what was measured. Must not: print. Called by: `parser::run`, `report`.

use super::cells::{FEW, FILTERS, MANY, ParserCell, cells};
use super::contenders::Filters;
use super::corpus::Head;
use super::wall::{self, WallInterval};

/// Everything that was measured; see `counts::count` and `wall::measure` for the order.
pub(super) struct ParserFigures<'a> {
    pub(super) heads: &'a [Head],
    pub(super) counts: Option<Vec<Vec<f64>>>,
    pub(super) rounds: Vec<Vec<Vec<f64>>>,
}

/// A ratio of two cells: for each head how many times `over` is `under`.
#[derive(Clone, Copy)]
pub(super) struct Ratio {
    over: ParserCell,
    under: ParserCell,
}

pub(super) const HEAD: Ratio = Ratio { over: ParserCell::Httparse, under: ParserCell::Redir };
pub(super) const FRAMED: Ratio = Ratio { over: ParserCell::HttparseFramed, under: ParserCell::Engine };
pub(super) const SPLIT: Ratio = Ratio { over: ParserCell::HttparseSplit, under: ParserCell::RedirSplit };

const fn filters(kind: Filters) -> Ratio {
    Ratio { over: ParserCell::Filtered(kind, MANY), under: ParserCell::Filtered(kind, FEW) }
}

/// What of the heads counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum HeadStatistic {
    GeometricMean,
    Lowest,
    Highest,
}

#[derive(Clone, Copy)]
enum Reach {
    AtLeast(f64),
    AtMost(f64),
}

/// A goal, and how it stands.
#[derive(Debug)]
pub struct JudgedGoal {
    /// In words.
    pub what: String,
    /// What is to be reached, in words.
    pub reach: String,
    /// The ratio of instructions, where they can be counted.
    pub instructions: Option<f64>,
    /// The ratio of wall times.
    pub wall: WallInterval,
    /// By instructions where they were counted, else by wall time with room for noise.
    pub met: bool,
    /// By the worse end of wall time's interval, as the other scenarios judge.
    pub met_by_wall: bool,
}

/// By how much wall time may miss a goal where it is all there is: what a neighbour on a shared machine can do.
const NOISE: f64 = 1.4;

pub(super) fn judge(measured: &ParserFigures<'_>) -> Vec<JudgedGoal> {
    let mut goals = vec![
        ("head and filter, geometric mean".to_owned(), HEAD, HeadStatistic::GeometricMean, Reach::AtLeast(1.5)),
        ("head and filter, the worst head".to_owned(), HEAD, HeadStatistic::Lowest, Reach::AtLeast(1.0)),
        ("with framing, geometric mean".to_owned(), FRAMED, HeadStatistic::GeometricMean, Reach::AtLeast(1.2)),
        ("head in two pieces, geometric mean".to_owned(), SPLIT, HeadStatistic::GeometricMean, Reach::AtLeast(1.5)),
    ];
    for kind in FILTERS {
        let what = match kind {
            Filters::Values => "1,000 filters to 1, by one header's value",
            Filters::Names => "1,000 filters to 1, each by a header of its own",
            Filters::Paths => "1,000 filters to 1, by a header and a path",
        };
        goals.push((what.to_owned(), filters(kind), HeadStatistic::Highest, Reach::AtMost(1.5)));
    }
    goals.into_iter().map(|(what, ratio, of, reach)| stands(measured, what, ratio, of, reach)).collect()
}

fn stands(measured: &ParserFigures<'_>, what: String, ratio: Ratio, of: HeadStatistic, reach: Reach) -> JudgedGoal {
    let instructions = measured.counts.as_ref().map(|counts| over_heads(of, &ratio.each(counts)));
    let rounds: Vec<Vec<f64>> = measured.rounds.iter().map(|round| ratio.each(round)).collect();
    let wall = match of {
        HeadStatistic::GeometricMean => {
            wall::interval(&rounds.iter().map(|heads| over_heads(of, heads)).collect::<Vec<_>>())
        }
        // The same head in all rounds, not each round's unluckiest.
        HeadStatistic::Lowest | HeadStatistic::Highest => {
            let heads: Vec<WallInterval> = (0..measured.heads.len()).map(|head| of_head(&rounds, head)).collect();
            let by_median = |a: &&WallInterval, b: &&WallInterval| a.median.total_cmp(&b.median);
            let found = if of == HeadStatistic::Lowest {
                heads.iter().min_by(by_median)
            } else {
                heads.iter().max_by(by_median)
            };
            *found.expect("the corpus has heads")
        }
    };
    let met = match (reach, instructions) {
        (Reach::AtLeast(least), Some(ratio)) => ratio >= least,
        (Reach::AtMost(most), Some(ratio)) => ratio <= most,
        (Reach::AtLeast(least), None) => wall.median >= least / NOISE,
        (Reach::AtMost(most), None) => wall.median <= most * NOISE,
    };
    let met_by_wall = match reach {
        Reach::AtLeast(least) => wall.low >= least,
        Reach::AtMost(most) => wall.high <= most,
    };
    let reach = match reach {
        Reach::AtLeast(least) => format!("≥ {least}x"),
        Reach::AtMost(most) => format!("≤ {most}x"),
    };
    JudgedGoal { what, reach, instructions, wall, met, met_by_wall }
}

fn of_head(rounds: &[Vec<f64>], head: usize) -> WallInterval {
    wall::interval(&rounds.iter().map(|heads| heads[head]).collect::<Vec<_>>())
}

fn over_heads(of: HeadStatistic, heads: &[f64]) -> f64 {
    match of {
        HeadStatistic::GeometricMean => geometric_mean(heads),
        HeadStatistic::Lowest => heads.iter().copied().fold(f64::INFINITY, f64::min),
        HeadStatistic::Highest => heads.iter().copied().fold(0.0, f64::max),
    }
}

pub(super) fn geometric_mean(values: &[f64]) -> f64 {
    (values.iter().map(|value| value.ln()).sum::<f64>() / values.len() as f64).exp()
}

impl Ratio {
    /// Of each head; `cells` is one value for each head, of each cell.
    pub(super) fn each(self, cells: &[Vec<f64>]) -> Vec<f64> {
        of_cell(self.over, cells).iter().zip(of_cell(self.under, cells)).map(|(over, under)| over / under).collect()
    }
}

/// What was measured of `cell`, for each head.
pub(super) fn of_cell(cell: ParserCell, measured: &[Vec<f64>]) -> &[f64] {
    let at = cells().iter().position(|other| *other == cell).expect("a goal is about cells that are measured");
    &measured[at]
}
