//! The programs of the local cluster: made once by `build.sh`, then kept in redir's cache under their version. Making them is
//! long, so every stage is done once; one that was interrupted goes on where it stopped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cluster::image;
use crate::{lock, paths, step, ui};

/// The version that Debian 12 has as source.
pub(crate) const KUBERNETES: &str = "1.20.2";
/// Raised whenever `build.sh` makes something else of the same version.
const RECIPE: u32 = 2;
/// The image that holds a pod's namespaces.
pub(super) const PAUSE: &str = "redir.local/pause:1.20.2";

const SCRIPT: &str = include_str!("build.sh");
/// How many packages `go build` names, for the progress.
const COMPILED: usize = 1690;

/// The stages of `build.sh`, with what they are to whoever waits.
const STAGES: [(&str, &str); 5] = [
    ("fetch", "fetching Kubernetes' source, Go, etcd and containerd from Debian (190 MB)"),
    ("unpack", "unpacking them"),
    ("describe", "generating the description of the API (half a minute)"),
    ("compile", "compiling Kubernetes (the long one)"),
    ("assemble", "putting the programs together"),
];

/// The folder of the finished programs: `bin`, `cni`, `pause.tar`, `versions`.
pub(super) fn folder() -> Result<PathBuf> {
    Ok(shelf()?.join(format!("kubernetes-{KUBERNETES}-{RECIPE}")))
}

fn shelf() -> Result<PathBuf> {
    Ok(paths::cache()?.join("cluster"))
}

/// One of the programs.
pub(super) fn program(name: &str) -> Result<PathBuf> {
    Ok(folder()?.join("bin").join(name))
}

/// Makes them unless they are there; whether it had to.
pub(super) fn install() -> Result<bool> {
    let (finished, workshop) = (folder()?, shelf()?.join("build"));
    if finished.is_dir() && !workshop.exists() {
        return Ok(false);
    }
    let _lock = lock::exclusive(&shelf()?.join("build.lock"), "`cargo xtask cluster setup`")?;
    let make = !finished.is_dir();
    if make {
        build(&workshop, &finished)?;
    }
    let line = ui::Line::start("removing what only the build needed");
    fs::remove_dir_all(&workshop)
        .or_else(|error| if workshop.exists() { Err(error) } else { Ok(()) })
        .with_context(|| format!("cannot remove {}", workshop.display()))?;
    line.end("done");
    Ok(make)
}

fn build(workshop: &Path, finished: &Path) -> Result<()> {
    println!(
        "Kubernetes {KUBERNETES} is not on this machine yet. It is compiled once: about 10 minutes on two idle cores, and 4 GB \
         of disk meanwhile.\n{}",
        ui::dim(&format!("Then it is kept in {} (400 MB). Ctrl-C is safe: the next run goes on.", finished.display()))
    );
    fs::create_dir_all(workshop).with_context(|| format!("cannot make {}", workshop.display()))?;
    let script = workshop.join("build.sh");
    fs::write(&script, SCRIPT).with_context(|| format!("cannot write {}", script.display()))?;
    for (stage, what) in STAGES {
        run(workshop, stage, what)?;
    }
    let done = workshop.join("done");
    image::write(PAUSE, &done.join("bin/pause"), &done.join("pause.tar"))?;
    fs::rename(&done, finished).with_context(|| format!("cannot rename {}", done.display()))
}

fn run(workshop: &Path, stage: &str, what: &str) -> Result<()> {
    let mark = workshop.join(format!("{stage}.ok"));
    if mark.exists() {
        return Ok(());
    }
    let log = step::log_file(&format!("cluster-{stage}.log"))?;
    let mut command = Command::new("sh");
    command.current_dir(workshop).args(["build.sh", stage, KUBERNETES]);
    let mut packages = 0;
    step::noting(&mut command, what.to_owned(), &log, |_| {
        packages += 1;
        // Only the compiler's lines can be counted.
        if stage == "compile" { format!("{packages} of about {COMPILED} packages") } else { String::new() }
    })?;
    fs::write(&mark, "").with_context(|| format!("cannot write {}", mark.display()))
}

/// A Debian package's version among the programs.
pub(super) fn version(package: &str) -> Result<String> {
    let path = folder()?.join("versions");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    let found = lines.find(|(name, _)| *name == package);
    found.map(|(_, version)| version.to_owned()).with_context(|| format!("{} names no {package}", path.display()))
}
