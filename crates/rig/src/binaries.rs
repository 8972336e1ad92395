//! Where the real `redir-agent` and `redir` are.

use std::{env, path::PathBuf};

use anyhow::{Context, Result, bail};

/// The directory of the binaries under test; else they are looked for next to the running executable.
pub const BIN_DIR: &str = "REDIR_BIN_DIR";

/// The path of `redir-agent` or `redir`; a missing one is told with what to run.
pub fn find(name: &str) -> Result<PathBuf> {
    let directories = match env::var_os(BIN_DIR) {
        Some(directory) => vec![PathBuf::from(directory)],
        // target/debug/deps/test-… and target/debug/xtask
        None => env::current_exe().context("own path")?.ancestors().skip(1).take(2).map(PathBuf::from).collect(),
    };
    for directory in &directories {
        let path = directory.join(name);
        if path.is_file() {
            return Ok(path);
        }
    }
    bail!(
        "`{name}` is not built (looked in {directories:?}): run the tests with `cargo xtask test`, which builds it first"
    )
}
