//! The terminal, written by a thread of its own: a paused terminal (Ctrl-S) or a slow pipe never stalls the tunnel.
//!
//! Owns: standard output and error, colours, and what is left out when the reader is too slow. Must not word anything.
//! Called by: `commands`.
//!
//! The queue is bounded. When it is full, lines are left out and counted, and the count is told once there is room:
//! the tunnel goes on.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::args::OutputFormat;
use crate::error::{CliError, Outcome};
use crate::escape::Charset;
use crate::events::{AdminStep, Event};
use crate::paint::Paint;
use crate::throttle::LineThrottle;
use crate::wording;
use crate::{json, timestamps};

/// Lines that may wait for the reader, and their bytes: a line is some 100 bytes, unless the agent makes it long.
const QUEUE: usize = 2048;
const QUEUE_BYTES: usize = 4 << 20;
/// How long the end waits for a reader that does not read.
const FLUSH: Duration = Duration::from_millis(500);

/// What a stream shows: UTF-8 on a terminal whose locale says so, and ASCII in files and pipes, whatever reads them.
fn charset_of(stream: &impl io::IsTerminal) -> Charset {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(|name| {
        let value = std::env::var_os(name)?;
        (!value.is_empty()).then(|| value.to_string_lossy().to_ascii_lowercase())
    });
    // On Windows the standard library writes what the console shows.
    let is_utf8 = cfg!(windows) || locale.is_some_and(|locale| locale.contains("utf-8") || locale.contains("utf8"));
    if is_utf8 && stream.is_terminal() { Charset::Utf8 } else { Charset::Ascii }
}

/// Prints an answer that is ready as a whole. A reader that left early is no failure.
pub(crate) fn print(text: &str) -> Outcome {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CliError::Failed(wording::session::not_written(&error)))
        }
        Ok(()) | Err(_) => Ok(0),
    }
}

#[derive(Debug)]
enum OutputItem {
    Out(String),
    Error(String),
    /// The rest of the line is the reader's.
    Question(String),
    End,
}

impl OutputItem {
    fn length(&self) -> usize {
        match self {
            Self::Out(line) | Self::Error(line) | Self::Question(line) => line.len(),
            Self::End => 0,
        }
    }
}

/// What waits for the reader: bytes, and how many lines were left out since one was written.
#[derive(Debug, Default)]
struct OutputBacklog {
    bytes: AtomicUsize,
    left_out: AtomicU64,
}

/// Where everything that the developer reads goes through.
#[derive(Clone)]
pub(crate) struct Screen {
    output: OutputFormat,
    paint: Paint,
    charset: Charset,
    /// The intercepted port that everything is about.
    port: Option<u16>,
    /// There are other ports: people are told which one it is.
    of_several: bool,
    queue: mpsc::SyncSender<OutputItem>,
    backlog: Arc<OutputBacklog>,
    reader_gone: CancellationToken,
    /// Of lines about connections.
    connections: Arc<Mutex<LineThrottle>>,
}

/// The writing thread's end.
pub(crate) struct WriterHandle {
    finished: mpsc::Receiver<()>,
}

impl WriterHandle {
    /// Waits until what was told is written, unless the reader does not read.
    pub(crate) fn finish(self, screen: Screen) {
        // A full queue has no room for this; then the thread ends with the last sender, or with the process.
        screen.queue.try_send(OutputItem::End).ok();
        drop(screen);
        // Either it is written, or the reader had its time.
        self.finished.recv_timeout(FLUSH).ok();
    }
}

impl Screen {
    /// Starts the writing thread.
    pub(crate) fn start(output: OutputFormat) -> (Self, WriterHandle) {
        let (queue, items) = mpsc::sync_channel(QUEUE);
        let (done, finished) = mpsc::sync_channel(1);
        let reader_gone = CancellationToken::new();
        let backlog = Arc::new(OutputBacklog::default());
        let (gone, waiting) = (reader_gone.clone(), Arc::clone(&backlog));
        thread::spawn(move || {
            if write_all(&items, &waiting, io::stdout(), io::stderr()).is_err() {
                gone.cancel();
            }
            // The other end may be gone already: it waits for a bounded time only.
            done.send(()).ok();
        });
        let paint = Paint::of(&io::stdout());
        let connections = Arc::new(Mutex::new(LineThrottle::new(Instant::now())));
        let charset = charset_of(&io::stdout());
        let screen =
            Self { output, paint, charset, port: None, of_several: false, queue, backlog, reader_gone, connections };
        (screen, WriterHandle { finished })
    }

    /// The same screen for what is about one intercepted port.
    pub(crate) fn of_port(&self, port: u16, of_several: bool) -> Self {
        Self { port: Some(port), of_several, ..self.clone() }
    }

    /// The port that people are told with everything.
    pub(crate) fn told_port(&self) -> Option<u16> {
        self.port.filter(|_| self.of_several)
    }

    /// Cancelled when nobody reads standard output any more (`redir … | head`).
    pub(crate) fn reader_gone(&self) -> CancellationToken {
        self.reader_gone.clone()
    }

    /// Text or JSON.
    pub(crate) fn output(&self) -> OutputFormat {
        self.output
    }

    /// Colours of standard output.
    pub(crate) fn paint(&self) -> Paint {
        self.paint
    }

    /// Tells an event, in the form that was asked for.
    pub(crate) fn tell(&self, event: &Event) {
        match self.output {
            OutputFormat::Json => self.send(OutputItem::Out(json::line(event, self.port))),
            OutputFormat::Text => {
                if let Event::Connection { .. } = event {
                    match self.throttle(LineThrottle::line) {
                        Some(0) => (),
                        Some(more) => self.send(OutputItem::Out(wording::events::connections_left_out(more))),
                        None => return,
                    }
                }
                let mut lines = wording::events::lines(event, self.paint, self.charset, timestamps::now());
                if let (Some(port), Some(first)) = (self.told_port(), lines.first_mut()) {
                    *first = wording::events::of_port(port, event, first);
                }
                lines.into_iter().for_each(|line| self.send(OutputItem::Out(line)));
            }
        }
    }

    /// Tells a step of an admin's command: to people on standard error, but for the last one.
    pub(crate) fn step(&self, step: &AdminStep) {
        match (self.output, step) {
            (OutputFormat::Json, _) => self.send(OutputItem::Out(json::line(&Event::Step(step.clone()), None))),
            (OutputFormat::Text, AdminStep::Done { .. }) => self.send(OutputItem::Out(wording::install::step(step))),
            (OutputFormat::Text, _) => self.note(wording::install::step(step)),
        }
    }

    /// Tells how many lines about connections were left out when none comes any more that would tell it.
    pub(crate) fn tick(&self) {
        if let Some(more) = self.throttle(LineThrottle::rest) {
            self.send(OutputItem::Out(wording::events::connections_left_out(more)));
        }
    }

    fn throttle(&self, ask: impl FnOnce(&mut LineThrottle, Instant) -> Option<u64>) -> Option<u64> {
        // Nothing in it can be half done.
        ask(&mut self.connections.lock().unwrap_or_else(PoisonError::into_inner), Instant::now())
    }

    /// Progress and warnings, for people, on standard error in both forms.
    pub(crate) fn note(&self, line: String) {
        self.send(OutputItem::Error(line));
    }

    /// Asks somebody at the terminal, behind everything that was told before.
    pub(crate) fn ask(&self, question: String) {
        self.send(OutputItem::Question(question));
    }

    fn send(&self, item: OutputItem) {
        self.backlog.send(&self.queue, item);
    }
}

impl OutputBacklog {
    /// Queues an item, or counts it as left out.
    fn send(&self, queue: &mpsc::SyncSender<OutputItem>, item: OutputItem) {
        let length = item.length();
        let before = self.bytes.fetch_add(length, Ordering::Relaxed);
        if before + length <= QUEUE_BYTES && !matches!(queue.try_send(item), Err(mpsc::TrySendError::Full(_))) {
            return;
        }
        self.bytes.fetch_sub(length, Ordering::Relaxed);
        self.left_out.fetch_add(1, Ordering::Relaxed);
    }
}

fn write_all(
    items: &mpsc::Receiver<OutputItem>,
    backlog: &OutputBacklog,
    mut out: impl Write,
    mut error: impl Write,
) -> io::Result<()> {
    while let Ok(item) = items.recv() {
        backlog.bytes.fetch_sub(item.length(), Ordering::Relaxed);
        let missing = backlog.left_out.swap(0, Ordering::Relaxed);
        if missing > 0 {
            // Standard error may be closed: nothing depends on it.
            writeln!(error, "{}", wording::session::left_out(missing)).ok();
        }
        match item {
            OutputItem::Out(line) => {
                writeln!(out, "{line}")?;
                out.flush()?;
            }
            // Nothing depends on standard error.
            OutputItem::Error(line) => {
                writeln!(error, "{line}").ok();
            }
            OutputItem::Question(text) => {
                write!(error, "{text}").and_then(|()| error.flush()).ok();
            }
            OutputItem::End => break,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paint::Colour;

    #[test]
    fn plain_paint_adds_nothing() {
        assert_eq!(Paint::Plain.with(Colour::Red, "x"), "x");
        assert_eq!(Paint::Coloured.with(Colour::Red, "x"), "\u{1b}[31mx\u{1b}[0m");
    }

    #[test]
    fn lines_keep_their_order_and_losses_are_told() {
        let (queue, items) = mpsc::sync_channel(3);
        let backlog = OutputBacklog::default();
        for item in [
            OutputItem::Out("a".into()),
            OutputItem::Error("b".into()),
            OutputItem::Out("c".into()),
            OutputItem::Out("d".into()),
        ] {
            backlog.send(&queue, item);
        }
        drop(queue);
        let (mut out, mut error) = (Vec::new(), Vec::new());
        write_all(&items, &backlog, &mut out, &mut error).unwrap();
        assert_eq!(out, b"a\nc\n");
        assert_eq!(String::from_utf8(error).unwrap(), format!("{}\nb\n", wording::session::left_out(1)));
    }

    #[test]
    fn long_lines_are_left_out_earlier() {
        let (queue, items) = mpsc::sync_channel(QUEUE);
        let backlog = OutputBacklog::default();
        for _ in 0..10 {
            backlog.send(&queue, OutputItem::Out("x".repeat(QUEUE_BYTES / 4)));
        }
        drop(queue);
        let (mut out, mut error) = (Vec::new(), Vec::new());
        write_all(&items, &backlog, &mut out, &mut error).unwrap();
        assert_eq!(out.len(), QUEUE_BYTES + 4);
        assert_eq!(String::from_utf8(error).unwrap(), format!("{}\n", wording::session::left_out(6)));
        assert_eq!(backlog.bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_reader_that_left_ends_the_writing() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (queue, items) = mpsc::sync_channel(1);
        let backlog = OutputBacklog::default();
        backlog.send(&queue, OutputItem::Out("a".into()));
        assert!(write_all(&items, &backlog, Closed, Vec::new()).is_err());
    }
}
