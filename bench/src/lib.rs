//! How fast redir is, measured next to something else that does the same.
//!
//! Owns: the small programs that load, answer and relay; the world they run in; the peers and their configurations; one
//! module for each scenario; goals and reports. Must not: know what redir's programs do inside. Called by: `redir-bench`
//! (which `cargo xtask bench` builds and starts), and the criterion benchmarks.
#![cfg(target_os = "linux")]

pub mod cost;
pub mod figures;
pub mod goals;
pub mod pace;
pub mod parser;
pub mod peers;
pub mod programs;
pub mod report;
pub mod scenarios;
pub mod wan;
pub mod world;
