//! An answer of a container runtime, and what it says of one container.
//!
//! Owns the bounds in bytes and time, and what is taken for a container that runs. hyper reads HTTP; its own request goes
//! nowhere, since the guardian has asked already.

use std::{
    io,
    os::fd::OwnedFd,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, Response, StatusCode, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use redir_config::ContainerRuntime;
use redir_ipc::{ContainerState, MAX_REASON, RunningContainer};
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::unix::pipe,
    task::JoinSet,
    time::timeout,
};

/// An answer whose head has come.
pub(super) struct RuntimeAnswer {
    response: Response<Incoming>,
    /// What reads the pipe, which ends with this.
    reader: JoinSet<()>,
}

/// Why there is no answer; a sentence for people.
#[derive(Debug)]
pub(super) enum Failure {
    /// The runtime could not be asked.
    NotAsked(String),
    /// The runtime does not answer.
    Silent(String),
    /// It does, with what cannot be read.
    MalformedMessage(String),
}

impl RuntimeAnswer {
    /// Reads the head.
    pub(super) async fn head(runtime: ContainerRuntime, pipe: OwnedFd) -> Result<Self, Failure> {
        let malformed = |error: &dyn std::fmt::Display| {
            Failure::MalformedMessage(format!(
                "{runtime}'s answer cannot be read ({error}); see what listens on its socket"
            ))
        };
        // The guardian gives pipes that never wait; looking whether it did takes a call that this process has not got.
        let pipe = pipe::Receiver::from_owned_fd_unchecked(pipe).map_err(|error| malformed(&error))?;
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(MOST_HEAD)
            .handshake(TokioIo::new(OneWay::new(pipe)))
            .await
            .map_err(|error| malformed(&error))?;
        let mut reader = JoinSet::new();
        reader.spawn(async { drop(connection.await) });
        let response = timeout(PATIENCE, sender.send_request(Request::new(Empty::<Bytes>::new()))).await;
        let response = response.map_err(|_| silent(runtime))?.map_err(|error| malformed(&error))?;
        Ok(Self { response, reader })
    }

    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// The body, as it comes, and what it needs to come.
    pub(super) fn into_body(self) -> (Incoming, JoinSet<()>) {
        (self.response.into_body(), self.reader)
    }

    /// What a runtime says that does not do what it was asked for.
    pub(super) async fn refusal(self, runtime: ContainerRuntime) -> String {
        let status = self.status();
        refusal(runtime, status, &self.bytes(runtime).await.unwrap_or_default())
    }

    /// The whole body.
    async fn bytes(self, runtime: ContainerRuntime) -> Result<Bytes, Failure> {
        let body = Limited::new(self.response.into_body(), MOST_BODY);
        let whole = timeout(PATIENCE, body.collect()).await.map_err(|_| silent(runtime))?;
        let whole = whole.map_err(|error| {
            Failure::MalformedMessage(format!(
                "{runtime}'s answer cannot be read ({error}); see what listens on its socket"
            ))
        });
        whole.map(|whole| whole.to_bytes())
    }

    /// How a container stands that was asked for by this name.
    pub(super) async fn container(self, runtime: ContainerRuntime, name: &str) -> Result<ContainerState, Failure> {
        let status = self.status();
        let body = self.bytes(runtime).await?;
        Ok(match status {
            StatusCode::OK => match serde_json::from_slice(&body) {
                Ok(seen) => state(runtime, name, &seen),
                Err(_) => {
                    let answer = format!("{runtime} says of container {name} what is not understood");
                    return Err(Failure::MalformedMessage(format!("{answer}; see what listens on its socket")));
                }
            },
            StatusCode::NOT_FOUND => ContainerState::NotRunning(format!(
                "{runtime} has no container {name}; start one of that name, or correct the pod's `{}`",
                runtime.key()
            )),
            other => ContainerState::Unknown(refusal(runtime, other, &body)),
        })
    }
}

/// What `GET /containers/NAME/json` says.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    id: String,
    name: String,
    state: InspectedState,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedState {
    #[serde(default)]
    status: String,
    running: bool,
    pid: u32,
    started_at: String,
}

#[derive(Deserialize)]
struct Problem {
    message: String,
}

/// A runtime takes the beginning of an ID for a name, too; which container that is may change.
fn state(runtime: ContainerRuntime, name: &str, seen: &Inspected) -> ContainerState {
    let own = seen.name.strip_prefix('/').unwrap_or(&seen.name);
    if own != name && seen.id != name {
        let own = plain(own, MAX_REASON / 4);
        return ContainerState::NotRunning(format!(
            "{runtime} has no container of the name {name}: {own} was renamed, or {name} is the beginning of an ID; write the \
             name or the whole ID"
        ));
    }
    if !seen.state.running || seen.state.pid == 0 {
        let status = plain(&seen.state.status, 32);
        let status = if status.is_empty() { "stopped" } else { &status };
        return ContainerState::NotRunning(format!("{runtime} container {name} does not run ({status}); start it"));
    }
    match (seen.id.parse(), started(&seen.state.started_at)) {
        (Ok(id), Some(started)) => ContainerState::Running(RunningContainer { id, pid: seen.state.pid, started }),
        _ => ContainerState::Unknown(format!(
            "{runtime} gives no ID and start of container {name} that this agent knows; name the pod by `netns`"
        )),
    }
}

/// Nanoseconds of the Unix epoch.
fn started(text: &str) -> Option<u64> {
    let time: k8s_openapi::jiff::Timestamp = text.parse().ok()?;
    u64::try_from(time.as_nanosecond()).ok()
}

fn refusal(runtime: ContainerRuntime, status: StatusCode, body: &[u8]) -> String {
    let problem = serde_json::from_slice::<Problem>(body).map(|problem| plain(&problem.message, MAX_REASON / 2));
    let problem = problem.unwrap_or_default();
    format!("{runtime} answers {}: {problem}; see its log", status.as_u16())
}

/// Somebody else's words, without control characters and not many of them.
fn plain(text: &str, most: usize) -> String {
    text.chars().filter(|character| !character.is_control()).take(most).collect()
}

fn silent(runtime: ContainerRuntime) -> Failure {
    Failure::Silent(format!("{runtime} does not answer within {} s; see what keeps it busy", PATIENCE.as_secs()))
}

/// The pipe with an answer. What is written goes nowhere; nothing is read before that, since hyper expects no answer before it
/// has asked.
struct OneWay {
    pipe: pipe::Receiver,
    asked: bool,
    reader: Option<Waker>,
}

impl OneWay {
    fn new(pipe: pipe::Receiver) -> Self {
        Self { pipe, asked: false, reader: None }
    }
}

impl AsyncRead for OneWay {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.asked {
            return Pin::new(&mut self.pipe).poll_read(cx, buffer);
        }
        self.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl AsyncWrite for OneWay {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.asked = true;
        self.reader.take().into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A runtime under load takes a second; one that takes longer is stuck.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of a head.
const MOST_HEAD: usize = 64 << 10;
/// Bytes of what is said of a container: environment, labels and mounts are its owner's to choose, some kilobytes as a rule.
const MOST_BODY: usize = 4 << 20;
