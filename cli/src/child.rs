//! The developer's own command behind `--`: started, told of signals, ended together with the intercept.
//!
//! Owns: the process and, on Unix, its process group. Must not decide when it ends. Called by: `commands::intercept`.
//!
//! The command gets a process group of its own, so that Ctrl-C reaches redir alone and the service ends only after the
//! intercept did. A background group must not read the terminal: a command started from one reads nothing instead.

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::{Child as Process, Command};
use tokio::time::{Instant, sleep, timeout_at};

use crate::args::OutputFormat;
use crate::error::CliError;
use crate::signals::CommandSignal;
use crate::wording::session as say;

/// Between asking the command to end and killing it.
const GRACE: Duration = Duration::from_secs(5);
/// How often the rest of the group is looked for once the command itself has ended.
const LOOK: Duration = Duration::from_millis(20);

/// A running command; killed with its group when dropped.
pub(crate) struct Child {
    process: Process,
    pid: u32,
    ended: Option<u8>,
}

impl Child {
    /// Starts `command`, whose first word is the program. Where standard output carries JSON, the command's goes to
    /// standard error.
    pub(crate) fn start(command: &[OsString], output: OutputFormat) -> Result<Self, CliError> {
        let [program, arguments @ ..] = command else {
            return Err(CliError::Usage(say::empty_command()));
        };
        let stdin = if std::io::stdin().is_terminal() { Stdio::null() } else { Stdio::inherit() };
        let stdout = match output {
            OutputFormat::Text => Stdio::inherit(),
            OutputFormat::Json => Stdio::from(std::io::stderr()),
        };
        let mut builder = Command::new(program);
        builder.args(arguments).stdin(stdin).stdout(stdout).kill_on_drop(true);
        #[cfg(unix)]
        builder.process_group(0);
        let process = builder.spawn().map_err(|error| CliError::Failed(say::command_not_started(program, &error)))?;
        let pid = process.id().expect("a process that was not waited for has a number");
        Ok(Self { process, pid, ended: None })
    }

    /// The process's number.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits for the end: the exit code, or 128 + the signal. Cancel-safe, may be asked again.
    pub(crate) async fn ended(&mut self) -> u8 {
        if let Some(code) = self.ended {
            return code;
        }
        // Waiting fails only for a process that was waited for elsewhere, which nobody does.
        let code = self.process.wait().await.map_or(1, code);
        self.ended = Some(code);
        code
    }

    /// Hands a signal on to the command's group.
    pub(crate) fn forward(&self, signal: CommandSignal) {
        if self.ended.is_none() {
            group::signal(self.pid, signal);
        }
    }

    /// Asks the group to end, kills what is left after the grace, and gives the command's exit code.
    pub(crate) async fn end(&mut self, signal: CommandSignal) -> u8 {
        self.forward(signal);
        let deadline = Instant::now() + GRACE;
        let in_time = timeout_at(deadline, self.ended()).await;
        if let Ok(code) = in_time {
            while group::exists(self.pid) && Instant::now() < deadline {
                sleep(LOOK).await;
            }
            group::kill(self.pid);
            return code;
        }
        self.kill().await
    }

    /// Kills the group at once.
    pub(crate) async fn kill(&mut self) -> u8 {
        group::kill(self.pid);
        if self.ended.is_none() {
            // An error says that it has ended already.
            self.process.start_kill().ok();
        }
        self.ended().await
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.ended.is_none() {
            group::kill(self.pid);
        }
    }
}

fn code(status: ExitStatus) -> u8 {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return u8::try_from(signal).map_or(u8::MAX, |signal| signal.saturating_add(128));
    }
    match status.code() {
        // Windows has 32 bits of exit code, of which a shell shows what it likes; 0 stays success alone.
        Some(code) => u8::try_from(code).unwrap_or(1),
        None => 1,
    }
}

#[cfg(unix)]
mod group {
    //! The command's process group. Its leader's number is not given away again while a member lives.

    use nix::sys::signal::{Signal, killpg};
    use nix::unistd::Pid;

    use super::CommandSignal;

    fn pid(leader: u32) -> Option<Pid> {
        // 0 and 1 would be redir's own group and everybody.
        i32::try_from(leader).ok().filter(|leader| *leader > 1).map(Pid::from_raw)
    }

    pub(super) fn signal(leader: u32, signal: CommandSignal) {
        if let Some(pid) = pid(leader) {
            // The group may be gone already.
            killpg(pid, signal.0).ok();
        }
    }

    pub(super) fn kill(leader: u32) {
        signal(leader, CommandSignal(Signal::SIGKILL));
    }

    pub(super) fn exists(leader: u32) -> bool {
        pid(leader).is_some_and(|pid| killpg(pid, None).is_ok())
    }
}

#[cfg(not(unix))]
mod group {
    //! Windows delivers Ctrl-C to the command by itself, as to everything on the console; the rest is `kill`.

    use super::CommandSignal;

    pub(super) fn signal(_leader: u32, _signal: CommandSignal) {}

    pub(super) fn kill(_leader: u32) {}

    pub(super) fn exists(_leader: u32) -> bool {
        false
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Child {
        Child::start(&["sh".into(), "-c".into(), script.into()], OutputFormat::Text).expect("there is a shell")
    }

    #[tokio::test]
    async fn exit_codes_and_signals_are_passed_on() {
        assert_eq!(shell("exit 7").ended().await, 7);
        assert_eq!(shell("kill -9 $$").ended().await, 137);
    }

    #[tokio::test]
    async fn the_whole_group_is_ended() {
        let mut child = shell("sleep 600 & wait");
        let pid = child.pid();
        assert!(group::exists(pid));
        assert_eq!(child.end(CommandSignal::TERM).await, 143);
        let gone = async {
            while group::exists(pid) {
                sleep(LOOK).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), gone).await.unwrap();
    }

    #[test]
    fn a_missing_program_is_one_sentence() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _inside = runtime.enter();
        let error = Child::start(&["/nonexistent/program".into()], OutputFormat::Text).err().unwrap();
        assert!(error.to_string().contains("/nonexistent/program"), "{error}");
    }
}
