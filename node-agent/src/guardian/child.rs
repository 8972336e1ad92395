//! Starting the worker: the same binary, without anything that the guardian has.
//!
//! Owns the fall in privilege. What the worker keeps: its standard streams, descriptor 3 (the control socket), a uid.
//! Called by the supervisor.

use std::{
    ffi::OsString,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Command, Stdio},
};

use nix::{
    sys::{
        resource::{Resource, getrlimit},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use super::control::Control;
use crate::ipc;

/// The descriptor on which a worker finds its control socket.
pub(crate) const CONTROL_FD: i32 = 3;

/// What a worker learns from the guardian's environment: how to fail.
pub(super) const WORKER_ENVIRONMENT: &[&str] = &["RUST_BACKTRACE"];
/// What a controller learns: also where the API server is.
pub(super) const CONTROLLER_ENVIRONMENT: &[&str] =
    &["RUST_BACKTRACE", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"];

/// How a worker, or a controller, is started.
#[derive(Debug)]
pub(super) struct Launch {
    /// uid and gid, never 0.
    pub(super) user: u32,
    /// What follows `redir-agent`.
    pub(super) arguments: Vec<OsString>,
    /// What it learns from the guardian's environment.
    pub(super) environment: &'static [&'static str],
}

/// How a process ended, as a shell would say it: 128 + signal for a killed one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) pid: Pid,
    pub(super) code: u8,
}

impl Launch {
    /// Starts it. It blocks on its control socket until the bootstrap message is there.
    pub(super) fn spawn(&self) -> io::Result<(Pid, Control)> {
        let (ours, theirs) = ipc::pair()?;
        let pid = self.start(&theirs)?;
        Ok((pid, Control::new(ours)))
    }

    fn start(&self, control: &OwnedFd) -> io::Result<Pid> {
        let fall = Fall::new(self.user, control)?;
        let mut command = Command::new("/proc/self/exe");
        command.arg0("redir-agent").args(&self.arguments).stdin(Stdio::null()).env_clear();
        command.envs(std::env::vars_os().filter(|(name, _)| self.environment.iter().any(|passed| name == passed)));
        in_child(&mut command, fall);
        let child = command.spawn()?;
        i32::try_from(child.id()).map(Pid::from_raw).map_err(io::Error::other)
    }
}

/// Reaps one process that has ended: the worker, or as PID 1 any orphan.
pub(super) fn reap() -> Option<Ended> {
    match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::Exited(pid, code)) => Some(Ended { pid, code: code.to_le_bytes()[0] }),
        Ok(WaitStatus::Signaled(pid, signal, _)) => Some(Ended { pid, code: 128 + (signal as i32).to_le_bytes()[0] }),
        _ => None,
    }
}

/// Everything the child does between fork and exec, as plain numbers: no allocation is allowed there.
#[derive(Clone, Copy)]
struct Fall {
    user: u32,
    control: i32,
    descriptors: libc::rlim_t,
}

#[expect(unsafe_code, reason = "std has no safe way to act between fork and exec")]
fn in_child(command: &mut Command, fall: Fall) {
    // SAFETY: the closure makes system calls on plain numbers only; it neither allocates nor locks, and the guardian
    // has a single thread anyway.
    unsafe { command.pre_exec(move || fall.happen()) };
}

impl Fall {
    fn new(user: u32, control: &OwnedFd) -> io::Result<Self> {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        Ok(Self { user, control: control.as_raw_fd(), descriptors: hard.min(DESCRIPTORS) })
    }

    fn happen(self) -> io::Result<()> {
        self.keep_only_the_control_socket()?;
        self.limits()?;
        ignore_signals();
        self.drop_privileges()
    }

    #[expect(unsafe_code, reason = "dup2 and close_range on numbers")]
    fn keep_only_the_control_socket(self) -> io::Result<()> {
        if self.control == CONTROL_FD {
            // SAFETY: F_SETFD takes an integer and touches no memory.
            return done(unsafe { libc::fcntl(CONTROL_FD, libc::F_SETFD, 0) });
        }
        // SAFETY: dup2 takes two integers; whatever was on descriptor 3 belongs to this forked copy alone.
        done(unsafe { libc::dup2(self.control, CONTROL_FD) })?;
        // Everything of the guardian is close-on-exec already; this is for what it inherited. Kernels before 5.11 lack
        // the flag, and go without.
        let first = CONTROL_FD.unsigned_abs() + 1;
        // SAFETY: close_range takes integers; the flag only marks descriptors.
        unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
        Ok(())
    }

    #[expect(unsafe_code, reason = "setrlimit in the child")]
    fn limits(self) -> io::Result<()> {
        let files = libc::rlimit { rlim_cur: self.descriptors, rlim_max: self.descriptors };
        let core = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: both structures live on this stack for the call.
        done(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const files) })?;
        // The worker's memory holds a key: no core files.
        // SAFETY: as above.
        done(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const core) })
    }

    /// Groups and bounding set first: they need the privileges that the uid takes away.
    #[expect(unsafe_code, reason = "std and nix have no capset and no bounding set")]
    fn drop_privileges(self) -> io::Result<()> {
        // SAFETY: prctl with integers; a container without CAP_SETPCAP keeps its (already small) bounding set, which
        // no_new_privs makes unreachable.
        (0..64).for_each(|capability| unsafe {
            libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0);
        });
        // SAFETY: prctl with integers; kernels before 4.3 have no ambient set.
        unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
        // SAFETY: an empty list needs no pointer.
        done(unsafe { libc::setgroups(0, std::ptr::null()) })?;
        // SAFETY: integers.
        done(unsafe { libc::setresgid(self.user, self.user, self.user) })?;
        // SAFETY: integers.
        done(unsafe { libc::setresuid(self.user, self.user, self.user) })?;
        let header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
        let none = [CapabilityData::default(); 2];
        // SAFETY: the kernel reads one header and two data structures of version 3 (capset(2)), which live on this stack.
        let set = unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) };
        if set != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: integers.
        done(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })
    }
}

/// Ctrl-C and a service manager's SIGTERM reach the whole group: the worker hears of the end from the guardian alone.
#[expect(unsafe_code, reason = "signal dispositions in the child")]
fn ignore_signals() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        // SAFETY: SIG_IGN installs no handler; it stays across exec.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

fn done(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `struct __user_cap_header_struct`
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

/// `struct __user_cap_data_struct`
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `_LINUX_CAPABILITY_VERSION_3`: 64 capabilities.
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
/// 10,000 connections with two sockets and their pipes; the table takes half a megabyte of kernel memory.
const DESCRIPTORS: libc::rlim_t = 65_536;

/// Takes descriptor 3 over. Must be called once, first thing in the worker.
#[expect(unsafe_code, reason = "the guardian hands the control socket over by its number")]
pub(crate) fn inherited_control() -> io::Result<OwnedFd> {
    use std::os::fd::FromRawFd;

    use nix::{
        fcntl::{FcntlArg, FdFlag, fcntl},
        sys::{
            socket::{SockType, getsockopt, sockopt},
            stat::fstat,
        },
    };
    // SAFETY: only looked at, and only for this call; a closed descriptor gives EBADF.
    let looked_at = unsafe { BorrowedFd::borrow_raw(CONTROL_FD) };
    fstat(looked_at)?;
    if getsockopt(&looked_at, sockopt::SockType)? != SockType::SeqPacket {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    fcntl(looked_at, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // SAFETY: it is open, and nothing in this process has taken it: this is the worker's first act.
    Ok(unsafe { OwnedFd::from_raw_fd(CONTROL_FD) })
}
