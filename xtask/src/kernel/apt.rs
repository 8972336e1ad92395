//! An apt of redir's own: the Debian suites that have the kernels, from this machine's mirror, with sources, lists and
//! downloads in redir's cache. It needs no root, installs nothing, and never touches the machine's own apt.

use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};

use super::Architecture;
use crate::step::{log_file, quietly};

/// The newest kernel for cloud machines of each is what users run there.
const SUITES: [(&str, Archive); 4] = [
    ("bullseye-security", Archive::Security),
    ("bookworm-security", Archive::Security),
    ("trixie-security", Archive::Security),
    ("trixie-backports", Archive::Main),
];
/// What is not a kernel (a busybox of the architecture) comes from set-up's own Debian.
const PROGRAMS: (&str, Archive) = ("bookworm", Archive::Main);
/// Has the keys of all of them since Debian 12.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// How long lists count as fresh: developing with `--kernel` must not ask the mirror at every run.
const FRESH: Duration = Duration::from_secs(3600);
/// The machine's mirror where it is not to be read off its sources; the security archive is taken to lie beside it.
const MIRROR: &str = "REDIR_DEBIAN_MIRROR";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Archive {
    Main,
    Security,
}

/// The private apt of one architecture.
pub(super) struct Apt {
    folder: PathBuf,
    architecture: Architecture,
}

/// A kernel that a suite has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KernelPackage {
    /// As `uname -r` says it.
    pub(super) release: String,
    /// The Debian package's version, which begins with the kernel's.
    pub(super) version: String,
    /// The packages to unpack: one, or from 6.19 on two.
    pub(super) packages: Vec<String>,
}

impl Apt {
    /// Sets it up in `folder`; asks no mirror yet.
    pub(super) fn open(folder: &Path, architecture: Architecture) -> Result<Apt> {
        let apt = Apt { folder: folder.to_owned(), architecture };
        for part in ["sources", "lists/partial", "cache/archives/partial"] {
            let part = folder.join(part);
            fs::create_dir_all(&part).with_context(|| format!("cannot make {}", part.display()))?;
        }
        let mirrors = Mirrors::find();
        let mut sources = String::new();
        let programs = (architecture == Architecture::Arm64).then_some(PROGRAMS);
        for (suite, archive) in SUITES.into_iter().chain(programs) {
            sources += &mirrors.source(suite, archive);
        }
        let file = folder.join("sources/debian.sources");
        if fs::read_to_string(&file).is_ok_and(|there| there == sources) {
            return Ok(apt);
        }
        fs::write(&file, sources).with_context(|| format!("cannot write {}", file.display()))?;
        let _ = fs::remove_file(apt.stamp());
        Ok(apt)
    }

    fn stamp(&self) -> PathBuf {
        self.folder.join("updated")
    }

    /// Whether the lists were fetched a short while ago.
    pub(super) fn is_fresh(&self) -> bool {
        let modified = fs::metadata(self.stamp()).and_then(|file| file.modified());
        modified.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age < FRESH))
    }

    /// Fetches the lists of packages.
    pub(super) fn update(&self) -> Result<()> {
        let mut command = self.command("apt-get");
        // Otherwise it succeeds without having reached anybody. Suites that can be reached are read all the same.
        command.args(["-o", "APT::Update::Error-Mode=any"]);
        command.args(["-o", "Acquire::Retries=2", "-o", "Acquire::http::Timeout=30", "update"]);
        let line = format!("asking Debian's suites for their kernels ({})", self.architecture.debian());
        quietly(&mut command, line, &log_file("apt-kernels.log")?)?;
        let stamp = self.stamp();
        fs::write(&stamp, "").with_context(|| format!("cannot write {}", stamp.display()))
    }

    /// Every kernel for cloud machines that the suites have, oldest first.
    pub(super) fn kernels(&self) -> Result<Vec<KernelPackage>> {
        let pattern = format!("^linux-image-.*-cloud-{}$", self.architecture.debian());
        let output = self.command("apt-cache").args(["show", &pattern]).output().context("cannot start apt-cache")?;
        // It fails when it finds none.
        Ok(kernels(&String::from_utf8_lossy(&output.stdout), self.architecture))
    }

    /// Downloads packages (`NAME`, or `NAME=VERSION`) into a folder.
    pub(super) fn download(&self, packages: &[String], into: &Path, line: &str) -> Result<()> {
        let mut command = self.command("apt-get");
        command.current_dir(into).args(["-o", "Acquire::Retries=3", "download"]).args(packages);
        quietly(&mut command, line.to_owned(), &log_file("apt-kernels.log")?)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let place = |name: &str, part: &str| format!("{name}={}", self.folder.join(part).display());
        let architecture = self.architecture.debian();
        let options = [
            "Dir::Etc::SourceList=/dev/null".to_owned(),
            place("Dir::Etc::SourceParts", "sources"),
            place("Dir::State::lists", "lists"),
            place("Dir::Cache", "cache"),
            // What is installed here is no matter.
            "Dir::State::status=/dev/null".to_owned(),
            format!("APT::Architecture={architecture}"),
            format!("APT::Architectures={architecture}"),
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
        ];
        command.env("LC_ALL", "C");
        for option in options {
            command.args(["-o", &option]);
        }
        command
    }
}

/// Where this machine gets Debian's packages from.
#[derive(Debug, PartialEq, Eq)]
struct Mirrors {
    main: String,
    security: String,
}

impl Mirrors {
    fn find() -> Mirrors {
        if let Ok(mirror) = std::env::var(MIRROR)
            && !mirror.is_empty()
        {
            let mirror = mirror.trim_end_matches('/');
            return Mirrors { main: mirror.to_owned(), security: format!("{mirror}-security") };
        }
        // Apt itself reads its sources, in whichever format they are.
        let output = Command::new("apt-get").args(["update", "--print-uris"]).env("LC_ALL", "C").output();
        Mirrors::read(&output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default())
    }

    /// From `apt-get update --print-uris`: each index as `'URI/dists/SUITE/COMPONENT/binary-ARCH/Packages.xz' NAME SIZE`.
    fn read(uris: &str) -> Mirrors {
        let found: Vec<(&str, &str)> = uris.lines().filter_map(archive_of).collect();
        let with = |right: &dyn Fn(&str, &str) -> bool| {
            found.iter().find(|(uri, suite)| right(uri, suite)).map(|(uri, _)| (*uri).to_owned())
        };
        // Other people's archives may have a suite `stable`, but none for updates.
        let main = with(&|_, suite| suite.ends_with("-updates"))
            .or_else(|| with(&|uri, suite| uri.ends_with("/debian") && !suite.ends_with("-security")));
        Mirrors {
            main: main.unwrap_or_else(|| "http://deb.debian.org/debian".into()),
            security: with(&|_, suite| suite.ends_with("-security"))
                .unwrap_or_else(|| "http://deb.debian.org/debian-security".into()),
        }
    }

    fn source(&self, suite: &str, archive: Archive) -> String {
        let uri = if archive == Archive::Main { &self.main } else { &self.security };
        format!("Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: main\nSigned-By: {KEYRING}\n\n")
    }
}

/// The archive and the suite of an index of packages in `main`.
fn archive_of(line: &str) -> Option<(&str, &str)> {
    let (uri, rest) = line.strip_prefix('\'')?.split_once("/dists/")?;
    let (suite, index) = rest.split_once("/main/")?;
    index.starts_with("binary-").then_some((uri, suite))
}

/// The kernels of `apt-cache show`, oldest first; packages that only name another one have no kernel's number.
fn kernels(shown: &str, architecture: Architecture) -> Vec<KernelPackage> {
    let mut kernels: Vec<KernelPackage> =
        shown.split("\n\n").filter_map(|stanza| kernel(stanza, architecture)).collect();
    kernels.sort_by(|a, b| by_version(&a.version, &b.version));
    kernels.dedup();
    kernels
}

fn kernel(stanza: &str, architecture: Architecture) -> Option<KernelPackage> {
    let field = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let name = field("Package")?;
    let release = name.strip_prefix("linux-image-")?;
    let number = release.strip_suffix(&format!("-cloud-{}", architecture.debian()))?;
    // `linux-image-6.1-cloud-amd64` and `linux-image-cloud-amd64` only depend on the real one.
    if number.split('.').count() < 3 {
        return None;
    }
    let split = field("Depends").is_some_and(|depends| depends.contains(&format!("linux-binary-{release}")));
    let packages = match split {
        true => vec![format!("linux-binary-{release}"), format!("linux-modules-{release}")],
        false => vec![name.to_owned()],
    };
    Some(KernelPackage { release: release.to_owned(), version: field("Version")?.to_owned(), packages })
}

/// By the numbers in them, one after the other; `~` begins what comes before the version without it.
pub(super) fn by_version(a: &str, b: &str) -> Ordering {
    let parts = |version: &str| -> (Vec<u64>, bool) {
        let (version, before) = version.split_once('~').map_or((version, false), |(version, _)| (version, true));
        let numbers = version.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok());
        (numbers.collect(), !before)
    };
    parts(a).cmp(&parts(b))
}

/// The newest kernel of a series (`6.1`), or of all.
pub(super) fn newest<'a>(kernels: &'a [KernelPackage], series: Option<&str>) -> Option<&'a KernelPackage> {
    kernels.iter().rev().find(|kernel| series.is_none_or(|series| series_of(&kernel.version) == series))
}

/// `6.1` of `6.1.192-3`.
pub(super) fn series_of(version: &str) -> &str {
    let end = version.match_indices('.').nth(1).map_or(version.len(), |(at, _)| at);
    &version[..end]
}

/// What the suites have, for whoever asks for something else.
pub(super) fn all_series(kernels: &[KernelPackage]) -> Result<String> {
    let mut all: Vec<&str> = kernels.iter().map(|kernel| series_of(&kernel.version)).collect();
    all.dedup();
    if all.is_empty() {
        bail!(
            "none of Debian's suites tells of a kernel: is the mirror out of reach? What apt said is in {}",
            log_file("apt-kernels.log")?.display()
        );
    }
    Ok(all.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOWN: &str = "\
Package: linux-image-6.1.0-57-cloud-amd64
Version: 6.1.192-3
Depends: kmod, linux-base (>= 4.3~)

Package: linux-image-6.1.0-9-cloud-amd64
Version: 6.1.99-1

Package: linux-image-6.1.0-0.deb11.52-cloud-amd64
Version: 6.1.192-3~deb11u1

Package: linux-image-6.1-cloud-amd64
Version: 6.1.192-3

Package: linux-image-7.3.4+deb13-cloud-amd64
Version: 7.3.4-1~bpo13+1
Depends: linux-base-7.3.4+deb13-cloud-amd64, linux-binary-7.3.4+deb13-cloud-amd64 (= 7.3.4-1~bpo13+1)

Package: linux-image-cloud-amd64
Version: 7.3.4-1~bpo13+1

Package: linux-image-5.10.0-46-cloud-amd64
Version: 5.10.262-1
";

    #[test]
    fn the_newest_kernel_of_a_series_is_found() {
        let kernels = kernels(SHOWN, Architecture::Amd64);
        let of = |series| newest(&kernels, series).map(|kernel| kernel.release.as_str());
        assert_eq!(of(Some("6.1")), Some("6.1.0-57-cloud-amd64"));
        assert_eq!(of(Some("5.10")), Some("5.10.0-46-cloud-amd64"));
        assert_eq!(of(Some("6.12")), None);
        assert_eq!(of(None), Some("7.3.4+deb13-cloud-amd64"));
        assert_eq!(all_series(&kernels).unwrap(), "5.10, 6.1, 7.3");
    }

    #[test]
    fn a_kernel_in_two_packages_is_fetched_whole() {
        let kernels = kernels(SHOWN, Architecture::Amd64);
        let packages = &newest(&kernels, None).unwrap().packages;
        assert_eq!(packages, &["linux-binary-7.3.4+deb13-cloud-amd64", "linux-modules-7.3.4+deb13-cloud-amd64"]);
    }

    #[test]
    fn mirrors_are_read_off_what_apt_would_fetch() {
        let uris = "\
'https://download.docker.com/linux/debian/dists/bookworm/stable/binary-amd64/Packages.xz' a 0
'http://apt.postgresql.org/pub/repos/apt/dists/bookworm-pgdg/main/binary-amd64/Packages.xz' a 0
'http://mirror.local/debian/dists/bookworm/InRelease' a 0
'http://mirror.local/debian/dists/bookworm/main/binary-amd64/Packages.xz' a 0
'http://security.local/d/dists/bookworm-security/main/binary-amd64/Packages.xz' a 0
";
        let mirrors = Mirrors::read(uris);
        assert_eq!(mirrors.main, "http://mirror.local/debian");
        assert_eq!(mirrors.security, "http://security.local/d");
        assert_eq!(Mirrors::read("").main, "http://deb.debian.org/debian");
    }

    #[test]
    fn versions_are_compared_by_number() {
        assert_eq!(by_version("6.12.118-1", "6.2.9-1"), Ordering::Greater);
        assert_eq!(by_version("6.1.10-1~bpo1", "6.1.10-1"), Ordering::Less);
    }
}
