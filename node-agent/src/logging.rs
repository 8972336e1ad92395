//! Log lines of both processes, to stderr: text for people, JSON for collectors. Called once by `main`.
//!
//! trace per packet, debug per decision, info per state change; the access events have the target `access`
//! (see `worker::access`), so that `--log info,access=off` silences them alone.
//!
//! A log line never waits for its reader: a collector that has stopped must not stop the relays, nor the guardian's only
//! thread. What does not fit is left out, and how much that was is told with the next line that fits.

use std::{
    io::{self, IsTerminal, Write},
    os::fd::AsFd,
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::Context;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::Metadata;
use tracing_subscriber::{EnvFilter, filter::filter_fn, prelude::*};

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// One line of text for each event.
    #[default]
    Text,
    /// One JSON object for each event.
    Json,
}

/// Sends log lines to stderr; `filter` is a list of directives such as `info,quinn=warn`.
pub(crate) fn init(format: LogFormat, filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter).with_context(|| {
        format!("log filter {filter:?} is not understood: use a level or a list such as info,access=off")
    })?;
    let lines =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| LossyWriter { to: io::stderr(), lost: &LOST });
    let done = match format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).finish().with(filter_fn(is_told)).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).finish().with(filter_fn(is_told)).try_init(),
    };
    done.map_err(|error| anyhow::anyhow!("set up logging: {error}"))
}

/// Never what the h2 crate says, whatever was asked for: its debug lines hold paths with their queries, and a client makes
/// it warn as often as it likes.
fn is_told(line: &Metadata<'_>) -> bool {
    line.target() != "h2" && !line.target().starts_with("h2::")
}

/// A stream that is written only where it takes the bytes at once.
struct LossyWriter<'a, W> {
    to: W,
    lost: &'a AtomicU64,
}

impl<W: Write + AsFd> LossyWriter<'_, W> {
    fn has_room(&self) -> bool {
        let mut stream = [PollFd::new(self.to.as_fd(), PollFlags::POLLOUT)];
        poll(&mut stream, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }
}

impl<W: Write + AsFd> Write for LossyWriter<'_, W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if !self.has_room() {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return Ok(line.len());
        }
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            writeln!(self.to, "{lost} log writes were left out: nobody read them in time")?;
            // `write_all` asks again: the line itself may not fit any more.
            return Err(io::ErrorKind::Interrupted.into());
        }
        self.to.write(&line[..line.len().min(ALWAYS_FITS)])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Log writes left out since the last one that fitted.
static LOST: AtomicU64 = AtomicU64::new(0);
/// Bytes that a pipe takes whole once it is writable: `PIPE_BUF` (pipe(7)).
const ALWAYS_FITS: usize = 4096;

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read};

    use super::*;

    #[test]
    fn the_h2_crate_is_never_heard() {
        for asked in ["trace", "info,h2=trace", "h2=debug,h2::proto=trace"] {
            let log = std::sync::Arc::<std::sync::Mutex<Vec<u8>>>::default();
            let writer = log.clone();
            let lines = tracing_subscriber::fmt()
                .with_env_filter(asked)
                .with_writer(move || SharedBuffer(writer.clone()))
                .finish();
            tracing::subscriber::with_default(lines.with(filter_fn(is_told)), || {
                tracing::error!(target: "h2::proto::streams", "secret");
                tracing::info!(target: "redir_agent", "said");
            });
            let log = String::from_utf8(log.lock().unwrap().clone()).unwrap();
            assert_eq!(log.contains("said"), asked != "h2=debug,h2::proto=trace", "{asked}: {log}");
            assert!(!log.contains("secret"), "{asked}: {log}");
        }
    }

    struct SharedBuffer(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

    impl Write for SharedBuffer {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(line);
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_has_stopped_stops_nobody() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let lost = AtomicU64::new(0);
        let mut log = LossyWriter { to: File::from(writer), lost: &lost };
        let line = [b'x'; 1000];
        // A pipe holds 64 KiB; were one of these to wait, the test would.
        for _ in 0..200 {
            log.write_all(&line).unwrap();
        }
        let left_out = lost.load(Ordering::Relaxed);
        assert!(left_out > 100, "{left_out}");
        let mut reader = File::from(reader);
        let mut block = vec![0; 64 * 1024];
        let held = reader.read(&mut block).unwrap();
        assert_eq!(held % line.len(), 0);
        log.write_all(b"again").unwrap();
        drop(log);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, format!("{left_out} log writes were left out: nobody read them in time\nagain"));
    }
}
