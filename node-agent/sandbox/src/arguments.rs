//! How the guardian says on a child's command line what the child may still do.

use std::{ffi::OsString, path::PathBuf};

use clap::Args;
use redir_api::names;

use crate::profile::SandboxProfile;

/// What the guardian tells each child by its command line: the child gives everything else up before it hears more.
#[derive(Debug, Clone, Args)]
pub struct ConfinementArguments {
    /// Its uid and gid
    #[arg(long, value_name = "UID", default_value_t = names::WORKER_USER)]
    pub user: u32,
    /// Of one that speaks to the API server: where the node's /proc is mounted, which it must not see
    #[arg(long, value_name = "FOLDER")]
    pub node_proc: Option<PathBuf>,
    /// Of one that reads what container runtimes answer
    #[arg(long, conflicts_with = "node_proc")]
    pub container_runtimes: bool,
}

impl ConfinementArguments {
    /// What it is started with.
    pub fn arguments(&self) -> Vec<OsString> {
        let mut arguments = vec!["--user".into(), self.user.to_string().into()];
        arguments.extend(self.node_proc.iter().flat_map(|folder| ["--node-proc".into(), folder.into()]));
        arguments.extend(self.container_runtimes.then(|| "--container-runtimes".into()));
        arguments
    }

    /// What it may do.
    pub fn profile(&self) -> SandboxProfile {
        match &self.node_proc {
            None if self.container_runtimes => SandboxProfile::ContainerRuntimes,
            None => SandboxProfile::Traffic,
            Some(node_proc) => SandboxProfile::ApiServer { node_proc: node_proc.clone() },
        }
    }
}
