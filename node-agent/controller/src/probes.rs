//! The health checks that a pod's spec tells of.
//!
//! Owns: reading them. Must not: decide whom they reach (`health_checks` does). Called by: `facts`.
//!
//! Left out is what needs no word: the kubelet's HTTP and gRPC probes in plaintext say `kube-probe` and go to the app; a TCP
//! probe is content with a connection, whoever accepts it.

use k8s_openapi::{
    api::core::v1::{Container, HTTPGetAction, Pod, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::facts::containers;
use redir_link::health_checks::{CheckTransport, HealthCheck, HttpGetCheck, USER_AGENT};

/// Readiness gates that load balancers of clouds put on pods, and how their checks' User-Agent begins.
const BALANCERS: [(&str, &str, &str); 3] = [
    ("cloud.google.com/load-balancer-neg-ready", "Google Cloud's load balancer", "GoogleHC"),
    ("target-health.elbv2.k8s.aws/", "the AWS load balancer", "ELB-HealthChecker"),
    ("target-health.alb.ingress.k8s.aws/", "the AWS load balancer", "ELB-HealthChecker"),
];

/// All of a pod that may reach somebody else than the app.
pub(super) fn health_checks(pod: &Pod) -> Vec<HealthCheck> {
    containers(pod).flat_map(of_container).chain(of_balancers(pod)).collect()
}

fn of_container(container: &Container) -> impl Iterator<Item = HealthCheck> {
    let probes = [
        ("liveness", &container.liveness_probe),
        ("readiness", &container.readiness_probe),
        ("startup", &container.startup_probe),
    ];
    probes.into_iter().filter_map(move |(kind, probe)| of_probe(container, kind, probe.as_ref()?))
}

fn of_probe(container: &Container, kind: &str, probe: &Probe) -> Option<HealthCheck> {
    let get = probe.http_get.as_ref()?;
    let what = format!("the {kind} probe of container {}", container.name);
    let port = number(container, &get.port)?;
    let fields = fields(get);
    let agent = fields.iter().find(|(name, _)| name.eq_ignore_ascii_case(USER_AGENT));
    let asks = match get.scheme.as_deref() {
        Some(scheme) if scheme.eq_ignore_ascii_case("https") => CheckTransport::KubeletHttps,
        _ if agent.is_none_or(|(_, value)| value.starts_with("kube-probe/")) => return None,
        _ => CheckTransport::Http(HttpGetCheck { target: target(get), fields }),
    };
    Some(HealthCheck { what, port: Some(port), asks })
}

/// As the kubelet completes them.
fn fields(get: &HTTPGetAction) -> Vec<(String, String)> {
    get.http_headers.iter().flatten().map(|header| (header.name.clone(), header.value.clone())).collect()
}

fn target(get: &HTTPGetAction) -> String {
    match get.path.as_deref() {
        None | Some("") => "/".to_owned(),
        Some(path) if path.starts_with('/') => path.to_owned(),
        Some(path) => format!("/{path}"),
    }
}

fn number(container: &Container, port: &IntOrString) -> Option<u16> {
    match port {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            let named = ports.find(|port| port.name.as_ref() == Some(name)).map(|port| port.container_port);
            u16::try_from(named?).ok()
        }
    }
}

fn of_balancers(pod: &Pod) -> impl Iterator<Item = HealthCheck> {
    let gates = pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten());
    gates.filter_map(|gate| {
        let (_, whose, agent) = BALANCERS.into_iter().find(|(prefix, ..)| gate.condition_type.starts_with(prefix))?;
        Some(HealthCheck {
            what: format!("the health checks of {whose}"),
            port: None,
            asks: CheckTransport::LoadBalancer(agent.to_owned()),
        })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_may_reach_a_developer_is_read() {
        let pod = json!({
            "metadata": {},
            "spec": {
                "readinessGates": [
                    {"conditionType": "cloud.google.com/load-balancer-neg-ready"},
                    {"conditionType": "target-health.elbv2.k8s.aws/k8s-a"},
                    {"conditionType": "other"},
                ],
                "initContainers": [
                    {"name": "once", "livenessProbe": {"httpGet": {"port": 1, "scheme": "HTTPS"}}},
                    {"name": "side", "restartPolicy": "Always", "startupProbe": {"httpGet": {"port": 2, "scheme": "HTTPS"}}},
                ],
                "containers": [{
                    "name": "app",
                    "ports": [{"name": "web", "containerPort": 8080}],
                    "livenessProbe": {"httpGet": {"port": "web", "path": "live?a", "httpHeaders": [
                        {"name": "USER-agent", "value": "mine"}, {"name": "X-A", "value": "b"},
                    ]}},
                    "readinessProbe": {"httpGet": {"port": 8080, "path": "/ready"}},
                    "startupProbe": {"grpc": {"port": 8080}},
                }, {
                    "name": "other",
                    "livenessProbe": {"tcpSocket": {"port": 8081}},
                    "readinessProbe": {"httpGet": {"port": "unknown", "scheme": "HTTPS"}},
                    "startupProbe": {"httpGet": {"port": 8081, "httpHeaders": [
                        {"name": "User-Agent", "value": "kube-probe/mine"},
                    ]}},
                }],
            },
        });
        let check = |what: &str, port, asks| HealthCheck { what: what.to_owned(), port, asks };
        let fields = vec![("USER-agent".to_owned(), "mine".to_owned()), ("X-A".to_owned(), "b".to_owned())];
        let live = CheckTransport::Http(HttpGetCheck { target: "/live?a".into(), fields });
        let found = health_checks(&serde_json::from_value(pod).expect("a pod"));
        assert_eq!(
            found,
            [
                check("the liveness probe of container app", Some(8080), live),
                check("the startup probe of container side", Some(2), CheckTransport::KubeletHttps),
                check(
                    "the health checks of Google Cloud's load balancer",
                    None,
                    CheckTransport::LoadBalancer("GoogleHC".into())
                ),
                check(
                    "the health checks of the AWS load balancer",
                    None,
                    CheckTransport::LoadBalancer("ELB-HealthChecker".into())
                ),
            ]
        );
    }
}
