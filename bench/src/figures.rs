//! What was measured, and what may be said of it: figures by round, ratios round by round, their median and its bootstrap
//! interval.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A metric's name in results and goals, with its unit.
pub type Metric = String;

/// One contender in one cell of a scenario.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CellRecord {
    /// The scenario's letter.
    pub scenario: String,
    /// What was done: `1 connection`, …
    pub cell: String,
    /// Who did it: `redir`, `HAProxy http`, …
    pub contender: String,
    /// Where the processes were.
    pub pins: String,
    /// One figure for each round.
    pub metrics: BTreeMap<Metric, Vec<f64>>,
    /// Latency's distribution: quantile and microseconds, the median over the rounds.
    pub quantiles: Vec<(f64, f64)>,
    /// Around an event: seconds since it, and the slowest answer's milliseconds in each piece of time, of the first round.
    #[serde(default)]
    pub timeline: Vec<(f64, f64)>,
    /// Requests that failed, over all rounds.
    pub failed: u64,
    /// Why the first of them did.
    pub reason: Option<String>,
}

/// A median and the interval it is in with 95 % confidence.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The median.
    pub median: f64,
    /// The interval's lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

/// The median; none of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// The median with its percentile-bootstrap interval. The draws are always the same, so a result can be checked.
pub fn estimate(values: &[f64]) -> Option<Estimate> {
    estimate_with(values, 0.05)
}

/// The same with another probability of being outside of the interval, at least a thousandth.
pub fn estimate_with(values: &[f64], outside: f64) -> Option<Estimate> {
    let middle = median(values)?;
    let mut random = Xorshift::new(0);
    let mut medians: Vec<f64> = (0..DRAWS)
        .filter_map(|_| median(&values.iter().map(|_| values[random.below(values.len())]).collect::<Vec<_>>()))
        .collect();
    medians.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "thousands"
    )]
    let cut = (DRAWS as f64 * outside / 2.0).round() as usize;
    Some(Estimate { median: middle, low: medians[cut], high: medians[DRAWS - 1 - cut] })
}

/// Round by round, one contender's figure by another's.
pub fn ratios(subject: &[f64], control: &[f64]) -> Vec<f64> {
    subject.iter().zip(control).map(|(s, c)| s / c).filter(|ratio| ratio.is_finite()).collect()
}

/// How often the rounds are drawn anew.
const DRAWS: usize = 2000;

/// xorshift64: a fixed sequence is all that is wanted.
#[derive(Debug)]
pub struct Xorshift(u64);

impl Xorshift {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Self {
        // xorshift stays at 0 for ever if it begins there.
        Self((0x9e37_79b9_7f4a_7c15 ^ seed).max(1))
    }

    /// The next number, below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 33) % n as u64).expect("below a usize")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_holds_the_median_and_stays_within_the_values() {
        let seen = estimate(&[1.0, 1.1, 0.9, 1.05, 3.0]).unwrap();
        assert_eq!(seen.median, 1.05);
        assert!(0.9 <= seen.low && seen.low <= seen.median && seen.median <= seen.high && seen.high <= 3.0);
        assert_eq!(estimate(&[]), None);
        assert_eq!(median(&[2.0, 1.0]), Some(1.5));
    }

    #[test]
    fn a_round_is_compared_with_its_own_control() {
        assert_eq!(ratios(&[2.0, 8.0], &[1.0, 4.0]), [2.0, 2.0]);
        assert_eq!(ratios(&[1.0], &[0.0]), [] as [f64; 0]);
    }
}
