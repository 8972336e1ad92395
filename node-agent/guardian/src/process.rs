//! A process of the node, as `/proc` shows it, and what tells it from a later one with its number.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

/// A process, which no other is mistaken for that gets its number later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ProcessHandle {
    /// When it began, in ticks of the kernel's clock since the boot.
    began: u64,
    pid: u32,
}

impl ProcessHandle {
    /// `None`: it has ended.
    pub(super) fn of(proc: &Path, pid: u32) -> io::Result<Option<Self>> {
        let stat = unless_ended(ProcessStat::read(proc, pid))?.filter(|stat| stat.runs);
        Ok(stat.map(|stat| Self { began: stat.began, pid }))
    }

    pub(super) fn pid(self) -> u32 {
        self.pid
    }

    /// Whether its start tells it from one that began earlier: the clock of starts ticks each 10 ms.
    #[cfg(test)]
    pub(super) fn began_after(self, other: Self) -> bool {
        self.began > other.began
    }

    /// Whether it still runs. What cannot be read for another reason than its end counts as running.
    pub(super) fn runs(self, proc: &Path) -> bool {
        match unless_ended(ProcessStat::read(proc, self.pid)) {
            Ok(stat) => stat.is_some_and(|stat| stat.runs && stat.began == self.began),
            Err(_) => true,
        }
    }
}

/// `None` where a process has ended that something was to be read of.
pub(super) fn unless_ended<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Err(error) if has_ended(&error) => Ok(None),
        read => read.map(Some),
    }
}

pub(super) fn has_ended(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

/// What of `/proc/PID/stat` matters.
struct ProcessStat {
    runs: bool,
    began: u64,
}

impl ProcessStat {
    fn read(proc: &Path, pid: u32) -> io::Result<Self> {
        let text = read(&proc.join(format!("{pid}/stat")))?;
        Self::parse(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no stat of a process"))
    }

    /// Behind the name, which may hold anything, come the state (the third field), the number of threads (the 20th) and the
    /// start (the 22nd). A first thread that has ended is a zombie as long as others run.
    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let threads: u32 = fields.get(17)?.parse().ok()?;
        let over = matches!(*fields.first()?, "Z" | "X") && threads <= 1;
        Some(Self { runs: !over, began: fields.get(19)?.parse().ok()? })
    }
}

/// A small file of `/proc`.
pub(super) fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
}

/// Bytes; a process in a dozen hierarchies of cgroup v1 has some 2 KiB.
const MAX_FILE: u64 = 64 << 10;
