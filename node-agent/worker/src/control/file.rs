//! The configuration file as a control plane: its pods by name and label, its developers by key.

use redir_tunnel::Pin;
use redir_wire::{EarlierConnections, InterceptRequest, PodEntry, Refused, RefusedCode, Selector, Token, limits};

use super::{InterceptGrant, InterceptPolicy, PodObstacle, PodPlacement};
use crate::intercept_filter;
use redir_config::{DeveloperConfig, NodeConfig, PodConfig, PodName};
use redir_ipc::{FirstHand, LastProcess};
use redir_link::health_checks::HealthCheck;

impl InterceptPolicy for NodeConfig {
    fn keys(&self) -> Vec<Pin> {
        self.developers.iter().map(|developer| developer.key).collect()
    }

    fn name_of(&self, key: &Pin) -> Option<&str> {
        self.developer(key).map(|developer| &*developer.name)
    }

    fn grant(&self, key: &Pin, request: InterceptRequest) -> Result<InterceptGrant, Refused> {
        let Some(developer) = self.developer(key) else {
            return Err(Refused { code: RefusedCode::NoSuchPod, sentence: self.stranger().to_owned() });
        };
        check_pods(self, developer, &request)?;
        check_flush(developer, &request)?;
        if request.even_if_down && request.filter.is_some() {
            return Err(even_if_down_with_filter());
        }
        let filter = request.filter.as_ref().map(intercept_filter::compile).transpose()?;
        Ok(InterceptGrant {
            looks_at: filter.as_ref().map_or_else(String::new, intercept_filter::describe),
            filter,
            what: format!("{}:{}", request.selector, request.port),
            made: None,
            request,
        })
    }

    fn ended(&self, _: &Pin, _: Token) -> Option<String> {
        None
    }

    fn places(&self, key: &Pin, InterceptGrant { request, .. }: &InterceptGrant) -> Vec<PodPlacement> {
        let Some(developer) = self.developer(key) else { return Vec::new() };
        let port = |pod: &PodConfig| match pod.allows(request.port) {
            true => Ok(request.port),
            false => Err(PodObstacle::Never(port_not_allowed(pod, request.port))),
        };
        selected(self, developer, &request.selector)
            .map(|pod| PodPlacement { pod: pod.name.clone(), port: port(pod) })
            .collect()
    }

    fn lost(&self) -> Option<&'static str> {
        Some("the agent's configuration no longer has this pod for your key; ask its administrator")
    }

    fn visible(&self, key: &Pin) -> Vec<(PodName, PodEntry)> {
        let Some(developer) = self.developer(key) else { return Vec::new() };
        let entry = |pod: &PodConfig| PodEntry {
            name: pod.name.to_string(),
            labels: pod.labels.0.clone(),
            ports: pod.ports.iter().flatten().copied().take(limits::PORTS).collect(),
        };
        self.pods.iter().filter(|pod| developer.may(pod)).map(|pod| (pod.name.clone(), entry(pod))).collect()
    }

    fn first_hand(&self, _: &PodName) -> FirstHand {
        FirstHand::App
    }

    /// The guardian knows by the pod's path.
    fn ending(&self, _: &PodName) -> Option<LastProcess> {
        None
    }

    /// The file says nothing of them.
    fn health_checks(&self, _: &PodName) -> &[HealthCheck] {
        &[]
    }

    fn stranger(&self) -> &'static str {
        "the agent's configuration no longer has your key; ask its administrator"
    }
}

/// The pods that a selector means for this developer.
fn selected<'a>(
    config: &'a NodeConfig,
    developer: &'a DeveloperConfig,
    selector: &'a Selector,
) -> impl Iterator<Item = &'a PodConfig> {
    config.pods.iter().filter(move |pod| developer.may(pod) && selects(selector, pod))
}

/// Refuses a request without a pod. The sentence is the same for a pod that is not there and one that is not allowed.
fn check_pods(config: &NodeConfig, developer: &DeveloperConfig, request: &InterceptRequest) -> Result<(), Refused> {
    let pods: Vec<&PodConfig> = selected(config, developer, &request.selector).collect();
    let Some(first) = pods.first() else {
        let sentence = format!(
            "no pod {} that your key may intercept is on this agent; `redir list` shows those it may",
            request.selector
        );
        return Err(Refused { code: RefusedCode::NoSuchPod, sentence });
    };
    if pods.iter().any(|pod| pod.allows(request.port)) {
        return Ok(());
    }
    Err(Refused { code: RefusedCode::PortNotAllowed, sentence: port_not_allowed(first, request.port) })
}

/// A filter is for the developer's own requests; who has it closes everybody's connections all the same.
fn check_flush(developer: &DeveloperConfig, request: &InterceptRequest) -> Result<(), Refused> {
    if request.earlier == EarlierConnections::Stay || request.filter.is_none() || developer.flush {
        return Ok(());
    }
    let sentence = "--flush closes other people's connections, which your key may not do beside a filter; ask the agent's administrator for `flush = true` in your [[developer]] table, or leave --flush out";
    Err(Refused { code: RefusedCode::FlushNotAllowed, sentence: sentence.to_owned() })
}

fn selects(selector: &Selector, pod: &PodConfig) -> bool {
    match selector {
        Selector::Pod(name) => pod.name.key() == name,
        Selector::Labels(labels) => labels.iter().all(|(key, value)| pod.labels.0.get(key) == Some(value)),
    }
}

fn even_if_down_with_filter() -> Refused {
    let sentence = "an intercept with conditions cannot answer while the app is down, since a request that does not match \
                    would have nobody to go to; leave the conditions out, or --even-if-down";
    Refused { code: RefusedCode::Unsupported, sentence: sentence.to_owned() }
}

fn port_not_allowed(pod: &PodConfig, port: u16) -> String {
    let allowed: Vec<String> = pod.ports.iter().flatten().take(8).map(u16::to_string).collect();
    format!("port {port} of pod {} may not be intercepted; allowed are: {}", pod.name, allowed.join(", "))
}
