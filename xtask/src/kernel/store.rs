//! Kernels in redir's cache: one folder for each that is asked for, filled from Debian's packages, replaced when the suite has
//! a newer one, and used as it is while the mirror is out of reach.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::Flock;

use super::Architecture;
use super::apt::{self, Apt, KernelPackage};
use crate::step::{log_file, quietly};
use crate::{child, image, lock, paths, signals};

/// The word for the newest kernel of all suites.
pub(super) const NEWEST: &str = "newest";

/// A kernel that can be booted.
pub(super) struct StoredKernel {
    /// What was asked for: `6.1`, or `newest`.
    pub(super) wanted: String,
    /// As `uname -r` says it.
    pub(super) release: String,
    /// The Debian package's version.
    pub(super) version: String,
    pub(super) architecture: Architecture,
    /// `vmlinuz`, and `lib/modules/RELEASE`.
    folder: PathBuf,
}

/// Who holds the locks, in words.
pub(super) const HOLDER: &str = "`cargo xtask test --kernel`";

/// Brings the kernels of these series up to date, in the order they were asked for. They stay as they are while the lock is
/// held: a guest has its modules from there.
pub(super) fn install(wanted: &[String], architecture: Architecture) -> Result<(Flock<File>, Vec<StoredKernel>)> {
    let shelf = shelf(architecture)?;
    let lock = lock::exclusive(&shelf.join("lock"), HOLDER)?;
    let apt = Apt::open(&shelf.join("apt"), architecture)?;
    update(&apt)?;
    let offered = apt.kernels()?;
    let mut kernels: Vec<StoredKernel> = Vec::new();
    for wanted in wanted {
        let kernel = bring_up_to_date(&apt, &offered, &shelf, wanted, architecture)?;
        // The newest may have been asked for by its number as well.
        if kernels.iter().all(|other| other.release != kernel.release) {
            kernels.push(kernel);
        }
    }
    Ok((lock, kernels))
}

/// Where kernels of an architecture are kept.
pub(super) fn shelf(architecture: Architecture) -> Result<PathBuf> {
    Ok(paths::cache()?.join("kernels").join(architecture.debian()))
}

/// Asks the mirror. Without it, or without one of its suites, what was heard before has to do.
fn update(apt: &Apt) -> Result<()> {
    if apt.is_fresh() {
        return Ok(());
    }
    match apt.update() {
        Err(_) if !signals::interrupted() => {
            println!("not every suite of Debian could be asked: going on with what is known of them");
            Ok(())
        }
        other => other,
    }
}

fn bring_up_to_date(
    apt: &Apt,
    offered: &[KernelPackage],
    shelf: &Path,
    wanted: &str,
    architecture: Architecture,
) -> Result<StoredKernel> {
    let folder = shelf.join(wanted);
    let cached = read_package(&folder);
    let series = (wanted != NEWEST).then_some(wanted);
    let (release, version) = match (apt::newest(offered, series), cached) {
        (Some(newest), Some((release, version))) if newest.release == release && newest.version == version => {
            (release, version)
        }
        (Some(newest), cached) => match (fetch(apt, newest, &folder), cached) {
            (Ok(()), _) => (newest.release.clone(), newest.version.clone()),
            (Err(error), Some(cached)) if !signals::interrupted() => {
                println!("Linux {} cannot be had ({error:#}): going on with {}", newest.version, cached.1);
                cached
            }
            (Err(error), _) => return Err(error),
        },
        (None, Some(cached)) => cached,
        (None, None) => bail!(
            "none of Debian's suites has a Linux {wanted} for {} now; they have {}",
            architecture.debian(),
            apt::all_series(offered)?
        ),
    };
    Ok(StoredKernel { wanted: wanted.to_owned(), release, version, architecture, folder })
}

/// Release and version of what lies there whole.
fn read_package(folder: &Path) -> Option<(String, String)> {
    let text = fs::read_to_string(folder.join("package")).ok()?;
    let (release, version) = text.trim().split_once(' ')?;
    Some((release.to_owned(), version.to_owned()))
}

/// Downloads and unpacks a kernel; complete or not there at all, also when it is interrupted.
fn fetch(apt: &Apt, kernel: &KernelPackage, folder: &Path) -> Result<()> {
    let (new, packages) = (folder.with_extension("new"), folder.with_extension("deb"));
    let unpacked = packages.join("files");
    for folder in [&new, &packages] {
        make_empty(folder)?;
    }
    for folder in [&new.join("lib/modules"), &unpacked] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let names: Vec<String> = kernel.packages.iter().map(|name| format!("{name}={}", kernel.version)).collect();
    apt.download(&names, &packages, &format!("downloading Linux {}", kernel.version))?;
    unpack(&packages, &unpacked)?;
    let release = &kernel.release;
    let one_of = |places: [String; 2]| {
        let mut places = places.iter().map(|place| unpacked.join(place));
        places.find(|place| place.exists()).with_context(|| format!("the package of Linux {release} has no {places:?}"))
    };
    // From 6.19 on they lie below /usr.
    let image = one_of([format!("boot/vmlinuz-{release}"), format!("usr/lib/modules/{release}/vmlinuz")])?;
    let modules = one_of([format!("lib/modules/{release}"), format!("usr/lib/modules/{release}")])?;
    fs::copy(&image, new.join("vmlinuz")).with_context(|| format!("cannot copy {}", image.display()))?;
    let place = new.join("lib/modules").join(release);
    fs::rename(&modules, &place).with_context(|| format!("cannot move {}", modules.display()))?;
    let depmod = paths::program("depmod").context("depmod is nowhere in PATH")?;
    let mut command = Command::new(depmod);
    let line = format!("noting what its modules need ({release})");
    quietly(command.arg("-b").arg(&new).arg(release), line, &log_file("depmod.log")?)?;
    fs::write(new.join("package"), format!("{release} {}\n", kernel.version))
        .with_context(|| format!("cannot write into {}", new.display()))?;
    remove(&packages)?;
    remove(folder)?;
    fs::rename(&new, folder).with_context(|| format!("cannot rename {}", new.display()))
}

/// Unpacks every package of a folder into another.
pub(super) fn unpack(packages: &Path, into: &Path) -> Result<()> {
    let entries = fs::read_dir(packages).with_context(|| format!("cannot read {}", packages.display()))?;
    for package in entries.flatten().map(|entry| entry.path()) {
        if package.extension().is_some_and(|extension| extension == "deb") {
            let mut command = Command::new("dpkg-deb");
            command.arg("--extract").arg(&package).arg(into);
            quietly(&mut command, "unpacking it".into(), &log_file("dpkg-deb.log")?)?;
        }
    }
    Ok(())
}

pub(super) fn make_empty(folder: &Path) -> Result<()> {
    remove(folder)?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}

pub(super) fn remove(folder: &Path) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))
}

impl StoredKernel {
    /// One that is nowhere, for tests of what is written about it.
    #[cfg(test)]
    pub(super) fn named(wanted: &str, version: &str, architecture: Architecture) -> StoredKernel {
        let (wanted, version, release) = (wanted.to_owned(), version.to_owned(), version.to_owned());
        StoredKernel { wanted, release, version, architecture, folder: PathBuf::new() }
    }

    /// Its name in titles: the version, and what was asked for where that is a word.
    pub(super) fn title(&self) -> String {
        let version = format!("Linux {}", self.version);
        if self.wanted == NEWEST { format!("{version} ({NEWEST})") } else { version }
    }

    pub(super) fn series(&self) -> &str {
        apt::series_of(&self.version)
    }

    pub(super) fn image(&self) -> PathBuf {
        self.folder.join("vmlinuz")
    }

    /// What the guest has in `/lib/modules`.
    pub(super) fn modules(&self) -> PathBuf {
        self.folder.join("lib/modules")
    }

    /// Writes an initramfs that does nothing but reach the shared root: a static busybox, [`INIT`], and the modules for it.
    pub(super) fn write_initramfs(&self, busybox: &Path, file: &Path) -> Result<()> {
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let root = folder.path();
        for part in ["bin", "proc", "sys", "dev", "lower", "upper", "root", "out", "kernel", "modules"] {
            fs::create_dir(root.join(part)).context("cannot make the initramfs")?;
        }
        let program = fs::read(busybox).with_context(|| format!("cannot read {}", busybox.display()))?;
        ensure!(
            !image::is_dynamic(&program),
            "{} wants libraries, and a guest has none at first: install busybox-static in the place of busybox",
            busybox.display()
        );
        fs::copy(busybox, root.join("bin/busybox")).with_context(|| format!("cannot copy {}", busybox.display()))?;
        fs::write(root.join("init"), INIT).context("cannot write the initramfs")?;
        let mut list = Vec::new();
        for module in self.modules_to_reach_the_root()? {
            let name = copy_module(&module, &root.join("modules"))?;
            list.push(name);
        }
        fs::write(root.join("modules/list"), list.join("\n")).context("cannot write the initramfs")?;
        let pack = "chmod 755 init && find . | cpio --quiet -o -H newc >\"$1\"";
        let mut command = Command::new("sh");
        command.current_dir(root).args(["-ec", pack, "sh"]).arg(file);
        let output = command.output().context("cannot start sh")?;
        ensure!(
            output.status.success(),
            "`{}` failed: {}",
            child::spelled(&command),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }

    /// In the order in which they can be loaded; what is built in needs none.
    fn modules_to_reach_the_root(&self) -> Result<Vec<PathBuf>> {
        let modprobe = paths::program("modprobe").context("modprobe is nowhere in PATH")?;
        let mut files: Vec<PathBuf> = Vec::new();
        for module in ["virtio_pci", "virtiofs", "overlay"] {
            let mut command = Command::new(&modprobe);
            command.arg("-d").arg(&self.folder).args(["-S", &self.release, "--show-depends", module]);
            let output = command.output().context("cannot start modprobe")?;
            // One that is not found is built in: newer packages do not list those. Else the guest says what it lacks.
            let text = String::from_utf8_lossy(&output.stdout);
            for file in text.lines().filter_map(|line| line.strip_prefix("insmod ")).map(|file| file.trim().into()) {
                if !files.contains(&file) {
                    files.push(file);
                }
            }
        }
        Ok(files)
    }
}

/// Copies a module, unpacked: busybox loads nothing else. Gives its name.
fn copy_module(module: &Path, into: &Path) -> Result<String> {
    let name = module.file_name().and_then(|name| name.to_str()).context("a module has a name")?;
    if let Some(name) = name.strip_suffix(".xz") {
        let output = Command::new("xz").arg("-dc").arg(module).output().context("cannot start xz")?;
        ensure!(output.status.success(), "xz cannot unpack {}", module.display());
        fs::write(into.join(name), output.stdout).context("cannot write a module")?;
        return Ok(name.to_owned());
    }
    ensure!(name.ends_with(".ko"), "{} is packed in a way that redir does not know", module.display());
    fs::copy(module, into.join(name)).with_context(|| format!("cannot copy {}", module.display()))?;
    Ok(name.to_owned())
}

const INIT: &str = include_str!("init.sh");
