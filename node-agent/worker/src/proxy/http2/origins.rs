//! What happens to the legs of a connection, and what that means for it.

use std::{
    ops::ControlFlow,
    sync::Arc,
    task::{Context, Poll},
};

use h2::Reason;

use super::{
    Ended,
    io::AppIo,
    leg::Event,
    origin::broken,
    requests::{Request, Unopened},
    serving::{App, Serving},
    wire::Transport,
};
use crate::{
    plan::Intercept,
    proxy::{leg::LegError, local_reply::LocalReply},
    tunnel_handle::OpenError,
};

impl<'a, C: Transport, A: Transport + From<AppIo> + 'a> Serving<'a, C, A> {
    /// Drives every leg. Ready: the connection ends with one of them.
    pub(super) fn poll_legs(&mut self, cx: &mut Context<'_>) -> ControlFlow<Ended> {
        self.poll_app(cx)?;
        self.poll_developers(cx);
        // What a developer could not be asked goes to the app, whose leg may be new: nothing else would wake the task for it.
        match &self.app {
            App::Leg(leg) if leg.is_opening() => self.poll_app(cx),
            App::Leg(_) | App::Unneeded | App::Gone => ControlFlow::Continue(()),
        }
    }

    fn poll_app(&mut self, cx: &mut Context<'_>) -> ControlFlow<Ended> {
        while let App::Leg(leg) = &mut self.app {
            let Poll::Ready(event) = leg.poll(cx) else { break };
            self.app_event(event)?;
        }
        let App::Leg(leg) = &mut self.app else { return ControlFlow::Continue(()) };
        if !leg.waiting.is_empty() && !leg.is_opening() {
            let waiting = leg.take_waiting();
            waiting.into_iter().for_each(|request| self.ask_app(request));
        }
        ControlFlow::Continue(())
    }

    fn app_event(&mut self, event: Event<LegError>) -> ControlFlow<Ended> {
        match event {
            // What waits is sent after this.
            Event::Open => ControlFlow::Continue(()),
            Event::GoingAway(code) => {
                self.go("app_closed", code);
                ControlFlow::Continue(())
            }
            Event::Ended(Ok(())) => self.app_gone(false, "app_closed"),
            Event::Ended(Err(error)) if error.is_go_away() && error.is_remote() => {
                self.go("app_closed", error.reason().unwrap_or(Reason::NO_ERROR));
                self.app_gone(false, "app_closed")
            }
            Event::Ended(Err(error)) => {
                tracing::debug!(client = %self.route.client, %error, "the app's HTTP/2 connection broke");
                self.app_gone(true, "app_reset")
            }
            Event::Unopened(error) => {
                tracing::debug!(client = %self.route.client, %error, "no leg to the app");
                self.app_gone(true, error.label())
            }
        }
    }

    /// The connection ends as the app's did, once what developers have under way is through.
    fn app_gone(&mut self, failed: bool, why: &'static str) -> ControlFlow<Ended> {
        let App::Leg(leg) = std::mem::replace(&mut self.app, App::Gone) else { return ControlFlow::Continue(()) };
        if failed && self.access.developer_requests == 0 {
            return ControlFlow::Break(Ended::Reset(why));
        }
        leg.waiting.into_iter().for_each(|request| request.reset(Reason::REFUSED_STREAM));
        self.go(why, Reason::NO_ERROR);
        if let Some(going) = &mut self.going {
            going.at_once = true;
        }
        ControlFlow::Continue(())
    }

    fn poll_developers(&mut self, cx: &mut Context<'_>) {
        let mut index = 0;
        while index < self.developers.len() {
            while let Poll::Ready(event) = self.developers[index].leg.poll(cx) {
                self.developer_event(index, event);
            }
            let to = &mut self.developers[index];
            if !to.leg.waiting.is_empty() && !to.leg.is_opening() && !to.retired {
                for (request, intercept) in matched(to.leg.take_waiting()) {
                    self.ask_developer(request, &intercept);
                }
            }
            let to = &mut self.developers[index];
            to.last |= !to.last && to.ending.as_mut().poll(cx).is_ready();
            to.retire_if_last();
            index += 1;
        }
        self.developers.retain(|to| !to.leg.is_ended());
    }

    fn developer_event(&mut self, index: usize, event: Event<Unopened>) {
        let (client, to) = (self.route.client, &mut self.developers[index]);
        let error = match event {
            Event::Open => return,
            Event::GoingAway(_) => {
                to.retired = true;
                return;
            }
            Event::Ended(Ok(())) => None,
            Event::Ended(Err(error)) | Event::Unopened(Unopened::Stream(error)) => Some(error),
            Event::Unopened(Unopened::Tunnel(error)) => {
                tracing::debug!(%client, intercept = to.id, %error, "no leg to a developer");
                to.retired = true;
                for (request, intercept) in matched(to.leg.take_waiting()) {
                    self.fall_back(request, &intercept, error);
                }
                return;
            }
        };
        to.retired = true;
        let (waiting, origin) = (to.leg.take_waiting(), to.leg.origin.clone());
        tracing::debug!(%client, intercept = to.id, ?error, "a developer's leg is over");
        for (request, intercept) in matched(waiting) {
            request.refuse(&broken(&intercept, origin.cause(), error.as_ref()));
            self.access.refused();
        }
    }

    /// Nothing was sent to a developer whose leg could not be opened: the app gets it, as without the intercept.
    fn fall_back(&mut self, request: Request, intercept: &Intercept, error: OpenError) {
        if let App::Gone = self.app {
            request.refuse(&LocalReply::of_leg(Some(intercept), Some(&LegError::Unopened(error))));
            self.access.refused();
            return;
        }
        self.back_to_app(request);
    }
}

/// What waits for a developer's leg, with whose it is.
fn matched(waiting: Vec<Request>) -> impl Iterator<Item = (Request, Arc<Intercept>)> {
    waiting.into_iter().filter_map(|request| {
        let intercept = request.intercept().cloned();
        intercept.map(|intercept| (request, intercept))
    })
}
