//! Intercepts and workloads as rows for people and programs.
//!
//! Owns: what of an object is shown. Must not show a filter's values: they may be secrets. Called by: `commands::cluster`.

use redir_api::filter::{ConditionSpec, FilterSpec, NamedTest};
use redir_api::{AgentStatus, Intercept};
use redir_wire::UnixMillis;

use super::viewer::Viewer;
use crate::model::rows::{InterceptPodRow, InterceptRow};
use crate::model::values::{join_labels, short};

/// The row of an Intercept.
pub(crate) fn row(intercept: &Intercept, viewer: &Viewer) -> InterceptRow {
    let spec = &intercept.spec;
    let target = match (&spec.target, &spec.selector) {
        (Some(target), _) => format!("{}/{}", short(target.kind), target.name),
        (None, Some(selector)) => join_labels(selector.match_labels.iter().flatten()),
        (None, None) => String::new(),
    };
    let agents: Vec<&AgentStatus> = intercept.status.iter().flat_map(|status| &status.agents).collect();
    let (is_own, is_of_this_login) = whose(intercept, viewer);
    let since = intercept.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_millisecond());
    let since = UnixMillis(u64::try_from(since).unwrap_or(0));
    InterceptRow {
        namespace: intercept.metadata.namespace.clone().unwrap_or_default(),
        name: intercept.metadata.name.clone().unwrap_or_default(),
        target,
        port: spec.port.clone(),
        user: spec.user.clone(),
        is_checked: viewer.names_are_checked_since.is_some_and(|checked| checked.0 <= since.0),
        from: spec.from.clone(),
        is_own,
        is_of_this_login,
        since,
        filter: spec.filter.as_ref().map(shape).unwrap_or_default(),
        to: spec.to.clone(),
        pods: agents.iter().flat_map(|agent| pods(agent)).collect(),
        reasons: agents
            .iter()
            .filter(|agent| !agent.reason.is_empty())
            .map(|agent| (agent.node.clone(), agent.reason.clone()))
            .collect(),
    }
}

/// Whether it was made here, and whether by the same person.
fn whose(intercept: &Intercept, viewer: &Viewer) -> (bool, bool) {
    let (spec, machine) = (&intercept.spec, &viewer.machine);
    let is_same_user = viewer.user.as_ref().is_none_or(|user| *user == spec.user);
    if spec.from.is_empty() {
        // An older redir wrote its machine as the user; an older resource drops where a newer redir is.
        let is_known_user = viewer.user.as_ref() == Some(&spec.user);
        return (spec.user == *machine, login(&spec.user) == login(machine) || is_known_user);
    }
    (is_same_user && spec.from == *machine, is_same_user && login(&spec.from) == login(machine))
}

/// Of `alice@laptop`.
fn login(machine: &str) -> Option<&str> {
    machine.split('@').next()
}

fn pods(agent: &AgentStatus) -> impl Iterator<Item = InterceptPodRow> {
    agent.pods.iter().map(|pod| InterceptPodRow {
        node: agent.node.clone(),
        pod: pod.name.clone(),
        addresses: pod.addresses.clone(),
        port: pod.port,
        state: pod.state,
        reason: pod.reason.clone(),
        nobody_listens: pod.nobody_listens,
    })
}

/// `header x-user and path prefix`: what is looked at, without what it is compared with.
fn shape(filter: &FilterSpec) -> String {
    let (conditions, joint) = match (&filter.all, &filter.any) {
        (Some(all), _) => (all.as_slice(), " and "),
        (None, Some(any)) => (any.as_slice(), " or "),
        (None, None) => (&[][..], ""),
    };
    conditions.iter().map(condition).collect::<Vec<_>>().join(joint)
}

fn condition(condition: &ConditionSpec) -> String {
    let named = |what: &str, test: &Option<NamedTest>| test.as_ref().map(|test| format!("{what} {}", test.name));
    let found = named("header", &condition.header)
        .or_else(|| named("query", &condition.query))
        .or_else(|| named("cookie", &condition.cookie))
        .or_else(|| named("baggage", &condition.baggage))
        .or_else(|| condition.path.as_ref().map(|_| "path".to_owned()))
        .or_else(|| condition.method.as_ref().map(|method| format!("method {method}")))
        .unwrap_or_default();
    if condition.not { format!("not {found}") } else { found }
}

#[cfg(test)]
mod tests {
    use redir_api::PodState;
    use serde_json::json;

    use super::*;

    fn intercept() -> Intercept {
        serde_json::from_value(json!({
            "apiVersion": "redir.dev/v1alpha1", "kind": "Intercept",
            "metadata": {"name": "web-x7k2p", "namespace": "shop", "creationTimestamp": "2026-11-23T19:03:04Z"},
            "spec": {
                "target": {"kind": "Deployment", "name": "web"}, "port": "http", "developerKey": "k", "user": "bob", "from": "bob@desk",
                "to": "127.0.0.1:3000",
                "filter": {"all": [{"header": {"name": "x-user", "exact": "secret"}}, {"path": {"prefix": "/secret"}, "not": true}]},
            },
            "status": {"agents": [{
                "node": "n1", "key": "k", "software": "redir-agent 0.1.0", "protocol": 1, "state": "Partial",
                "reason": "1 pod cannot be intercepted", "pods": [
                    {"name": "web-1", "uid": "1", "state": "Live", "port": 8080, "addresses": ["10.0.0.2"], "since": "2026-11-23T19:03:05Z"},
                    {"name": "web-2", "uid": "2", "state": "Refused", "reason": "it shares the host's network", "since": "2026-11-23T19:03:05Z"},
                ],
            }]},
        }))
        .unwrap()
    }

    #[test]
    fn a_row_says_everything_but_values() {
        let row = row(&intercept(), &Viewer::default());
        assert_eq!((row.target.as_str(), row.port.as_str(), row.user.as_str()), ("deploy/web", "http", "bob"));
        assert_eq!(row.filter, "header x-user and not path");
        assert!(!format!("{row:?}").contains("secret"));
        assert_eq!((row.live(), row.pods.len(), row.is_own), (1, 2, false));
        assert_eq!(row.since, UnixMillis(1_795_460_584_000));
        assert_eq!((row.pods[1].state, row.pods[1].node.as_str()), (PodState::Refused, "n1"));
        assert_eq!(row.reasons, [("n1".to_owned(), "1 pod cannot be intercepted".to_owned())]);
    }

    #[test]
    fn selectors_are_labels() {
        let mut intercept = intercept();
        intercept.spec.target = None;
        intercept.spec.selector = serde_json::from_value(json!({"matchLabels": {"app": "web"}})).unwrap();
        intercept.spec.filter = None;
        let row = row(&intercept, &Viewer::default());
        assert_eq!((row.target.as_str(), row.filter.as_str()), ("app=web", ""));
    }

    #[test]
    fn an_intercept_is_ones_own_by_the_server_s_name_and_by_the_machine() {
        let whose = |user: Option<&str>, machine: &str| {
            let viewer =
                Viewer { user: user.map(str::to_owned), machine: machine.into(), names_are_checked_since: None };
            let row = row(&intercept(), &viewer);
            (row.is_own, row.is_of_this_login)
        };
        assert_eq!(whose(Some("bob"), "bob@desk"), (true, true));
        assert_eq!(whose(Some("bob"), "bob@laptop"), (false, true));
        // Somebody else who says the same of their machine, and somebody with the same account.
        assert_eq!(whose(Some("mallory"), "bob@desk"), (false, false));
        assert_eq!(whose(Some("bob"), "alice@laptop"), (false, false));
        assert_eq!(whose(None, "bob@desk"), (true, true), "a server that names nobody");
    }

    #[test]
    fn without_a_machine_the_user_tells_whose_it_is() {
        let whose = |user: &str, viewer: Option<&str>| {
            let mut intercept = intercept();
            intercept.spec.from = String::new();
            intercept.spec.user = user.into();
            let viewer =
                Viewer { user: viewer.map(str::to_owned), machine: "bob@desk".into(), names_are_checked_since: None };
            let row = row(&intercept, &viewer);
            (row.is_own, row.is_of_this_login)
        };
        // An older redir's.
        assert_eq!(whose("bob@desk", Some("bob@example.com")), (true, true));
        assert_eq!(whose("bob@laptop", Some("bob@example.com")), (false, true));
        assert_eq!(whose("alice@desk", Some("bob@example.com")), (false, false));
        // In a cluster whose resource is older: by its name alone it may be left, and not with all that were made here.
        assert_eq!(whose("bob@example.com", Some("bob@example.com")), (false, true));
        assert_eq!(whose("admin", Some("admin")), (false, true));
        assert_eq!(whose("admin", None), (false, false));
    }

    #[test]
    fn a_name_counts_as_checked_from_the_policy_on() {
        let made = 1_795_460_584_000;
        for (since, is_checked) in [(None, false), (Some(made), true), (Some(made + 1000), false)] {
            let viewer = Viewer { names_are_checked_since: since.map(UnixMillis), ..Viewer::default() };
            assert_eq!(row(&intercept(), &viewer).is_checked, is_checked, "{since:?}");
        }
    }
}
