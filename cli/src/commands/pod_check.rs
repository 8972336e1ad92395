//! What is asked before the developer's command is started: whether any agent has a pod for each of its ports.
//!
//! Owns: asking all agents at once, and the refusal. Must not start or intercept anything. Called by: `intercept`.

use redir_wire::{Listing, PodEntry, ToAgent, ToDeveloper, limits};
use tokio::task::JoinSet;

use super::ask::{AgentAnswer, one};
use super::service_start::patience;
use crate::error::CliError;
use crate::link::DesiredIntercept;
use crate::model::values::{KnownAgent, Target};
use crate::screen::Screen;
use crate::signals::{SignalEvent, Signals};
use crate::static_agents::StaticAgents;
use crate::wording::session as say;

/// What to do with the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PodCheck {
    /// An agent has a pod that may be intercepted.
    Start,
    /// The developer changed their mind.
    Interrupted,
}

/// Waits until each port has an agent with such a pod; it is a failure if one has none.
pub(super) async fn check_pods(
    screen: &Screen,
    signals: &mut Signals,
    static_agents: &StaticAgents,
    wanted: &[DesiredIntercept],
) -> Result<PodCheck, CliError> {
    let mut asking = JoinSet::new();
    for agent in static_agents.agents.iter().cloned() {
        let identity = static_agents.identity.clone();
        asking.spawn(async move {
            let answer = one(&agent, &identity, &ToAgent::List).await;
            (agent, answer)
        });
    }
    let mut missing = static_agents.agents.clone();
    // The ports that no agent has had so far, and why each agent has not.
    let mut without: Vec<(&DesiredIntercept, Vec<(KnownAgent, String)>)> =
        wanted.iter().map(|wanted| (wanted, Vec::new())).collect();
    let mut patience = patience();
    loop {
        tokio::select! {
            answered = asking.join_next() => match answered {
                Some(Ok((agent, answer))) => {
                    missing.retain(|missing| *missing != agent);
                    without.retain_mut(|(wanted, reasons)| match verdict(&answer, wanted) {
                        Ok(()) => false,
                        Err(reason) => {
                            reasons.push((agent.clone(), reason));
                            true
                        }
                    });
                    if without.is_empty() {
                        return Ok(PodCheck::Start);
                    }
                }
                Some(Err(_)) => return Err(CliError::Failed(say::bug())),
                None => return Err(refusal(&without, wanted.len() > 1)),
            },
            arrived = signals.next() => match arrived {
                SignalEvent::End(_) | SignalEvent::EndAtOnce(_) => return Ok(PodCheck::Interrupted),
                // There is no command yet that it could be meant for.
                SignalEvent::Forward(_) => (),
            },
            _ = patience.tick() => screen.note(say::waiting_for_agents(&missing)),
        }
    }
}

/// The first port that nobody has.
fn refusal(without: &[(&DesiredIntercept, Vec<(KnownAgent, String)>)], of_several: bool) -> CliError {
    let Some((wanted, reasons)) = without.first() else { return CliError::Failed(say::bug()) };
    let reasons: Vec<_> = reasons.iter().map(|(agent, reason)| (agent.name.as_str(), reason.as_str())).collect();
    let sentence = say::nothing_live(&reasons);
    CliError::Failed(if of_several { say::of_port(wanted.port.get(), &sentence) } else { sentence })
}

/// Why this agent has nothing for the intercept.
fn verdict(answer: &AgentAnswer, wanted: &DesiredIntercept) -> Result<(), String> {
    match answer {
        Ok(ToDeveloper::Listing(listing)) => permitted(listing, wanted),
        // Whatever else it says: the answer to the intercept request counts.
        Ok(_) => Ok(()),
        Err(failure) => Err(failure.sentence.clone()),
    }
}

fn permitted(listing: &Listing, wanted: &DesiredIntercept) -> Result<(), String> {
    let port = wanted.port.get();
    let pods: Vec<&PodEntry> = listing.pods.iter().filter(|pod| selects(&wanted.target, pod)).collect();
    match pods.first() {
        // A listing that is full does not name every pod.
        None if listing.pods.len() >= limits::ENTRIES => Ok(()),
        None => Err(say::no_pod(&wanted.target)),
        Some(_) if pods.iter().any(|pod| pod.ports.is_empty() || pod.ports.contains(&port)) => Ok(()),
        Some(first) => Err(say::port_not_allowed(&first.name, port, &first.ports)),
    }
}

fn selects(target: &Target, pod: &PodEntry) -> bool {
    match target {
        Target::Pod(name) => pod.name == *name,
        Target::Labels(labels) => labels.iter().all(|(key, value)| pod.labels.get(key) == Some(value)),
        // Static agents have none.
        Target::Workload(..) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(target: &str, ports: &[u16]) -> Result<(), String> {
        let wanted = DesiredIntercept::for_test(target);
        let labels = [("app".to_owned(), "web".to_owned()), ("tier".to_owned(), "front".to_owned())].into();
        let pods = vec![PodEntry { name: "web-1".into(), labels, ports: ports.to_vec() }];
        permitted(&Listing { pods, intercepts: Vec::new() }, &wanted)
    }

    #[test]
    fn pods_and_ports_are_looked_for() {
        for target in ["web-1", "app=web", "app=web,tier=front"] {
            assert_eq!(asked(target, &[]), Ok(()));
            assert_eq!(asked(target, &[80, 8080]), Ok(()));
            let refused = asked(target, &[80, 81]).unwrap_err();
            assert!(refused.contains("port 8080 of pod web-1") && refused.contains("80, 81"), "{refused}");
        }
        for target in ["web-9", "app=db", "app=web,tier=back"] {
            let refused = asked(target, &[]).unwrap_err();
            assert!(refused.contains(target) && refused.contains("redir list"), "{refused}");
        }
    }
}
