//! The two steps in which connections end with the agent: draining, then aborting.
//!
//! Owns two tokens and no order: `worker::run` decides when each is cancelled.

use tokio_util::sync::CancellationToken;

/// What every connection watches; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stop {
    /// New connections pass to the app; quiet ones close, busy ones go on.
    pub(crate) draining: CancellationToken,
    /// The deadline: what is left is reset.
    pub(crate) abort: CancellationToken,
}
