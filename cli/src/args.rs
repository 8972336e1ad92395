//! The flags, as clap sees them.
//!
//! Owns: the shape of the command line. Must not check values (`values` does) or word them (`wording` does).
//! Called by: `main`; read by `commands`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args, CommandFactory as _, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;
use redir_tunnel::Pin;

use crate::conditions::Conditions;
use crate::json;
use crate::model::values::{
    AgentAddress, LabelSet, LeaveTarget, PortMapping, ProxyProtocol, Seconds, ServiceAddress, Target,
};
use crate::values;
use crate::wording::help;

/// `redir …`
#[derive(Debug, Parser)]
#[command(name = "redir", version, about = help::ABOUT, long_about = help::LONG_ABOUT, after_help = help::EXAMPLES)]
#[command(arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The command line, under the name that it was started by: kubectl finds a plugin as `kubectl-redir`.
pub(crate) fn command() -> clap::Command {
    let started = std::env::args_os().next().map(PathBuf::from);
    let is_plugin = started.as_deref().and_then(Path::file_stem).is_some_and(|stem| stem == "kubectl-redir");
    let command = Cli::command();
    if is_plugin { command.bin_name("kubectl redir") } else { command }
}

/// One for each file in `commands`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(about = help::INTERCEPT, long_about = help::INTERCEPT_LONG, after_long_help = json::intercept_help())]
    #[command(after_help = "`redir intercept --help` shows examples.")]
    Intercept(Box<InterceptArgs>),
    #[command(about = help::LIST)]
    List(QueryArgs),
    #[command(about = help::LEAVE, after_help = help::LEAVE_EXAMPLES)]
    Leave(LeaveArgs),
    #[command(about = help::STATUS)]
    Status(QueryArgs),
    #[command(about = help::DESCRIBE)]
    Describe(DescribeArgs),
    #[command(about = help::INSTALL, long_about = help::INSTALL_LONG, after_help = json::admin_help(help::INSTALL_EXAMPLES))]
    Install(InstallArgs),
    #[command(about = help::UPGRADE, long_about = help::UPGRADE_LONG)]
    Upgrade(InstallArgs),
    #[command(about = help::UNINSTALL, long_about = help::UNINSTALL_LONG)]
    Uninstall(UninstallArgs),
    #[command(about = help::DOCTOR, long_about = help::DOCTOR_LONG, after_help = json::answer_help(help::DOCTOR_EXAMPLES, &["check"]))]
    Doctor(DoctorArgs),
    #[command(about = help::COMPLETIONS, after_help = help::COMPLETIONS_EXAMPLES)]
    Completions(CompletionsArgs),
    #[command(about = help::KEYGEN)]
    Keygen(KeygenArgs),
}

/// `redir intercept …`
#[derive(Debug, Args)]
pub(crate) struct InterceptArgs {
    #[arg(value_name = "TARGET", help = help::TARGET, required_unless_present = "selector")]
    pub(crate) target: Option<Target>,
    #[arg(long, short = 'l', value_name = "LABELS", help = help::SELECTOR, conflicts_with = "target")]
    pub(crate) selector: Option<LabelSet>,
    #[arg(long, short, value_name = "POD[:YOURS]", help = help::PORT, required = true)]
    pub(crate) port: Vec<PortMapping>,
    #[arg(long, value_name = "HOST:PORT", help = help::TO)]
    pub(crate) to: Vec<ServiceAddress>,
    #[command(flatten)]
    pub(crate) conditions: Conditions,
    #[arg(long, help = help::PROBES)]
    pub(crate) probes: bool,
    #[arg(long, help = help::FLUSH)]
    pub(crate) flush: bool,
    #[arg(long, help = help::EVEN_IF_DOWN)]
    pub(crate) even_if_down: bool,
    #[arg(long, help = help::LOCAL_TLS)]
    pub(crate) local_tls: bool,
    #[arg(long, help = help::FORWARDED)]
    pub(crate) forwarded: bool,
    #[arg(long, value_enum, value_name = "VERSION", help = help::PROXY_PROTOCOL)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "v1")]
    pub(crate) proxy_protocol: Option<ProxyProtocol>,
    #[arg(long, value_name = "SECONDS", help = help::WAIT)]
    pub(crate) wait: Option<Seconds>,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    #[command(flatten)]
    pub(crate) agents: AgentArgs,
    #[arg(last = true, value_name = "COMMAND", help = help::COMMAND, value_hint = ValueHint::CommandWithArguments)]
    pub(crate) command: Vec<OsString>,
}

/// Which agents are asked, with which key.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = help::AGENTS_HEADING)]
pub(crate) struct AgentArgs {
    #[arg(long, value_name = "HOST:PORT", help = help::AGENT, requires = "agent_key")]
    pub(crate) agent: Vec<AgentAddress>,
    #[arg(long, value_name = "sha256:…", help = help::AGENT_KEY, requires = "agent")]
    #[arg(value_parser = values::agent_key)]
    pub(crate) agent_key: Vec<Pin>,
    #[arg(long, value_name = "FILE", help = help::KEY, value_hint = ValueHint::FilePath)]
    pub(crate) key: Option<PathBuf>,
    #[arg(long, value_name = "FILE", help = help::CONFIG, value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
    #[arg(long, short, value_enum, default_value_t = OutputFormat::Text, help = help::OUTPUT)]
    pub(crate) output: OutputFormat,
}

/// Which cluster is asked, as kubectl names it.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = help::CLUSTER_HEADING)]
pub(crate) struct ClusterArgs {
    #[arg(long, short, value_name = "NAME", help = help::NAMESPACE)]
    pub(crate) namespace: Option<String>,
    #[arg(long, value_name = "NAME", help = help::CONTEXT)]
    pub(crate) context: Option<String>,
    #[arg(long, value_name = "FILE", help = help::KUBECONFIG, value_hint = ValueHint::FilePath)]
    pub(crate) kubeconfig: Option<PathBuf>,
}

/// `-o`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    #[default]
    Text,
    Json,
}

/// `redir list`, `redir status`
#[derive(Debug, Args)]
pub(crate) struct QueryArgs {
    #[arg(long, short = 'A', help = help::ALL_NAMESPACES, conflicts_with = "namespace")]
    pub(crate) all_namespaces: bool,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    #[command(flatten)]
    pub(crate) agents: AgentArgs,
}

/// `redir describe …`
#[derive(Debug, Args)]
pub(crate) struct DescribeArgs {
    #[arg(value_name = "INTERCEPT", help = help::DESCRIBE_NAME)]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    #[arg(long, short, value_enum, default_value_t = OutputFormat::Text, help = help::OUTPUT)]
    pub(crate) output: OutputFormat,
}

/// `redir install`, `redir upgrade`
#[derive(Debug, Args)]
pub(crate) struct InstallArgs {
    #[arg(long, value_name = "REF", help = help::IMAGE)]
    pub(crate) image: Option<String>,
    #[arg(long, value_name = "FILE", help = help::VALUES, value_hint = ValueHint::FilePath)]
    pub(crate) values: Vec<PathBuf>,
    #[arg(long, help = help::DRY_RUN)]
    pub(crate) dry_run: bool,
    #[arg(long, help = help::PRINT, conflicts_with = "dry_run")]
    pub(crate) print: bool,
    #[arg(long, short, help = help::INSTALL_YES)]
    pub(crate) yes: bool,
    #[arg(long, value_name = "SECONDS", help = help::INSTALL_WAIT)]
    pub(crate) wait: Option<Seconds>,
    #[arg(long, short, value_enum, default_value_t = OutputFormat::Text, help = help::OUTPUT)]
    pub(crate) output: OutputFormat,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
}

/// `redir uninstall`
#[derive(Debug, Args)]
pub(crate) struct UninstallArgs {
    #[arg(long, help = help::DRY_RUN)]
    pub(crate) dry_run: bool,
    #[arg(long, short, help = help::UNINSTALL_YES)]
    pub(crate) yes: bool,
    #[arg(long, value_name = "SECONDS", help = help::UNINSTALL_WAIT)]
    pub(crate) wait: Option<Seconds>,
    #[arg(long, short, value_enum, default_value_t = OutputFormat::Text, help = help::OUTPUT)]
    pub(crate) output: OutputFormat,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
}

/// `redir doctor`
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[arg(value_name = "TARGET", help = help::DOCTOR_TARGET)]
    pub(crate) target: Option<Target>,
    #[arg(long, short = 'l', value_name = "LABELS", help = help::SELECTOR, conflicts_with = "target")]
    pub(crate) selector: Option<LabelSet>,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    #[arg(long, short, value_enum, default_value_t = OutputFormat::Text, help = help::OUTPUT)]
    pub(crate) output: OutputFormat,
}

/// `redir leave …`
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).args(["which", "all"]))]
pub(crate) struct LeaveArgs {
    #[arg(value_name = "TARGET|NAME|NUMBER", help = help::LEAVE_WHICH)]
    pub(crate) which: Option<LeaveTarget>,
    #[arg(long, help = help::LEAVE_ALL)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    #[command(flatten)]
    pub(crate) agents: AgentArgs,
}

/// `redir completions …`
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    #[arg(value_enum, value_name = "SHELL", help = help::SHELL)]
    pub(crate) shell: Shell,
}

/// `redir keygen …`
#[derive(Debug, Args)]
pub(crate) struct KeygenArgs {
    #[arg(value_name = "FILE", help = help::KEYGEN_FILE, value_hint = ValueHint::FilePath)]
    pub(crate) file: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use redir_http::filter::Mode;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_whole_intercept_line_is_read() {
        let line = "redir intercept app=web --port 8080:3000 --header x-user:alice --header x-user:bob --any --probes \
                    --agent n:1 --agent-key \
                    sha256:47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU --agent m:2 --agent-key \
                    sha256:47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU -o json -- npm start --port 3000";
        let Command::Intercept(args) = Cli::try_parse_from(line.split_whitespace()).unwrap().command else {
            panic!("not an intercept");
        };
        assert!(args.probes);
        let filter = args.conditions.filter().unwrap().unwrap();
        assert_eq!((filter.conditions.len(), filter.mode), (2, Mode::Any));
        assert_eq!((args.agents.agent.len(), args.agents.agent_key.len()), (2, 2));
        assert_eq!(args.agents.output, OutputFormat::Json);
        assert_eq!(args.command, ["npm", "start", "--port", "3000"]);
    }
}
