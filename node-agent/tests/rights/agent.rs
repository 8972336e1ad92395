//! What an agent's token is good for beside the status: each line of SECURITY.md's table of rights, and what is next to it.

use anyhow::Result;
use redir_api::names;
use serde_json::{Value, json};

use crate::{
    request::{ExpectedResult, RequestUser, WriteVerb, forbidden, invalid},
    world::{BANK, RightsCluster, SHOP, deployment, intercept, intercepts},
};
use ExpectedResult::Allowed;

const OWN_EVENTS: &str = "an agent writes Events of its own node about Intercepts and no others";

pub(crate) fn tries(world: &RightsCluster, agent: &RequestUser, unbound: &RequestUser) -> Result<Vec<String>> {
    let mut wrong = reads(world, agent)?;
    wrong.extend(writes(world, agent)?);
    wrong.extend(events(world, agent, unbound)?);
    wrong.extend(changed_events(world, agent)?);
    Ok(wrong)
}

/// The verb that it has not.
fn cannot(verb: &str) -> ExpectedResult {
    forbidden(format!("cannot {verb} resource"))
}

fn reads(world: &RightsCluster, agent: &RequestUser) -> Result<Vec<String>> {
    let shop = |rest: &str| format!("/api/v1/namespaces/{SHOP}/{rest}");
    let policies = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let sets = format!("/apis/apps/v1/namespaces/{SHOP}/replicasets");
    let absent = || ExpectedResult::Refused(404, "not found".into());
    let mut wrong = Vec::new();
    for (path, expected) in [
        ("/apis/redir.dev/v1alpha1/intercepts".to_owned(), Allowed),
        (format!("{}/seen", intercepts(SHOP)), cannot("get")),
        ("/api/v1/pods".into(), Allowed),
        (shop("pods/web-1"), cannot("get")),
        (shop("pods/web-1/log"), cannot("get")),
        ("/api/v1/services".into(), Allowed),
        (shop("services/web"), cannot("get")),
        (format!("{sets}/web"), absent()),
        (sets, cannot("list")),
        (format!("/apis/apps/v1/namespaces/{SHOP}/deployments/web"), cannot("get")),
        ("/api/v1/nodes/n1".into(), Allowed),
        ("/api/v1/nodes".into(), cannot("list")),
        ("/api/v1/namespaces".into(), cannot("list")),
        (shop("configmaps"), cannot("list")),
        (shop("secrets"), cannot("list")),
        (shop("serviceaccounts"), cannot("list")),
        (format!("/apis/events.k8s.io/v1/namespaces/{SHOP}/events"), cannot("list")),
        (format!("{slices}/kubernetes"), Allowed),
        (format!("{slices}/other"), cannot("get")),
        // As everybody: whether a name in an Intercept was checked depends on it.
        (format!("{policies}/redir-intercepts"), Allowed),
        (policies.into(), cannot("list")),
    ] {
        let answer = world.send(agent, WriteVerb::Get, &path, &Value::Null)?;
        wrong.extend(expected.judge(&format!("{}, reading {path}", agent.name()), &answer));
    }
    Ok(wrong)
}

fn writes(world: &RightsCluster, agent: &RequestUser) -> Result<Vec<String>> {
    let shop = |rest: &str| format!("/api/v1/namespaces/{SHOP}/{rest}");
    let own = |rest: &str| format!("/api/v1/namespaces/{}/{rest}", names::NAMESPACE);
    let objects = intercepts(SHOP);
    let spec = json!({"spec": {"port": "9090"}});
    let taint = json!({"spec": {"unschedulable": true}});
    let everybody =
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": SHOP}});
    let token = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let rows = [
        ("making an Intercept", WriteVerb::Post, objects.clone(), intercept("", &deployment("web")), cannot("create")),
        ("changing one", WriteVerb::MergePatch, format!("{objects}/seen"), spec, cannot("patch")),
        ("deleting all of them", WriteVerb::Delete, objects.clone(), Value::Null, cannot("deletecollection")),
        ("deleting one", WriteVerb::Delete, format!("{objects}/fresh"), Value::Null, Allowed),
        ("making a pod", WriteVerb::Post, shop("pods"), json!({}), cannot("create")),
        ("entering a pod", WriteVerb::Post, shop("pods/web-1/exec"), json!({}), cannot("create")),
        ("deleting a pod", WriteVerb::Delete, shop("pods/web-1"), Value::Null, cannot("delete")),
        ("evicting a pod", WriteVerb::Post, shop("pods/web-1/eviction"), json!({}), cannot("create")),
        ("changing its node", WriteVerb::MergePatch, "/api/v1/nodes/n1".into(), taint, cannot("patch")),
        (
            "another token",
            WriteVerb::Post,
            own(&format!("serviceaccounts/{}/token", names::AGENT)),
            token,
            cannot("create"),
        ),
        (
            "its own rights",
            WriteVerb::Post,
            "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews".into(),
            everybody,
            Allowed,
        ),
    ];
    let mut wrong = Vec::new();
    for (what, verb, path, body, expected) in rows {
        let answer = world.send(agent, verb, &path, &body)?;
        wrong.extend(expected.judge(&format!("{}, {what}", agent.name()), &answer));
    }
    Ok(wrong)
}

/// An Event as the agent of this node writes it, with some fields changed.
fn event(node: &str, changed: &Value) -> Value {
    let mut event = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"generateName": "try-"},
        "eventTime": "2026-11-30T00:00:00.000000Z", "type": "Normal", "reason": names::EVENT_REASONS[0],
        "action": "Intercept", "note": "a note",
        "reportingController": names::REPORTER, "reportingInstance": names::field_manager(node),
        "regarding": {"apiVersion": "redir.dev/v1alpha1", "kind": "Intercept", "namespace": SHOP, "name": "seen"},
    });
    if let (Some(event), Some(changed)) = (event.as_object_mut(), changed.as_object()) {
        event.extend(changed.clone());
    }
    event
}

fn events(world: &RightsCluster, agent: &RequestUser, unbound: &RequestUser) -> Result<Vec<String>> {
    let path = format!("/apis/events.k8s.io/v1/namespaces/{SHOP}/events");
    let other =
        |kind: &str, version: &str| json!({"apiVersion": version, "kind": kind, "namespace": SHOP, "name": "web"});
    let own = event("n1", &json!({}));
    let related = own["regarding"].clone();
    let refused = || forbidden(OWN_EVENTS);
    let mut rows = vec![
        (
            agent,
            "about its Deployment",
            json!({"regarding": other("Deployment", "apps/v1"), "related": related}),
            Allowed,
        ),
        (agent, "about a pod alone", json!({"regarding": other("Pod", "v1")}), refused()),
        (
            agent,
            "about another group's Intercept",
            json!({"regarding": other("Intercept", "example.com/v1")}),
            refused(),
        ),
        (agent, "in the kubelet's name", json!({"reportingController": "kubelet"}), refused()),
        (agent, "in another node's name", json!({"reportingInstance": names::field_manager("n2")}), refused()),
        (agent, "for another reason", json!({"reason": "Killing"}), refused()),
        (unbound, "with a token of no pod", json!({}), refused()),
        (&RequestUser::Admin, "about a pod", json!({"regarding": other("Pod", "v1"), "reason": "Killing"}), Allowed),
    ];
    rows.extend(names::EVENT_REASONS.map(|reason| (agent, reason, json!({"reason": reason}), Allowed)));
    let mut wrong = Vec::new();
    for (who, what, changed, expected) in rows {
        let answer = world.send(who, WriteVerb::Post, &path, &event("n1", &changed))?;
        wrong.extend(expected.judge(&format!("{}, an Event {what}", who.name()), &answer));
    }
    let core = world.send(agent, WriteVerb::Post, &format!("/api/v1/namespaces/{SHOP}/events"), &json!({}))?;
    wrong.extend(cannot("create").judge("an Event of the core group", &core));
    Ok(wrong)
}

/// One that is there already is counted up by whoever wrote it, and made its own by nobody.
fn changed_events(world: &RightsCluster, agent: &RequestUser) -> Result<Vec<String>> {
    let path = |namespace: &str| format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
    let series = json!({"series": {"count": 2, "lastObservedTime": "2026-11-30T00:00:01.000000Z"}});
    let taken = json!({"reportingController": names::REPORTER, "reportingInstance": names::field_manager("n1")});
    let kubelet = json!({"reportingController": "kubelet", "metadata": {"name": "theirs"}});
    let mut wrong = Vec::new();
    let mut row =
        |who: &RequestUser, what: &str, verb, path: String, body: &Value, expected: ExpectedResult| -> Result<()> {
            wrong.extend(expected.judge(&format!("{}, {what}", who.name()), &world.send(who, verb, &path, body)?));
            Ok(())
        };
    let named = event("n1", &json!({"metadata": {"name": "own"}}));
    row(agent, "an Event", WriteVerb::Post, path(SHOP), &named, Allowed)?;
    row(agent, "it again", WriteVerb::MergePatch, format!("{}/own", path(SHOP)), &series, Allowed)?;
    row(&RequestUser::Admin, "the kubelet's", WriteVerb::Post, path(SHOP), &event("n1", &kubelet), Allowed)?;
    let theirs = format!("{}/theirs", path(SHOP));
    row(agent, "the kubelet's again", WriteVerb::MergePatch, theirs.clone(), &series, forbidden(OWN_EVENTS))?;
    row(
        agent,
        "the kubelet's as its own",
        WriteVerb::MergePatch,
        theirs.clone(),
        &taken,
        invalid("field is immutable"),
    )?;
    row(agent, "the kubelet's deleted", WriteVerb::Delete, theirs, &Value::Null, cannot("delete"))?;
    let elsewhere = event(
        "n1",
        &json!({"regarding": {"apiVersion": "redir.dev/v1alpha1", "kind": "Intercept", "namespace": BANK, "name": "a"}}),
    );
    row(agent, "an Event of another namespace", WriteVerb::Post, path(BANK), &elsewhere, Allowed)?;
    Ok(wrong)
}
