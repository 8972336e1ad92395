//! Every forbidden call is tried from inside, each in a process of its own.

use std::{ffi::c_long, path::PathBuf, process::Command};

use nix::{
    sys::{
        signal::Signal,
        wait::{WaitStatus, waitpid},
    },
    unistd::{ForkResult, fork},
};

use super::*;

/// What becomes of a call of a process under the filter: its errno, 0, or the signal that ends the process.
#[derive(Debug, PartialEq)]
enum SyscallOutcome {
    Errno(i32),
    Killed(Signal),
}

/// Makes the call in a child that has restricted itself.
#[expect(unsafe_code, reason = "a process that tries what is forbidden, with plain numbers")]
fn outcome(profile: &SandboxProfile, number: i64, arguments: [c_long; 6]) -> SyscallOutcome {
    // SAFETY: the caller is a process of its own whose other thread only waits.
    match unsafe { fork() }.expect("a process") {
        ForkResult::Child => {
            let [a, b, c, d, e, f] = arguments;
            let restricted = restrict(profile).is_ok();
            // SAFETY: no argument that is used here points to memory that the kernel would write to.
            let made = unsafe { libc::syscall(number, a, b, c, d, e, f) };
            let errno = if made < 0 { std::io::Error::last_os_error().raw_os_error().unwrap_or(0) } else { 0 };
            // A fork that is let through would end twice, and be seen as what it is.
            // SAFETY: ends this process without what else ends one.
            unsafe { libc::_exit(if restricted { errno } else { 200 }) };
        }
        ForkResult::Parent { child } => match waitpid(child, None).expect("a child") {
            WaitStatus::Exited(_, code) => SyscallOutcome::Errno(code),
            WaitStatus::Signaled(_, signal, _) => SyscallOutcome::Killed(signal),
            other => panic!("{other:?}"),
        },
    }
}

/// In a process of its own, since it forks.
fn alone(name: &str) -> bool {
    const ALONE: &str = "REDIR_TEST_CALLS";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let mut alone = Command::new(std::env::current_exe().unwrap());
    let name = format!("calls::tests::{name}");
    let output = alone.args(["--exact", &name, "--nocapture"]).env(ALONE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{stderr}");
    false
}

fn profiles() -> [SandboxProfile; 3] {
    [
        SandboxProfile::Traffic,
        SandboxProfile::ApiServer { node_proc: PathBuf::from("/host/proc") },
        SandboxProfile::ContainerRuntimes,
    ]
}

#[test]
fn a_call_that_only_an_intruder_makes_ends_the_process() {
    if !alone("a_call_that_only_an_intruder_makes_ends_the_process") {
        return;
    }
    for profile in profiles() {
        for call in HOSTILE {
            let outcome = outcome(&profile, *call, [-1; 6]);
            assert_eq!(outcome, SyscallOutcome::Killed(Signal::SIGSYS), "call {call} of {profile:?}");
        }
    }
}

#[test]
fn every_other_call_is_as_if_the_kernel_lacked_it() {
    if !alone("every_other_call_is_as_if_the_kernel_lacked_it") {
        return;
    }
    let flags = |flags: i32| [flags.into(), 0, 0, 0, 0, 0];
    let socket = |family: i32, kind: i32| [family.into(), kind.into(), 0, 0, 0, 0];
    let everywhere = [
        ("a process", libc::SYS_clone, flags(libc::SIGCHLD)),
        ("a thread in a namespace", libc::SYS_clone, flags(libc::CLONE_THREAD | libc::CLONE_NEWNET)),
        ("a user namespace", libc::SYS_clone, flags(libc::CLONE_NEWUSER | libc::SIGCHLD)),
        ("clone3", libc::SYS_clone3, flags(0)),
        ("io_uring", libc::SYS_io_uring_setup, flags(1)),
        ("a signal for another", libc::SYS_kill, flags(1)),
        ("a signal for a thread of another", libc::SYS_tgkill, [1, 1, 0, 0, 0, 0]),
        ("the limits of another", libc::SYS_prlimit64, [1, 7, 0, 0, 0, 0]),
        ("a listener", libc::SYS_listen, flags(-1)),
        ("a packet socket", libc::SYS_socket, socket(libc::AF_PACKET, libc::SOCK_RAW)),
        ("a raw socket", libc::SYS_socket, socket(libc::AF_INET, libc::SOCK_RAW)),
        ("netlink", libc::SYS_socket, socket(libc::AF_NETLINK, libc::SOCK_RAW)),
        ("vsock", libc::SYS_socket, socket(libc::AF_VSOCK, libc::SOCK_STREAM)),
        ("the kernel's crypto", libc::SYS_socket, socket(libc::AF_ALG, libc::SOCK_SEQPACKET)),
        ("a terminal's input", libc::SYS_ioctl, [0, 0x5412, 0, 0, 0, 0]),
        ("another uid", libc::SYS_setresuid, [0; 6]),
        ("being looked into", libc::SYS_prctl, [libc::PR_SET_DUMPABLE.into(), 1, 0, 0, 0, 0]),
        ("memory of a file", libc::SYS_memfd_create, [0; 6]),
    ];
    let code: [c_long; 6] =
        [0, 4096, (libc::PROT_READ | libc::PROT_EXEC).into(), (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS).into(), -1, 0];
    let for_traffic = [
        ("a file", libc::SYS_openat, [libc::AT_FDCWD.into(), c"/dev/null".as_ptr() as c_long, 0, 0, 0, 0]),
        ("a file, newly", libc::SYS_openat2, [-1; 6]),
        ("a file's state", libc::SYS_statx, [-1; 6]),
        ("a unix socket", libc::SYS_socket, socket(libc::AF_UNIX, libc::SOCK_STREAM)),
        ("a connection of its own", libc::SYS_socket, socket(libc::AF_INET, libc::SOCK_STREAM)),
        ("new code", libc::SYS_mmap, code),
        ("code", libc::SYS_mprotect, [0, 4096, libc::PROT_EXEC.into(), 0, 0, 0]),
    ];
    let lacking = SyscallOutcome::Errno(libc::ENOSYS);
    for profile in profiles() {
        for (what, call, arguments) in &everywhere {
            assert_eq!(outcome(&profile, *call, *arguments), lacking, "{what} of {profile:?}");
        }
        for (what, call, arguments) in &for_traffic {
            let outcome = outcome(&profile, *call, *arguments);
            assert_eq!(
                outcome == lacking,
                !matches!(profile, SandboxProfile::ApiServer { .. }) || *call == libc::SYS_openat2,
                "{what}: {outcome:?}"
            );
        }
    }
}

#[test]
fn what_a_worker_needs_is_left() {
    if !alone("what_a_worker_needs_is_left") {
        return;
    }
    let own = c_long::from(std::process::id());
    for profile in profiles() {
        let good = |call, arguments| assert_eq!(outcome(&profile, call, arguments), SyscallOutcome::Errno(0), "{call}");
        let flags = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let socket = [libc::AF_INET6.into(), flags.into(), 0, 0, 0, 0];
        if profile == SandboxProfile::ContainerRuntimes {
            // It has what the guardian gives it.
            assert_eq!(outcome(&profile, libc::SYS_socket, socket), SyscallOutcome::Errno(libc::ENOSYS));
        } else {
            good(libc::SYS_socket, socket);
        }
        good(libc::SYS_prlimit64, [0, libc::RLIMIT_NOFILE as c_long, 0, 0, 0, 0]);
        let memory = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS).into();
        good(libc::SYS_mmap, [0, 4096, (libc::PROT_READ | libc::PROT_WRITE).into(), memory, -1, 0]);
        // Of the process that asks, which is not this one.
        assert_eq!(outcome(&profile, libc::SYS_tgkill, [own, own, 0, 0, 0, 0]), SyscallOutcome::Errno(libc::ENOSYS));
    }
    let threads = std::thread::spawn(|| {
        restrict(&SandboxProfile::Traffic).expect("a filter");
        std::thread::Builder::new().name("another".into()).spawn(|| 1 + 1).map(|thread| thread.join().ok())
    });
    assert_eq!(threads.join().expect("alive").expect("a thread"), Some(2));
}
