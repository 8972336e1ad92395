//! Whether the state of a connection is asked about what one of its ends has sent.

/// What comes next of the bytes of one end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Attention {
    /// The end is read.
    #[default]
    Read,
    /// The state is asked about bytes that are there.
    Ask,
    /// It is neither read nor asked about, until an answer is complete or another state has come.
    Held,
}

impl Attention {
    /// The state has changed, or what was waited for has come.
    pub(super) fn anew(has_bytes: bool) -> Self {
        if has_bytes { Attention::Ask } else { Attention::Read }
    }
}
