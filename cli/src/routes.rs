//! Which ports are intercepted, and where the requests of each go: `--port` and `--to` together.
//!
//! Owns: how the two combine. Must not look names up. Called by: `commands::intercept`.

use std::num::NonZeroU16;

use crate::model::values::{PortMapping, PortName, ServiceAddress};
use crate::service::Service;
use crate::wording::values as say;

/// One intercepted port, and where its requests go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PortRoute {
    /// The app's.
    pub(crate) pod: PortName,
    own: RouteDestination,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum RouteDestination {
    /// This machine's port of the same number.
    Same,
    /// This machine's port of this number.
    Port(NonZeroU16),
    /// Where `--to` says.
    Named(ServiceAddress),
}

/// Combines the flags: `--to` is for each `--port` or for none, in the same order, and says what is behind the colon of
/// `--port` otherwise.
pub(crate) fn port_routes(ports: &[PortMapping], to: &[ServiceAddress]) -> Result<Vec<PortRoute>, String> {
    if !to.is_empty() && to.len() != ports.len() {
        return Err(say::ports_and_to(ports.len(), to.len()));
    }
    let mut routes: Vec<PortRoute> = Vec::with_capacity(ports.len());
    for (index, PortMapping { pod, own }) in ports.iter().enumerate() {
        if routes.iter().any(|route| route.pod == *pod) {
            return Err(say::port_twice(&pod.to_string()));
        }
        let own = match (own, to.get(index)) {
            (Some(own), Some(to)) => return Err(say::port_and_to(&pod.to_string(), own.get(), &to.to_string())),
            (None, Some(to)) => RouteDestination::Named(to.clone()),
            (Some(own), None) => RouteDestination::Port(*own),
            (None, None) => RouteDestination::Same,
        };
        routes.push(PortRoute { pod: pod.clone(), own });
    }
    Ok(routes)
}

impl PortRoute {
    /// The service, once the pod's port has this number.
    pub(crate) fn service(&self, pod: NonZeroU16) -> Service {
        match &self.own {
            RouteDestination::Same => Service::Loopback(pod),
            RouteDestination::Port(own) => Service::Loopback(*own),
            RouteDestination::Named(address) => Service::Named(address.clone()),
        }
    }

    /// The service's port, if the flags say it.
    pub(crate) fn own_port(&self) -> Option<NonZeroU16> {
        match &self.own {
            RouteDestination::Same => None,
            RouteDestination::Port(own) => Some(*own),
            RouteDestination::Named(address) => Some(address.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(ports: &[&str], to: &[&str]) -> Result<Vec<String>, String> {
        let ports: Vec<PortMapping> = ports.iter().map(|text| text.parse().unwrap()).collect();
        let to: Vec<ServiceAddress> = to.iter().map(|text| text.parse().unwrap()).collect();
        let number = |route: &PortRoute| match route.pod {
            PortName::Number(number) => number,
            PortName::Name(_) => NonZeroU16::new(8080).unwrap(),
        };
        let shown = |route: &PortRoute| format!("{} -> {}", route.pod, route.service(number(route)).shown(None));
        port_routes(&ports, &to).map(|routes| routes.iter().map(shown).collect())
    }

    #[test]
    fn ports_and_destinations_combine() {
        let both = routes(&["80", "http:3000", "9090:9091"], &[]).unwrap();
        assert_eq!(both, ["80 -> 127.0.0.1:80", "http -> 127.0.0.1:3000", "9090 -> 127.0.0.1:9091"]);
        let each = routes(&["80", "http"], &["db.test:81", "[::1]:82"]).unwrap();
        assert_eq!(each, ["80 -> db.test:81", "http -> [::1]:82"]);
        assert!(routes(&["80:3000", "81:3000"], &[]).is_ok(), "one service for two ports");
    }

    #[test]
    fn what_says_two_things_is_refused() {
        for (ports, to, expected) in [
            (&["80", "80:1"][..], &[][..], "port 80 is there twice"),
            (&["http", "http"], &[], "port http is there twice"),
            (&["80:3000"], &["h:1"], "--port 80:3000 and --to h:1"),
            (&["80", "81"], &["h:1"], "2 --port and 1 --to"),
            (&["80"], &["h:1", "h:2"], "1 --port and 2 --to"),
        ] {
            let error = routes(ports, to).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
