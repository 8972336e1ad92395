//! What follows from the registry for others: plans for the captures, reports for the controller, news for developers.

use std::sync::Arc;

use redir_http::filter::Key;
use redir_wire::Probes;

use crate::{
    plan::{Ending, Intercept, Plan, PlanMap},
    registry::PortContests,
};
use redir_config::PodName;

use super::TunnelHub;

impl TunnelHub {
    /// Makes the plans anew if anything has changed.
    pub(super) fn publish(&mut self) {
        if !std::mem::take(&mut self.stale) {
            return;
        }
        let contests = self.contests();
        self.intercepts.retain(|(id, _), _| self.registry.intercept(*id).is_some());
        let mut plans = PlanMap::new();
        for ((pod, port), contest) in &contests {
            let filtered: Vec<_> = contest.filtered.iter().filter_map(|id| self.intercept(*id, pod)).collect();
            let global = contest.globals.first().and_then(|id| self.intercept(*id, pod));
            let winners = filtered.iter().chain(&global).filter_map(|intercept| {
                let intercept = self.registry.intercept(intercept.id)?;
                Some((intercept.edition, Key(intercept.id), intercept.grant.filter.as_ref()))
            });
            let table = self.tables.of(winners);
            let involved = || filtered.iter().chain(&global);
            let asked_for = |intercept: &&Arc<Intercept>| {
                self.registry
                    .intercept(intercept.id)
                    .is_some_and(|intercept| intercept.grant.request.probes == Probes::Developer)
            };
            let probes_to_app = !involved().all(|intercept| asked_for(&intercept));
            let plan = Plan { port: *port, table, filtered, global, probes_to_app };
            plans.entry(pod.clone()).or_default().push(Arc::new(plan));
        }
        self.plans.replace(plans);
        self.tables.forget_unused();
        self.counters.intercepts.set(self.registry.intercepts().count() as u64);
    }

    /// Shows how the intercepts stand to whoever looks; in the static mode nobody does.
    pub(super) fn publish_reports(&self, contests: &PortContests) {
        if self.outputs.reports.receiver_count() == 0 {
            return;
        }
        let reports = self.registry.reports(contests, self.ports());
        self.outputs.reports.send_if_modified(|shown| {
            let news = *shown != reports;
            *shown = reports;
            news
        });
    }

    fn intercept(&mut self, id: u64, pod: &PodName) -> Option<Arc<Intercept>> {
        if let Some(known) = self.intercepts.get(&(id, pod.clone())) {
            return Some(known.clone());
        }
        let intercept = self.registry.intercept(id)?;
        let session = self.sessions.get(&intercept.session)?;
        let intercept = Arc::new(Intercept {
            id,
            developer: self.developer(&intercept.pin).into(),
            pod: pod.clone(),
            to: intercept.grant.request.to.as_str().into(),
            forwarded: intercept.grant.request.forwarded,
            tunnel: session.joined.handle.clone(),
            requests: intercept.requests.clone(),
            bypassed: intercept.bypassed.clone(),
            ending: Ending::default(),
        });
        self.intercepts.insert((id, pod.clone()), intercept.clone());
        Some(intercept)
    }

    /// Tells each developer whose intercept's state has changed.
    pub(super) fn inform(&mut self, contests: &PortContests) {
        self.tell_again = None;
        let mut news = Vec::new();
        for intercept in self.registry.intercepts() {
            let state = self.registry.state(intercept, contests, self.ports());
            let told = self.sessions.get(&intercept.session).and_then(|session| session.told.get(&intercept.id));
            if told.is_some_and(|told| *told != state) {
                news.push((intercept.session, state));
            }
        }
        for (session, state) in news {
            self.tell(session, state);
        }
    }
}
