//! The control stream: a session's state machine over a QUIC stream.

use std::fmt;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use redir_wire::session::{AgentSession, DeveloperSession, FromAgent, FromDeveloper};
use redir_wire::{Malformed, SessionError, ToAgent, ToDeveloper};
use tokio::time::timeout;

/// The agent's end of the control stream.
pub type AgentControl = Control<AgentSession>;
/// The developer's end of the control stream.
pub type DeveloperControl = Control<DeveloperSession>;

/// One end of the control stream. Bytes move while [`Control::next`] or [`Control::flush`] is awaited.
#[derive(Debug)]
pub struct Control<S> {
    session: S,
    send: quinn::SendStream,
    recv: quinn::RecvStream,
    unsent: BytesMut,
}

/// What [`Control::turn`] came to.
#[derive(Debug)]
pub enum Turn<M> {
    /// The other end said something.
    Message(M),
    /// The other end has finished.
    Finished,
    /// What was said is written, but for less than the backlog.
    Drained,
    /// Bytes came, and no message is whole.
    Partial,
}

/// Whether messages of the other end are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hearing {
    /// As they come.
    Open,
    /// They wait in the stream, and by its window with the other end.
    Closed,
}

/// What the two sessions have in common.
pub trait Session {
    /// What the other end says.
    type Message;
    /// Takes bytes.
    fn receive(&mut self, bytes: &[u8]);
    /// The next whole message.
    fn poll(&mut self) -> Result<Option<Self::Message>, SessionError>;
    /// Bytes to write.
    fn output(&mut self) -> Bytes;
    /// Bytes that came and are no message yet.
    fn unread(&self) -> usize;
}

impl<S: Session> Control<S> {
    /// The next message; `None` when the other end has finished. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<S::Message>, ControlError> {
        loop {
            match self.turn(usize::MAX, Hearing::Open).await? {
                Turn::Message(message) => return Ok(Some(message)),
                Turn::Finished => return Ok(None),
                Turn::Drained | Turn::Partial => {}
            }
        }
    }

    /// As [`Control::next`], but resolves also when bytes came, and when fewer than `backlog` bytes are left to write, if it
    /// were more. Until then nothing is heard: whoever asks must read the answers. Dropping the future loses nothing.
    pub async fn turn(&mut self, backlog: usize, hearing: Hearing) -> Result<Turn<S::Message>, ControlError> {
        loop {
            let above = self.unsent.len() >= backlog;
            let hears = hearing == Hearing::Open && !above;
            if hears && let Some(message) = self.session.poll()? {
                return Ok(Turn::Message(message));
            }
            self.collect_output()?;
            // Both arms may be dropped at any await: a write returns what it wrote, a chunk is taken whole.
            tokio::select! {
                written = self.send.write(&self.unsent), if !self.unsent.is_empty() => {
                    self.unsent.advance(written?);
                    if above && self.unsent.len() < backlog {
                        return Ok(Turn::Drained);
                    }
                }
                chunk = self.recv.read_chunk(CHUNK, true), if hears => match chunk? {
                    Some(chunk) => {
                        self.session.receive(&chunk.bytes);
                        return Ok(self.session.poll()?.map_or(Turn::Partial, Turn::Message));
                    }
                    None => return Ok(Turn::Finished),
                },
                // Nothing is to be written or heard.
                () = std::future::pending() => {}
            }
        }
    }

    /// Writes what was said so far, within [`FLUSH`].
    pub async fn flush(&mut self) -> Result<(), ControlError> {
        self.collect_output()?;
        let write = async {
            while !self.unsent.is_empty() {
                let written = self.send.write(&self.unsent).await?;
                self.unsent.advance(written);
            }
            Ok(())
        };
        timeout(FLUSH, write).await.unwrap_or(Err(ControlError::Stalled))
    }

    /// Writes what was said so far, ends the stream and waits until the other end has it all, within [`FLUSH`].
    pub async fn finish(mut self) -> Result<(), ControlError> {
        self.flush().await?;
        self.send.finish().ok();
        timeout(FLUSH, self.send.stopped()).await.map_or(Err(ControlError::Stalled), |_| Ok(()))
    }

    /// Bytes of the other end that are no message yet, or wait for their turn.
    pub fn unheard(&self) -> usize {
        self.session.unread()
    }

    fn collect_output(&mut self) -> Result<(), ControlError> {
        self.unsent.extend_from_slice(&self.session.output());
        if self.unsent.len() > UNSENT { Err(ControlError::Stalled) } else { Ok(()) }
    }

    fn new(session: S, (send, recv): (quinn::SendStream, quinn::RecvStream)) -> Self {
        Self { session, send, recv, unsent: BytesMut::new() }
    }
}

impl AgentControl {
    /// Waits for the developer to open the stream. The developer writes first, so that this resolves.
    pub async fn accept(connection: &quinn::Connection) -> Result<Self, ControlError> {
        let stream = connection.accept_bi().await.map_err(ControlError::Connection)?;
        Ok(Self::new(AgentSession::default(), stream))
    }

    /// Answers the greeting.
    pub fn welcome(&mut self, seq: u32, agent: &str, developer: &str, software: &str) -> Result<(), Malformed> {
        self.session.welcome(seq, agent, developer, software)
    }

    /// Says something: the answer to question `answers`, or unasked with 0.
    pub fn say(&mut self, answers: u32, message: &ToDeveloper) -> Result<(), Malformed> {
        self.session.send(answers, message)?;
        self.unsent.extend_from_slice(&self.session.output());
        Ok(())
    }

    /// Bytes that were said and not written yet.
    pub fn unsent(&self) -> usize {
        self.unsent.len()
    }
}

impl DeveloperControl {
    /// Opens the stream and says hello.
    pub(crate) async fn open(
        connection: &quinn::Connection,
        session: DeveloperSession,
    ) -> Result<Self, quinn::ConnectionError> {
        let stream = connection.open_bi().await?;
        Ok(Self::new(session, stream))
    }

    /// Asks something; the answer repeats the number.
    pub fn ask(&mut self, question: &ToAgent) -> Result<u32, Malformed> {
        self.session.ask(question)
    }
}

impl Session for AgentSession {
    type Message = FromDeveloper;

    fn receive(&mut self, bytes: &[u8]) {
        Self::receive(self, bytes);
    }

    fn poll(&mut self) -> Result<Option<FromDeveloper>, SessionError> {
        Self::poll(self)
    }

    fn output(&mut self) -> Bytes {
        Self::output(self)
    }

    fn unread(&self) -> usize {
        Self::unread(self)
    }
}

impl Session for DeveloperSession {
    type Message = FromAgent;

    fn receive(&mut self, bytes: &[u8]) {
        Self::receive(self, bytes);
    }

    fn poll(&mut self) -> Result<Option<FromAgent>, SessionError> {
        Self::poll(self)
    }

    fn output(&mut self) -> Bytes {
        Self::output(self)
    }

    fn unread(&self) -> usize {
        Self::unread(self)
    }
}

/// Why a control stream ended.
#[derive(Debug)]
pub enum ControlError {
    /// The other end's messages are wrong.
    Session(SessionError),
    /// The connection is down.
    Connection(quinn::ConnectionError),
    /// The other end reset or stopped the stream.
    Reset,
    /// The other end does not read.
    Stalled,
}

impl From<SessionError> for ControlError {
    fn from(error: SessionError) -> Self {
        Self::Session(error)
    }
}

impl From<quinn::ReadError> for ControlError {
    fn from(error: quinn::ReadError) -> Self {
        match error {
            quinn::ReadError::ConnectionLost(error) => Self::Connection(error),
            _ => Self::Reset,
        }
    }
}

impl From<quinn::WriteError> for ControlError {
    fn from(error: quinn::WriteError) -> Self {
        match error {
            quinn::WriteError::ConnectionLost(error) => Self::Connection(error),
            _ => Self::Reset,
        }
    }
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Session(error) => write!(f, "control stream: {error}"),
            Self::Connection(error) => write!(f, "{}", crate::error::Lost::from(error)),
            Self::Reset => f.write_str("control stream: reset by the other end"),
            Self::Stalled => f.write_str("control stream: the other end does not read"),
        }
    }
}

impl std::error::Error for ControlError {}

/// Bytes taken from the stream at once.
const CHUNK: usize = 64 * 1024;
/// Bytes that may wait for the other end to read: several of the largest messages.
const UNSENT: usize = 4 << 20;
/// How long the other end may take to read what was said.
pub const FLUSH: Duration = Duration::from_secs(5);
