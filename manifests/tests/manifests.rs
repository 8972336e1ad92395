//! What is installed, against the constants of the code and the rules that a reviewer would hold it to.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

use std::collections::BTreeSet;
use std::path::Path;

use redir_api::names;
use redir_manifests::{OLDEST, Options, Values, crd_template, kustomizations, render};
use serde_json::{Value, json};

fn objects() -> Vec<Value> {
    render(&Options::default()).unwrap()
}

fn find(objects: &[Value], kind: &str, name: &str) -> Value {
    let is = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == name;
    objects.iter().find(is).unwrap_or_else(|| panic!("no {kind} {name}")).clone()
}

fn agent() -> Value {
    find(&objects(), "DaemonSet", names::AGENT)
}

#[test]
fn generated_files_are_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = kustomizations().unwrap();
    files.push(("chart/templates/crd.yaml".to_owned(), crd_template().unwrap()));
    for (path, text) in files {
        let found = std::fs::read_to_string(root.join(&path)).unwrap_or_default();
        assert!(found == text, "{path} is old: run `cargo run -p redir-manifests`");
    }
}

#[test]
fn the_agent_is_what_the_code_expects() {
    let agent = agent();
    assert_eq!(agent["metadata"]["namespace"], names::NAMESPACE);
    let labels = json!({names::APP_LABEL: names::AGENT});
    assert_eq!(agent["spec"]["selector"]["matchLabels"], labels);
    let pod = &agent["spec"]["template"];
    assert_eq!(pod["metadata"]["labels"][names::APP_LABEL], names::AGENT);
    assert_eq!(pod["spec"]["serviceAccountName"], names::AGENT);
    let container = &pod["spec"]["containers"][0];
    let port = json!({"name": "tunnel", "containerPort": names::PORT, "hostPort": names::PORT, "protocol": "UDP"});
    assert_eq!(container["ports"], json!([port]));
    for (probe, path) in [("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")] {
        let get = json!({"host": "127.0.0.1", "port": names::ADMIN_PORT, "path": path});
        assert_eq!(container[probe]["httpGet"], get);
    }
    let variables: BTreeSet<&str> =
        container["env"].as_array().unwrap().iter().map(|env| env["name"].as_str().unwrap()).collect();
    assert_eq!(
        variables,
        BTreeSet::from([
            names::ENV_NODE_NAME,
            names::ENV_NODE_IP,
            names::ENV_API_SERVER,
            names::ENV_FORBIDDEN_NAMESPACES,
            names::ENV_POD_NAMESPACE,
        ])
    );
    let mount = json!([{"name": "host-proc", "mountPath": names::HOST_PROC, "readOnly": true}]);
    assert_eq!(container["volumeMounts"], mount);
}

#[test]
fn the_agent_has_no_more_than_it_needs() {
    let agent = agent();
    let pod = &agent["spec"]["template"]["spec"];
    assert_eq!((&pod["hostNetwork"], &pod["hostPID"], &pod["hostIPC"]), (&json!(true), &Value::Null, &Value::Null));
    let security = &pod["containers"][0]["securityContext"];
    assert_eq!(security["privileged"], Value::Null);
    assert_eq!(
        (&security["readOnlyRootFilesystem"], &security["allowPrivilegeEscalation"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(security["capabilities"]["drop"], json!(["ALL"]));
    let added: BTreeSet<&str> =
        security["capabilities"]["add"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert_eq!(added, needed());
    assert_eq!(security["seccompProfile"], json!({"type": "RuntimeDefault"}));
    assert_eq!(security["appArmorProfile"]["type"], "Unconfined");
    // Whoever is of this group may read the API token.
    assert_eq!(pod["securityContext"], json!({"fsGroup": names::CONTROLLER_USER}));
    let forbidden = json!({"name": names::ENV_FORBIDDEN_NAMESPACES, "value": names::FORBIDDEN_NAMESPACES});
    assert!(pod["containers"][0]["env"].as_array().unwrap().contains(&forbidden));
    assert_eq!(pod["volumes"].as_array().unwrap().len(), 1);
}

#[test]
fn the_limit_of_locked_memory_costs_a_capability_only_where_it_is_asked_for() {
    let mut options = Options::default();
    options.values.merge("raiseMemlock: true").unwrap();
    let agent = find(&render(&options).unwrap(), "DaemonSet", names::AGENT);
    let added = agent["spec"]["template"]["spec"]["containers"][0]["securityContext"]["capabilities"]["add"].clone();
    let added: BTreeSet<&str> = added.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert_eq!(added.difference(&needed()).copied().collect::<Vec<_>>(), ["SYS_RESOURCE"]);
}

#[test]
fn agents_stay_away_from_control_planes_unless_asked() {
    let affinity = agent()["spec"]["template"]["spec"]["affinity"].clone();
    let terms = &affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
    let expression = json!({"key": names::CONTROL_PLANE, "operator": "DoesNotExist"});
    assert_eq!(*terms, json!([{"matchExpressions": [expression]}]));
}

#[test]
fn agents_write_events_of_their_own_kind_alone() {
    let policy = find(&objects(), "ValidatingAdmissionPolicy", "redir-events");
    let text = policy.to_string();
    let reasons: Vec<String> = names::EVENT_REASONS.iter().map(|reason| format!("'{reason}'")).collect();
    for part in [&format!("in [{}]", reasons.join(", ")), &format!("== '{}'", names::REPORTER)] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let elsewhere = render(&Options { namespace: "elsewhere".into(), ..Options::default() }).unwrap();
    let policy = find(&elsewhere, "ValidatingAdmissionPolicy", "redir-events");
    let condition = r#""system:serviceaccount:" + "elsewhere" + ":redir-agent""#;
    assert!(policy["spec"]["matchConditions"][0]["expression"].as_str().unwrap().ends_with(condition), "{policy}");
}

/// Everybody may read what tells whether a name was checked, and nothing else of the kind.
#[test]
fn policies_are_for_everybody_to_read() {
    let role = find(&objects(), "ClusterRole", "redir-policies");
    let names = |kind: &str| -> BTreeSet<String> {
        let all = objects();
        let all = all.iter().filter(|object| object["kind"] == kind);
        all.map(|object| object["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    let readable: BTreeSet<String> = role["rules"][0]["resourceNames"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap().into())
        .collect();
    assert_eq!(readable, names("ValidatingAdmissionPolicy"));
    assert_eq!(readable, names("ValidatingAdmissionPolicyBinding"));
    assert!(rights(&role).iter().all(|right| right.ends_with(" get")));
}

/// What the agent's own preflight asks for; SYS_ADMIN includes BPF.
fn needed() -> BTreeSet<&'static str> {
    let source = include_str!("../../node-agent/guardian/src/preflight.rs");
    let lists = source.split("const NEEDED").nth(1).and_then(|rest| rest.split("#[cfg(test)]").next()).unwrap();
    let names = lists.split("\"CAP_").skip(1).filter_map(|rest| rest.split('"').next());
    names.filter(|name| *name != "BPF").collect()
}

/// What a role may do, as `group/resource verb`.
fn rights(role: &Value) -> BTreeSet<String> {
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let mut rights = BTreeSet::new();
    for rule in role["rules"].as_array().unwrap() {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                rights.extend(texts(&rule["verbs"]).iter().map(|verb| format!("{group}/{resource} {verb}")));
            }
        }
    }
    rights
}

#[test]
fn roles_are_small_and_apart() {
    let objects = objects();
    let agent = rights(&find(&objects, "ClusterRole", names::AGENT));
    let developer = rights(&find(&objects, "ClusterRole", names::DEVELOPER_ROLE));
    for right in agent.iter().chain(&developer) {
        assert!(!right.contains('*') && !right.contains("secrets") && !right.contains("exec"), "{right}");
    }
    let status = |rights: &BTreeSet<String>| rights.iter().any(|right| right.contains("intercepts/status"));
    assert!(status(&agent) && !status(&developer), "the agent's role alone writes status");
    assert!(!agent.iter().any(|right| right.ends_with(" create") && right.contains("intercepts")));
    let writes = developer
        .iter()
        .filter(|right| ["create", "patch", "update", "delete"].iter().any(|verb| right.ends_with(verb)));
    assert!(writes.clone().all(|right| right.starts_with("redir.dev/intercepts ")), "{writes:?}");
    for kind in redir_api::TargetKind::ALL {
        for verb in ["get", "intercept"] {
            let right = format!("{}/{} {verb}", kind.group(), kind.plural());
            assert!(developer.contains(&right), "{right}");
        }
    }
}

#[test]
fn closing_connections_beside_a_filter_is_a_right_that_no_role_has() {
    let policy = find(&objects(), "ValidatingAdmissionPolicy", "redir-intercepts");
    let validations = policy["spec"]["validations"].as_array().unwrap();
    let checks = |verb: &str| {
        let check = format!(".check('{verb}').allowed()");
        validations.iter().filter(|one| one["expression"].as_str().unwrap().matches(&check).count() == 2).count()
    };
    assert_eq!((checks("intercept"), checks("flush")), (1, 1));
    let objects = objects();
    for role in objects.iter().filter(|object| object["kind"] == "ClusterRole") {
        assert!(!rights(role).iter().any(|right| right.ends_with(" flush")), "{role}");
    }
}

#[test]
fn policies_name_every_kind_of_target() {
    let policy = find(&objects(), "ValidatingAdmissionPolicy", "redir-intercepts");
    let kinds = policy["spec"]["variables"][0]["expression"].as_str().unwrap();
    for kind in redir_api::TargetKind::ALL {
        let entry = format!("'{}': ['{}', '{}']", kind.as_str(), kind.group(), kind.plural());
        assert!(kinds.contains(&entry), "{entry} is not in {kinds}");
    }
    assert_eq!(kinds.matches(':').count(), redir_api::TargetKind::ALL.len());
    for object in objects().iter().filter(|object| object["kind"] == "ValidatingAdmissionPolicyBinding") {
        find(&objects(), "ValidatingAdmissionPolicy", object["spec"]["policyName"].as_str().unwrap());
    }
    let rule = &policy["spec"]["matchConstraints"]["resourceRules"][0];
    assert_eq!((&rule["apiGroups"], &rule["resources"]), (&json!([redir_api::GROUP]), &json!([redir_api::PLURAL])));
}

#[test]
fn the_definition_is_the_one_of_the_code() {
    let mut expected = serde_json::to_value(redir_api::crd::definition()).unwrap();
    expected["metadata"]["labels"] = json!({"app.kubernetes.io/part-of": "redir"});
    assert_eq!(find(&objects(), "CustomResourceDefinition", "intercepts.redir.dev"), expected);
}

#[test]
fn every_object_is_part_of_redir_and_in_its_place() {
    let options = Options { namespace: "elsewhere".into(), ..Options::default() };
    for object in render(&options).unwrap() {
        assert_eq!(object["metadata"]["labels"]["app.kubernetes.io/part-of"], "redir", "{object}");
        assert!(!object.to_string().contains(names::NAMESPACE), "{object}");
    }
    let namespace = find(&render(&options).unwrap(), "Namespace", "elsewhere");
    assert_eq!(namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "privileged");
}

#[test]
fn values_reach_the_agent_and_wrong_ones_are_named() {
    let mut values = Values::default();
    assert!(values.image().ends_with(concat!(":", env!("CARGO_PKG_VERSION"))), "{}", values.image());
    values.merge("image: registry.local/agent:7\ntolerations: []\n").unwrap();
    let objects = render(&Options { values: values.clone(), ..Options::default() }).unwrap();
    let pod = find(&objects, "DaemonSet", names::AGENT)["spec"]["template"]["spec"].clone();
    assert_eq!((&pod["containers"][0]["image"], &pod["tolerations"]), (&json!("registry.local/agent:7"), &json!([])));
    for (text, named) in [
        ("imgae: a", "imgae"),
        ("image: 3", "image"),
        ("log: true", "log"),
        ("maxUnavailable: many", "number"),
        ("- a", "map"),
        ("a: [", "YAML"),
    ] {
        let error = values.merge(text).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
}

/// The container, and everything else that is rendered, with this value.
fn with_value(yaml: &str) -> (Value, Vec<Value>) {
    let mut values = Values::default();
    values.merge(yaml).unwrap_or_else(|error| panic!("{yaml}: {error}"));
    let objects = render(&Options { values, ..Options::default() }).unwrap_or_else(|error| panic!("{yaml}: {error}"));
    (find(&objects, "DaemonSet", names::AGENT), objects)
}

/// Where a value arrives in the DaemonSet.
fn arrived(agent: &Value, name: &str) -> Value {
    let pod = &agent["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let argument = |flag: &str| {
        let words = container["args"].as_array().unwrap();
        words[1 + words.iter().position(|word| word == flag).unwrap()].clone()
    };
    let variable = |name: &str| {
        let variables = container["env"].as_array().unwrap();
        variables.iter().find(|variable| variable["name"] == name).unwrap()["value"].clone()
    };
    match name {
        "image" | "imagePullPolicy" | "resources" => container[name].clone(),
        "apiServer" => variable(names::ENV_API_SERVER),
        "forbiddenNamespaces" => variable(names::ENV_FORBIDDEN_NAMESPACES),
        "log" => argument("--log"),
        "logFormat" => argument("--log-format"),
        "raiseMemlock" => {
            let rights = container["securityContext"]["capabilities"]["add"].as_array().unwrap();
            rights.contains(&json!("SYS_RESOURCE")).into()
        }
        "controlPlane" => pod["affinity"].is_null().into(),
        "maxUnavailable" => agent["spec"]["updateStrategy"]["rollingUpdate"][name].clone(),
        _ => pod[name].clone(),
    }
}

#[test]
fn every_value_has_an_example_and_each_arrives_as_it_is_written() {
    let (defaults, everything) = with_value("");
    let mut shown = BTreeSet::new();
    for example in redir_manifests::value_examples() {
        let parsed = redir_manifests::parse(example).unwrap().remove(0);
        for (name, value) in parsed.as_object().unwrap() {
            let (agent, objects) = with_value(example);
            assert_eq!(arrived(&agent, name), *value, "{example}");
            assert_ne!(arrived(&defaults, name), *value, "{example} shows the default");
            assert_eq!(objects.len(), everything.len(), "{example}");
            shown.insert(name.clone());
        }
    }
    let values = redir_manifests::parse(include_str!("../chart/values.yaml")).unwrap().remove(0);
    for (name, value) in values.as_object().unwrap() {
        assert_eq!(arrived(&defaults, name), *value, "{name}");
    }
    assert_eq!(shown, values.as_object().unwrap().keys().cloned().collect(), "each value has an example");
}

/// Seen with Helm 4.3.2: maps are merged key by key, lists replaced.
#[test]
fn values_are_merged_as_helm_merges_them() {
    let with = |yaml: &str, name: &str| arrived(&with_value(yaml).0, name);
    let os = "kubernetes.io/os";
    assert_eq!(with("nodeSelector: {pool: apps}", "nodeSelector"), json!({"pool": "apps", os: "linux"}));
    assert_eq!(with("nodeSelector: {}", "nodeSelector"), json!({os: "linux"}));
    assert_eq!(with("nodeSelector: {kubernetes.io/os: null}", "nodeSelector"), json!({}));
    let resources = json!({"requests": {"cpu": "1", "memory": "64Mi"}, "limits": {"memory": "256Mi"}});
    assert_eq!(with("resources: {requests: {cpu: '1'}}", "resources"), resources);
    assert_eq!(with("tolerations: []", "tolerations"), json!([]));
}

/// What YAML would take for something else, or what would end the text and begin something of its own.
const HOSTILE: [&str; 24] = [
    "redir_worker=debug,info",
    "true",
    "null",
    "~",
    "",
    "1e3",
    "0x1",
    "007",
    "1_000",
    ".inf",
    "2026-11-30",
    "a: b",
    "a #b",
    "'",
    "\"",
    "\\",
    "}} {{",
    "[a, {b: c}]",
    "&a *b !c %d @e `f`",
    "- a",
    "a\nkind: Secret\n---\nkind: Secret",
    "\u{7f}\u{85}\u{2028}\u{feff}",
    " a ",
    "\u{1f600} \t\r\u{0}",
];

#[test]
fn hostile_text_stays_the_text_of_its_value() {
    let count = objects().len();
    for text in HOSTILE {
        let texts = ["apiServer", "image", "imagePullPolicy", "log", "logFormat", "priorityClassName"];
        let mut values = Values::default();
        for name in texts {
            values.set(name, json!(text)).unwrap();
        }
        values.set("nodeSelector", json!({text: text})).unwrap();
        values.set("imagePullSecrets", json!([{"name": text}])).unwrap();
        let rendered = render(&Options { values, ..Options::default() }).unwrap();
        assert_eq!(rendered.len(), count, "{text:?}");
        let agent = find(&rendered, "DaemonSet", names::AGENT);
        for name in texts {
            assert_eq!(arrived(&agent, name), text, "{name}");
        }
        assert_eq!(arrived(&agent, "nodeSelector"), json!({text: text}));
        assert_eq!(arrived(&agent, "imagePullSecrets"), json!([{"name": text}]));
        let elsewhere = render(&Options { namespace: text.to_owned(), ..Options::default() }).unwrap();
        assert_eq!(find(&elsewhere, "DaemonSet", names::AGENT)["metadata"]["namespace"], text);
        assert_eq!(find(&elsewhere, "ClusterRoleBinding", names::AGENT)["subjects"][0]["namespace"], text);
        find(&elsewhere, "Namespace", text);
    }
}

/// `--image REF` and `--set NAME=VALUE` of the documents, and what `redir install --help` shows.
#[test]
fn what_documents_show_is_rendered() {
    let documents = [
        include_str!("../../README.md"),
        include_str!("../../docs/src/install.md"),
        include_str!("../../CONTRIBUTING.md"),
        include_str!("../../cli/src/wording/help.rs"),
    ];
    let mut shown = 0;
    for text in documents {
        let words: Vec<&str> = text.split_whitespace().collect();
        for pair in words.windows(2) {
            let (name, value) = match pair {
                ["--image", image] if image.contains('/') => ("image", *image),
                ["--set", assignment] => assignment.split_once('=').unwrap(),
                _ => continue,
            };
            let value = value.trim_matches(['`', '"', '\'']);
            let mut values = Values::default();
            values.set(name, json!(value)).unwrap();
            let agent = find(&render(&Options { values, ..Options::default() }).unwrap(), "DaemonSet", names::AGENT);
            assert_eq!(arrived(&agent, name), value);
            shown += 1;
        }
    }
    assert!(shown >= 3, "{shown}");
}

#[test]
fn the_chart_is_of_this_release() {
    let chart = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("chart/Chart.yaml")).unwrap();
    let chart = &redir_manifests::parse(&chart).unwrap()[0];
    assert_eq!(
        (&chart["version"], &chart["appVersion"]),
        (&json!(env!("CARGO_PKG_VERSION")), &json!(env!("CARGO_PKG_VERSION")))
    );
    assert_eq!(chart["kubeVersion"], format!(">=1.{}.0-0", OLDEST.0));
}
