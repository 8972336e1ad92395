//! `redir status`: the developer's own tunnels and intercepts, as the agents see them.
//!
//! Owns: turning agents' reports into events and tables. Called by: `commands`.

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

/// Asks every agent, or the cluster, and shows one report.
pub(crate) fn run(args: &QueryArgs) -> Outcome {
    let static_agents = match mode::of_question(args)? {
        CommandMode::Static(static_agents) => static_agents,
        CommandMode::Kubernetes => return kubernetes::status(args),
    };
    with_runtime(args.agents.output, async move |screen| {
        let answers = ask(&static_agents, &ToAgent::Status, &screen).await;
        let mut events = Vec::new();
        for (agent, answer) in &answers {
            if let Ok(ToDeveloper::Status(report)) = answer {
                let (name, software) = (&agent.name, &report.software);
                let tunnel = |tunnel| Event::Tunnel { agent: name.clone(), software: software.clone(), tunnel };
                events.extend(report.tunnels.iter().cloned().map(tunnel));
                let intercepts = report.intercepts.iter().cloned();
                events.extend(intercepts.map(|entry| Event::Intercept { agent: name.clone(), entry }));
            }
        }
        print(&match screen.output() {
            OutputFormat::Json => ask::json(&events),
            OutputFormat::Text if events.is_empty() => String::new(),
            OutputFormat::Text => tables(&screen, &events),
        })?;
        ask::failures(answers.iter().filter_map(|(agent, answer)| Some((agent, &answer.as_ref().err()?.sentence))))?;
        Ok(0)
    })
}

fn tables(screen: &Screen, events: &[Event]) -> String {
    let tunnels = show::table(&show::tunnels(events, timestamps::now()), screen.paint());
    let intercepts = match events.iter().any(|event| matches!(event, Event::Intercept { .. })) {
        true => show::table(&show::intercepts(events, timestamps::now()), screen.paint()),
        false => say::none_of_yours() + "\n",
    };
    format!("{tunnels}\n{intercepts}")
}
