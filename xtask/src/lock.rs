//! One at a time on this machine: a lock that the kernel lets go of when its holder dies.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};

/// Takes the lock at `path`, after whoever has it (`holder`, a command) is done.
pub(crate) fn exclusive(path: &Path, holder: &str) -> Result<Flock<File>> {
    let folder = path.parent().expect("a lock lies in a folder");
    fs::create_dir_all(folder)
        .with_context(|| format!("cannot make {}: make it writable or set XDG_CACHE_HOME", folder.display()))?;
    let file = File::create(path).with_context(|| format!("cannot open {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((file, _)) => {
            println!("waiting for another {holder} to finish ({})", path.display());
            Flock::lock(file, FlockArg::LockExclusive)
                .map_err(|(_, error)| error)
                .with_context(|| format!("cannot wait for the other {holder}"))
        }
    }
}
