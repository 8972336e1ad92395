//! The file system that a child sees: an empty one, or all but the node's processes.
//!
//! Mounts in a mount namespace of its own, which ends with the process. Nothing of it is seen outside.

use std::{
    io,
    path::{Path, PathBuf},
    thread,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::{chdir, chroot},
};

use super::profile::SandboxProfile;

/// Leaves what the profile does not need.
pub(super) fn leave(profile: &SandboxProfile) -> io::Result<()> {
    match profile {
        SandboxProfile::Traffic | SandboxProfile::ContainerRuntimes => {
            own_namespace()?;
            empty_root()
        }
        SandboxProfile::ApiServer { node_proc } if node_proc == Path::new(PROC) => Ok(()),
        SandboxProfile::ApiServer { node_proc } => {
            own_namespace()?;
            cover(node_proc)
        }
    }
}

/// Tries it on a thread that ends: a mount namespace of its own has a root and a working folder of its own.
pub(super) fn try_out() -> io::Result<()> {
    let tried = thread::Builder::new().name("scratch".into()).spawn(|| leave(&SandboxProfile::Traffic))?;
    tried.join().unwrap_or_else(|_panic| Err(io::Error::other("the thread that tried it panicked")))
}

/// What is mounted and unmounted outside is so here too, as before: a file system that is taken away stays in use by nobody.
fn own_namespace() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none)?;
    Ok(())
}

/// An empty file system that cannot be written to becomes the root, as initramfs' switch_root does it: `pivot_root` is
/// forbidden by the container runtimes' default filter of system calls. It needs a folder for a moment, which a container
/// with a read-only root cannot make: `/proc` is everywhere.
fn empty_root() -> io::Result<()> {
    cover(&PathBuf::from(PROC))?;
    chdir(PROC)?;
    let none: Option<&str> = None;
    mount(Some("."), "/", none, MsFlags::MS_MOVE, none)?;
    chroot(".")?;
    chdir("/")?;
    Ok(())
}

fn cover(folder: &Path) -> io::Result<()> {
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    // One inode: its root.
    mount(Some("none"), folder, Some("tmpfs"), flags, Some("mode=0555,size=4k,nr_inodes=1"))?;
    Ok(())
}

const PROC: &str = "/proc";

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// On a thread of its own, whose view of files nobody shares.
    fn after(profile: &SandboxProfile, look: impl FnOnce() + Send) {
        thread::scope(|scope| {
            let seen = scope.spawn(|| {
                leave(profile).expect("root");
                look();
            });
            seen.join().expect("as expected");
        });
    }

    #[test]
    fn for_traffic_there_is_no_file_and_none_can_be_made() {
        after(&SandboxProfile::Traffic, || {
            for folder in ["/", "/..", "."] {
                assert_eq!(fs::read_dir(folder).expect("there").count(), 0, "{folder}");
            }
            for file in ["/proc/self/status", "/etc/passwd", "/dev/null", "/../proc/1/environ"] {
                assert_eq!(fs::read(file).expect_err("none").kind(), io::ErrorKind::NotFound, "{file}");
            }
            assert_eq!(fs::write("/file", "x").expect_err("none").kind(), io::ErrorKind::ReadOnlyFilesystem);
        });
        assert!(Path::new("/proc/self/status").exists(), "outside everything is as before");
    }

    #[test]
    fn the_api_server_s_side_sees_no_process_of_the_node_and_the_rest_as_it_is() {
        let node = tempfile::tempdir().expect("folder");
        let inside = node.path().join("1");
        fs::write(&inside, "secret").expect("written");
        after(&SandboxProfile::ApiServer { node_proc: node.path().to_owned() }, || {
            assert_eq!(fs::read_dir(node.path()).expect("there").count(), 0);
            assert!(fs::read("/proc/self/status").is_ok());
        });
        assert!(inside.exists());
    }

    #[test]
    fn trying_changes_nothing() {
        assert!(try_out().is_ok());
        assert!(Path::new("/proc/self/status").exists());
    }
}
