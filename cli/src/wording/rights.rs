//! What `redir` says of rights: which one on which object is missing, and the line with which the admin grants that one.

use redir_api::{TargetKind, names};

use crate::escape::escape;
use crate::model::access::{AccessRight, InterceptableTargets, by_object};
use crate::model::values::{Target, short};

/// The rights without which a target is not intercepted; at least one.
pub(crate) fn missing(target: &Target, namespace: &str, missing: &[AccessRight], user: Option<&str>) -> String {
    let flush = missing.iter().all(AccessRight::is_flush).then_some("leave --flush or the conditions out, or ");
    format!(
        "you may not {} in namespace {} ({}): {}ask the cluster's admin for `{}`",
        escape(deeds(target, missing)),
        escape(namespace),
        escape(spelled(missing)),
        flush.unwrap_or_default(),
        escape(grant(namespace, missing, user))
    )
}

/// Those on Intercepts alone, where no target is named.
pub(crate) fn missing_on_intercepts(namespace: &str, missing: &[AccessRight], user: Option<&str>) -> String {
    let verbs: Vec<&str> = missing.iter().map(|right| right.verb).collect();
    format!(
        "you may not {} intercepts in namespace {}: ask the cluster's admin for `{}`",
        verbs.join(", "),
        escape(namespace),
        escape(grant(namespace, missing, user))
    )
}

/// `intercept deploy/web`
fn deeds(target: &Target, missing: &[AccessRight]) -> String {
    let target = match target {
        Target::Labels(_) => "pods by their labels".to_owned(),
        Target::Pod(name) => format!("{}/{name}", short(TargetKind::Pod)),
        workload @ Target::Workload(..) => workload.to_string(),
    };
    let own: Vec<&str> = missing.iter().filter(|right| right.is_on_intercepts()).map(|right| right.verb).collect();
    let own = (!own.is_empty()).then(|| format!("{} intercepts", own.join(", ")));
    let rest = missing.iter().filter(|right| !right.is_on_intercepts()).map(|right| match right.is_flush() {
        true => format!("close other people's connections to {target} (--flush beside conditions)"),
        false => format!("{} {target}", right.verb),
    });
    own.into_iter().chain(rest).collect::<Vec<_>>().join(" and not ")
}

/// `it needs the verbs get and intercept on deployments.apps/web`
fn spelled(missing: &[AccessRight]) -> String {
    let objects = by_object(missing).into_iter().map(|((group, resource, name), verbs)| {
        let word = if verbs.len() == 1 { "verb" } else { "verbs" };
        let name = name.map(|name| format!("/{name}")).unwrap_or_default();
        format!("the {word} {} on {}{name}", verbs.join(", "), full(group, resource))
    });
    format!("it needs {}", objects.collect::<Vec<_>>().join(" and "))
}

/// `deployments.apps`, as kubectl takes it.
fn full(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

/// Whoever has no right on Intercepts at all is no developer in that namespace yet: the role is made for that. Else just
/// what is missing, in roles of its own.
fn grant(namespace: &str, missing: &[AccessRight], user: Option<&str>) -> String {
    let user = user.unwrap_or("YOU");
    let kubectl = format!("kubectl -n {namespace} create");
    let own = missing.iter().filter(|right| right.is_on_intercepts()).count();
    let is_newcomer = own == crate::model::access::on_intercepts().len();
    let mut lines = Vec::new();
    if is_newcomer {
        let binding = name(&[names::DEVELOPER_ROLE, user]);
        lines.push(format!(
            "{kubectl} rolebinding {binding} --clusterrole={} {}",
            names::DEVELOPER_ROLE,
            subject(user)
        ));
    }
    // All that the role has not.
    let rest: Vec<AccessRight> = missing.iter().filter(|right| !is_newcomer || right.is_flush()).cloned().collect();
    for ((group, resource, object), verbs) in by_object(&rest) {
        let role = name(&["redir", &verbs.join("-"), resource, object.unwrap_or_default(), user]);
        let object = object.map(|object| format!(" --resource-name={object}")).unwrap_or_default();
        let (verbs, resource) = (verbs.join(","), full(group, resource));
        lines.push(format!("{kubectl} role {role} --verb={verbs} --resource={resource}{object}"));
        lines.push(format!("{kubectl} rolebinding {role} --role={role} {}", subject(user)));
    }
    lines.join(" && ")
}

/// `redir-intercept-deployments-web-alice`: of letters that need no quotes.
fn name(parts: &[&str]) -> String {
    let inside = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c.to_ascii_lowercase() } else { '-' };
    let parts: Vec<String> = parts.iter().map(|part| part.chars().map(inside).collect()).collect();
    let parts = parts.iter().map(|part| part.trim_matches('-')).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("-")
}

/// The user, as a shell takes it.
fn subject(user: &str) -> String {
    if let Some((namespace, account)) =
        user.strip_prefix("system:serviceaccount:").and_then(|account| account.split_once(':'))
    {
        return format!("--serviceaccount={namespace}:{account}");
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._:@/+-".contains(c);
    match !user.is_empty() && user.chars().all(is_plain) {
        true => format!("--user={user}"),
        false => format!("--user='{}'", user.replace('\'', r"'\''")),
    }
}

pub(crate) fn may(target: &Target, namespace: &str) -> String {
    format!("you may intercept {} in namespace {}", escape(target.to_string()), escape(namespace))
}

pub(crate) fn may_flush(target: &Target) -> String {
    format!("you may close connections to {} beside conditions (--flush)", escape(target.to_string()))
}

/// What may be intercepted, where no target is named; `None`: nothing that is known.
pub(crate) fn interceptable(namespace: &str, found: &InterceptableTargets) -> Option<String> {
    let everything = found.kinds.len() == TargetKind::ALL.len();
    let kinds = found.kinds.iter().map(|kind| format!("every {}", kind.as_str()));
    let mut parts: Vec<String> = if everything { vec!["everything".to_owned()] } else { kinds.collect() };
    parts.extend(found.named.iter().take(NAMES).map(escape));
    if found.named.len() > NAMES {
        parts.push(format!("{} more", found.named.len() - NAMES));
    }
    let more = if found.is_incomplete && !everything { "; of others ask with `redir doctor TARGET`" } else { "" };
    let listed = parts.join(", ");
    (!parts.is_empty()).then(|| format!("you may intercept {listed} in namespace {}{more}", escape(namespace)))
}

/// Whoever may make Intercepts, and intercept nothing.
pub(crate) fn nothing(namespace: &str, user: Option<&str>) -> String {
    let user = user.unwrap_or("YOU");
    format!(
        "you may intercept nothing in namespace {}, which needs the verbs get and intercept on a target: `redir doctor TARGET` \
         says how the admin grants one target, or ask for all of them with `{}`",
        escape(namespace),
        escape(format!(
            "kubectl -n {namespace} create rolebinding {} --clusterrole={} {}",
            name(&[names::DEVELOPER_ROLE, user]),
            names::DEVELOPER_ROLE,
            subject(user)
        ))
    )
}

/// The server does not list all rules, and none of those that it does is one.
pub(crate) fn unknown(namespace: &str) -> String {
    format!(
        "this server does not list what you may intercept in namespace {}: ask for one with `redir doctor TARGET`",
        escape(namespace)
    )
}

/// Names that a sentence lists.
const NAMES: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::access::{on_intercepts, on_target, to_flush};

    fn target(text: &str) -> Target {
        text.parse().unwrap()
    }

    #[test]
    fn one_missing_right_is_told_and_granted_by_itself() {
        let target = target("deploy/web");
        let rights = vec![on_target(&target).remove(1)];
        assert_eq!(
            missing(&target, "shop", &rights, Some("dave")),
            "you may not intercept deploy/web in namespace shop (it needs the verb intercept on deployments.apps/web): ask the \
             cluster's admin for `kubectl -n shop create role redir-intercept-deployments-web-dave --verb=intercept \
             --resource=deployments.apps --resource-name=web && kubectl -n shop create rolebinding \
             redir-intercept-deployments-web-dave --role=redir-intercept-deployments-web-dave --user=dave`"
        );
        let both = missing(&target, "shop", &on_target(&target), Some("dave"));
        assert!(both.contains("not get deploy/web and not intercept deploy/web"), "{both}");
        assert!(both.contains("the verbs get, intercept on") && both.contains("--verb=get,intercept "), "{both}");
        assert!(!both.contains("redir-developer"), "{both}");
    }

    #[test]
    fn flush_can_be_left_out() {
        let target = target("web-1");
        let told = missing(&target, "shop", &[to_flush(&target)], None);
        assert!(
            told.contains("close other people's connections to pod/web-1") && told.contains("leave --flush"),
            "{told}"
        );
        assert!(told.contains("--verb=flush --resource=pods --resource-name=web-1 &&"), "{told}");
        assert!(told.ends_with("--user=YOU`"), "{told}");
    }

    #[test]
    fn a_newcomer_is_given_the_role_and_what_it_has_not() {
        let target = target("app=web");
        let mut rights = on_intercepts();
        rights.extend(on_target(&target));
        let told = missing(&target, "shop", &rights, Some("alice"));
        let whole =
            "`kubectl -n shop create rolebinding redir-developer-alice --clusterrole=redir-developer --user=alice`";
        assert!(told.ends_with(whole) && told.contains("not intercept pods by their labels"), "{told}");
        rights.push(to_flush(&target));
        let told = missing(&target, "shop", &rights, Some("alice"));
        assert!(told.contains("--clusterrole=redir-developer --user=alice && kubectl -n shop create role redir-flush-pods-alice --verb=flush --resource=pods &&"), "{told}");
        // Whoever may do some of it has a role that somebody narrowed.
        let told = missing(&target, "shop", &on_intercepts()[..1], Some("alice"));
        assert!(told.contains("--verb=create --resource=intercepts.redir.dev &&"), "{told}");
    }

    #[test]
    fn users_are_what_a_shell_takes() {
        assert_eq!(subject("oidc:alice@example.com"), "--user=oidc:alice@example.com");
        assert_eq!(subject("Al O'Hara; rm"), r"--user='Al O'\''Hara; rm'");
        assert_eq!(subject("system:serviceaccount:ci:build"), "--serviceaccount=ci:build");
        assert_eq!(name(&["redir", "oidc:Alice@example.com"]), "redir-oidc-alice-example.com");
    }

    #[test]
    fn without_a_target_the_rules_are_told() {
        let mut found = InterceptableTargets::default();
        assert_eq!(interceptable("shop", &found), None);
        found.kinds.insert(TargetKind::Job);
        found.named.insert("deploy/web".to_owned());
        assert_eq!(interceptable("shop", &found).unwrap(), "you may intercept every Job, deploy/web in namespace shop");
        found.is_incomplete = true;
        assert!(interceptable("shop", &found).unwrap().ends_with("`redir doctor TARGET`"));
        found.kinds.extend(TargetKind::ALL);
        found.named.clear();
        assert_eq!(interceptable("shop", &found).unwrap(), "you may intercept everything in namespace shop");
        assert!(nothing("shop", Some("carol")).ends_with("--clusterrole=redir-developer --user=carol`"));
    }
}
