//! What a request of the worker gets: an answer with descriptors, or the reason why not.

use std::os::fd::OwnedFd;

use super::datapath::DatapathError;
use redir_ipc::{RefusalCode, Reply};

/// A granted request: the answer and the descriptors beside it.
pub(super) type GrantedReply = (Reply, Vec<OwnedFd>);

/// Why a request of the worker is not granted.
#[derive(Debug)]
pub(super) struct RequestRefusal {
    pub(super) code: RefusalCode,
    /// Ends with the next step.
    pub(super) sentence: String,
}

impl RequestRefusal {
    pub(super) fn new(code: RefusalCode, sentence: impl Into<String>) -> Self {
        Self { code, sentence: sentence.into() }
    }
}

impl From<DatapathError> for RequestRefusal {
    fn from(error: DatapathError) -> Self {
        Self::new(RefusalCode::Datapath, error.to_string())
    }
}
