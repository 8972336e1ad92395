//! Log lines of both processes, to stderr: text for people, JSON for collectors. Called once by `main`.
//!
//! trace per packet, debug per decision, info per state change; the access events have the target `access`
//! (see `worker::access`), so that `--log info,access=off` silences them alone.

use std::io::IsTerminal;

use anyhow::Context;
use tracing_subscriber::EnvFilter;

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// One line of text for each event.
    #[default]
    Text,
    /// One JSON object for each event.
    Json,
}

/// Sends log lines to stderr; `filter` is a list of directives such as `info,quinn=warn`.
pub(crate) fn init(format: Format, filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter).with_context(|| {
        format!("log filter {filter:?} is not understood: use a level or a list such as info,access=off")
    })?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let done = match format {
        Format::Text => lines.with_ansi(std::io::stderr().is_terminal()).try_init(),
        Format::Json => lines.json().flatten_event(true).try_init(),
    };
    done.map_err(|error| anyhow::anyhow!("set up logging: {error}"))
}
