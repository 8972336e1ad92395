//! What agents, and `redir` without them, make of a node: where its agent is dialled.

use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;

use crate::{Endpoint, EndpointKind, names};

/// The node's addresses of the families on which the agent listens, best first; `fallback` if the Node tells none.
pub fn endpoints(node: Option<&Node>, listen: SocketAddr, fallback: Option<IpAddr>) -> Vec<Endpoint> {
    let by_hand = node.and_then(|node| node.annotations().get(names::ENDPOINT));
    let by_hand = by_hand.map(|address| Endpoint { address: address.trim().to_owned(), kind: EndpointKind::Override });
    let status = node.and_then(|node| node.status.as_ref());
    let addresses = status.into_iter().flat_map(|status| status.addresses.iter().flatten());
    let told = addresses.filter_map(|address| {
        let kind = match address.type_.as_str() {
            "ExternalIP" => EndpointKind::ExternalIP,
            "InternalIP" => EndpointKind::InternalIP,
            _ => return None,
        };
        Some((address.address.parse::<IpAddr>().ok()?, kind))
    });
    let mut told: Vec<(IpAddr, EndpointKind)> = told.collect();
    if told.is_empty() {
        told.extend(fallback.map(|ip| (ip, EndpointKind::InternalIP)));
    }
    let reachable = |(ip, _): &(IpAddr, EndpointKind)| listen.is_ipv6() || ip.is_ipv4();
    let told = told.into_iter().filter(reachable);
    let told = told.map(|(ip, kind)| Endpoint { address: SocketAddr::new(ip, listen.port()).to_string(), kind });
    let mut endpoints: Vec<Endpoint> = by_hand.into_iter().chain(told).collect();
    endpoints.sort_by_key(|endpoint| endpoint.kind);
    endpoints
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_best_address_is_first() {
        let node: Node = serde_json::from_value(json!({
            "metadata": {"annotations": {"redir.dev/endpoint": "edge.example:4000"}},
            "status": {"addresses": [
                {"type": "Hostname", "address": "n1"},
                {"type": "InternalIP", "address": "10.0.0.1"},
                {"type": "InternalIP", "address": "fd00::1"},
                {"type": "ExternalIP", "address": "192.0.2.1"},
            ]},
        }))
        .unwrap();
        let told = |listen: &str| {
            let endpoints = endpoints(Some(&node), listen.parse().unwrap(), Some("10.9.9.9".parse().unwrap()));
            endpoints.into_iter().map(|endpoint| endpoint.address).collect::<Vec<_>>()
        };
        assert_eq!(told("[::]:7447"), ["edge.example:4000", "192.0.2.1:7447", "10.0.0.1:7447", "[fd00::1]:7447"]);
        assert_eq!(told("0.0.0.0:7447"), ["edge.example:4000", "192.0.2.1:7447", "10.0.0.1:7447"]);
    }

    #[test]
    fn without_the_node_the_pod_s_host_address_counts() {
        let endpoints = endpoints(None, "0.0.0.0:7447".parse().unwrap(), Some("10.9.9.9".parse().unwrap()));
        let expected = Endpoint { address: "10.9.9.9:7447".into(), kind: EndpointKind::InternalIP };
        assert_eq!(endpoints, [expected]);
    }
}
