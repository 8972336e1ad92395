//! Whether the server's admission policies are those that this release installs.
//!
//! Owns: the comparison. Must not word it. Called by: `commands::doctor`, `viewer`.

use kube::api::DynamicObject;
use redir_manifests::Options;
use redir_wire::UnixMillis;
use serde_json::Value;

use super::apply::{Manifest, manifests};
use super::connect::Cluster;
use crate::error::CliError;

/// The policy on Intercepts, and its binding: whoever makes one is who it says.
const ON_INTERCEPTS: &str = "redir-intercepts";

/// The policies and bindings that are not there, or do not check all that ours do.
pub(crate) async fn missing(cluster: &Cluster) -> Result<Vec<String>, CliError> {
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
        since = UnixMillis(since.0.max(changed(&found)?.0));
    }
    Some(since)
}

/// When it was last written, by the server's account: before, it may have checked less.
fn changed(found: &DynamicObject) -> Option<UnixMillis> {
    let metadata = &found.metadata;
    let writes = metadata.managed_fields.iter().flatten().filter_map(|fields| fields.time.as_ref());
    // A time has whole seconds, and what was made in the same one may have been made before.
    let last = metadata.creation_timestamp.iter().chain(writes).map(|time| time.0.as_millisecond()).max()?;
    u64::try_from(last).ok().map(|last| UnixMillis(last + 999))
}

fn policies() -> Result<Vec<Manifest>, CliError> {
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
    fn what_was_changed_in_place_counts_from_then_on() {
        let since = |metadata: Value| changed(&serde_json::from_value(json!({"metadata": metadata})).unwrap());
        let made = "2026-11-23T19:03:04Z";
        let writes =
            |times: &[&str]| -> Value { times.iter().map(|time| json!({"manager": "m", "time": time})).collect() };
        assert_eq!(since(json!({})), None);
        assert_eq!(since(json!({"creationTimestamp": made})), Some(UnixMillis(1_795_460_584_999)));
        for times in
            [["2026-11-23T19:03:04Z", "2026-11-23T19:04:04Z"], ["2026-11-23T19:04:04Z", "2026-11-23T19:03:14Z"]]
        {
            let changed = since(json!({"creationTimestamp": made, "managedFields": writes(&times)}));
            assert_eq!(changed, Some(UnixMillis(1_795_460_644_999)), "{times:?}");
        }
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
