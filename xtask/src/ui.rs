//! What xtask prints: one line a step, colours only on a terminal. Nothing here decides anything.

use std::cell::Cell;
use std::env;
use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Whether standard output is a terminal that may be repainted.
pub(crate) fn terminal() -> bool {
    static TERMINAL: OnceLock<bool> = OnceLock::new();
    *TERMINAL.get_or_init(|| io::stdout().is_terminal() && env::var("TERM").as_deref() != Ok("dumb"))
}

/// From now on everything is coloured, wherever it goes: a picture is made of it.
pub(crate) fn always_in_colour() {
    IN_COLOUR.store(true, Ordering::Relaxed);
}

static IN_COLOUR: AtomicBool = AtomicBool::new(false);

fn colours() -> bool {
    IN_COLOUR.load(Ordering::Relaxed) || terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn paint(code: &str, text: &str) -> String {
    if colours() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

pub(crate) fn bold(text: &str) -> String {
    paint("1", text)
}

pub(crate) fn dim(text: &str) -> String {
    paint("2", text)
}

pub(crate) fn red(text: &str) -> String {
    paint("31", text)
}

pub(crate) fn green(text: &str) -> String {
    paint("32", text)
}

pub(crate) fn blue(text: &str) -> String {
    paint("94", text)
}

pub(crate) fn orange(text: &str) -> String {
    paint("38;5;208", text)
}

/// A duration as a person says it: `0.4 s`, `43 s`, `2 min 05 s`.
pub(crate) fn spoken(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        _ => format!("{} min {:02} s", seconds / 60, seconds % 60),
    }
}

/// One line about something that takes a while. On a terminal the line carries a running clock and is rewritten with
/// the result; in a log it is printed once at the start and the result follows on a line of its own.
pub(crate) struct ProgressLine {
    text: String,
    since: Instant,
    /// When a log was last told how far it is.
    told: Cell<Instant>,
}

/// How often a log is told.
const TELL: Duration = Duration::from_secs(60);

impl ProgressLine {
    pub(crate) fn start(text: impl Into<String>) -> ProgressLine {
        let line = ProgressLine { text: text.into(), since: Instant::now(), told: Cell::new(Instant::now()) };
        if terminal() {
            line.tick("");
        } else {
            println!("{} …", line.text);
        }
        line
    }

    /// Repaints the running clock; call it once a second or so. A log gets the note once a minute.
    pub(crate) fn tick(&self, note: &str) {
        if terminal() {
            let clock = dim(&format!("{} {note}", spoken(self.since.elapsed())));
            print!("\r\x1b[2K{} … {clock}", self.text);
            let _ = io::stdout().flush();
        } else if !note.is_empty() && self.told.get().elapsed() >= TELL {
            println!("   {note}, {}", spoken(self.since.elapsed()));
            self.told.set(Instant::now());
        }
    }

    pub(crate) fn end(self, result: &str) {
        let time = dim(&spoken(self.since.elapsed()));
        if terminal() {
            println!("\r\x1b[2K{}: {result} {time}", self.text);
        } else {
            println!("{}: {result} {time}", self.text);
        }
    }
}
