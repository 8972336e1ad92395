//! Both ends of the control stream as state machines over bytes: no socket, no clock.
//!
//! The developer's end speaks first (`Hello`); the agent answers `Welcome`, or `Refused` and the end. Then the
//! developer asks, every question has a number, and the answer repeats it; the agent also speaks unasked.

mod agent;
mod developer;
#[cfg(test)]
mod tests;

pub use agent::{AgentSession, FromDeveloper};
pub use developer::{DeveloperSession, FromAgent};
