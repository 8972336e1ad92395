//! Who made what is installed.
//!
//! Owns: the marks that tell it. Must not ask a server. Called by: `commands::install`, `commands::uninstall`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use redir_api::names;
use serde_json::{Value, json};

use crate::model::installation::{HelmRelease, PodSecurityLevel};

/// Carried by everything that redir installs, whoever applies it: Helm, kubectl or `redir`.
const PART_OF: &str = "app.kubernetes.io/part-of";
const REDIR: &str = "redir";
/// What makes an object Helm's own: it refuses to touch those without.
const HELM_RELEASE: &str = "meta.helm.sh/release-name";
const HELM_NAMESPACE: &str = "meta.helm.sh/release-namespace";
/// The level that pods are refused by.
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";
/// The one that admits an agent.
const PRIVILEGED: &str = "privileged";

/// The release that an object belongs to.
pub(crate) fn helm_release(object: &ObjectMeta) -> Option<HelmRelease> {
    let annotations = object.annotations.as_ref()?;
    let name = annotations.get(HELM_RELEASE)?.clone();
    let namespace = annotations.get(HELM_NAMESPACE).cloned().unwrap_or_default();
    Some(HelmRelease { name, namespace })
}

/// Whether an object of a name that redir uses is redir's.
pub(crate) fn is_part_of_redir(object: &ObjectMeta) -> bool {
    object.labels.as_ref().and_then(|labels| labels.get(PART_OF)).is_some_and(|part| part == REDIR)
}

/// Whether `redir install` has created this very namespace. A label would not tell: whoever applies the manifests sets it.
pub(crate) fn is_created_by_redir(namespace: &ObjectMeta) -> bool {
    let mark = namespace.annotations.as_ref().and_then(|annotations| annotations.get(names::CREATED));
    mark.is_some() && mark == namespace.uid.as_ref()
}

/// Marks a namespace that was created just now.
pub(crate) fn created_mark(uid: &str) -> Value {
    json!({"metadata": {"annotations": {names::CREATED: uid}}})
}

/// Why an agent may not be admitted; `None`: it is.
pub(crate) fn strict_level(namespace: &ObjectMeta) -> Option<PodSecurityLevel> {
    let level = namespace.labels.as_ref().and_then(|labels| labels.get(ENFORCE));
    (level.is_none_or(|level| level != PRIVILEGED)).then(|| PodSecurityLevel(level.cloned()))
}

/// Lets agents in, and remembers what was there.
pub(crate) fn let_agents_in(before: &PodSecurityLevel) -> Value {
    let remembered = before.0.clone().unwrap_or_default();
    json!({"metadata": {"labels": {ENFORCE: PRIVILEGED}, "annotations": {names::ENFORCED_BEFORE: remembered}}})
}

/// Puts back what was enforced before redir came, unless somebody has changed it since; with the level for people.
pub(crate) fn put_level_back(namespace: &ObjectMeta) -> Option<(Value, PodSecurityLevel)> {
    let before = namespace.annotations.as_ref()?.get(names::ENFORCED_BEFORE)?;
    let before = Some(before.clone()).filter(|level| !level.is_empty());
    let patch = json!({"metadata": {"labels": {ENFORCE: before}, "annotations": {names::ENFORCED_BEFORE: null}}});
    strict_level(namespace).is_none().then_some((patch, PodSecurityLevel(before)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(value: Value) -> ObjectMeta {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_namespace_is_ours_by_its_own_uid_alone() {
        let of = |uid: &str, mark: &str| {
            let labels = json!({PART_OF: REDIR, ENFORCE: PRIVILEGED});
            is_created_by_redir(&meta(json!({"uid": uid, "labels": labels, "annotations": {names::CREATED: mark}})))
        };
        assert!(of("1", "1"));
        assert!(!of("2", "1"), "a copy of the annotation");
        assert!(!is_created_by_redir(&meta(json!({"uid": "1", "labels": {PART_OF: REDIR}}))), "an older release's");
        assert!(!is_created_by_redir(&meta(json!({}))));
    }

    #[test]
    fn the_level_from_before_is_put_back_if_ours_is_still_there() {
        let plain = |labels: Value| meta(json!({"labels": labels}));
        assert_eq!(strict_level(&plain(json!({ENFORCE: "baseline"}))), Some(PodSecurityLevel(Some("baseline".into()))));
        assert_eq!(
            strict_level(&plain(json!({}))),
            Some(PodSecurityLevel(None)),
            "the server's own default may be strict"
        );
        assert_eq!(strict_level(&plain(json!({ENFORCE: PRIVILEGED}))), None);
        let patch = let_agents_in(&PodSecurityLevel(Some("baseline".into())));
        assert_eq!(patch["metadata"]["labels"][ENFORCE], PRIVILEGED);
        assert_eq!(patch["metadata"]["annotations"][names::ENFORCED_BEFORE], "baseline");
        let back = |level: &str, before: &str| {
            let annotations = json!({names::ENFORCED_BEFORE: before});
            let found = put_level_back(&meta(json!({"labels": {ENFORCE: level}, "annotations": annotations})));
            found.map(|(patch, _)| patch["metadata"]["labels"][ENFORCE].clone())
        };
        assert_eq!(back(PRIVILEGED, "baseline"), Some(json!("baseline")));
        assert_eq!(back(PRIVILEGED, ""), Some(Value::Null), "there was no label");
        assert_eq!(back("restricted", "baseline"), None, "somebody has changed it since");
        assert_eq!(put_level_back(&plain(json!({ENFORCE: PRIVILEGED}))), None);
    }

    #[test]
    fn helm_s_objects_name_their_release() {
        let annotations = json!({HELM_RELEASE: "traffic", HELM_NAMESPACE: "ops"});
        let release = HelmRelease { name: "traffic".into(), namespace: "ops".into() };
        assert_eq!(helm_release(&meta(json!({"annotations": annotations}))), Some(release));
        assert_eq!(helm_release(&meta(json!({"annotations": {}}))), None);
    }
}
