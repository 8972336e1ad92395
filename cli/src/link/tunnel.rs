//! A tunnel to one agent: dialled, greeted, and its control stream as whole messages.
//!
//! Owns: looking the host up, and what each failure means to the developer. Must not know intercepts.
//! Called by: `link`, `commands::ask`.

use std::net::SocketAddr;
use std::time::Duration;

use redir_tunnel::{ControlError, DeveloperControl, DialError, Dialled, Identity, Lost, Pin};
use redir_wire::session::FromAgent;
use redir_wire::{Bye, CloseCode, Refused, RefusedCode, SessionError, ToAgent, ToDeveloper, Welcome};
use tokio::net::lookup_host;
use tokio::time::timeout;

use crate::model::values::{AgentAddress, KnownAgent};
use crate::user;
use crate::wording::tunnel as say;

/// A resolver's own limit is often 30 s and more; the developer wants to know earlier.
const LOOKUP: Duration = Duration::from_secs(5);
/// Name and release, for agents.
pub(crate) const SOFTWARE: &str = concat!("redir ", env!("CARGO_PKG_VERSION"));

/// A greeted tunnel. Its parts are separate, so that one task can wait for both.
pub(crate) struct Tunnel {
    pub(crate) streams: redir_tunnel::Tunnel,
    pub(crate) control: Control,
    pub(crate) welcome: Welcome,
}

/// Why there is no tunnel, or no longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TunnelError {
    /// The host's name has no address.
    NoSuchHost,
    /// No UDP socket can be opened here.
    NoSocket(String),
    /// Nothing came back in time.
    NoAnswer,
    /// The agent shows this key, and is known by another.
    WrongAgent(Pin),
    /// The agent does not know this key, which is ours.
    UnknownKey(Pin),
    /// The other end does not speak redir's protocol, or breaks it.
    NotRedir(String),
    /// The agent refused the greeting.
    Refused(RefusedCode, String),
    /// It was up, and is down for this reason.
    Lost(Lost),
    /// This machine slept, and the agent did not answer afterwards.
    Slept,
}

impl TunnelError {
    /// Whether dialling again cannot help before somebody changes something. An agent that answered before and is
    /// being replaced refuses connections for a moment, which looks like another protocol.
    pub(crate) fn is_final(&self, answered_before: bool) -> bool {
        match self {
            Self::WrongAgent(_) | Self::UnknownKey(_) => true,
            Self::NotRedir(_) => !answered_before,
            Self::Lost(Lost::Closed(code, _)) => matches!(code, CloseCode::KeyRemoved | CloseCode::Version),
            Self::Refused(RefusedCode::Shutdown | RefusedCode::NoMemory, _) => false,
            // After a change of network the agent may still count the tunnels from before.
            Self::Refused(RefusedCode::TooMany, _) => !answered_before,
            Self::Refused(..) => true,
            Self::NoSuchHost | Self::NoSocket(_) | Self::NoAnswer | Self::Lost(_) | Self::Slept => false,
        }
    }

    /// One sentence with the next step.
    pub(crate) fn sentence(&self, agent: &KnownAgent) -> String {
        match self {
            Self::NoSuchHost => say::no_such_host(agent),
            Self::NoSocket(why) => say::no_socket(why),
            Self::NoAnswer => say::no_answer(agent),
            Self::WrongAgent(has) => say::wrong_agent(agent, *has),
            Self::UnknownKey(own) => say::unknown_key(agent, *own),
            Self::NotRedir(why) => say::not_redir(agent, why),
            Self::Refused(_, sentence) => sentence.clone(),
            Self::Lost(why) => say::lost(agent, why),
            Self::Slept => say::slept(),
        }
    }

    /// The reason alone, for a tunnel that is dialled again anyway.
    pub(crate) fn reason(&self, agent: &KnownAgent) -> String {
        match self {
            Self::Lost(why) => say::lost_reason(why),
            other => other.sentence(agent),
        }
    }
}

impl From<DialError> for TunnelError {
    fn from(error: DialError) -> Self {
        match error {
            DialError::NoAddress => Self::NoSuchHost,
            DialError::Socket(error) => Self::NoSocket(error.to_string()),
            DialError::Silent(_) => Self::NoAnswer,
            DialError::NotAnAgent(_) => Self::NotRedir(say::no_quic()),
            DialError::Lost(_, why) => Self::Lost(why),
            DialError::Greeting(_, why) => Self::NotRedir(why.to_string()),
            DialError::Refused(_, refused) => refused.into(),
            DialError::WrongAgent { has, .. } => Self::WrongAgent(has),
            DialError::UnknownKey { key, .. } => Self::UnknownKey(key),
        }
    }
}

impl From<Refused> for TunnelError {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused.code, refused.sentence)
    }
}

impl From<ControlError> for TunnelError {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::Session(why) => Self::NotRedir(why.to_string()),
            ControlError::Connection(why) => Self::Lost(Lost::from(&why)),
            ControlError::Reset | ControlError::Stalled => Self::Lost(Lost::Silent),
        }
    }
}

/// All addresses of these hosts; one that has none within the limit leaves the others.
pub(crate) async fn look_up(hosts: &[AgentAddress], limit: Duration) -> Vec<SocketAddr> {
    let mut addresses = Vec::new();
    for AgentAddress { host, port } in hosts {
        // Numbers need no resolver.
        if let Ok(Ok(found)) = timeout(limit, lookup_host((host.as_str(), port.get()))).await {
            addresses.extend(found);
        }
    }
    addresses
}

/// Dials all addresses of all the agent's hosts at once, and greets.
pub(crate) async fn dial(agent: &KnownAgent, identity: &Identity) -> Result<Tunnel, TunnelError> {
    let addresses = look_up(&agent.addresses, LOOKUP).await;
    if addresses.is_empty() {
        return Err(TunnelError::NoSuchHost);
    }
    let dialled = redir_tunnel::dial(&addresses, identity, agent.key, SOFTWARE, &user::at_machine()).await?;
    let Dialled { tunnel, control, welcome } = dialled;
    Ok(Tunnel { streams: tunnel, control: Control { stream: control, bye: None }, welcome })
}

/// Our end of the control stream.
pub(crate) struct Control {
    stream: DeveloperControl,
    /// What the agent said last, if that was why it ends.
    bye: Option<Bye>,
}

impl Control {
    /// Asks; the answer carries the number given back.
    pub(crate) async fn ask(&mut self, question: &ToAgent) -> Result<u32, TunnelError> {
        let number =
            self.stream.ask(question).map_err(|why| TunnelError::NotRedir(SessionError::from(why).to_string()))?;
        self.stream.flush().await?;
        Ok(number)
    }

    /// Waits for the next message. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<FromAgent, TunnelError> {
        let Some(said) = self.stream.next().await? else {
            // An agent ends the stream before it closes the tunnel, and has said why.
            let (code, sentence) =
                self.bye.take().map_or((CloseCode::Done, String::new()), |bye| (bye.code, bye.sentence));
            return Err(TunnelError::Lost(Lost::Closed(code, sentence)));
        };
        if let ToDeveloper::Bye(bye) = &said.message {
            self.bye = Some(bye.clone());
        }
        Ok(said)
    }
}
