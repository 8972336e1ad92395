//! `redir-agent`: the one redir program on each node, in two processes (guardian and worker), with Kubernetes or container
//! runtimes in three (controller).
//!
//! Owns the exit code and the one line that says why the agent ended. Everything else is in its rooms.
#![cfg(target_os = "linux")]

mod args;
mod logging;

use std::{
    ffi::OsString,
    io::{self, Write as _},
    os::fd::OwnedFd,
    path::Path,
    process::ExitCode,
};

use anyhow::Context;
use clap::{Parser, ValueEnum};
use redir_config::ConfigError;
use redir_sandbox::ConfinementArguments;

use crate::args::{AgentArguments, AgentCommand, ConfigPath, LogOptions, UsageError};

fn main() -> ExitCode {
    let cli = match AgentArguments::try_parse() {
        Ok(cli) => cli,
        Err(help) if args::is_help(&help) => help.exit(),
        Err(wrong) => {
            say(&args::sentence(&wrong));
            return ExitCode::from(2);
        }
    };
    match run(cli.command, &cli.log) {
        Ok(code) => code,
        Err(error) => {
            say(&format!("{error:#}"));
            let usage =
                |cause: &(dyn std::error::Error + 'static)| cause.is::<ConfigError>() || cause.is::<UsageError>();
            ExitCode::from(if error.chain().any(usage) { 2 } else { 1 })
        }
    }
}

/// The one line that says why the agent ended. What is quoted in it may hold anything: a terminal's escapes are shown.
fn say(sentence: &str) {
    let mut line = String::with_capacity(sentence.len());
    for character in sentence.chars() {
        match character {
            // A chain of causes may have several lines.
            '\n' => line.push('\n'),
            control if control.is_control() => line.extend(control.escape_default()),
            other => line.push(other),
        }
    }
    // Nothing can be told if this fails.
    writeln!(io::stderr(), "redir-agent: {line}").ok();
}

fn run(command: AgentCommand, log: &LogOptions) -> anyhow::Result<ExitCode> {
    match command {
        AgentCommand::Run { file, kubernetes } => {
            start_log(log)?;
            let arguments = redir_guardian::ChildArguments {
                worker: child_arguments("worker", &file, log),
                controller: child_arguments("controller", &file, log),
            };
            let settings = match kubernetes.text()? {
                Some(text) => redir_guardian::ConfigOrigin::Text(text, Path::new("the command line")),
                None => redir_guardian::ConfigOrigin::File(&file.path),
            };
            redir_guardian::run(settings, arguments).map(ExitCode::from)
        }
        AgentCommand::Check { file } => {
            // What it finds is printed, not logged.
            let quiet = LogOptions { filter: Some("off".to_owned()), format: log.format };
            let good = redir_guardian::check(&file.path, child_arguments("controller", &file, &quiet))?;
            Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        AgentCommand::Keygen { file } => keygen(&file),
        AgentCommand::Worker { file, confinement } => {
            start_log(log)?;
            work(&file.path, &confinement).map(|()| ExitCode::SUCCESS)
        }
        AgentCommand::Controller { file, confinement } => {
            start_log(log)?;
            control_pods(&file.path, &confinement).map(|()| ExitCode::SUCCESS)
        }
    }
}

fn keygen(file: &Path) -> anyhow::Result<ExitCode> {
    let identity = redir_identity::Identity::generate()?;
    identity.save(file)?;
    redir_guardian::output::line(format_args!("{}", identity.pin()))?;
    Ok(ExitCode::SUCCESS)
}

/// The socket to the guardian.
fn control(command: &str) -> anyhow::Result<OwnedFd> {
    redir_guardian::inherited_control()
        .with_context(|| format!("`redir-agent {command}` is started by the agent itself; start `redir-agent run`"))
}

fn work(config_file: &Path, confinement: &ConfinementArguments) -> anyhow::Result<()> {
    let control = control("worker")?;
    // The last that is read of any file.
    let limits = redir_worker::MachineLimits::look();
    let profile = confinement.profile();
    redir_sandbox::enter(&profile, confinement.user)?;
    let bootstrap = redir_worker::bootstrap(control, config_file)?;
    let admin = redir_worker::bind_admin(&bootstrap)?;
    redir_sandbox::restrict_calls(&profile);
    redir_worker::run(bootstrap, admin, limits)
}

fn control_pods(config_file: &Path, confinement: &ConfinementArguments) -> anyhow::Result<()> {
    let control = control("controller")?;
    let profile = confinement.profile();
    redir_sandbox::enter(&profile, confinement.user)?;
    redir_sandbox::restrict_calls(&profile);
    redir_controller::run(control, config_file)
}

fn child_arguments(command: &str, file: &ConfigPath, log: &LogOptions) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = [command, "--config"].map(OsString::from).into();
    arguments.push(file.path.clone().into());
    arguments.extend(["--log".into(), filter(log).into(), "--log-format".into(), format_name(log.format).into()]);
    arguments
}

fn start_log(log: &LogOptions) -> anyhow::Result<()> {
    logging::init(log.format, &filter(log)).map_err(|error| UsageError(format!("{error:#}")).into())
}

fn filter(log: &LogOptions) -> String {
    let environment = || std::env::var("REDIR_LOG").ok().filter(|filter| !filter.is_empty());
    log.filter.clone().or_else(environment).unwrap_or_else(|| "info".to_owned())
}

fn format_name(format: logging::LogFormat) -> String {
    format.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}
