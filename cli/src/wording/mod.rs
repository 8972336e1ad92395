//! All that `redir` says, in one place: sentences are lower-case, name the thing, and end with the next step.
//!
//! Owns: the words, and escaping what comes from elsewhere. Must not print or decide. Called by: everything else.

pub(crate) mod cluster;
pub(crate) mod config;
pub(crate) mod doctor;
pub(crate) mod events;
pub(crate) mod help;
pub(crate) mod install;
pub(crate) mod rights;
pub(crate) mod session;
pub(crate) mod tunnel;
pub(crate) mod usage;
pub(crate) mod values;
