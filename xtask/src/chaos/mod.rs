//! `cargo xtask chaos`: release builds of the real programs, and what ought to break them. Owns the command line, the build
//! and the way to root; each play is a module.

mod limits;
mod memory;

use std::ffi::OsStr;
use std::fs;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

use crate::{child, image, paths, privilege, setup};

#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    play: Play,
}

#[derive(Subcommand)]
enum Play {
    /// Clients and developers that want more memory than the agent has: it must live, and nobody else may lose anything
    Limits(limits::Options),
    /// What an agent has resident before, at and after a peak, and what requests cost it
    Memory(memory::Options),
}

pub(crate) fn run(options: &Options) -> Result<()> {
    match &options.play {
        Play::Limits(options) if options.is_prepared() => limits::play(options),
        Play::Memory(options) if options.is_prepared() => memory::play(options),
        Play::Limits(options) => prepare(&options.arguments()),
        Play::Memory(options) => prepare(&options.arguments()),
    }
}

/// Builds what is played with, and starts this program again as root.
fn prepare(arguments: &[String]) -> Result<()> {
    setup::run(setup::Say::OnlyWork)?;
    let by_hand = [format!("cargo xtask {}", arguments.join(" "))];
    let privilege = privilege::obtain("network namespaces, kernel programs and memory cgroups", &by_hand)?;
    println!("building redir and redir-agent as they are shipped (a first build takes minutes)");
    child::show(paths::cargo().current_dir(paths::root()).args(["build", "--release", "--package", "redir"]))?;
    let agent = image::static_program(false)?;
    let place = paths::target()?.join("chaos");
    fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
    for program in [agent, paths::target()?.join("release").join("redir")] {
        let name = program.file_name().context("a program has a name")?;
        let to = place.join(name);
        fs::copy(&program, &to).with_context(|| format!("cannot copy {} to {}", program.display(), to.display()))?;
    }
    let arguments: Vec<&OsStr> = arguments.iter().map(String::as_str).chain(["--prepared"]).map(OsStr::new).collect();
    privilege.again(&[("REDIR_BIN_DIR", place.as_os_str())], &arguments)
}
