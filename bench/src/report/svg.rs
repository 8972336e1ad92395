//! A chart for each cell: the distribution of latency where there is one, what happens around an event, else a bar for
//! each contender. And a curve where something grows from cell to cell or from contender to contender.

use std::{fmt::Write, fs, path::Path};

use anyhow::Result;

use super::{BenchResults, by_redir, markdown::short, telling};
use crate::figures::{CellRecord, median};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 180.0;
const MARGIN: f64 = 40.0;
/// Told apart also by those who do not see colours alike (Okabe and Ito).
const COLOURS: [&str; 8] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999"];

/// Writes them; gives their names.
pub(super) fn write(folder: &Path, results: &BenchResults) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for cell in results.records.chunk_by(|a, b| a.scenario == b.scenario && a.cell == b.cell) {
        let open = cell[0].quantiles.iter().any(|(_, us)| *us > 0.0) && !cell[0].cell.contains("saturated");
        let text = match cell {
            [record] if !record.timeline.is_empty() => line(record)?,
            _ if open => curves(cell)?,
            _ => bars(cell)?,
        };
        let word: String = cell[0].cell.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let name = format!("{}-{}.svg", cell[0].scenario.to_lowercase(), word.to_lowercase());
        fs::write(folder.join(&name), text)?;
        names.push(name);
    }
    for ScalingChart { name, title, across, series } in scalings(&results.records) {
        if series.iter().any(|(_, points)| points.len() > 1) {
            fs::write(folder.join(name), grown(title, across, &series)?)?;
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Points of one contender: how much of something, and the figure.
type ChartSeries<'a> = (&'a str, Vec<(f64, f64)>);

/// A figure by how much of something there is.
struct ScalingChart<'a> {
    /// The file's.
    name: &'static str,
    title: &'static str,
    /// Of what.
    across: &'static str,
    series: Vec<ChartSeries<'a>>,
}

/// What grows in these results.
fn scalings(records: &[CellRecord]) -> Vec<ScalingChart<'_>> {
    let of = |scenario: &'static str| records.iter().filter(move |record| record.scenario == scenario);
    let mut by_connections: Vec<ChartSeries<'_>> = Vec::new();
    for record in of("unmatched").filter(|record| record.cell.ends_with(" connections, saturated")) {
        if let Some(point) = point(&record.cell, record, "requests/s") {
            match by_connections.iter_mut().find(|(contender, _)| *contender == record.contender) {
                Some((_, points)) => points.push(point),
                None => by_connections.push((&record.contender, vec![point])),
            }
        }
    }
    let counted = |scenario, unit: &'static str, metric| {
        let named = of(scenario).filter(move |record| record.contender.ends_with(unit));
        named.filter_map(|record| point(&record.contender, record, metric)).collect::<Vec<_>>()
    };
    let by_filters = [counted("filters", "filter", "p50 µs"), counted("filters", "filters", "p50 µs")].concat();
    let by_developers = [counted("mixed", "developer", "p99 µs"), counted("mixed", "developers", "p99 µs")].concat();
    let mut scalings = vec![
        ScalingChart {
            name: "unmatched-by-connections.svg",
            title: "unmatched: requests/s, saturated",
            across: "connections",
            series: by_connections,
        },
        ScalingChart {
            name: "filters-by-filters.svg",
            title: "filters: p50 µs of unmatched requests",
            across: "filters",
            series: vec![("redir", by_filters)],
        },
        ScalingChart {
            name: "mixed-by-developers.svg",
            title: "mixed: p99 µs of unmatched requests",
            across: "developers",
            series: vec![("redir", by_developers)],
        },
    ];
    for (_, points) in scalings.iter_mut().flat_map(|scaling| &mut scaling.series) {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    scalings
}

/// The number that a text begins with, and a record's figure.
fn point(text: &str, record: &CellRecord, metric: &str) -> Option<(f64, f64)> {
    let number = text.split(' ').next()?.replace(',', "").parse().ok()?;
    Some((number, median(record.metrics.get(metric)?)?))
}

/// Logarithmic in what grows; the figure from 0.
fn grown(title: &str, of: &str, series: &[ChartSeries<'_>]) -> Result<String> {
    let points = || series.iter().flat_map(|(_, points)| points);
    let (least, most) = points().fold((f64::MAX, 1.0_f64), |(least, most), (x, _)| (least.min(*x), most.max(*x)));
    let high = points().fold(f64::EPSILON, |high: f64, (_, y)| high.max(*y));
    let across = |x: f64| LEFT + (x / least).ln() / (most / least).ln().max(f64::EPSILON) * (WIDTH - LEFT - RIGHT);
    let up = |y: f64| HEIGHT - MARGIN - y / high * (HEIGHT - 2.0 * MARGIN);
    let mut svg = begin(&format!("{title}, by {of}"))?;
    for y in [0.0, high / 2.0, high] {
        let at = up(y);
        writeln!(svg, "<line x1='{LEFT}' x2='{}' y1='{at:.1}' y2='{at:.1}' stroke='#ddd'/>", WIDTH - RIGHT)?;
        writeln!(svg, "<text x='{}' y='{at:.1}' text-anchor='end'>{}</text>", LEFT - 6.0, short(y))?;
    }
    let mut ticks: Vec<f64> = points().map(|(x, _)| *x).collect();
    ticks.sort_by(f64::total_cmp);
    ticks.dedup();
    for tick in ticks {
        writeln!(svg, "<text x='{:.1}' y='{}' text-anchor='middle'>{tick}</text>", across(tick), HEIGHT - 20.0)?;
    }
    for (number, (name, points)) in series.iter().enumerate() {
        let line: Vec<String> = points.iter().map(|(x, y)| format!("{:.1},{:.1}", across(*x), up(*y))).collect();
        polyline(&mut svg, number, &line)?;
        legend(&mut svg, number, name)?;
    }
    Ok(svg + "</svg>\n")
}

/// Logarithmic in time; each contender's share of requests answered by then.
fn curves(cell: &[CellRecord]) -> Result<String> {
    let times = || cell.iter().flat_map(|r| &r.quantiles).map(|(_, us)| us.max(1.0));
    let (low, high) = (times().fold(f64::MAX, f64::min), times().fold(1.0, f64::max));
    let across =
        |us: f64| LEFT + (us.max(1.0) / low).ln() / (high / low).ln().max(f64::EPSILON) * (WIDTH - LEFT - RIGHT);
    let up = |q: f64| HEIGHT - MARGIN - q * (HEIGHT - 2.0 * MARGIN);
    let mut svg = begin(&format!("{}: {}, share of requests answered within", cell[0].scenario, cell[0].cell))?;
    for q in [0.0, 0.5, 0.9, 1.0] {
        let y = up(q);
        writeln!(svg, "<line x1='{LEFT}' x2='{}' y1='{y:.1}' y2='{y:.1}' stroke='#ddd'/>", WIDTH - RIGHT)?;
        writeln!(svg, "<text x='{}' y='{y:.1}' text-anchor='end'>{}</text>", LEFT - 6.0, short(q))?;
    }
    let mut tick = 10_f64.powf(low.log10().ceil());
    while tick <= high {
        writeln!(svg, "<text x='{:.1}' y='{}' text-anchor='middle'>{tick} µs</text>", across(tick), HEIGHT - 20.0)?;
        tick *= 10.0;
    }
    for (number, record) in cell.iter().enumerate() {
        let points: Vec<String> =
            record.quantiles.iter().map(|(q, us)| format!("{:.1},{:.1}", across(*us), up(*q))).collect();
        polyline(&mut svg, number, &points)?;
        legend(&mut svg, number, &record.contender)?;
    }
    Ok(svg + "</svg>\n")
}

/// The slowest answer around an event, which is at 0.
fn line(record: &CellRecord) -> Result<String> {
    let high = record.timeline.iter().fold(1.0, |high: f64, (_, ms)| high.max(*ms));
    let across = |since: f64| LEFT + (since + 1.0) / 4.0 * (WIDTH - LEFT - RIGHT);
    let up = |ms: f64| HEIGHT - MARGIN - ms / high * (HEIGHT - 2.0 * MARGIN);
    let mut svg = begin(&format!("{}: {}, slowest answer in each 20 ms", record.scenario, record.cell))?;
    for ms in [0.0, high / 2.0, high] {
        writeln!(svg, "<text x='{}' y='{:.1}' text-anchor='end'>{} ms</text>", LEFT - 6.0, up(ms), short(ms))?;
    }
    for since in [-1.0, 0.0, 1.0, 2.0, 3.0] {
        let x = across(since);
        writeln!(svg, "<line x1='{x:.1}' x2='{x:.1}' y1='{MARGIN}' y2='{}' stroke='#ddd'/>", HEIGHT - MARGIN)?;
        writeln!(svg, "<text x='{x:.1}' y='{}' text-anchor='middle'>{since} s</text>", HEIGHT - 20.0)?;
    }
    let points: Vec<String> =
        record.timeline.iter().map(|(since, ms)| format!("{:.1},{:.1}", across(*since), up(*ms))).collect();
    polyline(&mut svg, 0, &points)?;
    Ok(svg + "</svg>\n")
}

/// Of the cell's telling metric, by redir's where there are others: medians of what was seen at different speeds of the
/// machine must not stand side by side.
fn bars(cell: &[CellRecord]) -> Result<String> {
    let Some(metric) = telling(cell) else { return Ok(begin("nothing")? + "</svg>\n") };
    let relative = cell.iter().all(|record| by_redir(cell, record, metric).is_some());
    let value = |record: &CellRecord| match relative {
        true => by_redir(cell, record, metric),
        false => record.metrics.get(metric).and_then(|values| median(values)),
    };
    let value = |record: &CellRecord| value(record).unwrap_or(0.0);
    let high = cell.iter().map(value).fold(f64::EPSILON, f64::max);
    let unit = if relative { ", redir = 1" } else { "" };
    let mut svg = begin(&format!("{}: {}, {metric}{unit}", cell[0].scenario, cell[0].cell))?;
    for (number, (row, record)) in (0_u32..).zip(cell).enumerate() {
        let y = MARGIN + f64::from(row) * 30.0;
        let width = value(record).max(0.0) / high * (WIDTH - LEFT - RIGHT);
        let colour = COLOURS[number % COLOURS.len()];
        writeln!(svg, "<rect x='{LEFT}' y='{y:.1}' width='{width:.1}' height='22' fill='{colour}'/>")?;
        let text = format!("{} {}", record.contender, short(value(record)));
        writeln!(svg, "<text x='{:.1}' y='{:.1}'>{text}</text>", LEFT + width + 6.0, y + 16.0)?;
    }
    Ok(svg + "</svg>\n")
}

fn begin(title: &str) -> Result<String> {
    let mut svg = String::new();
    writeln!(
        svg,
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' font-family='sans-serif' font-size='12'>"
    )?;
    writeln!(
        svg,
        "<rect width='{WIDTH}' height='{HEIGHT}' fill='white'/><text x='{LEFT}' y='22' font-size='14'>{title}</text>"
    )?;
    Ok(svg)
}

fn polyline(svg: &mut String, number: usize, points: &[String]) -> Result<()> {
    let colour = COLOURS[number % COLOURS.len()];
    writeln!(svg, "<polyline points='{}' fill='none' stroke='{colour}' stroke-width='1.5'/>", points.join(" "))?;
    Ok(())
}

fn legend(svg: &mut String, number: usize, name: &str) -> Result<()> {
    let (x, y) = (WIDTH - RIGHT + 16.0, MARGIN + f64::from(u32::try_from(number)?) * 20.0);
    let colour = COLOURS[number % COLOURS.len()];
    writeln!(svg, "<rect x='{x}' y='{y:.1}' width='12' height='12' fill='{colour}'/>")?;
    writeln!(svg, "<text x='{}' y='{:.1}'>{name}</text>", x + 18.0, y + 11.0)?;
    Ok(())
}
