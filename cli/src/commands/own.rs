//! The developer's own service around an intercept: whether it answers, and the command that starts it.
//!
//! Owns: starting the command, waiting for its port, ending it. Must not know agents. Called by: `intercept`.

use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::child::Child;
use crate::events::{CommandState, Event};
use crate::screen::Screen;
use crate::service::Service;
use crate::signals::{Arrived, ForCommand, Signals};
use crate::trouble::Trouble;
use crate::wording::session as say;

/// What takes longer than this is told, and again each time it has taken as much more.
const PATIENCE: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(10)];

/// A service that does not run yet is no mistake: it may be started later.
pub(super) async fn hint(screen: &Screen, service: Service) {
    if service.answers().await {
        return;
    }
    match service.answers_on_ipv6().await {
        true => screen.note(say::ipv6_only(service.address())),
        false => screen.note(say::nothing_answers(service.address())),
    }
}

/// How a command fared until its port answered.
pub(super) enum Started {
    /// It answers.
    Runs(Child),
    /// It ended before it ever answered.
    Ended(u8),
    /// The developer changed their mind, and it was ended with this code.
    Interrupted(u8),
}

/// Starts the developer's command and waits until its port answers.
pub(super) async fn start(
    screen: &Screen,
    signals: &mut Signals,
    service: Service,
    command: &[std::ffi::OsString],
    wait: Duration,
) -> Result<Started, Trouble> {
    if service.answers().await {
        screen.note(say::answers_already(service.address()));
    }
    let mut child = Child::start(command, screen.output())?;
    screen.tell(&Event::Command(CommandState::Started { pid: child.pid() }));
    let begin = Instant::now();
    let mut patience = patience();
    let answering = service.answering();
    tokio::pin!(answering);
    loop {
        tokio::select! {
            () = &mut answering => {
                screen.tell(&Event::Command(CommandState::Ready { port: service.address().port() }));
                return Ok(Started::Runs(child));
            }
            code = child.ended() => {
                screen.tell(&Event::Command(CommandState::Ended { code }));
                return Ok(Started::Ended(code));
            }
            arrived = signals.next() => match arrived {
                Arrived::Forward(signal) => child.forward(signal),
                Arrived::End(signal) => {
                    return Ok(Started::Interrupted(end_child(screen, signals, child, signal).await));
                }
                Arrived::EndAtOnce(_) => return Ok(Started::Interrupted(child.kill().await)),
            },
            _ = patience.tick() => screen.note(say::waiting_for_command(service.address(), begin.elapsed())),
            () = tokio::time::sleep_until(begin + wait) => {
                let ipv6 = service.answers_on_ipv6().await;
                child.end(ForCommand::TERM).await;
                return Err(Trouble::Failed(say::command_never_answered(service.address(), wait, ipv6)));
            }
        }
    }
}

/// Ends the command; a second Ctrl-C kills it at once.
pub(super) async fn end_child(screen: &Screen, signals: &mut Signals, mut child: Child, signal: ForCommand) -> u8 {
    let again = async { while let Arrived::Forward(_) = signals.next().await {} };
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
