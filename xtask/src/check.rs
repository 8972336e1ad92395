//! `cargo xtask check`: everything about the code that is not a test. Each step is a command a person could type; all of
//! them run, so that one call tells everything there is to fix. What needs another machine is asked for a bounded time, and
//! said where it could not be.

mod code;
mod cycles;
mod figures;
mod limits;
mod sources;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::child::{self, End};
use crate::{book, paths, setup, signals, ui};

/// For the database of advisories, some megabytes from a git host.
const FETCH: Duration = Duration::from_secs(60);

#[derive(clap::Args)]
pub(crate) struct CheckOptions {
    /// Only the figures of the code and its import cycles, within seconds
    #[arg(long)]
    code: bool,
}

pub(crate) fn run(options: &CheckOptions) -> Result<()> {
    if options.code {
        return code::check(&paths::root());
    }
    setup::run(setup::Say::OnlyWork)?;
    setup::with_tool(&setup::ACTION_VALIDATOR)?;
    setup::with_tool(&setup::CARGO_DENY)?;
    let root = paths::root();
    let mut steps = steps(&root)?;
    let not_asked = match fetch_advisories(&root)? {
        None => {
            steps.push(("known vulnerabilities of dependencies", deny(&["--disable-fetch", "advisories"])?));
            None
        }
        why => why,
    };
    println!("{} {}", ui::bold("figures of the code"), ui::dim("cargo xtask check --code"));
    let mut failed = 0;
    if let Err(error) = code::check(&root) {
        eprintln!("{} {error:#}", ui::red("error:"));
        failed += 1;
    }
    println!("{}", ui::bold("links of the documents"));
    if let Err(error) = book::check_links() {
        eprintln!("{} {error:#}", ui::red("error:"));
        failed += 1;
    }
    for (what, mut command) in steps {
        println!("{} {}", ui::bold(what), ui::dim(&child::spelled(&command)));
        if let Err(error) = child::show(command.current_dir(&root)) {
            eprintln!("{} {error:#}", ui::red("error:"));
            failed += 1;
        }
        if signals::interrupted() {
            bail!("interrupted");
        }
    }
    if let Some(why) = &not_asked {
        println!("{} known vulnerabilities of dependencies: {why}", ui::bold("not asked:"));
    }
    if failed > 0 {
        bail!("{failed} checks failed, each named above: `cargo fmt --all` fixes the formatting");
    }
    println!(
        "{}",
        ui::green(if not_asked.is_none() { "every check passed" } else { "every check that was asked passed" })
    );
    Ok(())
}

/// Brings the database of advisories up to date; why that was not possible, if it was not.
fn fetch_advisories(root: &Path) -> Result<Option<String>> {
    let mut command = Command::new(setup::CARGO_DENY.path()?);
    command.args(["--workspace", "fetch", "db"]).current_dir(root);
    println!("{} {}", ui::bold("database of advisories"), ui::dim(&child::spelled(&command)));
    let mut said = Vec::new();
    let end = child::lines(&mut command, Instant::now() + FETCH, |line| said.extend(line.map(str::to_owned)))?;
    Ok(why_not_asked(&end, &said))
}

/// Of a fetch that ended so and said that.
fn why_not_asked(end: &End, said: &[String]) -> Option<String> {
    let last = said.iter().rev().find(|line| !line.trim().is_empty()).map_or("it said nothing", |line| line.trim());
    match end {
        End::Exited(status) if status.success() => None,
        End::Exited(_) => Some(format!("the database could not be fetched ({last}); GitHub's workflow asks it")),
        End::Late => Some(format!("the database was not there within {FETCH:?}; GitHub's workflow asks it")),
    }
}

fn deny(words: &[&str]) -> Result<Command> {
    let mut command = Command::new(setup::CARGO_DENY.path()?);
    command.args(["--workspace", "check", "--hide-inclusion-graph"]).args(words);
    Ok(command)
}

fn steps(root: &Path) -> Result<Vec<(&'static str, Command)>> {
    let cargo = |words: &str| {
        let mut command = paths::cargo();
        command.args(words.split(' '));
        command
    };
    let mut documentation = cargo("doc --workspace --no-deps --document-private-items --quiet");
    documentation.env("RUSTDOCFLAGS", "-D warnings");
    let licences = deny(&["bans", "licenses", "sources"])?;
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

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    #[test]
    fn what_was_not_asked_says_why() {
        let exited = |code: i32| End::Exited(ExitStatus::from_raw(code << 8));
        let said = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        assert_eq!(why_not_asked(&exited(0), &said(&["warning: old"])), None);
        let why = why_not_asked(&exited(1), &said(&["error: failed", "  could not resolve host", ""])).unwrap();
        assert!(why.contains("(could not resolve host)"), "{why}");
        assert!(why_not_asked(&End::Late, &[]).unwrap().contains("60s"));
        assert!(why_not_asked(&exited(1), &[]).is_some());
    }
}
