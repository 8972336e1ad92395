//! `redir intercept`: from the flags to what runs.
//!
//! Owns: the order of things: whether there is a pod at all, the developer's command, the intercept. Must not follow it
//! (`run`), speak to agents (`link`) or word anything (`wording`). Called by: `commands`.

use std::ffi::OsString;
use std::time::Duration;

use redir_tunnel::Identity;
use redir_wire::{EarlierConnections, Filter, Probes};

use super::ahead::{self, Ahead};
use super::nodes::Nodes;
use super::own::{Started, start};
use super::run::{Run, ended_first};
use crate::args;
use crate::child::Child;
use crate::cluster::lease::Lease;
use crate::cluster::mode::{self, Mode, Signs};
use crate::cluster::wish::ObjectWish;
use crate::cluster::{Cluster, target};
use crate::conditions;
use crate::events::Event;
use crate::link::Wanted;
use crate::reach::Reached;
use crate::screen::Screen;
use crate::service::{Service, Speaks};
use crate::signals::Signals;
use crate::trouble::{Outcome, Trouble};
use crate::user;
use crate::values::{LabelSet, PortName, Seconds, Target};
use crate::wording::{cluster as cluster_say, session as say, values as say_value};

/// How long the command may take until it answers.
const WAIT: Duration = Duration::from_secs(120);

/// Intercepts until something ends it.
pub(crate) fn run(mut args: args::Intercept) -> Outcome {
    check_command(&args)?;
    let filter = args.conditions.clone().filter()?;
    let selector = args.selector.take();
    let signs = Signs {
        target: args.target.as_ref(),
        flag: selector.is_some().then_some("--selector"),
        cluster: &args.cluster,
    };
    match mode::of(&signs, &args.reach)? {
        Mode::Static(reached) => on_static_agents(args, filter, reached),
        Mode::Kubernetes => in_cluster(args, selector, filter),
    }
}

fn on_static_agents(args: args::Intercept, filter: Option<Filter>, reached: Reached) -> Outcome {
    let pod = match &args.port.pod {
        PortName::Number(number) => *number,
        PortName::Name(name) => return Err(Trouble::Usage(say_value::named_port(name))),
    };
    let wanted = Wanted {
        token: redir_tunnel::random_token().map_err(|_| Trouble::Failed(say::no_random()))?,
        target: args.target.ok_or_else(|| Trouble::Failed(say::bug()))?,
        ports: args.port.numbers(pod),
        filter,
        probes: probes(args.probes),
        earlier: earlier(args.flush),
        speaks: speaks(args.local_tls),
    };
    super::with_runtime(args.reach.output, async move |screen| {
        warn_if_unlikely(&screen, wanted.filter.as_ref());
        let mut signals = listen()?;
        let mut child = None;
        if !args.command.is_empty() {
            if ahead::look(&screen, &mut signals, &reached, &wanted).await? == Ahead::Interrupted {
                screen.tell(&Event::Ended { reason: say::nothing_yet() });
                return Ok(0);
            }
            match with_command(&screen, &mut signals, wanted.service(), &args.command, args.wait).await? {
                Ok(started) => child = Some(started),
                Err(code) => return Ok(code),
            }
        }
        let mut run = Run::new(screen, signals, child, reached.identity, wanted);
        run.dial_all(reached.agents);
        run.run().await
    })
}

fn in_cluster(args: args::Intercept, selector: Option<LabelSet>, filter: Option<Filter>) -> Outcome {
    let target = match (args.target, selector) {
        (Some(target), None) => target,
        (None, Some(LabelSet(labels))) => Target::Labels(labels),
        // clap sees to it that there is exactly one.
        _ => return Err(Trouble::Failed(say::bug())),
    };
    // Nobody but this run needs to be known by it.
    let identity = Identity::generate().map_err(|_| Trouble::Failed(say::no_random()))?;
    super::with_runtime(args.reach.output, async move |screen| {
        warn_if_unlikely(&screen, filter.as_ref());
        let mut signals = listen()?;
        let cluster = Cluster::connect(&args.cluster).await?;
        let found = target::find(&cluster, &target, &args.port.pod).await?;
        let pod =
            found.port.or(args.port.own).ok_or_else(|| Trouble::Usage(cluster_say::port_unknown(&args.port.pod)))?;
        let ports = args.port.numbers(pod);
        let mut child = None;
        if !args.command.is_empty() {
            match with_command(&screen, &mut signals, Service(ports.own), &args.command, args.wait).await? {
                Ok(started) => child = Some(started),
                Err(code) => return Ok(code),
            }
        }
        let wish = ObjectWish {
            target: target.clone(),
            port: args.port.pod,
            filter: filter.clone(),
            probes: probes(args.probes),
            earlier: earlier(args.flush),
            key: identity.pin(),
            to: Service(ports.own).address().to_string(),
            user: user::at_machine(),
        };
        let (lease, object) = Lease::start(&cluster, wish).await?;
        let token =
            object.metadata.uid.as_deref().and_then(redir_api::token).ok_or_else(|| Trouble::Failed(say::bug()))?;
        if args.flush && !object.spec.flush {
            screen.note(cluster_say::no_flush().to_owned());
        }
        screen.tell(&Event::Created {
            intercept: lease.name().to_owned(),
            namespace: cluster.namespace.clone(),
            target: target.to_string(),
        });
        let speaks = speaks(args.local_tls);
        let (probes, earlier) = (probes(args.probes), earlier(args.flush));
        let wanted = Wanted { token, target, ports, filter, probes, earlier, speaks };
        let mut run = Run::new(screen, signals, child, identity, wanted);
        run.nodes = Some(Nodes::new(lease, found.pods, object));
        run.run().await
    })
}

fn warn_if_unlikely(screen: &Screen, filter: Option<&Filter>) {
    if let Some(both) = filter.and_then(conditions::unlikely) {
        screen.note(say_value::unlikely(both));
    }
}

fn speaks(tls: bool) -> Speaks {
    if tls { Speaks::Tls } else { Speaks::Plaintext }
}

fn probes(taken: bool) -> Probes {
    if taken { Probes::Developer } else { Probes::App }
}

fn earlier(flush: bool) -> EarlierConnections {
    if flush { EarlierConnections::Close } else { EarlierConnections::Stay }
}

fn listen() -> Result<Signals, Trouble> {
    Signals::listen().map_err(|error| Trouble::Failed(say::no_signals(&error)))
}

/// Starts the developer's command. `Err` is the exit code if it is over before anything was intercepted.
async fn with_command(
    screen: &Screen,
    signals: &mut Signals,
    service: Service,
    command: &[OsString],
    wait: Option<Seconds>,
) -> Result<Result<Child, u8>, Trouble> {
    let wait = wait.map_or(WAIT, |wait| wait.0);
    match start(screen, signals, service, command, wait).await? {
        Started::Runs(child) => Ok(Ok(child)),
        Started::Ended(code) => ended_first(screen, code).map(Err),
        Started::Interrupted(code) => {
            screen.tell(&Event::Ended { reason: say::nothing_yet() });
            Ok(Err(code))
        }
    }
}

/// Refuses what only makes sense with a command.
fn check_command(args: &args::Intercept) -> Result<(), Trouble> {
    if !args.command.is_empty() {
        return Ok(());
    }
    // clap does not tell `--` without anything behind it from no `--` at all.
    if std::env::args_os().next_back().is_some_and(|last| last == "--") {
        return Err(Trouble::Usage(say::empty_command()));
    }
    match args.wait {
        Some(_) => Err(Trouble::Usage(say::wait_without_command())),
        None => Ok(()),
    }
}
