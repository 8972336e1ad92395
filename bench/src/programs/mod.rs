//! The bench's own programs, each a process of one thread, so that it can be pinned and its cost told apart: the load, the
//! app, and the relay that is the floor of any proxy outside the kernel. `redir-bench` starts itself as one of them.

pub mod app;
mod events;
pub mod load;
pub mod relay;
mod request;
pub mod wan;

pub use events::{Events, Interest};
