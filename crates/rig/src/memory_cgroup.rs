//! A memory limit for a process and its children, as a container has one: a cgroup of its own, of whichever version limits
//! memory on this machine. Needs root.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::wait;

/// A cgroup with a limit of memory. Dropped, it is gone, if nothing runs in it any more.
#[derive(Debug)]
pub struct MemoryCgroup {
    folder: PathBuf,
    files: &'static Files,
    /// Where the machine has none.
    _mounted: Option<Mounted>,
}

/// What the files of a version are called.
#[derive(Debug)]
struct Files {
    limit: &'static str,
    usage: &'static str,
    peak: &'static str,
    events: &'static str,
    /// And what is written to it.
    reclaim: (&'static str, &'static str),
}

const VERSION_1: Files = Files {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    peak: "memory.max_usage_in_bytes",
    events: "memory.oom_control",
    reclaim: ("memory.force_empty", "0"),
};
const VERSION_2: Files = Files {
    limit: "memory.max",
    usage: "memory.current",
    peak: "memory.peak",
    events: "memory.events",
    reclaim: ("memory.reclaim", "1G"),
};

/// A hierarchy of version 2 that is mounted here.
#[derive(Debug)]
struct Mounted(tempfile::TempDir);

impl Drop for Mounted {
    fn drop(&mut self) {
        // Busy if another has a cgroup in it: then it stays until the machine goes.
        let _ = nix::mount::umount(self.0.path());
    }
}

impl MemoryCgroup {
    /// Of so many bytes. `None` in a container whose processes are in the only cgroup that it has: none with a limit can be
    /// made below it.
    pub fn new(limit: u64) -> Result<Option<Self>> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let (files, hierarchy, mounted) = hierarchy()?;
        if files.limit == VERSION_2.limit {
            let control = hierarchy.join("cgroup.subtree_control");
            // Never taken back: another may be about to make a cgroup that needs it.
            match fs::write(control, "+memory") {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => return Ok(None),
                written => written.context("have memory limited by cgroups (as root)")?,
            }
        }
        sweep(&hierarchy);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = hierarchy.join(format!("{PREFIX}{}-{number}", std::process::id()));
        fs::create_dir(&folder).with_context(|| format!("make {} (as root)", folder.display()))?;
        let cgroup = Self { folder, files, _mounted: mounted };
        fs::write(cgroup.file(files.limit), limit.to_string()).context("limit the cgroup's memory")?;
        Ok(Some(cgroup))
    }

    /// What a program is started by so that it and its children are in the cgroup.
    pub fn wrapper(&self) -> [String; 4] {
        let enter = format!("echo $$ > '{}' && exec \"$@\"", self.file("cgroup.procs").display());
        ["sh".into(), "-c".into(), enter, "sh".into()]
    }

    /// Moves a process into it.
    pub fn enter(&self, pid: i32) -> Result<()> {
        fs::write(self.file("cgroup.procs"), pid.to_string()).context("move a process into the cgroup")
    }

    /// Has the kernel take back all that it can without anybody's end. False: this kernel has no such request.
    pub fn reclaim(&self) -> Result<bool> {
        let (file, how_much) = self.files.reclaim;
        let file = self.file(file);
        if !file.exists() {
            return Ok(false);
        }
        // Fails where not all could be taken back, which is usual.
        let _ = fs::write(file, how_much);
        Ok(true)
    }

    /// Bytes in use now, the kernel's for its processes and cached files included.
    pub fn usage(&self) -> Result<u64> {
        self.number(self.files.usage)
    }

    /// The most that were in use so far. Before Linux 5.19 version 2 does not tell: then it is what is in use.
    pub fn peak(&self) -> Result<u64> {
        if self.file(self.files.peak).exists() { self.number(self.files.peak) } else { self.usage() }
    }

    /// How many processes of it the kernel has killed for want of memory.
    pub fn killed(&self) -> Result<u64> {
        let events = fs::read_to_string(self.file(self.files.events)).context("read the cgroup's events")?;
        let count = events.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok());
        count.context("the kernel does not count what it kills for want of memory")
    }

    fn number(&self, file: &str) -> Result<u64> {
        let text = fs::read_to_string(self.file(file)).with_context(|| format!("read {file}"))?;
        text.trim().parse().with_context(|| format!("{file}: {text}"))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        // Whoever lives longer goes on without a limit.
        let around = self.folder.with_file_name("cgroup.procs");
        for pid in fs::read_to_string(self.file("cgroup.procs")).unwrap_or_default().lines() {
            // It may have ended meanwhile.
            let _ = fs::write(&around, pid);
        }
        let gone = || Ok(fs::remove_dir(&self.folder).is_ok());
        // The kernel takes its time for processes that have just ended.
        if let Err(error) = wait::until_true("the cgroup to be empty", Duration::from_secs(5), gone) {
            eprintln!("rig: {}: {error:#}", self.folder.display());
        }
    }
}

/// Removes the cgroups of runs that were killed.
fn sweep(hierarchy: &Path) {
    let Ok(entries) = fs::read_dir(hierarchy) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            // Somebody else's sweep may be faster.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// Where memory is limited here; mounted if it is nowhere.
fn hierarchy() -> Result<(&'static Files, PathBuf, Option<Mounted>)> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
    for line in mounts.lines() {
        let Some((mount, file_system)) = line.split_once(" - ") else { continue };
        let Some(place) = mount.split(' ').nth(4).map(PathBuf::from) else { continue };
        let mut file_system = file_system.split(' ');
        match file_system.next() {
            Some("cgroup") if file_system.nth(1).is_some_and(|options| options.split(',').any(|o| o == "memory")) => {
                return Ok((&VERSION_1, place, None));
            }
            Some("cgroup2") => {
                let controllers = fs::read_to_string(place.join("cgroup.controllers")).unwrap_or_default();
                if controllers.split_whitespace().any(|name| name == "memory") {
                    return Ok((&VERSION_2, place, None));
                }
            }
            _ => {}
        }
    }
    let place = tempfile::tempdir().context("a folder for the cgroups")?;
    let none: Option<&str> = None;
    nix::mount::mount(none, place.path(), Some("cgroup2"), nix::mount::MsFlags::empty(), none)
        .context("mount cgroups (as root)")?;
    Ok((&VERSION_2, place.path().to_owned(), Some(Mounted(place))))
}

const PREFIX: &str = "redir-memory-";
