//! The intercept that the developer wants.
//!
//! Owns: what of it an agent is asked for. Must not speak to agents. Called by: `commands`, `link`.

use std::num::NonZeroU16;

use redir_wire::{EarlierConnections, Filter, InterceptRequest, Probes, Selector, Token};

use crate::model::values::{ProxyProtocol, Target};
use crate::service::{Service, ServiceProtocol};

/// The intercept that the developer wants, the same on every agent and over every redial.
#[derive(Debug, Clone)]
pub(crate) struct DesiredIntercept {
    /// Keeps the intercept's seniority over redials.
    pub(crate) token: Token,
    pub(crate) target: Target,
    /// The port that the app listens on in the pod.
    pub(crate) port: NonZeroU16,
    /// Where matched requests end up.
    pub(crate) service: Service,
    /// The same for people: `127.0.0.1:3000`.
    pub(crate) to: String,
    /// `None`: every request.
    pub(crate) filter: Option<Filter>,
    pub(crate) probes: Probes,
    /// What becomes of connections that the app has already.
    pub(crate) earlier: EarlierConnections,
    /// Connections come also while the app does not listen.
    pub(crate) even_if_down: bool,
    /// The agent writes the client's address into the requests.
    pub(crate) forwarded: bool,
    /// Each connection to the service begins with the client's address.
    pub(crate) proxy: Option<ProxyProtocol>,
    /// What the developer's service speaks.
    pub(crate) speaks: ServiceProtocol,
}

impl DesiredIntercept {
    /// Of port 8080 of this target, by plaintext to port 3000, without anything that is optional.
    #[cfg(test)]
    pub(crate) fn for_test(target: &str) -> Self {
        Self {
            token: Token([1; 16]),
            target: target.parse().expect("a target"),
            port: 8080.try_into().expect("a port"),
            service: Service::Loopback(3000.try_into().expect("a port")),
            to: "127.0.0.1:3000".into(),
            filter: None,
            probes: Probes::App,
            earlier: EarlierConnections::Stay,
            even_if_down: false,
            forwarded: false,
            proxy: None,
            speaks: ServiceProtocol::Plaintext,
        }
    }

    pub(super) fn request(&self) -> InterceptRequest {
        InterceptRequest {
            earlier: self.earlier,
            token: self.token,
            selector: selector(&self.target),
            port: self.port.get(),
            filter: self.filter.clone(),
            to: self.to.clone(),
            probes: self.probes,
            even_if_down: self.even_if_down,
            forwarded: self.forwarded,
        }
    }
}

/// The target as the tunnel carries it.
pub(crate) fn selector(target: &Target) -> Selector {
    match target {
        Target::Pod(name) => Selector::Pod(name.clone()),
        Target::Labels(labels) => Selector::Labels(labels.clone()),
        // An agent of a cluster reads the Intercept that the token names, and nothing of this.
        Target::Workload(_, name) => Selector::Pod(name.clone()),
    }
}
