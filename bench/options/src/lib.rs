//! The bench's command line: `cargo xtask bench` reads it to prepare and hands it on, `redir-bench run` reads it to measure.
//! A crate of its own because xtask must not build the bench to know its options. Must not: do anything.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// Another pod of the node is intercepted, this one is not
    Neighbour,
    /// An intercepted port, requests that match nothing
    Unmatched,
    /// The same with one and with a thousand filters
    Filters,
    /// Requests that match, through the tunnel
    Matched,
    /// Unmatched requests beside matched ones
    Mixed,
    /// Faults under 2,000 requests/s: attach, detach, CLI killed, agent killed
    Resilience,
    /// From the command to the first matched answer
    FirstAnswer,
    /// Memory of idle connections and tunnels
    Idle,
    /// The head parser next to httparse
    Parser,
}

impl Scenario {
    /// All of them, in the order in which they are measured.
    pub const ALL: [Self; 9] = [
        Self::Neighbour,
        Self::Unmatched,
        Self::Filters,
        Self::Matched,
        Self::Mixed,
        Self::Resilience,
        Self::FirstAnswer,
        Self::Idle,
        Self::Parser,
    ];

    /// Its name on the command line and in results.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Neighbour => "neighbour",
            Self::Unmatched => "unmatched",
            Self::Filters => "filters",
            Self::Matched => "matched",
            Self::Mixed => "mixed",
            Self::Resilience => "resilience",
            Self::FirstAnswer => "first-answer",
            Self::Idle => "idle",
            Self::Parser => "parser",
        }
    }
}

/// What to measure, how long, and next to whom.
#[derive(Debug, Args)]
pub struct BenchOptions {
    /// Which scenarios; without any, those that a goal is about: all but `mixed`
    pub scenarios: Vec<Scenario>,
    /// Show within a minute that everything works; the figures say nothing about speed
    #[arg(long)]
    pub quick: bool,
    /// Also measure what no goal asks for: hours. After an interruption the same command resumes
    #[arg(long, conflicts_with = "quick")]
    pub all: bool,
    /// Only these peers (haproxy, nginx, envoy, ssh, rathole, rusnel, bore), or `none`
    #[arg(long, value_delimiter = ',')]
    pub peers: Vec<String>,
    /// Only cells whose name contains this, while working on one of them
    #[arg(long)]
    pub cell: Option<String>,
    /// Another number of rounds than 20: more narrow the intervals; figures from fewer must not be quoted
    #[arg(long)]
    pub rounds: Option<usize>,
    /// Measure another build in the same rounds: its `redir-agent`, or the folder with it; a `redir` beside it is its CLI. Only
    /// for `unmatched`, `matched` and `idle`, without peers unless --peers names some. Fails if this build is worse
    #[arg(long, value_name = "PATH", conflicts_with_all = ["all", "quick"])]
    pub against: Option<PathBuf>,
}

/// Rounds of each contender in each cell, unless told otherwise; results of fewer must not be quoted.
pub const ROUNDS: usize = 20;

impl BenchOptions {
    /// Whether the results are whole and exact enough to be published.
    pub fn is_quotable(&self) -> bool {
        !self.quick
            && self.cell.is_none()
            && self.against.is_none()
            && self.rounds.is_none_or(|rounds| rounds >= ROUNDS)
    }

    /// Whether peers have to be installed. A quick run is for correctness: it takes those that are there.
    pub fn needs_peers(&self) -> bool {
        !self.quick && !self.is_only(Scenario::Parser) && (self.against.is_none() || !self.peers.is_empty())
    }

    /// Whether exactly this scenario is asked for.
    pub fn is_only(&self, scenario: Scenario) -> bool {
        self.scenarios == [scenario]
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct CommandLine {
        #[command(flatten)]
        options: BenchOptions,
    }

    #[test]
    fn scenarios_have_the_same_name_everywhere() {
        for scenario in Scenario::ALL {
            assert_eq!(scenario.to_possible_value().expect("none is hidden").get_name(), scenario.name());
        }
    }

    #[test]
    fn what_is_short_or_partial_must_not_be_quoted() {
        let quotable = |words: &str| {
            let words = ["bench"].into_iter().chain(words.split_whitespace());
            CommandLine::try_parse_from(words).expect("it can be typed").options.is_quotable()
        };
        assert!(quotable("") && quotable("matched idle --rounds 40 --peers ssh") && quotable("--all"));
        assert!(!quotable("--quick") && !quotable("--rounds 19") && !quotable("--cell saturated"));
        assert!(!quotable("unmatched --against target/old"));
    }
}
