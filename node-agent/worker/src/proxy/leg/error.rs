//! How and why a leg ends.

use std::{fmt, io};

use redir_wire::StreamCode;

use super::super::developer_stream::DeveloperError;
use crate::{tunnel_handle::OpenError, upstream::UpstreamError};

/// Why a leg ended badly.
#[derive(Debug)]
pub(in super::super) enum LegError {
    /// The app could not be reached.
    Upstream(UpstreamError),
    /// The app's socket failed.
    App(io::Error),
    /// A further handshake with the app, on a decrypted connection, came to something else than the first.
    Handshake,
    /// The developer's stream failed.
    Developer(DeveloperError),
    /// The developer's stream could not be opened: nothing was sent there.
    Unopened(OpenError),
}

impl LegError {
    /// A bounded label for the access event and the metrics.
    pub(in super::super) fn label(&self) -> &'static str {
        match self {
            LegError::Upstream(error) => error.label(),
            LegError::App(_) => "app_reset",
            LegError::Handshake => "app_handshake",
            LegError::Developer(DeveloperError::Lost) => "tunnel_lost",
            LegError::Developer(_) => "developer_reset",
            LegError::Unopened(_) => "tunnel_unavailable",
        }
    }

    /// Whether the developer's service itself reset the connection.
    pub(in super::super) fn is_reset(&self) -> bool {
        matches!(self, LegError::Developer(DeveloperError::Code(StreamCode::Reset)))
    }

    /// Whether the developer's service ended the connection, or takes nothing more from it.
    pub(in super::super) fn is_services_end(&self) -> bool {
        matches!(self, LegError::Developer(DeveloperError::Code(StreamCode::Reset | StreamCode::Unread)))
    }

    /// Whether a failed write is no reason to stop reading: a service may answer and close before it has read all.
    pub(super) fn told_to_reader(&self) -> bool {
        match self {
            LegError::App(_) => true,
            LegError::Developer(error) => *error != DeveloperError::Lost && !error.refused(),
            LegError::Upstream(_) | LegError::Handshake | LegError::Unopened(_) => false,
        }
    }

    /// Whether the kernel tells of it once, and the writer has heard it: a reset before the other end's FIN (after it,
    /// writers get EPIPE and the reader has its FIN).
    pub(super) fn is_taken_by_writer(&self) -> bool {
        matches!(self, LegError::App(error) if error.kind() == io::ErrorKind::ConnectionReset)
    }
}

impl fmt::Display for LegError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LegError::Upstream(error) => error.fmt(f),
            LegError::App(error) => write!(f, "the app's connection failed: {error}"),
            LegError::Handshake => f.write_str("the app did not repeat its TLS handshake"),
            LegError::Developer(error) => error.fmt(f),
            LegError::Unopened(error) => error.fmt(f),
        }
    }
}

/// How a leg ended.
#[derive(Debug)]
pub(in super::super) enum LegEnd {
    /// It sent its FIN.
    Fin,
    /// It failed, or could not be opened.
    Failed(LegError),
}
