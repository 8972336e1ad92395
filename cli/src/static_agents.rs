//! Which agents are asked and with which key: flags first, then `redir.toml`.
//!
//! Owns: how the two combine. Must not dial. Called by: `commands`.

use std::path::{Path, PathBuf};

use redir_tunnel::Identity;

use crate::args::AgentArgs;
use crate::config::Config;
use crate::error::CliError;
use crate::model::values::KnownAgent;
use crate::paths;
use crate::wording::config as say;

/// Whom to ask, and as whom.
#[derive(Debug)]
pub(crate) struct StaticAgents {
    /// At least one.
    pub(crate) agents: Vec<KnownAgent>,
    /// The developer's key.
    pub(crate) identity: Identity,
}

/// Reads what is needed and no more: with all three flags no configuration file is opened.
pub(crate) fn resolve(flags: &AgentArgs) -> Result<StaticAgents, CliError> {
    let flagged = flagged_agents(flags)?;
    let config = match (&flagged[..], &flags.key) {
        ([_, ..], Some(_)) => Config::default(),
        _ => configuration(flags)?,
    };
    let agents = if flagged.is_empty() { config.agents } else { flagged };
    if agents.is_empty() {
        return Err(CliError::Usage(say::no_agent(&file(flags)?)));
    }
    let key = match flags.key.clone().or(config.key) {
        Some(path) => path,
        None => default_key()?,
    };
    let identity = Identity::load(&key).map_err(|error| CliError::Usage(say::key(&error)))?;
    Ok(StaticAgents { agents, identity })
}

/// Whether the configuration names an agent. A machine without a home has no configuration.
pub(crate) fn names_agents(flags: &AgentArgs) -> Result<bool, CliError> {
    if flags.config.is_none() && default_config().is_err() {
        return Ok(false);
    }
    configuration(flags).map(|config| !config.agents.is_empty())
}

/// `key` beside `redir.toml`.
pub(crate) fn default_key() -> Result<PathBuf, CliError> {
    paths::config_directory().map(|directory| directory.join("key"))
}

/// `redir.toml`, where it is looked for without `--config`.
pub(crate) fn default_config() -> Result<PathBuf, CliError> {
    paths::config_directory().map(|directory| directory.join("redir.toml"))
}

fn file(flags: &AgentArgs) -> Result<PathBuf, CliError> {
    match &flags.config {
        Some(path) => Ok(path.clone()),
        None => default_config(),
    }
}

fn configuration(flags: &AgentArgs) -> Result<Config, CliError> {
    let path = file(flags)?;
    match (Config::read(&path)?, &flags.config) {
        (Some(config), _) => Ok(config),
        (None, None) => Ok(Config::default()),
        (None, Some(named)) => Err(CliError::Usage(say::config_missing(Path::new(named)))),
    }
}

fn flagged_agents(flags: &AgentArgs) -> Result<Vec<KnownAgent>, CliError> {
    if flags.agent.len() != flags.agent_key.len() {
        return Err(CliError::Usage(say::agents_and_keys(flags.agent.len(), flags.agent_key.len())));
    }
    let pairs = flags.agent.iter().zip(&flags.agent_key);
    Ok(pairs
        .map(|(address, key)| KnownAgent { name: address.to_string(), addresses: vec![address.clone()], key: *key })
        .collect())
}
