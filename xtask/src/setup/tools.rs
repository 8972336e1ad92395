//! Tools from crates.io, each of one fixed version, in redir's own folder outside the tree: an interrupted installation
//! leaves nothing half done there, and its build goes on where it stopped.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::paths;
use crate::step::{log_file, quietly};

/// A program that `cargo install` builds.
pub(crate) struct Tool {
    name: &'static str,
    version: &'static str,
    options: &'static [&'static str],
    /// Whether its own lock file is used; an old one may hold what today's compiler refuses.
    locked: bool,
    why: &'static str,
}

/// Links the kernel programs. Its LLVM must be at least the compiler's, which is 22 in Debian 12's pair.
pub(super) const BPF_LINKER: Tool = Tool {
    name: "bpf-linker",
    version: "0.13.0",
    options: &["--no-default-features", "--features", "llvm-22"],
    locked: true,
    why: "it links the kernel programs; about 2 minutes",
};

/// Reads deny.toml.
pub(crate) const CARGO_DENY: Tool = Tool {
    name: "cargo-deny",
    version: "0.20.2",
    options: &["--no-default-features"],
    locked: true,
    why: "it checks licences and sources of all dependencies; about 5 minutes",
};

/// Reads the workflow.
pub(crate) const ACTION_VALIDATOR: Tool = Tool {
    name: "action-validator",
    version: "0.9.0",
    options: &[],
    locked: true,
    why: "it checks .github/workflows; about a minute",
};

/// Makes a website of `docs/`.
pub(crate) const MDBOOK: Tool = Tool {
    name: "mdbook",
    version: "0.5.4",
    options: &["--no-default-features", "--debug"],
    locked: true,
    why: "it builds the pages of docs/; about 2 minutes",
};

/// Asks an HTTP/2 server what h2spec asks.
pub(super) const HTTPWG: Tool = Tool {
    name: "httpwg-cli",
    version: "0.2.5",
    options: &[],
    locked: true,
    why: "its HTTP/2 cases are tried through the agent; about 2 minutes",
};

/// What the bench compares with. Without rathole's TLS, which wants OpenSSL's headers; its noise is measured.
pub(super) const TUNNELS: [Tool; 3] = [
    Tool {
        name: "rathole",
        version: "0.5.0",
        options: &["--no-default-features", "--features", "server,client,noise"],
        locked: false,
        why: "a tunnel that the bench compares with; minutes",
    },
    Tool {
        name: "bore-cli",
        version: "0.6.0",
        options: &[],
        locked: true,
        why: "a tunnel that the bench compares with; minutes",
    },
    Tool {
        name: "rusnel",
        version: "0.11.2",
        options: &[],
        locked: true,
        why: "a tunnel that the bench compares with; minutes",
    },
];

/// Where LLVM's own programs are; bpf-linker's build asks `llvm-config` there.
const LLVM: &str = "/usr/lib/llvm-22/bin";

impl Tool {
    /// Whether a person who wrote `word` means it.
    pub(super) fn is(&self, word: &str) -> bool {
        self.name.starts_with(word)
    }

    /// The package's name on crates.io.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// The program itself, once installed.
    pub(crate) fn path(&self) -> Result<PathBuf> {
        Ok(paths::tools()?.join("bin").join(self.name.trim_end_matches("-cli")))
    }

    /// Name and version.
    pub(super) fn pin(&self) -> String {
        format!("{} {}", self.name, self.version)
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
    build(tool, &paths::tools()?)?;
    Ok(true)
}

/// Builds the tool into a folder's `bin`.
pub(super) fn build(tool: &Tool, into: &Path) -> Result<()> {
    let build = paths::cache()?.join("build").join(tool.name);
    let mut command = paths::cargo();
    command.args(["install", tool.name, "--version", tool.version, "--force"]).args(tool.options);
    command.args(tool.locked.then_some("--locked"));
    command.arg("--root").arg(into);
    command.env("CARGO_TARGET_DIR", &build).env("PATH", path_with_llvm());
    // What cargo told xtask is not meant for another build.
    for name in ["CARGO_BUILD_TARGET", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"] {
        command.env_remove(name);
    }
    let line = format!("building {} {} ({})", tool.name, tool.version, tool.why);
    quietly(&mut command, line, &log_file(&format!("{}.log", tool.name))?)?;
    fs::remove_dir_all(&build)
        .or_else(|error| if build.exists() { Err(error) } else { Ok(()) })
        .with_context(|| format!("cannot remove {}", build.display()))
}

fn path_with_llvm() -> std::ffi::OsString {
    let mut path = std::ffi::OsString::from(LLVM);
    if let Some(rest) = std::env::var_os("PATH") {
        path.push(":");
        path.push(rest);
    }
    path
}
