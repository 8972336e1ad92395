//! `redir leave`: ends intercepts of one's own, also those of another terminal.
//!
//! Owns: what counts as having left. Called by: `commands`.

use std::collections::BTreeMap;

use redir_wire::{LeaveScope, RefusedCode, ToAgent, ToDeveloper};

use super::ask::{self, ask};
use super::kubernetes;
use super::runtime::with_runtime;
use crate::args::LeaveArgs;
use crate::cluster::mode::{self, CommandMode, ModeSigns};
use crate::error::{CliError, Outcome};
use crate::events::Event;
use crate::link::selector;
use crate::model::values::LeaveTarget;
use crate::wording::session as say;

/// Asks every agent to end what is named; it is a failure if nobody had what is named.
pub(crate) fn run(args: &LeaveArgs) -> Outcome {
    let target = match &args.which {
        Some(LeaveTarget::Target(target)) => Some(target),
        Some(LeaveTarget::Id(_)) | None => None,
    };
    let static_agents = match mode::of(&ModeSigns { target, flag: None, cluster: &args.cluster }, &args.agents)? {
        CommandMode::Static(static_agents) => static_agents,
        CommandMode::Kubernetes => return kubernetes::leave(args),
    };
    let asked = match &args.which {
        Some(LeaveTarget::Id(id)) => LeaveScope::Id(*id),
        Some(LeaveTarget::Target(target)) => LeaveScope::Selector(selector(target), None),
        None => LeaveScope::All,
    };
    with_runtime(args.agents.output, async move |screen| {
        let answers = ask(&static_agents, &ToAgent::Leave(asked), &screen).await;
        let mut ended = 0_usize;
        let mut failed = Vec::new();
        for (agent, answer) in &answers {
            match answer {
                Ok(ToDeveloper::Left(left)) => {
                    ended += left.intercepts.len();
                    // Several intercepts in the same pods are named alike.
                    let mut alike = BTreeMap::<&str, Vec<Option<u64>>>::new();
                    left.intercepts.iter().for_each(|left| alike.entry(&left.what).or_default().push(left.id));
                    for (what, ids) in alike {
                        let (agent, what, count) = (agent.name.clone(), what.to_owned(), ids.len());
                        screen.tell(&Event::Left { agent, what, count, ids: ids.into_iter().flatten().collect() });
                    }
                }
                // It is with another agent, or nowhere.
                Err(failure) if failure.code == Some(RefusedCode::NotFound) => (),
                Err(failure) => failed.push((agent, &failure.sentence)),
                Ok(_) => (),
            }
        }
        ask::failures(failed)?;
        match ended {
            // There is nothing of theirs left, which is what they asked for.
            0 if args.all => {
                screen.note(say::none_of_yours());
                Ok(0)
            }
            0 => Err(CliError::Failed(say::nothing_to_leave(args.which.as_ref()))),
            _ => Ok(0),
        }
    })
}
