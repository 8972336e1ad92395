//! The system calls that a child keeps.
//!
//! An allow-list: whatever else there is, also what kernels get later, is answered with ENOSYS, as by a kernel that lacks it.
//! A C library that tries a newer call then takes the older one, and no connection ends over it; EPERM would be taken for an
//! answer. Only calls that no library tries and that an intruder needs end the process at once, so that the attempt shows:
//! the guardian stops steering and says so. Every call that is not bound to arguments is let through without the
//! filter by kernels since 5.11.

use std::collections::BTreeMap;

use anyhow::Context;
use nix::sys::prctl::set_no_new_privs;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use super::profile::SandboxProfile;

/// A system call's number, and what its arguments must be: any of the rules, all conditions of one. None: anything.
type SyscallRules = BTreeMap<i64, Vec<SeccompRule>>;

/// Leaves the calling thread, and those that it starts, the calls of the profile.
pub(super) fn restrict(profile: &SandboxProfile) -> anyhow::Result<()> {
    // The stricter answer of the two counts.
    install(&program(hostile(), SeccompAction::Allow, SeccompAction::KillProcess)?)?;
    let unknown = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    install(&program(allowed(profile)?, unknown, SeccompAction::Allow)?)?;
    Ok(())
}

/// As `seccompiler::apply_filter`, which has no flags: without this one, kernels before 5.16 slow every process down that has a
/// filter (store bypass and branch speculation off), as if it ran strangers' code.
#[expect(unsafe_code, reason = "nix and rustix have no seccomp(2)")]
fn install(program: &BpfProgram) -> anyhow::Result<()> {
    set_no_new_privs()?;
    let length = u16::try_from(program.len()).context("the filter is too long")?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: the kernel copies the program, which lives for the call, and changes nothing; both types of an instruction are
    // `struct sock_filter`.
    let installed = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            &raw const program,
        )
    };
    if installed == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()).context("install the filter") }
}

const _: () = assert!(size_of::<seccompiler::sock_filter>() == size_of::<libc::sock_filter>());

fn program(calls: SyscallRules, others: SeccompAction, listed: SeccompAction) -> anyhow::Result<BpfProgram> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).context("it is of a kind that no filter is known for")?;
    Ok(SeccompFilter::new(calls, others, listed, arch)?.try_into()?)
}

/// What nobody calls but an intruder.
fn hostile() -> SyscallRules {
    HOSTILE.iter().map(|call| (*call, Vec::new())).collect()
}

fn allowed(profile: &SandboxProfile) -> anyhow::Result<SyscallRules> {
    let mut calls: SyscallRules = COMMON.iter().map(|call| (*call, Vec::new())).collect();
    calls.extend(bound_to_arguments()?);
    let data = [libc::PROT_EXEC].map(|exec| ArgumentRule::Without(2, exec));
    match profile {
        SandboxProfile::Traffic => {
            calls.insert(libc::SYS_mmap, any([rule(data)?]));
            // quinn asks with a socket of its own whether the kernel sends several datagrams at once.
            calls.insert(libc::SYS_socket, sockets(&[libc::AF_INET, libc::AF_INET6], &[libc::SOCK_DGRAM])?);
        }
        SandboxProfile::ContainerRuntimes => drop(calls.insert(libc::SYS_mmap, any([rule(data)?]))),
        SandboxProfile::ApiServer { .. } => {
            calls.extend(FILES.iter().map(|call| (*call, Vec::new())));
            // The C library loads what resolves names.
            calls.insert(libc::SYS_mmap, Vec::new());
            calls.insert(libc::SYS_mprotect, Vec::new());
            let families = [libc::AF_INET, libc::AF_INET6, libc::AF_UNIX];
            calls.insert(libc::SYS_socket, sockets(&families, &[libc::SOCK_STREAM, libc::SOCK_DGRAM])?);
        }
    }
    Ok(calls)
}

/// In both profiles.
fn bound_to_arguments() -> anyhow::Result<SyscallRules> {
    // A thread, never a process or a namespace. The C library falls back to it from clone3, whose arguments no filter sees.
    let thread = ArgumentRule::Masked(0, libc::CLONE_THREAD | NAMESPACES, libc::CLONE_THREAD);
    let own = i32::try_from(std::process::id())?;
    Ok(BTreeMap::from([
        (libc::SYS_clone, any([rule([thread])?])),
        (libc::SYS_mprotect, any([rule([ArgumentRule::Without(2, libc::PROT_EXEC)])?])),
        (libc::SYS_socketpair, any([rule([ArgumentRule::Is(0, libc::AF_UNIX)])?])),
        // abort(3)
        (libc::SYS_tgkill, any([rule([ArgumentRule::Is(0, own)])?])),
        // Its own limits.
        (libc::SYS_prlimit64, any([rule([ArgumentRule::Is(0, 0)])?, rule([ArgumentRule::Is(0, own)])?])),
        (libc::SYS_prctl, each(0, &[libc::PR_SET_NAME, PR_SET_VMA])?),
        (libc::SYS_ioctl, each(1, &[FIONBIO, FIONREAD, TCGETS])?),
    ]))
}

fn sockets(families: &[i32], kinds: &[i32]) -> anyhow::Result<Vec<SeccompRule>> {
    let pairs = families.iter().flat_map(|family| kinds.iter().map(move |kind| (*family, *kind)));
    pairs.map(|(family, kind)| rule([ArgumentRule::Is(0, family), ArgumentRule::Masked(1, SOCK_TYPE, kind)])).collect()
}

/// The argument is one of these.
fn each(argument: u8, values: &[i32]) -> anyhow::Result<Vec<SeccompRule>> {
    values.iter().map(|value| rule([ArgumentRule::Is(argument, *value)])).collect()
}

fn any<const N: usize>(rules: [SeccompRule; N]) -> Vec<SeccompRule> {
    rules.into()
}

fn rule<const N: usize>(conditions: [ArgumentRule; N]) -> anyhow::Result<SeccompRule> {
    let conditions: Result<_, _> = conditions.into_iter().map(ArgumentRule::compile).collect();
    Ok(SeccompRule::new(conditions?)?)
}

/// What is asked of an argument, by its place. All of them are ints or flags in the lower half.
#[derive(Clone, Copy)]
enum ArgumentRule {
    Is(u8, i32),
    Without(u8, i32),
    /// Place, mask, and what is to be left.
    Masked(u8, i32, i32),
}

impl ArgumentRule {
    fn compile(self) -> Result<SeccompCondition, seccompiler::BackendError> {
        let bits = |value: i32| u64::from(value.cast_unsigned());
        let (argument, operator, value) = match self {
            Self::Is(argument, value) => (argument, SeccompCmpOp::Eq, value),
            Self::Without(argument, flags) => (argument, SeccompCmpOp::MaskedEq(bits(flags)), 0),
            Self::Masked(argument, mask, value) => (argument, SeccompCmpOp::MaskedEq(bits(mask)), value),
        };
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, bits(value))
    }
}

/// Bytes that come and go through descriptors that are there, threads, memory and time.
#[rustfmt::skip]
const COMMON: &[i64] = &[
    libc::SYS_read, libc::SYS_write, libc::SYS_readv, libc::SYS_writev, libc::SYS_pread64, libc::SYS_pwrite64,
    libc::SYS_lseek, libc::SYS_fstat, libc::SYS_close, libc::SYS_dup, libc::SYS_dup3, libc::SYS_fcntl, libc::SYS_pipe2,
    libc::SYS_splice, libc::SYS_eventfd2, libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2, libc::SYS_ppoll,
    #[cfg(target_arch = "x86_64")] libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")] libc::SYS_poll,
    // Without socket and listen: a listener is the guardian's to give.
    libc::SYS_bind, libc::SYS_connect, libc::SYS_accept4, libc::SYS_shutdown, libc::SYS_sendto, libc::SYS_recvfrom,
    libc::SYS_sendmsg, libc::SYS_recvmsg, libc::SYS_sendmmsg, libc::SYS_recvmmsg, libc::SYS_getsockopt,
    libc::SYS_setsockopt, libc::SYS_getsockname, libc::SYS_getpeername,
    libc::SYS_munmap, libc::SYS_mremap, libc::SYS_madvise, libc::SYS_brk,
    libc::SYS_futex, libc::SYS_set_robust_list, libc::SYS_rseq, libc::SYS_set_tid_address, libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity, libc::SYS_getcpu, libc::SYS_membarrier, libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn, libc::SYS_restart_syscall,
    libc::SYS_exit, libc::SYS_exit_group,
    libc::SYS_clock_gettime, libc::SYS_clock_getres, libc::SYS_gettimeofday, libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep, libc::SYS_getrandom, libc::SYS_getpid, libc::SYS_gettid, libc::SYS_getuid,
    libc::SYS_geteuid, libc::SYS_getgid, libc::SYS_getegid, libc::SYS_uname, libc::SYS_sysinfo,
];

/// For the token, certificates, and the resolution of names.
#[rustfmt::skip]
const FILES: &[i64] = &[
    libc::SYS_openat, libc::SYS_newfstatat, libc::SYS_statx, libc::SYS_readlinkat, libc::SYS_faccessat,
    libc::SYS_getdents64, libc::SYS_getcwd, libc::SYS_fstatfs,
    #[cfg(target_arch = "x86_64")] libc::SYS_open,
    #[cfg(target_arch = "x86_64")] libc::SYS_stat,
    #[cfg(target_arch = "x86_64")] libc::SYS_access,
    #[cfg(target_arch = "x86_64")] libc::SYS_readlink,
];

/// Other programs, other processes' memory, namespaces, mounts, and what kernels have been broken with.
#[rustfmt::skip]
const HOSTILE: &[i64] = &[
    libc::SYS_execve, libc::SYS_execveat, libc::SYS_ptrace, libc::SYS_process_vm_readv, libc::SYS_process_vm_writev,
    libc::SYS_unshare, libc::SYS_setns, libc::SYS_mount, libc::SYS_umount2, libc::SYS_pivot_root, libc::SYS_chroot,
    libc::SYS_open_tree, libc::SYS_move_mount, libc::SYS_fsopen, libc::SYS_fsmount, libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at, libc::SYS_bpf, libc::SYS_perf_event_open, libc::SYS_userfaultfd,
    libc::SYS_keyctl, libc::SYS_add_key, libc::SYS_request_key, libc::SYS_init_module, libc::SYS_finit_module,
    libc::SYS_delete_module, libc::SYS_kexec_load, libc::SYS_reboot, libc::SYS_swapon,
    libc::SYS_pidfd_getfd,
    // The C library's names for the other architecture lack it.
    #[cfg(target_arch = "x86_64")] libc::SYS_kexec_file_load,
];

const NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;
/// `SOCK_TYPE_MASK` of the kernel: the rest are flags.
const SOCK_TYPE: i32 = 0xf;
/// `linux/prctl.h`: the C library names its memory.
const PR_SET_VMA: i32 = 0x5356_4d41;
/// `asm-generic/ioctls.h`; the types of the C libraries' constants differ.
const FIONBIO: i32 = 0x5421;
const FIONREAD: i32 = 0x541b;
const TCGETS: i32 = 0x5401;

#[cfg(test)]
mod tests;
