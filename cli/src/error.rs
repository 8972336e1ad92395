//! The one error type that ends the command, and what it means for the exit code.
//!
//! Owns: the difference between a usage error (2) and a failure (1). Must not hold wording: sentences come from
//! `wording`. Called by: every command; printed once, in `main`.

use std::fmt;
use std::process::ExitCode;

/// Why a command ends without having done its work. The text is one sentence that ends with the next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CliError {
    /// Flags, files or values that cannot mean anything: exit code 2, nothing was tried.
    Usage(String),
    /// Something was tried and failed: exit code 1.
    Failed(String),
    /// The same, because the API server said that it is not allowed: who knows what it was for may say which right is missing.
    Forbidden(String),
    /// The same, because the API server cannot be reached or cannot answer just now: whoever waits may ask again.
    Away(String),
}

/// What a command that did its work ends with; a developer's command passes its own on.
pub(crate) type Outcome = Result<u8, CliError>;

impl CliError {
    /// The process's exit code.
    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Usage(_) => 2,
            Self::Failed(_) | Self::Forbidden(_) | Self::Away(_) => 1,
        })
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(sentence) | Self::Failed(sentence) | Self::Forbidden(sentence) | Self::Away(sentence) => {
                f.write_str(sentence)
            }
        }
    }
}
