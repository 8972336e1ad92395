//! Whether a command is meant for static agents or for Kubernetes.
//!
//! Owns: the rule that `redir --help` tells. Must not ask a cluster. Called by: `commands`.
//!
//! A target with a slash, `-l`, `-A`, `-n`, `--context` and `--kubeconfig` are Kubernetes; `--agent` is not. Otherwise
//! agents in `redir.toml` decide: there are some, or it is Kubernetes.

use super::connect::has_kubeconfig;
use crate::args;
use crate::error::CliError;
use crate::model::values::Target;
use crate::static_agents::{self, StaticAgents};
use crate::wording::cluster as say;

/// Whom a command asks.
pub(crate) enum CommandMode {
    /// These agents.
    Static(StaticAgents),
    /// A cluster's API server.
    Kubernetes,
}

/// What on the command line belongs to Kubernetes alone.
pub(crate) struct ModeSigns<'a> {
    pub(crate) target: Option<&'a Target>,
    /// `-l` or `-A`.
    pub(crate) flag: Option<&'static str>,
    pub(crate) cluster: &'a args::ClusterArgs,
}

impl ModeSigns<'_> {
    /// The first one, as it was written.
    fn first(&self) -> Option<String> {
        let flags = [
            (self.flag.is_some(), self.flag.unwrap_or_default()),
            (self.cluster.namespace.is_some(), "--namespace"),
            (self.cluster.context.is_some(), "--context"),
            (self.cluster.kubeconfig.is_some(), "--kubeconfig"),
        ];
        match self.target {
            Some(target @ Target::Workload(..)) => Some(target.to_string()),
            _ => flags.into_iter().find(|(given, _)| *given).map(|(_, flag)| flag.to_owned()),
        }
    }
}

/// Decides for `list` and `status`.
pub(crate) fn of_question(args: &args::QueryArgs) -> Result<CommandMode, CliError> {
    let flag = args.all_namespaces.then_some("--all-namespaces");
    of(&ModeSigns { target: None, flag, cluster: &args.cluster }, &args.agents)
}

/// Refuses a command that only a cluster has, where there are static agents and nothing that leads to a cluster: its lack of a
/// kubeconfig is not what is wrong.
pub(crate) fn refuse_static(command: &str, instead: &str, flags: &args::ClusterArgs) -> Result<(), CliError> {
    let names_cluster = flags.context.is_some() || flags.kubeconfig.is_some() || has_kubeconfig(flags);
    match !names_cluster && static_agents::names_agents(&args::AgentArgs::default()).unwrap_or(false) {
        true => Err(CliError::Usage(say::only_for_clusters(command, instead))),
        false => Ok(()),
    }
}

/// Decides, and reads `redir.toml` only where it decides.
pub(crate) fn of(signs: &ModeSigns<'_>, agents: &args::AgentArgs) -> Result<CommandMode, CliError> {
    let named = !agents.agent.is_empty() || !agents.agent_key.is_empty();
    match (signs.first(), named) {
        (Some(sign), true) => Err(CliError::Usage(say::two_modes(&sign))),
        // Whoever has static agents and no cluster means those.
        (Some(sign), false)
            if !has_kubeconfig(signs.cluster) && static_agents::names_agents(agents).unwrap_or(false) =>
        {
            Err(CliError::Usage(say::no_cluster_beside_agents(&sign)))
        }
        (Some(_), false) => Ok(CommandMode::Kubernetes),
        (None, true) => static_agents::resolve(agents).map(CommandMode::Static),
        (None, false) if static_agents::names_agents(agents)? => {
            static_agents::resolve(agents).map(CommandMode::Static)
        }
        (None, false) => Ok(CommandMode::Kubernetes),
    }
}
