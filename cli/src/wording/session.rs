//! What is said while an intercept or a question is under way, and when it does not work.

use std::ffi::OsStr;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::escape::{escape, escape_sentence};
use crate::model::values::{KnownAgent, LeaveTarget, Target};
use crate::service::Service;
use crate::wording::tunnel::agent;

pub(crate) fn left_out(lines: u64) -> String {
    format!("({lines} lines were left out: the terminal did not take them in time)")
}

pub(crate) fn empty_command() -> String {
    "there is no command behind --: write the program that starts your service, or leave -- out".to_owned()
}

pub(crate) fn wait_without_command() -> String {
    "--wait is for a command and there is no command: add one, such as -- npm start, or leave --wait out".to_owned()
}

pub(crate) fn command_not_started(program: &OsStr, error: &io::Error) -> String {
    let program = escape(program.to_string_lossy().as_ref());
    match error.kind() {
        io::ErrorKind::NotFound => format!("there is no program `{program}`: check its spelling and your PATH"),
        io::ErrorKind::PermissionDenied => format!("`{program}` may not be run: make it executable with chmod +x"),
        _ => {
            format!("`{program}` did not start ({}): run it by itself to see why", escape_sentence(&error.to_string()))
        }
    }
}

pub(crate) fn not_written(error: &io::Error) -> String {
    format!("cannot write to standard output ({error}): check where it is directed to")
}

pub(crate) fn no_runtime(error: &io::Error) -> String {
    format!("cannot start ({error}): close other programs or raise the limit of open files with ulimit -n")
}

pub(crate) fn no_signals(error: &io::Error) -> String {
    format!("cannot listen to Ctrl-C ({error}): raise the limit of open files with ulimit -n")
}

pub(crate) fn no_random() -> String {
    "the system gave no random numbers: try again".to_owned()
}

pub(crate) fn bug() -> String {
    "internal error in redir, which ended the intercept: please report it with what redir printed".to_owned()
}

pub(crate) fn nothing_answers(service: &Service) -> String {
    format!("nothing answers on {service} yet: start your service, matched requests get 502 until then")
}

pub(crate) fn answers_already(service: SocketAddr) -> String {
    format!("another process answers on {service} already: end it, or your command may find the port taken")
}

pub(crate) fn waiting_for_command(services: &[&Service], so_far: Duration) -> String {
    format!("waiting until your command answers on {} ({} s so far)", and(services), so_far.as_secs())
}

pub(crate) fn command_never_answered(services: &[&Service], wait: Duration) -> String {
    format!(
        "your command did not answer on {} within {} s and was ended: check --port POD:YOURS and --to, or give it more time with --wait",
        and(services),
        wait.as_secs()
    )
}

fn and(services: &[&Service]) -> String {
    services.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}

/// A sentence about one of several ports.
pub(crate) fn of_port(port: u16, sentence: &str) -> String {
    format!("port {port}: {sentence}")
}

pub(crate) fn waiting_for_agents(agents: &[KnownAgent]) -> String {
    let names: Vec<String> = agents.iter().map(agent).collect();
    format!("waiting for {}", names.join(", "))
}

pub(crate) fn still_dialling(of: &KnownAgent, so_far: Duration, reason: &str) -> String {
    format!("still no tunnel to {} after {} s: {}", agent(of), so_far.as_secs(), escape_sentence(reason))
}

pub(crate) fn pod_not_live(pod: &str, reason: &str) -> String {
    format!("{}: {}", escape(pod), escape_sentence(reason))
}

pub(crate) fn no_pod(target: &Target) -> String {
    format!("there is no pod {} here: `redir list` shows those that can be intercepted", escape(target.to_string()))
}

pub(crate) fn port_not_allowed(pod: &str, port: u16, allowed: &[u16]) -> String {
    let allowed: Vec<String> = allowed.iter().take(8).map(u16::to_string).collect();
    format!("port {port} of pod {} may not be intercepted; allowed are: {}", escape(pod), allowed.join(", "))
}

pub(crate) fn never_armed(limit: Duration) -> String {
    format!("its pods were not ready within {} s: see the agent's log", limit.as_secs())
}

pub(crate) fn draining() -> String {
    "letting the requests under way finish; Ctrl-C again ends at once".to_owned()
}

pub(crate) fn waiting_for_end() -> String {
    "waiting for your command to end; Ctrl-C again kills it".to_owned()
}

pub(crate) fn you_ended_it() -> String {
    "requests go to the app again".to_owned()
}

pub(crate) fn nothing_yet() -> String {
    "nothing was intercepted yet".to_owned()
}

pub(crate) fn command_ended_first(code: u8) -> String {
    format!("nothing was intercepted: your command ended before, with exit code {code}; run it by itself to see why")
}

pub(crate) fn command_ended_it() -> String {
    "your command ended; requests go to the app again".to_owned()
}

/// Every agent's reason, in one sentence.
pub(crate) fn nothing_live(reasons: &[(&str, &str)]) -> String {
    format!("nothing is intercepted: {}", each(reasons))
}

pub(crate) fn not_answered(failed: &[(&str, &str)]) -> String {
    each(failed)
}

fn each(reasons: &[(&str, &str)]) -> String {
    match reasons {
        [(_, only)] => escape_sentence(only),
        many => {
            let texts: Vec<String> =
                many.iter().map(|(agent, reason)| format!("{}: {}", escape(agent), escape_sentence(reason))).collect();
            texts.join("; ")
        }
    }
}

pub(crate) fn no_answer(of: &KnownAgent) -> String {
    format!("{} took the question and did not answer: see its log, or try again", agent(of))
}

pub(crate) fn no_pods() -> String {
    "no pod can be intercepted with your key: ask the agent's admin to add labels to your `pods`".to_owned()
}

pub(crate) fn no_intercepts() -> String {
    "nothing is intercepted".to_owned()
}

pub(crate) fn none_of_yours() -> String {
    "you intercept nothing".to_owned()
}

pub(crate) fn nothing_to_leave(which: Option<&LeaveTarget>) -> String {
    let what = match which {
        Some(LeaveTarget::Id(id)) => format!("no intercept of yours has the number {id}"),
        Some(LeaveTarget::Target(target)) => format!("you intercept nothing on {}", escape(target.to_string())),
        None => "you intercept nothing".to_owned(),
    };
    format!("{what}: `redir list` shows what there is")
}

/// An agent of an earlier release.
pub(crate) fn agent_is_older(agent: &str, flag: &str) -> String {
    format!("{} is of an earlier release and does not know {flag}: it goes on without; have it updated", escape(agent))
}
