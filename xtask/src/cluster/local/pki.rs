//! The local cluster's keys and certificates, made anew for each cluster by openssl: one authority, and a certificate for
//! everything that proves itself to something else. They go with the cluster.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use redir_rig::namespace::checked;

use super::plan::{ADDON_USER, API_SERVICE, ClusterMachine, STATE};
use crate::cluster::kubeconfig::{self, Identity};

const OPENSSL_CONFIG: &str = include_str!("openssl.cnf");
/// A cluster for tests never lives that long.
const DAYS: &str = "3650";

/// The folder with `NAME.crt` and `NAME.key`.
pub(super) struct ClusterPki {
    folder: PathBuf,
}

/// Who a certificate is for.
struct CertificateSubject<'a> {
    file: &'a str,
    /// Kubernetes reads the user from CN and the groups from O.
    name: &'a str,
    alternatives: &'a str,
}

impl ClusterPki {
    /// Where they are, made or not.
    pub(super) fn place() -> ClusterPki {
        ClusterPki { folder: Path::new(STATE).join("pki") }
    }

    /// Makes all that the cluster's own components need.
    pub(super) fn make(nodes: u8) -> Result<ClusterPki> {
        let pki = ClusterPki::place();
        fs::create_dir_all(&pki.folder).with_context(|| format!("cannot make {}", pki.folder.display()))?;
        fs::write(pki.folder.join("openssl.cnf"), OPENSSL_CONFIG).context("cannot write openssl.cnf")?;
        pki.authority()?;
        let api = ClusterMachine::Control.address();
        let api = format!(
            "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:localhost,\
             IP:{API_SERVICE},IP:{api},IP:127.0.0.1"
        );
        pki.issue(&CertificateSubject { file: "kube-apiserver", name: "/CN=kube-apiserver", alternatives: &api })?;
        for (file, name) in [
            ("admin", "/O=system:masters/CN=admin"),
            ("to-kubelets", "/O=system:masters/CN=kube-apiserver"),
            ("kube-controller-manager", "/CN=system:kube-controller-manager"),
            ("kube-scheduler", "/CN=system:kube-scheduler"),
            ("kube-proxy", "/CN=system:kube-proxy"),
            (ADDON_USER, "/O=system:masters/CN=addons"),
        ] {
            pki.issue(&CertificateSubject { file, name, alternatives: "DNS:localhost" })?;
        }
        for node in ClusterMachine::nodes(nodes) {
            let name = format!("/O=system:nodes/CN=system:node:{node}");
            let alternatives = format!("DNS:{node},IP:{}", node.address());
            pki.issue(&CertificateSubject { file: &node.to_string(), name: &name, alternatives: &alternatives })?;
        }
        // Not a certificate: what service accounts' tokens are signed with.
        pki.openssl(&["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "service-accounts.key"])?;
        pki.openssl(&["ec", "-in", "service-accounts.key", "-pubout", "-out", "service-accounts.pub"])?;
        Ok(pki)
    }

    /// The path of one of the files.
    pub(super) fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// Writes a kubeconfig with everything in it for the owner of a certificate.
    pub(super) fn kubeconfig(&self, certificate: &str, server: &str, to: &Path) -> Result<()> {
        let read = |name: String| {
            let path = self.folder.join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let identity = Identity {
            user: certificate.to_owned(),
            certificate: read(format!("{certificate}.crt"))?,
            key: read(format!("{certificate}.key"))?,
        };
        kubeconfig::write(to, server, &read("ca.crt".into())?, &identity)
    }

    fn authority(&self) -> Result<()> {
        self.request("ca", "/CN=redir-cluster", "ca", &[])
    }

    fn issue(&self, subject: &CertificateSubject) -> Result<()> {
        let alternatives = format!("subjectAltName={}", subject.alternatives);
        let signed = ["-CA", "ca.crt", "-CAkey", "ca.key", "-addext", &alternatives];
        self.request(subject.file, subject.name, "leaf", &signed)
    }

    fn request(&self, file: &str, name: &str, extensions: &str, more: &[&str]) -> Result<()> {
        let (key, certificate) = (format!("{file}.key"), format!("{file}.crt"));
        let mut arguments = vec!["req", "-config", "openssl.cnf", "-x509", "-days", DAYS, "-nodes", "-newkey", "ec"];
        arguments.extend(["-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", name, "-extensions", extensions]);
        arguments.extend(["-keyout", &key, "-out", &certificate]);
        arguments.extend(more);
        self.openssl(&arguments)
    }

    fn openssl(&self, arguments: &[&str]) -> Result<()> {
        checked(Command::new("openssl").current_dir(&self.folder).args(arguments), None).map(drop)
    }
}
