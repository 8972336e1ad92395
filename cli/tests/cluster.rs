//! Commands for a cluster where there is none: what the kubeconfig lacks, and what needs no server.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;

use common::{Home, assert_one_sentence};

/// A kubeconfig whose server refuses connections: port 1 is nobody's.
const CONFIG: &str = r#"
apiVersion: v1
kind: Config
current-context: here
contexts:
- {name: here, context: {cluster: c, user: u, namespace: shop}}
- {name: there, context: {cluster: c, user: u}}
clusters:
- {name: c, cluster: {server: "https://127.0.0.1:1"}}
users:
- {name: u, user: {token: t}}
"#;

fn home(config: &str) -> Home {
    let home = Home::new();
    std::fs::create_dir_all(home.path().join(".kube")).unwrap();
    std::fs::write(home.path().join(".kube/config"), config).unwrap();
    home
}

fn refused(home: &Home, arguments: &[&str], code: i32, expected: &[&str]) {
    let (found, text) = home.refusal(arguments);
    assert_eq!(found, Some(code), "{arguments:?}: {text}");
    assert_one_sentence(&text);
    for words in expected {
        assert!(text.contains(words), "{arguments:?} lacks {words:?}: {text}");
    }
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let home = home(CONFIG);
    let expected = ["https://127.0.0.1:1", "refused", "kubectl cluster-info"];
    for arguments in [
        &["intercept", "deploy/web", "--port", "80"][..],
        &["intercept", "web-1", "--port", "80"],
        &["intercept", "-l", "app=web", "--port", "http:3000", "--", "sleep", "600"],
        &["list"],
        &["list", "-A"],
        &["status"],
        &["leave", "deploy/web"],
        &["describe", "web-1"],
        &["install"],
        &["upgrade"],
        &["uninstall"],
    ] {
        refused(&home, arguments, 1, &expected);
    }
}

#[test]
fn doctor_says_so_too_and_ends_with_1() {
    let home = home(CONFIG);
    let output = home.run(&["doctor"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.starts_with("ok ") && text.contains("FAIL   server") && text.contains("cluster-info"), "{text}");
    let output = home.run(&["doctor", "-o", "json"]);
    let lines: Vec<serde_json::Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.last().unwrap()["finding"], "problem");
}

#[test]
fn contexts_are_chosen_among_those_that_there_are() {
    refused(&home(CONFIG), &["list", "--context", "nowhere"], 2, &["nowhere", "here, there", "--context"]);
    let without = CONFIG.replace("current-context: here", "");
    refused(&home(&without), &["list"], 2, &["no current context", "here, there"]);
    refused(&home("a: ["), &["list"], 2, &["kubeconfig", "kubectl config view"]);
    refused(&home(CONFIG), &["list", "--context", "there"], 1, &["127.0.0.1:1"]);
}

#[test]
fn static_agents_come_first_for_bare_names() {
    let home = home(CONFIG);
    home.write_config(
        "[agents.n]\naddress = \"127.0.0.1:1\"\nkey = \"sha256:47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU\"\n",
    );
    refused(&home, &["list"], 2, &["no key file"]);
    refused(&home, &["intercept", "web-1", "--port", "http"], 2, &["no key file"]);
    refused(&home, &["list", "-n", "shop"], 1, &["https://127.0.0.1:1"]);
    refused(&home, &["intercept", "pod/web-1", "--port", "80"], 1, &["https://127.0.0.1:1"]);
    home.keygen();
    refused(&home, &["intercept", "web-1", "--port", "http"], 2, &["`http`", "number"]);
}

/// Whoever has static agents and no kubeconfig is not sent looking for one.
#[test]
fn a_workload_with_static_agents_alone_is_told_so() {
    let home = Home::new();
    home.write_config(
        "[agents.n]\naddress = \"127.0.0.1:1\"\nkey = \"sha256:47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU\"\n",
    );
    refused(&home, &["intercept", "service/web", "--port", "80"], 2, &["service/web", "static agents", "redir list"]);
    refused(&home, &["leave", "svc/web"], 2, &["service/web", "static agents"]);
    refused(&home, &["list", "-A"], 2, &["--all-namespaces", "kubeconfig"]);
    refused(&home, &["doctor"], 2, &["`redir doctor` is for Kubernetes", "static agents", "redir status"]);
    refused(&home, &["describe", "web-1"], 2, &["`redir describe` is for Kubernetes", "static agents", "redir list"]);
}

/// A first `redir list` says what to do.
#[test]
fn without_anything_the_first_steps_are_named() {
    refused(&Home::new(), &["list"], 2, &["no kubeconfig", "--kubeconfig", "redir keygen", "redir --help"]);
}

#[test]
fn manifests_are_printed_without_a_server() {
    let output = Home::new().run(&["install", "--print", "--image", "registry.local/agent:7", "-n", "elsewhere"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    for words in ["kind: CustomResourceDefinition", "image: \"registry.local/agent:7\"", "namespace: \"elsewhere\""] {
        assert!(text.contains(words), "{words}");
    }
}

/// Answers what a server of 1.29 would that has one object of an older redir, and has it no longer once it was deleted.
fn old_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let role = r#"{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRole","metadata":{"name":"redir-developer","uid":"1","labels":{"app.kubernetes.io/part-of":"redir"}}}"#;
        let mut has_role = true;
        for connection in listener.incoming() {
            let mut connection = BufReader::new(connection.unwrap());
            let (mut request, mut line, mut length) = (String::new(), String::new(), 0);
            connection.read_line(&mut request).unwrap();
            while connection.read_line(&mut line).unwrap() > 2 {
                let lower = line.to_lowercase();
                length = lower.strip_prefix("content-length: ").map_or(length, |value| value.trim().parse().unwrap());
                line.clear();
            }
            std::io::copy(&mut std::io::Read::take(&mut connection, length), &mut std::io::sink()).unwrap();
            let is_role = request.contains("/apis/rbac.authorization.k8s.io/v1/clusterroles/redir-developer");
            let (status, body) = match is_role && has_role {
                true => ("200 OK", role),
                false if request.contains("/version") => (
                    "200 OK",
                    r#"{"major":"1","minor":"29","gitVersion":"v1.29.0","gitCommit":"","gitTreeState":"","buildDate":"","goVersion":"","compiler":"","platform":""}"#,
                ),
                false if request.contains("/pods?") => {
                    ("200 OK", r#"{"apiVersion":"v1","kind":"PodList","metadata":{},"items":[]}"#)
                }
                false => (
                    "404 Not Found",
                    r#"{"apiVersion":"v1","kind":"Status","status":"Failure","message":"not found","reason":"NotFound","code":404}"#,
                ),
            };
            has_role &= !(is_role && request.starts_with("DELETE "));
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
            );
            connection.get_mut().write_all((head + body).as_bytes()).unwrap();
        }
    });
    address
}

/// What an older redir has installed there could be removed by nobody else.
#[test]
fn uninstall_asks_for_no_newer_server() {
    let home = home(&CONFIG.replace("https://127.0.0.1:1", &old_server()));
    refused(&home, &["install"], 1, &["v1.29.0", "1.30 or newer"]);
    let output = home.run(&["uninstall", "--yes"]);
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("deleted clusterrole redir-developer") && text.contains("redir is gone"), "{text}");
    let output = home.run(&["uninstall"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("there was no redir"), "{output:?}");
}

/// As behind `| head`, when that has enough.
#[test]
fn a_reader_that_left_is_no_failure() {
    let home = home(CONFIG);
    for (arguments, code) in [
        (&["completions", "bash"][..], 0),
        (&["install", "--print"], 0),
        (&["doctor"], 1),
        (&["doctor", "-o", "json"], 1),
        (&["keygen"], 0),
        (&["intercept", "--help"], 0),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = home.command(arguments).stdout(writer).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(!said.contains("panicked"), "{arguments:?}: {said}");
    }
}

#[cfg(unix)]
#[test]
fn as_a_plugin_of_kubectl_it_goes_by_that_name() {
    let home = Home::new();
    let plugin = home.path().join("kubectl-redir");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_redir"), &plugin).unwrap();
    let output = std::process::Command::new(plugin).args(["intercept", "-h"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("Usage: kubectl redir intercept"), "{text}");
}

#[test]
fn values_files_are_checked_before_anything_is_asked() {
    let home = home(CONFIG);
    let values = home.path().join("values.yaml");
    for (text, expected) in
        [("imgae: a\n", "`imgae`"), ("tolerations: all\n", "`tolerations` must be a list"), ("a: [", "no YAML")]
    {
        std::fs::write(&values, text).unwrap();
        refused(&home, &["install", "--values", values.to_str().unwrap()], 2, &["values.yaml", expected]);
    }
}
