//! What must go when the owner goes: namespaces and processes, also on SIGINT, SIGTERM and after a killed run.
//!
//! Only processes that run in namespaces named by the rig, or that the rig itself started, are ever ended, by pid.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, Once, PoisonError},
    thread,
};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

/// Where `ip netns` keeps its names.
pub const NETNS_DIR: &str = "/run/netns";

/// What lives now: names of namespaces, pids of children that are not yet reaped.
static LIVE: Mutex<Live> = Mutex::new(Live { namespaces: BTreeSet::new(), children: BTreeSet::new() });

struct Live {
    namespaces: BTreeSet<String>,
    children: BTreeSet<i32>,
}

fn live<T>(f: impl FnOnce(&mut Live) -> T) -> T {
    f(&mut LIVE.lock().unwrap_or_else(PoisonError::into_inner))
}

pub(crate) fn namespace_made(name: &str) {
    live(|l| l.namespaces.insert(name.to_owned()));
}

pub(crate) fn namespace_gone(name: &str) {
    live(|l| l.namespaces.remove(name));
}

pub(crate) fn child_started(pid: i32) {
    live(|l| l.children.insert(pid));
}

pub(crate) fn child_reaped(pid: i32) {
    live(|l| l.children.remove(&pid));
}

/// From now on SIGINT, SIGTERM and SIGHUP clean up all that the rig made in this process, then end it with 128 + number.
/// Calling it again does nothing.
pub fn on_signals() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // And what a killed run left goes now.
        if let Err(e) = sweep() {
            eprintln!("rig: sweep: {e:#}");
        }
        let started = thread::Builder::new().name("rig-signals".into()).spawn(|| {
            if let Err(e) = wait_for_signal() {
                eprintln!("rig: signals are not handled: {e:#}");
            }
        });
        if let Err(e) = started {
            eprintln!("rig: signals are not handled: {e}");
        }
    });
}

fn wait_for_signal() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let number = runtime.block_on(async {
        let mut int = signal(SignalKind::interrupt())?;
        let mut term = signal(SignalKind::terminate())?;
        let mut hup = signal(SignalKind::hangup())?;
        anyhow::Ok(tokio::select! { _ = int.recv() => 2, _ = term.recv() => 15, _ = hup.recv() => 1 })
    })?;
    now();
    std::process::exit(128 + number)
}

/// A directory for logs, keys and files, gone on drop and by [`now`] and [`sweep`]. `what` is a word for its name.
pub fn directory(what: &str) -> Result<TempDir> {
    let prefix = format!("redir-rig{}-{what}-", std::process::id());
    tempfile::Builder::new().prefix(&prefix).tempdir().with_context(|| format!("directory for {what}"))
}

/// Removes the rig's directories whose owner's pid satisfies `whose`.
fn remove_directories(whose: impl Fn(i32) -> bool) {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        if owner(&entry.file_name().to_string_lossy()).is_some_and(&whose) {
            // Another's sweep may be at it as well.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn dead(pid: i32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}

/// Ends every process and removes every namespace and directory that the rig made in this process.
pub fn now() {
    let (namespaces, children) = live(|l| (l.namespaces.clone(), l.children.clone()));
    for pid in children {
        // Not reaped yet, so the pid is still that child's.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    for name in namespaces {
        remove_namespace(&name);
        namespace_gone(&name);
    }
    remove_directories(|pid| u32::try_from(pid) == Ok(std::process::id()));
}

/// Ends what the rig made under `prefix` in this process (a test that ran out of time).
pub fn prefix(prefix: &str) {
    for name in live(|l| l.namespaces.clone()).into_iter().filter(|n| n.starts_with(prefix)) {
        remove_namespace(&name);
        namespace_gone(&name);
    }
}

/// Removes the directories and the namespaces (and ends the processes in them) that a rig process which is dead now left
/// behind. Returns the namespaces' names.
pub fn sweep() -> Result<Vec<String>> {
    remove_directories(dead);
    let mut swept = Vec::new();
    let Ok(entries) = fs::read_dir(NETNS_DIR) else { return Ok(swept) };
    for entry in entries {
        let name = entry.context("read /run/netns")?.file_name().to_string_lossy().into_owned();
        if owner(&name).is_some_and(dead) {
            remove_namespace(&name);
            swept.push(name);
        }
    }
    Ok(swept)
}

/// The pid in `redir-<letters><pid>-…`, the form of all names the rig gives.
fn owner(name: &str) -> Option<i32> {
    let rest = name.strip_prefix("redir-")?;
    let (head, _) = rest.split_once('-')?;
    head.trim_start_matches(|c: char| c.is_ascii_lowercase()).parse().ok()
}

/// Ends the processes in the namespace and deletes its name. Errors are printed: the caller is cleaning up.
pub(crate) fn remove_namespace(name: &str) {
    let path = PathBuf::from(NETNS_DIR).join(name);
    for pid in processes_in(&path) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    match Command::new("ip").args(["netns", "del", name]).output() {
        Ok(out) if out.status.success() => {}
        Ok(out) => eprintln!("rig: ip netns del {name}: {}", String::from_utf8_lossy(&out.stderr).trim()),
        Err(e) => eprintln!("rig: ip netns del {name}: {e}"),
    }
}

/// The pids whose main thread is in the namespace at `path`. Never this process itself.
pub fn processes_in(path: &Path) -> Vec<i32> {
    let Ok(namespace) = fs::metadata(path) else { return Vec::new() };
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| u32::try_from(*pid) != Ok(std::process::id()))
        .filter(|pid| {
            fs::metadata(format!("/proc/{pid}/ns/net"))
                .is_ok_and(|m| m.ino() == namespace.ino() && m.dev() == namespace.dev())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::owner;

    #[test]
    fn owners_of_names() {
        assert_eq!(owner("redir-t123-4-node"), Some(123));
        assert_eq!(owner("redir-demo77-node"), Some(77));
        assert_eq!(owner("redir-rig77-home-x2"), Some(77));
        assert_eq!(owner("redir-demo-node"), None);
        assert_eq!(owner("other-t123-4"), None);
        assert_eq!(owner("cni-1234"), None);
    }
}
