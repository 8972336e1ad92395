//! Why a running intercept ends.

use crate::signals::CommandSignal;

/// Why the intercept ends.
pub(super) enum EndReason {
    /// The developer said so, with this signal for their command.
    Signal(CommandSignal),
    /// As above, without waiting for anything.
    AtOnce,
    /// Their command ended by itself.
    Command(u8),
    /// It was ended from elsewhere.
    Elsewhere(String),
    /// Nobody reads what we say.
    NoReader,
    /// It did not work, or no longer does.
    Failed(String),
}
