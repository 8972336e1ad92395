//! `cargo xtask`: the repository's own commands. This file owns the command line and the exit code; what a command does
//! is in the module of its name. It must build with the plain toolchain alone, since it installs everything else.

mod bench;
mod book;
mod chaos;
mod check;
mod child;
mod cluster;
mod demo;
mod fuzz;
mod image;
mod kernel;
mod lock;
mod paths;
mod privilege;
mod setup;
mod signals;
mod smoke;
mod step;
mod test;
mod tested;
mod ui;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// Set up, check, test and show redir.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", after_help = LESSON, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<XtaskCommand>,
}

#[derive(Subcommand)]
enum XtaskCommand {
    /// Install what the agent's build and the tests need, where it is missing
    Setup,
    /// Check formatting, lints, documentation, licences, the workflow, names, sizes and import cycles
    Check(check::CheckOptions),
    /// Check the links of the documents, and build the pages of docs/ as a website
    Book,
    /// Run every test: unit, kernel programs, and end to end in real network namespaces
    Test(test::TestOptions),
    /// Play the main job with the real programs: intercept, match, change, kill; ends with what it measured
    Demo(demo::DemoOptions),
    /// Search for inputs that break the HTTP engine, for as long as asked
    Fuzz(fuzz::FuzzOptions),
    /// Play what ought to break redir against release builds of it, and see that nobody loses anything
    Chaos(chaos::Options),
    /// Measure redir next to others that do the same, in network namespaces of its own
    Bench(bench::BenchCommand),
    /// A real Kubernetes on this machine, for trying and testing
    Cluster(cluster::ClusterOptions),
    /// Make the agent's container image: a static binary in an empty file system, with or without a container tool
    Image(image::ImageOptions),
    /// Everything an admin and a developer do, on a real cluster: install, intercept, roll out, refuse, break, uninstall
    Smoke(smoke::SmokeOptions),
    /// Remove what a killed run left: namespaces of the rig whose process is dead
    #[command(hide = true)]
    Sweep,
}

const LESSON: &str = "\
Where to begin:
  cargo xtask demo           see it work, in namespaces that are gone afterwards
  cargo xtask test           every test; ends with `N passed, N failed`
  cargo build -p redir       the developer's command alone; needs no setup

`demo` and `test` call `setup` by themselves. It wants Debian 12, and root or
sudo for the packages; its own tools go to ~/.cache/redir (XDG_CACHE_HOME).
CONTRIBUTING.md says what each step is for.";

fn main() -> ExitCode {
    let Some(command) = Arguments::parse().command else {
        let _ = Arguments::command().print_help();
        return ExitCode::SUCCESS;
    };
    match signals::watch().and_then(|()| run(&command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if signals::interrupted() => {
            eprintln!("interrupted; what was started has been ended");
            ExitCode::from(signals::INTERRUPTED_CODE)
        }
        Err(error) => {
            eprintln!("{} {error:#}", ui::red("error:"));
            ExitCode::FAILURE
        }
    }
}

fn run(command: &XtaskCommand) -> anyhow::Result<()> {
    match command {
        XtaskCommand::Setup => setup::run(setup::Say::Everything),
        XtaskCommand::Check(options) => check::run(options),
        XtaskCommand::Book => book::run(),
        XtaskCommand::Test(options) => test::run(options),
        XtaskCommand::Demo(options) => demo::run(options),
        XtaskCommand::Fuzz(options) => fuzz::run(options),
        XtaskCommand::Chaos(options) => chaos::run(options),
        XtaskCommand::Bench(options) => bench::run(options),
        XtaskCommand::Cluster(options) => cluster::run(options),
        XtaskCommand::Image(options) => image::run(options),
        XtaskCommand::Smoke(options) => smoke::run(options),
        XtaskCommand::Sweep => test::sweep(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every command of this page can be typed as it stands there.
    fn can_be_typed(page: &str, at_least: usize) {
        let commands = redir_rig::documents::commands(page, "cargo xtask").expect("quotes match");
        assert!(commands.len() >= at_least, "{commands:?}");
        for command in commands {
            let words = ["cargo xtask".to_owned()].into_iter().chain(command.iter().cloned());
            if let Err(error) = Arguments::try_parse_from(words) {
                panic!("cargo xtask {}: {error}", command.join(" "));
            }
        }
    }

    #[test]
    fn the_commands_of_the_documents_can_be_typed() {
        can_be_typed(&redir_rig::documents::user_pages().expect("the pages are there"), 4);
        can_be_typed(include_str!("../../CONTRIBUTING.md"), 12);
    }
}
