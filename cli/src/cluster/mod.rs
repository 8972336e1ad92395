//! Kubernetes: the API server, and what redir reads and writes there.
//!
//! Owns: the connection, the target, the Intercept's life. Must not speak to agents (`link`), word anything (`wording`),
//! or ask for more than `intercepts` and reading the target (the admin's commands apart). Called by: `commands`.

pub(crate) mod agents;
pub(crate) mod apply;
pub(crate) mod connect;
mod creation;
pub(crate) mod diagnosis;
pub(crate) mod inventory;
pub(crate) mod lease;
pub(crate) mod mode;
pub(crate) mod objects;
pub(crate) mod ownership;
pub(crate) mod policies;
pub(crate) mod ports;
pub(crate) mod progress;
pub(crate) mod rights;
pub(crate) mod silence;
pub(crate) mod target;
pub(crate) mod target_watch;
pub(crate) mod trouble;
pub(crate) mod viewer;
pub(crate) mod wish;

pub(crate) use connect::Cluster;
