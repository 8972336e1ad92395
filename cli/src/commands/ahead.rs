//! What is asked before the developer's command is started: whether any agent has a pod for the intercept.
//!
//! Owns: asking all agents at once, and the refusal. Must not start or intercept anything. Called by: `intercept`.

use redir_wire::{Listing, PodEntry, ToAgent, ToDeveloper, limits};
use tokio::task::JoinSet;

use super::ask::{Answer, one};
use super::own::patience;
use crate::config::Agent;
use crate::link::Wanted;
use crate::reach::Reached;
use crate::screen::Screen;
use crate::signals::{Arrived, Signals};
use crate::trouble::Trouble;
use crate::values::Target;
use crate::wording::session as say;

/// What to do with the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ahead {
    /// An agent has a pod that may be intercepted.
    Start,
    /// The developer changed their mind.
    Interrupted,
}

/// Waits for the first agent with such a pod; it is a failure if none has one.
pub(super) async fn look(
    screen: &Screen,
    signals: &mut Signals,
    reached: &Reached,
    wanted: &Wanted,
) -> Result<Ahead, Trouble> {
    let mut asking = JoinSet::new();
    for agent in reached.agents.iter().cloned() {
        let identity = reached.identity.clone();
        asking.spawn(async move {
            let answer = one(&agent, &identity, &ToAgent::List).await;
            (agent, answer)
        });
    }
    let mut missing = reached.agents.clone();
    let mut without: Vec<(Agent, String)> = Vec::new();
    let mut patience = patience();
    loop {
        tokio::select! {
            answered = asking.join_next() => match answered {
                Some(Ok((agent, answer))) => {
                    missing.retain(|missing| *missing != agent);
                    match verdict(answer, wanted) {
                        Ok(()) => return Ok(Ahead::Start),
                        Err(reason) => without.push((agent, reason)),
                    }
                }
                Some(Err(_)) => return Err(Trouble::Failed(say::bug())),
                None => {
                    let reasons: Vec<_> =
                        without.iter().map(|(agent, reason)| (agent.name.as_str(), reason.as_str())).collect();
                    return Err(Trouble::Failed(say::nothing_live(&reasons)));
                }
            },
            arrived = signals.next() => match arrived {
                Arrived::End(_) | Arrived::EndAtOnce(_) => return Ok(Ahead::Interrupted),
                // There is no command yet that it could be meant for.
                Arrived::Forward(_) => (),
            },
            _ = patience.tick() => screen.note(say::waiting_for_agents(&missing)),
        }
    }
}

/// Why this agent has nothing for the intercept.
fn verdict(answer: Answer, wanted: &Wanted) -> Result<(), String> {
    match answer {
        Ok(ToDeveloper::Listing(listing)) => permitted(&listing, wanted),
        // Whatever else it says, the wish itself gets the answer that counts.
        Ok(_) => Ok(()),
        Err(failure) => Err(failure.sentence),
    }
}

fn permitted(listing: &Listing, wanted: &Wanted) -> Result<(), String> {
    let port = wanted.ports.pod.get();
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
    use redir_wire::{EarlierConnections, Probes, Token};

    use super::*;
    use crate::service::Speaks;

    fn asked(target: &str, ports: &[u16]) -> Result<(), String> {
        let wanted = Wanted {
            token: Token([1; 16]),
            target: target.parse().unwrap(),
            ports: crate::values::Ports { pod: 8080.try_into().unwrap(), own: 3000.try_into().unwrap() },
            filter: None,
            probes: Probes::App,
            earlier: EarlierConnections::Stay,
            speaks: Speaks::Plaintext,
        };
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
