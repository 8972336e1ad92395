//! `redir leave`: ends intercepts of one's own, also those of another terminal.
//!
//! Owns: what counts as having left. Called by: `commands`.

use std::collections::BTreeMap;

use redir_wire::{RefusedCode, ToAgent, ToDeveloper, Which as Asked};

use super::ask::{self, ask};
use super::objects;
use crate::args::Leave;
use crate::cluster::mode::{self, Mode, Signs};
use crate::events::Event;
use crate::link::selector;
use crate::trouble::{Outcome, Trouble};
use crate::values::Which;
use crate::wording::session as say;

/// Asks every agent to end what is named; it is a failure if nobody had what is named.
pub(crate) fn run(args: &Leave) -> Outcome {
    let target = match &args.which {
        Some(Which::Target(target)) => Some(target),
        Some(Which::Id(_)) | None => None,
    };
    let reached = match mode::of(&Signs { target, flag: None, cluster: &args.cluster }, &args.reach)? {
        Mode::Static(reached) => reached,
        Mode::Kubernetes => return objects::leave(args),
    };
    let asked = match &args.which {
        Some(Which::Id(id)) => Asked::Id(*id),
        Some(Which::Target(target)) => Asked::Selector(selector(target), None),
        None => Asked::All,
    };
    super::with_runtime(args.reach.output, async move |screen| {
        let answers = ask(&reached, &ToAgent::Leave(asked), &screen).await;
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
            0 => Err(Trouble::Failed(say::nothing_to_leave(args.which.as_ref()))),
            _ => Ok(0),
        }
    })
}
