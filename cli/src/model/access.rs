//! Rights as RBAC names them, and what a user may intercept.
//!
//! Owns: the types. Must not ask a server (`cluster::rights`) or word answers (`wording::rights`).

use std::collections::{BTreeMap, BTreeSet};

use redir_api::{GROUP, PLURAL, TargetKind};

use super::values::Target;

/// The same beside a filter, with `--flush`.
pub(crate) const FLUSH: &str = "flush";

/// One right as RBAC names it, in the namespace that is meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AccessRight {
    pub(crate) verb: &'static str,
    /// Empty: the core group.
    pub(crate) group: &'static str,
    pub(crate) resource: &'static str,
    /// `None`: every object of the resource.
    pub(crate) name: Option<String>,
}

impl AccessRight {
    /// Whether it is one on Intercepts, which come together.
    pub(crate) fn is_on_intercepts(&self) -> bool {
        self.group == GROUP
    }

    pub(crate) fn is_flush(&self) -> bool {
        self.verb == FLUSH
    }
}

/// What a user may intercept in a namespace, whatever the target.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct InterceptableTargets {
    /// Every object of these kinds.
    pub(crate) kinds: BTreeSet<TargetKind>,
    /// These, as `deploy/web`.
    pub(crate) named: BTreeSet<String>,
    /// Whether there may be more: not every authorizer can list what it allows.
    pub(crate) is_incomplete: bool,
}

/// Rights by what they are on, each with all its verbs: a role of kubectl's for each.
pub(crate) fn by_object(
    rights: &[AccessRight],
) -> BTreeMap<(&'static str, &'static str, Option<&str>), Vec<&'static str>> {
    let mut objects: BTreeMap<_, Vec<&'static str>> = BTreeMap::new();
    for right in rights {
        objects.entry((right.group, right.resource, right.name.as_deref())).or_default().push(right.verb);
    }
    objects
}

/// The verb on a target that the policy on Intercepts checks.
pub(crate) const INTERCEPT: &str = "intercept";

/// What `redir` does with its own Intercepts, and shows of others'.
const VERBS: [&str; 6] = ["create", "get", "list", "watch", "patch", "delete"];

/// The rights on Intercepts themselves.
pub(crate) fn on_intercepts() -> Vec<AccessRight> {
    VERBS.map(|verb| AccessRight { verb, group: GROUP, resource: PLURAL, name: None }).into()
}

/// What one intercept needs on its target, as the policies check it: of labels the right on all pods, since they may come
/// to mean any.
pub(crate) fn on_target(target: &Target) -> Vec<AccessRight> {
    let verbs: &[&str] = if matches!(target, Target::Labels(_)) { &[INTERCEPT] } else { &["get", INTERCEPT] };
    verbs.iter().map(|verb| of_target(target, verb)).collect()
}

/// What closing connections beside a filter needs.
pub(crate) fn to_flush(target: &Target) -> AccessRight {
    of_target(target, FLUSH)
}

fn of_target(target: &Target, verb: &'static str) -> AccessRight {
    let (kind, name) = match target {
        Target::Labels(_) => (TargetKind::Pod, None),
        Target::Pod(name) => (TargetKind::Pod, Some(name.clone())),
        Target::Workload(kind, name) => (*kind, Some(name.clone())),
    };
    AccessRight { verb, group: kind.group(), resource: kind.plural(), name }
}
