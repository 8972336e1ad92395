//! For the controller's tests: what the worker makes of what the controller has found out.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use redir_config::PodName;
use redir_identity::Pin;
use redir_link::resolved::ResolvedCluster;
use redir_wire::{InterceptRequest, Token};

use crate::registry::{InterceptRegistry, SessionId};

/// Which intercepts win on each port.
#[derive(Debug)]
pub struct PortWinners(InterceptRegistry);

impl PortWinners {
    /// Without an intercept.
    pub fn new(resolved: Arc<ResolvedCluster>) -> Self {
        Self(InterceptRegistry::new(resolved))
    }

    /// What is resolved from now on.
    pub fn configure(&mut self, resolved: Arc<ResolvedCluster>) {
        self.0.configure(resolved);
    }

    /// A developer's tunnel asks for an intercept.
    ///
    /// # Panics
    ///
    /// If it is refused.
    pub fn register(&mut self, session: u64, developer: Pin, request: InterceptRequest, clock: SystemTime) {
        let registered = self.0.register(SessionId(session), developer, request, clock, Instant::now());
        assert!(registered.is_ok(), "{registered:?}");
    }

    /// The tokens of those that win on a pod's port: with a filter, and without one.
    pub fn winners(&self, pod: &PodName, port: u16) -> (Vec<Token>, Vec<Token>) {
        let contest = self.0.contests().remove(&(pod.clone(), port)).unwrap_or_default();
        let tokens =
            |ids: Vec<u64>| ids.into_iter().filter_map(|id| Some(self.0.intercept(id)?.grant.request.token)).collect();
        (tokens(contest.filtered), tokens(contest.globals))
    }
}
