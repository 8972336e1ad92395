//! Wall time, in rounds: each does everything once, so that what slows the machine down slows down both sides of a ratio.
//!
//! Owns: the rounds, and what they say of a ratio. Must not: judge. Called by: `parser::run`.

use std::time::{Duration, Instant};

use super::cells::{self, ParserBench, ParserCell};

/// How long one cell is measured on one head in one round, at the least: hundreds of times the clock's own cost.
const SAMPLE: Duration = Duration::from_micros(20);

/// How often a cell is tried to find out how often that is.
const TRIED: usize = 256;

/// How often rounds are drawn again for an interval.
const RESAMPLES: usize = 1000;

/// A median, with its 95 % interval.
#[derive(Clone, Copy, Debug)]
pub struct WallInterval {
    /// Its lower end.
    pub low: f64,
    /// The median.
    pub median: f64,
    /// Its upper end.
    pub high: f64,
}

/// Nanoseconds for one head: of each round, of each cell in the order of [`cells::cells`], for each head.
pub(super) fn measure(bench: &ParserBench, rounds: usize) -> Vec<Vec<Vec<f64>>> {
    let cells = cells::cells();
    let times = |cell, head| {
        let tried = if cells::units(cell, head) == 1 { TRIED } else { 1 };
        let begin = Instant::now();
        bench.run(cell, head, tried);
        let once = begin.elapsed().as_nanos() / tried as u128 + 1;
        usize::try_from(SAMPLE.as_nanos() / once).unwrap_or_default() + 1
    };
    let plan: Vec<Vec<usize>> =
        cells.iter().map(|&cell| bench.heads.iter().map(|head| times(cell, head)).collect()).collect();
    let one = |cell: ParserCell, head, times: usize| {
        // Not what the cell before has pushed out of the caches.
        bench.run(cell, head, times / 8 + 1);
        let begin = Instant::now();
        bench.run(cell, head, times);
        begin.elapsed().as_nanos() as f64 / (times * cells::units(cell, head)) as f64
    };
    let round = |_| {
        // Head by head: the two sides of a ratio are next to each other.
        let mut row = vec![vec![0.0; bench.heads.len()]; cells.len()];
        for (number, head) in bench.heads.iter().enumerate() {
            for ((row, plan), cell) in row.iter_mut().zip(&plan).zip(&cells) {
                row[number] = one(*cell, head, plan[number]);
            }
        }
        row
    };
    (0..rounds).map(round).collect()
}

/// The median of `values`, one for each round, and where it is with 95 % certainty (percentile bootstrap).
pub(super) fn interval(values: &[f64]) -> WallInterval {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut any = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        values[usize::try_from(state >> 33).unwrap_or_default() % values.len()]
    };
    let mut medians: Vec<f64> = (0..RESAMPLES).map(|_| median((0..values.len()).map(|_| any()).collect())).collect();
    medians.sort_by(f64::total_cmp);
    let at = |part: usize| medians[RESAMPLES * part / 1000];
    WallInterval { low: at(25), median: median(values.to_vec()), high: at(975) }
}

pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_around_the_median() {
        let WallInterval { low, median, high } = interval(&[1.0, 9.0, 2.0, 3.0, 2.5]);
        assert!(low <= 2.0 && high >= 3.0 && median == 2.5, "{low} {median} {high}");
    }
}
