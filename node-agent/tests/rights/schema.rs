//! What the resource's own schema and rules refuse, a value for each; the rule on changes is in `intercepts`.

use anyhow::Result;
use redir_api::limits;
use serde_json::{Value, json};

use crate::{
    request::{ExpectedResult, RequestUser, WriteVerb, invalid},
    world::{RightsCluster, SHOP, deployment, intercept, intercepts},
};
use ExpectedResult::Allowed;

const ONE_OF: &str = "must validate one and only one schema (oneOf)";

pub(crate) fn tries(world: &RightsCluster) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    let path = format!("{}?dryRun=All&fieldValidation=Strict", intercepts(SHOP));
    for (fields, expected) in whole().into_iter().chain(selectors()).chain(filters()).chain(sizes()) {
        let mut spec = if fields.get("target").is_some() || fields.get("selector").is_some_and(Value::is_object) {
            json!({})
        } else {
            deployment("web")
        };
        merge(&mut spec, &fields);
        let answer = world.send(&RequestUser::Admin, WriteVerb::Post, &path, &intercept("", &spec))?;
        wrong.extend(expected.judge(&short(&fields), &answer));
        wrong.extend(answer.warnings.iter().map(|warning| format!("{}: {warning}", short(&fields))));
    }
    Ok(wrong)
}

fn short(fields: &Value) -> String {
    fields.to_string().chars().take(120).collect()
}

fn merge(spec: &mut Value, fields: &Value) {
    if let (Some(spec), Some(fields)) = (spec.as_object_mut(), fields.as_object()) {
        spec.extend(fields.clone());
    }
}

fn whole() -> Vec<(Value, ExpectedResult)> {
    let labels = json!({"matchLabels": {"app": "web"}});
    vec![
        (json!({}), Allowed),
        (json!({"target": {"kind": "Pod", "name": "web"}, "selector": labels}), invalid(ONE_OF)),
        // A null is no value.
        (json!({"target": null}), invalid(ONE_OF)),
        (json!({"target": null, "selector": labels}), Allowed),
        (json!({"target": null, "selector": null}), invalid(ONE_OF)),
        (json!({"selector": null, "filter": null, "flush": true}), Allowed),
        (json!({"target": {"kind": "CronJob", "name": "web"}}), invalid("Unsupported value")),
        (json!({"target": {"kind": "Deployment", "name": ""}}), invalid("should be at least 1 chars long")),
        (json!({"target": {"kind": "Deployment", "name": "a".repeat(254)}}), invalid("253")),
        (json!({"target": {"kind": "Deployment"}}), invalid("Required value")),
        (json!({"target": {"name": "web"}}), invalid("Required value")),
        (json!({"port": ""}), invalid("should be at least 1 chars long")),
        (json!({"port": "a".repeat(64)}), invalid("63")),
        (json!({"port": 80}), invalid("must be of type string")),
        (json!({"port": null}), invalid("Required value")),
        (json!({"developerKey": "sha256:short"}), invalid("should match")),
        (json!({"developerKey": null}), invalid("Required value")),
        (json!({"probes": "Nobody"}), invalid("Unsupported value")),
        (json!({"probes": "Developer"}), Allowed),
        (json!({"user": "a".repeat(513)}), invalid("512")),
        (json!({"from": "a".repeat(254)}), invalid("253")),
        (json!({"to": "a".repeat(254)}), invalid("253")),
        (json!({"evenIfDown": "yes"}), invalid("must be of type boolean")),
        (json!({"forwarded": 1}), invalid("must be of type boolean")),
        (json!({"prot": "80"}), ExpectedResult::Refused(400, "unknown field".into())),
    ]
}

fn selectors() -> Vec<(Value, ExpectedResult)> {
    let labels = |count: usize, value: &str| {
        let labels: serde_json::Map<_, _> = (0..count).map(|n| (format!("l{n}"), json!(value))).collect();
        json!({"selector": {"matchLabels": labels}})
    };
    let expressions =
        |count: usize, expression: Value| json!({"selector": {"matchExpressions": vec![expression; count]}});
    let values = |count: usize, value: &str| json!({"key": "app", "operator": "In", "values": vec![value; count]});
    let with = |key: &str, operator: &str| json!({"key": key, "operator": operator});
    vec![
        (labels(limits::LABELS, "a"), Allowed),
        (labels(limits::LABELS + 1, "a"), invalid("16")),
        (labels(1, &"a".repeat(limits::LABEL_VALUE)), Allowed),
        (labels(1, &"a".repeat(limits::LABEL_VALUE + 1)), invalid("63")),
        (expressions(limits::EXPRESSIONS, values(limits::VALUES, "a")), Allowed),
        (expressions(limits::EXPRESSIONS + 1, values(1, "a")), invalid("8")),
        (expressions(1, values(limits::VALUES + 1, "a")), invalid("16")),
        (expressions(1, values(1, &"a".repeat(limits::LABEL_VALUE + 1))), invalid("63")),
        (expressions(1, with(&"a".repeat(limits::LABEL_KEY), "Exists")), Allowed),
        (expressions(1, with(&"a".repeat(limits::LABEL_KEY + 1), "Exists")), invalid("317")),
        (expressions(1, with("app", "Like")), invalid("Unsupported value")),
    ]
}

/// Each field alone would do: the sum of all does not.
fn sizes() -> Vec<(Value, ExpectedResult)> {
    let too_large = || invalid("more than 4096 characters together");
    let most = limits::TEXT;
    // What is no ASCII is a character too.
    let header = |length: usize| json!({"header": {"name": "x", "exact": "\u{eb}".repeat(length)}});
    let filter = |conditions: Value| json!({"filter": {"any": conditions}});
    let label = json!({"selector": {"matchLabels": {"app": "web"}}, "filter": {"all": [header(most - 1 - 6)]}});
    let mut label_too = label.clone();
    label_too["selector"]["matchLabels"]["a"] = json!("");
    let expression = |values: Value| {
        json!({"selector": {"matchExpressions": [{"key": "app", "operator": "In", "values": values}]},
               "filter": {"all": [header(most - 1 - 6)]}})
    };
    let every = |length: usize| {
        let named =
            ["header", "query", "cookie", "baggage"].map(|subject| json!({subject: {"name": "n", "regex": "r"}}));
        let rest =
            [json!({"path": {"exact": "/"}}), json!({"path": {"prefix": "/"}}), json!({"method": "M"}), header(length)];
        filter(json!([&named[..], &rest].concat()))
    };
    vec![
        (filter(json!([header(most - 1)])), Allowed),
        (filter(json!([header(most - 1), {"method": "A"}])), too_large()),
        (every(most - 1 - 11), Allowed),
        (every(most - 11), too_large()),
        (label, Allowed),
        (label_too, too_large()),
        (expression(json!(["web"])), Allowed),
        (expression(json!(["web", "a"])), too_large()),
    ]
}

fn filters() -> impl Iterator<Item = (Value, ExpectedResult)> {
    let condition = |condition: Value| json!({"all": [condition]});
    let header = |test: Value| {
        let mut header = json!({"name": "x-user"});
        merge(&mut header, &test);
        json!({"all": [{"header": header}]})
    };
    let many = |count: usize| json!({"any": vec![json!({"method": "GET"}); count]});
    let rows = vec![
        (json!({}), invalid(ONE_OF)),
        (json!({"all": [{"method": "GET"}], "any": [{"method": "GET"}]}), invalid(ONE_OF)),
        (json!({"all": []}), invalid("should have at least 1 items")),
        (json!({"any": []}), invalid("should have at least 1 items")),
        (many(32), Allowed),
        (many(33), invalid("32")),
        (condition(json!({})), invalid(ONE_OF)),
        (condition(json!({"not": true})), invalid(ONE_OF)),
        (condition(json!({"method": "GET", "path": {"exact": "/"}})), invalid(ONE_OF)),
        (condition(json!({"method": ""})), invalid("should be at least 1 chars long")),
        (condition(json!({"method": "A".repeat(257)})), invalid("256")),
        (condition(json!({"path": {}})), invalid(ONE_OF)),
        (condition(json!({"path": {"exact": "/", "prefix": "/"}})), invalid(ONE_OF)),
        (condition(json!({"path": {"present": true}})), ExpectedResult::Refused(400, "unknown field".into())),
        (condition(json!({"path": {"prefix": ""}})), invalid("should be at least 1 chars long")),
        (header(json!({})), invalid(ONE_OF)),
        (header(json!({"exact": "a", "regex": "a"})), invalid(ONE_OF)),
        (header(json!({"present": false})), invalid("Unsupported value")),
        (header(json!({"present": true})), Allowed),
        (header(json!({"name": "", "present": true})), invalid("should be at least 1 chars long")),
        (header(json!({"name": "a".repeat(257), "present": true})), invalid("256")),
        (header(json!({"exact": "a".repeat(4097)})), invalid("4096")),
        (header(json!({"prefix": "a".repeat(4097)})), invalid("4096")),
        (header(json!({"regex": "a".repeat(1025)})), invalid("1024")),
        (json!({"all": [{"cookie": {"exact": "a"}}]}), invalid("Required value")),
    ];
    rows.into_iter().map(|(filter, expected)| (json!({"filter": filter}), expected))
}
