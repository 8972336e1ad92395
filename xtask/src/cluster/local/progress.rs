//! How far a compilation is: how many packages there are, as `go list` counted them on this machine beforehand, and how many
//! the compiler has named, in this run and in those that were interrupted.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};

/// Reads the lines of `build.sh compile`.
pub(super) struct BuildProgress {
    /// `PART PACKAGE` of each that was begun.
    begun: BTreeSet<String>,
    /// The same, for the next run.
    record: File,
    total: usize,
    /// How many belong to the parts that are done.
    compiled: usize,
    part: String,
}

impl BuildProgress {
    /// Goes on after the runs that wrote this file.
    pub(super) fn resume(record: &Path) -> Result<BuildProgress> {
        let begun = fs::read_to_string(record).unwrap_or_default().lines().map(str::to_owned).collect();
        let file = File::options().create(true).append(true).open(record);
        let file = file.with_context(|| format!("cannot write {}", record.display()))?;
        Ok(BuildProgress { begun, record: file, total: 0, compiled: 0, part: String::new() })
    }

    /// Takes a line; how far it is.
    pub(super) fn line(&mut self, line: &str) -> String {
        if let Some(total) = line.strip_prefix("packages: ").and_then(|total| total.trim().parse().ok()) {
            self.total = total;
        } else if let Some((before, part)) = line.strip_prefix("part: ").and_then(|rest| rest.split_once(' ')) {
            // All that the parts before it consist of: what was in Go's cache is not named.
            self.compiled = before.parse().unwrap_or(0);
            part.clone_into(&mut self.part);
        } else if is_package(line) {
            let begun = format!("{} {line}", self.part);
            // Only the figure suffers if this cannot be written.
            let _ = writeln!(self.record, "{begun}");
            self.begun.insert(begun);
        }
        self.note()
    }

    fn note(&self) -> String {
        if self.total == 0 {
            return "counting packages".into();
        }
        // The C library's variants of a few packages are compiled twice, and counted once.
        let begun = self.begun.len().max(self.compiled).min(self.total);
        format!("{begun} of {} packages, {} % ({})", self.total, begun * 100 / self.total, self.part)
    }
}

/// `k8s.io/api/core/v1`, `bufio`; and not `go: downloading …` or a compiler's complaint.
fn is_package(line: &str) -> bool {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"./_-~+".contains(&byte);
    !line.is_empty() && line.bytes().all(is_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_counted_over_an_interruption_and_never_beyond_the_total() {
        let folder = tempfile::tempdir().unwrap();
        let record = folder.path().join("record");
        let mut progress = BuildProgress::resume(&record).unwrap();
        assert_eq!(progress.line("go: downloading k8s.io/api v0.37.2"), "counting packages");
        assert_eq!(progress.line("packages: 4"), "0 of 4 packages, 0 % ()");
        progress.line("part: 0 Kubernetes");
        assert_eq!(progress.line("internal/abi"), "1 of 4 packages, 25 % (Kubernetes)");
        assert_eq!(progress.line("k8s.io/api/core/v1"), "2 of 4 packages, 50 % (Kubernetes)");
        assert_eq!(progress.line("# k8s.io/api/core/v1"), "2 of 4 packages, 50 % (Kubernetes)");
        drop(progress);

        let mut progress = BuildProgress::resume(&record).unwrap();
        progress.line("packages: 4");
        progress.line("part: 0 Kubernetes");
        assert_eq!(progress.line("k8s.io/api/core/v1"), "2 of 4 packages, 50 % (Kubernetes)");
        assert_eq!(progress.line("part: 3 etcd"), "3 of 4 packages, 75 % (etcd)");
        assert_eq!(progress.line("google.golang.org/grpc"), "3 of 4 packages, 75 % (etcd)");
        progress.line("go.etcd.io/bbolt");
        progress.line("go.etcd.io/raft/v3");
        assert_eq!(progress.line("go.etcd.io/etcd/server/v3"), "4 of 4 packages, 100 % (etcd)");
    }
}
