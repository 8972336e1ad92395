//! Kubernetes: the API server, and what redir reads and writes there.
//!
//! Owns: the connection, the target, the Intercept's life. Must not speak to agents (`link`), word anything (`wording`),
//! or ask for more than `intercepts` and reading the target (the admin's commands apart). Called by: `commands`.

pub(crate) mod agents;
pub(crate) mod api_call;
pub(crate) mod apply;
pub(crate) mod connect;
mod creation;
pub(crate) mod diagnosis;
pub(crate) mod inventory;
pub(crate) mod lease;
pub(crate) mod mode;
pub(crate) mod observations;
pub(crate) mod ownership;
pub(crate) mod policies;
pub(crate) mod ports;
pub(crate) mod progress;
mod quantity;
pub(crate) mod rights;
pub(crate) mod rows;
pub(crate) mod target;
pub(crate) mod target_watch;
pub(crate) mod template;
pub(crate) mod viewer;

pub(crate) use connect::Cluster;
