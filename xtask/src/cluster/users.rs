//! Users of a cluster, for trying what RBAC lets them do: client certificates signed by the cluster itself, through its own
//! API for that. Works with every provider, and needs no right but the admin's kubeconfig.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use redir_rig::namespace::checked;
use redir_rig::wait;
use serde_json::{Value, json};

use super::kubeconfig::{self, Identity};
use super::kubectl::Kubectl;

/// The controller signs as soon as it sees the approval.
const LIMIT: Duration = Duration::from_secs(30);

/// Writes `FOLDER/NAME.kubeconfig` for a user with these groups; the path.
pub(super) fn make(admin: &Kubectl, name: &str, groups: &[String], folder: &Path) -> Result<PathBuf> {
    let subject = subject(name, groups)?;
    let server = admin.output(&["config", "view", "--output=jsonpath={.clusters[0].cluster.server}"])?;
    let authority = admin.output(&[
        "config",
        "view",
        "--raw",
        "--output=jsonpath={.clusters[0].cluster.certificate-authority-data}",
    ])?;
    let (key, request) = key_and_request(&subject)?;
    let identity = Identity { user: name.to_owned(), certificate: sign(admin, &request)?, key };
    let path = folder.join(format!("{name}.kubeconfig"));
    kubeconfig::write(&path, &server, &text(&authority)?, &identity)?;
    Ok(path)
}

/// As openssl takes it: Kubernetes reads the user from CN and the groups from O.
fn subject(name: &str, groups: &[String]) -> Result<String> {
    let mut subject = String::new();
    for group in groups {
        ensure!(is_plain(group), "a group is of letters, digits and any of `.:_@-`; {group:?} is not");
        subject += &format!("/O={group}");
    }
    ensure!(is_plain(name), "a user's name is of letters, digits and any of `.:_@-`; {name:?} is not");
    Ok(subject + "/CN=" + name)
}

/// Neither a path nor a part of a subject can be broken out of.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|letter| letter.is_ascii_alphanumeric() || ".:_@-".contains(letter))
}

/// Both PEM. Openssl prints the key, then the request.
fn key_and_request(subject: &str) -> Result<(String, String)> {
    let mut command = Command::new("openssl");
    command.args(["req", "-new", "-batch", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
    let pem = checked(command.args(["-subj", subject, "-keyout", "-"]), None)?;
    let (key, request) = pem.split_once("-----BEGIN CERTIFICATE REQUEST").context("openssl printed no request")?;
    Ok((key.to_owned(), format!("-----BEGIN CERTIFICATE REQUEST{request}")))
}

/// The certificate, PEM.
fn sign(admin: &Kubectl, request: &str) -> Result<String> {
    let object = json!({
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": { "generateName": "redir-user-" },
        "spec": {
            "request": BASE64.encode(request),
            "signerName": "kubernetes.io/kube-apiserver-client",
            "usages": ["client auth"],
        },
    });
    let made = admin.output_with(&["create", "--filename=-", "--output=json"], &object)?;
    let made: Value = serde_json::from_str(&made).context("kubectl create gave no JSON")?;
    let name = made["metadata"]["name"].as_str().context("a signing request without a name")?;
    admin.output(&["certificate", "approve", name])?;
    let certificate = wait::until("the cluster to sign the user's certificate", LIMIT, || {
        let request = admin.get(&["certificatesigningrequests", name])?;
        Ok(request["status"]["certificate"].as_str().map(str::to_owned))
    })?;
    admin.output(&["delete", "certificatesigningrequests", name])?;
    text(&certificate)
}

fn text(base64: &str) -> Result<String> {
    let bytes = BASE64.decode(base64).context("the cluster gave a certificate that is not base64")?;
    String::from_utf8(bytes).context("the cluster gave a certificate that is not PEM")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_come_before_the_name() {
        assert_eq!(subject("alice", &["dev".into(), "team:a".into()]).unwrap(), "/O=dev/O=team:a/CN=alice");
    }

    #[test]
    fn names_that_would_mean_something_else_are_refused() {
        for name in ["", "a/b", "../x", "a b", "a\nb"] {
            assert!(subject(name, &[]).is_err(), "{name:?}");
        }
        assert!(subject("alice", &["x/CN=admin".into()]).is_err());
    }
}
