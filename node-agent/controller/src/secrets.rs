//! The apps' certificates, from Secrets of type `kubernetes.io/tls` that somebody granted to the agent by name.
//!
//! A grant is a role in the Secret's namespace, with the verb `get` and the Secret among its `resourceNames`, bound to
//! the agent's ServiceAccount; a role without names grants nothing here. The agent asks the API server for its own
//! rules, and only for what a pod that is intercepted mounts: it never tries to read what it was not given. Owns that
//! question and what follows from the answer; `driver` says when.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use k8s_openapi::api::{
    authorization::v1::{ResourceRule, SelfSubjectRulesReview, SelfSubjectRulesReviewSpec},
    core::v1::Secret,
};
use kube::{Api, Client, api::PostParams};
use redir_config::certificates::{CertificateFlaw, Certificates, Pair};
use redir_link::{LONGEST, resolved::ResolvedCluster};
use tokio::{
    sync::{mpsc::Sender, watch as channel},
    time::{sleep, timeout},
};

use super::{
    api_server::ApiServer,
    watch::WatchEvent,
    world::{ClusterChange, ClusterState},
};

/// The certificates for each intercepted port: those that its pod mounts. Which of the pod's ports has which is found
/// out when the app shows it. A port for which there is no room left gets an empty list: its developer hears that its
/// certificates cannot be used.
pub(crate) fn certificates(world: &ClusterState, resolved: &ResolvedCluster) -> Certificates {
    let mut given: BTreeMap<_, Vec<Pair>> = BTreeMap::new();
    let mut room = MOST_BYTES;
    let ports: BTreeSet<_> = resolved.steered().collect();
    for (pod, port) in ports {
        let Some(facts) = world.pods.get(pod) else { continue };
        let known = world.secrets.get(&facts.id.namespace);
        let pairs: Vec<&Pair> = facts.secrets.iter().filter_map(|name| known?.get(name)).collect();
        if pairs.is_empty() {
            continue;
        }
        let bytes = pairs.iter().map(|pair| pair.bytes()).sum();
        let left = room.checked_sub(bytes).filter(|_| bytes <= MOST_BYTES_OF_POD);
        room = left.unwrap_or(room);
        let pairs = if left.is_some() { pairs.into_iter().cloned().collect() } else { Vec::new() };
        given.insert((pod.clone(), port), pairs);
    }
    Certificates(given)
}

/// Reads, again and again, those of the `wanted` Secrets of a namespace that are granted.
pub(super) async fn listen(
    client: Client,
    server: ApiServer,
    namespace: String,
    mut wanted: channel::Receiver<BTreeSet<String>>,
    heard: Sender<WatchEvent>,
) {
    loop {
        let names = wanted.borrow_and_update().clone();
        match timeout(CALLS, read(&client, &namespace, &names)).await {
            Ok(Ok(pairs)) => {
                if heard.send(WatchEvent::Change(ClusterChange::Secrets(namespace.clone(), pairs))).await.is_err() {
                    return;
                }
            }
            // What was read stays in use.
            Ok(Err(error)) => tracing::warn!(namespace, %error, "granted Secrets cannot be read; it is tried again"),
            Err(_) => tracing::warn!(namespace, "the API server does not answer for Secrets; it is tried again"),
        }
        tokio::select! {
            () = sleep(AGAIN) => {}
            () = server.heard_again() => {}
            changed = wanted.changed() => if changed.is_err() { return },
        }
    }
}

async fn read(client: &Client, namespace: &str, names: &BTreeSet<String>) -> kube::Result<BTreeMap<String, Pair>> {
    let spec = SelfSubjectRulesReviewSpec { namespace: Some(namespace.to_owned()) };
    let question = SelfSubjectRulesReview { spec, ..SelfSubjectRulesReview::default() };
    let answer = Api::all(client.clone()).create(&PostParams::default(), &question).await?;
    let granted = granted(answer.status.iter().flat_map(|status| &status.resource_rules));
    let api = Api::<Secret>::namespaced(client.clone(), namespace);
    let mut pairs = BTreeMap::new();
    for name in names.intersection(&granted) {
        let Some(secret) = api.get_opt(name).await? else { continue };
        match pair(&secret) {
            Ok(pair) if pairs.values().chain([&pair]).map(Pair::bytes).sum::<usize>() > MOST_BYTES => {
                tracing::warn!(namespace, name, "a Secret that was granted is left out: grant fewer of this namespace");
            }
            Ok(pair) => drop(pairs.insert(name.clone(), pair)),
            Err(flaw) => tracing::warn!(namespace, name, flaw, "a Secret that was granted cannot be used"),
        }
    }
    Ok(pairs)
}

/// The Secrets that these rules name.
fn granted<'a>(rules: impl Iterator<Item = &'a ResourceRule>) -> BTreeSet<String> {
    let has = |words: &Option<Vec<String>>, word: &str| words.iter().flatten().any(|one| one == word || one == "*");
    let reads = |rule: &&ResourceRule| {
        has(&Some(rule.verbs.clone()), "get") && has(&rule.api_groups, "") && has(&rule.resources, "secrets")
    };
    rules.filter(reads).flat_map(|rule| rule.resource_names.iter().flatten()).cloned().collect()
}

/// Certificate and key of a Secret, or why it has none that can be used.
fn pair(secret: &Secret) -> Result<Pair, &'static str> {
    if secret.type_.as_deref() != Some(TYPE) {
        return Err("it is not of type kubernetes.io/tls");
    }
    let text = |key: &str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(key));
        bytes.and_then(|bytes| String::from_utf8(bytes.0.clone()).ok())
    };
    let (Some(chain), Some(key)) = (text("tls.crt"), text("tls.key")) else {
        return Err("its tls.crt or tls.key is no text");
    };
    let pair = Pair { chain, key };
    if pair.bytes() > MOST_BYTES_OF_PAIR {
        return Err(
            "its tls.crt and tls.key have more than 64 KiB; leave in it only the app's certificate, its chain and its key",
        );
    }
    match pair.certified() {
        Ok(_) => Ok(pair),
        Err(CertificateFlaw::NoCertificate) => Err("its tls.crt holds no certificate in PEM"),
        Err(CertificateFlaw::NoKey) => Err("its tls.key holds no private key in PEM, or an encrypted one"),
        Err(CertificateFlaw::UnknownKey) => Err("its key is of a kind that the agent does not know"),
        Err(CertificateFlaw::Mismatch) => Err("its key is not that of its certificate"),
    }
}

/// The longest chains have some tens of thousands.
const MOST_BYTES_OF_PAIR: usize = 64 << 10;
/// Of all pairs that a pod mounts: they are told in one message, in which every byte may take six.
const MOST_BYTES_OF_POD: usize = 256 << 10;
/// Of the pairs of all intercepted ports, which both processes keep several times; an honest pair has some thousands.
const MOST_BYTES: usize = 4 << 20;
const _: () = assert!(6 * MOST_BYTES_OF_POD + MOST_BYTES_OF_POD < LONGEST as usize, "they fit in a message");
const TYPE: &str = "kubernetes.io/tls";
/// How soon a grant, or a renewed certificate, is noticed at the latest.
const AGAIN: Duration = Duration::from_secs(20);
/// All calls of one look.
const CALLS: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use serde_json::json;

    use super::*;
    use redir_config::certificates::testing::pair as made;

    #[test]
    fn only_what_is_named_is_granted() {
        let rules: Vec<ResourceRule> = serde_json::from_value(json!([
            {"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["web-tls", "api-tls"]},
            {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "resourceNames": ["any"]},
            {"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"]},
            {"verbs": ["list"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["listed"]},
            {"verbs": ["get"], "apiGroups": ["x.dev"], "resources": ["secrets"], "resourceNames": ["foreign"]},
            {"verbs": ["get"], "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["map"]},
        ]))
        .unwrap();
        let names: Vec<String> = granted(rules.iter()).into_iter().collect();
        assert_eq!(names, ["any", "api-tls", "web-tls"]);
    }

    #[test]
    fn a_secret_is_a_pair_or_says_why_not() {
        let (one, other) = (made("web.test"), made("web.test"));
        let secret = |kind: &str, chain: &[u8], key: &[u8]| Secret {
            type_: Some(kind.to_owned()),
            data: Some(BTreeMap::from([
                ("tls.crt".to_owned(), ByteString(chain.to_vec())),
                ("tls.key".to_owned(), ByteString(key.to_vec())),
            ])),
            ..Secret::default()
        };
        let (chain, key) = (one.chain.as_bytes(), one.key.as_bytes());
        assert_eq!(pair(&secret(TYPE, chain, key)), Ok(one.clone()));
        for (flawed, word) in [
            (secret("Opaque", chain, key), "type"),
            (secret(TYPE, b"\xff", key), "no text"),
            (secret(TYPE, &[chain, &vec![1; MOST_BYTES_OF_PAIR]].concat(), key), "64 KiB"),
            (secret(TYPE, chain, other.key.as_bytes()), "key"),
            (Secret { data: None, ..secret(TYPE, chain, key) }, "no text"),
        ] {
            let why = pair(&flawed).expect_err(word);
            assert!(why.contains(word), "{why}");
        }
    }
}
