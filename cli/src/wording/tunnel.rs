//! What is said when an agent cannot be reached, does not let us in, or goes away.

use redir_tunnel::{Lost, Pin};
use redir_wire::CloseCode;

use crate::escape::{escape, escape_sentence};
use crate::model::values::KnownAgent;

/// `node-1 (10.0.0.1:7447)`, or the address alone if it came from a flag.
pub(crate) fn agent(agent: &KnownAgent) -> String {
    let addresses: Vec<String> = agent.addresses.iter().map(ToString::to_string).collect();
    let (name, addresses) = (escape(&agent.name), addresses.join(", "));
    if name == addresses { addresses } else { format!("{name} ({addresses})") }
}

pub(crate) fn no_such_host(of: &KnownAgent) -> String {
    format!("the host of agent {} has no address: check its name and your DNS", agent(of))
}

pub(crate) fn no_answer(of: &KnownAgent) -> String {
    let port = of.addresses.first().map_or(0, |address| address.port.get());
    format!(
        "agent {} does not answer: check the address, that redir-agent runs there, and that UDP port {port} is open",
        agent(of)
    )
}

pub(crate) fn wrong_agent(of: &KnownAgent, has: Pin) -> String {
    format!(
        "agent {} shows another key, {has}, than {}: ask its admin which is right before you trust it",
        agent(of),
        of.key
    )
}

pub(crate) fn unknown_key(of: &KnownAgent, own: Pin) -> String {
    format!("agent {} does not know your key {own}: give its admin the lines that `redir keygen` printed", agent(of))
}

pub(crate) fn not_redir(of: &KnownAgent, why: &str) -> String {
    format!(
        "{} does not speak redir's protocol ({}): check the port, or use the agent's version of redir",
        agent(of),
        escape_sentence(why)
    )
}

pub(crate) fn no_socket(why: &str) -> String {
    format!("cannot open a UDP socket ({}): raise the limit of open files with ulimit -n", escape_sentence(why))
}

pub(crate) fn no_quic() -> String {
    "its answer is not QUIC with redir/1".to_owned()
}

pub(crate) fn lost(of: &KnownAgent, why: &Lost) -> String {
    let next = match why {
        Lost::Closed(CloseCode::KeyRemoved, _) => "ask its admin to let your key in again",
        Lost::Closed(CloseCode::Version, _) => "use the agent's version of redir",
        _ => "try again, or see its log",
    };
    format!("no tunnel to agent {} ({}): {next}", agent(of), lost_reason(why))
}

pub(crate) fn lost_reason(why: &Lost) -> String {
    match why {
        Lost::Silent => "the agent was silent for 10 s".to_owned(),
        Lost::Restarted => "the agent was restarted".to_owned(),
        Lost::Alert(_) | Lost::Here | Lost::Broken | Lost::Closed(..) => escape_sentence(&why.to_string()),
    }
}

pub(crate) fn slept() -> String {
    "this machine slept".to_owned()
}
