//! What the controller says about containers, where the configuration names pods by them: what a runtime is to be asked, and
//! what came of it.
//!
//! The guardian asks, since it alone may speak to a runtime, whose socket is as good as root; the controller reads the
//! answer, since strangers can write into it. Neither does the other's part.

use std::{fmt, str::FromStr};

use redir_config::{ContainerRef, ContainerRuntime, PodName};

use super::{
    PERMISSION_LEN,
    codec::{MalformedMessage, MessageReader, MessageWriter, read_pod},
};

/// What may be asked of a runtime. Nothing in it is the controller's to choose but which of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuntimeQuestion {
    /// Which containers start and end, from now on.
    Events(ContainerRuntime),
    /// How the container stands that the configuration names this pod by.
    Container(PodName),
}

/// What a runtime says of a pod's container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerReport {
    /// The pod, which the configuration names by a container.
    pub pod: PodName,
    /// The container that the controller knows the pod by. Since then, the configuration may have named another.
    pub container: ContainerRef,
    /// How its container stands.
    pub state: ContainerState,
}

/// How a container stands. Reasons are for people, end with the next step, and are cut to [`MAX_REASON`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerState {
    /// It runs.
    Running(RunningContainer),
    /// It does not run, or is not there.
    NotRunning(String),
    /// The runtime does not tell. What it said last stays in force.
    Unknown(String),
}

/// A container that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunningContainer {
    /// Its ID, which no other container ever has.
    pub id: ContainerId,
    /// Its first process, in the pid namespace of the runtime.
    pub pid: u32,
    /// When it was started: nanoseconds of the Unix epoch by the runtime's clock. Tells one run from the next.
    pub started: u64,
}

/// A container's ID: 32 bytes, written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ContainerId([u8; 32]);

impl FromStr for ContainerId {
    type Err = MalformedMessage;

    /// Takes all 64 digits, in lower case, as runtimes write them.
    fn from_str(text: &str) -> Result<Self, MalformedMessage> {
        let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() != 64 || !text.bytes().all(lower) {
            return Err(MalformedMessage);
        }
        let mut id = [0; 32];
        for (at, byte) in id.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| MalformedMessage)?;
        }
        Ok(Self(id))
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

type Writer = MessageWriter<PERMISSION_LEN>;

impl RuntimeQuestion {
    pub(super) fn write<'a>(&self, w: &'a mut Writer) -> &'a mut Writer {
        match self {
            Self::Events(runtime) => w.u8(number(*runtime)),
            Self::Container(pod) => w.u8(2).text(pod.key()),
        }
    }

    pub(super) fn read(r: &mut MessageReader<'_>) -> Result<Self, MalformedMessage> {
        Ok(match r.u8()? {
            0 => Self::Events(ContainerRuntime::Docker),
            1 => Self::Events(ContainerRuntime::Podman),
            2 => Self::Container(read_pod(r)?),
            _ => return Err(MalformedMessage),
        })
    }
}

impl ContainerReport {
    pub(super) fn write<'a>(&self, w: &'a mut Writer) -> &'a mut Writer {
        w.text(self.pod.key()).u8(number(self.container.runtime)).text(&self.container.name);
        match &self.state {
            ContainerState::Running(RunningContainer { id, pid, started }) => {
                w.u8(0).bytes(&id.0).u32(*pid).u64(*started)
            }
            ContainerState::NotRunning(reason) => w.u8(1).text(cut(reason)),
            ContainerState::Unknown(reason) => w.u8(2).text(cut(reason)),
        }
    }

    pub(super) fn read(r: &mut MessageReader<'_>) -> Result<Self, MalformedMessage> {
        let pod = read_pod(r)?;
        let runtime = match r.u8()? {
            0 => ContainerRuntime::Docker,
            1 => ContainerRuntime::Podman,
            _ => return Err(MalformedMessage),
        };
        let container = ContainerRef { runtime, name: r.text(ContainerRef::MAX_NAME)?.to_owned() };
        let state = match r.u8()? {
            0 => {
                let id = ContainerId(r.bytes(32)?.try_into().map_err(|_| MalformedMessage)?);
                // A pid fits the kernel's signed type, and nobody's first process is 0.
                let pid = r.u32().map(|pid| i32::try_from(pid).is_ok_and(|pid| pid > 0).then_some(pid))?;
                ContainerState::Running(RunningContainer { id, pid: pid.ok_or(MalformedMessage)?, started: r.u64()? })
            }
            1 => ContainerState::NotRunning(reason(r)?),
            2 => ContainerState::Unknown(reason(r)?),
            _ => return Err(MalformedMessage),
        };
        Ok(Self { pod, container, state })
    }
}

fn number(runtime: ContainerRuntime) -> u8 {
    match runtime {
        ContainerRuntime::Docker => 0,
        ContainerRuntime::Podman => 1,
    }
}

/// Text for people, which holds no line ends and no terminal's escapes.
fn reason(r: &mut MessageReader<'_>) -> Result<String, MalformedMessage> {
    let text = r.text(MAX_REASON)?;
    if text.chars().any(char::is_control) { Err(MalformedMessage) } else { Ok(text.to_owned()) }
}

fn cut(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(MAX_REASON)]
}

/// Bytes of a reason.
pub const MAX_REASON: usize = 500;

const _: () = assert!(1 + 2 + PodName::MAX + 1 + 2 + ContainerRef::MAX_NAME + 1 + 2 + MAX_REASON <= PERMISSION_LEN);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ControllerMessage;

    fn longest() -> PodName {
        PodName::new(&"x".repeat(PodName::MAX)).expect("a name")
    }

    fn container() -> ContainerRef {
        ContainerRef { runtime: ContainerRuntime::Podman, name: "x".repeat(ContainerRef::MAX_NAME) }
    }

    fn running(pid: u32) -> ControllerMessage {
        let running = RunningContainer { id: ContainerId([0xab; 32]), pid, started: u64::MAX };
        ControllerMessage::Container(ContainerReport {
            pod: longest(),
            container: container(),
            state: ContainerState::Running(running),
        })
    }

    #[test]
    fn what_was_written_is_read_also_at_the_limits() {
        let report =
            |state| ControllerMessage::Container(ContainerReport { pod: longest(), container: container(), state });
        let long = "é".repeat(MAX_REASON / 2);
        for message in [
            running(1),
            running(i32::MAX as u32),
            report(ContainerState::NotRunning(long.clone())),
            report(ContainerState::Unknown(long)),
            ControllerMessage::Ask(u32::MAX, RuntimeQuestion::Container(longest())),
            ControllerMessage::Ask(0, RuntimeQuestion::Events(ContainerRuntime::Docker)),
            ControllerMessage::Ask(1, RuntimeQuestion::Events(ContainerRuntime::Podman)),
        ] {
            assert_eq!(ControllerMessage::decode(&message.encode()), Ok(message));
        }
    }

    #[test]
    fn what_no_controller_says_is_refused_and_long_reasons_are_cut() {
        for wrong in [running(0), running(u32::MAX), running(1 << 31)] {
            assert_eq!(ControllerMessage::decode(&wrong.encode()), Err(MalformedMessage));
        }
        let said = |reason: &str| {
            let state = ContainerState::NotRunning(reason.to_owned());
            ControllerMessage::decode(
                &ControllerMessage::Container(ContainerReport { pod: longest(), container: container(), state })
                    .encode(),
            )
        };
        assert_eq!(said("two\nlines"), Err(MalformedMessage));
        assert_eq!(said("\u{1b}[2J"), Err(MalformedMessage));
        let Ok(ControllerMessage::Container(cut)) = said(&"é".repeat(MAX_REASON)) else { panic!("cut") };
        assert_eq!(cut.state, ContainerState::NotRunning("é".repeat(MAX_REASON / 2)));
    }

    #[test]
    fn an_id_is_64_digits_and_nothing_shorter() {
        let text = "0123456789abcdef".repeat(4);
        assert_eq!(text.parse::<ContainerId>().expect("an ID").to_string(), text);
        for wrong in [&text[1..], &text.to_uppercase(), &text.replace('0', "g"), &text.replace('0', "+"), ""] {
            assert_eq!(wrong.parse::<ContainerId>(), Err(MalformedMessage), "{wrong}");
        }
    }
}
