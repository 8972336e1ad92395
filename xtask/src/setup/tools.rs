//! Tools from crates.io, each of one fixed version, in redir's own folder outside the tree: an interrupted installation
//! leaves nothing half done there, and its build goes on where it stopped.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::child::{self, End};
use crate::{paths, signals, ui};

/// A program that `cargo install` builds.
pub(crate) struct Tool {
    name: &'static str,
    version: &'static str,
    options: &'static [&'static str],
    why: &'static str,
}

/// Links the kernel programs. Its LLVM must be at least the compiler's, which is 22 in Debian 12's pair.
pub(super) const BPF_LINKER: Tool = Tool {
    name: "bpf-linker",
    version: "0.13.0",
    options: &["--no-default-features", "--features", "llvm-22"],
    why: "it links the kernel programs; about 2 minutes",
};

/// Reads deny.toml.
pub(crate) const CARGO_DENY: Tool = Tool {
    name: "cargo-deny",
    version: "0.20.2",
    options: &["--no-default-features"],
    why: "it checks licences and sources of all dependencies; about 5 minutes",
};

/// Reads the workflow.
pub(crate) const ACTION_VALIDATOR: Tool = Tool {
    name: "action-validator",
    version: "0.9.0",
    options: &[],
    why: "it checks .github/workflows; about a minute",
};

/// Where LLVM's own programs are; bpf-linker's build asks `llvm-config` there.
const LLVM: &str = "/usr/lib/llvm-22/bin";
/// An hour is far beyond the slowest machine seen, and still an end.
const LIMIT: Duration = Duration::from_secs(3600);

impl Tool {
    /// The program itself, once installed.
    pub(crate) fn path(&self) -> Result<PathBuf> {
        Ok(paths::tools()?.join("bin").join(self.name))
    }

    /// Cargo notes what it installed only after the program is in its place.
    fn installed(&self) -> Result<bool> {
        let noted = fs::read_to_string(paths::tools()?.join(".crates.toml")).unwrap_or_default();
        Ok(noted.contains(&format!("\"{} {} ", self.name, self.version)) && self.path()?.is_file())
    }
}

/// Installs the tool unless that very version is there; whether it had to.
pub(super) fn install(tool: &Tool) -> Result<bool> {
    if tool.installed()? {
        return Ok(false);
    }
    let build = paths::cache()?.join("build").join(tool.name);
    let mut command = Command::new(paths::cargo());
    command.args(["install", tool.name, "--version", tool.version, "--locked", "--force"]).args(tool.options);
    command.arg("--root").arg(paths::tools()?);
    command.env("CARGO_TARGET_DIR", &build).env("PATH", path_with_llvm());
    // What cargo told xtask is not meant for another build.
    for name in ["CARGO_BUILD_TARGET", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_MANIFEST_DIR"] {
        command.env_remove(name);
    }
    let line = format!("building {} {} ({})", tool.name, tool.version, tool.why);
    quietly(&mut command, line, &log_file(&format!("{}.log", tool.name))?)?;
    fs::remove_dir_all(&build)
        .or_else(|error| if build.exists() { Err(error) } else { Ok(()) })
        .with_context(|| format!("cannot remove {}", build.display()))?;
    Ok(true)
}

fn path_with_llvm() -> std::ffi::OsString {
    let mut path = std::ffi::OsString::from(LLVM);
    if let Some(rest) = std::env::var_os("PATH") {
        path.push(":");
        path.push(rest);
    }
    path
}

/// A file for a program's output, in the cache.
pub(super) fn log_file(name: &str) -> Result<PathBuf> {
    let folder = paths::cache()?.join("log");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder.join(name))
}

/// Runs a command behind one line of progress; its words go to `log`, and their end to the screen if it fails.
pub(super) fn quietly(command: &mut Command, line: String, log: &Path) -> Result<()> {
    let mut file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .open(log)
        .with_context(|| format!("cannot write {}", log.display()))?;
    let line = ui::Line::start(line);
    let mut tail = Tail::default();
    let end = child::lines(command, Instant::now() + LIMIT, |text| match text {
        Some(text) => {
            let _ = writeln!(file, "{text}");
            tail.push(text);
        }
        None => line.tick(""),
    })?;
    match end {
        End::Exited(status) if status.success() => {
            line.end("done");
            return Ok(());
        }
        _ if signals::interrupted() => line.end("interrupted; running it again is safe"),
        End::Exited(status) => line.end(&format!("failed ({status})")),
        End::Late => line.end(&format!("not done after {}, stopped", ui::spoken(LIMIT))),
    }
    if !signals::interrupted() {
        eprintln!("{}", tail.text());
    }
    bail!("`{}` did not succeed: all of its words are in {}", child::spelled(command), log.display())
}

/// The last lines of an output.
#[derive(Default)]
struct Tail(std::collections::VecDeque<String>);

impl Tail {
    /// Enough for a compiler's error.
    const LINES: usize = 25;

    fn push(&mut self, line: &str) {
        if self.0.len() == Self::LINES {
            self.0.pop_front();
        }
        self.0.push_back(line.to_owned());
    }

    fn text(&self) -> String {
        self.0.iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
    }
}
