//! Who asks a pod for its health, as far as its spec tells.
//!
//! Owns the form of it, which travels from the controller to the worker. Decides nothing: the controller reads it from the
//! spec, the worker tells a developer what of it comes to them.

use serde::{Deserialize, Serialize};

/// Something that asks for a pod's health.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// For people, such as `the liveness probe of container app`.
    pub what: String,
    /// Which port of the pod; `None`: perhaps every one.
    pub port: Option<u16>,
    /// How it asks.
    pub asks: CheckTransport,
}

/// How a health check asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CheckTransport {
    /// With a GET, in plaintext, that does not show itself as the kubelet's.
    Http(HttpGetCheck),
    /// Inside TLS, as the kubelet.
    KubeletHttps,
    /// With requests of which no more is known than how this header's value begins: a load balancer's.
    LoadBalancer(String),
}

/// The request of a probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpGetCheck {
    /// Path and query.
    pub target: String,
    /// The fields that the pod's spec gives it, names and values.
    pub fields: Vec<(String, String)>,
}

/// The header by which the kubelet's own requests are known.
pub const USER_AGENT: &str = "user-agent";
