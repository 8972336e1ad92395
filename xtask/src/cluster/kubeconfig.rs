//! Kubeconfig files: one cluster, one user, one context, all of it in the file.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, chown};
use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;

/// Who the file makes its reader.
pub(super) struct Identity {
    pub(super) user: String,
    /// PEM
    pub(super) certificate: String,
    /// PEM
    pub(super) key: String,
}

/// Writes it with mode 0600, owned by whoever owns its folder: the person, also where xtask itself runs as root.
pub(super) fn write(to: &Path, server: &str, authority: &str, identity: &Identity) -> Result<()> {
    // JSON is YAML.
    let text = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "redir",
        "contexts": [{ "name": "redir", "context": { "cluster": "redir", "user": identity.user } }],
        "clusters": [{
            "name": "redir",
            "cluster": { "server": server, "certificate-authority-data": BASE64.encode(authority) },
        }],
        "users": [{
            "name": identity.user,
            "user": {
                "client-certificate-data": BASE64.encode(&identity.certificate),
                "client-key-data": BASE64.encode(&identity.key),
            },
        }],
    });
    let mut file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(to)
        .with_context(|| format!("cannot write {}", to.display()))?;
    writeln!(file, "{text:#}").with_context(|| format!("cannot write {}", to.display()))?;
    let folder = to.parent().expect("a kubeconfig lies in a folder");
    let owner = fs::metadata(folder).with_context(|| format!("cannot look at {}", folder.display()))?;
    chown(to, Some(owner.uid()), Some(owner.gid()))
        .with_context(|| format!("cannot give {} to its folder's owner", to.display()))
}
