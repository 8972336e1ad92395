//! Every measurement of the scenario, in one order.
//!
//! Owns: what is measured, and the function that callgrind looks into. Must not: know how it is counted or timed.
//! Called by: `counts` and `wall`, which give each cell a number.

use std::hint::black_box;

use redir_http::InstructionSet;
use redir_http::filter::Table;

use super::contenders::{self, Filters};
use super::corpus::{Head, corpus};

/// One thing to be measured, on one head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ParserCell {
    Redir,
    Httparse,
    Engine,
    HttparseFramed,
    /// In two pieces, at every split point.
    RedirSplit,
    HttparseSplit,
    /// With other instructions than the best.
    At(InstructionSet),
    /// With so many filters.
    Filtered(Filters, usize),
}

/// How many filters a table has at the least and at the most.
pub(super) const FEW: usize = 1;
pub(super) const MANY: usize = 1000;

pub(super) const FILTERS: [Filters; 3] = [Filters::Values, Filters::Names, Filters::Paths];

/// Every cell; each is measured on every head.
pub(super) fn cells() -> Vec<ParserCell> {
    let mut cells = vec![ParserCell::Redir, ParserCell::Httparse, ParserCell::Engine, ParserCell::HttparseFramed];
    cells.extend([ParserCell::RedirSplit, ParserCell::HttparseSplit]);
    cells.extend(InstructionSet::all().map(ParserCell::At));
    cells.extend(FILTERS.into_iter().flat_map(|filters| [FEW, MANY].map(|count| ParserCell::Filtered(filters, count))));
    cells
}

/// What the cells work on.
pub(super) struct ParserBench {
    pub(super) heads: Vec<Head>,
    table: Table,
    tables: Vec<((Filters, usize), Table)>,
}

impl ParserBench {
    pub(super) fn new() -> Self {
        let sizes = FILTERS.into_iter().flat_map(|filters| [(filters, FEW), (filters, MANY)]);
        Self {
            heads: corpus(),
            table: contenders::table(Filters::Values, 1),
            tables: sizes.map(|size| (size, contenders::table(size.0, size.1))).collect(),
        }
    }

    /// Does what `cell` says, with `head`, `times` times.
    pub(super) fn run(&self, cell: ParserCell, head: &Head, times: usize) {
        let (bytes, table) = (head.bytes.as_slice(), &self.table);
        match cell {
            ParserCell::Redir => measured(times, || contenders::redir(black_box(bytes), table)),
            ParserCell::Httparse => measured(times, || contenders::httparse(black_box(bytes))),
            ParserCell::Engine => measured(times, || contenders::engine(black_box(bytes), table)),
            ParserCell::HttparseFramed => measured(times, || contenders::httparse_framed(black_box(bytes))),
            ParserCell::RedirSplit => measured(times, || {
                (1..bytes.len()).for_each(|at| {
                    black_box(contenders::redir_split(black_box(bytes), at, table));
                });
            }),
            ParserCell::HttparseSplit => measured(times, || {
                (1..bytes.len()).for_each(|at| {
                    black_box(contenders::httparse_split(black_box(bytes), at));
                });
            }),
            ParserCell::At(level) => measured(times, || contenders::redir_at(level, black_box(bytes), table)),
            ParserCell::Filtered(filters, count) => {
                let found = self.tables.iter().find(|(size, _)| *size == (filters, count));
                let (_, table) = found.expect("there is a table for each cell");
                measured(times, || contenders::redir(black_box(bytes), table));
            }
        }
    }
}

/// How many heads a cell reads each time it is asked to.
pub(super) fn units(cell: ParserCell, head: &Head) -> usize {
    match cell {
        ParserCell::RedirSplit | ParserCell::HttparseSplit => head.bytes.len() - 1,
        _ => 1,
    }
}

/// The name of the function by which callgrind knows when to count ...
pub(super) const MEASURED: &str = "*cells*measured*";

#[inline(never)]
fn measured<R>(times: usize, work: impl Fn() -> R) {
    for _ in 0..times {
        drop(black_box(work()));
    }
}

/// ... and of the one after which it writes down what it has.
pub(super) const OVER: &str = "*cell_is_over*";

#[inline(never)]
pub(super) fn cell_is_over() {
    // Something, or calls of it are taken out.
    black_box(0_u8);
}
