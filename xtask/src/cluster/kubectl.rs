//! kubectl with a cluster's own kubeconfig and nothing of the person's environment that would lead it elsewhere.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use redir_rig::namespace::checked;
use serde_json::Value;

/// For requests that are answered at once or never.
const LIMIT: &str = "--request-timeout=10s";

/// The cluster is on this machine; no proxy reaches it.
pub(crate) fn without_proxies(command: &mut Command) {
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
        command.env_remove(name);
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Kubectl {
    pub(super) fn new(program: impl Into<PathBuf>, kubeconfig: impl Into<PathBuf>) -> Kubectl {
        Kubectl { program: program.into(), kubeconfig: kubeconfig.into() }
    }

    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The same program as somebody else.
    pub(crate) fn with(&self, kubeconfig: &Path) -> Kubectl {
        Kubectl::new(&self.program, kubeconfig)
    }

    /// For arguments of the caller's.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        without_proxies(command.env("KUBECONFIG", &self.kubeconfig));
        command
    }

    /// Runs a short command; its output.
    pub(crate) fn output(&self, arguments: &[&str]) -> Result<String> {
        checked(self.command().arg(LIMIT).args(arguments), None)
    }

    /// The same with an object on its standard input, for `-f -`.
    pub(crate) fn output_with(&self, arguments: &[&str], object: &Value) -> Result<String> {
        checked(self.command().arg(LIMIT).args(arguments), Some(&object.to_string()))
    }

    /// What `kubectl get WHAT… -o json` gives.
    pub(crate) fn get(&self, what: &[&str]) -> Result<Value> {
        let text = self.output(&[&["get", "--output=json"], what].concat())?;
        serde_json::from_str(&text).with_context(|| format!("kubectl gave no JSON for {}", what.join(" ")))
    }

    /// What the API server answers at a path.
    pub(crate) fn raw(&self, path: &str) -> Result<String> {
        self.output(&["get", "--raw", path])
    }
}
