//! Kubernetes as a control plane: what the controller has found out is the answer to everything.
//!
//! Owns the answers, and the one moment at which a filter is compiled: when its developer's tunnel asks for it. Knows no API
//! server, and nothing that the controller has not said.

use std::collections::BTreeSet;

use redir_api::ProbesSpec;
use redir_config::PodName;
use redir_http::filter::Filter;
use redir_ipc::{FirstHand, LastProcess};
use redir_link::{
    health_checks::HealthCheck,
    resolved::{InterceptedRequests, ResolvedCluster, ResolvedIntercept},
};
use redir_tunnel::Pin;
use redir_wire::{EarlierConnections, InterceptRequest, PodEntry, Probes, Refused, RefusedCode, Token, limits};

use super::{InterceptGrant, InterceptPolicy, PodPlacement};
use crate::intercept_filter::describe;

/// The Intercepts that are granted to this key.
fn granted_to<'a>(resolved: &'a ResolvedCluster, key: &Pin) -> impl Iterator<Item = &'a ResolvedIntercept> {
    let granted =
        |resolution: &&ResolvedIntercept| resolution.granted.as_ref().is_ok_and(|granted| granted.key == *key);
    resolved.intercepts.values().filter(granted)
}

impl InterceptPolicy for ResolvedCluster {
    fn keys(&self) -> Vec<Pin> {
        self.intercepts.values().filter_map(|resolution| Some(resolution.granted.as_ref().ok()?.key)).collect()
    }

    fn name_of(&self, key: &Pin) -> Option<&str> {
        granted_to(self, key).next().map(|resolution| &*resolution.user)
    }

    fn grant(&self, key: &Pin, request: InterceptRequest) -> Result<InterceptGrant, Refused> {
        let known = self.intercepts.get(&request.token);
        let known = known.and_then(|resolution| Some((resolution, resolution.granted.as_ref().ok()?)));
        let Some((resolution, granted)) = known.filter(|(_, granted)| granted.key == *key) else {
            return Err(not_found(
                "this agent knows no Intercept with this UID that names the tunnel's key; if it was made just now, try again",
            ));
        };
        let filter = filter(&granted.filter)?;
        let probes = match granted.probes {
            ProbesSpec::App => Probes::App,
            ProbesSpec::Developer => Probes::Developer,
        };
        let earlier = if granted.flush { EarlierConnections::Close } else { EarlierConnections::Stay };
        let made = Some((resolution.made, request.token));
        let mut to = if granted.to.is_empty() { request.to.clone() } else { granted.to.clone() };
        to.truncate(to.floor_char_boundary(limits::NAME));
        Ok(InterceptGrant {
            request: InterceptRequest {
                filter: None,
                probes,
                earlier,
                even_if_down: granted.even_if_down,
                forwarded: granted.forwarded,
                to,
                ..request
            },
            looks_at: filter.as_ref().map_or_else(String::new, describe),
            filter,
            what: format!("{}/{}", resolution.id.namespace, resolution.what),
            made,
        })
    }

    fn ended(&self, key: &Pin, token: Token) -> Option<String> {
        match self.intercepts.get(&token).map(|resolution| &resolution.granted) {
            None => Some("the Intercept was deleted; make a new one".to_owned()),
            Some(Err(reason)) => Some(format!("the Intercept is refused: {reason}")),
            Some(Ok(granted)) if granted.key != *key => Some("the Intercept names another key now".to_owned()),
            Some(Ok(_)) => None,
        }
    }

    fn places(&self, key: &Pin, granted: &InterceptGrant) -> Vec<PodPlacement> {
        match self.intercepts.get(&granted.request.token) {
            Some(resolution) if self.ended(key, granted.request.token).is_none() => resolution.places.clone(),
            _ => Vec::new(),
        }
    }

    fn lost(&self) -> Option<&'static str> {
        None
    }

    fn visible(&self, key: &Pin) -> Vec<(PodName, PodEntry)> {
        let places: BTreeSet<&PodName> =
            granted_to(self, key).flat_map(|one| &one.places).map(|place| &place.pod).collect();
        let entry = |pod: &PodName| Some((pod.clone(), self.pods.get(pod)?.entry.clone()));
        places.into_iter().filter_map(entry).collect()
    }

    fn first_hand(&self, pod: &PodName) -> FirstHand {
        self.pods.get(pod).map(|pod| pod.first).unwrap_or_default()
    }

    fn ending(&self, pod: &PodName) -> Option<LastProcess> {
        // One that is gone from the API server was deleted without waiting for its node.
        self.pods.get(pod).map_or(Some(LastProcess::OfContainers), |pod| pod.ending)
    }

    fn health_checks(&self, pod: &PodName) -> &[HealthCheck] {
        self.pods.get(pod).map_or(&[], |pod| &pod.health_checks)
    }

    fn stranger(&self) -> &'static str {
        "no Intercept names this tunnel's key any more; make a new one"
    }
}

fn filter(requests: &InterceptedRequests) -> Result<Option<Filter>, Refused> {
    match requests {
        InterceptedRequests::All => Ok(None),
        InterceptedRequests::Matching(spec) => Filter::try_from(&**spec).map(Some).map_err(|error| {
            let mut sentence = error.to_string();
            sentence.truncate(sentence.floor_char_boundary(limits::SENTENCE));
            Refused { code: RefusedCode::BadFilter, sentence }
        }),
        InterceptedRequests::Elsewhere => {
            Err(not_found("no pod of this Intercept is on this agent's node now; try again"))
        }
    }
}

/// `redir` tries again.
fn not_found(sentence: &str) -> Refused {
    Refused { code: RefusedCode::NotFound, sentence: sentence.to_owned() }
}
