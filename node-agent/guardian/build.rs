//! Builds the eBPF programs with a compiler pair of their own and leaves the object in `OUT_DIR/redir-ebpf`.
//!
//! Two pairs will do: Debian's `rustc-web` with `rust-web-src`, or a rustup nightly with `rust-src`; both with a
//! `bpf-linker`. `cargo xtask setup` installs what is missing. Writes nothing into the source tree.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

const TARGET: &str = "bpfel-unknown-none";

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            println!("cargo::error={sentence}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let guardian = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let root = guardian.ancestors().nth(2).ok_or("there is no repository around the guardian: clone all of it")?;
    for input in ["ebpf/src", "ebpf/Cargo.toml", "ebpf/Cargo.lock", "crates/abi/src", "crates/abi/Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=XDG_CACHE_HOME");

    let path = search_path()?;
    let compiler =
        debian_pair().or_else(nightly_pair).ok_or_else(|| missing("a Rust compiler with the source of `core`"))?;
    let out = PathBuf::from(variable("OUT_DIR")?);
    let target_dir = target_dir(&out);
    compile(&compiler, &path, &root.join("ebpf"), &target_dir)?;
    let object = target_dir.join(TARGET).join("release/redir-ebpf");
    let kept = out.join("redir-ebpf");
    fs::copy(&object, &kept).map(drop).map_err(|e| format!("copy {} to {}: {e}", object.display(), kept.display()))
}

fn missing(what: &str) -> String {
    format!("{what} is needed to build the eBPF programs and was not found: run `cargo xtask setup`")
}

/// A compiler that can build `core` for the eBPF target.
struct EbpfCompiler {
    cargo: OsString,
    rustc: OsString,
    /// Debian's is a stable one: it takes `-Z` flags only when told that it may.
    bootstrap: bool,
}

fn debian_pair() -> Option<EbpfCompiler> {
    let rustc = Path::new("/usr/bin/rustc");
    if !rustc.exists() || !has_core_source(rustc) {
        return None;
    }
    Some(EbpfCompiler { cargo: env::var_os("CARGO")?, rustc: rustc.into(), bootstrap: true })
}

fn nightly_pair() -> Option<EbpfCompiler> {
    let which = |tool| output(clean("rustup").args(["which", "--toolchain", "nightly", tool]));
    let rustc = which("rustc")?;
    if !has_core_source(Path::new(&rustc)) {
        return None;
    }
    Some(EbpfCompiler { cargo: which("cargo")?.into(), rustc: rustc.into(), bootstrap: false })
}

fn has_core_source(rustc: &Path) -> bool {
    let sysroot = output(clean(rustc).args(["--print", "sysroot"]));
    sysroot.is_some_and(|root| Path::new(&root).join("lib/rustlib/src/rust/library/core/Cargo.toml").exists())
}

fn output(command: &mut Command) -> Option<String> {
    let done = command.stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(done.stdout).ok()?;
    done.status.success().then(|| text.trim().to_owned())
}

/// `PATH` with the tools that `cargo xtask setup` installs in front; an error if `bpf-linker` is nowhere on it.
fn search_path() -> Result<OsString, String> {
    let cache = env::var_os("XDG_CACHE_HOME")
        .filter(|dir| !dir.is_empty())
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    let tools = cache.map(|dir| dir.join("redir/tools/bin"));
    let inherited = env::var_os("PATH").unwrap_or_default();
    let all: Vec<PathBuf> = tools.into_iter().chain(env::split_paths(&inherited)).collect();
    if !all.iter().any(|dir| dir.join("bpf-linker").is_file()) {
        return Err(missing("`bpf-linker`"));
    }
    env::join_paths(all).map_err(|e| format!("PATH: {e}: unset the offending variable"))
}

/// One directory for every profile of the agent: the programs are the same in all of them.
fn target_dir(out: &Path) -> PathBuf {
    // target/PROFILE/build/PACKAGE-HASH/out
    match (out.ancestors().nth(2), out.ancestors().nth(4)) {
        (Some(build), Some(target)) if build.file_name().is_some_and(|name| name == "build") => target.join("ebpf"),
        _ => out.join("ebpf"),
    }
}

fn compile(compiler: &EbpfCompiler, path: &OsString, source: &Path, target_dir: &Path) -> Result<(), String> {
    let mut cargo = clean(&compiler.cargo);
    cargo
        .current_dir(source)
        .args(["build", "--quiet", "--locked", "--release", "--target", TARGET, "-Z", "build-std=core", "--target-dir"])
        .arg(target_dir)
        .env("PATH", path)
        .env("RUSTC", &compiler.rustc);
    if compiler.bootstrap {
        cargo.env("RUSTC_BOOTSTRAP", "1");
    }
    match cargo.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => {
            Err("the eBPF programs do not build; if the messages below name a tool, run `cargo xtask setup`".to_owned())
        }
        Err(e) => Err(format!("start {}: {e}: run `cargo xtask setup`", compiler.cargo.display())),
    }
}

/// A command without what the outer cargo says about the outer build: its flags and wrappers are for another compiler.
fn clean(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        let outer = [
            "CARGO_BUILD_",
            "CARGO_CFG_",
            "CARGO_FEATURE_",
            "CARGO_PKG_",
            "CARGO_PROFILE_",
            "CARGO_TARGET_",
            "CARGO_UNSTABLE_",
        ];
        let others = [
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_MANIFEST_DIR",
            "CARGO_MANIFEST_PATH",
            "RUSTUP_TOOLCHAIN",
            "TARGET",
            "HOST",
        ];
        if outer.iter().any(|p| text.starts_with(p))
            || others.contains(&text)
            || text.starts_with("RUSTC")
            || text.starts_with("RUSTDOC")
            || text == "RUSTFLAGS"
        {
            command.env_remove(&name);
        }
    }
    command
}

fn variable(name: &str) -> Result<OsString, String> {
    env::var_os(name).ok_or_else(|| format!("{name} is not set: build with cargo"))
}
