//! The worker: no capability; accepts, parses, relays, speaks QUIC.

pub(crate) mod broker;
mod plan;
mod registry;
mod tunnel;

/// Runs the worker until it is told to end.
pub(crate) fn run(_bootstrap: broker::Bootstrap) -> anyhow::Result<()> {
    anyhow::bail!("the worker is not in this build")
}
