//! In whose name an Intercept is made, and what may stand beside its spec.

use anyhow::Result;
use serde_json::{Value, json};

use crate::{
    request::{ExpectedResult, RequestUser, WriteVerb, forbidden, invalid},
    status::token,
    world::{ALICE, RightsCluster, SHOP, deployment, intercept, intercepts},
};
use ExpectedResult::Allowed;

/// As identity providers name people and programs.
const OIDC: RequestUser = RequestUser::User("https://id.example.com/realms/shop#7f3c", &["shop-developers"]);
const ACCOUNT: &str = "system:serviceaccount:shop:ci";
const IMPERSONATED: RequestUser = RequestUser::User(ACCOUNT, &["shop-developers"]);

pub(crate) fn tries(world: &RightsCluster) -> Result<Vec<String>> {
    world.make(&format!("/api/v1/namespaces/{SHOP}/serviceaccounts"), &json!({"metadata": {"name": "ci"}}))?;
    world.shell(&format!(
        "kubectl -n {SHOP} create rolebinding ci --clusterrole=redir-developer --serviceaccount={SHOP}:ci"
    ))?;
    let pipeline = token(world, "a pipeline", SHOP, "ci", &json!({"expirationSeconds": 3600}))?;
    world.counts(&pipeline, &format!("{}/none", intercepts(SHOP)))?;
    let mut wrong = names(world, &pipeline)?;
    wrong.extend(beside_the_spec(world)?);
    Ok(wrong)
}

fn names(world: &RightsCluster, pipeline: &RequestUser) -> Result<Vec<String>> {
    let must_be = |name: &str| forbidden(format!("spec.user must be {name}, as the API server knows you"));
    let path = intercepts(SHOP);
    let mut wrong = Vec::new();
    for (who, user, expected) in [
        (&ALICE, "alice", Allowed),
        (&ALICE, "bob", must_be("alice")),
        (&ALICE, "Alice", must_be("alice")),
        (&ALICE, "", must_be("alice")),
        (&OIDC, OIDC.name(), Allowed),
        (&OIDC, "alice", must_be(OIDC.name())),
        (pipeline, ACCOUNT, Allowed),
        (pipeline, "alice", must_be(ACCOUNT)),
        (&IMPERSONATED, ACCOUNT, Allowed),
        // Who impersonates is not asked for: the server says whose request it is.
        (&IMPERSONATED, "admin", must_be(ACCOUNT)),
        (&RequestUser::Admin, "admin", Allowed),
        (&RequestUser::Admin, "alice", must_be("admin")),
    ] {
        let mut object = intercept("", &deployment("web"));
        object["spec"]["user"] = json!(user);
        let answer = world.send(who, WriteVerb::Post, &path, &object)?;
        wrong.extend(expected.judge(&format!("{}, in the name of {user:?}", who.name()), &answer));
    }
    let mut object = intercept("in-anothers-name", &deployment("web"));
    object["spec"]["user"] = json!("bob");
    let apply = format!("{path}/in-anothers-name?fieldManager=try");
    let answer = world.send(&ALICE, WriteVerb::Apply, &apply, &object)?;
    wrong.extend(must_be("alice").judge("alice, server-side apply in another's name", &answer));
    Ok(wrong)
}

/// Annotations and labels, which no schema bounds, when it is made and later.
fn beside_the_spec(world: &RightsCluster) -> Result<Vec<String>> {
    let too_many = || invalid("16 annotations with 16384 bytes together");
    let owned = || invalid("2 owner references with 1024 bytes each");
    let kept = || invalid("may get no finalizer");
    let texts = |count: usize, value: &str| -> Value {
        (0..count).map(|n| (format!("n{n}"), json!(value))).collect::<serde_json::Map<_, _>>().into()
    };
    let large = |length: usize| json!({"annotations": {"n": "a".repeat(length)}});
    let owner = |kind: &str| json!({"apiVersion": "v1", "kind": kind, "name": "a", "uid": "b"});
    let owners = |all: &[Value]| json!({"ownerReferences": all});
    let path = intercepts(SHOP);
    let mut wrong = Vec::new();
    for (number, (metadata, expected)) in [
        (json!({"annotations": texts(16, ""), "labels": texts(16, "")}), Allowed),
        (json!({"annotations": texts(17, "")}), too_many()),
        (json!({"labels": texts(17, "")}), too_many()),
        (large(16_383), Allowed),
        (large(16_384), too_many()),
        (large(200_000), too_many()),
        (json!({"annotations": {"n": "\u{1f600}".repeat(4_096)}}), too_many()),
        (owners(&[owner("Pod"), owner("Job")]), Allowed),
        (owners(&[owner("Pod"), owner("Job"), owner("Node")]), owned()),
        (owners(&[owner(&"K".repeat(1_020))]), Allowed),
        (owners(&[owner(&"K".repeat(1_021))]), owned()),
        (owners(&[owner(&"K".repeat(1_400_000))]), owned()),
        (json!({"finalizers": ["example.com/mine"]}), kept()),
        (json!({"finalizers": ["foregroundDeletion"]}), kept()),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("beside-{number}");
        let mut object = intercept(&name, &deployment("web"));
        if let (Some(own), Some(more)) = (object["metadata"].as_object_mut(), metadata.as_object()) {
            own.extend(more.clone());
        }
        let what = metadata.to_string().chars().take(60).collect::<String>();
        let answer = world.send(&ALICE, WriteVerb::Post, &path, &object)?;
        wrong.extend(expected.clone().judge(&format!("alice, made with {what}"), &answer));
        // The same, of one that is there.
        let change = json!({"metadata": metadata});
        world.send(&ALICE, WriteVerb::Post, &path, &intercept("plain", &deployment("web")))?;
        let answer = world.send(&ALICE, WriteVerb::MergePatch, &format!("{path}/plain?dryRun=All"), &change)?;
        wrong.extend(expected.judge(&format!("alice, changed to {what}"), &answer));
    }
    // What the server bounds, or drops, only when an object is made.
    for field in ["generateName", "selfLink"] {
        let change = json!({"metadata": {field: "a".repeat(254)}});
        let answer = world.send(&ALICE, WriteVerb::MergePatch, &format!("{path}/plain?dryRun=All"), &change)?;
        wrong.extend(too_many().judge(&format!("alice, a long {field}"), &answer));
    }
    Ok(wrong)
}
