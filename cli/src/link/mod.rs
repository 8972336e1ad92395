//! Tunnels to agents: dialled, asked, and dialled again when they are lost.
//!
//! Called by: `commands`.

pub(crate) mod backoff;
pub(crate) mod clock;
mod context;
mod desired;
mod dialing;
mod last_reported;
mod local_tls;
mod proxy_protocol;
mod session;
mod streams;
pub(crate) mod tunnel;

pub(crate) use self::context::{AgentLink, FirstAnswer, LinkEnd};
pub(crate) use self::desired::{DesiredIntercept, selector};
