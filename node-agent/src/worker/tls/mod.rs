//! TLS in the data path.

mod session;
#[cfg(test)]
mod testing;

pub(crate) use session::Session;
