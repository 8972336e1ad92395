//! One armed pod: its namespace, its programs, and the sockets made in it.
//!
//! Owns what is attached in the pod; dropping it detaches everything. Called by `pods`.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use redir_abi::{Reason, is_reserved};

use super::{
    datapath::{self, DatapathError, PodDatapath, PodSpec},
    devices::{self, Survey},
    listeners::{self, Listeners},
    netns::{Home, Netns, NetnsId},
    sockets,
};
use crate::{
    config,
    ipc::{BindAddress, Fresh, Gate, RefusedCode},
};

/// Why a wish of the worker is not granted.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) code: RefusedCode,
    /// Ends with the next step.
    pub(super) sentence: String,
}

impl Refusal {
    pub(super) fn new(code: RefusedCode, sentence: impl Into<String>) -> Self {
        Self { code, sentence: sentence.into() }
    }
}

impl From<DatapathError> for Refusal {
    fn from(error: DatapathError) -> Self {
        Self::new(RefusedCode::Datapath, error.to_string())
    }
}

/// A pod with programs in it.
#[derive(Debug)]
pub(super) struct ArmedPod {
    netns: Netns,
    datapath: PodDatapath,
    agent_port: u16,
}

/// What the worker gets with the pod's first port.
#[derive(Debug)]
pub(super) struct Handover {
    pub(super) fresh: Fresh,
    /// In the order that [`Fresh`] gives.
    pub(super) fds: Vec<OwnedFd>,
}

impl ArmedPod {
    /// Enters the pod, listens, loads and attaches, in this order; on an error nothing stays.
    pub(super) fn new(
        home: &Home,
        pod: &config::Pod,
        port: u16,
        gate: Gate,
        attach: config::Attach,
    ) -> Result<(Self, Handover), Refusal> {
        let netns = home.open(&pod.netns).map_err(unusable)?;
        let usable =
            |agent_port| agent_port != port && !pod.ports.as_ref().is_some_and(|ports| ports.contains(&agent_port));
        let look = || -> Result<(Survey, Listeners), String> {
            let survey = devices::survey()?;
            let listeners = listeners::listen(usable).map_err(|error| {
                format!("cannot listen in the pod's network namespace: {error}; free some ports there")
            })?;
            Ok((survey, listeners))
        };
        let inside = netns.within(home, look).map_err(|error| {
            unusable(format!(
                "cannot enter the network namespace {}: {error}; run the agent as root",
                pod.netns.display()
            ))
        })?;
        let (survey, listeners) = inside.map_err(unusable)?;
        let mut datapath = PodDatapath::load(&PodSpec {
            netns: netns.as_fd(),
            devices: &survey.devices,
            addresses: &survey.pod_addresses,
            agent_port: listeners.port,
            listener_v4: listeners.v4.as_fd(),
            listener_v6: listeners.v6.as_ref().map(AsFd::as_fd),
            attach: attach.into(),
        })?;
        datapath.arm(port, gate.into())?;
        datapath.attach()?;
        let agent_port = listeners.port;
        let handover = handover(&datapath, listeners, survey.all_addresses).map_err(|error| {
            Refusal::new(
                RefusedCode::Datapath,
                format!("cannot hand descriptors over: {error}; raise the agent's RLIMIT_NOFILE"),
            )
        })?;
        Ok((Self { netns, datapath, agent_port }, handover))
    }

    /// Steers one more port.
    pub(super) fn arm(&mut self, port: u16, gate: Gate) -> Result<(), Refusal> {
        self.datapath.arm(port, gate.into())?;
        // Steering was detached if no port was armed for a while.
        self.datapath.attach().inspect_err(|_| self.disarm(port))?;
        Ok(())
    }

    /// Leaves the port's new connections to the app; with the last port steering is detached.
    pub(super) fn disarm(&mut self, port: u16) {
        if let Err(error) = self.datapath.disarm(port) {
            tracing::error!(%error, port, "disarming a port failed");
        }
        if self.datapath.armed_ports().is_empty() {
            self.stop_steering();
        }
    }

    /// Leaves all new connections to the app; those that were steered go on being reflected.
    pub(super) fn stop_steering(&mut self) {
        if let Err(error) = self.datapath.detach_steer() {
            tracing::error!(%error, "detaching steering failed; without its listener it passes everything");
        }
    }

    /// Detaches everything.
    pub(super) fn detach(mut self) {
        if let Err(error) = self.datapath.detach_all() {
            tracing::error!(%error, "detaching a pod's programs failed");
        }
    }

    /// Upstream sockets in this pod.
    pub(super) fn sockets(
        &self,
        home: &Home,
        bind: BindAddress,
        ports: &[u16],
    ) -> Result<Vec<io::Result<OwnedFd>>, Refusal> {
        if let Some(port) = ports.iter().find(|port| !is_reserved(**port)) {
            return Err(Refusal::new(
                RefusedCode::PortNotReserved,
                format!("port {port} is not one of the agent's source ports; take one of 512-1023 or 10000-29999"),
            ));
        }
        self.netns
            .within(home, || sockets::upstream(bind, ports))
            .map_err(|error| unusable(format!("cannot enter the pod's network namespace: {error}; release the pod")))
    }

    pub(super) fn bypass(&mut self, client: IpAddr, how_long: Duration) -> Result<(), Refusal> {
        Ok(self.datapath.bypass(client, how_long)?)
    }

    /// In the order of `Reason::ALL`.
    pub(super) fn counters(&self) -> Result<Vec<u64>, Refusal> {
        let stats = self.datapath.stats()?;
        let counter =
            |reason: &Reason| stats.iter().find(|(counted, _)| counted == reason).map_or(0, |(_, count)| *count);
        Ok(Reason::ALL.iter().map(counter).collect())
    }

    pub(super) fn ports(&self) -> Vec<u16> {
        self.datapath.armed_ports().iter().copied().collect()
    }

    pub(super) fn agent_port(&self) -> u16 {
        self.agent_port
    }

    pub(super) fn netns_id(&self) -> NetnsId {
        self.netns.id()
    }

    pub(super) fn hook(&self) -> datapath::Attach {
        self.datapath.hook()
    }
}

/// The guardian keeps no listener: they must die with the worker.
fn handover(datapath: &PodDatapath, listeners: Listeners, addresses: Vec<IpAddr>) -> io::Result<Handover> {
    let fresh = Fresh { ipv6: listeners.v6.is_some(), addresses };
    let mut fds = vec![listeners.v4];
    fds.extend(listeners.v6);
    fds.push(datapath.heartbeat_fd()?);
    fds.extend(datapath.link_fds()?);
    Ok(Handover { fresh, fds })
}

fn unusable(sentence: String) -> Refusal {
    Refusal::new(RefusedCode::Namespace, sentence)
}

impl From<Gate> for datapath::Gate {
    fn from(gate: Gate) -> Self {
        match gate {
            Gate::AppListening => Self::AppListening,
            Gate::Always => Self::Always,
        }
    }
}

impl From<config::Attach> for datapath::Attach {
    fn from(attach: config::Attach) -> Self {
        match attach {
            config::Attach::Auto => Self::Auto,
            config::Attach::Tcx => Self::Tcx,
            config::Attach::Clsact => Self::Clsact,
        }
    }
}
