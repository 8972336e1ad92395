//! `cargo xtask check`: everything about the code that is not a test. Each step is a command a person could type; all of
//! them run, so that one call tells everything there is to mend.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::{child, paths, setup, signals, ui};

pub(crate) fn run() -> Result<()> {
    setup::run(setup::Say::OnlyWork)?;
    setup::with_tool(&setup::ACTION_VALIDATOR)?;
    setup::with_tool(&setup::CARGO_DENY)?;
    let root = paths::root();
    let mut failed = 0;
    for (what, mut command) in steps(&root)? {
        println!("{} {}", ui::bold(what), ui::dim(&child::spelled(&command)));
        if let Err(error) = child::show(command.current_dir(&root)) {
            eprintln!("{} {error:#}", ui::red("error:"));
            failed += 1;
        }
        if signals::interrupted() {
            bail!("interrupted");
        }
    }
    if failed > 0 {
        bail!("{failed} checks failed, each named above: `cargo fmt --all` mends the formatting");
    }
    println!("{}", ui::green("every check passed"));
    Ok(())
}

fn steps(root: &Path) -> Result<Vec<(&'static str, Command)>> {
    let cargo = |words: &str| {
        let mut command = paths::cargo();
        command.args(words.split(' '));
        command
    };
    let mut documentation = cargo("doc --workspace --no-deps --document-private-items --quiet");
    documentation.env("RUSTDOCFLAGS", "-D warnings");
    let mut licences = Command::new(setup::CARGO_DENY.path()?);
    // The fourth check, advisories, needs a database from outside; GitHub's workflow has it.
    licences.args(["--workspace", "check", "--hide-inclusion-graph", "bans", "licenses", "sources"]);
    let mut kernel_lints = cargo("clippy --manifest-path ebpf/Cargo.toml --quiet -- -D warnings");
    // For this machine's own target: the toolchain with clippy has no `core` for the kernel's.
    kernel_lints.env("CARGO_TARGET_DIR", paths::target()?.join("ebpf-lints"));
    let mut workflow = Command::new(setup::ACTION_VALIDATOR.path()?);
    workflow.arg(root.join(".github/workflows/ci.yml"));
    Ok(vec![
        ("formatting", cargo("fmt --all --check")),
        ("formatting of the kernel programs", cargo("fmt --manifest-path ebpf/Cargo.toml --check")),
        ("lints", cargo("clippy --workspace --all-targets --quiet -- -D warnings")),
        ("lints of the kernel programs", kernel_lints),
        ("documentation", documentation),
        ("licences and sources of dependencies", licences),
        ("workflow", workflow),
    ])
}
