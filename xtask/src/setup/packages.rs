//! The Debian packages that the agent's build and the tests need, and how the missing ones are installed.
//! Whether one is there is told by a file it brings: a look costs microseconds, asking dpkg costs a process.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::privilege::{self, Privilege};
use crate::step::{log_file, quietly};
use crate::{paths, signals, ui};

pub(super) struct Package {
    name: &'static str,
    /// A file that it brings; or a program, which may come from elsewhere and lie anywhere in the search path.
    file: &'static str,
    why: &'static str,
}

/// Debian 12's names. The compiler must not be newer than bpf-linker's LLVM, and these two are kept in step.
pub(super) const PACKAGES: &[Package] = &[
    Package { name: "gcc", file: "/usr/bin/gcc", why: "compiles the assembly of the TLS library" },
    Package { name: "libc6-dev", file: "/usr/include/stdio.h", why: "the C library's headers, for the same" },
    Package {
        name: "rustc-web",
        file: "/usr/share/rustc/architecture.mk",
        why: "the compiler for the kernel programs",
    },
    Package {
        name: "rust-web-src",
        file: "/usr/lib/rustlib/src/rust/library/core/Cargo.toml",
        why: "its `core`, built from source for the kernel's target",
    },
    Package { name: "llvm-22-dev", file: "/usr/lib/llvm-22/lib/libLLVM.so", why: "what bpf-linker links against" },
    Package { name: "libzstd-dev", file: "/usr/include/zstd.h", why: "LLVM wants it when bpf-linker links" },
    Package { name: "iproute2", file: "/bin/ip", why: "network namespaces and veth pairs for tests and demo" },
    Package { name: "bpftool", file: "/usr/sbin/bpftool", why: "tests look at what is attached" },
    Package { name: "nftables", file: "/usr/sbin/nft", why: "tests put nat tables and drop rules into a pod" },
    Package { name: "iptables", file: "/usr/sbin/iptables", why: "the same with the older interface" },
    Package { name: "curl", file: "/usr/bin/curl", why: "tests run the lines that redir gives to try" },
    Package { name: "openssl", file: "/usr/bin/openssl", why: "certificates of the cluster for tests" },
];

/// Only for tests with containers: a machine may have Docker and Podman from elsewhere, which then do.
pub(super) const CONTAINERS: &[Package] = &[
    Package { name: "docker.io", file: "dockerd", why: "tests name pods by containers of Docker" },
    Package { name: "podman", file: "podman", why: "the same with Podman" },
    Package { name: "containernetworking-plugins", file: "/usr/lib/cni/bridge", why: "Podman's networks" },
    Package { name: "runc", file: "runc", why: "runs the containers of both" },
    Package { name: "busybox-static", file: "/bin/busybox", why: "the app in them" },
];

/// Only for a cluster that enforces network policies.
pub(super) const IPSET: &[Package] =
    &[Package { name: "ipset", file: "/usr/sbin/ipset", why: "kube-router keeps the addresses of pods in sets" }];

/// Only for fuzzing.
pub(super) const FUZZER: &[Package] = &[Package { name: "g++", file: "/usr/bin/c++", why: "compiles libFuzzer" }];

/// Only for measuring.
pub(super) const CALLGRIND: &[Package] =
    &[Package { name: "valgrind", file: "/usr/bin/valgrind", why: "counts instructions for benchmarks" }];

/// Only for tests on other kernels.
pub(super) const EMULATOR: &[Package] = &[
    Package { name: "qemu-system-x86", file: "/usr/bin/qemu-system-x86_64", why: "boots other kernels for tests" },
    Package { name: "qemu-system-common", file: "/usr/lib/qemu/virtiofsd", why: "shares files with them" },
    Package { name: "seabios", file: "/usr/share/seabios/bios.bin", why: "the firmware that they start from" },
    Package { name: "busybox-static", file: "/bin/busybox", why: "their first process" },
    Package { name: "cpio", file: "/usr/bin/cpio", why: "packs it for them" },
    Package { name: "kmod", file: "/sbin/depmod", why: "tells which modules they need" },
    Package { name: "xz-utils", file: "/usr/bin/xz", why: "unpacks those" },
    Package { name: "util-linux", file: "/usr/bin/setpriv", why: "lets the machine end with its owner" },
];

/// Only for trying the agent on arm64 kernels.
pub(super) const ARM64: &[Package] = &[
    Package { name: "qemu-system-arm", file: "/usr/bin/qemu-system-aarch64", why: "boots arm64 kernels" },
    Package { name: "gcc-aarch64-linux-gnu", file: "/usr/bin/aarch64-linux-gnu-gcc", why: "links the agent for them" },
    Package { name: "libc6-dev-arm64-cross", file: "/usr/aarch64-linux-gnu/lib/libc.a", why: "the C library for that" },
];

/// What the bench compares with; each alone, since one that cannot be had is no reason to go without the rest.
pub(super) const HAPROXY: &[Package] =
    &[Package { name: "haproxy", file: "/usr/sbin/haproxy", why: "a proxy that the bench compares with" }];
pub(super) const NGINX: &[Package] =
    &[Package { name: "nginx-light", file: "/usr/sbin/nginx", why: "a proxy that the bench compares with" }];
pub(super) const SSH: &[Package] = &[
    Package { name: "openssh-server", file: "/usr/sbin/sshd", why: "a tunnel that the bench compares with" },
    Package { name: "openssh-client", file: "/usr/bin/ssh", why: "its other end" },
];

/// Only for machines without any pip.
pub(super) const PIP: &[Package] =
    &[Package { name: "python3-pip", file: "/usr/bin/pip3", why: "downloads what PyPI has: test cases, Go, Envoy" }];

/// Only for compiling Kubernetes.
pub(super) const KUBERNETES: &[Package] = &[
    Package {
        name: "libseccomp-dev",
        file: "/usr/include/seccomp.h",
        why: "the cluster's container runtime is linked with it",
    },
    Package {
        name: "ca-certificates",
        file: "/etc/ssl/certs/ca-certificates.crt",
        why: "Go's modules come over HTTPS",
    },
];

/// What becomes of services that packages bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Services {
    /// They start, as Debian has it.
    Start,
    /// None is started, and none is enabled: it would change this machine (Docker: its firewall and its routing).
    Rest,
}

/// Installs what is missing of `packages`; whether there was anything. Nothing is ever removed for it.
pub(super) fn install_missing(packages: &[Package], services: Services) -> Result<bool> {
    let missing: Vec<&Package> = packages.iter().filter(|package| !package.is_there()).collect();
    if missing.is_empty() {
        remove_policy()?;
        return Ok(false);
    }
    let Some(apt) = paths::program("apt-get") else {
        bail!(
            "this is no Debian (apt-get is not here), and setup knows only Debian 12: install by hand what gives you {}; \
             CONTRIBUTING.md says what each is for",
            names(&missing).join(", ")
        );
    };
    let mut install = INSTALL.to_vec();
    install.extend(names(&missing));
    let by_hand = ["apt-get update".to_owned(), format!("apt-get {}", install.join(" "))];
    let privilege = privilege::obtain("installing Debian packages", &by_hand)?;
    for package in &missing {
        println!("missing: {} ({})", ui::bold(package.name), package.why);
    }
    if !has_lists() {
        update(privilege, &apt)?;
    }
    let line = format!("installing {} with apt-get", names(&missing).join(", "));
    let first = apt_get(privilege, services, &apt, &install, line);
    if first.is_ok() && still_missing(&missing).is_empty() {
        return Ok(true);
    }
    if signals::interrupted() {
        return first.map(|()| true);
    }
    // The usual reasons: old package lists, or an installation that was interrupted. Mend both, once.
    mend(privilege, services)?;
    update(privilege, &apt)?;
    apt_get(privilege, services, &apt, &install, "installing again with the new lists".into())?;
    let missing = still_missing(&missing);
    if !missing.is_empty() {
        bail!(
            "apt-get succeeded, but {} did not bring the file that redir looks for: is this Debian 12?",
            missing.join(", ")
        );
    }
    Ok(true)
}

/// An installation that was killed has left behind that no service may start.
fn remove_policy() -> Result<()> {
    if !std::fs::read_to_string("/usr/sbin/policy-rc.d").is_ok_and(|text| text.contains(POLICY_MARK)) {
        return Ok(());
    }
    let by_hand = ["rm /usr/sbin/policy-rc.d".to_owned()];
    let privilege = privilege::obtain("letting services start again", &by_hand)?;
    let mut command = Services::Rest.command(privilege, Path::new("/bin/true"));
    quietly(&mut command, "letting services start again".into(), &log_file("policy-rc.d.log")?)
}

impl Package {
    fn is_there(&self) -> bool {
        if self.file.starts_with('/') { Path::new(self.file).exists() } else { paths::program(self.file).is_some() }
    }
}

/// Somebody's package that conflicts with one of ours stays, and apt-get fails.
const INSTALL: &[&str] = &["install", "--yes", "--no-remove", "--no-install-recommends"];

/// Whether apt knows any package at all; images often come without lists.
fn has_lists() -> bool {
    let lists = std::fs::read_dir("/var/lib/apt/lists").into_iter().flatten().flatten();
    lists.into_iter().any(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
}

fn update(privilege: Privilege, apt: &Path) -> Result<()> {
    apt_get(privilege, Services::Start, apt, &["update"], "fetching the lists of packages with `apt-get update`".into())
}

fn names(packages: &[&Package]) -> Vec<&'static str> {
    packages.iter().map(|package| package.name).collect()
}

fn still_missing(packages: &[&Package]) -> Vec<&'static str> {
    packages.iter().filter(|package| !package.is_there()).map(|package| package.name).collect()
}

fn apt_get(privilege: Privilege, services: Services, apt: &Path, arguments: &[&str], line: String) -> Result<()> {
    let mut command = services.command(privilege, Path::new("/usr/bin/env"));
    // Another package manager at work is waited for; no question is ever asked, and a changed config file stays as it is.
    command.arg("DEBIAN_FRONTEND=noninteractive").arg(apt).args(["--option", "DPkg::Lock::Timeout=300"]);
    command.args(["--option", "Dpkg::Options::=--force-confold"]).args(arguments);
    quietly(&mut command, line, &log_file("apt-get.log")?)
}

fn mend(privilege: Privilege, services: Services) -> Result<()> {
    let Some(dpkg) = paths::program("dpkg") else { return Ok(()) };
    let mut command: Command = services.command(privilege, &dpkg);
    command.args(["--configure", "--pending", "--force-confold"]);
    quietly(
        &mut command,
        "finishing what an interrupted installation left (dpkg --configure)".into(),
        &log_file("dpkg.log")?,
    )
}

impl Services {
    fn command(self, privilege: Privilege, program: &Path) -> Command {
        if self == Services::Start {
            return privilege.command(program);
        }
        let mut command = privilege.command(Path::new("/bin/sh"));
        command.arg(paths::root().join(WITHOUT_SERVICES)).arg("").arg(program);
        command
    }
}

/// What marks the file that forbids it.
const POLICY_MARK: &str = "# Of redir: no service starts";
const WITHOUT_SERVICES: &str = "xtask/src/setup/without_services.sh";

#[cfg(test)]
mod tests {
    use std::{env, fs, os::unix::fs::symlink};

    use super::*;

    /// A system whose package brings a service; `systemctl` is this test's.
    fn install(root: &Path, package: &str) -> bool {
        let script = paths::root().join(WITHOUT_SERVICES);
        let path = format!("{}/bin:{}", root.display(), env::var("PATH").expect("a path"));
        let mut command = Command::new("/bin/sh");
        command.arg(script).arg(root).args(["/bin/sh", "-euc", package, "sh"]).arg(root).env("PATH", path);
        command.status().expect("started").success()
    }

    fn program(path: &Path, text: &str) {
        fs::write(path, format!("#!/bin/sh\n{text}\n")).expect("written");
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
    }

    const PACKAGE: &str = r#"
        "$1/usr/sbin/policy-rc.d" docker start && touch "$1/started"
        ln -s /lib/systemd/system/docker.service "$1/etc/systemd/system/multi-user.target.wants/docker.service"
        ln -s ../init.d/docker "$1/etc/rc2.d/S01docker""#;

    #[test]
    fn packages_of_containers_start_nothing_and_enable_nothing() {
        let root = tempfile::tempdir().expect("folder");
        let root = root.path();
        let wants = root.join("etc/systemd/system/multi-user.target.wants");
        for folder in [&root.join("bin"), &root.join("usr/sbin"), &root.join("etc/rc2.d"), &wants] {
            fs::create_dir_all(folder).expect("made");
        }
        let said = root.join("said");
        for name in ["systemctl", "update-rc.d"] {
            program(&root.join("bin").join(name), &format!("echo {name} $@ >> {}", said.display()));
        }
        symlink("/lib/systemd/system/ssh.service", wants.join("ssh.service")).expect("linked");
        let policy = root.join("usr/sbin/policy-rc.d");

        // `&&` keeps a refusal from ending the package's script.
        assert!(install(root, PACKAGE));
        assert!(!root.join("started").exists() && !policy.exists());
        assert!(fs::symlink_metadata(wants.join("docker.service")).is_err(), "enabled");
        assert!(fs::symlink_metadata(wants.join("ssh.service")).is_ok(), "the owner's");
        assert_eq!(
            fs::read_to_string(&said).expect("said"),
            "systemctl --quiet disable docker.service\nupdate-rc.d docker disable\n"
        );
        assert!(!install(root, "exit 3") && !policy.exists(), "an installation that fails is told");

        // One that was killed has left its policy behind.
        program(&policy, &format!("{POLICY_MARK} while packages for its tests are installed.\nexit 101"));
        assert!(install(root, "true") && !policy.exists());
        // An owner's policy stays; one that lets services start is asked for first.
        program(&policy, "exit 101");
        assert!(install(root, "true") && policy.exists());
        program(&policy, "exit 0");
        assert!(!install(root, "touch \"$1/installed\"") && policy.exists() && !root.join("installed").exists());
    }

    #[test]
    fn nothing_is_removed_and_docker_may_come_from_elsewhere() {
        assert!(INSTALL.contains(&"--no-remove"));
        let set = |packages: &[Package]| packages.iter().map(|package| package.name).collect::<Vec<_>>();
        assert!(!set(PACKAGES).iter().any(|name| set(CONTAINERS).contains(name)), "setup alone installs no daemon");
        for name in ["dockerd", "podman", "runc"] {
            assert!(CONTAINERS.iter().any(|package| package.file == name), "{name}");
        }
    }
}
