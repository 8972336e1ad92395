//! Others that do the same, each in `web-2` (the twin of the intercepted pod) with the configuration in `bench/peers`.
//! One that is not installed is left out, and said.

pub mod proxy;
pub mod tunnel;

use std::{
    collections::BTreeSet,
    env,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use redir_rig::Process;

use crate::{cost, world::BenchWorld};

/// The build under test, in results.
pub const REDIR: &str = "redir";
/// The other build that it is compared with.
pub const BASELINE: &str = "baseline";
/// What redir would cost behind netfilter's REDIRECT: a sum of what was measured, never seen itself.
pub const REDIRECT: &str = "redir behind REDIRECT, calculated";

/// Which of the bench's worlds a contender is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorldSite {
    /// The one that everything is in.
    Main,
    /// Its twin, which is there while two builds are compared.
    Twin,
}

/// Something that requests go through, or nothing at all.
#[derive(Debug)]
pub struct Contender {
    /// Its name in results.
    pub name: String,
    /// Where it runs.
    pub site: WorldSite,
    /// Where its requests go.
    pub to: SocketAddr,
    /// More headers of its requests.
    pub headers: Vec<String>,
    /// Whose answer its requests get.
    pub expect: &'static str,
    /// The processes whose cost is counted, with their descendants.
    pub roots: Vec<i32>,
    /// Kept alive as long as this is.
    pub processes: Vec<Process>,
    /// Where HAProxy tells about itself.
    pub(crate) statistics: Option<PathBuf>,
}

impl Contender {
    /// The app itself at `to`, or whatever is transparently in between.
    pub fn transparent(name: &str, to: SocketAddr, roots: Vec<i32>) -> Self {
        let (name, expect) = (name.to_owned(), "green");
        let (headers, processes) = (Vec::new(), Vec::new());
        Self { name, site: WorldSite::Main, to, headers, expect, roots, processes, statistics: None }
    }

    /// Requests to the intercepted app that match nothing.
    pub fn unmatched(world: &BenchWorld) -> Self {
        Self::transparent(world.build().name, world.app(0), world.agent_pids())
    }

    /// Requests to the intercepted app that go to the developer.
    pub fn matched(world: &BenchWorld) -> Self {
        let mut redir = Self::unmatched(world);
        redir.headers = vec![MATCHED.to_owned()];
        redir.expect = "blue";
        redir
    }

    /// The same, in another world.
    #[must_use]
    pub fn at(mut self, site: WorldSite) -> Self {
        self.site = site;
        self
    }

    /// All its processes now.
    pub fn pids(&self) -> Vec<i32> {
        let all: BTreeSet<i32> = self.roots.iter().flat_map(|root| cost::family(*root)).collect();
        all.into_iter().collect()
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // The pid of one that has ended may be somebody else's.
            if !matches!(process.exited(), Ok(None)) {
                continue;
            }
            // The master first, which would start new workers; they would live on, and answer at the next one's port.
            for pid in cost::family(process.pid()) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}

/// Where a program is: in redir's tools, in the path, or in the system folders that a plain user's path lacks.
pub fn find(name: &str) -> Result<PathBuf> {
    let tools = env::var_os(TOOLS).map(PathBuf::from);
    let bin = tools.iter().flat_map(|tools| [tools.join("bin"), tools.join("envoy/envoy/_bin")]);
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = bin.chain(env::split_paths(&path)).chain(["/usr/sbin", "/usr/bin"].map(PathBuf::from));
    let found = folders.map(|folder| folder.join(name)).find(|file| file.is_file());
    found.with_context(|| format!("{name} is not installed: `cargo xtask bench` installs it"))
}

/// What redir's filter asks for.
pub const MATCHED: &str = "x-user: bench";

/// A configuration from `bench/peers` with its places filled in.
fn filled(text: &str, places: &[(&str, &str)]) -> String {
    places.iter().fold(text.to_owned(), |text, (place, value)| text.replace(&format!("{{{place}}}"), value))
}

fn write(folder: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let file = folder.join(name);
    std::fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    Ok(file)
}

/// The folder of `cargo xtask`'s tools, in the environment.
pub const TOOLS: &str = "REDIR_TOOLS";
