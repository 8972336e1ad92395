//! The guardian's end of the control socket: never blocks, never grows without bound.
//!
//! Owns what could not be sent yet. While something waits, no request is taken: a worker that does not read its answers
//! gets no more of them. Called by the supervisor.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use nix::poll::PollFlags;

use redir_ipc::{self as ipc, MalformedMessage, REPLY_LEN, REQUEST_LEN, Reply, Request};

/// The socket and the messages that wait for room in it.
#[derive(Debug)]
pub(super) struct ControlSocket {
    socket: OwnedFd,
    waiting: VecDeque<([u8; REPLY_LEN], Vec<OwnedFd>)>,
}

/// What the socket brought.
#[derive(Debug)]
pub(super) enum ControlInput {
    /// A request and its number.
    Request(u32, Request),
    /// Bytes that are none; the number if they have one.
    Malformed(Option<u32>),
    /// Nothing now.
    Nothing,
    /// The worker has closed its end or is dead.
    Closed,
}

impl ControlSocket {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket, waiting: VecDeque::new() }
    }

    /// What to poll for.
    pub(super) fn interest(&self) -> PollFlags {
        if self.waiting.is_empty() { PollFlags::POLLIN } else { PollFlags::POLLOUT }
    }

    /// Sends now or later. A dead worker's messages are dropped: its death is noticed elsewhere.
    pub(super) fn send(&mut self, seq: u32, reply: &Reply, fds: Vec<OwnedFd>) {
        self.waiting.push_back((reply.encode(seq), fds));
        self.flush();
    }

    /// Sends what waits, as far as there is room.
    pub(super) fn flush(&mut self) {
        while let Some((message, fds)) = self.waiting.front() {
            let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            match ipc::send(self.socket.as_fd(), message, &fds) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                sent => {
                    if let Err(error) = sent {
                        tracing::debug!(%error, "a message to the worker is lost");
                    }
                    self.waiting.pop_front();
                }
            }
        }
    }

    /// Takes one request, unless answers wait.
    pub(super) fn receive(&mut self) -> ControlInput {
        if !self.waiting.is_empty() {
            return ControlInput::Nothing;
        }
        let mut buffer = [0; REQUEST_LEN];
        match ipc::receive_plain(self.socket.as_fd(), &mut buffer) {
            Ok(0) => ControlInput::Closed,
            Ok(REQUEST_LEN) => match Request::decode(&buffer) {
                Ok((seq, request)) => ControlInput::Request(seq, request),
                Err(MalformedMessage) => ControlInput::Malformed(Request::seq(&buffer)),
            },
            Ok(_) => ControlInput::Malformed(None),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                ControlInput::Nothing
            }
            Err(_) => ControlInput::Closed,
        }
    }
}

impl AsFd for ControlSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_does_not_read_is_not_heard() {
        let (guardian, worker) = ipc::pair().expect("socket pair");
        let mut control = ControlSocket::new(guardian);
        let mut sent = 0;
        while control.interest() == PollFlags::POLLIN {
            control.send(sent, &Reply::Done, Vec::new());
            sent += 1;
        }
        ipc::send(worker.as_fd(), &Request::Alive.encode(0), &[]).expect("sent");
        assert!(matches!(control.receive(), ControlInput::Nothing));
        let mut buffer = [0; REPLY_LEN];
        for expected in 0..sent {
            let (length, _) = ipc::receive(worker.as_fd(), &mut buffer).expect("received");
            assert_eq!(Reply::decode(&buffer[..length]), Ok((expected, Reply::Done)));
            control.flush();
        }
        assert!(matches!(control.receive(), ControlInput::Request(0, Request::Alive)));
        assert!(matches!(control.receive(), ControlInput::Nothing));
    }

    #[test]
    fn bytes_that_are_no_request_and_a_closed_end_are_told_apart() {
        let (guardian, worker) = ipc::pair().expect("socket pair");
        let mut control = ControlSocket::new(guardian);
        ipc::send(worker.as_fd(), &[7; REQUEST_LEN], &[]).expect("sent");
        ipc::send(worker.as_fd(), &[7; 3], &[]).expect("sent");
        assert!(matches!(control.receive(), ControlInput::Malformed(Some(0x0707_0707))));
        assert!(matches!(control.receive(), ControlInput::Malformed(None)));
        drop(worker);
        assert!(matches!(control.receive(), ControlInput::Closed));
        control.send(1, &Reply::Done, Vec::new());
        assert_eq!(control.interest(), PollFlags::POLLIN, "a message to a dead worker does not wait");
    }
}
