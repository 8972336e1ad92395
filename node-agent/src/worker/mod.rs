//! The worker: no capability; accepts, parses, relays, speaks QUIC.

pub(crate) mod broker;
mod plan;
mod registry;
mod tunnel;
