//! The agent's end.

use bytes::{Bytes, BytesMut};
use prost::Message as _;

use crate::codec::{Frames, put_frame};
use crate::error::{Malformed, SessionError};
use crate::message::{Hello, Refused, RefusedCode, ToAgent, ToDeveloper, Welcome};
use crate::{VERSION, common_version, proto};

/// The agent's end of one control stream.
#[derive(Debug, Default)]
pub struct AgentSession {
    frames: Frames,
    output: BytesMut,
    greeting: Greeting,
}

/// What a developer said: to be answered with this number.
#[derive(Clone, Debug, PartialEq)]
pub struct FromDeveloper {
    /// The question's number.
    pub seq: u32,
    /// The question; never a second `Hello`.
    pub message: ToAgent,
}

#[derive(Debug, Default, PartialEq)]
enum Greeting {
    #[default]
    Expected,
    Came,
    Answered,
}

impl ToDeveloper {
    /// Bytes of the message as it is sent.
    pub fn encoded_len(&self) -> usize {
        proto::ToDeveloper { answers: 0, body: Some(self.into()) }.encoded_len()
    }
}

impl AgentSession {
    /// Takes bytes from the stream.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.frames.push(bytes);
    }

    /// The next message, if a whole one is there. What this version does not know or what is malformed inside its
    /// envelope is answered with `Refused` here; after an error only [`AgentSession::output`] may still be sent.
    pub fn poll(&mut self) -> Result<Option<FromDeveloper>, SessionError> {
        while let Some(frame) = self.frames.next_frame()? {
            let envelope = proto::ToAgent::decode(frame).map_err(|_| Malformed::Encoding)?;
            let message = match envelope.body.ok_or(Malformed::UnknownMessage).and_then(ToAgent::try_from) {
                Ok(message) => message,
                Err(why) if self.greeting == Greeting::Expected => return Err(why.into()),
                Err(why) => {
                    self.refuse_malformed(envelope.seq, &why)?;
                    continue;
                }
            };
            self.check_order(envelope.seq, &message)?;
            return Ok(Some(FromDeveloper { seq: envelope.seq, message }));
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

    /// Answers the greeting.
    pub fn welcome(&mut self, seq: u32, agent: &str, developer: &str, software: &str) -> Result<(), Malformed> {
        self.greeting = Greeting::Answered;
        let welcome = Welcome {
            version: VERSION,
            software: software.to_owned(),
            agent: agent.to_owned(),
            developer: developer.to_owned(),
        };
        self.send(seq, &ToDeveloper::Welcome(welcome))
    }

    /// Says something: the answer to question `answers`, or unasked with 0.
    pub fn send(&mut self, answers: u32, message: &ToDeveloper) -> Result<(), Malformed> {
        put_frame(&proto::ToDeveloper { answers, body: Some(message.into()) }, &mut self.output)
    }

    /// The bytes to write now, which the session then forgets.
    pub fn output(&mut self) -> Bytes {
        self.output.split().freeze()
    }

    fn check_order(&mut self, seq: u32, message: &ToAgent) -> Result<(), SessionError> {
        match (&self.greeting, message) {
            (Greeting::Expected, ToAgent::Hello(hello)) => self.greeted(seq, hello),
            (Greeting::Expected, _) => Err(SessionError::Order("the first message was not a greeting")),
            (_, ToAgent::Hello(_)) => Err(SessionError::Order("a second greeting")),
            (Greeting::Came, _) => Err(SessionError::Order("a question before the greeting was answered")),
            (Greeting::Answered, _) => Ok(()),
        }
    }

    fn greeted(&mut self, seq: u32, hello: &Hello) -> Result<(), SessionError> {
        if common_version(VERSION, hello.version).is_some() {
            self.greeting = Greeting::Came;
            return Ok(());
        }
        let older = if hello.version < VERSION { "redir on your machine" } else { "the agent" };
        let sentence = format!(
            "this redir speaks version {} of the protocol, the agent version {VERSION}; update {older}",
            hello.version
        );
        self.send(seq, &ToDeveloper::Refused(Refused { code: RefusedCode::Version, sentence }))?;
        Err(SessionError::Version { ours: VERSION, theirs: hello.version })
    }

    fn refuse_malformed(&mut self, seq: u32, why: &Malformed) -> Result<(), Malformed> {
        let code = match why {
            Malformed::UnknownMessage | Malformed::Missing(_) => RefusedCode::Unsupported,
            Malformed::TooLong { .. } | Malformed::Encoding | Malformed::Invalid(_) => RefusedCode::Malformed,
        };
        let sentence = format!("the agent cannot use this request: {why}; update the older of redir and its agent");
        self.send(seq, &ToDeveloper::Refused(Refused { code, sentence }))
    }
}
