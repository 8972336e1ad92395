//! Where each request of a connection goes: it is decided, and sent or made to wait for its leg.

use std::{io, sync::Arc, task::Context};

use bytes::Bytes;
use h2::{Reason, RecvStream, client::SendRequest, ext::Protocol, server::SendResponse};
use http::{Method, Version, request::Parts};
use redir_http::filter::Key;
use tokio::time::timeout;

use super::{
    copy::{Copy, Rewound},
    decide::{To, decide},
    io::{AppIo, DeveloperIo},
    leg::{Leg, Opening, SentRequest, greet, header_list},
    limits,
    origin::Origin,
    repeat::{Repeat, is_safe},
    serving::{App, Serving, ToApp, ToDeveloper},
    stream::{self, Report, Stream, reason_after_head, refuse},
    wire::Transport,
};
use crate::{
    memory::{self, Purpose, Share},
    misses::Cause,
    plan::{Intercept, Plan},
    proxy::{
        leg::LegError,
        local_reply::{Http2Asked, LocalReply},
    },
    tunnel_handle::{OPEN_LIMIT, OpenError},
};

/// A request that is decided and not sent.
pub(super) struct Request {
    pub(super) head: Parts,
    pub(super) body: Body,
    pub(super) respond: SendResponse<Bytes>,
    pub(super) asked: Http2Asked,
    /// Of a developer's.
    pub(super) report: Option<Report>,
    /// How often it was sent.
    pub(super) tries: u8,
    /// A developer's service may have begun with it.
    pub(super) begun: bool,
    /// What it takes of the agent's memory.
    pub(super) share: Share,
}

/// What follows a request's head.
pub(super) enum Body {
    /// Nothing of it was read.
    New(RecvStream),
    /// It was sent before, and refused.
    Again(Box<Rewound>),
}

impl Body {
    fn is_empty(&self) -> bool {
        match self {
            Body::New(body) => body.is_end_stream(),
            Body::Again(body) => body.is_empty(),
        }
    }
}

/// Why nothing was sent to a developer.
#[derive(Debug)]
pub(super) enum Unopened {
    /// There is no stream.
    Tunnel(OpenError),
    /// The stream broke before it carried a request.
    Stream(h2::Error),
}

/// The app takes it, or the client would not have sent it.
const NO_EXTENDED_CONNECT: &str = "the developer's service does not take extended CONNECT (WebSocket over HTTP/2)";

/// What a leg does with a request now.
enum Now {
    Send,
    Wait,
    /// It could not be understood there.
    Refuse,
}

impl<'a, C: Transport, A: Transport + From<AppIo> + 'a> Serving<'a, C, A> {
    /// A request has come.
    pub(super) fn begin(
        &mut self,
        request: http::Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
        cx: &mut Context<'_>,
    ) {
        let (head, body) = request.into_parts();
        if head.method != Method::CONNECT && head.uri.path().is_empty() {
            // Malformed (RFC 9113, 8.3.1), though the h2 crate takes it where there is no `:authority` either.
            return respond.send_reset(Reason::PROTOCOL_ERROR);
        }
        self.taken += 1;
        // The first stream of an upgraded connection; the client has ended it, or gets the app's answer.
        let upgraded = self.upgraded.take_if(|_| u32::from(respond.stream_id()) == 1);
        if respond.poll_reset(cx).is_ready() {
            // The client has ended it already: there is nobody to answer.
            return;
        }
        if self.guard.was_scarce(u32::from(respond.stream_id())) {
            return self.refuse_scarce(respond);
        }
        let list = header_list(&head.headers);
        if list > limits::HEADER_LIST_SCARCE {
            self.guard.decoded(list);
            if !memory::has_room(Purpose::SlowReader) || self.guard.flooded().is_some() {
                return too_large(respond);
            }
        }
        if let Some((sent, origin)) = upgraded {
            return self.send_on(body, respond, sent, origin);
        }
        let mut share = Share::default();
        let cost = if self.open_requests() < limits::FREE_STREAMS { list } else { limits::STREAM_COST + list };
        if !share.try_wait(cost, cost) {
            return self.refuse_scarce(respond);
        }
        let plan = self.route.plan();
        self.retire_ended_intercepts(plan.as_deref());
        let to = decide(plan.as_deref(), &head);
        match to {
            To::App => {
                self.access.count_app();
                self.ask_app(Request::new(head, body, respond, None, share));
            }
            To::Developer(intercept) if intercept.is_unanswered() && !matches!(self.app, App::Gone) => {
                intercept.bypass();
                self.access.count_app();
                self.ask_app(Request::new(head, body, respond, None, share));
            }
            To::Developer(intercept) => {
                self.access.count_developer();
                let report = Some(Report::new(intercept.clone(), &head, self.route.client));
                self.ask_developer(Request::new(head, body, respond, report, share), &intercept);
            }
        }
    }

    /// There is no memory for the request. The client may send it again (RFC 9113, 8.7).
    fn refuse_scarce(&mut self, mut respond: SendResponse<Bytes>) {
        self.route.missed(Cause::MemoryScarce);
        self.access.refused();
        respond.send_reset(Reason::REFUSED_STREAM);
    }

    /// Requests that were taken and have no answer, or not all of it.
    fn open_requests(&self) -> usize {
        let to_app = if let App::Leg(leg) = &self.app { leg.waiting.len() } else { 0 };
        self.streams.len() + to_app + self.developers.iter().map(|to| to.leg.waiting.len()).sum::<usize>()
    }

    /// The app has the request already, and the connection has counted it.
    fn send_on(&mut self, body: RecvStream, respond: SendResponse<Bytes>, sent: SentRequest, origin: Origin) {
        let (response, to) = sent;
        let (guard, held) = (self.guard.clone(), self.held.clone());
        let request = Copy::ended(body, to, held.clone());
        let (asked, report, repeat, share) = (Http2Asked::default(), None, None, Share::default());
        let parts = stream::Parts { respond, response, request, origin, guard, asked, report, repeat, held, share };
        self.streams.push(Stream::new(parts));
    }

    /// Sends a request to the app.
    pub(super) fn ask_app(&mut self, request: Request) {
        if let App::Unneeded = self.app {
            self.app = App::Leg(Box::new(self.dial_app()));
        }
        let App::Leg(leg) = &mut self.app else {
            // It was certainly not begun with: the client may try again, on another connection.
            return request.reset(Reason::REFUSED_STREAM);
        };
        match request.now(leg) {
            Now::Wait => {
                leg.note_head(&request.head.headers);
                leg.waiting.push(request);
            }
            Now::Refuse => request.reset(Reason::PROTOCOL_ERROR),
            Now::Send => {
                let way = request.way(leg);
                self.send(request, way);
            }
        }
    }

    /// Sends a request to a developer, over a leg that is opened anew if there is none that takes it.
    pub(super) fn ask_developer(&mut self, request: Request, intercept: &Arc<Intercept>) {
        let open = self.developers.iter().position(|to| to.id == intercept.id && !to.retired);
        let index = open.unwrap_or_else(|| {
            self.developers.push(self.dial(intercept));
            self.developers.len() - 1
        });
        let leg = &mut self.developers[index].leg;
        match request.now(leg) {
            Now::Wait | Now::Send if leg.is_full() => {
                request.refuse(&LocalReply::of_leg(Some(intercept), Some(&LegError::Unopened(OpenError::Busy))));
                self.access.refused();
            }
            Now::Wait => {
                leg.note_head(&request.head.headers);
                leg.waiting.push(request);
            }
            Now::Refuse => {
                request.refuse(&LocalReply::bad_answer(intercept, NO_EXTENDED_CONNECT));
                self.access.refused();
            }
            Now::Send => match request.way(leg) {
                Some(way) => self.send(request, Some(way)),
                // It takes none any more: the next one is only being opened.
                None => {
                    self.developers[index].retired = true;
                    self.ask_developer(request, intercept);
                }
            },
        }
    }

    /// Sends a request again that this leg has not begun with.
    pub(super) fn ask_again(&mut self, request: Request, refused: &Origin) {
        if let Some(to) = self.developers.iter_mut().find(|to| to.leg.origin.is(refused)) {
            to.retired = true;
            to.leg.retire();
        }
        let plan = self.route.plan();
        let wanted = request.intercept().and_then(|intercept| plan.as_ref()?.intercept(Key(intercept.id)).cloned());
        tracing::debug!(client = %self.route.client, tries = request.tries, "a request is sent again");
        match wanted {
            Some(intercept) => self.ask_developer(request, &intercept),
            // Meanwhile it is nobody's.
            None => self.back_to_app(request),
        }
    }

    /// A request is the app's after all, unless a developer may have begun with it and it would have its effect twice.
    pub(super) fn back_to_app(&mut self, mut request: Request) {
        if request.begun && !is_safe(&request.head.method) {
            return request.reset(Reason::INTERNAL_ERROR);
        }
        request.forget_developer();
        self.access.back_to_app();
        self.ask_app(request);
    }

    /// Sends a request. Without a way it was certainly not begun with: the client may try again.
    fn send(&mut self, request: Request, way: Option<(SendRequest<Bytes>, Origin)>) {
        let Some((mut requests, origin)) = way else { return request.reset(Reason::REFUSED_STREAM) };
        let Request { mut head, body, mut respond, asked, report, tries, begun, share } = request;
        let repeat = report.as_ref().and_then(|_| Repeat::of(&head, tries, begun)).map(Box::new);
        if report.as_ref().and_then(Report::intercept).is_some_and(|intercept| intercept.forwarded) {
            // Behind the copy for another try, which writes them anew.
            self.route.forwarded().parts(&mut head);
        }
        if head.uri.authority().is_none() {
            // What the h2 crate asks for to send a request without `:authority`.
            head.version = Version::HTTP_11;
        }
        let ends = body.is_empty();
        match requests.send_request(http::Request::from_parts(head, ()), ends) {
            Ok((response, to)) => {
                let (guard, held) = (self.guard.clone(), self.held.clone());
                let copy = match body {
                    Body::New(body) if ends => Copy::ended(body, to, held.clone()),
                    Body::New(body) => Copy::new(body, to, held.clone()),
                    Body::Again(body) => Copy::again(*body, to),
                };
                let request = if repeat.is_some() { copy.keep() } else { copy };
                let parts =
                    stream::Parts { respond, response, request, origin, guard, asked, report, repeat, held, share };
                self.streams.push(Stream::new(parts));
            }
            Err(error) => {
                tracing::debug!(client = %self.route.client, %error, "a request could not be sent");
                respond.send_reset(reason_after_head(&error));
            }
        }
    }

    fn dial_app(&self) -> ToApp<'a, A> {
        let origin = Origin::default();
        let (connecting, told) = (self.route.connect(), origin.clone());
        let opening: Opening<'a, A, LegError> = Box::pin(async move {
            let io = A::from(AppIo::new(connecting.await?));
            let greeted = greet(limits::towards_app(), io, told, Bytes::new(), 0).await;
            greeted.map_err(|error| LegError::App(into_io(error)))
        });
        Leg::new(opening, origin, limits::APP_CONNECTION)
    }

    fn dial(&self, intercept: &Arc<Intercept>) -> ToDeveloper<'a> {
        let origin = Origin::default();
        let (opened, told) = (self.route.open_stream(intercept), origin.clone());
        let opening: Opening<'a, DeveloperIo, Unopened> = Box::pin(async move {
            let opened = opened.await.map_err(Unopened::Tunnel)?;
            let io = DeveloperIo::new(opened, told.clone());
            let greeted = timeout(OPEN_LIMIT, greet(limits::towards_developer(), io, told, Bytes::new(), 0)).await;
            greeted.map_err(|_| Unopened::Tunnel(OpenError::Busy))?.map_err(Unopened::Stream)
        });
        let leg = Leg::new(opening, origin, limits::DEVELOPER_CONNECTION);
        let ending = Box::pin(intercept.ending.begun().clone().cancelled_owned());
        ToDeveloper { id: intercept.id, leg, retired: false, ending, last: false }
    }

    /// Legs to intercepts that are no more end with what is on them.
    fn retire_ended_intercepts(&mut self, plan: Option<&Plan>) {
        for to in &mut self.developers {
            to.last |= plan.is_none_or(|plan| plan.intercept(Key(to.id)).is_none());
            to.retire_if_last();
        }
    }
}

impl ToDeveloper<'_> {
    /// Without its intercept it ends with what is on it.
    pub(super) fn retire_if_last(&mut self) {
        if self.last && !self.retired && self.leg.waiting.is_empty() {
            self.retired = true;
            self.leg.retire();
        }
    }
}

/// As the h2 crate answers a list that is too long at any time.
fn too_large(mut respond: SendResponse<Bytes>) {
    let mut response = http::Response::new(());
    *response.status_mut() = http::StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    // Fails only on a stream that the client has ended.
    let _ = respond.send_response(response, true);
}

/// A greeting fails with its transport.
pub(super) fn into_io(error: h2::Error) -> io::Error {
    error.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionAborted.into())
}

impl Request {
    /// Nothing of it was sent.
    fn new(head: Parts, body: RecvStream, respond: SendResponse<Bytes>, report: Option<Report>, share: Share) -> Self {
        let asked = Http2Asked::of(&head);
        Request { head, body: Body::New(body), respond, asked, report, tries: 0, begun: false, share }
    }

    /// What a leg does with it now. Extended CONNECT may be sent only to whoever has announced to take it (RFC 8441, 3).
    fn now<T: Transport, E>(&self, leg: &Leg<'_, T, E, Request>) -> Now {
        let extended = self.head.extensions.get::<Protocol>().is_some();
        match leg.origin.announced() {
            _ if leg.is_opening() => Now::Wait,
            None if extended => Now::Wait,
            Some(announced) if extended && !announced.extended_connect => Now::Refuse,
            _ => Now::Send,
        }
    }

    /// What begins it on an open leg, which counts its head; `None`: none begin there any more.
    fn way<T: Transport, E>(&self, leg: &mut Leg<'_, T, E, Request>) -> Option<(SendRequest<Bytes>, Origin)> {
        let requests = leg.requests()?;
        leg.note_head(&self.head.headers);
        Some((requests, leg.origin.clone()))
    }

    /// The agent answers it.
    pub(super) fn refuse(mut self, reply: &LocalReply) {
        refuse(&mut self.respond, reply, &self.asked, self.report.as_mut());
    }

    /// The client is told that nothing was done with it, for this reason.
    pub(super) fn reset(mut self, reason: Reason) {
        self.respond.send_reset(reason);
    }

    /// Whose it is.
    pub(super) fn intercept(&self) -> Option<&Arc<Intercept>> {
        self.report.as_ref().and_then(Report::intercept)
    }

    /// It is the app's after all.
    pub(super) fn forget_developer(&mut self) {
        if let Some(report) = self.report.take() {
            report.forget();
        }
    }
}
