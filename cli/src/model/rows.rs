//! Intercepts and workloads of a cluster, as `redir list` shows them.

use redir_api::PodState;
use redir_wire::UnixMillis;

/// One Intercept.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct InterceptRow {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// `deploy/web`, or labels.
    pub(crate) target: String,
    pub(crate) port: String,
    /// Whose, by the API server's name.
    pub(crate) user: String,
    /// Whether the server has checked that name.
    pub(crate) is_checked: bool,
    /// The machine, as its developer says it: `alice@laptop`.
    pub(crate) from: String,
    /// Whether it was made here.
    pub(crate) is_own: bool,
    /// Whether it was made by the same person, perhaps at another machine.
    pub(crate) is_of_this_login: bool,
    pub(crate) since: UnixMillis,
    /// Without values; empty is everything.
    pub(crate) filter: String,
    pub(crate) to: String,
    pub(crate) pods: Vec<InterceptPodRow>,
    /// Nodes whose agent has something to say of all its pods.
    pub(crate) reasons: Vec<(String, String)>,
}

/// One pod of an Intercept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InterceptPodRow {
    pub(crate) node: String,
    pub(crate) pod: String,
    pub(crate) addresses: Vec<String>,
    pub(crate) port: Option<u16>,
    pub(crate) state: PodState,
    pub(crate) reason: String,
    /// Nobody listens on the port in it.
    pub(crate) nobody_listens: bool,
}

impl InterceptRow {
    /// How many of its pods are live.
    pub(crate) fn live(&self) -> usize {
        self.pods.iter().filter(|pod| pod.state == PodState::Live).count()
    }
}

/// A workload that can be intercepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WorkloadRow {
    pub(crate) namespace: String,
    /// `deploy/web`
    pub(crate) target: String,
    /// `8080 (http)`
    pub(crate) ports: Vec<String>,
}
