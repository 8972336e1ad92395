//! The command line of `redir-agent`.
//!
//! Owns its wording and nothing else. Called by `main`.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use clap::{
    Args, Parser, Subcommand,
    error::{ContextKind, ContextValue, ErrorKind},
};
use redir_api::names;

use redir_sandbox::ConfinementArguments;

use crate::logging::LogFormat;

/// The redir agent: one process for each node, which gives a pod's connections to the developers who asked for them.
#[derive(Debug, Parser)]
#[command(name = "redir-agent", version, arg_required_else_help = true, after_help = START)]
pub(crate) struct AgentArguments {
    #[command(flatten)]
    pub(crate) log: LogOptions,
    #[command(subcommand)]
    pub(crate) command: AgentCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AgentCommand {
    /// Run the agent (as root)
    ///
    /// Starts two processes: the guardian, which holds the privileges, and the worker, which has none and handles every
    /// byte from outside. The configuration is read again on SIGHUP and when the file changes; a bad one is reported
    /// and the last good one kept. SIGTERM or Ctrl-C ends the agent gracefully within `agent.drain`; a second one at once.
    ///
    /// With --kubernetes there is no file: pods and developers are the API server's to tell, and a third process, the
    /// controller, speaks to it.
    Run {
        #[command(flatten)]
        file: ConfigPath,
        #[command(flatten)]
        kubernetes: Box<KubernetesOptions>,
    },
    /// Make the agent's key and print its name
    ///
    /// Writes a new Ed25519 key (PKCS#8 PEM, mode 0600), never over an existing file, and prints the line that
    /// developers put into their redir.toml.
    Keygen {
        /// Where to write it, as in /etc/redir/agent.key
        file: PathBuf,
    },
    /// Check a configuration, and what this machine can do
    ///
    /// Changes nothing. Ends with 0 when `redir-agent run` would start here.
    Check {
        #[command(flatten)]
        file: ConfigPath,
    },
    /// The unprivileged half; started by the guardian only
    #[command(hide = true)]
    Worker {
        #[command(flatten)]
        file: ConfigPath,
        #[command(flatten)]
        confinement: ConfinementArguments,
    },
    /// The process that hears the API server or container runtimes; started by the guardian only
    #[command(hide = true)]
    Controller {
        #[command(flatten)]
        file: ConfigPath,
        #[command(flatten)]
        confinement: ConfinementArguments,
    },
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ConfigPath {
    /// The configuration (TOML)
    #[arg(long = "config", value_name = "FILE", default_value = "/etc/redir/agent.toml")]
    pub(crate) path: PathBuf,
}

/// What the DaemonSet says; the rest is as in a file without those keys.
#[derive(Debug, Clone, Args)]
pub(crate) struct KubernetesOptions {
    /// Be the agent of a Kubernetes node
    #[arg(long = "kubernetes", conflicts_with = "path")]
    pub(crate) enabled: bool,
    /// The Node's name; without it the environment's NODE_NAME (spec.nodeName of the agent's pod)
    #[arg(long, value_name = "NAME", requires = "enabled")]
    pub(crate) node: Option<String>,
    /// The node's address, if the Node object tells none; without it the environment's NODE_IP (status.hostIP)
    #[arg(long, value_name = "IP", requires = "enabled")]
    pub(crate) node_ip: Option<String>,
    /// Where the node's /proc is mounted
    #[arg(long, value_name = "FOLDER", default_value = names::HOST_PROC, requires = "enabled")]
    pub(crate) proc: PathBuf,
    /// Reach the API server by this file instead of the pod's service account
    #[arg(long, value_name = "FILE", requires = "enabled")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Where to ask the API server first, HOST:PORT; without it the environment's API_SERVER
    #[arg(long, value_name = "ADDRESS", requires = "enabled")]
    pub(crate) api_server: Option<String>,
    /// Namespaces in which nothing is intercepted, with commas between them; without it the environment's
    /// FORBIDDEN_NAMESPACES, else kube-system. The agent's own (POD_NAMESPACE) is always one
    #[arg(long, value_name = "NAMES", requires = "enabled")]
    pub(crate) forbidden_namespaces: Option<String>,
    /// UDP address that developers dial
    #[arg(long, value_name = "ADDRESS", requires = "enabled")]
    pub(crate) listen: Option<SocketAddr>,
    /// Loopback address of /healthz, /readyz and /metrics
    #[arg(long, value_name = "ADDRESS", requires = "enabled")]
    pub(crate) admin: Option<SocketAddr>,
    /// How long connections may go on after SIGTERM
    #[arg(long, value_name = "TIME", requires = "enabled")]
    pub(crate) drain: Option<String>,
}

impl KubernetesOptions {
    /// The configuration as text; `None` without `--kubernetes`.
    pub(crate) fn text(&self) -> Result<Option<String>, UsageError> {
        if !self.enabled {
            return Ok(None);
        }
        let environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let node = self.node.clone().or_else(|| environment(names::ENV_NODE_NAME)).ok_or_else(|| {
            UsageError("--kubernetes needs to know its Node; give --node, or NODE_NAME in the environment".to_owned())
        })?;
        let listen = self.listen.unwrap_or_else(|| (any_address(), names::PORT).into());
        let mut agent = toml::Table::new();
        let mut put = |key: &str, value: Option<String>| {
            agent.extend(value.map(|value| (key.to_owned(), toml::Value::String(value))));
        };
        put("listen", Some(listen.to_string()));
        put("admin", self.admin.map(|address| address.to_string()));
        put("drain", self.drain.clone());
        let path = |path: &PathBuf| path.display().to_string();
        let mut kubernetes = toml::Table::new();
        let mut put = |key: &str, value: Option<String>| {
            kubernetes.extend(value.map(|value| (key.to_owned(), toml::Value::String(value))));
        };
        put("node", Some(node));
        put("address", self.node_ip.clone().or_else(|| environment(names::ENV_NODE_IP)));
        put("proc", Some(path(&self.proc)));
        put("kubeconfig", self.kubeconfig.as_ref().map(path));
        put("api_server", self.api_server.clone().or_else(|| environment(names::ENV_API_SERVER)));
        kubernetes.insert("forbidden_namespaces".to_owned(), self.forbidden(environment).into());
        let whole = [("agent", agent), ("kubernetes", kubernetes)];
        let whole: toml::Table = whole.into_iter().map(|(key, table)| (key.to_owned(), table.into())).collect();
        Ok(Some(whole.to_string()))
    }

    fn forbidden(&self, environment: impl Fn(&str) -> Option<String>) -> Vec<String> {
        let given = self.forbidden_namespaces.clone().or_else(|| std::env::var(names::ENV_FORBIDDEN_NAMESPACES).ok());
        let given = given.unwrap_or_else(|| names::FORBIDDEN_NAMESPACES.to_owned());
        let names = given.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned);
        names.chain(environment(names::ENV_POD_NAMESPACE)).collect()
    }
}

/// Both families where the kernel has both.
fn any_address() -> IpAddr {
    if Path::new("/proc/net/if_inet6").exists() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}

/// Before or behind the subcommand.
#[derive(Debug, Clone, Args)]
pub(crate) struct LogOptions {
    /// What to log: error, warn, info, debug or trace, also by module (redir_worker=debug,info)
    ///
    /// Without it the environment's REDIR_LOG counts, else info.
    #[arg(long = "log", value_name = "FILTER", global = true)]
    pub(crate) filter: Option<String>,
    /// How to log
    #[arg(long = "log-format", value_enum, default_value_t = LogFormat::Text, global = true)]
    pub(crate) format: LogFormat,
}

/// Whether clap was asked for help or the version, or nothing was asked at all.
pub(crate) fn is_help(error: &clap::Error) -> bool {
    use ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion};
    matches!(error.kind(), DisplayHelp | DisplayHelpOnMissingArgumentOrSubcommand | DisplayVersion)
}

/// What clap says about a wrong command line in several lines, as one sentence with the next step.
pub(crate) fn sentence(error: &clap::Error) -> String {
    let text = error.to_string();
    let told: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let suggested = [ContextKind::SuggestedArg, ContextKind::SuggestedSubcommand, ContextKind::SuggestedValue];
    let suggested = suggested.into_iter().find_map(|kind| match error.get(kind)? {
        ContextValue::String(one) => Some(one.clone()),
        ContextValue::Strings(several) => several.first().cloned(),
        _ => None,
    });
    let next = suggested.map_or_else(String::new, |one| format!("did you mean {one}? "));
    let told = told.join(" ");
    format!("{}; {next}`redir-agent --help` says what there is", told.trim_start_matches("error: "))
}

/// A wrong command line that clap could not see: exit code 2.
#[derive(Debug)]
pub(crate) struct UsageError(pub(crate) String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

const START: &str = "\
To start:
  redir-agent keygen /etc/redir/agent.key     makes the key; developers need the line that it prints
  redir-agent check --config agent.toml       says what is wrong with the file or the machine
  redir-agent run --config agent.toml

In Kubernetes `redir install` does all of this, with `redir-agent run --kubernetes`.

Exit status: 0 ended as asked, 1 failed, 2 wrong usage or configuration.";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn definition_is_sound() {
        AgentArguments::command().debug_assert();
    }

    #[test]
    fn the_log_is_asked_for_before_or_behind_the_command() {
        for line in
            [&["--log", "debug", "--log-format", "json", "run"][..], &["run", "--log", "debug", "--log-format", "json"]]
        {
            let cli = AgentArguments::try_parse_from(["redir-agent"].iter().chain(line)).unwrap();
            assert_eq!((cli.log.filter.as_deref(), cli.log.format), (Some("debug"), LogFormat::Json), "{line:?}");
        }
    }

    #[test]
    fn what_the_chart_starts_is_understood_with_every_example_of_its_values() {
        let examples = redir_manifests::value_examples();
        assert!(examples.iter().any(|example| example.starts_with("log:")), "{examples:?}");
        for example in examples {
            let mut options = redir_manifests::Options::default();
            options.values.merge(example).unwrap();
            let objects = redir_manifests::render(&options).unwrap();
            let agent = objects.iter().find(|object| object["kind"] == "DaemonSet").unwrap();
            let words = agent["spec"]["template"]["spec"]["containers"][0]["args"].as_array().unwrap();
            let words = words.iter().map(|word| word.as_str().unwrap());
            let cli = AgentArguments::try_parse_from(["redir-agent"].into_iter().chain(words)).unwrap();
            let filter = cli.log.filter.unwrap();
            tracing_subscriber::EnvFilter::try_new(&filter).unwrap_or_else(|error| panic!("{filter}: {error}"));
        }
    }

    #[test]
    fn wrong_usage_ends_with_2() {
        for args in [&["redir-agent"][..], &["redir-agent", "run", "--cfg", "x"], &["redir-agent", "keygen"]] {
            assert_eq!(AgentArguments::try_parse_from(args).expect_err("wrong").exit_code(), 2, "{args:?}");
        }
    }

    #[test]
    fn wrong_usage_is_one_sentence() {
        for (args, expected) in [
            (&["run", "--confg", "x"][..], "unexpected argument '--confg' found; did you mean --config? `redir-agent"),
            (&["chekc"], "unrecognized subcommand 'chekc'; did you mean check? `redir-agent --help`"),
            (&["keygen"], "the following required arguments were not provided: <FILE>; `redir-agent --help`"),
            (&["run", "--log-format", "jso"], "did you mean json?"),
            (&["check", "--config"], "a value is required for '--config <FILE>'"),
        ] {
            let error = AgentArguments::try_parse_from(["redir-agent"].iter().chain(args)).expect_err("wrong");
            let sentence = sentence(&error);
            assert!(sentence.contains(expected) && !sentence.contains('\n'), "{args:?}: {sentence}");
        }
    }
}
