//! The configuration file as it is now, and whether it has changed; or a text from the command line, which never does.
//!
//! Owns the last good text. A bad file is reported once and the last good one stays. Called by the supervisor.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use redir_config::NodeConfig;

/// The file, its last good content, and what it looked like when it was last read.
pub(super) struct ConfigFile {
    path: PathBuf,
    /// The text is no file's.
    fixed: bool,
    seen: Option<FileStamp>,
    text: String,
    config: Arc<NodeConfig>,
}

/// What changes when a file is written to or replaced (also through a symbolic link, as a ConfigMap is).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileStamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// What reading the file again has brought.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ReloadOutcome {
    /// The text is the one in use.
    Same,
    /// A new configuration is in use.
    New {
        /// `[agent]` differs from the one that the agent was started with: that part waits for a restart.
        restart_needed: bool,
    },
}

impl ConfigFile {
    /// Reads the file for the first time.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let seen = FileStamp::at(path).ok();
        let text = read(path)?;
        let config = Arc::new(NodeConfig::parse(&text, path)?);
        Ok(Self { path: path.to_owned(), fixed: false, seen, text, config })
    }

    /// A configuration that is not in a file; `path` stands for it in messages.
    pub(super) fn fixed(text: String, path: &Path) -> anyhow::Result<Self> {
        let config = Arc::new(NodeConfig::parse(&text, path)?);
        Ok(Self { path: path.to_owned(), fixed: true, seen: None, text, config })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn config(&self) -> &Arc<NodeConfig> {
        &self.config
    }

    /// The text of the configuration in use.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Whether the file looks different from when it was last read. A file that is away for a moment (between two
    /// renames) looks the same.
    pub(super) fn changed(&self) -> bool {
        !self.fixed && FileStamp::at(&self.path).is_ok_and(|now| self.seen != Some(now))
    }

    /// Reads the file again. On an error the last good configuration stays in use.
    pub(super) fn reload(&mut self) -> anyhow::Result<ReloadOutcome> {
        if self.fixed {
            return Ok(ReloadOutcome::Same);
        }
        // Looked at before it is read: a change in between is found the next time.
        self.seen = FileStamp::at(&self.path).ok();
        let text = read(&self.path)?;
        if text == self.text {
            return Ok(ReloadOutcome::Same);
        }
        let config = NodeConfig::parse(&text, &self.path)?;
        let restart_needed = config.agent != self.config.agent;
        self.text = text;
        self.config = Arc::new(config);
        Ok(ReloadOutcome::New { restart_needed })
    }
}

impl FileStamp {
    /// As it looks now.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            anyhow::anyhow!("there is no configuration {}; write one, or name another with --config", path.display())
        }
        io::ErrorKind::InvalidData => {
            anyhow::anyhow!("the configuration {} is not UTF-8 text; correct it", path.display())
        }
        _ => anyhow::Error::new(error).context(format!("cannot read the configuration {}", path.display())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[agent]\nlisten = \"127.0.0.1:7447\"\nkey = \"/k\"\n";

    fn write(path: &Path, text: &str) {
        let new = path.with_extension("new");
        fs::write(&new, text).expect("written");
        fs::rename(new, path).expect("renamed");
    }

    #[test]
    fn changes_are_seen_and_bad_ones_leave_the_last_good() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("agent.toml");
        write(&path, GOOD);
        let mut file = ConfigFile::read(&path).expect("good");
        assert!(!file.changed());

        write(&path, &format!("{GOOD}[[pod]]\nname = \"a\"\nnetns = \"/n\"\n"));
        assert!(file.changed());
        assert_eq!(file.reload().expect("good"), ReloadOutcome::New { restart_needed: false });
        assert!(!file.changed());
        assert_eq!((file.config().pods.len(), file.text().contains("[[pod]]")), (1, true));

        fs::write(&path, "[agent]\nlisten = 7\nkey = \"/k\"\n").expect("written");
        assert!(file.changed());
        let error = format!("{:#}", file.reload().expect_err("bad"));
        assert!(error.contains("agent.toml:2: agent.listen"), "{error}");
        assert!(!file.changed(), "a bad file is reported once");
        assert_eq!(file.config().pods.len(), 1);

        fs::remove_file(&path).expect("removed");
        assert!(!file.changed(), "away for a moment");
        write(&path, &GOOD.replace("7447", "7448"));
        assert_eq!(file.reload().expect("good"), ReloadOutcome::New { restart_needed: true });
        assert_eq!(file.reload().expect("good"), ReloadOutcome::Same);
    }

    #[test]
    fn a_missing_file_is_a_sentence() {
        let Err(error) = ConfigFile::read(Path::new("/nowhere/agent.toml")) else { panic!("missing") };
        assert!(format!("{error:#}").contains("--config"), "{error:#}");
    }
}
