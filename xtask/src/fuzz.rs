//! `cargo xtask fuzz`: runs the fuzz targets of `crates/http/fuzz` for as long as asked. Owns the build for libFuzzer, the
//! sharing of the time, and the places of what is found; what the targets check is in `crates/http/tests/check`, and the
//! ordinary tests replay the kept corpus without any of this.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::child::{self, End};
use crate::step::{self, Tail};
use crate::{paths, setup, signals, ui};

#[derive(Args)]
#[command(after_help = LESSON)]
pub(crate) struct FuzzOptions {
    /// Only these; all of them if none is named
    #[arg(value_name = "TARGET")]
    targets: Vec<FuzzTarget>,
    /// How long to fuzz in all, shared evenly over the targets; the build is not counted
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60 * 24 * 7))]
    minutes: u64,
    /// Add what reached new code to the kept corpus, to be committed: the ordinary tests replay it
    #[arg(short, long)]
    keep: bool,
}

const LESSON: &str = "\
Examples:
  cargo xtask fuzz                             five minutes, one for each target
  cargo xtask fuzz --minutes 60 connection     an hour of one
  cargo xtask fuzz --minutes 30 --keep         and keep the inputs that are worth it

What is found while fuzzing is in target/fuzz/corpus, and the next run goes on
from there. An input that breaks a check is written to target/fuzz/artifacts, and
the run fails with its path: copy it to crates/http/fuzz/corpus/TARGET, and
`cargo test -p redir-http --test corpus` replays it, now and ever after.";

/// The fuzz targets, each a file of its name in `crates/http/fuzz/fuzz_targets`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum FuzzTarget {
    /// Request heads: the same at every split, and as httparse reads them
    Head,
    /// Response heads: the same
    Response,
    /// Chunked bodies against a plain reader
    Chunked,
    /// Tables of filters against trying each filter in order
    Filter,
    /// Whole connections: every request reaches one of app and developer, once and whole
    Connection,
}

impl FuzzTarget {
    fn name(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Response => "response",
            Self::Chunked => "chunked",
            Self::Filter => "filter",
            Self::Connection => "connection",
        }
    }

    /// libFuzzer's options for it.
    fn options(self) -> &'static [&'static str] {
        match self {
            // No byte behind these is read. It reaches so much of the regex crates that weighing every input by how rare
            // its edges are took most of the time.
            Self::Filter => &["-max_len=512", "-entropic=0"],
            Self::Head | Self::Response | Self::Chunked | Self::Connection => &["-max_len=4096"],
        }
    }
}

/// Beyond a target's share of the time: reading the corpus, and shrinking what was found.
const SLACK: Duration = Duration::from_secs(120);

/// One input's limits: far above the slowest that passes, far below what would stall a run.
const LIMITS: &[&str] = &["-timeout=20", "-report_slow_units=20", "-rss_limit_mb=2048"];

pub(crate) fn run(options: &FuzzOptions) -> Result<()> {
    setup::with_fuzzer()?;
    let programs = build()?;
    let targets = if options.targets.is_empty() { FuzzTarget::value_variants() } else { &options.targets };
    let share = Duration::from_secs(options.minutes * 60) / u32::try_from(targets.len()).context("too many targets")?;
    let mut findings = 0;
    for &target in targets {
        let place = FuzzFolders::make(&programs, target)?;
        findings += usize::from(!place.fuzz(share)?);
        if signals::interrupted() {
            bail!("interrupted");
        }
        if options.keep {
            place.keep()?;
        }
    }
    if findings > 0 {
        bail!(
            "{findings} of {} targets found something: copy each input named above to crates/http/fuzz/corpus/TARGET and \
             run `cargo test -p redir-http --test corpus` to see it fail there",
            targets.len()
        );
    }
    println!("{}", ui::green("nothing found"));
    Ok(())
}

/// Builds all targets with libFuzzer's instrumentation; the folder of the programs.
fn build() -> Result<PathBuf> {
    let (host, folder) = (paths::host_triple()?, folder()?);
    let mut flags = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
                     -Cllvm-args=-sanitizer-coverage-trace-compares"
        .to_owned();
    let checked = has_address_sanitizer()?;
    if checked {
        flags += " -Zsanitizer=address";
    }
    let mut command = paths::cargo();
    command.current_dir(paths::root()).args(["build", "--release", "--locked", "--bins", "--target", &host]);
    command.args(["--manifest-path", "crates/http/fuzz/Cargo.toml", "--target-dir"]).arg(&folder);
    // The sanitizer is behind an unstable flag, and its runtime comes with the stable compiler all the same.
    command.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", flags).env_remove("CARGO_ENCODED_RUSTFLAGS");
    let with = if checked { "with" } else { "without" };
    let line = format!("building the fuzz targets {with} AddressSanitizer");
    step::quietly(&mut command, line, &step::log_file("fuzz-build.log")?)?;
    Ok(folder.join(host).join("release"))
}

/// Whether this compiler came with the runtime of AddressSanitizer; a distribution's may not.
fn has_address_sanitizer() -> Result<bool> {
    let folder = paths::rustc(&["--print", "target-libdir"])?;
    let names = fs::read_dir(folder.trim()).into_iter().flatten().flatten().map(|entry| entry.file_name());
    Ok(names.into_iter().any(|name| name.to_string_lossy().ends_with("_rt.asan.a")))
}

/// What fuzzing builds and finds, out of the way of other builds.
fn folder() -> Result<PathBuf> {
    Ok(paths::target()?.join("fuzz"))
}

/// Where one target's things are.
struct FuzzFolders {
    target: FuzzTarget,
    program: PathBuf,
    /// What was found on this machine.
    work: PathBuf,
    /// What is part of the tree.
    kept: PathBuf,
    artifacts: PathBuf,
}

impl FuzzFolders {
    fn make(programs: &Path, target: FuzzTarget) -> Result<FuzzFolders> {
        let (name, folder) = (target.name(), folder()?);
        let place = FuzzFolders {
            target,
            program: programs.join(name),
            work: folder.join("corpus").join(name),
            kept: paths::root().join("crates/http/fuzz/corpus").join(name),
            artifacts: folder.join("artifacts").join(name),
        };
        for folder in [&place.work, &place.artifacts] {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        Ok(place)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        // Leaks are not looked for: that needs ptrace, which containers forbid.
        command
            .args(LIMITS)
            .args(self.target.options())
            .env("ASAN_OPTIONS", "detect_leaks=0")
            .env("RUST_BACKTRACE", "0");
        command
    }

    /// Fuzzes for so long; `false` if an input broke a check.
    fn fuzz(&self, time: Duration) -> Result<bool> {
        let mut command = self.command();
        command.arg(format!("-max_total_time={}", time.as_secs().max(1)));
        // The slash makes it a folder.
        command.arg(format!("-artifact_prefix={}/", self.artifacts.display())).args([&self.work, &self.kept]);
        let line = ui::ProgressLine::start(format!("fuzzing {}, {}", ui::bold(self.target.name()), ui::spoken(time)));
        let mut words = FuzzerOutput::default();
        let end = child::lines(&mut command, Instant::now() + time + SLACK, |text| {
            text.into_iter().for_each(|text| words.read(text));
            line.tick(&words.pulse);
        })?;
        match (end, words.input) {
            _ if signals::interrupted() => line.end("interrupted"),
            (End::Exited(status), None) if status.success() => {
                line.end(&format!("nothing found, {}", words.pulse));
                return Ok(true);
            }
            (_, Some(input)) => {
                line.end(&ui::red("found an input that breaks a check"));
                eprintln!("{}\n{} {input}", words.tail.text(), ui::red("input:"));
            }
            (end, None) => {
                line.end(&ui::red("ended without a result"));
                eprintln!("{}", words.tail.text());
                bail!(
                    "`{}` neither finished nor wrote an input ({end:?}): its last words are above",
                    self.target.name()
                );
            }
        }
        Ok(false)
    }

    /// Adds to the kept corpus what reaches code that it does not reach itself.
    fn keep(&self) -> Result<()> {
        let count = || fs::read_dir(&self.kept).map(Iterator::count).unwrap_or_default();
        let before = count();
        let mut command = self.command();
        // The fewest that reach every edge; how often they do is not told apart, or hundreds were worth keeping.
        command.args(["-set_cover_merge=1", "-use_counters=0"]).args([&self.kept, &self.work]);
        step::quietly(
            &mut command,
            format!("choosing what to keep of {}", self.target.name()),
            &step::log_file("fuzz-merge.log")?,
        )?;
        println!("   {} inputs more in {}", count() - before, self.kept.display());
        Ok(())
    }
}

/// What a target has said so far.
#[derive(Default)]
struct FuzzerOutput {
    /// How far it is.
    pulse: String,
    /// The end of the rest: a broken check's words, or AddressSanitizer's.
    tail: Tail,
    /// libFuzzer's own stack follows, which says less.
    aborted: bool,
    /// The input that broke a check.
    input: Option<String>,
}

/// What libFuzzer says of itself.
const CHATTER: [&str; 2] = ["INFO: ", "NEW_FUNC["];

impl FuzzerOutput {
    fn read(&mut self, line: &str) {
        self.aborted |= line.contains("libFuzzer: deadly signal");
        if let Some(pulse) = FuzzPulse::read(line) {
            self.pulse = pulse.spoken();
        } else if let Some((_, path)) = line.split_once("Test unit written to ") {
            self.input = Some(path.to_owned());
        } else if !self.aborted && !CHATTER.iter().any(|chatter| line.contains(chatter)) {
            self.tail.push(line);
        }
    }
}

/// One of libFuzzer's lines on how far it is: `#4096 pulse  cov: 510 ft: 1000 corp: 80/9Kb exec/s: 1024 rss: 50Mb`.
#[derive(Debug, PartialEq, Eq)]
struct FuzzPulse {
    runs: u64,
    coverage: u64,
    inputs: u64,
}

impl FuzzPulse {
    fn read(line: &str) -> Option<FuzzPulse> {
        let mut words = line.strip_prefix('#')?.split_ascii_whitespace();
        let runs = words.next()?.parse().ok()?;
        let after = |name: &str| {
            let mut words = line.split_ascii_whitespace().skip_while(|word| *word != name);
            words.nth(1)?.split('/').next()?.parse().ok()
        };
        Some(FuzzPulse { runs, coverage: after("cov:")?, inputs: after("corp:")? })
    }

    fn spoken(&self) -> String {
        format!("{} runs, {} edges reached by {} inputs", self.runs, self.coverage, self.inputs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_a_file_and_has_a_corpus() {
        let fuzz = paths::root().join("crates/http/fuzz");
        let mut files: Vec<String> = fs::read_dir(fuzz.join("fuzz_targets"))
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        let mut names: Vec<&str> = FuzzTarget::value_variants().iter().map(|target| target.name()).collect();
        files.sort();
        names.sort_unstable();
        assert_eq!(files, names);
        for name in names {
            assert!(fuzz.join("corpus").join(name).read_dir().unwrap().next().is_some(), "{name}");
        }
    }

    #[test]
    fn a_finding_is_told_by_the_check_that_broke() {
        let mut words = FuzzerOutput::default();
        for line in [
            "INFO: Running with entropic power schedule",
            "#8\tNEW    cov: 5 ft: 1 corp: 2/9b lim: 43 exec/s: 0 rss: 50Mb",
            "thread '<unnamed>' panicked at check/judge.rs:62:9:",
            "no byte is lost",
            "==12== ERROR: libFuzzer: deadly signal",
            "    #0 0x55 in __sanitizer_print_stack_trace",
            "artifact_prefix='/a/'; Test unit written to /a/crash-1",
            "Base64: eA==",
        ] {
            words.read(line);
        }
        assert_eq!(words.input.as_deref(), Some("/a/crash-1"));
        assert_eq!(words.pulse, "8 runs, 5 edges reached by 2 inputs");
        assert!(words.tail.text().ends_with("no byte is lost"));
    }

    #[test]
    fn libfuzzers_lines_are_read() {
        let line = "#4096\tpulse  cov: 510 ft: 1000 corp: 80/9Kb lim: 43 exec/s: 1024 rss: 50Mb";
        assert_eq!(FuzzPulse::read(line), Some(FuzzPulse { runs: 4096, coverage: 510, inputs: 80 }));
        for line in ["#4096\tpulse", "#2\tINITED exec/s: 0 rss: 35Mb", "    #3 0x55d in main", "INFO: seed corpus", ""]
        {
            assert_eq!(FuzzPulse::read(line), None, "{line}");
        }
    }
}
