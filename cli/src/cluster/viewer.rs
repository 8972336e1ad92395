//! Who looks at a cluster's Intercepts, and how far the names in them are to be believed.
//!
//! Owns: asking. Must not judge a row (`rows`). Called by: `commands::kubernetes`.

use redir_wire::UnixMillis;

use super::connect::Cluster;
use super::{policies, rights};
use crate::user;

/// This user at this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Viewer {
    /// As the API server knows them; `None` if it does not say.
    pub(crate) user: Option<String>,
    /// `alice@laptop`
    pub(crate) machine: String,
    /// Since when the server refuses Intercepts in another's name, if this user may see that.
    pub(crate) names_are_checked_since: Option<UnixMillis>,
}

impl Viewer {
    pub(crate) async fn of(cluster: &Cluster) -> Self {
        let (user, since) =
            futures_util::future::join(rights::username(cluster), policies::names_are_checked_since(cluster)).await;
        Self { user, machine: user::at_machine(), names_are_checked_since: since }
    }
}
