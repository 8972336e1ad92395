//! The worker: no capability; accepts, parses, relays, speaks QUIC.

mod access;
mod admin;
pub(crate) mod broker;
mod capture;
mod connection;
mod developer_leg;
mod metrics;
mod plan;
mod registry;
mod relay;
mod shutdown;
mod tunnel;
mod upstream;

/// Runs the worker until it is told to end.
pub(crate) fn run(_bootstrap: broker::Bootstrap) -> anyhow::Result<()> {
    anyhow::bail!("the worker is not in this build")
}
