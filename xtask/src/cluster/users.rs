//! Users of a cluster, for trying what RBAC lets them do: client certificates signed by the cluster itself, through its own
//! API for that. Works with every provider, and needs no right but the admin's kubeconfig.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use redir_rig::namespace::checked;
use redir_rig::wait;
use serde_json::{Value, json};

use super::kubeconfig::{self, Identity};
use super::kubectl::Kubectl;

/// The controller signs as soon as it sees the approval.
const LIMIT: Duration = Duration::from_secs(30);

/// Writes `FOLDER/NAME.kubeconfig` for a user with these groups, all of them as [`name`] lets through; the path.
pub(super) fn make(admin: &Kubectl, name: &str, groups: &[String], folder: &Path) -> Result<PathBuf> {
    let server = admin.output(&["config", "view", "--output=jsonpath={.clusters[0].cluster.server}"])?;
    let authority = admin.output(&[
        "config",
        "view",
        "--raw",
        "--output=jsonpath={.clusters[0].cluster.certificate-authority-data}",
    ])?;
    let (key, request) = key_and_request(&subject(name, groups))?;
    let identity = Identity { user: name.to_owned(), certificate: sign(admin, &request)?, key };
    let path = folder.join(format!("{name}.kubeconfig"));
    kubeconfig::write(&path, &server, &text(&authority)?, &identity)?;
    Ok(path)
}

/// A user's or group's name from the command line. Neither a path nor a certificate's subject can be broken out of.
pub(super) fn name(text: &str) -> Result<String, String> {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || ".:_@-".contains(letter);
    if text.is_empty() || !text.chars().all(plain) {
        return Err("a name is of letters, digits and any of `.:_@-`".into());
    }
    Ok(text.to_owned())
}

/// As openssl takes it: Kubernetes reads the user from CN and the groups from O.
fn subject(name: &str, groups: &[String]) -> String {
    let groups: String = groups.iter().map(|group| format!("/O={group}")).collect();
    format!("{groups}/CN={name}")
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
        assert_eq!(subject("alice", &["dev".into(), "team:a".into()]), "/O=dev/O=team:a/CN=alice");
    }

    #[test]
    fn names_that_would_mean_something_else_are_refused() {
        assert_eq!(name("alice@example.com").as_deref(), Ok("alice@example.com"));
        for text in ["", "a/b", "../x", "a b", "a\nb", "x/CN=admin"] {
            assert!(name(text).is_err(), "{text:?}");
        }
    }
}
