//! One task for each tunnel: greets, carries questions to the hub and answers and events back.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use redir_tunnel::{
    AgentControl, AgentEndpoint, ControlError, FrameCounts, HANDSHAKE, Handshake, Hearing, LivenessLimits,
    TunnelLiveness, TunnelState, Turn, UnreachableHints, UnreachableWatch, UnreadPool,
};
use redir_wire::{Bye, CloseCode, Malformed, Refused, RefusedCode, SessionError, ToAgent, ToDeveloper};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    control::Policy,
    memory::{self, Purpose},
    registry::SessionId,
    tunnel_handle::{
        TunnelHandle,
        backlog::{BACKLOG_FREE, EventQueue, Waiting},
        counters::TunnelCounters,
    },
};

use super::{
    hub::{HubCommand, JoinedTunnel},
    keys::{CountedTunnel, KeyRoom, TunnelsByKey, too_many},
};

/// How the agent introduces itself.
#[derive(Clone, Debug)]
pub(crate) struct AgentIntroduction {
    /// The node's name.
    pub(crate) agent: String,
    /// Name and release.
    pub(crate) software: &'static str,
}

/// What the hub wants a session to do.
#[derive(Debug)]
pub(crate) enum SessionCommand {
    /// Say this: the answer to a question, or unasked with 0. With what it takes of the tunnel's backlog, where that is counted.
    Say(u32, ToDeveloper, Option<Waiting>),
    /// Say goodbye and close.
    End(Bye),
    /// All it carried goes on in another tunnel of the same redir: most likely it is dead already.
    Replaced,
}

/// What each session needs.
#[derive(Clone)]
struct SessionContext {
    policy: watch::Receiver<Policy>,
    hub: mpsc::Sender<HubCommand>,
    counters: Arc<TunnelCounters>,
    about: AgentIntroduction,
    hints: UnreachableHints,
    keys: TunnelsByKey,
    /// What clients leave unread, of all tunnels.
    unread: UnreadPool,
}

/// Takes tunnels until it is told to close, and returns when the last session has ended. Aborting it ends them all.
pub(super) async fn accept(
    endpoint: Arc<AgentEndpoint>,
    closing: CancellationToken,
    policy: watch::Receiver<Policy>,
    hub: mpsc::Sender<HubCommand>,
    counters: Arc<TunnelCounters>,
    about: AgentIntroduction,
    unread: u64,
) {
    let shared = SessionContext {
        policy,
        hub,
        counters,
        about,
        hints: endpoint.unreachable_hints().clone(),
        keys: TunnelsByKey::new(unread),
        unread: UnreadPool::new(unread),
    };
    let mut sessions = JoinSet::new();
    let mut number = 0;
    loop {
        tokio::select! {
            handshake = endpoint.accept() => match handshake {
                Some(handshake) => {
                    number += 1;
                    sessions.spawn(serve(handshake, SessionId(number), shared.clone()));
                }
                None => break,
            },
            Some(_) = sessions.join_next() => {}
            () = closing.cancelled() => break,
        }
    }
    while sessions.join_next().await.is_some() {}
}

async fn serve(handshake: Handshake, id: SessionId, shared: SessionContext) {
    let address = handshake.address();
    let (connection, pin) = match handshake.finish().await {
        Ok(done) => done,
        Err(error) => {
            shared.counters.handshakes_refused.add(1);
            tracing::debug!(%address, %error, "a handshake failed");
            return;
        }
    };
    let counted = shared.keys.enter(pin);
    let (code, sentence) = match Box::pin(greeted(&connection, &counted, address, id, &shared)).await {
        Ok(bye) => (bye.code, bye.sentence),
        Err(error) => {
            let code = close_code(&error);
            if code == CloseCode::Done {
                tracing::debug!(%address, %error, "a tunnel ended");
            } else {
                shared.counters.sessions_failed.add(1);
                tracing::warn!(%address, %error, "a tunnel was closed");
            }
            (code, String::new())
        }
    };
    connection.close(quinn::VarInt::from_u64(code.number()).unwrap_or(quinn::VarInt::MAX), sentence.as_bytes());
}

/// Greets, and carries messages until the tunnel or the agent ends.
async fn greeted(
    connection: &quinn::Connection,
    counted: &CountedTunnel,
    address: SocketAddr,
    id: SessionId,
    shared: &SessionContext,
) -> Result<Bye, ControlError> {
    let pin = counted.pin;
    let greeting = timeout(HANDSHAKE, greet(connection, counted, shared)).await;
    let (mut control, user) = match greeting.unwrap_or(Err(ControlError::Stalled))? {
        GreetingOutcome::Welcome(control, user) => (control, user),
        GreetingOutcome::Removed => return Ok(key_removed(&shared.policy.borrow())),
        GreetingOutcome::TooMany(sentence) => return Ok(Bye { code: CloseCode::Done, sentence }),
    };
    let unread = (&shared.unread, pin);
    let (handle, events) = TunnelHandle::new(connection.clone(), shared.counters.clone(), unread, &counted.memory);
    let (outbox, outgoing) = mpsc::channel(OUTBOX);
    let joined = JoinedTunnel { id, pin, handle: handle.clone(), outbox, user, address };
    if shared.hub.send(HubCommand::Joined(joined)).await.is_err() {
        return Ok(shutdown());
    }
    shared.counters.tunnels.add(1);
    shared.counters.tunnels_total.add(1);
    let result = carry(&mut control, &handle, id, outgoing, events, shared).await;
    handle.end();
    shared.counters.tunnels.sub(1);
    shared.hub.send(HubCommand::Gone(id)).await.ok();
    let bye = result?;
    // Best effort: the other end may be gone already.
    control.say(0, &ToDeveloper::Bye(bye.clone())).ok();
    timeout(GOODBYE, control.finish()).await.ok();
    Ok(bye)
}

enum GreetingOutcome {
    Welcome(AgentControl, String),
    Removed,
    TooMany(String),
}

async fn greet(
    connection: &quinn::Connection,
    counted: &CountedTunnel,
    shared: &SessionContext,
) -> Result<GreetingOutcome, ControlError> {
    if counted.room == KeyRoom::Flooded {
        return Ok(GreetingOutcome::TooMany(too_many(counted.room)));
    }
    let mut control = AgentControl::accept(connection).await?;
    let hello = match control.next().await {
        Ok(Some(first)) => first,
        Ok(None) => return Err(ControlError::Reset),
        Err(error) => {
            // What the session had to say about it, such as the versions that do not fit.
            control.finish().await.ok();
            return Err(error);
        }
    };
    let ToAgent::Hello(greeting) = hello.message else {
        return Err(SessionError::Order("the first message was not a greeting").into());
    };
    let name = shared.policy.borrow().name_of(&counted.pin).map(str::to_owned);
    let Some(name) = name else { return Ok(GreetingOutcome::Removed) };
    if counted.room != KeyRoom::Free {
        let sentence = too_many(counted.room);
        let refused = Refused { code: RefusedCode::TooMany, sentence: sentence.clone() };
        control.say(hello.seq, &ToDeveloper::Refused(refused)).map_err(SessionError::from)?;
        control.finish().await?;
        return Ok(GreetingOutcome::TooMany(sentence));
    }
    control.welcome(hello.seq, &shared.about.agent, &name, shared.about.software).map_err(SessionError::from)?;
    control.flush().await?;
    Ok(GreetingOutcome::Welcome(control, greeting.user))
}

async fn carry(
    control: &mut AgentControl,
    handle: &TunnelHandle,
    id: SessionId,
    mut outgoing: mpsc::Receiver<SessionCommand>,
    mut events: EventQueue,
    shared: &SessionContext,
) -> Result<Bye, ControlError> {
    let mut pulse = LivenessTimer::new(handle.connection(), &shared.hints);
    let mut look = interval(LivenessLimits::AGENT.look);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut report = EventBatch::default();
    let mut waiting = handle.backlog().nothing();
    let mut unanswered = 0_u32;
    loop {
        waiting.set(control.unsent() + control.unheard());
        let hearing = if unanswered < QUESTIONS { Hearing::Open } else { Hearing::Closed };
        // Events wait in their own bounded queue while the developer's side does not read.
        let most = if memory::has_room(Purpose::SlowReader) { EVENT_BACKLOG } else { EVENT_BACKLOG_SCARCE };
        let may_report = control.unsent() < most;
        tokio::select! {
            turn = control.turn(EVENT_BACKLOG, hearing) => match turn? {
                Turn::Message(question) => match question.message {
                    ToAgent::Ping(number) => say(control, question.seq, &ToDeveloper::Pong(number))?,
                    message => {
                        unanswered += 1;
                        if shared.hub.send(HubCommand::Asked(id, question.seq, message)).await.is_err() {
                            return Ok(shutdown());
                        }
                    }
                },
                Turn::Finished => return Ok(Bye { code: CloseCode::Done, sentence: String::new() }),
                Turn::Partial if !waiting.try_set(control.unsent() + control.unheard()) => {
                    return Err(ControlError::Stalled);
                }
                Turn::Drained | Turn::Partial => {}
            },
            message = outgoing.recv() => match message {
                Some(SessionCommand::Say(answers, message, _held)) => {
                    unanswered = unanswered.saturating_sub(u32::from(answers != 0));
                    say(control, answers, &message)?;
                }
                Some(SessionCommand::End(bye)) => return Ok(bye),
                Some(SessionCommand::Replaced) => pulse.liveness.replaced(),
                // The hub dropped the session because it did not keep up, or has ended.
                None => return Err(ControlError::Stalled),
            },
            () = pulse.watch.hinted() => {
                if pulse.liveness.hinted(Instant::now()) {
                    shared.counters.probes.add(1);
                }
            }
            _ = look.tick() => pulse.look(control, handle, shared).await?,
            event = report.next(&mut events), if may_report => {
                say(control, 0, &ToDeveloper::Request(event))?;
                while control.unsent() < most
                    && let Some(event) = events.try_recv()
                {
                    say(control, 0, &ToDeveloper::Request(event))?;
                }
                report.behind = !events.is_empty();
            }
        }
    }
}

/// Waits a moment for more events behind the first: each packet of its own costs both ends more than the request.
#[derive(Default)]
struct EventBatch {
    first: Option<(redir_wire::RequestEvent, Instant)>,
    /// More are there already: the next one waits for nobody.
    behind: bool,
}

impl EventBatch {
    /// The first of some events; the others are in the queue by now. Nothing is lost if this is dropped at an await, and
    /// it never ends when the queue has ended.
    async fn next(&mut self, events: &mut EventQueue) -> redir_wire::RequestEvent {
        loop {
            match self.first.take_if(|(_, at)| *at <= Instant::now()) {
                Some((event, _)) => return event,
                None => match &self.first {
                    Some((_, at)) => sleep_until(*at).await,
                    None => match events.recv().await {
                        Some(event) if std::mem::take(&mut self.behind) => return event,
                        Some(event) => self.first = Some((event, Instant::now() + GATHER)),
                        None => std::future::pending().await,
                    },
                },
            }
        }
    }
}

/// Looks whether the tunnel is alive, and acts on it.
struct LivenessTimer {
    liveness: TunnelLiveness,
    /// Hints about the address from which the developer comes.
    watch: UnreachableWatch,
}

impl LivenessTimer {
    fn new(connection: &quinn::Connection, hints: &UnreachableHints) -> Self {
        let liveness = TunnelLiveness::new(LivenessLimits::AGENT, FrameCounts::of(connection), Instant::now());
        Self { liveness, watch: hints.watch(connection.remote_address()) }
    }

    /// `Err`: it is down.
    async fn look(
        &mut self,
        control: &mut AgentControl,
        handle: &TunnelHandle,
        shared: &SessionContext,
    ) -> Result<(), ControlError> {
        let connection = handle.connection();
        // A laptop may come from another address than before.
        if !self.watch.is_of(connection.remote_address()) {
            self.watch = shared.hints.watch(connection.remote_address());
        }
        let looked = self.liveness.look(FrameCounts::of(connection), connection.rtt(), Instant::now());
        if looked.state == TunnelState::Down {
            return Err(ControlError::Connection(quinn::ConnectionError::TimedOut));
        }
        if looked.ping && control.unsent() == 0 {
            // QUIC acknowledges it, whatever redir makes of it. What is not sent yet is acknowledged as well.
            say(control, 0, &ToDeveloper::Pong(0))?;
        }
        if handle.set_unanswered(looked.state == TunnelState::Unanswered) {
            let address = connection.remote_address();
            match looked.state {
                TunnelState::Unanswered => {
                    tracing::info!(%address, "a developer does not answer: new requests go to the app");
                }
                TunnelState::Alive | TunnelState::Down => {
                    tracing::info!(%address, "a developer answers again");
                    // The hub has an end only with the worker.
                    shared.hub.send(HubCommand::Answers).await.ok();
                }
            }
        }
        Ok(())
    }
}

/// Says something; an answer that is too long becomes a refusal.
fn say(control: &mut AgentControl, answers: u32, message: &ToDeveloper) -> Result<(), ControlError> {
    let Err(Malformed::TooLong { .. }) = control.say(answers, message) else { return Ok(()) };
    let sentence = "the agent's answer is too long for one message; ask about one pod".to_owned();
    let refused = Refused { code: RefusedCode::TooMany, sentence };
    control.say(answers, &ToDeveloper::Refused(refused)).map_err(|why| SessionError::from(why).into())
}

fn close_code(error: &ControlError) -> CloseCode {
    match error {
        ControlError::Session(SessionError::Version { .. }) => CloseCode::Version,
        ControlError::Session(_) => CloseCode::Protocol,
        ControlError::Stalled | ControlError::Connection(quinn::ConnectionError::TimedOut) => CloseCode::Stalled,
        ControlError::Connection(_) | ControlError::Reset => CloseCode::Done,
    }
}

/// What a developer hears whose key is known no longer.
pub(super) fn key_removed(policy: &Policy) -> Bye {
    Bye { code: CloseCode::KeyRemoved, sentence: policy.stranger().to_owned() }
}

fn shutdown() -> Bye {
    Bye { code: CloseCode::Shutdown, sentence: "the agent is shutting down".into() }
}

/// Messages of the hub that a session has not written yet, as far as there is memory for them (`backlog`); one that falls behind
/// further is closed.
const OUTBOX: usize = 1024;
/// Questions of a developer that the hub has not answered yet. Others wait in the stream, and so with the developer.
const QUESTIONS: u32 = 8;
/// Unsent bytes above which request events wait.
const EVENT_BACKLOG: usize = 64 * 1024;
/// The same while the memory for slow readers is used up.
const EVENT_BACKLOG_SCARCE: usize = BACKLOG_FREE / 2;
/// How long a request event waits for others; nobody sees it.
const GATHER: Duration = Duration::from_millis(20);
/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_millis(700);
