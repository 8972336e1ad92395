//! Starting other programs: with their output shown, or read line by line under a deadline. Each gets a process group of
//! its own, so that it can be stopped with all it started. Knows nothing of what the programs are for.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
pub(crate) use redir_rig::namespace::spelled;

use crate::signals;

/// Why a program that was read line by line is over.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    Exited(ExitStatus),
    /// It was still running at the deadline and was stopped.
    Late,
}

/// Runs a command with its output shown as it comes; an error unless it succeeds.
pub(crate) fn show(command: &mut Command) -> Result<()> {
    let spelled = spelled(command);
    let mut child =
        command.stdin(Stdio::null()).process_group(0).spawn().with_context(|| format!("cannot start `{spelled}`"))?;
    let _guard = signals::guard(child.id());
    let status = child.wait().with_context(|| format!("cannot wait for `{spelled}`"))?;
    if !status.success() {
        bail!("`{spelled}` failed ({status}): its own words are above");
    }
    Ok(())
}

/// Runs a command to its success and gives its standard output; what it says on the other one is shown as it comes.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let spelled = spelled(command);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0).spawn();
    let child = child.with_context(|| format!("cannot start `{spelled}`"))?;
    let _guard = signals::guard(child.id());
    let output = child.wait_with_output().with_context(|| format!("cannot read from `{spelled}`"))?;
    if !output.status.success() {
        bail!("`{spelled}` failed ({}): its own words are above", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command and hands every line of both its outputs to `line`, in order; `None` about once a second in between.
/// At `deadline` the whole process group is stopped.
pub(crate) fn lines(command: &mut Command, deadline: Instant, mut line: impl FnMut(Option<&str>)) -> Result<End> {
    let spelled = spelled(command);
    let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    command.stdin(Stdio::null()).stdout(writer.try_clone().context("cannot copy a pipe")?).stderr(writer);
    let mut child = command.process_group(0).spawn().with_context(|| format!("cannot start `{spelled}`"))?;
    // The command still holds the pipe's writing end; without this the reader would never see the end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let guard = signals::guard(child.id());
    let incoming = read_lines(reader);
    let (mut late, mut silent_since_exit) = (false, 0);
    loop {
        match incoming.recv_timeout(Duration::from_secs(1)) {
            Ok(text) => line(Some(&text)),
            Err(RecvTimeoutError::Timeout) => {
                line(None);
                // A process that it left behind may hold the pipe for ever: that is no reason to wait.
                let exited = child.try_wait().is_ok_and(|status| status.is_some());
                silent_since_exit += usize::from(exited);
                if late && exited || silent_since_exit > 3 {
                    break;
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if !late && Instant::now() >= deadline {
            late = true;
            guard.signal(Signal::SIGINT);
        } else if late && Instant::now() >= deadline + GRACE {
            guard.signal(Signal::SIGKILL);
        }
    }
    if late || silent_since_exit > 0 {
        guard.signal(Signal::SIGKILL);
    }
    let status = child.wait().with_context(|| format!("cannot wait for `{spelled}`"))?;
    Ok(if late { End::Late } else { End::Exited(status) })
}

/// Bounded, so that a program that prints without end waits for us instead of filling memory.
fn read_lines(source: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::sync_channel(1024);
    thread::spawn(move || {
        let mut source = BufReader::new(source);
        let mut bytes = Vec::new();
        while matches!(source.read_until(b'\n', &mut bytes), Ok(1..)) {
            let text = String::from_utf8_lossy(&bytes);
            if sender.send(text.trim_end_matches(['\n', '\r']).to_owned()).is_err() {
                return;
            }
            bytes.clear();
        }
    });
    receiver
}

/// From the polite signal to the last one.
const GRACE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_outputs_arrive_in_order_and_the_status_with_them() {
        let mut seen = Vec::new();
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two >&2; printf three; exit 3"]);
        let end =
            lines(&mut command, Instant::now() + Duration::from_secs(20), |line| seen.extend(line.map(str::to_owned)));
        assert_eq!(seen, ["one", "two", "three"]);
        assert!(matches!(end, Ok(End::Exited(status)) if status.code() == Some(3)));
    }

    fn wait_until(condition: impl Fn() -> bool) {
        let limit = Instant::now() + Duration::from_secs(20);
        while !condition() {
            assert!(Instant::now() < limit, "still not so after 20 s");
            thread::yield_now();
        }
    }

    #[test]
    fn a_program_past_its_deadline_is_stopped_with_what_it_started() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 600 & echo $!; wait"]);
        let began = Instant::now();
        let mut background = String::new();
        let end = lines(&mut command, began + Duration::from_millis(100), |line| background.extend(line)).unwrap();
        assert_eq!(end, End::Late);
        assert!(began.elapsed() < Duration::from_secs(60));
        // A zombie that nobody collects may stay; its program is gone.
        wait_until(|| std::fs::read_link(format!("/proc/{background}/exe")).is_err());
    }
}
