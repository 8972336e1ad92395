//! Reads what `cargo test` prints and adds it up: a line of progress for each test program, the words of those that
//! failed, and the sum. It reads lines and the clock, nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::ui;

/// The sum so far, and the program whose output is coming in.
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    skipped: usize,
    /// `program: test`, for the closing lines.
    pub(crate) failures: Vec<String>,
    /// What tests said that they left out, and what was not started at all.
    pub(crate) left_out: Vec<LeftOut>,
    /// Name and number of passed tests of each program in which none failed.
    pub(crate) good: Vec<(String, usize)>,
    verbose: bool,
    current: Option<TalliedProgram>,
}

struct TalliedProgram {
    name: String,
    /// `None` for documentation, which seldom has tests: it is shown only if there was one.
    line: Option<ui::ProgressLine>,
    output: Vec<String>,
    done: usize,
}

/// What was not tried, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeftOut {
    /// The test program's name.
    pub(crate) program: String,
    pub(crate) test: String,
    pub(crate) why: String,
}

impl LeftOut {
    /// From a test's own words, `left out: TEST: WHY`.
    fn read(program: &str, line: &str) -> Option<LeftOut> {
        let (before, told) = line.split_once("left out: ")?;
        // A test that runs alone has the beginning of its own line before it.
        if !before.is_empty() && !before.ends_with(" ... ") {
            return None;
        }
        let (test, why) = told.split_once(": ")?;
        Some(LeftOut { program: program.to_owned(), test: test.to_owned(), why: why.to_owned() })
    }

    fn at(self, place: &str) -> LeftOut {
        LeftOut { program: format!("{place}: {}", self.program), ..self }
    }
}

/// A line for each reason, which often is that of many tests.
pub(crate) fn by_reason(left_out: &[LeftOut]) -> Vec<String> {
    let mut tests: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    for LeftOut { program, test, why } in left_out {
        tests.entry((program, why)).or_default().insert(test);
    }
    let line = |((program, why), tests): (&(&str, &str), &BTreeSet<&str>)| match tests.first() {
        Some(test) if tests.len() == 1 => format!("{program}: {test}: {why}"),
        _ => format!("{program}: in {} tests: {why}", tests.len()),
    };
    tests.iter().map(line).collect()
}

impl TalliedProgram {
    fn end(&mut self, result: &str) {
        match self.line.take() {
            Some(line) => line.end(result),
            None => println!("  {}: {result}", self.name),
        }
    }
}

impl Tally {
    pub(crate) fn new(verbose: bool) -> Tally {
        Tally {
            passed: 0,
            failed: 0,
            skipped: 0,
            failures: Vec::new(),
            left_out: Vec::new(),
            good: Vec::new(),
            verbose,
            current: None,
        }
    }

    /// Takes one line of output, or `None` when a second went by without one.
    pub(crate) fn line(&mut self, line: Option<&str>) {
        let Some(line) = line else {
            if let Some(program) = &self.current
                && let Some(line) = &program.line
            {
                line.tick(&format!("({} tests done)", program.done));
            }
            return;
        };
        if let Some(name) = program_started(line) {
            self.abandon("ended without a result");
            let line = (!name.ends_with(DOCUMENTATION)).then(|| ui::ProgressLine::start(format!("  {name}")));
            self.current = Some(TalliedProgram { line, name, output: Vec::new(), done: 0 });
        } else if let Some(result) = TestOutcome::read(line) {
            self.result(&result);
        } else {
            self.output(line);
        }
    }

    /// Adds a finished account to this one; `place` tells where its tests ran.
    pub(crate) fn add(&mut self, other: Tally, place: &str) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.failures.extend(other.failures.iter().map(|failure| format!("{place}: {failure}")));
        let here = other.left_out.into_iter().map(|left_out| left_out.at(place));
        self.left_out.extend(here);
    }

    /// Closes the account; `left_at` says what became of a program that never told its result.
    pub(crate) fn finish(&mut self, left_at: Option<&str>) {
        if let Some(reason) = left_at
            && self.current.is_none()
            && self.failed == 0
        {
            self.failed += 1;
            self.failures.push(format!("cargo test: {reason}"));
        }
        self.abandon(left_at.unwrap_or("ended without a result"));
    }

    fn output(&mut self, line: &str) {
        if self.verbose {
            println!("{line}");
        }
        if let Some(program) = &self.current
            && let Some(left_out) = LeftOut::read(&program.name, line)
        {
            self.left_out.push(left_out);
            return;
        }
        let Some(program) = &mut self.current else { return };
        program.output.push(line.to_owned());
        if let Some(test) = line.strip_prefix("test ") {
            program.done += usize::from(test.contains(" ... "));
            if let Some(name) = test.strip_suffix(" ... FAILED") {
                self.failures.push(format!("{}: {name}", program.name));
            }
        }
    }

    fn result(&mut self, result: &TestOutcome) {
        self.passed += result.passed;
        self.failed += result.failed;
        self.skipped += result.ignored;
        let Some(mut program) = self.current.take() else { return };
        if result.failed == 0 && result.passed > 0 {
            self.good.push((program.name.clone(), result.passed));
        }
        if result.failed > 0 {
            program.end(&ui::red(&format!("{} passed, {} failed", result.passed, result.failed)));
            show(&program.output);
        } else if result.passed > 0 || program.line.is_some() {
            program.end(&ui::green(&format!("{} passed", result.passed)));
        }
    }

    /// The current program died or hung: all its words are shown, and it counts as one failure.
    fn abandon(&mut self, reason: &str) {
        let Some(mut program) = self.current.take() else { return };
        self.failed += 1;
        self.failures.push(format!("{}: {reason}", program.name));
        program.end(&ui::red(reason));
        show(&program.output);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 { write!(f, ", {} skipped", self.skipped) } else { Ok(()) }
    }
}

const DOCUMENTATION: &str = " (documentation)";

fn show(output: &[String]) {
    for line in output {
        println!("    {line}");
    }
}

/// The name in cargo's `Running unittests src/lib.rs (target/debug/deps/redir_http-0123)` or `Doc-tests redir_http`.
fn program_started(line: &str) -> Option<String> {
    let line = line.trim_start();
    if let Some(package) = line.strip_prefix("Doc-tests ") {
        return Some(format!("{package}{DOCUMENTATION}"));
    }
    let (what, file) = line.strip_prefix("Running ")?.rsplit_once(" (")?;
    let file = file.strip_suffix(')')?.rsplit('/').next()?;
    let name = file.rsplit_once('-').map_or(file, |(name, _)| name);
    Some(if what.starts_with("unittests") { format!("{name} (unit)") } else { name.to_owned() })
}

struct TestOutcome {
    passed: usize,
    failed: usize,
    ignored: usize,
}

impl TestOutcome {
    /// From `test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s`.
    fn read(line: &str) -> Option<TestOutcome> {
        let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
        let count = |name: &str| counts.split("; ").find_map(|part| part.strip_suffix(name)?.trim().parse().ok());
        Some(TestOutcome { passed: count("passed")?, failed: count("failed")?, ignored: count("ignored")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(lines: &str) -> Tally {
        let mut tally = Tally::new(false);
        lines.lines().for_each(|line| tally.line(Some(line)));
        tally
    }

    const GOOD: &str = "     Running unittests src/lib.rs (target/debug/deps/redir_http-01ab)\nrunning 2 tests\ntest a ... ok\ntest b ... ok\n
test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s\n";

    #[test]
    fn results_of_several_programs_are_added() {
        let bad = "     Running tests/traffic.rs (/t/debug/deps/traffic-9f)\ntest c ... FAILED\n
test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s\n";
        let mut tally = told(&format!("{GOOD}{bad}"));
        tally.finish(Some("ended without a result"));
        assert_eq!(tally.to_string(), "5 passed, 1 failed");
        assert_eq!(tally.failures, ["traffic: c"]);
    }

    #[test]
    fn a_program_that_dies_counts_as_a_failure() {
        let mut tally =
            told("     Running unittests src/main.rs (target/debug/deps/redir-01ab)\nrunning 9 tests\ntest a ... ok\n");
        tally.finish(Some("ended without a result"));
        assert_eq!(tally.to_string(), "0 passed, 1 failed");
    }

    #[test]
    fn cargo_failing_after_good_results_is_not_a_pass() {
        let mut tally = told(GOOD);
        tally.finish(Some("ended without a result"));
        assert_eq!(tally.to_string(), "2 passed, 1 failed");
    }

    #[test]
    fn what_tests_leave_out_is_told_once_for_each_reason() {
        let words =
            "left out: a: TCX: none here\nleft out: b: TCX: none here\ntest c ... left out: c: BIG TCP: none here\n";
        let mut tally = told(&GOOD.replace("test a ... ok\n", &format!("{words}test a ... ok\n")));
        tally.finish(None);
        let mut total = Tally::new(false);
        total.add(tally, "Linux 6.1");
        let expected = [
            "Linux 6.1: redir_http (unit): c: BIG TCP: none here",
            "Linux 6.1: redir_http (unit): in 2 tests: TCX: none here",
        ];
        assert_eq!(by_reason(&total.left_out), expected);
    }

    #[test]
    fn documentation_tests_have_a_name_too() {
        assert_eq!(program_started("   Doc-tests redir_http").as_deref(), Some("redir_http (documentation)"));
        assert_eq!(program_started("test result: ok."), None);
    }
}
