//! A running `redir` whose lines can be waited for.

use std::collections::VecDeque;
use std::process::{ExitStatus, Stdio};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

use super::agent::soon;

/// A running `redir`, killed with the test.
pub(crate) struct Redir {
    pub(crate) child: Child,
    out: Option<Lines<BufReader<ChildStdout>>>,
    error: ChildStderr,
    seen: VecDeque<String>,
}

impl Redir {
    pub(crate) fn start(command: std::process::Command) -> Self {
        let mut command = Command::from(command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let out = child.stdout.take().map(|out| BufReader::new(out).lines());
        let error = child.stderr.take().unwrap();
        Self { child, out, error, seen: VecDeque::new() }
    }

    /// The next line of standard output.
    pub(crate) async fn line(&mut self) -> Option<String> {
        let out = self.out.as_mut().expect("standard output was closed by the test");
        let line = soon("a line from redir", out.next_line()).await.unwrap();
        self.seen.extend(line.clone());
        line
    }

    /// The next event of this kind; others before it are passed over.
    pub(crate) async fn event(&mut self, kind: &str) -> Value {
        loop {
            let Some(line) = self.line().await else {
                let errors = self.errors().await;
                panic!("no event {kind}; redir ended after {:?} and said {errors:?}", self.seen);
            };
            let event: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
            if event["event"] == kind {
                return event;
            }
        }
    }

    /// The next line that holds this.
    pub(crate) async fn line_with(&mut self, text: &str) -> String {
        loop {
            match self.line().await {
                Some(line) if line.contains(text) => return line,
                Some(_) => (),
                None => {
                    let errors = self.errors().await;
                    panic!("no line with {text:?} in {:?}; redir said {errors:?}", self.seen);
                }
            }
        }
    }

    /// Nobody reads standard output any more.
    pub(crate) fn close_output(&mut self) {
        self.out = None;
    }

    #[cfg(unix)]
    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
    }

    /// Waits for the end: exit code and standard error.
    pub(crate) async fn end(&mut self) -> (Option<i32>, String) {
        let status: ExitStatus = soon("redir's end", self.child.wait()).await.unwrap();
        (status.code(), self.errors().await)
    }

    /// The next line of standard error, but for what is only said because the machine is slow.
    pub(crate) async fn error_line(&mut self) -> String {
        loop {
            let mut line = Vec::new();
            while line.last() != Some(&b'\n') {
                line.push(soon("standard error", self.error.read_u8()).await.unwrap());
            }
            let line = String::from_utf8(line).unwrap();
            if !is_patience(&line) {
                return line;
            }
        }
    }

    async fn errors(&mut self) -> String {
        let mut text = String::new();
        soon("standard error", self.error.read_to_string(&mut text)).await.unwrap();
        text.split_inclusive('\n').filter(|line| !is_patience(line)).collect()
    }
}

/// Whether a line only says that something takes more than a second, which it does where the machine is busy.
fn is_patience(line: &str) -> bool {
    ["waiting for ", "waiting until ", "letting the requests under way finish"]
        .iter()
        .any(|word| line.starts_with(word))
}
