//! The application error codes of QUIC: why a data stream was reset or stopped, why a connection was closed.

use std::fmt;

/// Why a data stream was reset (`RESET_STREAM`) or its reading stopped (`STOP_SENDING`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StreamCode {
    /// The reader is done and wants no more: what QUIC says when a stream is dropped whose other direction was finished.
    Unread,
    /// The developer's service refused the connection.
    Refused,
    /// The developer's service did not accept in time.
    Timeout,
    /// The developer's service is at an address that cannot be reached.
    Unreachable,
    /// A TCP reset on one side, carried over to the other.
    Reset,
    /// The stream belongs to no intercept that this developer made.
    NotMine,
    /// The tunnel's budget of unread bytes was used up and this stream read slowest.
    Slow,
    /// The intercept or the process that carried the stream has ended.
    Gone,
    /// The developer's service was to speak TLS, and did not complete the handshake.
    NoTls,
    /// The developer's service is the intercepted port itself: each request would come back, for ever.
    Looped,
    /// A code that this version does not know.
    Other(u64),
}

impl StreamCode {
    /// The number on the wire.
    pub const fn number(self) -> u64 {
        match self {
            Self::Unread => 0,
            Self::Refused => 1,
            Self::Timeout => 2,
            Self::Unreachable => 3,
            Self::Reset => 4,
            Self::NotMine => 5,
            Self::Slow => 6,
            Self::Gone => 7,
            Self::NoTls => 20,
            Self::Looped => 21,
            Self::Other(number) => number,
        }
    }

    /// The code of a number from the wire.
    pub const fn from_number(number: u64) -> Self {
        match number {
            0 => Self::Unread,
            1 => Self::Refused,
            2 => Self::Timeout,
            3 => Self::Unreachable,
            4 => Self::Reset,
            5 => Self::NotMine,
            6 => Self::Slow,
            7 => Self::Gone,
            20 => Self::NoTls,
            21 => Self::Looped,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for StreamCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unread => f.write_str("nobody reads the connection any more"),
            Self::Refused => f.write_str("the developer's service refused the connection"),
            Self::Timeout => f.write_str("the developer's service did not accept the connection in time"),
            Self::Unreachable => f.write_str("the developer's service cannot be reached"),
            Self::Reset => f.write_str("the connection was reset"),
            Self::NotMine => f.write_str("the developer has no such intercept"),
            Self::Slow => f.write_str("the connection was read too slowly"),
            Self::Gone => f.write_str("the intercept has ended"),
            Self::NoTls => {
                f.write_str("the developer's service did not complete a TLS handshake, which --local-tls asks for")
            }
            Self::Looped => f.write_str("the developer's service is this very port of the pod; --to must name another"),
            Self::Other(number) => write!(f, "the connection ended with code {number}"),
        }
    }
}

/// Why a tunnel was closed on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseCode {
    /// The developer is done.
    Done,
    /// The agent shuts down or is replaced: dial again.
    Shutdown,
    /// The developer's key is no longer authorised.
    KeyRemoved,
    /// The other end broke the protocol.
    Protocol,
    /// The two ends' versions are too far apart.
    Version,
    /// The other end did not take or send control messages in time.
    Stalled,
    /// A code that this version does not know.
    Other(u64),
}

impl CloseCode {
    /// The number on the wire.
    pub const fn number(self) -> u64 {
        match self {
            Self::Done => 0,
            Self::Shutdown => 1,
            Self::KeyRemoved => 2,
            Self::Protocol => 3,
            Self::Version => 4,
            Self::Stalled => 5,
            Self::Other(number) => number,
        }
    }

    /// The code of a number from the wire.
    pub const fn from_number(number: u64) -> Self {
        match number {
            0 => Self::Done,
            1 => Self::Shutdown,
            2 => Self::KeyRemoved,
            3 => Self::Protocol,
            4 => Self::Version,
            5 => Self::Stalled,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("the tunnel was closed"),
            Self::Shutdown => f.write_str("the agent is shutting down"),
            Self::KeyRemoved => f.write_str("the key is no longer authorised"),
            Self::Protocol => f.write_str("the other end sent something that is not the redir protocol"),
            Self::Version => f.write_str("the versions of redir and its agent are too far apart"),
            Self::Stalled => f.write_str("the other end did not keep up with control messages"),
            Self::Other(number) => write!(f, "the tunnel was closed with code {number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_comes_back() {
        for number in (0..12).chain([u64::from(u32::MAX), (1 << 62) - 1]) {
            assert_eq!(StreamCode::from_number(number).number(), number);
            assert_eq!(CloseCode::from_number(number).number(), number);
        }
    }
}
