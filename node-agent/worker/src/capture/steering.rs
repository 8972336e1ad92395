//! Whether a pod's new connections come to the agent, and if not, why.
//!
//! Owns the reasons and their names. Decided by the pod's accept loop.

/// Whether new connections come to the agent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum SteeringState {
    /// The heartbeat is written.
    On,
    /// They pass to the app.
    Passing(PassReason),
}

/// Why new connections pass.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum PassReason {
    /// The capture has just begun.
    Starting,
    /// The agent drains.
    Draining,
    /// The pod has its share of the agent's connections.
    Share,
    /// A client has its share, and the guardian is being asked to let it pass alone.
    Client,
    /// The guardian gives no sockets.
    Guardian,
    /// An accept failed for want of descriptors or memory: none is tried until the next beat.
    Descriptors,
}

impl PassReason {
    /// For metrics.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Draining => "draining",
            Self::Share => "share",
            Self::Client => "client",
            Self::Guardian => "guardian",
            Self::Descriptors => "descriptors",
        }
    }
}
