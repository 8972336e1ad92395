//! Which Intercepts this agent takes at all: not in every namespace, not any number of one, and not two of one key.
//!
//! Pure, and the same on every node: the oldest come first, by the API server's clock and then by their UIDs. What is told
//! goes into the status, and ends with the next step.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use redir_api::limits::MOST_OF_NAMESPACE;
use redir_tunnel::Pin;
use redir_wire::Token;

use super::{facts::InterceptFacts, world::ClusterState};

/// Those that are not taken.
#[derive(Default)]
pub(super) struct IgnoredIntercepts {
    /// And why.
    pub(super) refused: BTreeMap<Token, String>,
    /// Nothing is found out about these, and nothing is told: whoever makes any number must not make work for all nodes.
    pub(super) left_out: BTreeSet<Token>,
}

/// Who is taken.
pub(super) fn admit(world: &ClusterState) -> IgnoredIntercepts {
    let mut oldest_first: Vec<&InterceptFacts> = world.intercepts.values().collect();
    oldest_first.sort_by_key(|intercept| (intercept.made, intercept.token));
    let (mut admission, mut namespaces, mut keys) = (IgnoredIntercepts::default(), BTreeMap::new(), BTreeMap::new());
    for intercept in oldest_first {
        let namespace = &*intercept.id.namespace;
        let share: &mut NamespaceShare = namespaces.entry(namespace).or_default();
        let reason = match &intercept.wanted {
            _ if world.forbidden.contains(namespace) => Some(forbidden(namespace)),
            // It takes nobody's place.
            Err(reason) => Some(reason.clone()),
            Ok(_) => share.take(intercept).or_else(|| unique(&mut keys, intercept)),
        };
        let Some(reason) = reason else { continue };
        share.refused += 1;
        if share.refused > MOST_REFUSED_OF_NAMESPACE {
            admission.left_out.insert(intercept.token);
        } else {
            admission.refused.insert(intercept.token, reason);
        }
    }
    admission
}

fn forbidden(namespace: &str) -> String {
    format!(
        "nothing is intercepted in namespace {namespace}; intercept a pod of another one, or ask the administrator to take it \
         out of forbiddenNamespaces in the chart's values"
    )
}

/// What a namespace has taken of what it may have.
#[derive(Default)]
struct NamespaceShare {
    intercepts: usize,
    bytes: usize,
    refused: usize,
}

impl NamespaceShare {
    fn take(&mut self, intercept: &InterceptFacts) -> Option<String> {
        let bytes = self.bytes.saturating_add(intercept.bytes);
        if self.intercepts >= MOST_OF_NAMESPACE {
            return Some(format!(
                "this agent takes the {MOST_OF_NAMESPACE} oldest Intercepts of a namespace; delete some that nobody needs"
            ));
        }
        if bytes > MOST_BYTES_OF_NAMESPACE {
            return Some(format!(
                "the specs of this namespace's older Intercepts leave no room for it ({} KiB are taken together); delete some \
                 that nobody needs, or shorten their filters",
                MOST_BYTES_OF_NAMESPACE / 1024
            ));
        }
        (self.intercepts, self.bytes) = (self.intercepts + 1, bytes);
        None
    }
}

/// A tunnel shows a key, and must mean one Intercept by it: the oldest.
fn unique<'w>(keys: &mut BTreeMap<Pin, &'w InterceptFacts>, intercept: &'w InterceptFacts) -> Option<String> {
    let (_, key) = intercept.wanted.as_ref().ok()?;
    match keys.entry(*key) {
        Entry::Vacant(place) => {
            place.insert(intercept);
            None
        }
        Entry::Occupied(_) => Some(
            "an older Intercept names the same developerKey, and a key is one Intercept's alone; make it with a key of its own"
                .to_owned(),
        ),
    }
}

/// Those whose developers are told why, with the first that are refused.
pub(super) const MOST_REFUSED_OF_NAMESPACE: usize = 128;
/// An honest spec has some hundred bytes, one with a large filter a few thousand.
const MOST_BYTES_OF_NAMESPACE: usize = 256 << 10;
