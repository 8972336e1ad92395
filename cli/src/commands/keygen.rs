//! `redir keygen`: makes the developer's key.
//!
//! Owns: where it goes and what is printed. Must not know the file's form (`redir_tunnel::Identity` does).
//! Called by: `commands`.

use std::path::PathBuf;

use redir_tunnel::{Identity, IdentityError};

use crate::args::KeygenArgs;
use crate::error::{CliError, Outcome};
use crate::screen::print;
use crate::static_agents;
use crate::user;
use crate::wording::config as say;

/// Writes a new key, never over a file that is there.
pub(crate) fn run(args: &KeygenArgs) -> Outcome {
    let path = match &args.file {
        Some(path) => path.clone(),
        None => static_agents::default_key()?,
    };
    let failed = |error| match (&error, Identity::load(&path)) {
        (IdentityError::Exists(_), Ok(old)) => CliError::Failed(say::key_exists(&path, old.pin())),
        _ => CliError::Failed(say::key(&error)),
    };
    let identity = Identity::generate().map_err(failed)?;
    identity.save(&path).map_err(failed)?;
    // Without a home the key is made all the same, where it was asked for.
    let config = static_agents::default_config().unwrap_or_else(|_| PathBuf::from("redir.toml"));
    print(&say::key_made(&path, &config, identity.pin(), &user::login(), args.file.is_none()))
}
