//! `redir install`, `upgrade` and `uninstall` against a real API server and its controllers. Needs root, and what
//! `cargo xtask cluster setup` has built.

#[expect(dead_code, reason = "no agent runs here")]
#[path = "../kubernetes/server.rs"]
mod server;
mod world;

use anyhow::{Context, Result, ensure};
use redir_api::names;
use redir_rig::wait;
use serde_json::{Value, json};

use world::{InstallCluster, LONG, NODE};

const OWN: &str = "redir-system";

fn strict_namespace(name: &str, level: &str) -> Value {
    let labels = json!({"pod-security.kubernetes.io/enforce": level});
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

fn config_map(namespace: &str, name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}})
}

fn custom_resource(group: &str, kind: &str) -> Value {
    let singular = kind.to_lowercase();
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{singular}s.{group}")},
        "spec": {
            "group": group, "scope": "Namespaced", "names": {"kind": kind, "plural": format!("{singular}s"), "singular": singular},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}],
        },
    })
}

/// One API server for all of these: each begins where nothing is installed.
#[test]
fn nothing_goes_that_redir_did_not_make() -> Result<()> {
    let world = InstallCluster::new()?;
    agents_keep_away_from_a_control_plane(&world).context("on the nodes of a control plane")?;
    a_namespace_that_exists_is_not_taken_over(&world).context("in a namespace that exists")?;
    a_namespace_goes_only_if_redir_made_it_and_nothing_else_is_in_it(&world).context("in a namespace of its own")?;
    what_is_somebody_else_s_is_left_to_them(&world).context("beside what is somebody else's")?;
    what_an_older_resource_drops_is_told(&world).context("with an older resource")?;
    what_has_our_names_keeps_what_is_in_it(&world).context("with somebody else's resource and DaemonSet")
}

#[test]
fn an_agent_that_cannot_start_says_why() -> Result<()> {
    let world = InstallCluster::new()?;
    each_reason_is_told_once(&world).context("while an agent cannot start")?;
    world.redir(&["uninstall", "--yes"])?.must(0, &["redir is gone"])?;
    a_pod_that_may_not_be_made_is_told(&world).context("while no pod may be made")
}

/// Where there is no other node agents run on the control plane's, and leave it once there is one.
fn agents_keep_away_from_a_control_plane(world: &InstallCluster) -> Result<()> {
    let label = |value: &str| world.kubectl(&["label", "node", NODE, &format!("{}{value}", names::CONTROL_PLANE)]);
    let alone = "no node takes agents but those of the control plane";
    label("=")?;
    world.redir(&["install", "--dry-run"])?.must(0, &[alone])?;
    ensure!(world.install(OWN, &[])?.err.contains(alone));

    let other = json!({"name": "n2", "labels": {"kubernetes.io/os": "linux"}});
    world.create(&json!({"apiVersion": "v1", "kind": "Node", "metadata": other}))?;
    let mut upgrade = world.start(&["upgrade"])?;
    // A pod of what was installed before may come to the new node first, and is replaced.
    wait::until_true("the upgrade to end", LONG, || {
        for pod in world.pods(OWN)?.iter().filter(|pod| pod["spec"]["affinity"].to_string().contains(r#"["n2"]"#)) {
            let name = pod["metadata"]["name"].as_str().context("a name")?;
            world.container_is(OWN, name, &json!({"ready": true, "state": {"running": {}}})).ok();
        }
        Ok(upgrade.exited()?.is_some())
    })?;
    let is_left = |pod: &Value| pod["spec"]["affinity"].to_string().contains(r#"["n1"]"#);
    ensure!(!world.pods(OWN)?.iter().any(is_left), "an agent is left on the control plane: {:?}", world.pods(OWN)?);
    let said = world.end(&mut upgrade)?.must(0, &["1 agent is ready"])?;
    ensure!(!said.err.contains(alone), "{said:?}");
    world.redir(&["uninstall", "--yes"])?.must(0, &["redir is gone"])?;
    world.kubectl(&["delete", "node", "n2"])?;
    label("-").map(drop)
}

/// Somebody's namespace, with somebody's things: it is as it was before and after.
fn a_namespace_that_exists_is_not_taken_over(world: &InstallCluster) -> Result<()> {
    world.create(&strict_namespace("team", "baseline"))?;
    world.create(&config_map("team", "theirs"))?;
    what_a_failed_install_changed_is_put_back(world)?;
    let before = world.namespace("team")?;

    // A script is told what to say, and a no is a no.
    world.redir(&["install", "-n", "team"])?.must(2, &["team", "baseline", "privileged", "--yes"])?;
    let said = world.redir_at_a_terminal(&["install", "-n", "team"], "n\n")?;
    ensure!(
        said.contains("change it? [y/N]") && said.contains("nothing was changed") && said.contains("code 1"),
        "{said}"
    );
    world.redir(&["install", "-n", "team", "--dry-run"])?.must(0, &["would change namespace team", "baseline"])?;
    ensure!(world.namespace("team")? == before && world.installed()?.is_empty(), "something was changed");

    let said = world.install("team", &["--yes"])?;
    ensure!(said.err.contains("before, it enforced the PodSecurity level `baseline`"), "{said:?}");
    ensure!(world.level("team")? == "privileged");
    ensure!(!world.installed()?.contains(&"namespace/team".to_owned()), "it does not become redir's");
    // A second time there is nothing to ask.
    world.install("team", &[])?;
    world.redir(&["upgrade", "-n", "team", "--dry-run"])?.must(0, &["would apply daemonset redir-agent"])?;

    // There is one redir in a cluster.
    world.redir(&["install"])?.must(1, &["is in namespace team, not in redir-system", "redir uninstall -n team"])?;
    world.redir(&["uninstall", "--yes"])?.must(1, &["is in namespace team", "redir uninstall -n team"])?;
    ensure!(world.namespace(OWN)?.is_none());

    // What will be removed is told and asked for.
    let listed = [
        "this will be removed:",
        "daemonset redir-agent",
        "customresourcedefinition intercepts.redir.dev",
        "namespace team was not made by",
    ];
    world.redir(&["uninstall", "-n", "team"])?.must(2, &[&listed[..], &["--yes"]].concat())?;
    let said = world.redir_at_a_terminal(&["uninstall", "-n", "team"], "\n")?;
    ensure!(said.contains("[y/N]") && said.contains("nothing was changed"), "{said}");
    world
        .redir(&["uninstall", "-n", "team", "--dry-run"])?
        .must(0, &["would delete daemonset redir-agent", "would keep namespace team"])?;
    ensure!(world.level("team")? == "privileged" && world.get(&["daemonset", "-n", "team", "redir-agent"])?.is_some());
    let said = world.redir_at_a_terminal(&["uninstall", "-n", "team"], "y\n")?;
    ensure!(said.contains("code 0") && said.contains("kept namespace team"), "{said}");
    ensure!(world.installed()?.is_empty(), "{:?}", world.installed()?);
    ensure!(world.level("team")? == "baseline", "{}", world.level("team")?);
    world.get(&["configmap", "-n", "team", "theirs"])?.context("somebody's object is gone")?;
    let labels = |namespace: Option<Value>| namespace.map(|namespace| namespace["metadata"]["labels"].clone());
    ensure!(labels(world.namespace("team")?) == labels(before));
    world.redir(&["uninstall", "-n", "team", "--yes"])?.must(0, &["there was no redir"])?;
    Ok(())
}

/// The level is the first that is changed, and may be all.
fn what_a_failed_install_changed_is_put_back(world: &InstallCluster) -> Result<()> {
    let rule = json!({"apiGroups": ["apiextensions.k8s.io"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["customresourcedefinitions"]});
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "freeze"},
        "spec": {"matchConstraints": {"resourceRules": [rule]}, "validations": [{"expression": "false", "message": "not on Fridays"}]},
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": "freeze"},
        "spec": {"policyName": "freeze", "validationActions": ["Deny"]},
    });
    world.create(&policy)?;
    world.create(&binding)?;
    wait::until_true("the policy to count", LONG, || {
        Ok(world.redir(&["install", "-n", "team", "--dry-run"])?.err.contains("not on Fridays"))
    })?;
    world.redir(&["install", "-n", "team", "--yes"])?.must(1, &["not on Fridays"])?;
    ensure!(world.level("team")? == "privileged" && world.installed()?.is_empty(), "{:?}", world.installed()?);
    world.kubectl(&["delete", "validatingadmissionpolicybinding,validatingadmissionpolicy", "freeze"])?;

    let owed = "PodSecurity level `privileged` of namespace team";
    world.redir(&["uninstall", "-n", "team"])?.must(2, &["this will be removed:", owed, "--yes"])?;
    ensure!(world.level("team")? == "privileged");
    let again = "enforces the PodSecurity level `baseline` again";
    world.redir(&["uninstall", "-n", "team", "--yes"])?.must(0, &[owed, again])?;
    ensure!(world.level("team")? == "baseline", "{}", world.level("team")?);
    world.redir(&["uninstall", "-n", "team", "--yes"])?.must(0, &["there was no redir"])?;
    Ok(())
}

fn a_namespace_goes_only_if_redir_made_it_and_nothing_else_is_in_it(world: &InstallCluster) -> Result<()> {
    let gone = || wait::until_true("the namespace to be gone", LONG, || Ok(world.namespace(OWN)?.is_none()));

    world.install(OWN, &[])?.must(0, &["created namespace redir-system"])?;
    world.redir(&["uninstall", "--yes"])?.must(0, &["deleted namespace redir-system", "redir is gone"])?;
    gone()?;
    ensure!(world.installed()?.is_empty(), "{:?}", world.installed()?);

    // Somebody put things into it.
    world.install(OWN, &[])?;
    world.create(&config_map(OWN, "theirs"))?;
    // Of a kind that has no more than its name from what the server observes.
    world.create(&custom_resource("shows.example.com", "Event"))?;
    let event =
        json!({"apiVersion": "shows.example.com/v1", "kind": "Event", "metadata": {"name": "gala", "namespace": OWN}});
    wait::until_true("the resource to be served", LONG, || Ok(world.create(&event).is_ok()))?;
    let listed = ["configmap theirs", "event gala", "stays", "kept namespace redir-system"];
    let said = world.redir(&["uninstall", "--yes"])?.must(0, &listed)?;
    ensure!(!said.err.contains("kube-root-ca") && !said.err.contains("controllerrevision"), "{said:?}");
    world.get(&["configmap", "-n", OWN, "theirs"])?.context("somebody's object is gone")?;
    // Once they are gone, it may go.
    world.kubectl(&["delete", "configmap", "-n", OWN, "theirs"])?;
    world.kubectl(&["delete", "crd", "events.shows.example.com"])?;
    world.redir(&["uninstall", "--yes"])?.must(0, &["deleted namespace redir-system"])?;
    gone()?;

    // Deleted and made again by somebody, with every label and annotation of the one before.
    world.install(OWN, &[])?;
    let copy = world.namespace(OWN)?.context("no namespace")?;
    world.kubectl(&["delete", "namespace", OWN])?;
    gone()?;
    let metadata =
        json!({"name": OWN, "labels": copy["metadata"]["labels"], "annotations": copy["metadata"]["annotations"]});
    world.create(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}))?;
    world.redir(&["uninstall", "--yes"])?.must(0, &["was not made by `redir install` and stays"])?;
    ensure!(world.namespace(OWN)?.is_some());
    world.kubectl(&["delete", "namespace", OWN])?;
    gone()?;

    // As an older release, or kubectl with the kustomization, has left it: with the label, without the mark.
    let manifests = world.redir(&["install", "--print"])?.out;
    let documents = redir_manifests::parse(&manifests).map_err(anyhow::Error::msg)?;
    let namespace = documents.iter().find(|document| document["kind"] == "Namespace").context("no namespace")?;
    world.create(namespace)?;
    world.install(OWN, &[])?;
    world.redir(&["uninstall", "--yes"])?.must(0, &["was not made by `redir install` and stays"])?;
    ensure!(world.namespace(OWN)?.is_some());
    world.kubectl(&["delete", "namespace", OWN])?;
    gone()
}

fn what_is_somebody_else_s_is_left_to_them(world: &InstallCluster) -> Result<()> {
    // Of a name that redir uses.
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "redir-developer"}, "rules": []});
    world.create(&role)?;
    world.redir(&["install"])?.must(1, &["clusterrole redir-developer that is not redir's", "rename"])?;
    ensure!(world.namespace(OWN)?.is_none(), "something was changed");
    world.kubectl(&["delete", "clusterrole", "redir-developer"])?;
    world.install(OWN, &[])?;
    world.kubectl(&["label", "clusterrole", "redir-developer", "app.kubernetes.io/part-of-"])?;
    world.redir(&["uninstall", "--yes"])?.must(0, &["clusterrole redir-developer is not redir's and stays"])?;
    world.get(&["clusterrole", "redir-developer"])?.context("somebody's role is gone")?;
    world.kubectl(&["delete", "clusterrole", "redir-developer"])?;

    // As Helm marks what it has installed.
    world.install(OWN, &[])?;
    let release = ["meta.helm.sh/release-name=traffic", "meta.helm.sh/release-namespace=ops"];
    world.kubectl(&[&["annotate", "daemonset", "-n", OWN, "redir-agent"], &release[..]].concat())?;
    for (command, next) in [
        ("install", "helm upgrade traffic CHART -n ops"),
        ("upgrade", "helm upgrade"),
        ("uninstall", "helm uninstall traffic -n ops"),
    ] {
        let said = world.redir(&[command, "--yes"])?.must(1, &["Helm", next])?;
        ensure!(said.err.lines().count() == 1, "{said:?}");
    }
    world.get(&["daemonset", "-n", OWN, "redir-agent"])?.context("Helm's agents are gone")?;
    Ok(())
}

/// A server drops fields that its CRD does not have: no agent ever hears of them, and none is to blame.
fn what_an_older_resource_drops_is_told(world: &InstallCluster) -> Result<()> {
    let fields = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
    let patch = ["evenIfDown", "forwarded"].map(|field| json!({"op": "remove", "path": format!("{fields}/{field}")}));
    let patch = json!(patch).to_string();
    world.kubectl(&["patch", "crd", "intercepts.redir.dev", "--type=json", "-p", &patch])?;
    let template =
        json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "app", "image": "none"}]}});
    let spec = json!({"selector": {"matchLabels": {"app": "web"}}, "template": template});
    let web = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "default"}, "spec": spec});
    world.create(&web)?;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let port = format!("80:{port}");
    let mut intercept = world.start(&["intercept", "deploy/web", "--port", &port, "--even-if-down", "--forwarded"])?;
    for flag in ["--even-if-down", "--forwarded"] {
        let line = intercept.wait_for_line(&format!("does not know {flag}"), LONG)?;
        ensure!(
            line.contains("the cluster's resource is of an earlier release") && line.contains("redir upgrade"),
            "{line}"
        );
    }
    intercept.kill()
}

/// What was said to stay stays with all that belongs to it, and is not waited for. The intercept from before is there, and the agent's pod.
fn what_has_our_names_keeps_what_is_in_it(world: &InstallCluster) -> Result<()> {
    let daemonset = ["daemonset", "-n", OWN, "redir-agent"];
    let release = ["meta.helm.sh/release-name-", "meta.helm.sh/release-namespace-"];
    world.kubectl(&[&["annotate"], &daemonset[..], &release].concat())?;
    for object in [&daemonset[..], &["crd", "intercepts.redir.dev"]] {
        world.kubectl(&[&["label"], object, &["app.kubernetes.io/part-of-"]].concat())?;
    }
    let intercepts = || world.kubectl(&["get", "intercepts.redir.dev", "-A", "-o", "name"]);
    let (before, pod) = (intercepts()?, world.pod(OWN)?);
    ensure!(!before.is_empty(), "no intercept is left");
    let stay = ["daemonset redir-agent in namespace", "customresourcedefinition intercepts.redir.dev is not redir's"];
    let said = world.redir(&["uninstall", "--yes"])?.must(0, &[&stay[..], &["deleted clusterrole"]].concat())?;
    ensure!(!said.err.contains("ending") && !said.err.contains("waiting until the agent"), "{said:?}");
    ensure!(intercepts()? == before && world.pod(OWN)? == pod, "somebody's objects are gone: {said:?}");
    world.get(&daemonset)?.context("somebody's DaemonSet is gone").map(drop)
}

/// What the kubelet writes while an agent cannot start: told once each, and the end comes by itself.
fn each_reason_is_told_once(world: &InstallCluster) -> Result<()> {
    let mut install = world.start(&["install", "--image", "registry.test/none:1"])?;
    let pod = world.pod(OWN)?;
    let is = |container: Value| world.container_is(OWN, &pod, &container);
    let pull = |reason: &str, message: &str| json!({"state": {"waiting": {"reason": reason, "message": message}}});
    let not_found = "rpc error: code = NotFound desc = registry.test/none:1: not found";
    is(pull("ErrImagePull", not_found))?;
    install.wait_for_line(not_found, LONG)?;
    for seconds in [10, 20, 40] {
        is(pull("ImagePullBackOff", &format!("Back-off {seconds}s pulling image: {not_found}")))?;
        is(pull("ErrImagePull", not_found))?;
    }
    let log = |n: i32| {
        format!(
            "{{\"timestamp\":\"2026-11-30T18:00:0{n}Z\",\"level\":\"ERROR\",\"message\":\"no BTF\"}}\nredir-agent: the kernel has no BTF\n"
        )
    };
    let crashed = |n: i32| {
        let state = json!({"waiting": {"reason": "CrashLoopBackOff", "message": format!("back-off {n}0s restarting failed container=agent")}});
        json!({"restartCount": n, "state": state, "lastState": {"terminated": {"exitCode": 1, "reason": "Error", "message": log(n)}}})
    };
    is(crashed(1))?;
    install.wait_for_line("it ended with code 1: ERROR no BTF / redir-agent: the kernel has no BTF", LONG)?;
    is(crashed(2))?;
    is(crashed(3))?;
    let said = world.end(&mut install)?.must(1, &["0 of 1 agents are ready", "--image or --values", "--previous"])?;
    for (words, times) in [("no BTF / ", 2), (not_found, 2), ("agents: 0 of 1 ready", 1)] {
        ensure!(said.err.matches(words).count() <= times, "{words:?} more than {times} times: {said:?}");
    }

    // For programs, and from the first moment: the agent has been hopeless for long.
    let said = world.redir(&["install", "--image", "registry.test/none:1", "-o", "json"])?.must(1, &[])?;
    let events: Vec<Value> = said.out.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let of = |kind: &str| events.iter().filter(|event| event["event"] == kind).count();
    ensure!((of("agents"), of("agent_not_ready"), of("done")) == (1, 1, 0) && of("object") > 5, "{said:?}");
    let why = events.iter().find(|event| event["event"] == "agent_not_ready").context("no reason")?;
    ensure!(why["pod"] == pod.as_str() && why["reason"].as_str().is_some_and(|why| why.contains("no BTF")), "{why}");

    // It comes up after all.
    let mut upgrade = world.start(&["upgrade", "--image", "registry.test/some:1", "-o", "json"])?;
    upgrade.wait_for_line("\"agents\"", LONG)?;
    let old = pod.clone();
    let new = wait::until("another pod", LONG, || Ok(Some(world.pod(OWN)?).filter(|pod| *pod != old)))?;
    world.container_is(OWN, &new, &json!({"ready": true, "state": {"running": {}}}))?;
    world.end(&mut upgrade)?.must(0, &["\"event\":\"done\""])?;
    Ok(())
}

/// Nothing but its Events says why the controller makes no pod.
fn a_pod_that_may_not_be_made_is_told(world: &InstallCluster) -> Result<()> {
    world.create(&strict_namespace("small", "privileged"))?;
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none", "namespace": "small"}, "spec": {"hard": {"pods": "0"}}});
    world.create(&quota)?;
    wait::until_true("the quota to count", LONG, || {
        Ok(world
            .get(&["resourcequota", "-n", "small", "none"])?
            .is_some_and(|quota| quota["status"]["used"].is_object()))
    })?;
    let mut install = world.start(&["install", "-n", "small"])?;
    let line = install.wait_for_line("makes no pods", LONG)?;
    ensure!(line.contains("exceeded quota"), "{line}");
    world.kubectl(&["delete", "resourcequota", "-n", "small", "none"])?;
    let pod = world.pod("small")?;
    world.container_is("small", &pod, &json!({"ready": true, "state": {"running": {}}}))?;
    world.end(&mut install)?.must(0, &["1 agent is ready"])?;
    Ok(())
}
