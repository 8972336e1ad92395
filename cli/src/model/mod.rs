//! What the parts of the command exchange: values of flags, rows, findings.
//!
//! Must not do I/O or word anything: it is below `wording`, which is below everything that asks or tells.

pub(crate) mod access;
pub(crate) mod agents;
pub(crate) mod check;
pub(crate) mod installation;
pub(crate) mod rows;
pub(crate) mod values;
