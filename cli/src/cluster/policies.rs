//! Whether the server's admission policies are those that this release installs.
//!
//! Owns: the comparison. Must not word it. Called by: `commands::doctor`, `viewer`.

use kube::api::DynamicObject;
use redir_manifests::Options;
use redir_wire::UnixMillis;
use serde_json::Value;

use super::apply::{Manifest, manifests};
use super::connect::Cluster;
use crate::trouble::Trouble;

/// The policy on Intercepts, and its binding: whoever makes one is who it says.
const ON_INTERCEPTS: &str = "redir-intercepts";

/// The policies and bindings that are not there, or do not check all that ours do.
pub(crate) async fn missing(cluster: &Cluster) -> Result<Vec<String>, Trouble> {
    let mut missing = Vec::new();
    for manifest in policies()? {
        let found = manifest.read(cluster).await?;
        if !found.is_some_and(|found| checks_as_much(manifest.object(), &found)) {
            missing.push(manifest.spoken());
        }
    }
    Ok(missing)
}

/// Since when nobody can make an Intercept in another's name; `None`: they can, or this user may not see it.
pub(crate) async fn names_are_checked_since(cluster: &Cluster) -> Option<UnixMillis> {
    let mut since = UnixMillis(0);
    for manifest in policies().ok()?.iter().filter(|manifest| manifest.name() == ON_INTERCEPTS) {
        let found = manifest.read(cluster).await.ok()?.filter(|found| checks_as_much(manifest.object(), found))?;
        let made = found.metadata.creation_timestamp.as_ref()?.0.as_millisecond();
        since = UnixMillis(since.0.max(u64::try_from(made).ok()?));
    }
    Some(since)
}

fn policies() -> Result<Vec<Manifest>, Trouble> {
    let is_policy = |manifest: &Manifest| manifest.kind().starts_with("ValidatingAdmissionPolicy");
    Ok(manifests(&Options::default())?.into_iter().filter(is_policy).collect())
}

/// A policy has all of our validations, a binding denies: an older release's does not, and one that somebody has changed.
fn checks_as_much(ours: &Value, found: &DynamicObject) -> bool {
    let found = &found.data["spec"];
    let expressions = |spec: &Value| -> Vec<Value> {
        spec["validations"].as_array().into_iter().flatten().map(|one| one["expression"].clone()).collect()
    };
    let theirs = expressions(found);
    let denies = |spec: &Value| spec["validationActions"].as_array().is_some_and(|all| all.contains(&"Deny".into()));
    expressions(&ours["spec"]).iter().all(|expression| theirs.contains(expression))
        && denies(found) == denies(&ours["spec"])
        && found["policyName"] == ours["spec"]["policyName"]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(spec: &Value) -> DynamicObject {
        serde_json::from_value(json!({"apiVersion": "v1", "kind": "A", "metadata": {"name": "a"}, "spec": spec}))
            .unwrap()
    }

    #[test]
    fn a_policy_that_checks_less_is_none_of_ours() {
        let ours = json!({"spec": {"validations": [{"expression": "a"}, {"expression": "b"}]}});
        let expressions = |all: &[&str]| {
            let all: Vec<Value> = all.iter().map(|one| json!({"expression": one, "message": "m"})).collect();
            of(&json!({"validations": all, "failurePolicy": "Fail"}))
        };
        assert!(checks_as_much(&ours, &expressions(&["b", "c", "a"])));
        assert!(!checks_as_much(&ours, &expressions(&["a"])) && !checks_as_much(&ours, &of(&json!({}))));
    }

    #[test]
    fn a_binding_that_only_warns_is_none_of_ours() {
        let ours = json!({"spec": {"policyName": "a", "validationActions": ["Deny"]}});
        let binding = |name: &str, actions: Value| of(&json!({"policyName": name, "validationActions": actions}));
        assert!(checks_as_much(&ours, &binding("a", json!(["Deny", "Audit"]))));
        assert!(!checks_as_much(&ours, &binding("a", json!(["Warn"]))));
        assert!(!checks_as_much(&ours, &binding("b", json!(["Deny"]))));
    }
}
