//! `redir list`: what is intercepted, and what can be.
//!
//! Owns: turning agents' listings into events and tables. Called by: `commands`.

use redir_wire::{ToAgent, ToDeveloper};

use super::ask::{self, ask};
use super::kubernetes;
use super::runtime::with_runtime;
use crate::args::{OutputFormat, QueryArgs};
use crate::cluster::mode::{self, CommandMode};
use crate::error::Outcome;
use crate::events::Event;
use crate::screen::{Screen, print};
use crate::timestamps;
use crate::wording::{events as show, session as say};

/// Asks every agent, or the cluster, and shows one list.
pub(crate) fn run(args: &QueryArgs) -> Outcome {
    let static_agents = match mode::of_question(args)? {
        CommandMode::Static(static_agents) => static_agents,
        CommandMode::Kubernetes => return kubernetes::list(args),
    };
    with_runtime(args.agents.output, async move |screen| {
        let answers = ask(&static_agents, &ToAgent::List, &screen).await;
        let mut events = Vec::new();
        for (agent, answer) in &answers {
            if let Ok(ToDeveloper::Listing(listing)) = answer {
                let name = &agent.name;
                let pods = listing.pods.iter().cloned();
                events.extend(pods.map(|pod| Event::Pod { agent: name.clone(), pod }));
                let intercepts = listing.intercepts.iter().cloned();
                events.extend(intercepts.map(|entry| Event::Intercept { agent: name.clone(), entry }));
            }
        }
        let answered = answers.iter().any(|(_, answer)| answer.is_ok());
        print(&match screen.output() {
            OutputFormat::Json => ask::json(&events),
            OutputFormat::Text if answered => tables(&screen, &events),
            OutputFormat::Text => String::new(),
        })?;
        ask::failures(answers.iter().filter_map(|(agent, answer)| Some((agent, &answer.as_ref().err()?.sentence))))?;
        Ok(0)
    })
}

fn tables(screen: &Screen, events: &[Event]) -> String {
    let is_pod = |event: &Event| matches!(event, Event::Pod { .. });
    let pods = match events.iter().any(is_pod) {
        true => show::table(&show::pods(events), screen.paint()),
        false => say::no_pods() + "\n",
    };
    let intercepts = match events.iter().all(is_pod) {
        true => say::no_intercepts() + "\n",
        false => show::table(&show::intercepts(events, timestamps::now()), screen.paint()),
    };
    format!("{pods}\n{intercepts}")
}
