//! A child process with its output in a file: searched, waited for, signalled by pid, ended on drop.

use std::{
    cell::RefCell,
    fmt::Display,
    fs::{self, File},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::{cleanup, wait};

/// A running (or ended) child. Standard output and standard error go to files of their own.
#[derive(Debug)]
pub struct Process {
    label: String,
    child: Child,
    status: Option<ExitStatus>,
    logs: TempDir,
}

impl Process {
    /// Starts the command in the calling thread's namespace; `label` names it in errors and dumps.
    pub fn spawn(label: &str, command: &mut Command) -> Result<Self> {
        let logs = cleanup::directory("logs")?;
        let out = File::create(logs.path().join("stdout"))?;
        let err = File::create(logs.path().join("stderr"))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .with_context(|| format!("start {label} ({command:?})"))?;
        cleanup::child_started(child.id().cast_signed());
        Ok(Self { label: label.to_owned(), child, status: None, logs })
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// What it wrote to standard output so far.
    pub fn stdout(&self) -> String {
        read(&self.logs.path().join("stdout"))
    }

    /// What it wrote to standard error so far.
    pub fn stderr(&self) -> String {
        read(&self.logs.path().join("stderr"))
    }

    /// Both outputs, one after the other.
    pub fn log(&self) -> String {
        self.stdout() + &self.stderr()
    }

    /// Waits until either output has a whole line that contains `text`; gives the first one.
    pub fn wait_for_line(&mut self, text: &str, limit: Duration) -> Result<String> {
        self.wait_for(format!("a line with {text:?}"), limit, |log| {
            whole_lines(log).find(|l| l.contains(text)).map(str::to_owned)
        })
    }

    /// Waits until `look` finds what it wants in the outputs; an error at once when the process has ended without it.
    pub fn wait_for<T>(
        &mut self,
        what: impl Display,
        limit: Duration,
        mut look: impl FnMut(&str) -> Option<T>,
    ) -> Result<T> {
        let label = self.label.clone();
        wait::until(format!("{what} from {label}"), limit, || {
            // Ended first, then read: what it wrote before its end is seen.
            let ended = self.exited()?;
            if let Some(found) = look(&self.log()) {
                return Ok(Some(found));
            }
            if let Some(status) = ended {
                bail!("{label} ended ({status}) without {what}");
            }
            Ok(None)
        })
        .with_context(|| format!("its log: {}", tail(&self.log())))
    }

    /// Sends a signal, if it still runs.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.exited()?.is_none() {
            kill(Pid::from_raw(self.pid()), signal).with_context(|| format!("{signal} to {}", self.label))?;
        }
        Ok(())
    }

    /// Its exit status, if it has ended.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.child.try_wait().with_context(|| format!("wait for {}", self.label))?;
            if self.status.is_some() {
                cleanup::child_reaped(self.pid());
            }
        }
        Ok(self.status)
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let label = self.label.clone();
        wait::until(format!("the end of {label}"), limit, || self.exited())
            .with_context(|| format!("its log: {}", tail(&self.log())))
    }

    /// Waits for its end and gives the exit code (128 + number for a signal).
    pub fn exit_code(&mut self, limit: Duration) -> Result<i32> {
        let status = self.wait(limit)?;
        Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
    }

    /// SIGKILL, and reaps it.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.wait(Duration::from_secs(10)).map(drop)
    }

    /// The pids of its direct children.
    pub fn children(&self) -> Vec<i32> {
        children(self.pid())
    }
}

thread_local! {
    static ENDED: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// The logs of the processes that this thread has dropped since the last call: what a failed test prints.
pub fn ended_logs() -> Vec<String> {
    ENDED.take()
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(e) = self.kill() {
            eprintln!("rig: {e:#}");
        }
        if std::thread::panicking() {
            self.dump();
        }
        ENDED.with_borrow_mut(|ended| ended.push(self.report()));
    }
}

impl Process {
    /// Prints the log to standard error.
    pub fn dump(&self) {
        eprintln!("{}", self.report());
    }

    fn report(&self) -> String {
        format!("--- {} (pid {}, {:?})\n{}", self.label, self.pid(), self.status, tail(&self.log()))
    }
}

/// The direct children of a process.
pub fn children(pid: i32) -> Vec<i32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|text| text.split_whitespace().filter_map(|p| p.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// The part of a log worth printing.
pub(crate) fn tail(log: &str) -> String {
    const LINES: usize = 60;
    let lines: Vec<&str> = log.lines().collect();
    let skipped = lines.len().saturating_sub(LINES);
    let shown = lines[skipped..].join("\n");
    if skipped > 0 { format!("({skipped} lines before)\n{shown}") } else { shown }
}

fn whole_lines(log: &str) -> impl Iterator<Item = &str> {
    log.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'))
}

fn read(path: &Path) -> String {
    fs::read(PathBuf::from(path)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}
