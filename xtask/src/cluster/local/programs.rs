//! The programs of the local cluster: made once for each version by `build.sh`, then kept in redir's cache. Making them is
//! long, so every stage is done once; one that was interrupted goes on where it stopped. How far it is, is `progress`'s.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::progress::BuildProgress;
use crate::cluster::image;
use crate::cluster::version::KubernetesVersion;
use crate::{child, lock, paths, setup, step, ui};

/// Raised whenever `build.sh` or the modules in `go/parts` make something else of the same version.
const RECIPE: u32 = 3;

const SCRIPT: &str = include_str!("build.sh");

/// The stages of `build.sh`, with what they are to whoever waits.
const STAGES: [(&str, &str); 3] = [
    ("fetch", "fetching the source of Kubernetes, etcd, containerd and runc from the Go module proxy"),
    ("compile", "compiling them"),
    ("assemble", "putting the programs together"),
];
/// Comes first for a version whose modules are not in the tree.
const MODULES_STAGE: (&str, &str) = ("modules", "working out which modules this version needs");

/// The modules that name what is compiled beside Kubernetes, and the sums of all that they need.
const PARTS: [(&str, &str); 2] =
    [("parts/go.mod", include_str!("go/parts/go.mod")), ("parts/go.sum", include_str!("go/parts/go.sum"))];
/// The same for Kubernetes in the tree's version.
const KUBERNETES: [(&str, &str); 2] = [
    ("kubernetes/go.mod", include_str!("go/kubernetes/go.mod")),
    ("kubernetes/go.sum", include_str!("go/kubernetes/go.sum")),
];

/// What a person may have set about Go that also holds for this build: where modules come from, and where they are kept.
const GO_SETTINGS: [&str; 7] = ["GOPROXY", "GONOPROXY", "GOSUMDB", "GONOSUMDB", "GOPRIVATE", "GOMODCACHE", "GOCACHE"];

/// Kubernetes of one version, and all that it runs on, in a folder: `bin`, `cni`, `pause.tar`, `versions`, `modules`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ClusterPrograms {
    version: KubernetesVersion,
    folder: PathBuf,
}

impl ClusterPrograms {
    /// Whether they are there or not.
    pub(super) fn of(version: KubernetesVersion) -> Result<ClusterPrograms> {
        Ok(ClusterPrograms { version, folder: shelf()?.join(format!("kubernetes-{version}-{RECIPE}")) })
    }

    /// Those of a cluster that is up, which somebody with another cache may have made.
    pub(super) fn in_folder(version: KubernetesVersion, folder: &str) -> ClusterPrograms {
        ClusterPrograms { version, folder: folder.into() }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.folder.join("bin").join(name)
    }

    /// The name of the image that holds a pod's namespaces.
    pub(super) fn pause_image(&self) -> String {
        format!("redir.local/pause:{}", self.version)
    }

    /// That image.
    pub(super) fn pause_archive(&self) -> PathBuf {
        self.folder.join("pause.tar")
    }

    /// The version of etcd, containerd, runc or the network plugins, as the file beside the programs tells it.
    pub(super) fn version_of(&self, part: &str) -> Result<String> {
        let path = self.folder.join("versions");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        let found = lines.find(|(name, _)| *name == part);
        found.map(|(_, version)| version.to_owned()).with_context(|| format!("{} names no {part}", path.display()))
    }

    /// Makes them unless they are there; whether it had to.
    pub(super) fn install(&self) -> Result<bool> {
        let workshop = shelf()?.join(format!("build-{}", self.version));
        if self.folder.is_dir() && !workshop.exists() {
            return Ok(false);
        }
        let _lock = lock::exclusive(&shelf()?.join("build.lock"), "`cargo xtask cluster setup`")?;
        let make = !self.folder.is_dir();
        if make {
            self.build(&workshop)?;
        }
        let line = ui::ProgressLine::start("removing what only the build needed");
        remove(&workshop)?;
        line.end("done");
        for folder in outdated()? {
            println!("this tree no longer uses {0}: if no other does, `rm -r {0}`", folder.display());
        }
        Ok(make)
    }

    fn build(&self, workshop: &Path) -> Result<()> {
        println!(
            "Kubernetes {} is not on this machine yet. It is compiled once: about 12 minutes on two cores, and 9 GB of disk \
             meanwhile.\n{}",
            self.version,
            ui::dim(&format!(
                "Then it is kept in {} (640 MB). Ctrl-C is safe: the next run goes on.",
                self.folder.display()
            ))
        );
        let go = setup::with_go(newest_go_wanted())?;
        write(workshop, &[("build.sh", SCRIPT)])?;
        write(workshop, &PARTS)?;
        if self.version == KubernetesVersion::in_tree() {
            write(workshop, &KUBERNETES)?;
        } else {
            // A version that nobody has leaves nothing behind.
            self.ensure_served(workshop, &go).or_else(|error| remove(workshop).and(Err(error)))?;
            self.run(workshop, &go, MODULES_STAGE)?;
        }
        STAGES.into_iter().try_for_each(|stage| self.run(workshop, &go, stage))?;
        let done = workshop.join("done");
        image::write(&self.pause_image(), &done.join("bin/pause"), &done.join("pause.tar"))?;
        fs::rename(&done, &self.folder).with_context(|| format!("cannot rename {}", done.display()))
    }

    /// An error that names what can be had, unless the module proxy has this version.
    fn ensure_served(&self, workshop: &Path, go: &Path) -> Result<()> {
        let output = command(workshop, go, &["served", &self.version.to_string()])
            .output()
            .context("cannot ask the Go module proxy for versions")?;
        let words = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "cannot ask the Go module proxy for Kubernetes' versions: {}", words.trim());
        let served = String::from_utf8_lossy(&output.stdout);
        let mut served: Vec<KubernetesVersion> =
            served.split_whitespace().filter_map(|version| version.strip_prefix('v')?.parse().ok()).collect();
        served.sort_unstable();
        let names: Vec<String> = served.iter().map(ToString::to_string).collect();
        ensure!(
            served.contains(&self.version),
            "the Go module proxy has no Kubernetes {}: choose one of {}",
            self.version,
            names.join(", ")
        );
        Ok(())
    }

    fn run(&self, workshop: &Path, go: &Path, (stage, what): (&str, &str)) -> Result<()> {
        let mark = workshop.join(format!("{stage}.ok"));
        if mark.exists() {
            return Ok(());
        }
        let log = step::log_file(&format!("cluster-{stage}.log"))?;
        let mut command = command(workshop, go, &[stage, &self.version.to_string()]);
        let mut progress = BuildProgress::resume(&workshop.join("compiled.packages"))?;
        step::noting(&mut command, what.to_owned(), &log, |line| {
            if stage == "compile" { progress.line(line) } else { String::new() }
        })?;
        fs::write(&mark, "").with_context(|| format!("cannot write {}", mark.display()))
    }
}

/// `build.sh` with these arguments.
fn command(workshop: &Path, go: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.current_dir(workshop).arg("build.sh").args(arguments);
    with_go(&mut command, go);
    command
}

/// Lets a command use this Go, and nothing of a person's own settings for it.
pub(super) fn with_go(command: &mut Command, go: &Path) {
    for (name, _) in std::env::vars_os() {
        let is_for_go = name.to_str().is_some_and(|name| name.starts_with("GO") || name.starts_with("CGO_"));
        if is_for_go && !GO_SETTINGS.iter().any(|setting| name == *setting) {
            command.env_remove(name);
        }
    }
    let mut path = go.parent().expect("a program lies in a folder").as_os_str().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    command.env("PATH", path);
}

/// The folder of a module's source (`MODULE@VERSION`), downloaded below `folder` and compared with Go's public sums.
pub(in crate::cluster) fn source_of(module: &str, folder: &Path) -> Result<PathBuf> {
    let go = setup::with_go(newest_go_wanted())?;
    let mut command = Command::new(&go);
    command.current_dir(folder).args(["mod", "download", "-json", module]);
    with_go(&mut command, &go);
    command.envs([("GOENV", "off"), ("GOWORK", "off"), ("GOTOOLCHAIN", "local"), ("GOFLAGS", "-modcacherw")]);
    command.env("GOMODCACHE", folder.join("gomod"));
    let told: Value = serde_json::from_str(&child::output(&mut command)?).context("cannot read what go says")?;
    Ok(told["Dir"].as_str().with_context(|| format!("go has no folder for {module}"))?.into())
}

/// The Go that the modules in the tree want, as in `go 1.26.8`; older versions of Kubernetes want an older one.
pub(super) fn newest_go_wanted() -> &'static str {
    let wanted = |text: &'static str| text.lines().find_map(|line| line.strip_prefix("go "));
    wanted(PARTS[0].1).expect("go.mod names the Go that it wants")
}

pub(super) fn write(workshop: &Path, files: &[(&str, &str)]) -> Result<()> {
    for (file, text) in files {
        let path = workshop.join(file);
        fs::create_dir_all(path.parent().expect("a file lies in a folder"))
            .and_then(|()| fs::write(&path, text))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

pub(super) fn remove(folder: &Path) -> Result<()> {
    fs::remove_dir_all(folder)
        .or_else(|error| if folder.exists() { Err(error) } else { Ok(()) })
        .with_context(|| format!("cannot remove {}", folder.display()))
}

/// The folders of an older recipe, which only another checkout may still use.
fn outdated() -> Result<Vec<PathBuf>> {
    let shelf = shelf()?;
    let entries = fs::read_dir(&shelf).with_context(|| format!("cannot read {}", shelf.display()))?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names.filter(|name| is_outdated(name)).map(|name| shelf.join(name)).collect())
}

fn is_outdated(name: &str) -> bool {
    let numbers = name.strip_prefix("kubernetes-").and_then(|rest| rest.rsplit_once('-'));
    numbers.and_then(|(_, recipe)| recipe.parse::<u32>().ok()).is_some_and(|recipe| recipe < RECIPE)
}

pub(super) fn shelf() -> Result<PathBuf> {
    Ok(paths::cache()?.join("cluster"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_of_an_older_recipe_are_outdated() {
        assert!(is_outdated("kubernetes-1.20.2-2"));
        for name in
            [&format!("kubernetes-1.37.2-{RECIPE}"), "kubernetes-1.37.2-999", "build-1.37.2", "kind", "build.lock"]
        {
            assert!(!is_outdated(name), "{name}");
        }
    }

    #[test]
    fn the_newest_go_is_that_of_the_parts() {
        let numbers = |text: &str| text.split('.').map(|part| part.parse().unwrap()).collect::<Vec<u32>>();
        let kubernetes = KUBERNETES[0].1.lines().find_map(|line| line.strip_prefix("go ")).unwrap();
        assert!(numbers(newest_go_wanted()) >= numbers(kubernetes));
        let page = include_str!("../../../../CONTRIBUTING.md");
        assert!(page.contains(&format!("a `go` of {} or newer", newest_go_wanted())));
    }
}
