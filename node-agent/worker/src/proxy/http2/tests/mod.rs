//! A served connection in memory: a client and an app of the h2 crate at the ends of pipes.

mod ends;
mod floods;
mod flow;
mod memory;
mod rig;
mod streams;
