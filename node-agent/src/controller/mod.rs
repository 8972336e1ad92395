//! Kubernetes as a control plane: Intercepts are the only state, and the API server has it.
//!
//! Owns the tasks that listen to the API server and write to it. What follows from what they hear is decided by pure
//! functions: [`world`] (what is known), [`resolve`] (who may intercept what), [`secrets`] (with which certificates
//! it is read), [`status`] (what is said about it), [`renewals`] (which Intercepts are forgotten). While the API server is away the last known state stays in force; an
//! agent that has never reached it lets nobody in. Called by `worker::start`.

mod api_server;
mod client;
mod driver;
mod facts;
mod jitter;
mod mesh;
mod probes;
mod renewals;
mod resolve;
mod secrets;
mod status;
#[cfg(test)]
mod tests;
mod watch;
mod world;
mod write;

use std::sync::Arc;

use redir_tunnel::Pin;
use tokio::{sync::watch as channel, task::JoinSet};

use crate::worker::control::Plane;
use crate::{
    config::{Config, Kubernetes},
    worker::{admin::Readiness, metrics::Metrics, registry::report::Standings, tls::Tls},
};

/// What the control plane needs from the worker.
pub(crate) struct Parts {
    /// Where and how.
    pub(crate) settings: Kubernetes,
    /// The agent's configuration.
    pub(crate) config: Arc<Config>,
    /// The agent's public key.
    pub(crate) key: Pin,
    /// Where the plane goes.
    pub(crate) plane: channel::Sender<Plane>,
    /// Where the apps' certificates go.
    pub(crate) tls: Tls,
    /// How the intercepts stand.
    pub(crate) standings: channel::Receiver<Standings>,
    /// The figures.
    pub(crate) metrics: Arc<Metrics>,
    /// Set once everything has been heard of.
    pub(crate) readiness: Readiness,
}

/// A plane that lets nobody in: nothing has been heard yet.
pub(crate) fn nothing() -> Plane {
    Arc::new(resolve::Resolved::default())
}

/// Starts listening; the tasks are the caller's. Fails only if there is no way to even try.
pub(crate) fn start(parts: Parts, tasks: &mut JoinSet<()>) -> anyhow::Result<()> {
    let client = client::Source::new(&parts.settings)?;
    tasks.spawn(driver::run(parts, client));
    Ok(())
}
