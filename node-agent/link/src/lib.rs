//! What the controller and the worker say to each other, and how: JSON in frames that begin with their length.
//!
//! Owns the messages, the form of them, and their limits. Everything is said as changes against nothing: whoever is joined
//! with another process says it all anew. What the worker says is read as text for the status of its own node and gives
//! nobody a right.

pub mod health_checks;
pub mod resolved;

use std::{collections::BTreeMap, io, time::Duration};

use redir_api::PodState;
use redir_config::{PodName, certificates::Pair};
use redir_wire::{Token, limits};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::resolved::{KnownPod, ResolvedIntercept};

/// Name and release.
pub const SOFTWARE: &str = concat!("redir-agent ", env!("CARGO_PKG_VERSION"));

/// Controller → worker.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToWorker {
    /// An Intercept is such.
    Intercept(InterceptUid, Box<ResolvedIntercept>),
    /// An Intercept is gone.
    InterceptGone(InterceptUid),
    /// A pod of this node is such.
    Pod(PodName, KnownPod),
    /// A pod is gone.
    PodGone(PodName),
    /// The certificates of an intercepted port's app.
    Certificates(PodName, u16, Vec<Pair>),
    /// There are none for it any more.
    CertificatesGone(PodName, u16),
    /// What was said so far is whole: it is in force from now on.
    Commit,
    /// The controller's condition; also a sign of life.
    Health(ControllerHealth),
}

/// Worker → controller.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToController {
    /// An intercept with a live tunnel stands so.
    InterceptReport(InterceptUid, InterceptReport),
    /// An intercept has no tunnel any more.
    Gone(InterceptUid),
    /// That was all for now.
    Commit,
}

/// An Intercept's UID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterceptUid([u8; 16]);

impl From<Token> for InterceptUid {
    fn from(Token(bytes): Token) -> Self {
        Self(bytes)
    }
}

impl From<InterceptUid> for Token {
    fn from(InterceptUid(bytes): InterceptUid) -> Self {
        Self(bytes)
    }
}

/// The controller's condition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerHealth {
    /// For how long the API server has not been heard; `None`: it is.
    pub silent: Option<Duration>,
    /// Intercepts in the whole cluster.
    pub objects: u64,
    /// Calls to the API server that failed, since the controller's start.
    pub api_errors: u64,
    /// Intercepts that were deleted because nobody renewed them, since the controller's start.
    pub expired: u64,
}

/// How an intercept stands here, for the control plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterceptReport {
    /// Pod by pod.
    pub pods: Vec<PodInterceptReport>,
    /// What others take from it.
    pub conflicts: Vec<ConflictReport>,
}

/// How every intercept with a live tunnel stands.
pub type InterceptReports = BTreeMap<Token, InterceptReport>;

/// How an intercept stands in one pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodInterceptReport {
    /// Which.
    pub pod: PodName,
    /// Never `Waiting`: there is a tunnel.
    pub state: PodState,
    /// Why it is not live; ends with the next step.
    pub reason: String,
    /// Milliseconds since 1970.
    pub since: u64,
    /// Those that are not loopback.
    pub addresses: Vec<String>,
    /// The app is known not to listen where clients reach it.
    pub nobody_listens: bool,
}

/// Another intercept that takes requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConflictReport {
    /// In which pod.
    pub pod: String,
    /// Whose.
    pub developer: String,
    /// Milliseconds since 1970.
    pub since: u64,
    /// All of them.
    pub everything: bool,
}

impl InterceptReport {
    /// As much of it as one message has room for: the first of what there is.
    pub fn bounded(mut self) -> Self {
        let cut = |text: &mut String, most: usize| text.truncate(text.floor_char_boundary(most));
        self.pods.truncate(MOST_ENTRIES);
        for pod in &mut self.pods {
            cut(&mut pod.reason, limits::SENTENCE);
            pod.addresses.truncate(MOST_ADDRESSES);
            pod.addresses.iter_mut().for_each(|address| cut(address, limits::NAME));
        }
        self.conflicts.truncate(MOST_ENTRIES);
        for conflict in &mut self.conflicts {
            cut(&mut conflict.pod, limits::NAME);
            cut(&mut conflict.developer, limits::NAME);
        }
        keep_to(&mut self.pods, POD_BYTES as usize);
        keep_to(&mut self.conflicts, CONFLICT_BYTES as usize);
        self
    }

    /// How long it is when it is said.
    pub fn bytes(&self) -> usize {
        said_bytes(self)
    }
}

/// The first entries, as many as have room.
fn keep_to<T: Serialize>(entries: &mut Vec<T>, mut room: usize) {
    let fits = |entry: &T| {
        let left = room.checked_sub(said_bytes(entry) + 1);
        room = left.unwrap_or(0);
        left.is_some()
    };
    entries.truncate(entries.iter().map(fits).take_while(|fits| *fits).count());
}

fn said_bytes(what: &impl Serialize) -> usize {
    serde_json::to_vec(what).map_or(usize::MAX / 2, |said| said.len())
}

/// Sends one message. Not to be dropped half-way: the rest of a frame would be missing.
pub async fn send(to: &mut (impl AsyncWrite + Unpin), message: &impl Serialize) -> io::Result<()> {
    let (length, body) = frame(message)?;
    to.write_all(&length.to_ne_bytes()).await?;
    to.write_all(&body).await
}

/// Sends one message, or this one in its place if it is too long: one object must not end what is said of all others.
pub async fn send_or<T: Serialize>(
    to: &mut (impl AsyncWrite + Unpin),
    message: &T,
    instead: impl FnOnce() -> T,
) -> io::Result<()> {
    match send(to, message).await {
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            tracing::error!("{error}; what it is about is left out");
            send(to, &instead()).await
        }
        sent => sent,
    }
}

/// A message's length and bytes.
fn frame(message: &impl Serialize) -> io::Result<(u32, Vec<u8>)> {
    let body = serde_json::to_vec(message)?;
    let length = u32::try_from(body.len()).ok().filter(|length| *length <= LONGEST);
    let too_long = || io::Error::new(io::ErrorKind::FileTooLarge, "a message is too long for the other process");
    Ok((length.ok_or_else(too_long)?, body))
}

/// Receives one message of at most so many bytes; `None` once the other end is closed. Not to be dropped half-way.
pub async fn receive<T: DeserializeOwned>(from: &mut (impl AsyncRead + Unpin), longest: u32) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    if let Err(error) = from.read_exact(&mut length).await {
        return if error.kind() == io::ErrorKind::UnexpectedEof { Ok(None) } else { Err(error) };
    }
    let length = u32::from_ne_bytes(length);
    if length > longest {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the other process announces too long a message"));
    }
    let mut body = Vec::new();
    // Room is made for what comes, not for what is announced.
    from.take(length.into()).read_to_end(&mut body).await?;
    serde_json::from_slice(&body).map(Some).map_err(io::Error::from)
}

/// What has to be said after `before` to come to `after`.
pub fn changes<'a, K: Ord, V: PartialEq>(
    before: &'a BTreeMap<K, V>,
    after: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, Option<&'a V>)> {
    let new = after.iter().filter(|(key, value)| before.get(key) != Some(value)).map(|(key, value)| (key, Some(value)));
    let gone = before.keys().filter(|key| !after.contains_key(key)).map(|key| (key, None));
    new.chain(gone)
}

/// How often the controller sends its condition, at the least.
pub const SIGN_OF_LIFE: Duration = Duration::from_secs(5);
/// Bytes. The longest are the certificates of a port, which `controller::secrets` keeps far below it.
pub const LONGEST: u32 = 4 << 20;
/// Bytes of what the worker says at once: the state of an intercept in every pod of a large node.
pub const LONGEST_REPORT: u32 = POD_BYTES + CONFLICT_BYTES + ENVELOPE_BYTES;
/// Bytes of the pods of a [`InterceptReport`], as it is said: 250 for a live one.
const POD_BYTES: u32 = 96 << 10;
/// Bytes of its conflicts, as they are said: some hundred each. Of more, people read the first.
const CONFLICT_BYTES: u32 = 32 << 10;
/// Bytes around them: the UID and the names of the fields.
const ENVELOPE_BYTES: u32 = 1 << 10;
/// Pods or conflicts of one intercept.
const MOST_ENTRIES: usize = 256;
/// Addresses of one pod.
const MOST_ADDRESSES: usize = 16;

const _: () = assert!(LONGEST_REPORT <= LONGEST, "what is bounded can be sent");

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_arrive_whole_and_in_order() {
        let (mut one, mut other) = tokio::io::duplex(7);
        let sender = tokio::spawn(async move {
            for objects in 0..3 {
                send(&mut one, &ToWorker::Health(ControllerHealth { objects, ..ControllerHealth::default() }))
                    .await
                    .expect("sent");
            }
        });
        for expected in 0..3 {
            let heard = receive::<ToWorker>(&mut other, LONGEST).await.expect("received");
            assert!(
                matches!(heard, Some(ToWorker::Health(ControllerHealth { objects, .. })) if objects == expected),
                "{heard:?}"
            );
        }
        sender.await.expect("ended");
        assert!(receive::<ToWorker>(&mut other, LONGEST).await.expect("an end").is_none());
    }

    #[tokio::test]
    async fn what_is_too_long_or_no_message_is_an_error() {
        for bytes in [&u32::MAX.to_ne_bytes()[..], b"\x02\0\0\0{}", b"\x09\0\0\0\"Com"] {
            let mut from = bytes;
            assert!(receive::<ToController>(&mut from, 64).await.is_err(), "{bytes:?}");
        }
        let mut whole = b"\x08\0\0\0\"Commit\"".as_slice();
        assert!(matches!(receive(&mut whole, 64).await.expect("read"), Some(ToController::Commit)));
    }

    #[test]
    fn a_standing_is_cut_to_what_an_honest_worker_says() {
        let pod = PodInterceptReport {
            pod: PodName::new("uid").expect("a name"),
            state: PodState::Live,
            reason: "é".repeat(10_000),
            since: 0,
            addresses: vec!["1".repeat(300); 300],
            nobody_listens: false,
        };
        let conflict = ConflictReport { pod: "p".repeat(300), developer: "d".repeat(300), since: 0, everything: true };
        let long = InterceptReport { pods: vec![pod; 300], conflicts: vec![conflict; 300] };
        let cut = long.bounded();
        assert!(cut.pods[0].reason.len() <= limits::SENTENCE && cut.pods[0].addresses[0].len() == limits::NAME);
        assert!((2..MOST_ENTRIES).contains(&cut.pods.len()) && (2..MOST_ENTRIES).contains(&cut.conflicts.len()));
        let short = InterceptReport { pods: cut.pods[..2].to_vec(), conflicts: Vec::new() };
        assert_eq!(short.clone().bounded(), short);
    }

    /// The worst there is, escaped as long as it can be.
    #[tokio::test]
    async fn the_longest_standing_is_sent_and_received() {
        let pod = PodInterceptReport {
            pod: PodName::of_uid("uid", "shop", &"n".repeat(253)).expect("a name"),
            state: PodState::Live,
            reason: "\u{1}".repeat(10_000),
            since: u64::MAX,
            addresses: vec!["1".repeat(300); 300],
            nobody_listens: true,
        };
        let name = "\u{1}".repeat(300);
        let conflict = ConflictReport { pod: name.clone(), developer: name, since: u64::MAX, everything: false };
        for (pods, conflicts) in [(300, 300), (0, 3000), (3000, 0)] {
            let report =
                InterceptReport { pods: vec![pod.clone(); pods], conflicts: vec![conflict.clone(); conflicts] };
            let report = report.bounded();
            let mut bytes = Vec::new();
            let uid = InterceptUid::from(Token([255; 16]));
            send(&mut bytes, &ToController::InterceptReport(uid, report.clone())).await.expect("sent");
            let heard = receive(&mut &bytes[..], LONGEST_REPORT).await.expect("received");
            assert!(matches!(heard, Some(ToController::InterceptReport(_, heard)) if heard == report));
        }
    }

    #[tokio::test]
    async fn what_is_too_long_to_be_said_is_left_out_and_the_rest_is_said() {
        let mut bytes = Vec::new();
        let long = "x".repeat(LONGEST as usize);
        assert!(send(&mut bytes, &long).await.is_err() && bytes.is_empty());
        send_or(&mut bytes, &long, || "gone".to_owned()).await.expect("sent");
        send_or(&mut bytes, &"next".to_owned(), || "gone".to_owned()).await.expect("sent");
        let mut from = &bytes[..];
        for expected in ["gone", "next"] {
            let heard: Option<String> = receive(&mut from, LONGEST).await.expect("received");
            assert_eq!(heard.as_deref(), Some(expected));
        }
    }

    #[test]
    fn changes_lead_from_the_one_to_the_other() {
        let before = BTreeMap::from([(1, 'a'), (2, 'b'), (3, 'c')]);
        let after = BTreeMap::from([(1, 'a'), (2, 'x'), (4, 'd')]);
        let said: Vec<_> = changes(&before, &after).map(|(key, value)| (*key, value.copied())).collect();
        assert_eq!(said, [(2, Some('x')), (4, Some('d')), (3, None)]);
        let mut told = before.clone();
        for (key, value) in said {
            match value {
                Some(value) => drop(told.insert(key, value)),
                None => drop(told.remove(&key)),
            }
        }
        assert_eq!(told, after);
    }
}
