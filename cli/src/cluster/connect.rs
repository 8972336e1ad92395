//! From kubectl's flags and files to a client.
//!
//! Owns: which file, context and namespace count, and the limits of a call. Called by: `commands`.

use std::path::Path;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::version::Info;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError, NamedContext};
use kube::{Client, Config};
use tokio::time::timeout;

use super::api_call::{ApiCall, explain};
use crate::args;
use crate::error::CliError;
use crate::wording::cluster as say;

/// A server that takes longer to accept a connection is not there for a developer who waits.
const CONNECT: Duration = Duration::from_secs(5);
/// No single answer takes longer; a watch is no single answer.
const CALL: Duration = Duration::from_secs(15);

/// A cluster's API server, as the developer's kubeconfig names it.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) client: Client,
    /// The one that is meant without `-A`.
    pub(crate) namespace: String,
    /// For people.
    pub(crate) server: String,
}

impl Cluster {
    /// Reads the kubeconfig; nothing is asked yet.
    pub(crate) async fn connect(flags: &args::ClusterArgs) -> Result<Self, CliError> {
        let mut config = configuration(flags).await?;
        config.connect_timeout = Some(CONNECT);
        if config.proxy_url.is_some() && without_proxy(config.cluster_url.host().unwrap_or_default()) {
            config.proxy_url = None;
        }
        let namespace = flags.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let client =
            Client::try_from(config).map_err(|error| CliError::Usage(say::unusable_config(&error.to_string())))?;
        Ok(Self { client, namespace, server })
    }

    /// One call, bounded; `doing` is for the sentence if it fails.
    pub(crate) async fn call<T>(
        &self,
        doing: ApiCall<'_>,
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, CliError> {
        match timeout(CALL, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(explain(&self.server, &doing, &error)),
            Err(_) => Err(CliError::Away(say::no_answer(&self.server, CALL))),
        }
    }

    /// The server's version.
    pub(crate) async fn version(&self) -> Result<Info, CliError> {
        self.call(ApiCall::Reading("the server's version"), self.client.apiserver_version()).await
    }
}

/// Whether there is anything that could lead to a cluster; whether it can be used is told when it is.
pub(crate) fn has_kubeconfig(flags: &args::ClusterArgs) -> bool {
    let is_missing = |error: &KubeconfigError| match error {
        KubeconfigError::FindPath => true,
        KubeconfigError::ReadConfig(why, _) => why.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    };
    flags.kubeconfig.is_some()
        || Config::incluster().is_ok()
        || Kubeconfig::read().map_or_else(|error| !is_missing(&error), |_| true)
}

async fn configuration(flags: &args::ClusterArgs) -> Result<Config, CliError> {
    let kubeconfig = match &flags.kubeconfig {
        Some(path) => Kubeconfig::read_from(path).map_err(|error| unreadable(Some(path), &error))?,
        None => match Kubeconfig::read() {
            Ok(kubeconfig) => kubeconfig,
            // In a pod there is no kubeconfig, but a service account.
            Err(error) => match (Config::incluster(), &flags.context) {
                (Ok(config), None) => return Ok(config),
                _ => return Err(unreadable(None, &error)),
            },
        },
    };
    let known = context_names(&kubeconfig.contexts);
    let options = KubeConfigOptions { context: flags.context.clone(), ..KubeConfigOptions::default() };
    Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|error| {
        CliError::Usage(match error {
            KubeconfigError::LoadContext(name) => say::no_such_context(&name, &known),
            KubeconfigError::CurrentContextNotSet => say::no_context(&known),
            other => say::unusable_config(&other.to_string()),
        })
    })
}

fn context_names(contexts: &[NamedContext]) -> Vec<String> {
    contexts.iter().map(|context| context.name.clone()).collect()
}

fn unreadable(path: Option<&Path>, error: &KubeconfigError) -> CliError {
    CliError::Usage(match (error, path) {
        (KubeconfigError::ReadConfig(why, path), _) if why.kind() == std::io::ErrorKind::NotFound => {
            say::no_kubeconfig(Some(path))
        }
        (KubeconfigError::FindPath, _) => say::no_kubeconfig(path),
        (error, _) => say::unusable_config(&error.to_string()),
    })
}

/// Whether `NO_PROXY` names this host: itself, a domain that it is in, or everything.
fn without_proxy(host: &str) -> bool {
    let variable = std::env::var("NO_PROXY").or_else(|_| std::env::var("no_proxy"));
    variable.is_ok_and(|list| is_named(&list, host))
}

fn is_named(list: &str, host: &str) -> bool {
    list.split(',').map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| {
        let domain = entry.trim_start_matches("*.").trim_start_matches('.');
        entry == "*" || host == domain || host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_proxy_names_hosts_and_domains() {
        for list in ["*", "api.example.com", "a, example.com", ".example.com", "*.example.com"] {
            assert!(is_named(list, "api.example.com"), "{list}");
        }
        for list in ["", ",", "ample.com", "example.com.", "api"] {
            assert!(!is_named(list, "api.example.com"), "{list}");
        }
        assert!(is_named("127.0.0.1,10.0.0.1", "10.0.0.1"));
    }
}
