//! The rig: real network namespaces, real processes and real services for the end-to-end tests and the demo.
//!
//! Owns: namespaces and their links, the processes started in them, the HTTP app and the clients, and what is
//! needed to assert that nothing is left behind. Must not know how redir works inside: it starts `redir-agent` and
//! `redir` as a person would. Called by `tests/`, `xtask demo` and later the bench.
//!
//! Everything the rig makes is named `redir-<kind><pid>-…` and goes with its owner: on drop, on SIGINT and SIGTERM
//! ([`cleanup::on_signals`]), and by [`cleanup::sweep`] what a killed run left.
#![cfg(target_os = "linux")]

pub mod agent;
pub mod app;
pub mod binaries;
pub mod bounded;
mod bpf_links;
pub mod cleanup;
pub mod cli;
pub mod dice;
pub mod documents;
pub mod http;
pub mod http2;
pub mod listener;
pub mod load;
pub mod memory_cgroup;
pub mod namespace;
pub mod pattern;
pub mod process;
pub mod quic;
pub mod snapshot;
pub mod sniff;
pub mod starvation;
pub mod tcx;
pub mod tls;
pub mod topology;
pub mod wait;

use std::io::Write;

pub use agent::{Agent, AgentConfig, Developer, PodEntry};
pub use app::App;
pub use cli::Cli;
pub use http::{Http, Response};
pub use listener::Listener;
pub use load::{Load, LoadReport};
pub use memory_cgroup::MemoryCgroup;
pub use namespace::Namespace;
pub use process::Process;
pub use snapshot::Snapshot;
pub use sniff::Sniff;
pub use tls::Certificate;
pub use topology::{Host, Topology};

/// What a test says for a part of it that cannot be tried here: what, and why. `cargo xtask test` collects these lines and
/// shows them at the end, so that nothing is left out silently. It goes past the test harness's capture, which keeps the words
/// of tests that pass.
#[track_caller]
pub fn left_out(what: &str) {
    let thread = std::thread::current();
    // A test that runs alone has the main thread, one in a world of its own a thread that is named after it.
    let test = match thread.name() {
        Some(name) if name != "main" && !name.starts_with("redir-") => name.to_owned(),
        _ => std::panic::Location::caller().to_string(),
    };
    // One write, so that the lines of other threads stay whole.
    let _ = std::io::stderr().write_all(format!("left out: {test}: {what}\n").as_bytes());
}
