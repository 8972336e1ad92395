//! What the demo prints, and its memory of every answer that was not the expected one. All wording helpers are here;
//! nothing here touches a socket.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::ui;

/// The telling so far.
pub(crate) struct Story {
    scene: usize,
    since: Instant,
    answers: usize,
    wrong: Vec<String>,
    /// What was printed, scene by scene, with its colours.
    printed: RefCell<Vec<Vec<String>>>,
}

/// An answer as it came: the body's line, or what went wrong instead.
pub(crate) type Answer = Result<String>;

impl Story {
    pub(crate) fn begin() -> Story {
        Story { scene: 0, since: Instant::now(), answers: 0, wrong: Vec::new(), printed: RefCell::default() }
    }

    /// A new scene, with its title and what to look at.
    pub(crate) fn scene(&mut self, title: &str, look_at: &str) {
        self.scene += 1;
        self.printed.borrow_mut().push(Vec::new());
        self.print("");
        self.print(&ui::bold(&format!("{}  {title}", self.scene)));
        for line in look_at.lines() {
            self.say(&ui::dim(line));
        }
    }

    /// A line of the telling.
    pub(crate) fn say(&self, text: &str) {
        self.print(&format!("   {text}"));
    }

    fn print(&self, line: &str) {
        println!("{line}");
        if let Some(scene) = self.printed.borrow_mut().last_mut() {
            scene.push(line.to_owned());
        }
    }

    /// The lines of the first scenes, with their colours.
    pub(crate) fn printed(&self, scenes: usize) -> Vec<String> {
        self.printed.borrow().iter().take(scenes).flatten().cloned().collect()
    }

    /// A command as a person would type it.
    pub(crate) fn command(&self, text: &str) {
        self.say(&format!("{} {text}", ui::dim("$")));
    }

    /// Compares an answer with what it must be; a cell for a table. `expected` is the whole answer (`green 10.210.3.2`) or
    /// its first word.
    pub(crate) fn check(&mut self, what: &str, answer: &Answer, expected: &str) -> AnswerCell {
        self.answers += 1;
        let (text, right) = match answer {
            Ok(text) => (text.clone(), text == expected || text.split(' ').next() == Some(expected)),
            Err(error) => (format!("{error:#}"), false),
        };
        if !right {
            self.wrong.push(format!("{what}: expected {expected:?}, got {text:?}"));
        }
        AnswerCell { text, right }
    }

    /// A condition other than an answer's text.
    pub(crate) fn must(&mut self, right: bool, what: &str) -> String {
        if right {
            return ui::green("✓");
        }
        self.wrong.push(what.to_owned());
        ui::red("✗")
    }

    /// Rows under a heading, columns aligned; the first column is plain text.
    pub(crate) fn table(&self, heading: &[&str], rows: &[(String, Vec<AnswerCell>)]) {
        let first = rows.iter().map(|(name, _)| width(name)).chain([width(heading[0])]).max().unwrap_or(0);
        let column = |index: usize| {
            let cells = rows.iter().filter_map(|(_, cells)| cells.get(index)).map(|cell| width(&cell.text) + 2);
            cells.chain([width(heading[index + 1])]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..heading.len() - 1).map(column).collect();
        let mut line = pad(heading[0], first);
        for (text, width) in heading[1..].iter().zip(&widths) {
            line += &format!("   {}", pad(text, *width));
        }
        self.say(&ui::dim(line.trim_end()));
        for (name, cells) in rows {
            let cells: Vec<String> = cells.iter().zip(&widths).map(|(cell, width)| cell.padded(*width)).collect();
            self.say(&format!("{}   {}", pad(name, first), cells.join("   ").trim_end()));
        }
    }

    /// How many answers were looked at.
    pub(crate) fn answers(&self) -> usize {
        self.answers
    }

    /// Whether all were right.
    pub(crate) fn verdict(&self) -> Result<()> {
        if self.wrong.is_empty() {
            return Ok(());
        }
        for wrong in &self.wrong {
            eprintln!("   {} {wrong}", ui::red("wrong:"));
        }
        bail!("{} of the demo's checks failed, each named above", self.wrong.len());
    }

    /// The closing line.
    pub(crate) fn end(&self) -> Result<()> {
        println!();
        self.verdict()?;
        let time = ui::spoken(self.since.elapsed());
        println!(
            "{} {} answers shown were the expected ones, nothing is left behind ({time})",
            ui::green("all"),
            self.answers
        );
        Ok(())
    }
}

/// One answer in a table.
pub(crate) struct AnswerCell {
    text: String,
    right: bool,
}

impl AnswerCell {
    fn padded(&self, to: usize) -> String {
        let mark = if self.right { ui::green("✓") } else { ui::red("✗") };
        let (word, rest) = self.text.split_once(' ').unwrap_or((&self.text, ""));
        let gap = " ".repeat(to.saturating_sub(width(&self.text) + 2));
        format!("{mark} {}{}{rest}{gap}", coloured(word), if rest.is_empty() { "" } else { " " })
    }

    /// The cell as a line of its own.
    pub(crate) fn line(&self) -> String {
        self.padded(0)
    }
}

/// The versions of the service, in their own colours.
fn coloured(word: &str) -> String {
    match word {
        "green" => ui::green(word),
        "blue" => ui::blue(word),
        "orange" => ui::orange(word),
        _ => word.to_owned(),
    }
}

fn pad(text: &str, to: usize) -> String {
    format!("{text}{}", " ".repeat(to.saturating_sub(width(text))))
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// A time with three figures that matter: `412 µs`, `1.24 ms`, `85.2 ms`, `1.30 s`.
pub(crate) fn precise(time: Duration) -> String {
    let micros = time.as_micros();
    let millis = time.as_secs_f64() * 1000.0;
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..10_000 => format!("{millis:.2} ms"),
        10_000..1_000_000 => format!("{millis:.0} ms"),
        _ => format!("{:.2} s", time.as_secs_f64()),
    }
}
