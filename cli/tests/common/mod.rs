//! Runs the real binary in a home of its own.

#![expect(dead_code, reason = "each test file uses a part of it")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

pub(crate) mod agent;
#[cfg(unix)]
pub(crate) mod process;
#[cfg(unix)]
pub(crate) mod scene;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use redir_tunnel::{Identity, Pin};
use tempfile::TempDir;

/// A developer's home directory, gone with the test.
pub(crate) struct Home(TempDir);

impl Home {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Where redir keeps its files.
    pub(crate) fn config(&self) -> PathBuf {
        self.path().join(".config/redir")
    }

    pub(crate) fn write_config(&self, text: &str) {
        std::fs::create_dir_all(self.config()).unwrap();
        std::fs::write(self.config().join("redir.toml"), text).unwrap();
    }

    /// Makes the developer's key, and gives its name.
    pub(crate) fn keygen(&self) -> Pin {
        assert!(self.run(&["keygen"]).status.success());
        self.pin()
    }

    /// The name of the key that was made.
    pub(crate) fn pin(&self) -> Pin {
        Identity::load(&self.config().join("key")).unwrap().pin()
    }

    /// `redir`, with nothing of the real environment that could change what it does.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_redir"));
        command.args(arguments).env_remove("XDG_CONFIG_HOME").env("HOME", self.path());
        command.env_remove("KUBECONFIG").env_remove("KUBERNETES_SERVICE_HOST");
        command.env("APPDATA", self.path().join(".config")).env("USER", "alice").env_remove("NO_COLOR");
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Exit code and what went to standard error.
    pub(crate) fn refusal(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.run(arguments);
        assert!(output.stdout.is_empty(), "{arguments:?} printed {:?}", String::from_utf8_lossy(&output.stdout));
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }
}

/// One line, printable, that names the program: what every refusal must be.
pub(crate) fn assert_one_sentence(text: &str) {
    let line = text.strip_suffix('\n').unwrap_or_else(|| panic!("no line: {text:?}"));
    assert!(line.starts_with("redir: "), "{line:?}");
    assert!(line.len() > 20 && line.bytes().all(|b| (0x20..=0x7e).contains(&b)), "{line:?}");
}
