//! `cargo xtask chaos`: release builds of the real programs, and what ought to break them. Owns the command line, the build
//! and the way to root; each play is a module.

mod limits;

use std::ffi::OsStr;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::privilege;
use crate::{child, paths, setup};

#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    play: Play,
}

#[derive(Subcommand)]
enum Play {
    /// Clients and developers that want more memory than the agent has: it must live, and nobody else may lose anything
    Limits(limits::Options),
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let Play::Limits(options) = &options.play;
    if options.is_prepared() {
        return limits::play(options);
    }
    setup::run(setup::Say::OnlyWork)?;
    let arguments = options.arguments();
    let by_hand = [format!("cargo xtask {}", arguments.join(" "))];
    let privilege = privilege::obtain("network namespaces, kernel programs and memory cgroups", &by_hand)?;
    println!("building redir and redir-agent as they are shipped (a first build takes minutes)");
    let packages = ["build", "--release", "--package", "redir", "--package", "redir-node-agent"];
    child::show(paths::cargo().current_dir(paths::root()).args(packages))?;
    let place = paths::target()?.join("release");
    let arguments: Vec<&OsStr> = arguments.iter().map(String::as_str).chain(["--prepared"]).map(OsStr::new).collect();
    privilege.again(&[("REDIR_BIN_DIR", place.as_os_str())], &arguments)
}
