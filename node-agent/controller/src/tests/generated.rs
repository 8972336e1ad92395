//! Any order of events in, the same conclusion out, and nothing let go on the way that was there all the time.
//!
//! A made-up cluster lives through random changes. Its listeners hear them as an API server tells them: each kind in its
//! order, kinds against each other in any; some twice; with breaks after which a whole list comes. What is concluded in
//! the end must be what the cluster is, and an intercepted pod that was never touched must have stayed so.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::SystemTime,
};

use redir_rig::dice::Dice;
use redir_worker::testing::PortWinners;

use super::*;

/// The cluster as it is.
#[derive(Default)]
struct TrueCluster {
    pods: BTreeMap<PodName, PodFacts>,
    intercepts: BTreeMap<Token, InterceptFacts>,
    next: u64,
    /// Addresses that pods have given back: the next pod may get one.
    free: Vec<String>,
}

impl TrueCluster {
    fn world(&self) -> ClusterState {
        world(self.pods.values().cloned().collect(), self.intercepts.values().cloned().collect())
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// One change; what the listeners of pods, or of Intercepts, will be told of it.
    fn change(&mut self, dice: &mut Dice) -> ClusterChange {
        let pods: Vec<PodName> = self.pods.keys().filter(|pod| **pod != stable_pod()).cloned().collect();
        let intercepts: Vec<Token> = self.intercepts.keys().filter(|one| **one != token(STABLE)).copied().collect();
        let pick = |dice: &mut Dice, length: usize| usize::try_from(dice.roll(length as u64)).unwrap();
        match dice.roll(6) {
            0 if !pods.is_empty() => {
                let name = pods[pick(dice, pods.len())].clone();
                let gone = self.pods.remove(&name).unwrap();
                self.free.extend(gone.ips.iter().map(ToString::to_string));
                ClusterChange::PodGone(name)
            }
            1 if !pods.is_empty() => {
                // A pod that had no address gets one, perhaps another's old one.
                let name = pods[pick(dice, pods.len())].clone();
                let address = self.free.pop().unwrap_or_else(|| format!("10.1.0.{}", 1 + dice.roll(200)));
                let pod = self.pods.get_mut(&name).unwrap();
                if pod.ips.is_empty() {
                    pod.ips = vec![address.parse().unwrap()];
                }
                ClusterChange::Pod(Box::new(pod.clone()))
            }
            2 if !intercepts.is_empty() => {
                let one = intercepts[pick(dice, intercepts.len())];
                self.intercepts.remove(&one);
                ClusterChange::InterceptGone(one)
            }
            3 if !intercepts.is_empty() => {
                // Renewed, or tampered with.
                let one = self.intercepts.get_mut(&intercepts[pick(dice, intercepts.len())]).unwrap();
                one.renewed = Some(dice.roll(1000).to_string());
                if dice.chance(4) {
                    one.wanted = Err("its spec has been changed; delete it".to_owned());
                }
                ClusterChange::Intercept(Box::new(one.clone()))
            }
            4 => {
                let number = self.number();
                let key = key(u8::try_from(2 + dice.roll(3)).unwrap()).to_string();
                // Two of one moment, and one of a clock that was set back.
                let made = format!("20{}-01-01T00:00:00Z", 20 + dice.roll(3));
                let with = json!({"spec": {"developerKey": key}, "metadata": {"creationTimestamp": made}});
                let one = intercept(number, &by_label(), &with);
                self.intercepts.insert(one.token, one.clone());
                ClusterChange::Intercept(Box::new(one))
            }
            _ => {
                let number = self.number();
                let ips =
                    if dice.chance(2) { Value::Null } else { json!([{"ip": format!("10.1.1.{}", number % 250)}]) };
                // The name may have been another pod's.
                let name = format!("web-{}", dice.roll(4));
                let pod = pod(number, &name, &json!({"status": {"podIPs": ips}}));
                self.pods.insert(pod.name.clone(), pod.clone());
                ClusterChange::Pod(Box::new(pod))
            }
        }
    }

    fn list(&self, pods: bool) -> ClusterChange {
        match pods {
            true => ClusterChange::Pods(self.pods.values().cloned().collect()),
            false => ClusterChange::Intercepts(self.intercepts.values().cloned().collect()),
        }
    }
}

/// What a listener has still to hear.
#[derive(Default)]
struct WatchBacklog {
    waiting: VecDeque<ClusterChange>,
    broken: bool,
}

impl WatchBacklog {
    fn tell(&mut self, change: &ClusterChange, dice: &mut Dice) {
        if self.broken {
            return;
        }
        if dice.chance(12) {
            // From here on nothing is heard until the list.
            self.broken = true;
            return;
        }
        let times = if dice.chance(5) { 2 } else { 1 };
        self.waiting.extend(std::iter::repeat_n(change.clone(), times));
    }
}

const STABLE: u64 = 1;

fn stable_pod() -> PodName {
    PodName::new(&uid(2)).unwrap()
}

fn by_label() -> Value {
    json!({"selector": {"matchLabels": {"app": "web"}}})
}

fn is_of_pods(change: &ClusterChange) -> bool {
    matches!(change, ClusterChange::Pod(_) | ClusterChange::PodGone(_) | ClusterChange::Pods(_))
}

#[test]
fn any_order_of_events_ends_in_what_is_and_lets_nothing_go_on_the_way() {
    for seed in 1..=150 {
        let mut dice = Dice::new(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let mut truth = TrueCluster { next: 9, ..TrueCluster::default() };
        let stable = intercept(STABLE, &by_label(), &json!({}));
        truth.intercepts.insert(stable.token, stable);
        truth.pods.insert(stable_pod(), pod(2, "stable", &json!({})));
        let (mut heard, mut lines) = (truth.world(), [WatchBacklog::default(), WatchBacklog::default()]);
        let mut registry = PortWinners::new(Arc::new(resolve(&heard).0));
        registry.register(1, key(1), request(token(STABLE)), SystemTime::now());
        for step in 0..120 {
            if step < 90 {
                let change = truth.change(&mut dice);
                lines[usize::from(!is_of_pods(&change))].tell(&change, &mut dice);
            }
            for (index, line) in lines.iter_mut().enumerate() {
                if line.broken && (step >= 90 || dice.chance(6)) {
                    line.broken = false;
                    line.waiting.push_back(truth.list(index == 0));
                }
            }
            let line = &mut lines[usize::try_from(dice.roll(2)).unwrap()];
            let batch = if step >= 90 { line.waiting.len() } else { usize::try_from(dice.roll(4)).unwrap() };
            for change in line.waiting.drain(..batch.min(line.waiting.len())) {
                heard.take(change);
            }
            let policy = Arc::new(resolve(&heard).0);
            for PodPermission { pod, at, .. } in permissions(&heard, &policy) {
                assert_eq!(at.ips, heard.pods[&pod].ips, "seed {seed}: by UID, never by address");
            }
            registry.configure(policy.clone());
            let (_, globals) = registry.winners(&stable_pod(), 8080);
            assert_eq!(globals.len(), 1, "seed {seed}, step {step}: let go");
        }
        for line in &mut lines {
            for change in line.waiting.drain(..) {
                heard.take(change);
            }
        }
        assert_eq!(heard, truth.world(), "seed {seed}");
        assert_eq!(resolve(&heard).0, resolve(&truth.world()).0, "seed {seed}");
    }
}

/// Two agents that hear of the same Intercepts in whatever order, with whatever clocks, let the same ones win.
#[test]
fn every_agent_lets_the_same_one_win() {
    for seed in 1..=100 {
        let mut dice = Dice::new(0x2545_f491_4f6c_dd1d_u64.wrapping_mul(seed));
        let made = |dice: &mut Dice| format!("202{}-01-01T00:00:00Z", dice.roll(3));
        let intercepts: Vec<InterceptFacts> = (10..16)
            .map(|number| {
                let mut spec = by_label();
                if dice.chance(2) {
                    let test = json!({"name": "x-user", "exact": number.to_string()});
                    spec["filter"] = json!({"all": [{"header": test}]});
                }
                let developer = key(u8::try_from(number).unwrap()).to_string();
                let with =
                    json!({"metadata": {"creationTimestamp": made(&mut dice)}, "spec": {"developerKey": developer}});
                intercept(number, &spec, &with)
            })
            .collect();
        let policy = Arc::new(resolve(&world(vec![pod(2, "stable", &json!({}))], intercepts)).0);
        let winners: BTreeSet<(Vec<Token>, Vec<Token>)> = (0..4)
            .map(|_| {
                let mut registry = PortWinners::new(policy.clone());
                let mut order: Vec<u64> = (10..16).collect();
                while let Some(number) = (!order.is_empty())
                    .then(|| order.swap_remove(usize::try_from(dice.roll(order.len() as u64)).unwrap()))
                {
                    let clock = SystemTime::UNIX_EPOCH + Duration::from_secs(dice.roll(1 << 33));
                    let developer = key(u8::try_from(number).unwrap());
                    registry.register(number, developer, request(token(number)), clock);
                }
                registry.winners(&stable_pod(), 8080)
            })
            .collect();
        assert_eq!(winners.len(), 1, "seed {seed}");
    }
}
