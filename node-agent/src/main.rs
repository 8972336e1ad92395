//! `redir-agent`: the one redir process on each node, in two parts (guardian and worker).
#![cfg(target_os = "linux")]

mod guardian;
mod worker;

fn main() {}
