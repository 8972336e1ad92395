//! What is found of an installation in a cluster.

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NamespaceInventory {
    /// `secret pull`, sorted: what is there besides the known objects and what belongs to them.
    pub(crate) others: Vec<String>,
    /// Kinds that could not be looked at, and why.
    pub(crate) unknown: Vec<String>,
}

impl NamespaceInventory {
    /// Whether nothing would be lost with the namespace.
    pub(crate) fn is_empty(&self) -> bool {
        self.others.is_empty() && self.unknown.is_empty()
    }
}

/// A release of Helm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HelmRelease {
    pub(crate) name: String,
    pub(crate) namespace: String,
}

/// The PodSecurity level that a namespace enforces, if it names one, where that does not admit an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodSecurityLevel(pub(crate) Option<String>);

/// What the admin wanted to do with what is Helm's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HelmAdvice {
    Upgrade,
    Uninstall,
}
