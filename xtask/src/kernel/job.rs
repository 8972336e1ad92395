//! What a guest is to do: the ordinary test programs, one after the other, printed as `cargo test` prints them. Owns which
//! programs those are and which tests an emulated machine leaves out; the reasons are part of every run's result.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::test::LeftOut;
use crate::{child, paths};

/// On two emulated processors: the agent's own tests beside each other, end-to-end tests, of several processes each, alone.
const THREADS: [&str; 2] = ["2", "1"];
/// An emulated processor is slower by about this, which the tests' time limits are multiplied by.
pub(super) const TIME_FACTOR: &str = "3";

/// Tests that say nothing on an emulated machine, or take too long there.
const LEFT_OUT: [NotTried; 3] = [
    NotTried {
        program: "traffic",
        test: "two_hundred_megabytes_each_way_unmatched",
        why: "minutes of emulated copying; the datapath's own tests send megabytes",
    },
    NotTried {
        program: "traffic",
        test: "two_hundred_megabytes_each_way_matched",
        why: "minutes of emulated copying; the datapath's own tests send megabytes",
    },
    NotTried {
        program: "faults",
        test: "memory_stays_small",
        why: "a program's resident memory is the same on every kernel, and 3,000 connections take minutes here",
    },
];
/// Test programs that cannot run in a guest.
const NOT_HERE: [(&str, &str); 1] =
    [("kubernetes", "starts Kubernetes' own API server, which says nothing about a kernel")];

struct NotTried {
    program: &'static str,
    test: &'static str,
    why: &'static str,
}

/// A built test program.
#[derive(Debug)]
pub(super) struct TestProgram {
    /// Cargo's name of its target.
    pub(super) name: String,
    /// Its source, relative to its package.
    source: String,
    is_unit: bool,
    package: PathBuf,
    pub(super) executable: PathBuf,
}

/// The programs that `command` (a `cargo test … --no-run`) has built.
pub(super) fn programs(command: &mut Command) -> Result<Vec<TestProgram>> {
    command.args(["--no-run", "--quiet", "--message-format=json-render-diagnostics"]);
    child::output(command)?.lines().filter_map(|line| program(line).transpose()).collect()
}

fn program(line: &str) -> Result<Option<TestProgram>> {
    let message: Value = serde_json::from_str(line).with_context(|| format!("cargo said {line:?}"))?;
    let Some(executable) = message["executable"].as_str().filter(|_| message["profile"]["test"] == true) else {
        return Ok(None);
    };
    let text = |value: &Value| value.as_str().map(str::to_owned).context("cargo's message lacks a name");
    let package =
        PathBuf::from(text(&message["manifest_path"])?).parent().context("a manifest in a folder")?.to_owned();
    let target = &message["target"];
    let source = PathBuf::from(text(&target["src_path"])?);
    Ok(Some(TestProgram {
        name: text(&target["name"])?,
        source: source.strip_prefix(&package).unwrap_or(&source).display().to_string(),
        is_unit: target["kind"].as_array().is_none_or(|kinds| kinds.iter().all(|kind| kind != "test")),
        package,
        executable: executable.into(),
    }))
}

/// A guest's work.
pub(super) struct Job {
    script: String,
    /// The guest's root.
    pub(super) root: PathBuf,
    /// A static one, of the guest's architecture.
    pub(super) busybox: PathBuf,
    /// What is not tried, with the reason.
    pub(super) left_out: Vec<LeftOut>,
}

/// Test programs, and how they are called.
struct TestPrograms {
    programs: Vec<TestProgram>,
    filter: Option<String>,
    environment: BTreeMap<String, String>,
}

impl Job {
    /// A script of another kind, in a root of its own.
    pub(super) fn of(script: String, root: PathBuf, busybox: PathBuf) -> Job {
        Job { script, root, busybox, left_out: Vec::new() }
    }

    /// Test programs, with this machine's own userland.
    pub(super) fn tests(
        programs: Vec<TestProgram>,
        filter: Option<&str>,
        environment: BTreeMap<String, String>,
    ) -> Result<Job> {
        let mut left_out = Vec::new();
        let (here, elsewhere): (Vec<_>, Vec<_>) =
            programs.into_iter().partition(|program| not_here(&program.name).is_none());
        for program in &elsewhere {
            left_out.extend(not_here(&program.name).map(|why| left_out_here(&program.name, "all", why)));
        }
        for program in &here {
            for test in left_out_of(&program.name) {
                ensure_there(program, test.test)?;
                if filter.is_none_or(|filter| test.test.contains(filter)) {
                    left_out.push(left_out_here(&program.name, test.test, test.why));
                }
            }
        }
        if here.is_empty() {
            bail!("no test program to run in a guest was chosen");
        }
        let programs = TestPrograms { programs: here, filter: filter.map(str::to_owned), environment };
        let busybox = paths::program("busybox").context("busybox is nowhere in PATH")?;
        Ok(Job { script: programs.script(), root: "/".into(), busybox, left_out })
    }

    /// Puts the scripts for the guest into `out`.
    pub(super) fn write(&self, out: &Path) -> Result<()> {
        for (name, text) in [("guest.sh", GUEST.to_owned()), ("job.sh", self.script.clone())] {
            fs::write(out.join(name), text).with_context(|| format!("cannot write into {}", out.display()))?;
        }
        Ok(())
    }
}

impl TestPrograms {
    fn script(&self) -> String {
        let mut script = String::from("status=0\n");
        for (name, value) in &self.environment {
            script += &format!("export {name}={}\n", quoted(value));
        }
        // What is read for the first time comes slowly, and the product's own limits are not three times as long.
        script += "for program in redir redir-agent; do cat \"$REDIR_BIN_DIR/$program\" >/dev/null 2>&1; done\n";
        for program in &self.programs {
            script += &self.lines_of(program);
        }
        script + "exit $status\n"
    }

    fn lines_of(&self, program: &TestProgram) -> String {
        let unit = if program.is_unit { "unittests " } else { "" };
        let title = format!("     Running {unit}{} ({})", program.source, program.executable.display());
        let mut command = vec![
            quoted(&program.executable.display().to_string()),
            "--test-threads".into(),
            THREADS[usize::from(!program.is_unit)].into(),
        ];
        for test in left_out_of(&program.name) {
            command.extend(["--skip".into(), quoted(test.test)]);
        }
        command.extend(self.filter.as_deref().map(quoted));
        let package = quoted(&program.package.display().to_string());
        format!(
            "cd {package} && export CARGO_MANIFEST_DIR={package}\necho {}\n{} || status=1\n",
            quoted(&title),
            command.join(" ")
        )
    }
}

fn left_out_here(program: &str, test: &str, why: &str) -> LeftOut {
    LeftOut { program: program.to_owned(), test: test.to_owned(), why: why.to_owned() }
}

fn not_here(program: &str) -> Option<&'static str> {
    NOT_HERE.iter().find(|(name, _)| *name == program).map(|(_, why)| *why)
}

fn left_out_of(program: &str) -> impl Iterator<Item = &'static NotTried> {
    LEFT_OUT.iter().filter(move |test| test.program == program)
}

/// A test that was renamed would be run again without a word, or another one left out.
fn ensure_there(program: &TestProgram, test: &str) -> Result<()> {
    let output = Command::new(&program.executable).args(["--list", test]).output();
    let output = output.with_context(|| format!("cannot start {}", program.executable.display()))?;
    let list = String::from_utf8_lossy(&output.stdout);
    ensure!(
        list.contains(": test"),
        "{} has no test {test} any more, which kernel runs leave out by that name: correct xtask/src/kernel/job.rs",
        program.name
    );
    Ok(())
}

/// A word for the shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

const GUEST: &str = include_str!("guest.sh");

#[cfg(test)]
mod tests {
    use super::*;

    fn program_named(name: &str) -> TestProgram {
        TestProgram {
            name: name.into(),
            source: "src/main.rs".into(),
            is_unit: true,
            package: "/tree/it's here".into(),
            executable: "/bin/true".into(),
        }
    }

    #[test]
    fn the_script_says_what_cargo_would_say_and_passes_the_choice_on() {
        let environment = BTreeMap::from([("REDIR_BIN_DIR".to_owned(), "/t/debug".to_owned())]);
        let job =
            Job::tests(vec![program_named("redir-agent"), program_named("kubernetes")], Some("datapath"), environment);
        let job = job.unwrap();
        let script = &job.script;
        assert!(script.contains("echo '     Running unittests src/main.rs (/bin/true)'\n"), "{script}");
        assert!(script.contains("'/bin/true' --test-threads 2 'datapath' || status=1\n"), "{script}");
        assert!(script.contains("cd '/tree/it'\\''s here'"), "{script}");
        assert!(script.contains("export REDIR_BIN_DIR='/t/debug'\n"), "{script}");
        assert_eq!(job.left_out.len(), 1, "{:?}", job.left_out);
    }

    #[test]
    fn a_test_that_is_left_out_by_name_must_be_there() {
        let error =
            Job::tests(vec![program_named("faults")], None, BTreeMap::new()).err().expect("/bin/true has no tests");
        assert!(error.to_string().contains("memory_stays_small"), "{error}");
    }
}
