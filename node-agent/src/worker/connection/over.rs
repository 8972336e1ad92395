//! How an exchange ends: what has to be through before, and what the sockets get then.

use std::{task::Context, time::Duration};

use redir_http::engine::Origin;

use super::{
    exchange::{AppGone, ClientSide, End, Exchange, Judge},
    leg::{Leg, LegEnd},
};

impl Exchange<'_> {
    /// For how long nothing has moved, if nothing is on its way.
    pub(super) fn quiet(&self) -> Option<Duration> {
        let between = match &self.judge {
            Judge::Http(engine) => engine.idle(),
            Judge::Hello(_) | Judge::First(_) => true,
            Judge::Http2(_) | Judge::Opaque(_) => false,
        };
        let nothing = self.up.is_empty() && self.sending.is_none() && self.writing.is_none();
        (between && nothing).then(|| self.active.elapsed())
    }

    /// Resets every leg.
    pub(super) fn reset(&mut self) {
        for leg in &mut self.legs {
            leg.reset();
        }
    }

    /// Ends the client's side, and every leg as a client does that is done.
    pub(super) fn close(&mut self) {
        // A client that is gone needs no FIN.
        let _ = self.client.finish(self.ending);
        self.legs.iter_mut().for_each(Leg::close);
    }

    /// Nothing moves: bytes of a developer that wait for the client hold a part of the tunnel's window.
    pub(super) fn wait(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        self.wait_for_http2(cx)?;
        for leg in &mut self.legs {
            let held = leg.waits || self.writing.is_some_and(|writing| writing.from == leg.origin);
            if leg.poll_over(cx, held) {
                return Err(End::Reset("client_slow"));
            }
        }
        Ok(())
    }

    /// Whether the connection has come to its end.
    pub(super) fn over(&mut self) -> Result<(), End> {
        if self.writing.is_some() {
            return Ok(());
        }
        if let Some(reason) = self.closing {
            return Err(End::Closed(reason));
        }
        match &self.judge {
            Judge::Hello(_) | Judge::First(_) | Judge::Http2(_) => Ok(()),
            Judge::Opaque(to) => self.opaque_over(*to),
            Judge::Http(engine) => {
                let (outstanding, idle) = (engine.outstanding(), engine.idle());
                let no_app = self.legs.iter().all(|leg| leg.origin != Origin::App);
                match self.app_gone {
                    Some(AppGone::Closed) if outstanding == 0 && self.sending.is_none() => {
                        Err(End::Closed("app_closed"))
                    }
                    // A reset could overtake a developer's answer that is still on its way to the client.
                    Some(AppGone::Failed(why)) if outstanding == 0 && self.access.developer_requests > 0 => {
                        Err(End::Closed(why))
                    }
                    Some(AppGone::Failed(why)) if outstanding == 0 => Err(End::Reset(why)),
                    None if self.client_side == ClientSide::Told && idle && no_app => Err(End::Closed("client_closed")),
                    _ => Ok(()),
                }
            }
        }
    }

    fn opaque_over(&mut self, to: Origin) -> Result<(), End> {
        let flushed = self.up.is_empty() && self.sending.is_none();
        let told = self.client_side == ClientSide::Told;
        let Some(index) = self.legs.iter().position(|leg| leg.origin == to) else {
            return Err(End::Closed("origin_closed"));
        };
        let leg = &self.legs[index];
        if let (true, Some(LegEnd::Failed(error))) = (leg.end_told, &leg.end) {
            // After its FIN it does not even read any more.
            return Err(End::Reset(error.label()));
        }
        if leg.end_told && told && flushed {
            return Err(End::Closed("both_closed"));
        }
        let quiet = to == Origin::App && flushed && leg.end.is_none() && leg.down.is_empty();
        let plain = self.client.is_plain() && self.legs[index].app().is_some_and(|app| app.is_plain());
        if quiet && plain {
            let Some(app) = self.legs.swap_remove(index).into_app() else { return Ok(()) };
            return Err(End::Relay(app));
        }
        Ok(())
    }

    /// Passes the end of an opaque connection's origin on.
    pub(super) fn finish_client(&mut self) -> Result<(), End> {
        self.client.finish(self.ending).map_err(|_| End::Reset("client_reset"))
    }
}
