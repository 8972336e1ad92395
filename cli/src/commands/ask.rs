//! One question to every agent, in parallel.
//!
//! Owns: dialling, asking, and what is told of agents that do not answer. Called by: `list`, `leave`, `status`, `ahead`.

use std::time::Duration;

use redir_wire::{CloseCode, RefusedCode, ToAgent, ToDeveloper};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use crate::error::CliError;
use crate::events::Event;
use crate::json;
use crate::link::tunnel::{self, TunnelError};
use crate::model::values::KnownAgent;
use crate::screen::Screen;
use crate::static_agents::StaticAgents;
use crate::wording::session as say;

/// An agent answers from memory.
const ANSWER: Duration = Duration::from_secs(5);

/// What one agent said, or why it said nothing.
pub(super) type AgentAnswer = Result<ToDeveloper, AgentFailure>;

/// Why an agent did not do what it was asked.
#[derive(Debug)]
pub(super) struct AgentFailure {
    /// The agent's own word; `None` if it did not get as far.
    pub(super) code: Option<RefusedCode>,
    /// For the developer.
    pub(super) sentence: String,
}

impl From<String> for AgentFailure {
    fn from(sentence: String) -> Self {
        Self { code: None, sentence }
    }
}

/// Asks all, in the order of the configuration.
pub(super) async fn ask(
    static_agents: &StaticAgents,
    question: &ToAgent,
    screen: &Screen,
) -> Vec<(KnownAgent, AgentAnswer)> {
    let mut asking = JoinSet::new();
    for (index, agent) in static_agents.agents.iter().cloned().enumerate() {
        let (identity, question) = (static_agents.identity.clone(), question.clone());
        asking.spawn(async move {
            let answer = one(&agent, &identity, &question).await;
            (index, agent, answer)
        });
    }
    let mut answers = Vec::new();
    let mut patience = interval_at(Instant::now() + Duration::from_secs(1), Duration::from_secs(10));
    patience.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while answers.len() < static_agents.agents.len() {
        tokio::select! {
            Some(Ok(answer)) = asking.join_next() => answers.push(answer),
            _ = patience.tick() => {
                let missing: Vec<KnownAgent> = static_agents.agents.iter().enumerate()
                    .filter(|(index, _)| !answers.iter().any(|(answered, ..)| answered == index))
                    .map(|(_, agent)| agent.clone())
                    .collect();
                screen.note(say::waiting_for_agents(&missing));
            }
            else => break,
        }
    }
    answers.sort_by_key(|(index, ..)| *index);
    answers.into_iter().map(|(_, agent, answer)| (agent, answer)).collect()
}

/// Asks one agent over a tunnel of its own.
pub(super) async fn one(agent: &KnownAgent, identity: &redir_tunnel::Identity, question: &ToAgent) -> AgentAnswer {
    let mut tunnel = tunnel::dial(agent, identity).await.map_err(|error| error.sentence(agent))?;
    let answer = async {
        let number = tunnel.control.ask(question).await?;
        loop {
            let said = tunnel.control.next().await?;
            if said.answers == number {
                return Ok::<_, TunnelError>(said.message);
            }
        }
    };
    let answer = match timeout(ANSWER, answer).await {
        Ok(Ok(ToDeveloper::Refused(refused))) => {
            Err(AgentFailure { code: Some(refused.code), sentence: refused.sentence })
        }
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(lost)) => Err(lost.sentence(agent).into()),
        Err(_) => Err(say::no_answer(agent).into()),
    };
    tunnel.streams.close(CloseCode::Done).await;
    answer
}

/// The rows of an answer, one object a line.
pub(super) fn json(events: &[Event]) -> String {
    events.iter().map(|event| json::line(event, None) + "\n").collect()
}

/// Agents that said nothing are told of; if there is one, the command failed, but what the others said was shown.
pub(super) fn failures<'a>(failed: impl IntoIterator<Item = (&'a KnownAgent, &'a String)>) -> Result<(), CliError> {
    let failed: Vec<_> = failed.into_iter().map(|(agent, why)| (agent.name.as_str(), why.as_str())).collect();
    match failed.is_empty() {
        true => Ok(()),
        false => Err(CliError::Failed(say::not_answered(&failed))),
    }
}
