//! The datapath against the real kernel: decisions by `BPF_PROG_TEST_RUN` over crafted packets, and what they lead to in
//! real network namespaces. All of it needs root; without, each test fails and says so.

mod bench;
mod devices;
mod intercepted;
mod leftovers;
mod legs;
mod packets;
mod reflect;
mod refusals;
mod rig;
mod steal;
mod steer;
mod traffic;
mod wire;
