//! `cargo xtask image`: the agent's container image, one static binary in an otherwise empty file system.
//!
//! Owns: the static build, and giving the archive away; `cluster::image` writes it. No container tool is needed; docker,
//! podman, kind and containerd load what is written.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cluster::image;
use crate::setup::{self, Say};
use crate::{child, paths, ui};

/// Make the agent's image
#[derive(clap::Args)]
pub(crate) struct ImageOptions {
    /// Its name
    #[arg(long, value_name = "REF", default_value = DEFAULT_NAME)]
    tag: String,
    /// Where to write the archive [default: TARGET/image/redir-agent.tar]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Give it to docker, podman or buildah, whichever is there
    #[arg(long)]
    load: bool,
    /// Build without optimisation: sooner done, for trying something
    #[arg(long)]
    debug: bool,
}

const DEFAULT_NAME: &str = concat!("ghcr.io/redir-dev/redir-agent:", env!("CARGO_PKG_VERSION"));
pub(crate) fn run(options: &ImageOptions) -> Result<()> {
    setup::run(Say::OnlyWork)?;
    let archive = build(&options.tag, options.debug, options.output.as_deref())?;
    match options.load {
        true => load(&archive),
        false => {
            println!(
                "next: docker load -i {0}, kind load image-archive {0}, or ctr -n k8s.io images import {0}",
                archive.display()
            );
            Ok(())
        }
    }
}

/// Builds the program and writes the archive; gives its place.
pub(crate) fn build(name: &str, debug: bool, output: Option<&Path>) -> Result<PathBuf> {
    let program = static_program(debug)?;
    let output = match output {
        Some(output) => output.to_owned(),
        None => paths::target()?.join("image").join("redir-agent.tar"),
    };
    if let Some(folder) = output.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    // A name without a folder lies in this one, which the archive's writer must be told.
    let output = std::path::absolute(&output).with_context(|| format!("cannot tell where {} is", output.display()))?;
    image::write(name, &program, &output)?;
    let size = fs::metadata(&output).map_or(0, |file| file.len() >> 20);
    println!("{} {name} ({size} MiB) in {}", ui::green("image"), output.display());
    Ok(output)
}

/// The agent, linked with everything it needs. Naming the target keeps the flags away from build scripts and macros.
pub(crate) fn static_program(debug: bool) -> Result<PathBuf> {
    let target = host()?;
    let profile = if debug { "dev" } else { "release" };
    let mut command = paths::cargo();
    command.current_dir(paths::root());
    command.args(["build", "--package", "redir-node-agent", "--bin", "redir-agent", "--profile", profile]);
    command.args(["--target", &target]).env("RUSTFLAGS", "-C target-feature=+crt-static");
    command.env("CARGO_TARGET_DIR", paths::target()?).env_remove("CARGO_ENCODED_RUSTFLAGS");
    child::show(&mut command)?;
    let folder = if debug { "debug" } else { "release" };
    let program = paths::target()?.join(target).join(folder).join("redir-agent");
    let bytes = fs::read(&program).with_context(|| format!("cannot read {}", program.display()))?;
    if is_dynamic(&bytes) {
        bail!(
            "{} wants a dynamic loader, which an empty image has not: is glibc's static library (libc6-dev) there?",
            program.display()
        );
    }
    Ok(program)
}

/// Whether an ELF file names an interpreter (`PT_INTERP`).
pub(crate) fn is_dynamic(elf: &[u8]) -> bool {
    let number = |at: usize, size: usize| {
        let bytes = elf.get(at..at + size).unwrap_or_default();
        bytes.iter().rev().fold(0_usize, |number, byte| number << 8 | usize::from(*byte))
    };
    // The 64-bit header: e_phoff at 32, e_phentsize at 54, e_phnum at 56; p_type comes first in each entry.
    let (table, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    const PT_INTERP: usize = 3;
    (0..count).any(|index| number(table + index * size, 4) == PT_INTERP)
}

fn host() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("-vV").output().context("cannot ask rustc for its target")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc named no host")?;
    Ok(host.to_owned())
}

/// Gives the archive to the first tool that is there and works.
fn load(archive: &Path) -> Result<()> {
    let file = archive.display().to_string();
    let from = format!("docker-archive:{file}");
    let tools: [(&str, [&str; 3]); 3] =
        [("docker", ["load", "-i", &file]), ("podman", ["load", "-i", &file]), ("buildah", ["pull", "-q", &from])];
    let mut failed = Vec::new();
    for (tool, arguments) in tools {
        let Some(program) = paths::program(tool) else { continue };
        match child::show(Command::new(program).args(arguments)) {
            Ok(()) => return Ok(()),
            Err(error) => failed.push(format!("{tool}: {error:#}")),
        }
    }
    match failed.is_empty() {
        true => bail!("neither docker, podman nor buildah is here: the archive is {file}, load it where one is"),
        false => bail!("no tool took the archive {file}: {}", failed.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dynamic_programs_are_told_from_static_ones() {
        // This test itself is linked as every ordinary program is.
        assert!(is_dynamic(&fs::read(std::env::current_exe().unwrap()).unwrap()));
        assert!(!is_dynamic(&[0; 64]) && !is_dynamic(b"\x7fELF"));
    }
}
