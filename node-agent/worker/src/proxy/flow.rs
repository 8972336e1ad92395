//! The bytes of one client connection on their way: what the client has sent, what its legs have, and who gets them.
//!
//! Owns the buffers, the legs, and how far both ends of the client have come. Knows no protocol: the states say what goes
//! where (`state`), and the driver does it. States read it and must not change it.

use redir_http::engine::Origin;
use tokio::time::Instant;

use super::{attention::Attention, buffer::Buffer, leg::Leg};

/// What the client has done to its sending side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClientSide {
    /// It may send more.
    Open,
    /// It has sent its FIN.
    Fin,
    /// The FIN is passed on.
    Told,
}

/// Bytes at the front of `up` that go to a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sending {
    pub(super) to: Origin,
    pub(super) left: usize,
}

/// What follows bytes that were written to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterWrite {
    /// More of the same.
    More,
    /// An answer is complete.
    Answered,
    /// An answer is complete, and the connection ends with it.
    LastAnswered,
}

/// Bytes at the front of a leg's `down` that go to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Writing {
    pub(super) from: Origin,
    pub(super) left: usize,
    pub(super) then: AfterWrite,
}

/// Who got the bytes that moved last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastHeard {
    Client,
    Leg,
}

/// See the module.
pub(super) struct Flow {
    /// Never more than one to each origin.
    pub(super) legs: Vec<Leg>,
    /// What the client has sent and no leg has got.
    pub(super) up: Buffer,
    pub(super) client_side: ClientSide,
    /// What comes next of the client's bytes.
    pub(super) client: Attention,
    pub(super) sending: Option<Sending>,
    pub(super) writing: Option<Writing>,
    /// The connection ends, for this reason, when `writing` is done.
    pub(super) closing: Option<&'static str>,
    pub(super) last_heard: LastHeard,
    /// When something moved last.
    pub(super) active: Instant,
}

impl Flow {
    /// Nothing has come.
    pub(super) fn new() -> Self {
        Flow {
            legs: Vec::new(),
            up: Buffer::default(),
            client_side: ClientSide::Open,
            client: Attention::Read,
            sending: None,
            writing: None,
            closing: None,
            last_heard: LastHeard::Leg,
            active: Instant::now(),
        }
    }

    /// What the client has sent and no leg has got.
    pub(super) fn unread(&self) -> &[u8] {
        self.up.unread()
    }

    /// The open, opening or ended leg to an origin.
    pub(super) fn leg(&self, origin: Origin) -> Option<&Leg> {
        self.legs.iter().find(|leg| leg.origin == origin)
    }

    pub(super) fn leg_mut(&mut self, origin: Origin) -> Option<&mut Leg> {
        self.legs.iter_mut().find(|leg| leg.origin == origin)
    }

    /// What a leg has sent and the client has not got.
    pub(super) fn said(&self, origin: Origin) -> &[u8] {
        self.leg(origin).map_or(&[], |leg| leg.down.unread())
    }

    /// Whether everything that the client has sent is with a leg.
    pub(super) fn is_sent(&self) -> bool {
        self.up.is_empty() && self.sending.is_none()
    }

    /// Whether nothing is on its way, in either direction.
    pub(super) fn is_still(&self) -> bool {
        self.is_sent() && self.writing.is_none()
    }

    /// Whether the last bytes of a developer's answer are on their way to the client. What the client says next could end
    /// that leg, so the state is asked when they are through.
    pub(super) fn developer_answers(&self) -> bool {
        self.writing.is_some_and(|writing| writing.then != AfterWrite::More && writing.from != Origin::App)
    }
}
