//! The developer's end.

use bytes::{Bytes, BytesMut};
use prost::Message as _;

use crate::codec::{Frames, put_frame};
use crate::error::{Malformed, SessionError};
use crate::message::{Hello, ToAgent, ToDeveloper};
use crate::{VERSION, common_version, proto};

/// The developer's end of one control stream.
#[derive(Debug)]
pub struct DeveloperSession {
    frames: Frames,
    output: BytesMut,
    last_seq: u32,
    welcomed: bool,
}

/// What the agent said.
#[derive(Clone, Debug, PartialEq)]
pub struct FromAgent {
    /// The number of the question that this answers; 0 if unasked.
    pub answers: u32,
    /// The message.
    pub message: ToDeveloper,
}

impl DeveloperSession {
    /// Begins with the greeting.
    pub fn new(software: &str, user: &str) -> Result<Self, Malformed> {
        let hello = Hello { version: VERSION, software: software.to_owned(), user: user.to_owned() };
        let mut session = Self { frames: Frames::default(), output: BytesMut::new(), last_seq: 0, welcomed: false };
        session.ask(&ToAgent::Hello(hello))?;
        Ok(session)
    }

    /// Asks something; the answer repeats the number.
    pub fn ask(&mut self, message: &ToAgent) -> Result<u32, Malformed> {
        let seq = self.last_seq.checked_add(1).unwrap_or(1);
        put_frame(&proto::ToAgent { seq, body: Some(message.into()) }, &mut self.output)?;
        self.last_seq = seq;
        Ok(seq)
    }

    /// Takes bytes from the stream.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.frames.push(bytes);
    }

    /// The next message, if a whole one is there. The first is `Welcome`, `Refused` or `Bye`. Kinds that this
    /// version does not know are passed over: a newer agent may say more.
    pub fn poll(&mut self) -> Result<Option<FromAgent>, SessionError> {
        while let Some(frame) = self.frames.next_frame()? {
            let envelope = proto::ToDeveloper::decode(frame).map_err(|_| Malformed::Encoding)?;
            let Some(body) = envelope.body else { continue };
            let message = ToDeveloper::try_from(body)?;
            match (&message, self.welcomed) {
                (ToDeveloper::Welcome(welcome), false) => {
                    common_version(VERSION, welcome.version)
                        .ok_or(SessionError::Version { ours: VERSION, theirs: welcome.version })?;
                    self.welcomed = true;
                }
                (ToDeveloper::Welcome(_), true) => return Err(SessionError::Order("a second welcome")),
                (_, true) | (ToDeveloper::Refused(_) | ToDeveloper::Bye(_), false) => {}
                (_, false) => return Err(SessionError::Order("the first message was not a welcome")),
            }
            return Ok(Some(FromAgent { answers: envelope.answers, message }));
        }
        Ok(None)
    }

    /// Whether a message has begun and is not whole.
    pub fn is_midway(&self) -> bool {
        self.frames.is_midway()
    }

    /// Bytes that came and are no message yet.
    pub fn unread(&self) -> usize {
        self.frames.unread()
    }

    /// The bytes to write now, which the session then forgets.
    pub fn output(&mut self) -> Bytes {
        self.output.split().freeze()
    }
}
