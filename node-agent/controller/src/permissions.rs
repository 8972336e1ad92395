//! What the guardian is told: which pods and ports live Intercepts mean.
//!
//! A pure function of what is known.

use std::collections::{BTreeMap, BTreeSet};

use super::world::ClusterState;
use redir_config::PodName;
use redir_ipc::{PERMITTED_PORTS, PodLocation, PodPermission};
use redir_link::resolved::ResolvedCluster;

/// One for each pod that is meant; several for one with very many ports.
pub(super) fn permissions(world: &ClusterState, resolved: &ResolvedCluster) -> Vec<PodPermission> {
    let mut meant: BTreeMap<&PodName, BTreeSet<u16>> = BTreeMap::new();
    for (pod, port) in resolved.steered() {
        meant.entry(pod).or_default().insert(port);
    }
    let of = |(pod, ports): (&PodName, BTreeSet<u16>)| {
        let (facts, known) = (world.pods.get(pod)?, resolved.pods.get(pod)?);
        let at = PodLocation { ips: facts.ips.clone(), first: known.first };
        let ports: Vec<u16> = ports.into_iter().collect();
        let part = |ports: &[u16]| PodPermission {
            pod: facts.name.clone(),
            namespace: facts.id.namespace.clone(),
            at: at.clone(),
            ports: ports.to_vec(),
        };
        Some(ports.chunks(PERMITTED_PORTS).map(part).collect::<Vec<_>>())
    };
    meant.into_iter().filter_map(of).flatten().collect()
}
