//! The names, ports and times on which manifests, agents and `redir` agree.

use std::time::Duration;

/// The namespace that `redir install` makes and the agents live in.
pub const NAMESPACE: &str = "redir-system";
/// The agents' DaemonSet, ServiceAccount, ClusterRole and ClusterRoleBinding, and the value of [`APP_LABEL`].
pub const AGENT: &str = "redir-agent";
/// The label that all installed objects and the agents' pods carry.
pub const APP_LABEL: &str = "app.kubernetes.io/name";
/// The ClusterRole that an administrator binds to developers, namespace by namespace.
pub const DEVELOPER_ROLE: &str = "redir-developer";

/// The UDP port of every agent, on its node.
pub const PORT: u16 = 7447;
/// The TCP port of `/healthz`, `/readyz` and `/metrics`, on the node's loopback.
pub const ADMIN_PORT: u16 = 7448;

/// The agent's environment: its node's name (`spec.nodeName`).
pub const ENV_NODE_NAME: &str = "NODE_NAME";
/// The agent's environment: its node's address (`status.hostIP`), told to developers if the Node cannot be read.
pub const ENV_NODE_IP: &str = "NODE_IP";
/// The agent's environment: where it asks the API server first, `HOST:PORT`; empty: at the cluster's own address for it.
pub const ENV_API_SERVER: &str = "API_SERVER";
/// The agent's environment: the namespaces in which nothing is intercepted, with commas between them.
pub const ENV_FORBIDDEN_NAMESPACES: &str = "FORBIDDEN_NAMESPACES";
/// What they are if nobody says anything else.
pub const FORBIDDEN_NAMESPACES: &str = "kube-system";
/// The agent's environment: the namespace of its own pod (`metadata.namespace`), in which nothing is intercepted either.
pub const ENV_POD_NAMESPACE: &str = "POD_NAMESPACE";
/// Where the agent's pod has the node's `/proc`, read-only.
pub const HOST_PROC: &str = "/host/proc";

/// Uid and gid of the process that handles traffic, and of the one that speaks to the API server. Numbers that nobody else
/// has: above those of people and packages (60,000), in a range that systemd leaves unused (60,706 to 61,183), below those of
/// user namespaces, and none that images are known to run as.
pub const WORKER_USER: u32 = 60_744;
/// See [`WORKER_USER`].
pub const CONTROLLER_USER: u32 = 60_745;

/// Annotation of an Intercept: when its `redir` last said that it is still there (RFC 3339). Agents only look whether the
/// value changes, so that no two clocks need agree.
pub const RENEWED: &str = "redir.dev/renewed";
/// Annotation of a Node: the address that developers dial instead of the node's own, as `HOST:PORT`.
pub const ENDPOINT: &str = "redir.dev/endpoint";

/// Annotation of a Namespace that `redir install` has created: its own UID, so that a copy of the annotation (a backup,
/// a namespace that was made again) says nothing. What lacks it is never deleted.
pub const CREATED: &str = "redir.dev/created";
/// Annotation of a Namespace whose PodSecurity level `redir install` has raised: what it enforced before, empty for nothing.
pub const ENFORCED_BEFORE: &str = "redir.dev/enforced-before";

/// Label of the nodes of a control plane, which agents keep away from unless asked.
pub const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";

/// How often `redir` renews its Intercept.
pub const RENEW_EVERY: Duration = Duration::from_secs(60);
/// How long an agent lets one that is not renewed live, by its own monotonic clock.
pub const EXPIRE_AFTER: Duration = Duration::from_secs(600);

/// The reporting controller of the agents' Events.
pub const REPORTER: &str = "redir.dev/agent";
/// The reasons of their Events: a policy lets them write no others.
pub const EVENT_REASONS: [&str; 3] = ["Intercepted", "InterceptEnded", "InterceptRefused"];

/// The field manager under which the agent of a node writes its entry of `status.agents`.
///
/// A manager's name has at most 128 characters, a node's 253: a longer one keeps its beginning and a hash of the whole.
pub fn field_manager(node: &str) -> String {
    let whole = format!("{AGENT}-{node}");
    if whole.len() <= FIELD_MANAGER {
        return whole;
    }
    // FNV-1a: stable over versions and architectures, as `Hasher`s are not promised to be.
    let hash = node
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let end = whole.floor_char_boundary(FIELD_MANAGER - 17);
    format!("{}-{hash:016x}", &whole[..end])
}

/// `FieldManagerMaxLength` of k8s.io/apimachinery.
const FIELD_MANAGER: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_manager_fits_and_stays_the_node_s_own() {
        assert_eq!(field_manager("n1"), "redir-agent-n1");
        let (a, b) = (format!("{}a", "x".repeat(252)), format!("{}b", "x".repeat(252)));
        assert_eq!(field_manager(&a).len(), 128);
        assert_ne!(field_manager(&a), field_manager(&b));
    }
}
