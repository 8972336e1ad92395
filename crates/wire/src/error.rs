//! What can be wrong with bytes or messages from the other end.

use std::fmt;

/// Why bytes are no message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// A length says more than the limit.
    TooLong {
        /// What is too long.
        what: &'static str,
        /// The limit, in bytes or entries.
        limit: usize,
    },
    /// The bytes are not protobuf, or not of this message.
    Encoding,
    /// The envelope holds no message that this version knows.
    UnknownMessage,
    /// A part that must be there is not, or is of a kind that this version does not know.
    Missing(&'static str),
    /// A field's value is out of range.
    Invalid(&'static str),
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { what, limit } => write!(f, "{what} is over the limit of {limit}"),
            Self::Encoding => f.write_str("the message is not encoded as protobuf"),
            Self::UnknownMessage => f.write_str("the message is of a kind that this version does not know"),
            Self::Missing(what) => write!(f, "{what} is missing or of a kind that this version does not know"),
            Self::Invalid(what) => write!(f, "{what} is out of range"),
        }
    }
}

impl std::error::Error for Malformed {}

/// Why a session cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionError {
    /// The other end's bytes are no message.
    Malformed(Malformed),
    /// The message may not come now.
    Order(&'static str),
    /// The versions are more than one apart.
    Version {
        /// This end's version.
        ours: u32,
        /// The other end's version.
        theirs: u32,
    },
}

impl From<Malformed> for SessionError {
    fn from(why: Malformed) -> Self {
        Self::Malformed(why)
    }
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(why) => write!(f, "{why}"),
            Self::Order(what) => f.write_str(what),
            Self::Version { ours, theirs } => {
                let older = if ours < theirs { "this side" } else { "the other side" };
                write!(f, "protocol version {theirs} and this side's {ours} do not fit; update {older}")
            }
        }
    }
}

impl std::error::Error for SessionError {}
