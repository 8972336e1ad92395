//! What may be armed on this node of Kubernetes: the guardian's own copy of what the controller has said.
//!
//! Owns the check, and when a port whose permission is gone is taken back although the worker does not ask for it. The worker
//! can add nothing here. Pure: time comes as a parameter. Called by `pods`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::{answer::RequestRefusal, watch::STARVED_LIMIT};
use redir_config::PodName;
use redir_ipc::{ControllerMessage, PodLocation, PodPermission, RefusalCode};

/// The list in force, and the next one.
#[derive(Debug)]
pub(super) struct PermissionList {
    /// Namespaces in which nothing is armed, whatever the controller says.
    forbidden: BTreeSet<String>,
    next: Option<BTreeMap<PodName, PermittedPod>>,
    in_force: BTreeMap<PodName, PermittedPod>,
    /// What was permitted and no longer is: until when the worker may disarm it by itself.
    withdrawn: BTreeMap<(PodName, u16), Instant>,
}

/// A pod that may be armed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PermittedPod {
    /// As people call it.
    pub(super) name: PodName,
    /// Where it is, as the API server says.
    pub(super) at: PodLocation,
    ports: BTreeSet<u16>,
}

impl PermissionList {
    pub(super) fn new(forbidden: BTreeSet<String>) -> Self {
        Self { forbidden, next: None, in_force: BTreeMap::new(), withdrawn: BTreeMap::new() }
    }

    /// Takes a message of the controller.
    pub(super) fn take(&mut self, message: ControllerMessage, now: Instant) {
        match message {
            // Of Kubernetes' controller the last two are nothing.
            ControllerMessage::Ready
            | ControllerMessage::Alive
            | ControllerMessage::Ask(..)
            | ControllerMessage::Container(_) => {}
            ControllerMessage::Begin => self.next = Some(BTreeMap::new()),
            ControllerMessage::Allow(permission) => self.add(permission),
            ControllerMessage::Commit => {
                if let Some(next) = self.next.take() {
                    self.replace(next, now);
                }
            }
        }
    }

    fn add(&mut self, PodPermission { pod, namespace, at, ports }: PodPermission) {
        let Some(next) = &mut self.next else { return };
        if self.forbidden.contains(&namespace) {
            tracing::error!(%pod, "the controller permits a pod of a forbidden namespace; it is left out");
        } else if next.len() >= MOST_PODS && !next.contains_key(&pod) {
            tracing::error!(%pod, "more than {MOST_PODS} pods of this node are intercepted; it is left out");
        } else {
            let new = || PermittedPod { name: pod.clone(), at, ports: BTreeSet::new() };
            next.entry(pod.clone()).or_insert_with(new).ports.extend(ports);
        }
    }

    fn replace(&mut self, next: BTreeMap<PodName, PermittedPod>, now: Instant) {
        for (name, pod) in std::mem::replace(&mut self.in_force, next) {
            for port in pod.ports {
                self.withdrawn.entry((name.clone(), port)).or_insert(now + WITHDRAWAL);
            }
        }
        let in_force = &self.in_force;
        self.withdrawn.retain(|(name, port), _| !in_force.get(name).is_some_and(|pod| pod.ports.contains(port)));
    }

    /// The pod, if this port of it may be armed.
    pub(super) fn check(&self, name: &PodName, port: u16) -> Result<&PermittedPod, RequestRefusal> {
        let pod = self.in_force.get(name).ok_or_else(|| {
            let sentence = format!("no live Intercept means pod {name}, so it is not armed; make one");
            RequestRefusal::new(RefusalCode::UnknownPod, sentence)
        })?;
        if pod.ports.contains(&port) {
            return Ok(pod);
        }
        let sentence = format!("no live Intercept means port {port} of {}, so it is not armed; make one", pod.name);
        Err(RequestRefusal::new(RefusalCode::PortNotAllowed, sentence))
    }

    /// Whether any port of it may be armed.
    pub(super) fn has(&self, name: &PodName) -> bool {
        self.in_force.contains_key(name)
    }

    /// When something is to be taken back.
    pub(super) fn next(&self) -> Option<Instant> {
        self.withdrawn.values().min().copied()
    }

    /// What is to be taken back now, if it is still armed.
    pub(super) fn due(&mut self, now: Instant) -> Vec<(PodName, u16)> {
        self.withdrawn.extract_if(.., |_, due| *due <= now).map(|(port, _)| port).collect()
    }
}

/// What a worker takes to disarm a port that nobody wants any more, on a machine that has no time for it. One that is silent
/// for so long is ended before.
pub(super) const WITHDRAWAL: Duration = Duration::from_secs(40);
const _: () = assert!(WITHDRAWAL.as_secs() > STARVED_LIMIT.as_secs());
/// Four times what a kubelet runs by default on a large node.
const MOST_PODS: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use redir_ipc::FirstHand;

    fn pod(number: u8) -> PodName {
        PodName::of_uid(&format!("uid-{number}"), "shop", &format!("web-{number}")).expect("a name")
    }

    fn allow(number: u8, namespace: &str, ports: &[u16]) -> ControllerMessage {
        let at = PodLocation { ips: vec![[10, 0, 0, number].into()], first: FirstHand::App };
        let (namespace, ports) = (namespace.to_owned(), ports.to_vec());
        ControllerMessage::Allow(PodPermission { pod: pod(number), namespace, at, ports })
    }

    fn say(permissions: &mut PermissionList, list: Vec<ControllerMessage>, now: Instant) {
        let whole = [ControllerMessage::Begin].into_iter().chain(list).chain([ControllerMessage::Commit]);
        whole.for_each(|message| permissions.take(message, now));
    }

    fn permissions() -> PermissionList {
        PermissionList::new(BTreeSet::from(["kube-system".to_owned()]))
    }

    #[test]
    fn only_what_was_committed_is_permitted_with_the_address_that_came_with_it() {
        let (mut all, now) = (permissions(), Instant::now());
        assert!(all.check(&pod(1), 80).is_err());
        all.take(allow(1, "shop", &[80]), now);
        all.take(ControllerMessage::Begin, now);
        all.take(allow(1, "shop", &[80]), now);
        assert!(all.check(&pod(1), 80).is_err(), "not before it is whole");
        all.take(allow(1, "shop", &[81]), now);
        all.take(ControllerMessage::Commit, now);
        let permitted = all.check(&pod(1), 81).expect("permitted");
        assert_eq!((permitted.name.to_string(), permitted.at.ips.len()), ("shop/web-1".to_owned(), 1));
        assert!(all.check(&pod(1), 80).is_ok());
        assert_eq!(all.check(&pod(1), 82).expect_err("another port").code, RefusalCode::PortNotAllowed);
        assert_eq!(all.check(&pod(2), 80).expect_err("another pod").code, RefusalCode::UnknownPod);
    }

    #[test]
    fn forbidden_namespaces_are_never_permitted() {
        let (mut all, now) = (permissions(), Instant::now());
        say(&mut all, vec![allow(1, "kube-system", &[80]), allow(2, "shop", &[80])], now);
        assert!(all.check(&pod(1), 80).is_err() && all.check(&pod(2), 80).is_ok());
    }

    #[test]
    fn what_is_withdrawn_is_due_after_a_while_unless_it_comes_back() {
        let (mut all, now) = (permissions(), Instant::now());
        say(&mut all, vec![allow(1, "shop", &[80, 81]), allow(2, "shop", &[80])], now);
        assert_eq!(all.next(), None);
        say(&mut all, vec![allow(1, "shop", &[80])], now);
        assert!(all.check(&pod(1), 81).is_err() && !all.has(&pod(2)), "not armed any more from now on");
        assert_eq!(all.next(), Some(now + WITHDRAWAL));
        assert_eq!(all.due(now), []);
        say(&mut all, vec![allow(1, "shop", &[80, 81])], now + WITHDRAWAL / 2);
        assert_eq!(all.due(now + WITHDRAWAL), [(pod(2), 80)]);
        assert_eq!((all.due(now + WITHDRAWAL), all.next()), (vec![], None));
    }

    /// A controller that died in the middle of its list leaves the earlier one in force.
    #[test]
    fn a_list_that_is_not_whole_changes_nothing() {
        let (mut all, now) = (permissions(), Instant::now());
        say(&mut all, vec![allow(1, "shop", &[80])], now);
        all.take(ControllerMessage::Begin, now);
        all.take(ControllerMessage::Begin, now);
        all.take(allow(2, "shop", &[80]), now);
        assert!(all.check(&pod(1), 80).is_ok() && all.check(&pod(2), 80).is_err());
        say(&mut all, vec![allow(3, "shop", &[80])], now);
        assert!(all.check(&pod(2), 80).is_err() && all.check(&pod(3), 80).is_ok());
    }
}
