//! Other people's requests, which the tests of `redir-http` try ambiguity on: downloaded by the registries' own clients
//! into the cache, pinned by checksum, never a part of the tree. `crates/http/tests/cases` reads them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{pip, tools};
use crate::paths;
use crate::step::{log_file, quietly};

/// A folder of cases, and the file in it that says of which version they are.
struct Cases {
    name: &'static str,
    /// Fills an empty folder.
    fetch: fn(&Path) -> Result<()>,
    /// The version that is wanted, with its checksum.
    pin: fn() -> Result<String>,
}

const ALL: [Cases; 5] = [
    Cases { name: "gunicorn", fetch: gunicorn, pin: || Ok(GUNICORN.into()) },
    Cases { name: "grpcio", fetch: grpcio, pin: || Ok(GRPCIO.into()) },
    Cases { name: "httpwg", fetch: |into| tools::build(&tools::HTTPWG, into), pin: || Ok(tools::HTTPWG.pin()) },
    Cases {
        name: "httparse",
        fetch: |into| from_crate("httparse", &["src/lib.rs", "tests/uri.rs"], into),
        pin: || locked("httparse"),
    },
    Cases {
        name: "http_desync_guardian",
        fetch: |into| from_crate("http_desync_guardian", &["tests"], into),
        pin: || locked("http_desync_guardian"),
    },
];

/// 143 raw requests with what gunicorn makes of them; only the source package has them.
const GUNICORN: &str =
    "gunicorn==27.0.1 --hash=sha256:b1514965361c8b7e8107a80aa2a92636878df1ccfac6dd204a676426e04d9e3e";

/// Google's own gRPC, as a client and a service that share no code with the agent's.
const GRPCIO: &str = "\
grpcio==1.85.3 --hash=sha256:f2948333a1f462c0e559b5ea436655ed36822fa448f5713d6de2d483bed6e03f
typing-extensions==4.16.0 --hash=sha256:481caa481374e813c1b176ada14e97f1f67a4539ce9cfeb3f350d78d6370c2e8
";

const PIN: &str = "PIN";

/// Fetches what is missing; whether there was anything.
pub(super) fn install() -> Result<bool> {
    let mut did = false;
    for cases in &ALL {
        let (folder, pin) = (paths::cases()?.join(cases.name), (cases.pin)()?);
        if fs::read_to_string(folder.join(PIN)).is_ok_and(|there| there == pin) {
            continue;
        }
        did = true;
        // Complete or not there at all, also when it is interrupted.
        let new = folder.with_extension("new");
        remove(&new)?;
        fs::create_dir_all(&new).with_context(|| format!("cannot make {}", new.display()))?;
        (cases.fetch)(&new)?;
        fs::write(new.join(PIN), pin).with_context(|| format!("cannot write into {}", new.display()))?;
        remove(&folder)?;
        fs::rename(&new, &folder).with_context(|| format!("cannot rename {}", new.display()))?;
    }
    Ok(did)
}

fn remove(folder: &Path) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))
}

fn gunicorn(into: &Path) -> Result<()> {
    let download = into.join("download");
    let options = ["download", "--no-binary", ":all:", "--dest"];
    pip::pinned(into, GUNICORN, &options, &download, "downloading the requests of gunicorn's tests with pip")?;
    let archive = only_file(&download)?;
    let mut command = Command::new("tar");
    command.arg("--extract").arg("--file").arg(&archive).arg("--directory").arg(into);
    command.args(["--strip-components=3", "--wildcards", "*/tests/requests/*"]);
    quietly(&mut command, "unpacking them".into(), &log_file("tar.log")?)?;
    remove(&download)
}

/// The wheel is of Debian 12's Python.
fn grpcio(into: &Path) -> Result<()> {
    let options = ["install", "--only-binary", ":all:", "--python-version", "3.11", "--target"];
    pip::pinned(into, GRPCIO, &options, into, "downloading grpcio with pip, which gRPC is tested with")
}

fn only_file(folder: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    match files.as_slice() {
        [file] => Ok(file.clone()),
        _ => bail!("pip left {} files in {}, not one", files.len(), folder.display()),
    }
}

/// Copies files or folders of a crate's source, which cargo downloads and checks as for any build.
fn from_crate(name: &str, what: &[&str], into: &Path) -> Result<()> {
    let source = source(name)?;
    for what in what {
        let from = source.join(what);
        if from.is_dir() {
            let entries = fs::read_dir(&from).with_context(|| format!("cannot read {}", from.display()))?;
            entries.flatten().try_for_each(|entry| copy(&entry.path(), into))?;
        } else {
            copy(&from, into)?;
        }
    }
    Ok(())
}

fn copy(file: &Path, into: &Path) -> Result<()> {
    let name = file.file_name().context("a file without a name")?;
    fs::copy(file, into.join(name)).map(drop).with_context(|| format!("cannot copy {}", file.display()))
}

fn source(name: &str) -> Result<PathBuf> {
    let mut command = paths::cargo();
    command.current_dir(paths::root()).args(["metadata", "--format-version", "1", "--filter-platform"]);
    let output = command.arg(paths::host_triple()?).output().context("cannot start `cargo metadata`")?;
    if !output.status.success() {
        bail!("`cargo metadata` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).context("cannot read cargo's metadata")?;
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let manifest = packages.iter().find(|package| package["name"] == name).and_then(|p| p["manifest_path"].as_str());
    let folder = manifest.and_then(|manifest| Path::new(manifest).parent());
    folder.map(Path::to_owned).with_context(|| format!("cargo does not know where the source of {name} is"))
}

/// A crate's version and checksum, as Cargo.lock has them.
fn locked(name: &str) -> Result<String> {
    let lock = paths::root().join("Cargo.lock");
    let text = fs::read_to_string(&lock).with_context(|| format!("cannot read {}", lock.display()))?;
    let package = text.split("[[package]]").find(|package| package.contains(&format!("\nname = \"{name}\"\n")));
    package.map(|package| package.trim().to_owned()).with_context(|| format!("Cargo.lock has no {name}"))
}
