//! The agent on arm64 kernels: cross-built, and asked (`redir-agent check`) to load every program and to attach it, which goes
//! through that architecture's own verifier and compiler in the kernel.
//!
//! The standard library for it is rustup's where that has one, else Debian's for the compiler that set-up installs; that
//! package, and a busybox, come from Debian's arm64 suites and are only unpacked.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::apt::Apt;
use super::job::Job;
use super::{Architecture, store};
use crate::{child, image, paths, setup, ui};

const TARGET: &str = "aarch64-unknown-linux-gnu";
/// Set-up's compiler, Debian's.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
/// What `redir-agent check` wants to see, and tries.
const CONFIG: &str = "[agent]\nlisten = \"[::]:7443\"\nkey = \"/run/agent.key\"\n";

/// Prints what cargo's test programs print, so that it is counted like them.
const SCRIPT: &str = "\
echo '     Running redir-agent check (check-arm64)'
redir-agent keygen /run/agent.key
if redir-agent check --config /agent.toml; then
    echo 'test every_program_loads_and_is_attached ... ok'
    echo 'test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out'
else
    echo 'test every_program_loads_and_is_attached ... FAILED'
    echo 'test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out'
    exit 1
fi
";

/// Builds the agent and a root to try it in.
pub(super) fn job() -> Result<Job> {
    setup::with_arm64()?;
    let shelf = store::shelf(Architecture::Arm64)?;
    let apt = Apt::open(&shelf.join("apt"), Architecture::Arm64)?;
    let busybox = package(&apt, &shelf, "busybox-static", None)?.join("bin/busybox");
    let agent = agent(&apt, &shelf)?;
    let root = paths::target()?.join("kernels/arm64-root");
    make_root(&root, &busybox, &agent).with_context(|| format!("cannot make {}", root.display()))?;
    Ok(Job::of(SCRIPT.to_owned(), root, busybox))
}

fn make_root(root: &Path, busybox: &Path, agent: &Path) -> std::io::Result<()> {
    if root.exists() {
        fs::remove_dir_all(root)?;
    }
    for folder in ["bin", "proc", "sys", "dev", "run", "tmp", "out", "lib/modules", "root"] {
        fs::create_dir_all(root.join(folder))?;
    }
    fs::copy(busybox, root.join("bin/busybox"))?;
    fs::copy(agent, root.join("bin/redir-agent"))?;
    for program in ["busybox", "redir-agent"] {
        fs::set_permissions(root.join("bin").join(program), fs::Permissions::from_mode(0o755))?;
    }
    let applets = [
        "sh", "mount", "mkdir", "hostname", "modprobe", "mknod", "ip", "uname", "cut", "sleep", "setsid", "dmesg",
        "sync",
    ];
    applets.iter().try_for_each(|applet| symlink("busybox", root.join("bin").join(applet)))?;
    // Where a kernel that lacks a module looks for the program.
    symlink("bin", root.join("sbin"))?;
    fs::write(root.join("agent.toml"), CONFIG)
}

/// The agent for arm64, with everything it needs.
fn agent(apt: &Apt, shelf: &Path) -> Result<PathBuf> {
    println!("building the agent for arm64");
    let folder = paths::target()?.join("arm64");
    let mut flags = "-C target-feature=+crt-static".to_owned();
    let mut command = paths::cargo();
    command.current_dir(paths::root()).env("CARGO_TARGET_DIR", &folder).env_remove("CARGO_ENCODED_RUSTFLAGS");
    // Nobody debugs it there, and it is done and copied sooner.
    command.env("CARGO_PROFILE_DEV_DEBUG", "0");
    command.args(["build", "--package", "redir-node-agent", "--bin", "redir-agent", "--target", TARGET]);
    if !has_library()? {
        let version = debian_version("rustc-web")?;
        let library = package(apt, shelf, "libstd-rust-web-dev", Some(&version))?;
        flags += &format!(" -L {}", library.join("usr/lib/rustlib").join(TARGET).join("lib").display());
        command.env("RUSTC", DEBIAN_RUSTC);
    }
    command.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS", flags);
    command.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", "aarch64-linux-gnu-gcc");
    child::show(&mut command)?;
    let program = folder.join(TARGET).join("debug/redir-agent");
    let bytes = fs::read(&program).with_context(|| format!("cannot read {}", program.display()))?;
    ensure!(!image::is_dynamic(&bytes), "{} wants libraries, which the guest has not", program.display());
    Ok(program)
}

/// Whether the toolchain has the standard library for arm64 (`rustup target add`).
fn has_library() -> Result<bool> {
    let sysroot = paths::rustc(&["--print", "sysroot"])?;
    Ok(Path::new(sysroot.trim()).join("lib/rustlib").join(TARGET).join("lib").is_dir())
}

fn debian_version(package: &str) -> Result<String> {
    let output = Command::new("dpkg-query").args(["-W", "-f", "${Version}", package]).output();
    let output = output.context("cannot start dpkg-query")?;
    ensure!(output.status.success(), "{package} is not installed: run `cargo xtask setup`");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Where a package of the arm64 suites is unpacked; a given version, or the suites' own.
fn package(apt: &Apt, shelf: &Path, name: &str, version: Option<&str>) -> Result<PathBuf> {
    let wanted = version.map_or_else(|| name.to_owned(), |version| format!("{name}={version}"));
    let folder = shelf.join(wanted.replace(['=', ':', '~', '+'], "-"));
    if folder.is_dir() {
        return Ok(folder);
    }
    let (new, packages) = (folder.with_extension("new"), folder.with_extension("deb"));
    store::make_empty(&new)?;
    store::make_empty(&packages)?;
    apt.download(&[wanted], &packages, &format!("downloading {name} for arm64"))?;
    store::unpack(&packages, &new)?;
    store::remove(&packages)?;
    fs::rename(&new, &folder).with_context(|| format!("cannot rename {}", new.display()))?;
    println!("{} {}", ui::dim("unpacked"), folder.display());
    Ok(folder)
}
