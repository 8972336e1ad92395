//! What a local cluster can have besides Kubernetes: names for Services, network policies that are enforced, and other ways
//! to connect pods. Each is compiled by `addons.sh` when a cluster first asks for it, then kept in redir's cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::plan::ADDONS_IN_NODE;
use super::programs::{newest_go_wanted, remove, shelf, with_go, write};
use super::progress::BuildProgress;
use crate::cluster::Network;
use crate::{lock, setup, step, ui};

/// Raised whenever `addons.sh` or the modules that it uses make something else.
const RECIPE: u32 = 1;

const FILES: [(&str, &str); 4] = [
    ("addons.sh", include_str!("addons.sh")),
    ("network/go.mod", include_str!("go/network/go.mod")),
    ("network/go.sum", include_str!("go/network/go.sum")),
    ("network/coredns/main.go", include_str!("go/network/coredns/main.go")),
];

/// Something that a cluster may have or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Addon {
    CoreDns,
    KubeRouter,
    Flannel,
}

impl Addon {
    /// Those of a cluster with this network.
    pub(super) fn of(network: Network) -> Vec<Addon> {
        let dns = network.dns.then_some(Addon::CoreDns);
        let policy = network.policy.then_some(Addon::KubeRouter);
        let flannel = network.is_flannel().then_some(Addon::Flannel);
        [dns, policy, flannel].into_iter().flatten().collect()
    }

    /// Its folder's name, and its own for `addons.sh`.
    fn name(self) -> &'static str {
        match self {
            Addon::CoreDns => "coredns",
            Addon::KubeRouter => "kube-router",
            Addon::Flannel => "flannel",
        }
    }

    fn module(self) -> &'static str {
        match self {
            Addon::CoreDns => "github.com/coredns/coredns",
            Addon::KubeRouter => "github.com/cloudnativelabs/kube-router/v2",
            Addon::Flannel => "github.com/flannel-io/flannel",
        }
    }

    /// As the `go.mod` in the tree names it, without its v.
    pub(super) fn version(self) -> &'static str {
        let mut lines = include_str!("go/network/go.mod").lines().map(str::trim);
        let version = lines.find_map(|line| line.strip_prefix(self.module())?.strip_prefix(" v"));
        version.expect("the go.mod in the tree requires the addon's module")
    }

    /// One of its files, on this machine.
    pub(super) fn file(self, name: &str) -> Result<PathBuf> {
        Ok(folder()?.join(self.name()).join(name))
    }

    /// One of its files, in a node.
    pub(super) fn file_in_node(self, name: &str) -> String {
        format!("{ADDONS_IN_NODE}/{}/{name}", self.name())
    }
}

/// Where all addons are, each in a folder of its own.
pub(super) fn folder() -> Result<PathBuf> {
    Ok(shelf()?.join(format!("addons-{RECIPE}")))
}

/// Makes those of a network that are not there; whether there were any.
pub(super) fn install(network: Network) -> Result<bool> {
    let wanted = Addon::of(network);
    if wanted.contains(&Addon::KubeRouter) {
        setup::with_ipset()?;
    }
    let (folder, workshop) = (folder()?, shelf()?.join("build-addons"));
    let is_missing = |addon: &&Addon| !folder.join(addon.name()).is_dir();
    if !wanted.iter().any(|addon| is_missing(&addon)) {
        return Ok(false);
    }
    let _lock = lock::exclusive(&shelf()?.join("build.lock"), "`cargo xtask cluster setup`")?;
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for addon in wanted.iter().filter(is_missing) {
        addon.build(&workshop, &folder)?;
    }
    remove(&workshop)?;
    Ok(true)
}

impl Addon {
    fn build(self, workshop: &Path, into: &Path) -> Result<()> {
        let (name, version) = (self.name(), self.version());
        println!("{}", ui::dim(&format!("{name} {version} is compiled once, then kept in {}", into.display())));
        write(workshop, &FILES)?;
        let mut command = Command::new("sh");
        command.current_dir(workshop).args(["addons.sh", name]);
        with_go(&mut command, &setup::with_go(newest_go_wanted())?);
        let mut progress = BuildProgress::resume(&workshop.join(format!("{name}.packages")))?;
        let log = step::log_file(&format!("cluster-{name}.log"))?;
        step::noting(&mut command, format!("compiling {name}"), &log, |line| progress.line(line))?;
        let (done, place) = (workshop.join("done").join(name), into.join(name));
        fs::rename(&done, &place).with_context(|| format!("cannot rename {}", done.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_addon_has_its_version_from_a_go_mod() {
        for addon in [Addon::CoreDns, Addon::KubeRouter, Addon::Flannel] {
            let numbers = addon.version().split('.').map(str::parse::<u32>);
            assert_eq!(numbers.filter(Result::is_ok).count(), 3, "{addon:?} {}", addon.version());
        }
    }
}
