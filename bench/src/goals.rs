//! What redir wants to reach, and whether a result shows it. A goal is met if the worse end of its interval is.

use serde::{Deserialize, Serialize};

use crate::{
    figures::{CellRecord, Estimate, estimate, ratios},
    parser::JudgedGoal,
    peers::{REDIR, REDIRECT},
};

/// Which side of the figure is the good one.
#[derive(Debug, Clone, Copy, PartialEq)]
enum GoalReach {
    AtMost(f64),
    AtLeast(f64),
}

use GoalReach::{AtLeast, AtMost};

/// One figure of redir, by another's of the same rounds or as it is.
struct SpeedGoal {
    /// The scenario's name first.
    text: &'static str,
    /// What the cell's name begins with.
    cell: &'static str,
    subject: &'static str,
    against: Option<&'static str>,
    metric: &'static str,
    reach: GoalReach,
}

/// A goal as results have it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GoalRow {
    /// The goal in words, its scenario's name first.
    pub goal: String,
    /// The figure: a ratio, or the metric itself where there is nothing to compare with. None if it was not run.
    pub ratio: Option<f64>,
    /// The interval's lower end.
    pub low: Option<f64>,
    /// Its upper end.
    pub high: Option<f64>,
    /// What is to be reached, in words.
    pub reach: String,
    /// `yes`, `no`, `skipped`, or `calculated` where the figure was not measured.
    pub met: String,
}

const ONE: &str = "1 connection";
/// Of `matched`.
const ABOVE: &str = "ms above a round trip";
const SHARE: &str = "share of the link";
const TAKEN: &str = "a connection for each request, however";
const FULL: &str = "64 connections, saturated";

const fn goal(
    text: &'static str,
    cell: &'static str,
    against: &'static str,
    metric: &'static str,
    reach: GoalReach,
) -> SpeedGoal {
    SpeedGoal { text, cell, subject: REDIR, against: Some(against), metric, reach }
}

const fn plain(text: &'static str, cell: &'static str, metric: &'static str, reach: GoalReach) -> SpeedGoal {
    SpeedGoal { text, cell, subject: REDIR, against: None, metric, reach }
}

const GOALS: &[SpeedGoal] = &[
    SpeedGoal { subject: "redir on another pod", ..goal("neighbour p50", ONE, "no redir", "p50 µs", AtMost(1.02)) },
    SpeedGoal {
        subject: "redir on another pod",
        ..goal("neighbour requests/s", FULL, "no redir", "requests/s", AtLeast(0.98))
    },
    goal("unmatched p50, 1 connection, by the epoll floor's", ONE, "epoll floor", "p50 µs", AtMost(1.25)),
    goal("unmatched p50, 1 connection, by HAProxy http's", ONE, "HAProxy http", "p50 µs", AtMost(1.0)),
    goal("unmatched p50, 1 connection, by Envoy's", ONE, "Envoy", "p50 µs", AtMost(0.6)),
    goal("unmatched saturated requests/s, by HAProxy http's", FULL, "HAProxy http", "requests/s", AtLeast(1.0)),
    goal("unmatched saturated requests/s, by nginx's", FULL, "nginx", "requests/s", AtLeast(1.4)),
    goal("unmatched saturated requests/s, by Envoy's", FULL, "Envoy", "requests/s", AtLeast(2.0)),
    // At a fixed rate what differs is time on the CPU, whose inverse is the capacity.
    goal(
        "unmatched one connection a request, CPU by HAProxy http's, which shares its own",
        "a connection for each request",
        "HAProxy http",
        "machine ns/request",
        AtMost(1.11),
    ),
    goal(
        "unmatched one connection a request, CPU by HAProxy tcp's, which does not",
        "a connection for each request",
        "HAProxy tcp",
        "machine ns/request",
        AtMost(1.11),
    ),
    goal("unmatched 8 MB bodies, by HAProxy tcp's", "8 MB bodies", "HAProxy tcp", "MB/s", AtLeast(0.85)),
    // What the others cost by what redir costs: by so much the capacity is greater.
    SpeedGoal {
        subject: REDIRECT,
        ..goal(
            "unmatched taking connections, REDIRECT's CPU by redir's",
            TAKEN,
            REDIR,
            "machine ns/request",
            AtLeast(1.05),
        )
    },
    SpeedGoal {
        subject: "1,000 filters",
        ..goal("filters p50, 1 to 1000 filters", ONE, "1 filter", "p50 µs", AtMost(1.02))
    },
    goal("matched p50 on W0, by rusnel's", "W0, 1", "rusnel", "p50 µs", AtMost(0.9)),
    goal("matched p50 on W0, by ssh -R's", "W0, 1", "ssh -R", "p50 µs", AtMost(1.0)),
    goal("matched bulk down on W0, by rusnel's", "W0, 8 MB answers", "rusnel", "MB/s", AtLeast(1.2)),
    goal("matched bulk up on W0, by rusnel's", "W0, 8 MB bodies up", "rusnel", "MB/s", AtLeast(1.2)),
    plain("matched bulk down on W2, by the link's rate", "W2, one long answer", SHARE, AtLeast(0.92)),
    plain("matched bulk up on W2, by the link's rate", "W2, one long body", SHARE, AtLeast(0.92)),
    plain("matched bulk down on W3, by the link's rate", "W3, one long answer", SHARE, AtLeast(0.92)),
    plain("matched bulk up on W3, by the link's rate", "W3, one long body", SHARE, AtLeast(0.92)),
    plain("matched small requests on W1, ms above a round trip", "W1, 1", ABOVE, AtMost(1.0)),
    plain("matched small requests on W2, ms above a round trip", "W2, 1", ABOVE, AtMost(1.0)),
    plain("matched small requests on W3, ms above a round trip", "W3, 1", ABOVE, AtMost(1.0)),
    plain("matched after 1.5 s idle on W2, ms above a round trip", "W2, after", ABOVE, AtMost(2.0)),
    plain("matched after 1.5 s idle on W3, ms above a round trip", "W3, after", ABOVE, AtMost(2.0)),
    goal("matched p95 with loss on W2L, by ssh -R's", "W2L", "ssh -R", "p95 µs", AtMost(0.65)),
    goal("matched p95 with loss on W3L, by ssh -R's", "W3L", "ssh -R", "p95 µs", AtMost(0.65)),
    plain("first-answer on W0, ms", "W0", "ms", AtMost(200.0)),
    plain("first-answer on W2, ms above 4 round trips", "W2", "ms above 4 round trips", AtMost(250.0)),
    plain("first-answer on W3, ms above 4 round trips", "W3", "ms above 4 round trips", AtMost(250.0)),
    plain("resilience attach, failed", "attach", "failed", AtMost(0.0)),
    plain("resilience second port, failed", "second port", "failed", AtMost(0.0)),
    plain("resilience detach, failed", "detach", "failed", AtMost(0.0)),
    plain("resilience CLI killed, failed", "CLI killed", "failed", AtMost(0.0)),
    plain("resilience agent killed, failed", "agent killed", "failed", AtMost(0.0)),
    plain("idle agent resident, MiB", "agent, nothing", "MiB", AtMost(20.0)),
    plain("idle connection, bytes", "idle connection", "bytes each", AtMost(4096.0)),
    plain("idle tunnel, bytes", "tunnel", "bytes each", AtMost(131_072.0)),
];

/// All goals, those that were not run as `skipped`; the parser's are its own to judge.
pub fn rows(records: &[CellRecord], parser: Vec<GoalRow>) -> Vec<GoalRow> {
    let skipped = || {
        let goals = [
            ("parser head and filter, geometric mean", "≥ 1.5x"),
            ("parser with framing, geometric mean", "≥ 1.2x"),
            ("filters decision, 1,000 filters to 1", "≤ 1.5x"),
        ];
        goals.map(|(goal, reach)| GoalRow::skipped(goal, reach)).to_vec()
    };
    let parser = if parser.is_empty() { skipped() } else { parser };
    GOALS.iter().map(|goal| goal.row(records)).chain(parser).collect()
}

impl GoalRow {
    /// A goal of the parser's: by how much it is better than httparse, or (of `filters`) a thousand filters worse than
    /// one.
    pub fn of_parser(judged: &JudgedGoal) -> Self {
        let goal = match judged.what.starts_with("1,000 filters") {
            true => format!("filters decision, {}", judged.what),
            false => format!("parser {}", judged.what),
        };
        Self {
            goal,
            ratio: Some(judged.wall.median),
            low: Some(judged.wall.low),
            high: Some(judged.wall.high),
            reach: judged.reach.clone(),
            met: if judged.met_by_wall { "yes" } else { "no" }.to_owned(),
        }
    }

    fn skipped(goal: &str, reach: &str) -> Self {
        let (goal, reach, met) = (goal.to_owned(), reach.to_owned(), "skipped".to_owned());
        Self { goal, ratio: None, low: None, high: None, reach, met }
    }
}

impl SpeedGoal {
    fn row(&self, records: &[CellRecord]) -> GoalRow {
        let reach = match self.reach {
            AtMost(value) => format!("≤ {value}"),
            AtLeast(value) => format!("≥ {value}"),
        };
        let seen = self.seen(records);
        let met = match seen {
            None => "skipped",
            // What nobody measured is not met, however good it looks.
            Some(_) if self.subject == REDIRECT => "calculated",
            Some(seen) if self.met(seen) => "yes",
            Some(_) => "no",
        };
        GoalRow {
            goal: self.text.to_owned(),
            ratio: seen.map(|seen| seen.median),
            low: seen.map(|seen| seen.low),
            high: seen.map(|seen| seen.high),
            reach,
            met: met.to_owned(),
        }
    }

    fn met(&self, seen: Estimate) -> bool {
        match self.reach {
            AtMost(value) => seen.high <= value,
            AtLeast(value) => seen.low >= value,
        }
    }

    fn seen(&self, records: &[CellRecord]) -> Option<Estimate> {
        let subject = self.metric(records, self.subject)?;
        match self.against {
            Some(control) => estimate(&ratios(subject, self.metric(records, control)?)),
            // A failed request is one too many, in whichever round.
            None if self.metric == "failed" => subject.iter().copied().reduce(f64::max).and_then(|n| estimate(&[n])),
            None => estimate(subject),
        }
    }

    fn metric<'a>(&self, records: &'a [CellRecord], contender: &str) -> Option<&'a [f64]> {
        let wanted = records.iter().find(|r| {
            self.text.starts_with(&format!("{} ", r.scenario))
                && r.cell.starts_with(self.cell)
                && r.contender == contender
        });
        wanted?.metrics.get(self.metric).map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn record(contender: &str, p50: &[f64]) -> CellRecord {
        CellRecord {
            scenario: "neighbour".into(),
            cell: ONE.into(),
            contender: contender.into(),
            pins: String::new(),
            metrics: BTreeMap::from([("p50 µs".to_owned(), p50.to_vec())]),
            quantiles: Vec::new(),
            timeline: Vec::new(),
            failed: 0,
            reason: None,
        }
    }

    #[test]
    fn the_worse_end_decides_and_what_was_not_run_is_skipped() {
        let control = record("no redir", &[100.0, 100.0, 100.0]);
        let good = rows(&[record("redir on another pod", &[101.0, 100.0, 101.0]), control.clone()], Vec::new());
        let noisy = rows(&[record("redir on another pod", &[101.0, 100.0, 130.0]), control], Vec::new());
        assert_eq!((good[0].met.as_str(), noisy[0].met.as_str(), good[1].met.as_str()), ("yes", "no", "skipped"));
        assert_eq!(good[0].ratio, Some(1.01));
    }
}
