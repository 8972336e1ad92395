//! The datapath: loads, attaches and detaches the eBPF programs of one pod. The only place that imports aya.
//!
//! Owns the programs, their maps and their links. Must not listen, accept or read packets. Called by the guardian, from
//! whatever network namespace it is in: what needs the pod's is done on a thread of its own that enters it.

mod error;
mod spec;

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use redir_abi::Reason;

pub(crate) use error::DatapathError;
pub(crate) use spec::{Attach, Device, Framing, Gate, PodSpec};

/// The programs of one pod. Dropping it detaches everything.
#[derive(Debug)]
pub(crate) struct PodDatapath {
    armed: BTreeSet<u16>,
}

impl PodDatapath {
    /// Loads the programs for a pod; nothing is attached yet and no port armed.
    pub(crate) fn load(_spec: &PodSpec<'_>) -> Result<Self, DatapathError> {
        Err(DatapathError::KernelTooOld { detail: "the programs are not in this build".into() })
    }

    /// Attaches what is not attached: reflect first, steer last.
    pub(crate) fn attach(&mut self) -> Result<(), DatapathError> {
        Ok(())
    }

    /// Steers new connections to `port` from now on.
    pub(crate) fn arm(&mut self, port: u16, _gate: Gate) -> Result<(), DatapathError> {
        self.armed.insert(port);
        Ok(())
    }

    /// Leaves new connections to `port` to the app from now on.
    pub(crate) fn disarm(&mut self, port: u16) -> Result<(), DatapathError> {
        self.armed.remove(&port);
        Ok(())
    }

    /// The ports that are armed.
    pub(crate) fn armed_ports(&self) -> &BTreeSet<u16> {
        &self.armed
    }

    /// Leaves new connections of `client` to the app for a while.
    pub(crate) fn bypass(&mut self, _client: IpAddr, _how_long: Duration) -> Result<(), DatapathError> {
        Ok(())
    }

    /// Every counter, summed over the CPUs.
    pub(crate) fn stats(&self) -> Result<Vec<(Reason, u64)>, DatapathError> {
        Ok(Vec::new())
    }

    /// A duplicate of the heartbeat map's descriptor, for the worker to map.
    pub(crate) fn heartbeat_fd(&self) -> io::Result<OwnedFd> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Duplicates of the TCX links attached now, reflect's first; none with clsact.
    pub(crate) fn link_fds(&self) -> io::Result<Vec<OwnedFd>> {
        Ok(Vec::new())
    }

    /// How the programs are attached.
    pub(crate) fn hook(&self) -> Attach {
        Attach::Auto
    }

    /// Stops steering; what was steered goes on being reflected.
    pub(crate) fn detach_steer(&mut self) -> Result<(), DatapathError> {
        Ok(())
    }

    /// Detaches everything, also links that others hold duplicates of.
    pub(crate) fn detach_all(&mut self) -> Result<(), DatapathError> {
        Ok(())
    }
}
