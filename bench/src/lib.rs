//! How fast redir is, measured next to something else that does the same.
//!
//! Owns: one module for each scenario. Must not: know what redir's programs do inside. Called by: `redir-bench` (which
//! `cargo xtask bench` builds and starts), and the criterion benchmarks.

pub mod parser;
