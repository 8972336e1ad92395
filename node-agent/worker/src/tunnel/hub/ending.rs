//! How intercepts end: left by their developers, or granted no longer.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use redir_tunnel::Pin;
use redir_wire::{Ended, LeaveScope, Left, LeftIntercept, Refused, ToDeveloper};

use crate::{
    plan::Intercept,
    registry::{EndedIntercept, SessionId},
};

use super::{
    super::{
        farewell::InFlightRequests,
        session::{SessionCommand, key_removed},
    },
    TunnelHub,
};

impl TunnelHub {
    /// Ends intercepts: their requests go to the app from now on. A redir hears that its own have ended when nothing of them
    /// is under way, and may go then; another one that asked for it hears it at once.
    pub(super) fn leave(&mut self, asking: SessionId, seq: u32, pin: &Pin, which: &LeaveScope) -> Result<(), Refused> {
        let leavers = match self.registry.leave(pin, which) {
            Ok(leavers) => leavers,
            // It ends already, for another reason, and its redir leaves as well.
            Err(refused) => match self.farewells.ending(pin, which) {
                Some((intercept, under_way)) => {
                    let left = ToDeveloper::Left(Left { intercepts: vec![intercept] });
                    self.bid_farewell(asking, under_way, vec![SessionCommand::Say(seq, left, None)]);
                    return Ok(());
                }
                None => return Err(refused),
            },
        };
        let mut own = InFlightRequests::default();
        let under_way = self.retire(leavers.iter().map(|leaver| (leaver, *pin)));
        for (leaver, under_way) in leavers.iter().zip(under_way) {
            tracing::info!(developer = self.developer(pin), intercept = leaver.id, "an intercept ends");
            if leaver.session == asking {
                own.extend(under_way);
            } else {
                let sentence = format!("{} was left from another redir with the same key", leaver.what);
                let ended = Ended { id: leaver.id, token: leaver.token, sentence };
                self.bid_farewell(
                    leaver.session,
                    under_way,
                    vec![SessionCommand::Say(0, ToDeveloper::Ended(ended), None)],
                );
            }
        }
        let left = leavers.into_iter().map(|leaver| LeftIntercept { id: Some(leaver.id), what: leaver.what });
        let left = ToDeveloper::Left(Left { intercepts: left.collect() });
        self.bid_farewell(asking, own, vec![SessionCommand::Say(seq, left, None)]);
        Ok(())
    }

    /// Intercepts have ended: nothing new is decided for them from now on. What is still under way of each.
    fn retire<'a>(
        &mut self,
        leavers: impl Iterator<Item = (&'a EndedIntercept, Pin)> + Clone,
    ) -> Vec<InFlightRequests> {
        let mut ended: BTreeMap<u64, Vec<Arc<Intercept>>> =
            leavers.clone().map(|(leaver, _)| (leaver.id, Vec::new())).collect();
        for ((id, _), intercept) in self.intercepts.extract_if(|(id, _), _| ended.contains_key(id)).collect::<Vec<_>>()
        {
            ended.entry(id).or_default().push(intercept);
        }
        self.stale = true;
        self.publish();
        let retire = |(leaver, pin): (&EndedIntercept, Pin)| {
            if let Some(session) = self.sessions.get_mut(&leaver.session) {
                session.told.remove(&leaver.id);
            }
            let under_way = InFlightRequests::begin(ended.remove(&leaver.id).unwrap_or_default().into_iter());
            self.farewells.note(pin, leaver, &under_way);
            under_way
        };
        leavers.map(retire).collect()
    }

    /// Tells a session something once nothing is under way any more.
    fn bid_farewell(&mut self, session: SessionId, under_way: InFlightRequests, last: Vec<SessionCommand>) {
        if let Some(session) = self.sessions.get(&session) {
            self.farewells.bid(under_way, session.joined.outbox.clone(), last);
        }
    }

    /// The policy is another one: what it no longer grants ends.
    pub(super) fn reconfigure(&mut self) {
        let policy = self.policy.borrow_and_update().clone();
        self.authorised.replace(policy.keys());
        let removed: Vec<SessionId> = self
            .sessions
            .iter()
            .filter(|(_, session)| policy.name_of(&session.joined.pin).is_none())
            .map(|(id, _)| *id)
            .collect();
        let mut farewells: BTreeMap<SessionId, (InFlightRequests, Vec<SessionCommand>)> = BTreeMap::new();
        let leavers = self.registry.configure(policy.clone());
        let under_way = self.retire(leavers.iter().map(|(leaver, pin, _)| (leaver, *pin)));
        for ((leaver, _, sentence), of_it) in leavers.into_iter().zip(under_way) {
            tracing::info!(intercept = leaver.id, what = leaver.what, "an intercept has ended");
            let (under_way, last) = farewells.entry(leaver.session).or_default();
            under_way.extend(of_it);
            let ended = Ended { id: leaver.id, token: leaver.token, sentence };
            last.push(SessionCommand::Say(0, ToDeveloper::Ended(ended), None));
        }
        self.stale = true;
        for id in removed {
            self.registry.end_session(id, Instant::now());
            if let Some(session) = self.sessions.remove(&id) {
                session.joined.handle.end();
                let (under_way, mut last) = farewells.remove(&id).unwrap_or_default();
                last.push(SessionCommand::End(key_removed(&policy)));
                self.farewells.bid(under_way, session.joined.outbox, last);
            }
        }
        for (session, (under_way, last)) in farewells {
            self.bid_farewell(session, under_way, last);
        }
    }
}
