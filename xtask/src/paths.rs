//! Where things are: the workspace, cargo's target directory, and redir's own cache outside the tree.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// The workspace's root folder.
pub(crate) fn root() -> PathBuf {
    // Cargo says at run time where the package is; a binary from a shared target directory may have been built elsewhere.
    let package = env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    package.parent().expect("xtask lies in the workspace").to_owned()
}

/// Cargo's target directory, read off the place of this very binary (`TARGET/debug/xtask`), so that every way of setting it counts.
pub(crate) fn target() -> Result<PathBuf> {
    let own = env::current_exe().context("cannot tell where xtask's own binary is")?;
    own.ancestors()
        .nth(2)
        .map(Path::to_owned)
        .context("xtask's binary is not in a target directory: start it with `cargo xtask`")
}

/// This very program, to start it again. A build that ran meanwhile has replaced the file, so it is found by its place.
pub(crate) fn own() -> Result<PathBuf> {
    Ok(target()?.join("debug").join("xtask"))
}

/// `${XDG_CACHE_HOME:-~/.cache}/redir`: tools, logs and the set-up's lock.
pub(crate) fn cache() -> Result<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .map(|cache| cache.join("redir"))
        .context("neither XDG_CACHE_HOME nor HOME is set: set HOME to a folder that redir may keep its tools in")
}

/// Where `cargo install` puts redir's tools (`bin/` below it).
pub(crate) fn tools() -> Result<PathBuf> {
    Ok(cache()?.join("tools"))
}

/// Where set-up puts other people's cases for the tests.
pub(crate) fn cases() -> Result<PathBuf> {
    Ok(cache()?.join("cases"))
}

/// A program from the search path, or from the system folders that a plain user's path lacks on Debian.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// The cargo that runs this very command, so that an override such as `cargo +1.95 xtask` reaches all it starts; without what
/// it told xtask of xtask's own package. Build scripts that look at those variables (ring's does) would run again, and with
/// them everything that needs their crates, whenever one such build follows one that was started by hand.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from));
    let of_xtask =
        |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") || name == "OUT_DIR";
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(of_xtask) {
            command.env_remove(name);
        }
    }
    command
}

/// What the compiler says to these questions.
pub(crate) fn rustc(arguments: &[&str]) -> Result<String> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).args(arguments).output().context("cannot start rustc")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The target triple of this machine, as its compiler names it.
pub(crate) fn host_triple() -> Result<String> {
    let text = rustc(&["-vV"])?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("`rustc -vV` does not name its host")
}
