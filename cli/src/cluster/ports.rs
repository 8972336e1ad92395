//! Which port of the pods `--port` means, from the target's own description.
//!
//! Owns: names to numbers, a Service's ports to those of its pods. Must not ask a server. Called by: `target`.
//!
//! Agents resolve again, pod by pod: the number here is what the developer is told and which port of theirs is meant.

use std::num::NonZeroU16;

use serde_json::Value;

use crate::model::values::PortName;
use crate::wording::cluster as say;

/// A port that a container or a Service declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeclaredPort {
    pub(crate) name: Option<String>,
    pub(crate) number: NonZeroU16,
    /// A Service's: what it is in the pods, if that is another.
    target: Option<PortName>,
}

impl std::fmt::Display for DeclaredPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{} ({name})", self.number),
            None => write!(f, "{}", self.number),
        }
    }
}

/// The TCP ports that the containers of a pod's spec declare. Of the init containers only sidecars count: the others have
/// ended when the pod is there.
pub(crate) fn of_containers(pod_spec: &Value) -> Vec<DeclaredPort> {
    let sidecars = list(pod_spec, "initContainers").filter(|container| container["restartPolicy"] == "Always");
    let ports = list(pod_spec, "containers").chain(sidecars).flat_map(|container| list(container, "ports"));
    ports.filter(is_tcp).filter_map(|port| declared(port, "containerPort")).collect()
}

/// The TCP ports of a Service.
pub(crate) fn of_service(spec: &Value) -> Vec<DeclaredPort> {
    let ports = list(spec, "ports").filter(is_tcp);
    let read = |port: &Value| {
        let target = match &port["targetPort"] {
            Value::Number(number) => number.to_string().parse().ok(),
            Value::String(name) => name.parse().ok(),
            _ => None,
        };
        Some(DeclaredPort { target, ..declared(port, "port")? })
    };
    ports.filter_map(read).collect()
}

/// The number in the pods of a workload. One that no container declares is taken as it is: declaring is a courtesy.
pub(crate) fn in_workload(port: &PortName, containers: &[DeclaredPort], target: &str) -> Result<NonZeroU16, String> {
    match port {
        PortName::Number(number) => Ok(*number),
        PortName::Name(name) => {
            by_name(name, containers).ok_or_else(|| say::no_such_port(&port.to_string(), target, &shown(containers)))
        }
    }
}

/// The number in the pods behind a Service's port. `None`: it goes by a name that no pod seen declares.
pub(crate) fn behind_service(
    port: &PortName,
    service: &[DeclaredPort],
    pods: &[Vec<DeclaredPort>],
    target: &str,
) -> Result<Option<NonZeroU16>, String> {
    let found = service.iter().find(|declared| match port {
        PortName::Number(number) => declared.number == *number,
        PortName::Name(name) => declared.name.as_ref() == Some(name),
    });
    let found = found.ok_or_else(|| say::no_such_port(&port.to_string(), target, &shown(service)))?;
    Ok(match &found.target {
        None => Some(found.number),
        Some(PortName::Number(number)) => Some(*number),
        Some(PortName::Name(name)) => pods.iter().find_map(|containers| by_name(name, containers)),
    })
}

fn by_name(name: &str, containers: &[DeclaredPort]) -> Option<NonZeroU16> {
    containers.iter().find(|declared| declared.name.as_deref() == Some(name)).map(|declared| declared.number)
}

/// Each port once, for people.
pub(crate) fn shown(ports: &[DeclaredPort]) -> Vec<String> {
    let mut shown: Vec<String> = Vec::new();
    for port in ports.iter().map(ToString::to_string) {
        if !shown.contains(&port) {
            shown.push(port);
        }
    }
    shown
}

fn declared(port: &Value, field: &str) -> Option<DeclaredPort> {
    let number = u16::try_from(port[field].as_u64()?).ok().and_then(NonZeroU16::new)?;
    Some(DeclaredPort { name: port["name"].as_str().map(str::to_owned), number, target: None })
}

fn is_tcp(port: &&Value) -> bool {
    port["protocol"].as_str().is_none_or(|protocol| protocol == "TCP")
}

fn list<'a>(object: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    object[field].as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Vec<DeclaredPort> {
        of_containers(&json!({
            "initContainers": [
                {"name": "proxy", "restartPolicy": "Always", "ports": [
                    {"containerPort": 15001}, {"name": "http", "containerPort": 15002}, {"name": "side", "containerPort": 15003},
                ]},
                {"name": "migration", "ports": [{"name": "setup", "containerPort": 7001}]},
            ],
            "containers": [{"name": "web", "ports": [
                {"name": "http", "containerPort": 8080},
                {"name": "dns", "containerPort": 53, "protocol": "UDP"},
                {"containerPort": 9090, "protocol": "TCP"},
            ]}, {"name": "bare"}],
        }))
    }

    fn number(text: &str) -> NonZeroU16 {
        text.parse().unwrap()
    }

    #[test]
    fn containers_declare_tcp_ports() {
        assert_eq!(shown(&pod()), ["8080 (http)", "9090", "15001", "15002 (http)", "15003 (side)"]);
        assert!(of_containers(&Value::Null).is_empty());
    }

    #[test]
    fn workloads_take_any_number_and_declared_names() {
        let port = |text: &str| in_workload(&text.parse().unwrap(), &pod(), "deploy/web");
        assert_eq!(port("http"), Ok(number("8080")), "the first of that name");
        assert_eq!(port("side"), Ok(number("15003")));
        assert!(port("setup").is_err(), "its container has ended");
        assert_eq!(port("7000"), Ok(number("7000")));
        let refused = port("grpc").unwrap_err();
        assert!(
            refused.contains("grpc") && refused.contains("deploy/web") && refused.contains("8080 (http)"),
            "{refused}"
        );
        assert!(port("dns").is_err(), "UDP");
    }

    #[test]
    fn services_lead_to_their_pods_ports() {
        let service = of_service(&json!({"ports": [
            {"name": "web", "port": 80, "targetPort": "http"},
            {"name": "same", "port": 8443},
            {"name": "plain", "port": 81, "targetPort": 9090},
            {"name": "udp", "port": 53, "protocol": "UDP"},
        ]}));
        let port = |text: &str| behind_service(&text.parse().unwrap(), &service, &[Vec::new(), pod()], "service/web");
        assert_eq!(port("80"), Ok(Some(number("8080"))));
        assert_eq!(port("web"), Ok(Some(number("8080"))));
        assert_eq!(port("same"), Ok(Some(number("8443"))));
        assert_eq!(port("81"), Ok(Some(number("9090"))));
        let refused = port("8080").unwrap_err();
        assert!(refused.contains("80 (web), 8443 (same), 81 (plain)"), "{refused}");
        assert!(port("53").is_err());
        assert_eq!(behind_service(&"80".parse().unwrap(), &service, &[], "service/web"), Ok(None));
    }
}
