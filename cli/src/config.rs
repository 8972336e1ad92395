//! `redir.toml`: the agents and the developer's key file.
//!
//! Owns: reading it, and errors that name file, line and key. Must not dial or read the key itself.
//! Called by: `reach`.

use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::CliError;
use crate::model::values::KnownAgent;
use crate::values::agent_key;
use crate::wording::config as say;

/// What the file says; both may be absent.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Config {
    /// The developer's key file; a relative path is seen from the configuration file's directory.
    pub(crate) key: Option<PathBuf>,
    /// In the order of their names.
    pub(crate) agents: Vec<KnownAgent>,
}

impl Config {
    /// Reads a file. `Ok(None)`: there is none.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>, CliError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(CliError::Usage(say::unreadable(path, &error))),
        };
        let directory = path.parent().unwrap_or(Path::new(""));
        Self::parse(&text, directory).map(Some).map_err(|mistake| {
            let line = text.as_bytes().iter().take(mistake.at).filter(|byte| **byte == b'\n').count() + 1;
            CliError::Usage(say::mistake(path, line, &mistake.key, &mistake.what))
        })
    }

    fn parse(text: &str, directory: &Path) -> Result<Self, ConfigError> {
        let root = DeTable::parse(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            ConfigError { at, key: String::new(), what: say::syntax(error.message()) }
        })?;
        let mut config = Self::default();
        for (key, value) in root.get_ref() {
            match key.get_ref().as_ref() {
                "key" => config.key = Some(directory.join(string("key", value)?)),
                "agents" => config.agents = agents(value)?,
                other => return Err(mistake(key.span(), other, say::unknown_key("`key` or `[agents.NAME]`"))),
            }
        }
        Ok(config)
    }
}

/// A place in the file and what is wrong there.
struct ConfigError {
    /// Byte offset.
    at: usize,
    /// `agents.node-1.address`; empty when the file is not valid TOML.
    key: String,
    what: String,
}

fn mistake(span: Range<usize>, key: &str, what: String) -> ConfigError {
    ConfigError { at: span.start, key: key.to_owned(), what }
}

fn agents(value: &Spanned<DeValue<'_>>) -> Result<Vec<KnownAgent>, ConfigError> {
    let wrong = || mistake(value.span(), "agents", say::agents_shape());
    let table = value.get_ref().as_table().ok_or_else(wrong)?;
    table.iter().map(|(name, value)| agent(name.get_ref(), name.span(), value)).collect()
}

fn agent(name: &str, header: Range<usize>, value: &Spanned<DeValue<'_>>) -> Result<KnownAgent, ConfigError> {
    let prefix = format!("agents.{name}");
    let table = value.get_ref().as_table().ok_or_else(|| mistake(value.span(), &prefix, say::agents_shape()))?;
    let (mut address, mut pin) = (None, None);
    for (key, value) in table {
        let path = format!("{prefix}.{}", key.get_ref());
        let read = || string(&path, value);
        let wrong = |what| mistake(value.span(), &path, what);
        match key.get_ref().as_ref() {
            "address" => address = Some(read()?.parse().map_err(wrong)?),
            "key" => pin = Some(agent_key(read()?).map_err(wrong)?),
            _ => return Err(mistake(key.span(), &path, say::unknown_key("`address` or `key`"))),
        }
    }
    let missing = |key: &str, what| mistake(header.clone(), &format!("{prefix}.{key}"), what);
    Ok(KnownAgent {
        name: name.to_owned(),
        addresses: vec![address.ok_or_else(|| missing("address", say::missing_address()))?],
        key: pin.ok_or_else(|| missing("key", say::missing_agent_key()))?,
    })
}

fn string<'a>(key: &str, value: &'a Spanned<DeValue<'_>>) -> Result<&'a str, ConfigError> {
    value.get_ref().as_str().ok_or_else(|| mistake(value.span(), key, say::not_a_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIN: &str = "sha256:47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU";

    fn read(text: &str) -> Result<Option<Config>, CliError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("redir.toml");
        std::fs::write(&path, text).unwrap();
        Config::read(&path)
    }

    #[test]
    fn a_whole_file() {
        let text = format!("key = \"mine\"\n[agents.node-1]\naddress = \"10.0.0.1:7447\"\nkey = \"{PIN}\"\n");
        let config = read(&text).unwrap().unwrap();
        assert!(config.key.unwrap().ends_with("mine"));
        assert_eq!(config.agents[0].name, "node-1");
        assert_eq!(config.agents[0].addresses[0].to_string(), "10.0.0.1:7447");
        assert_eq!(read("").unwrap(), Some(Config::default()));
        assert_eq!(Config::read(Path::new("/nonexistent/redir.toml")), Ok(None));
    }

    #[test]
    fn mistakes_name_file_line_and_key() {
        let table = [
            ("key = 3\n", "redir.toml:1: key: "),
            ("\nkeys = \"a\"\n", "redir.toml:2: keys: "),
            ("\n\nkey = \"a\n", "redir.toml:3: "),
            ("agents = 3\n", "redir.toml:1: agents: "),
            ("[agents]\nnode = 3\n", "redir.toml:2: agents.node: "),
            ("[agents.a]\naddress = \"h:1\"\n", "redir.toml:1: agents.a.key: "),
            ("[agents.a]\nkey = \"sha256:x\"\n", "redir.toml:2: agents.a.key: "),
            ("[agents.a]\naddress = \"h\"\n", "redir.toml:2: agents.a.address: "),
            ("[agents.a]\n\nadress = \"h:1\"\n", "redir.toml:3: agents.a.adress: "),
        ];
        for (text, expected) in table {
            let error = read(text).unwrap_err();
            assert!(matches!(error, CliError::Usage(_)));
            let sentence = error.to_string();
            assert!(sentence.contains(expected), "{sentence} lacks {expected}");
            assert!(!sentence.contains('\n'), "{sentence:?}");
        }
    }
}
