//! The worker: no capability; accepts, parses, relays, speaks QUIC.

mod plan;
mod registry;
mod tunnel;
