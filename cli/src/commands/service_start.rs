//! The developer's own services around an intercept: whether they answer, and the command that starts them.
//!
//! Owns: starting the command, waiting for its ports, ending it. Must not know agents. Called by: `intercept`.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};

use crate::child::Child;
use crate::error::CliError;
use crate::events::{CommandState, Event};
use crate::screen::Screen;
use crate::service::Service;
use crate::signals::{CommandSignal, SignalEvent, Signals};
use crate::wording::session as say;

/// What takes longer than this is told, and again each time it has taken as much more.
const PATIENCE: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(10)];
/// How long a service may take to accept before it counts as not there yet, where that is only said.
const GLANCE: Duration = Duration::from_millis(500);

/// A service that does not run yet is not an error: the developer may start it later.
pub(super) async fn hint(screen: &Screen, service: &Service) {
    if service.answers().await.is_some() {
        return;
    }
    screen.tell(&Event::NobodyAnswers { to: service.shown(None) });
    screen.note(say::nothing_answers(service));
}

/// Where each service answers now.
pub(super) async fn glance(services: &[Service]) -> Vec<Option<SocketAddr>> {
    join_all(services.iter().map(|service| async { timeout(GLANCE, service.answers()).await.unwrap_or(None) })).await
}

/// What became of a command until its ports answered.
pub(super) enum StartOutcome {
    /// Each of them answers, here.
    Runs(Box<Child>, Vec<SocketAddr>),
    /// It ended before all of them ever answered.
    Ended(u8),
    /// The developer changed their mind, and it was ended with this code.
    Interrupted(u8),
}

/// Starts the developer's command and waits until all its ports answer.
pub(super) async fn start(
    screen: &Screen,
    signals: &mut Signals,
    services: &[Service],
    command: &[std::ffi::OsString],
    wait: Duration,
) -> Result<StartOutcome, CliError> {
    let before: Vec<SocketAddr> = glance(services).await.into_iter().flatten().collect();
    for address in &before {
        screen.note(say::answers_already(*address));
    }
    let mut child = Child::start(command, screen.output())?;
    screen.tell(&Event::Command(CommandState::Started { pid: child.pid() }));
    let begin = Instant::now();
    let mut patience = patience();
    let answering = join_all(services.iter().map(Service::answering));
    tokio::pin!(answering);
    loop {
        tokio::select! {
            addresses = &mut answering => {
                screen.tell(&Event::Command(CommandState::Ready { addresses: addresses.clone(), taken: before }));
                return Ok(StartOutcome::Runs(Box::new(child), addresses));
            }
            code = child.ended() => {
                screen.tell(&Event::Command(CommandState::Ended { code }));
                return Ok(StartOutcome::Ended(code));
            }
            arrived = signals.next() => match arrived {
                SignalEvent::Forward(signal) => child.forward(signal),
                SignalEvent::End(signal) => {
                    return Ok(StartOutcome::Interrupted(end_child(screen, signals, child, signal).await));
                }
                SignalEvent::EndAtOnce(_) => return Ok(StartOutcome::Interrupted(child.kill().await)),
            },
            _ = patience.tick() => screen.note(say::waiting_for_command(&silent(services).await, begin.elapsed())),
            () = tokio::time::sleep_until(begin + wait) => {
                let silent = silent(services).await;
                child.end(CommandSignal::TERM).await;
                return Err(CliError::Failed(say::command_never_answered(&silent, wait)));
            }
        }
    }
}

/// The services that do not answer yet.
async fn silent(services: &[Service]) -> Vec<&Service> {
    let answered = glance(services).await;
    let silent: Vec<&Service> =
        services.iter().zip(&answered).filter(|(_, address)| address.is_none()).map(|(service, _)| service).collect();
    // All of them may have begun to answer just now.
    if silent.is_empty() { services.iter().collect() } else { silent }
}

/// Ends the command; a second Ctrl-C kills it at once.
pub(super) async fn end_child(screen: &Screen, signals: &mut Signals, mut child: Child, signal: CommandSignal) -> u8 {
    let again = async { while let SignalEvent::Forward(_) = signals.next().await {} };
    let mut patience = patience();
    let waiting = async {
        loop {
            patience.tick().await;
            screen.note(say::waiting_for_end());
        }
    };
    let in_time = tokio::select! {
        code = child.end(signal) => Some(code),
        () = again => None,
        () = waiting => None,
    };
    let code = match in_time {
        Some(code) => code,
        None => child.kill().await,
    };
    screen.tell(&Event::Command(CommandState::Ended { code }));
    code
}

/// Ticks when something has taken long enough to be told.
pub(super) fn patience() -> Interval {
    let mut patience = interval_at(Instant::now() + PATIENCE[0], PATIENCE[1]);
    patience.set_missed_tick_behavior(MissedTickBehavior::Delay);
    patience
}
