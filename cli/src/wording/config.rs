//! What is said about `redir.toml` and key files.

use std::io::ErrorKind;
use std::path::Path;

use redir_tunnel::{IdentityError, Pin};

use crate::escape::{escape, escape_sentence};

pub(crate) fn no_home() -> String {
    "there is no home directory to look for redir.toml in: set HOME or XDG_CONFIG_HOME, or name files with --config and --key"
        .to_owned()
}

pub(crate) fn unreadable(path: &Path, error: &std::io::Error) -> String {
    format!("cannot read {} ({error}): check its owner and mode, or name another file with --config", show(path))
}

pub(crate) fn config_missing(path: &Path) -> String {
    format!("there is no {}: check what is written behind --config", show(path))
}

pub(crate) fn mistake(path: &Path, line: usize, key: &str, what: &str) -> String {
    match key.is_empty() {
        true => format!("{}:{line}: {}", show(path), escape_sentence(what)),
        false => format!("{}:{line}: {}: {}", show(path), escape(key), escape_sentence(what)),
    }
}

pub(crate) fn syntax(why: &str) -> String {
    format!("invalid TOML ({}): correct the line", why.lines().collect::<Vec<_>>().join(", "))
}

pub(crate) fn unknown_key(known: &str) -> String {
    format!("there is no such key: write {known}")
}

pub(crate) fn not_a_string() -> String {
    "must be text: put it in quotes".to_owned()
}

pub(crate) fn agents_shape() -> String {
    "must be a table: write [agents.NAME] with `address` and `key` below it".to_owned()
}

pub(crate) fn missing_address() -> String {
    "is missing: add address = \"HOST:PORT\"".to_owned()
}

pub(crate) fn missing_agent_key() -> String {
    "is missing: add key = \"sha256:…\", which `redir-agent keygen` printed on the agent's machine".replace('…', "...")
}

pub(crate) fn no_agent(path: &Path) -> String {
    format!(
        "no agent is named: add [agents.NAME] with `address` and `key` to {}, or write --agent HOST:PORT --agent-key sha256:...",
        show(path)
    )
}

pub(crate) fn agents_and_keys(agents: usize, keys: usize) -> String {
    format!("there are {agents} --agent and {keys} --agent-key: write one --agent-key behind each --agent")
}

/// A path as the developer would type it, on one line.
pub(crate) fn show(path: &Path) -> String {
    escape_sentence(&path.to_string_lossy())
}

pub(crate) fn key(error: &IdentityError) -> String {
    match error {
        IdentityError::Read(path, error) if error.kind() == ErrorKind::NotFound => format!(
            "there is no key file {}: make one with `redir keygen` and give the lines that it prints to the agent's admin",
            show(path)
        ),
        IdentityError::Read(path, error) if error.kind() == ErrorKind::Other => {
            format!("{} is no key file ({error}): name the file itself with --key", show(path))
        }
        IdentityError::Read(path, error) => {
            format!("cannot read the key file {} ({error}): check its owner, or name another with --key", show(path))
        }
        IdentityError::Mode(path, mode) => {
            format!("others may use the key file {0} (mode {mode:04o}): run chmod 600 {0}", show(path))
        }
        IdentityError::Content(path, _) => {
            format!("{} is no key of redir: name another with --key, or make one with `redir keygen`", show(path))
        }
        IdentityError::Exists(path) => {
            format!("there is a file {} already: keep it, or name another one for the new key", show(path))
        }
        IdentityError::Write(path, error) => {
            format!("cannot write the key file {} ({error}): name another place for it", show(path))
        }
        IdentityError::NoRandom | IdentityError::NotPem | IdentityError::NotEd25519 => {
            escape_sentence(&error.to_string())
        }
    }
}

pub(crate) fn key_exists(path: &Path, pin: Pin) -> String {
    format!("there is a key in {} already, its name is {pin}: keep it, or name another file for a new one", show(path))
}

/// What `keygen` prints: for the developer, then for the agent's admin, then what comes back from there.
pub(crate) fn key_made(path: &Path, config: &Path, pin: Pin, developer: &str, is_default: bool) -> String {
    let (path, config) = (show(path), show(config));
    let usage = match is_default {
        true => String::new(),
        false => format!("use it with --key {path}, or write key = \"{path}\" into redir.toml\n"),
    };
    format!(
        "your key is in {path}; it never leaves this machine\n{usage}its public name is {pin}\n\n\
         # for the agent's admin, into agent.toml; {{}} instead of {{ app = \"web\" }} is every pod\n\
         [[developer]]\nname = \"{developer}\"\nkey = \"{pin}\"\npods = [{{ app = \"web\" }}]\n\n\
         # for you, into {config}, with what the admin tells you\n\
         # [agents.NAME]\n# address = \"HOST:7447\"\n# key = \"sha256:...\"\n"
    )
}
