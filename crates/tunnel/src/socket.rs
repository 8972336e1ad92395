//! The agent's UDP socket, which also hears what the network says about packets that could not be delivered.
//!
//! Owns: the kernel's error queue of the socket. An error concerns one peer and must not cost another tunnel a packet:
//! the kernel reports it to whichever call comes next, so that call is made again. Called by: `agent`.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockaddrLike as _, SockaddrStorage, recvmsg, setsockopt, sockopt,
};
use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::sleep;

use crate::hints::UnreachableHints;

/// See the module.
#[derive(Debug)]
pub(crate) struct AgentSocket {
    io: UdpSocket,
    state: UdpSocketState,
}

impl AgentSocket {
    /// Takes a bound socket over; inside a runtime.
    pub(crate) fn new(socket: std::net::UdpSocket) -> io::Result<Arc<Self>> {
        // A socket of both families takes both; one of IPv4 refuses the second. Without them, hints are missing, no more.
        setsockopt(&socket, sockopt::Ipv4RecvErr, &true).ok();
        setsockopt(&socket, sockopt::Ipv6RecvErr, &true).ok();
        let state = UdpSocketState::new((&socket).into())?;
        Ok(Arc::new(Self { io: UdpSocket::from_std(socket)?, state }))
    }

    /// Passes on what the kernel hears of packets that could not be delivered, until it is dropped.
    pub(crate) async fn read_errors(self: Arc<Self>, hints: UnreachableHints) {
        // The socket's other errors end its other users.
        while self.io.ready(Interest::ERROR).await.is_ok() {
            match self.io.try_io(Interest::ERROR, || next_error(&self.io)) {
                Ok(address) => address.into_iter().for_each(|address| hints.hint(address)),
                // None is left, and the readiness is cleared.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => sleep(PAUSE).await,
            }
        }
    }
}

/// The next queued error: whom nobody listens for, if it is such a one.
fn next_error(socket: &UdpSocket) -> io::Result<Option<SocketAddr>> {
    let mut quoted = [0; 1];
    let mut parts = [IoSliceMut::new(&mut quoted)];
    let mut control = nix::cmsg_space!([u8; CONTROL]);
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let unreachable = message.cmsgs()?.any(|part| match part {
        ControlMessageOwned::Ipv4RecvErr(error, _) | ControlMessageOwned::Ipv6RecvErr(error, _) => {
            PORT_UNREACHABLE.contains(&(error.ee_origin, error.ee_type, error.ee_code))
        }
        _ => false,
    });
    // Where the packet was sent; the kernel has found the socket by the ports and addresses that the error quotes.
    Ok(message.address.filter(|_| unreachable).and_then(|address| sent_to(&address)))
}

fn sent_to(address: &SockaddrStorage) -> Option<SocketAddr> {
    match address.family()? {
        AddressFamily::Inet => address.as_sockaddr_in().map(|v4| SocketAddr::V4((*v4).into())),
        AddressFamily::Inet6 => address.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into())),
        _ => None,
    }
}

impl AsyncUdpSocket for AgentSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(WritableWait { socket: self, waiting: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        for _ in 0..TRIES {
            let sent = self.io.try_io(Interest::WRITABLE, || self.state.try_send((&self.io).into(), transmit));
            match sent {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                Err(_) => {}
            }
        }
        // As a packet that was lost: QUIC repeats what matters, and probes of a path's MTU may fail.
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        for _ in 0..TRIES {
            ready!(self.io.poll_recv_ready(cx))?;
            let received =
                self.io.try_io(Interest::READABLE, || self.state.recv((&self.io).into(), &mut *buffers, meta));
            if let Ok(count) = received {
                return Poll::Ready(Ok(count));
            }
        }
        // Somebody floods with errors: others get their turn.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }
}

/// One task's wait until the socket takes more; a socket remembers a waker for each such future.
struct WritableWait {
    socket: Arc<AgentSocket>,
    waiting: Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>>,
}

impl UdpPoller for WritableWait {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let waiting = this.waiting.get_or_insert_with(|| {
            let socket = this.socket.clone();
            Box::pin(async move { socket.io.writable().await })
        });
        let writable = ready!(waiting.as_mut().poll(cx));
        this.waiting = None;
        Poll::Ready(writable)
    }
}

impl std::fmt::Debug for WritableWait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writable").finish_non_exhaustive()
    }
}

/// Origin, type and code of "port unreachable": RFC 792 and RFC 4443, as `linux/errqueue.h` numbers their origins.
const PORT_UNREACHABLE: [(u8, u8, u8); 2] = [(2, 3, 3), (3, 1, 4)];
/// Room for an error with its origin, the packet's addresses and what else the socket has asked for.
const CONTROL: usize = 512;
/// Before the queue is read again after it could not be.
const PAUSE: Duration = Duration::from_millis(100);
/// Calls that may meet an error which concerns another peer.
const TRIES: usize = 8;
