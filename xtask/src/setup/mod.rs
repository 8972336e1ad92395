//! `cargo xtask setup`: brings a fresh Debian 12 to where the agent builds and its tests run. Owns the order of the steps;
//! the packages are in `packages`, bpf-linker and the checking tools in `tools`, other people's test cases in `cases`.
//! When nothing is missing it only looks at a few files: no network, no other program, well under a second.

mod cases;
mod go;
mod packages;
mod peers;
mod pip;
mod tools;

use std::fs::File;
use std::path::PathBuf;

use anyhow::{Context, Result};
use nix::fcntl::Flock;

use crate::{lock, paths, ui};

pub(crate) use tools::{ACTION_VALIDATOR, CARGO_DENY, MDBOOK};

/// How much a set-up with nothing to do says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Say {
    Everything,
    OnlyWork,
}

/// Everything that builds and tests need.
pub(crate) fn run(say: Say) -> Result<()> {
    let _lock = lock()?;
    let packages = packages::install_missing(packages::PACKAGES, packages::Services::Start)?;
    let linker = tools::install(&tools::BPF_LINKER)?;
    if say == Say::Everything {
        let cases = cases::install()?;
        let did = if packages || linker || cases { "done" } else { "nothing to do" };
        println!("{} {did}: `cargo xtask test` and `cargo build --workspace` will work now", ui::green("set up,"));
    }
    Ok(())
}

/// What only `test` needs, beside everything else.
pub(crate) fn with_cases() -> Result<()> {
    let _lock = lock()?;
    cases::install().map(drop)
}

/// What only tests with containers need, beside everything else.
pub(crate) fn with_containers() -> Result<()> {
    let _lock = lock()?;
    packages::install_missing(packages::CONTAINERS, packages::Services::Rest)
        .map(drop)
        .context("what tests with containers need is not all there; any `dockerd`, `podman` and `runc` in the path do")
}

/// What only compiling Kubernetes needs, beside everything else; a `go` of at least this version.
pub(crate) fn with_go(wanted: &str) -> Result<PathBuf> {
    let _lock = lock()?;
    packages::install_missing(packages::KUBERNETES, packages::Services::Start)?;
    go::program(wanted)
}

/// What only a cluster that enforces network policies needs, beside everything else.
pub(crate) fn with_ipset() -> Result<()> {
    let _lock = lock()?;
    packages::install_missing(packages::IPSET, packages::Services::Start).map(drop)
}

/// What only `fuzz` needs, beside everything else.
pub(crate) fn with_fuzzer() -> Result<()> {
    let _lock = lock()?;
    packages::install_missing(packages::FUZZER, packages::Services::Start).map(drop)
}

/// What only `test --kernel` needs, beside everything else.
pub(crate) fn with_emulator() -> Result<()> {
    let _lock = lock()?;
    packages::install_missing(packages::EMULATOR, packages::Services::Start).map(drop)
}

/// What only `test --kernel … --arch arm64` needs, beside that.
pub(crate) fn with_arm64() -> Result<()> {
    let _lock = lock()?;
    packages::install_missing(packages::ARM64, packages::Services::Start).map(drop)
}

/// What only `bench` needs, beside everything else.
pub(crate) fn with_callgrind() -> Result<()> {
    let _lock = lock()?;
    packages::install_missing(packages::CALLGRIND, packages::Services::Start).map(drop)
}

/// What only `bench` compares with, of these names (all without any); what could not be had, in sentences.
pub(crate) fn with_peers(names: &[String]) -> Result<Vec<String>> {
    let _lock = lock()?;
    peers::install(names)
}

/// A tool that only `check` needs, beside everything else.
pub(crate) fn with_tool(tool: &tools::Tool) -> Result<()> {
    let _lock = lock()?;
    tools::install(tool).map(|_| ())
}

/// One set-up at a time; a second one waits and then finds nothing to do.
fn lock() -> Result<Flock<File>> {
    lock::exclusive(&paths::cache()?.join("setup.lock"), "`cargo xtask setup`")
}
