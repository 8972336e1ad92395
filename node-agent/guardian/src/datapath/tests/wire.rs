//! Links between namespaces other than the usual veth pair, and frames put on them by hand.
#![expect(unsafe_code, reason = "tun devices and packet sockets")]

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use super::rig::TestNetns;

/// Another veth pair between two namespaces, down and without addresses.
pub(super) fn join(a: &TestNetns, b: &TestNetns, name: &str) {
    let other = format!("/proc/{}/fd/{}", std::process::id(), b.fd().as_raw_fd());
    a.sh(&format!("ip link add {name} type veth peer name {name} netns {other}"));
}

/// Sends one frame as it is.
pub(super) fn send(from: &TestNetns, device: &str, frame: &[u8]) {
    let index = from.index_of(device);
    from.run(|| {
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0))).unwrap();
        let mut storage = SockAddrStorage::zeroed();
        // SAFETY: `sockaddr_ll` fits into the storage and any bytes are a valid one.
        let link = unsafe { storage.view_as::<libc::sockaddr_ll>() };
        link.sll_family = u16::try_from(libc::AF_PACKET).unwrap();
        link.sll_ifindex = i32::try_from(index).unwrap();
        // SAFETY: the length is that of the type written above.
        let to = unsafe { SockAddr::new(storage, u32::try_from(size_of::<libc::sockaddr_ll>()).unwrap()) };
        socket.send_to(frame, &to).unwrap();
    });
}

/// A link between two namespaces whose packets begin with the IP header: a tun device in each, and a thread that carries.
pub(super) struct TunPair {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl TunPair {
    /// None where this kernel has no tun devices, which is said.
    pub(super) fn join(a: &TestNetns, b: &TestNetns) -> Option<Self> {
        if !std::fs::exists(TUN).unwrap() {
            redir_rig::left_out(&format!("tun devices: there is no {TUN}"));
            return None;
        }
        let ends = [a.run(tun), b.run(tun)];
        let over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&over);
        let thread = thread::spawn(move || carry(&ends, &seen));
        Some(Self { over, thread: Some(thread) })
    }
}

impl Drop for TunPair {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

const TUN: &str = "/dev/net/tun";

/// Makes `tun0` in the calling thread's namespace; it goes with the descriptor.
fn tun() -> File {
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(TUN).unwrap();
    // SAFETY: all zeros is a valid request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"tun0") {
        *to = (*from).cast_signed();
    }
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_TUN | libc::IFF_NO_PI).unwrap();
    // SAFETY: TUNSETIFF reads and writes one `ifreq`.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    file
}

fn carry(ends: &[File; 2], over: &AtomicBool) {
    let mut packet = vec![0; 65_536];
    while !over.load(Ordering::Relaxed) {
        let mut fds = ends.each_ref().map(|end| PollFd::new(end.as_fd(), PollFlags::POLLIN));
        poll(&mut fds, PollTimeout::from(50_u8)).unwrap();
        for (i, mut end) in ends.iter().enumerate() {
            while let Ok(length) = end.read(&mut packet) {
                // Refused while the other end is still down.
                let _may_be_down = (&ends[1 - i]).write(&packet[..length]);
            }
        }
    }
}
