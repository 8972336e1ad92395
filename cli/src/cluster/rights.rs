//! What a developer may do in a namespace, as the API server itself says it.
//!
//! Owns: which rights an intercept needs (those that the admission policies check, among others), and the questions. Must
//! not word the answers (`wording::rights`). Called by: `commands::intercept`, `commands::doctor`, `lease`.

use std::collections::BTreeSet;

use futures_util::future::try_join_all;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, ResourceRule, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SelfSubjectRulesReview,
    SelfSubjectRulesReviewSpec,
};
use kube::Api;
use kube::api::PostParams;
use redir_api::TargetKind;

use super::api_call::ApiCall;
use super::connect::Cluster;
use crate::error::CliError;
use crate::model::access::{AccessRight, INTERCEPT, InterceptableTargets, on_intercepts, on_target, to_flush};
use crate::model::values::{Target, short};
use crate::wording::rights as say;

/// Those of the rights that this user has not.
pub(crate) async fn missing(cluster: &Cluster, rights: Vec<AccessRight>) -> Result<Vec<AccessRight>, CliError> {
    let answers = try_join_all(rights.iter().map(|right| has(cluster, right))).await?;
    Ok(rights.into_iter().zip(answers).filter(|(_, has)| !has).map(|(right, _)| right).collect())
}

async fn has(cluster: &Cluster, right: &AccessRight) -> Result<bool, CliError> {
    let attributes = ResourceAttributes {
        group: Some(right.group.to_owned()),
        resource: Some(right.resource.to_owned()),
        verb: Some(right.verb.to_owned()),
        namespace: Some(cluster.namespace.clone()),
        name: right.name.clone(),
        ..ResourceAttributes::default()
    };
    let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
    let review = SelfSubjectAccessReview { spec, ..Default::default() };
    let api: Api<SelfSubjectAccessReview> = Api::all(cluster.client.clone());
    let parameters = PostParams::default();
    let answered = cluster.call(ApiCall::Reading("your rights"), api.create(&parameters, &review)).await?;
    Ok(answered.status.is_some_and(|status| status.allowed))
}

/// As whom the API server knows this user; `None` if it does not say.
pub(crate) async fn username(cluster: &Cluster) -> Option<String> {
    whoami(cluster).await.ok().filter(|name| !name.is_empty())
}

/// The same, for an Intercept's own field: empty where the server names nobody.
pub(crate) async fn whoami(cluster: &Cluster) -> Result<String, CliError> {
    let api: Api<SelfSubjectReview> = Api::all(cluster.client.clone());
    let (parameters, question) = (PostParams::default(), SelfSubjectReview::default());
    let answered = cluster.call(ApiCall::Reading("your name"), api.create(&parameters, &question)).await?;
    Ok(answered.status.and_then(|status| status.user_info?.username).unwrap_or_default())
}

/// A refused intercept's trouble in the words that help: which rights are missing, and how the admin grants those. Where
/// none is (somebody else's policy, a quota), the server's own words stay.
pub(crate) async fn explained(cluster: &Cluster, target: &Target, flushes: bool, error: CliError) -> CliError {
    if !matches!(error, CliError::Forbidden(_)) {
        return error;
    }
    let needed = on_intercepts().into_iter().chain(on_target(target));
    let needed = needed.chain(flushes.then(|| to_flush(target))).collect();
    match missing(cluster, needed).await {
        Ok(missing) if !missing.is_empty() => {
            let user = username(cluster).await;
            CliError::Forbidden(say::missing(target, &cluster.namespace, &missing, user.as_deref()))
        }
        // Not to be asked, or it is nothing that RBAC grants.
        Ok(_) | Err(_) => error,
    }
}

/// Asks for the user's rules, and where those are not all for each kind.
pub(crate) async fn interceptable(cluster: &Cluster) -> Result<InterceptableTargets, CliError> {
    let spec = SelfSubjectRulesReviewSpec { namespace: Some(cluster.namespace.clone()) };
    let question = SelfSubjectRulesReview { spec, ..Default::default() };
    let api: Api<SelfSubjectRulesReview> = Api::all(cluster.client.clone());
    let parameters = PostParams::default();
    let answered = cluster.call(ApiCall::Reading("your rights"), api.create(&parameters, &question)).await?;
    let status = answered.status.unwrap_or_default();
    let (may, reads) = (of_rules(&status.resource_rules, INTERCEPT), of_rules(&status.resource_rules, "get"));
    let mut found = may.and(&reads);
    found.is_incomplete = status.incomplete;
    if found.is_incomplete {
        let of_kind =
            |kind: TargetKind, verb| AccessRight { verb, group: kind.group(), resource: kind.plural(), name: None };
        let both = |kind: TargetKind| [of_kind(kind, "get"), of_kind(kind, INTERCEPT)];
        let missing = missing(cluster, TargetKind::ALL.into_iter().flat_map(both).collect()).await?;
        let has = |kind: &TargetKind| !both(*kind).iter().any(|right| missing.contains(right));
        found.kinds.extend(TargetKind::ALL.into_iter().filter(has));
    }
    Ok(found.without_doubles())
}

impl InterceptableTargets {
    /// What both say.
    fn and(&self, other: &Self) -> Self {
        let named = |one: &Self, other: &Self| -> BTreeSet<String> {
            let has = |name: &&String| other.named.contains(*name) || other.has_kind_of(name);
            one.named.iter().filter(has).cloned().collect()
        };
        Self {
            kinds: self.kinds.intersection(&other.kinds).copied().collect(),
            named: &named(self, other) | &named(other, self),
            is_incomplete: false,
        }
    }

    fn has_kind_of(&self, named: &str) -> bool {
        self.kinds.iter().any(|kind| named.split('/').next() == Some(short(*kind)))
    }

    /// Without the names that a kind includes.
    fn without_doubles(mut self) -> Self {
        let named = std::mem::take(&mut self.named);
        self.named = named.into_iter().filter(|named| !self.has_kind_of(named)).collect();
        self
    }
}

fn of_rules(rules: &[ResourceRule], verb: &str) -> InterceptableTargets {
    let has = |words: &[String], word: &str| words.iter().any(|one| one == word || one == "*");
    let mut found = InterceptableTargets::default();
    for rule in rules.iter().filter(|rule| has(&rule.verbs, verb)) {
        let (groups, resources) = (rule.api_groups.as_deref(), rule.resources.as_deref());
        let of = |kind: &TargetKind| {
            has(groups.unwrap_or_default(), kind.group()) && has(resources.unwrap_or_default(), kind.plural())
        };
        for kind in TargetKind::ALL.into_iter().filter(of) {
            match rule.resource_names.as_deref().unwrap_or_default() {
                [] => drop(found.kinds.insert(kind)),
                names => found.named.extend(names.iter().map(|name| format!("{}/{name}", short(kind)))),
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn asked(target: &str) -> Vec<(&'static str, String)> {
        let rights = on_target(&target.parse().unwrap());
        rights
            .into_iter()
            .map(|right| (right.verb, format!("{}/{} {:?}", right.group, right.resource, right.name)))
            .collect()
    }

    #[test]
    fn a_target_is_asked_for_as_the_policy_does() {
        let web = || "apps/deployments Some(\"web\")".to_owned();
        assert_eq!(asked("deploy/web"), [("get", web()), ("intercept", web())]);
        assert_eq!(asked("app=web"), [("intercept", "/pods None".to_owned())]);
        assert_eq!(asked("web-1")[1], ("intercept", "/pods Some(\"web-1\")".to_owned()));
        assert_eq!(asked("ro/web")[1].1, "argoproj.io/rollouts Some(\"web\")");
    }

    fn of(rules: Value) -> InterceptableTargets {
        let rules = serde_json::from_value::<Vec<ResourceRule>>(rules).unwrap();
        of_rules(&rules, INTERCEPT).and(&of_rules(&rules, "get")).without_doubles()
    }

    #[test]
    fn rules_say_what_may_be_intercepted() {
        let found = of(json!([
            {"verbs": ["get", "list"], "apiGroups": ["apps"], "resources": ["deployments", "statefulsets", "replicasets"]},
            {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["web-1"]},
            {"verbs": ["intercept"], "apiGroups": ["apps", ""], "resources": ["statefulsets", "daemonsets", "pods"]},
            {"verbs": ["intercept"], "apiGroups": ["apps"], "resources": ["deployments", "statefulsets", "daemonsets"],
             "resourceNames": ["web", "api"]},
            {"verbs": ["intercept"], "apiGroups": ["x.dev"], "resources": ["jobs"]},
            {"verbs": ["*"], "apiGroups": ["batch"], "resources": ["*"]},
        ]));
        let named = ["deploy/api", "deploy/web", "pod/web-1"].map(str::to_owned).into();
        let kinds = [TargetKind::StatefulSet, TargetKind::Job].into();
        assert_eq!(found, InterceptableTargets { kinds, named, is_incomplete: false });
        let admin = of(json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]));
        assert_eq!(admin.kinds.len(), TargetKind::ALL.len());
        assert_eq!(
            of(json!([{"verbs": ["get"], "apiGroups": ["*"], "resources": ["*"]}])),
            InterceptableTargets::default()
        );
        assert_eq!(
            of(json!([{"verbs": ["intercept"], "apiGroups": ["*"], "resources": ["*"]}])),
            InterceptableTargets::default()
        );
    }
}
