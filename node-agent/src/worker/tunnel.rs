//! The tunnels of the developers that are connected to this agent.
//!
//! Owns the QUIC endpoint and one session task for each tunnel. Must not decide which intercept wins (the registry's),
//! nor touch a client's connection (the capture's). Called by the worker's start and shutdown.

pub(crate) mod counters;
mod handle;

pub(crate) use handle::{OpenStream, TunnelHandle};
