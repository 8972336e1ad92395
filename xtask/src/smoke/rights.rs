//! What must be refused: users without the right, users of another namespace, and objects that were tampered with.

use anyhow::Result;
use serde_json::{Value, json};

use super::world::{HEADER, PORT, SHOP, SmokeWorld, answered, node};
use crate::demo::story::Story;

/// Neither a user who may nothing nor one who may elsewhere gets anything.
pub(super) fn refusals(story: &mut Story, world: &SmokeWorld<'_>) -> Result<()> {
    story.scene("Others try the same", "mallory may nothing, bob may intercept in another namespace");
    for (name, kubeconfig) in [("mallory", &world.mallory), ("bob", &world.bob)] {
        let arguments = ["intercept", "deploy/web", "-n", SHOP, "--port", "8080:1"];
        let (code, said) = world.redir(kubeconfig, &arguments)?;
        let right = code == 1 && said.contains("you may not") && said.lines().count() == 1;
        let tick = story.must(right, &format!("{name} is refused in one sentence, not with {code}: {said}"));
        story.say(&format!("{tick} {name}: {}", said.trim_end()));
    }
    let left = world.cluster.kubectl().get(&["-n", SHOP, "intercepts"])?;
    let none = left["items"].as_array().is_some_and(Vec::is_empty);
    let tick = story.must(none, "nothing was made by those who may not");
    story.say(&format!("{tick} no Intercept was made"));
    Ok(())
}

/// Whoever may make an Intercept may neither change it nor speak for an agent.
pub(super) fn tampering(story: &mut Story, world: &SmokeWorld<'_>) -> Result<()> {
    story.scene(
        "Alice's own Intercept is tampered with",
        "its status is the agents' alone, and a changed spec is refused",
    );
    let port = format!("{PORT}:{}", world.own_port);
    let mut intercept = world.intercept(&world.alice, &["deploy/web", "--port", &port, "--header", HEADER])?;
    intercept.status()?;
    let name = intercept.name()?;
    let path = format!("/apis/redir.dev/v1alpha1/namespaces/{SHOP}/intercepts/{name}/status");
    let alice = world.cluster.kubectl().with(&world.alice);
    let mut forged = alice.get(&["-n", SHOP, "intercept", &name])?;
    forged["status"]["agents"] = json!([]);
    let refused = match alice.output_with(&["replace", "--raw", &path, "-f", "-"], &forged) {
        Ok(_) => false,
        Err(error) => format!("{error:#}").contains("orbidden"),
    };
    let tick = story.must(refused, "alice must not be able to write the status");
    story.say(&format!("{tick} alice may not write the status"));
    alice.output(&["-n", SHOP, "patch", "intercept", &name, "--type=merge", "-p", r#"{"status":{"agents":[]}}"#])?;
    let agents = alice.get(&["-n", SHOP, "intercept", &name])?["status"]["agents"].clone();
    let kept = agents.as_array().is_some_and(|agents| agents.len() == 2);
    let tick = story.must(kept, &format!("the status is the agents' still: {agents}"));
    story.say(&format!("{tick} what she writes into it besides is dropped"));
    // Her header's requests become everybody's: what she might make, but did not.
    let change = ["-n", SHOP, "patch", "intercept", &name, "--type=merge", "-p", r#"{"spec":{"filter":null}}"#];
    let refused = alice.output(&change).err().map(|error| format!("{error:#}")).unwrap_or_default();
    let tick = story.must(
        refused.contains("an Intercept is never changed"),
        &format!("the server refuses a changed spec, and says why: {refused:?}"),
    );
    story.say(&format!("{tick} the server refuses a changed spec"));
    policy_holds(story, world, &alice.get(&["-n", SHOP, "intercept", &name])?)?;
    let mut rows = Vec::new();
    for pod in world.pods(SHOP)? {
        let from = node(&world.nodes, &pod.node)?;
        answered("what she changed has no effect", "green", || world.ask(from, &pod.address, PORT, None))?;
        rows.push((
            pod.name.clone(),
            vec![story.check("changed spec", &world.ask(from, &pod.address, PORT, None), "green")],
        ));
    }
    story.table(&["after the change", "without the header"], &rows);
    drop(intercept);
    world.cluster.kubectl().output(&["-n", SHOP, "delete", "intercept", &name, "--ignore-not-found"])?;
    Ok(())
}

/// Creating Intercepts is not enough: the right on the target itself is asked for by an admission policy.
fn policy_holds(story: &mut Story, world: &SmokeWorld<'_>, of_alice: &Value) -> Result<()> {
    let carol = world.cluster.user("carol", &[])?;
    let admin = world.cluster.kubectl();
    admin.output(&["-n", SHOP, "create", "role", "carol", "--verb=*", "--resource=intercepts.redir.dev"])?;
    admin.output(&["-n", SHOP, "create", "rolebinding", "carol", "--role=carol", "--user=carol"])?;
    // In her own name: what is refused is the target.
    let mut spec = of_alice["spec"].clone();
    spec["user"] = json!("carol");
    let intercept = json!({
        "apiVersion": of_alice["apiVersion"],
        "kind": of_alice["kind"],
        "metadata": {"name": "carols", "namespace": SHOP},
        "spec": spec,
    });
    let refused = admin.with(&carol).output_with(&["create", "-f", "-"], &intercept).err();
    let refused = refused.map(|error| format!("{error:#}")).unwrap_or_default();
    let tick = story.must(
        refused.contains("ValidatingAdmissionPolicy") && refused.contains("it needs the verb intercept on it"),
        &format!(
            "carol, who may create intercepts but not intercept deploy/web, is refused by the policy: {refused:?}"
        ),
    );
    story.say(&format!("{tick} carol may create intercepts, but none of deploy/web: the admission policy refuses it"));
    Ok(())
}
