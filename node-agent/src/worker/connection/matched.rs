//! The requests of one connection whose answers are not through, oldest first, and what is told of them.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::Arc,
    time::{Instant, SystemTime},
};

use crate::worker::plan::{Intercept, RequestEvent};

/// A request that went to a developer.
pub(super) struct Matched {
    /// Whose.
    pub(super) intercept: Arc<Intercept>,
    when: SystemTime,
    began: Instant,
    method: String,
    path: String,
    status: u16,
}

impl Matched {
    /// Begins now. The path has no query.
    pub(super) fn new(intercept: Arc<Intercept>, method: &[u8], path: &[u8]) -> Self {
        Matched {
            intercept,
            when: SystemTime::now(),
            began: Instant::now(),
            method: String::from_utf8_lossy(method).into_owned(),
            path: String::from_utf8_lossy(path).into_owned(),
            status: 0,
        }
    }

    /// Tells the developer how it went.
    pub(super) fn report(self, client: SocketAddr) {
        let micros = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        tracing::debug!(intercept = self.intercept.id, status = self.status, micros, "a matched request is through");
        self.intercept.report(RequestEvent {
            when: self.when,
            method: self.method,
            path: self.path,
            status: self.status,
            micros,
            client,
        });
    }
}

/// One entry for each outstanding request; those that went to the app need nothing told.
#[derive(Default)]
pub(super) struct Outstanding(VecDeque<Option<Box<Matched>>>);

impl Outstanding {
    /// A request went to the app.
    pub(super) fn push_app(&mut self) {
        self.0.push_back(None);
    }

    /// A request went to a developer.
    pub(super) fn push(&mut self, matched: Matched) {
        self.0.push_back(Some(Box::new(matched)));
    }

    /// The newest request goes to the app after all.
    pub(super) fn take_back(&mut self) {
        if let Some(newest) = self.0.back_mut() {
            *newest = None;
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Nothing went to a developer after all.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The oldest request, if it went to a developer.
    pub(super) fn oldest(&self) -> Option<&Matched> {
        self.0.front().and_then(Option::as_deref)
    }

    /// The oldest request is answered with this status.
    pub(super) fn status(&mut self, status: u16) {
        if let Some(Some(oldest)) = self.0.front_mut() {
            oldest.status = status;
        }
    }

    /// The oldest request's answer is through.
    pub(super) fn finished(&mut self, client: SocketAddr) {
        if let Some(Some(matched)) = self.0.pop_front() {
            matched.report(client);
        }
        if self.0.is_empty() && self.0.capacity() > 16 {
            self.0 = VecDeque::new();
        }
    }

    /// The connection ends: what is left had no complete answer.
    pub(super) fn abandoned(&mut self, client: SocketAddr) {
        while !self.0.is_empty() {
            self.finished(client);
        }
    }
}
