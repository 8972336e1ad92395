//! Uid, capabilities and limits of a child.

use std::io;

use nix::{
    sys::{
        prctl::{set_dumpable, set_no_new_privs},
        resource::{Resource, getrlimit, setrlimit},
    },
    unistd::{Gid, Uid, setgroups, setresgid, setresuid},
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
};

/// Groups and bounding set first: they need the privileges that the uid takes away.
pub(super) fn drop_to(user: u32) -> io::Result<()> {
    limit()?;
    // A container without CAP_SETPCAP keeps its (already small) bounding set, which no_new_privs makes unreachable.
    (0..64).for_each(|bit| {
        remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit)).unwrap_or_default();
    });
    // Kernels before 4.3 have no ambient set.
    clear_ambient_capability_set().unwrap_or_default();
    setgroups(&[])?;
    let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    set_no_new_privs()?;
    // The memory holds keys: other processes of this uid may not look into it. A change of the uid undoes this.
    set_dumpable(false)?;
    Ok(())
}

fn limit() -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let descriptors = hard.min(DESCRIPTORS);
    setrlimit(Resource::RLIMIT_NOFILE, descriptors, descriptors)?;
    let (_, hard) = getrlimit(Resource::RLIMIT_NPROC)?;
    let threads = hard.min(THREADS);
    setrlimit(Resource::RLIMIT_NPROC, threads, threads)?;
    // No core files.
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    Ok(())
}

/// 10,000 connections with two sockets and their pipes; the table takes half a megabyte of kernel memory.
const DESCRIPTORS: u64 = 65_536;
/// Of all processes with this uid, so that it must hold for the agents of several containers or tests on one kernel, each
/// with some twenty threads.
const THREADS: u64 = 2048;
