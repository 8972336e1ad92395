//! Who may intercept what: every kind, selectors, names, and every way in which an object can be written.

use anyhow::Result;
use redir_api::TargetKind;
use serde_json::{Value, json};

use crate::{
    request::{ExpectedResult, RequestUser, WriteVerb, forbidden, invalid},
    world::{
        ALICE, BANK, BOB, CAROL, DAVE, EDITOR, ERIN, FRANK, GRACE, MALLORY, NORA, OWNER, RightsCluster, SHOP,
        deployment, intercept, intercepts, target,
    },
};
use ExpectedResult::Allowed;

/// Who, what they try (for people), how, where behind the namespace's Intercepts, with what, and how it ends.
type InterceptAttempt = (RequestUser, String, WriteVerb, String, Value, ExpectedResult);

const CREATE: &str = r#"cannot create resource "intercepts""#;
const CHANGED: &str = "an Intercept is never changed";
const FLUSH: &str = "needs the verb flush on the target";

pub(crate) fn tries(world: &RightsCluster) -> Result<Vec<String>> {
    let mut rows = kinds();
    rows.extend(selectors());
    rows.extend(ways());
    rows.extend(flushes());
    let mut wrong = play(world, rows)?;
    wrong.extend(changes(world)?);
    wrong.extend(elsewhere(world)?);
    wrong.extend(without_the_rule(world)?);
    Ok(wrong)
}

fn play(world: &RightsCluster, rows: Vec<InterceptAttempt>) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for (who, what, verb, behind, body, expected) in rows {
        let answer = world.send(&who, verb, &format!("{}{behind}", intercepts(SHOP)), &body)?;
        wrong.extend(expected.judge(&format!("{}, {what}", who.name()), &answer));
    }
    Ok(wrong)
}

fn create(who: RequestUser, what: impl Into<String>, spec: &Value, expected: ExpectedResult) -> InterceptAttempt {
    (who, what.into(), WriteVerb::Post, String::new(), intercept("", spec), expected)
}

fn denied(kind: TargetKind, name: &str) -> ExpectedResult {
    forbidden(format!(
        "you may not intercept {}/{name} in namespace {SHOP}: it needs the verb intercept",
        kind.plural()
    ))
}

fn kinds() -> Vec<InterceptAttempt> {
    let mut rows = Vec::new();
    for kind in TargetKind::ALL {
        let what = |name: &str| format!("{} {name}", kind.as_str());
        let mut row = |who, name: &str, expected| rows.push(create(who, what(name), &target(kind, name), expected));
        row(ALICE, "web", Allowed);
        row(BOB, "web", forbidden(CREATE));
        row(MALLORY, "web", forbidden(CREATE));
        row(CAROL, "web", denied(kind, "web"));
        row(DAVE, "web", Allowed);
        row(DAVE, "other", denied(kind, "other"));
        row(RequestUser::Admin, "web", Allowed);
        match kind {
            TargetKind::Pod => row(FRANK, "web", Allowed),
            _ => row(FRANK, "web", denied(kind, "web")),
        }
    }
    rows.push(create(EDITOR, "Deployment web", &deployment("web"), forbidden(CREATE)));
    rows.push(create(OWNER, "Deployment web", &deployment("web"), forbidden(CREATE)));
    rows
}

fn selectors() -> Vec<InterceptAttempt> {
    let labels = json!({"selector": {"matchLabels": {"app": "web"}}});
    let expression =
        json!({"selector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["web", "other"]}]}});
    let by_selector = || forbidden(format!("you may not intercept pods by a selector in namespace {SHOP}"));
    vec![
        create(ALICE, "labels", &labels, Allowed),
        create(ALICE, "an expression", &expression, Allowed),
        create(FRANK, "labels", &labels, Allowed),
        create(FRANK, "an expression", &expression, Allowed),
        create(CAROL, "labels", &labels, by_selector()),
        // A selector may come to mean any pod: the right on one by its name is not enough.
        create(DAVE, "labels", &labels, by_selector()),
        create(DAVE, "an expression", &expression, by_selector()),
        create(BOB, "labels", &labels, forbidden(CREATE)),
    ]
}

/// Every way of making an object.
fn ways() -> Vec<InterceptAttempt> {
    let web = deployment("web");
    let web_denied = || denied(TargetKind::Deployment, "web");
    let at = |who: RequestUser, what: &str, verb, behind: &str, name: &str, expected| {
        (who, what.to_owned(), verb, behind.to_owned(), intercept(name, &web), expected)
    };
    let apply = "?fieldManager=try&force=true";
    vec![
        at(ALICE, "a name of her own", WriteVerb::Post, "", "own", Allowed),
        at(CAROL, "a name of her own", WriteVerb::Post, "", "own-2", web_denied()),
        at(ALICE, "a dry run", WriteVerb::Post, "?dryRun=All", "dry", Allowed),
        (
            ALICE,
            "what was only tried is not there".into(),
            WriteVerb::Get,
            "/dry".into(),
            Value::Null,
            ExpectedResult::Refused(404, "not found".into()),
        ),
        at(CAROL, "a dry run", WriteVerb::Post, "?dryRun=All", "dry", web_denied()),
        at(DAVE, "server-side apply", WriteVerb::Apply, &format!("/applied{apply}"), "applied", Allowed),
        at(CAROL, "server-side apply", WriteVerb::Apply, &format!("/applied-2{apply}"), "applied-2", web_denied()),
        at(
            CAROL,
            "server-side apply, dry",
            WriteVerb::Apply,
            &format!("/applied-2{apply}&dryRun=All"),
            "applied-2",
            web_denied(),
        ),
        at(
            NORA,
            "server-side apply without create",
            WriteVerb::Apply,
            &format!("/applied-3{apply}"),
            "applied-3",
            forbidden(CREATE),
        ),
        at(
            DAVE,
            "PUT of what is not there",
            WriteVerb::Put,
            "/put",
            "put",
            ExpectedResult::Refused(404, "not found".into()),
        ),
        at(
            CAROL,
            "PUT of what is not there",
            WriteVerb::Put,
            "/put",
            "put",
            ExpectedResult::Refused(404, "not found".into()),
        ),
        at(ALICE, "PUT", WriteVerb::Put, "/own", "own", forbidden(r#"cannot update resource "intercepts""#)),
    ]
}

fn flushes() -> Vec<InterceptAttempt> {
    let with = |spec: &Value, flush: &Value, filter: Option<Value>| {
        let mut spec = spec.clone();
        spec["flush"] = flush.clone();
        if let Some(filter) = filter {
            spec["filter"] = filter;
        }
        spec
    };
    let filter = || Some(json!({"all": [{"header": {"name": "x-user", "exact": "alice"}}]}));
    let mut rows = Vec::new();
    for kind in TargetKind::ALL {
        let (web, other) = (target(kind, "web"), target(kind, "other"));
        let what = |text: &str| format!("{} {text}", kind.as_str());
        let yes = json!(true);
        rows.push(create(ALICE, what("flush beside a filter"), &with(&web, &yes, filter()), forbidden(FLUSH)));
        rows.push(create(ERIN, what("flush beside a filter"), &with(&web, &yes, filter()), Allowed));
        rows.push(create(ERIN, what("of another name"), &with(&other, &yes, filter()), denied(kind, "other")));
        rows.push(create(ALICE, what("flush, everything"), &with(&web, &yes, None), Allowed));
        rows.push(create(CAROL, what("flush, everything"), &with(&web, &yes, None), denied(kind, "web")));
    }
    let web = deployment("web");
    let pods = json!({"selector": {"matchLabels": {"app": "web"}}});
    rows.extend([
        create(ALICE, "flush: false beside a filter", &with(&web, &json!(false), filter()), Allowed),
        create(ALICE, "a filter alone", &with(&web, &json!(false), filter()), Allowed),
        create(DAVE, "flush with no filter, written out", &with(&web, &json!(true), Some(Value::Null)), Allowed),
        create(FRANK, "a selector, flush", &with(&pods, &json!(true), None), Allowed),
        create(FRANK, "a selector, flush beside a filter", &with(&pods, &json!(true), filter()), forbidden(FLUSH)),
        create(GRACE, "a selector, flush beside a filter", &with(&pods, &json!(true), filter()), Allowed),
        create(RequestUser::Admin, "flush beside a filter", &with(&web, &json!(true), filter()), Allowed),
        create(
            ALICE,
            "flush: yes",
            &with(&web, &json!("yes"), filter()),
            ExpectedResult::Refused(422, "must be of type boolean".into()),
        ),
    ]);
    rows
}

/// A spec never changes, whoever writes; what else there is may.
fn changes(world: &RightsCluster) -> Result<Vec<String>> {
    let spec = json!({"target": {"kind": "Deployment", "name": "web"},
                      "filter": {"all": [{"header": {"name": "x-user", "exact": "alice"}}]}});
    let made = world.send(&DAVE, WriteVerb::Post, &intercepts(SHOP), &intercept("mine", &spec))?;
    let mut wrong: Vec<String> = Allowed.judge("dave, an Intercept with a filter", &made).into_iter().collect();
    let whole = || -> Result<Value> {
        Ok(world.send(&DAVE, WriteVerb::Get, &format!("{}/mine", intercepts(SHOP)), &Value::Null)?.body)
    };
    let mut other_port = whole()?;
    other_port["spec"]["port"] = json!("9090");
    let mut relabelled = whole()?;
    relabelled["metadata"]["labels"] = json!({"team": "shop"});
    // What the server fills in may be left out.
    relabelled["spec"].as_object_mut().map(|spec| spec.remove("probes"));
    let merge = |what: &str, patch: Value, expected| {
        (DAVE, what.to_owned(), WriteVerb::MergePatch, "/mine".to_owned(), patch, expected)
    };
    let json_patch = |what: &str, patch: Value| {
        (DAVE, what.to_owned(), WriteVerb::JsonPatch, "/mine".to_owned(), json!([patch]), invalid(CHANGED))
    };
    let applied = || "/mine?fieldManager=other&force=true".to_owned();
    let renewed = json!({"metadata": {"annotations": {"redir.dev/renewed": "2026-11-30T00:00:00Z"}}});
    let rows: Vec<InterceptAttempt> = vec![
        (DAVE, "PUT with another port".into(), WriteVerb::Put, "/mine".into(), other_port, invalid(CHANGED)),
        (DAVE, "PUT with a label, the spec the same".into(), WriteVerb::Put, "/mine".into(), relabelled, Allowed),
        merge("another port", json!({"spec": {"port": "9090"}}), invalid(CHANGED)),
        merge("no filter any more", json!({"spec": {"filter": null}}), invalid(CHANGED)),
        merge("flush", json!({"spec": {"flush": true}}), invalid(CHANGED)),
        merge("another target", json!({"spec": {"target": {"name": "other"}}}), invalid(CHANGED)),
        merge(
            "a selector instead",
            json!({"spec": {"target": null, "selector": {"matchLabels": {"app": "web"}}}}),
            invalid(CHANGED),
        ),
        merge(
            "another developer's key",
            json!({"spec": {"developerKey": format!("sha256:{}", "A".repeat(43))}}),
            invalid(CHANGED),
        ),
        merge("another user", json!({"spec": {"user": "alice"}}), invalid(CHANGED)),
        merge("no user", json!({"spec": {"user": null}}), invalid(CHANGED)),
        merge("another machine", json!({"spec": {"from": "dave@desk"}}), invalid(CHANGED)),
        merge("no spec", json!({"spec": null}), invalid("spec")),
        merge("the same spec", json!({"spec": {"port": "http"}}), Allowed),
        merge("renewing", renewed.clone(), Allowed),
        json_patch("JSON patch of the target", json!({"op": "replace", "path": "/spec/target/name", "value": "other"})),
        json_patch("JSON patch of the filter", json!({"op": "remove", "path": "/spec/filter"})),
        (
            DAVE,
            "apply with another port".into(),
            WriteVerb::Apply,
            applied(),
            intercept("mine", &json!({"target": spec["target"], "port": "9090"})),
            invalid(CHANGED),
        ),
        (DAVE, "apply, the spec the same".into(), WriteVerb::Apply, applied(), intercept("mine", &spec), Allowed),
        (
            DAVE,
            "a dry run of another port".into(),
            WriteVerb::MergePatch,
            "/mine?dryRun=All".into(),
            json!({"spec": {"port": "9090"}}),
            invalid(CHANGED),
        ),
        (ALICE, "renewing".into(), WriteVerb::MergePatch, "/mine".into(), renewed.clone(), Allowed),
        (
            ALICE,
            "another port".into(),
            WriteVerb::MergePatch,
            "/mine".into(),
            json!({"spec": {"port": "9090"}}),
            invalid(CHANGED),
        ),
        (BOB, "renewing".into(), WriteVerb::MergePatch, "/mine".into(), renewed, forbidden("cannot patch resource")),
        (
            RequestUser::Admin,
            "another port".into(),
            WriteVerb::MergePatch,
            "/mine".into(),
            json!({"spec": {"port": "9090"}}),
            invalid(CHANGED),
        ),
    ];
    wrong.extend(play(world, rows)?);
    let after = whole()?;
    if after["metadata"]["generation"] != 1 || after["spec"]["filter"] != spec["filter"] {
        wrong.push(format!("the spec was changed by one of them: {after}"));
    }
    Ok(wrong)
}

/// One namespace's right is no other's, and what is not an Intercept is not the policies' business.
fn elsewhere(world: &RightsCluster) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    let mut row =
        |who: &RequestUser, what: &str, verb, path: &str, body: &Value, expected: ExpectedResult| -> Result<()> {
            let answer = world.send(who, verb, path, body)?;
            wrong.extend(expected.judge(&format!("{}, {what}", who.name()), &answer));
            Ok(())
        };
    let object = intercept("", &deployment("web"));
    row(&ALICE, "in another namespace", WriteVerb::Post, &intercepts(BANK), &object, forbidden(CREATE))?;
    row(&DAVE, "in another namespace", WriteVerb::Post, &intercepts(BANK), &object, forbidden(CREATE))?;
    row(&BOB, "in his own namespace", WriteVerb::Post, &intercepts(BANK), &object, Allowed)?;
    let mut elsewhere = object.clone();
    elsewhere["metadata"]["namespace"] = json!(SHOP);
    let mismatch = ExpectedResult::Refused(400, "does not match the namespace".into());
    row(&BOB, "another namespace inside the object", WriteVerb::Post, &intercepts(BANK), &elsewhere, mismatch)?;
    let everywhere = "/apis/redir.dev/v1alpha1/intercepts";
    row(&ALICE, "reading those of all namespaces", WriteVerb::Get, everywhere, &Value::Null, forbidden("cannot list"))?;
    // Bound to the workloads' reading alone, the role gives no more than that.
    let pod = json!({"metadata": {"name": "made"}, "spec": {"containers": [{"name": "a", "image": "none"}]}});
    let pods = format!("/api/v1/namespaces/{SHOP}/pods");
    row(&ALICE, "making a pod", WriteVerb::Post, &pods, &pod, forbidden("cannot create resource"))?;
    let secrets = format!("/api/v1/namespaces/{SHOP}/secrets");
    row(&ALICE, "reading Secrets", WriteVerb::Get, &secrets, &Value::Null, forbidden("cannot list resource"))?;
    Ok(wrong)
}

/// The policy by itself, where the resource's own rule does not come first.
fn without_the_rule(world: &RightsCluster) -> Result<Vec<String>> {
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/intercepts.redir.dev";
    let rule = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/x-kubernetes-validations";
    let with_rule = world.send(&RequestUser::Admin, WriteVerb::Get, path, &Value::Null)?.body;
    let rules = with_rule.pointer(rule).cloned().unwrap_or_default();
    let remove = json!([{"op": "remove", "path": rule}]);
    let mut wrong: Vec<String> = Allowed
        .judge("the admin, the rule taken away", &world.send(&RequestUser::Admin, WriteVerb::JsonPatch, path, &remove)?)
        .into_iter()
        .collect();
    let words = "an Intercept's spec cannot be changed; delete it and make another";
    let change = json!({"spec": {"port": "9090"}});
    let mine = format!("{}/mine?dryRun=All", intercepts(SHOP));
    let answer = redir_rig::wait::until("the rule to be gone", std::time::Duration::from_secs(60), || {
        let answer = world.send(&DAVE, WriteVerb::MergePatch, &mine, &change)?;
        let is_old = answer.body["message"].as_str().is_some_and(|message| message.contains(CHANGED));
        Ok((!is_old).then_some(answer))
    })?;
    wrong.extend(invalid(words).judge("dave, another port, refused by the policy alone", &answer));
    let back = json!([{"op": "add", "path": rule, "value": rules}]);
    wrong.extend(
        Allowed.judge("the admin, the rule back", &world.send(&RequestUser::Admin, WriteVerb::JsonPatch, path, &back)?),
    );
    Ok(wrong)
}
