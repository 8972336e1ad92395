//! Text and keys in memory files that the worker can read and nobody can change; and the guardian's own memory, which stays.

use std::{
    ffi::CStr,
    fs::File,
    io::{self, Seek, Write},
    os::fd::OwnedFd,
};

use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::{
        memfd::{MFdFlags, memfd_create},
        mman::{MlockAllFlags, mlockall},
    },
};

/// A sealed memory file; `name` appears in `/proc/PID/fd`.
pub(super) fn sealed(name: &CStr, content: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?);
    file.write_all(content)?;
    file.rewind()?;
    let all = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(all))?;
    Ok(file.into())
}

/// Keeps every page that the guardian has used, and will use, where it is: with the agent's memory at its limit the kernel
/// takes program text first, and a guardian that reads its own from a disk again and again neither answers nor ends the
/// worker that has the memory. The worker's copy of the same text stays with it. Needs CAP_IPC_LOCK: under
/// RLIMIT_MEMLOCK a later allocation would fail. Nothing is read ahead: the agent stays as small as it is.
pub(super) fn lock() -> io::Result<()> {
    Ok(mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | ONFAULT)?)
}

/// `MCL_ONFAULT`, which nix does not name.
const ONFAULT: MlockAllFlags = MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn content_can_be_read_and_not_changed() {
        let mut file = File::from(sealed(c"redir-test", b"text").expect("memory"));
        let mut text = String::new();
        file.read_to_string(&mut text).expect("readable");
        assert_eq!(text, "text");
        assert_eq!(file.write(b"x").expect_err("sealed").raw_os_error(), Some(libc::EPERM));
    }
}
