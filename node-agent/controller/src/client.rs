//! How the agent reaches the API server.

use std::path::PathBuf;

use anyhow::Context;
use kube::{
    Config,
    config::{KubeConfigOptions, Kubeconfig},
};

use redir_config::KubernetesSettings;

/// Where that is written.
pub(super) enum CredentialSource {
    /// The service account of the agent's pod; its token is read again as it is renewed.
    Pod(Box<Config>),
    /// A kubeconfig file.
    File(PathBuf),
}

impl CredentialSource {
    /// Fails if there is nothing to try with.
    pub(super) fn new(settings: &KubernetesSettings) -> anyhow::Result<Self> {
        if let Some(file) = &settings.kubeconfig {
            return Ok(Self::File(file.clone()));
        }
        let config = Config::incluster_env()
            .context("the agent has no service account here; run it as a pod, or give it --kubeconfig")?;
        Ok(Self::Pod(Box::new(config)))
    }

    /// How to reach it; nothing is asked yet.
    pub(super) async fn config(&self) -> anyhow::Result<Config> {
        match self {
            Self::Pod(config) => Ok(Config::clone(config)),
            Self::File(file) => {
                let shown = file.display();
                let kubeconfig = Kubeconfig::read_from(file).with_context(|| format!("cannot use {shown}"))?;
                let options = KubeConfigOptions::default();
                Config::from_custom_kubeconfig(kubeconfig, &options)
                    .await
                    .with_context(|| format!("cannot use {shown}"))
            }
        }
    }
}
