//! `redir intercept`: from the flags to what runs.
//!
//! Owns: the order of things: whether there is a pod at all, the developer's command, the intercept. Must not follow it
//! (`run`), speak to agents (`link`) or word anything (`wording`). Called by: `commands`.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use redir_tunnel::Identity;
use redir_wire::{EarlierConnections, Filter, Probes, Token};

use super::nodes::ClusterNodes;
use super::pod_check::{self, PodCheck};
use super::port_intercept::ServiceState;
use super::run::{InterceptRun, ended_first};
use super::runtime::with_runtime;
use super::service_start::{StartOutcome, glance, start};
use crate::args;
use crate::child::Child;
use crate::cluster::Cluster;
use crate::cluster::lease::Lease;
use crate::cluster::mode::{self, CommandMode, ModeSigns};
use crate::cluster::rights;
use crate::cluster::target::{self, ExpectedPod};
use crate::cluster::target_watch::TargetWatch;
use crate::cluster::template::InterceptTemplate;
use crate::conditions;
use crate::error::{CliError, Outcome};
use crate::events::Event;
use crate::link::DesiredIntercept;
use crate::model::values::{LabelSet, PortName, Seconds, Target};
use crate::routes::{PortRoute, port_routes};
use crate::screen::Screen;
use crate::service::{Service, ServiceProtocol};
use crate::signals::Signals;
use crate::static_agents::StaticAgents;
use crate::user;
use crate::wording::{cluster as cluster_say, session as say, values as say_value};

/// How long the command may take until it answers.
const WAIT: Duration = Duration::from_secs(120);

/// Intercepts until something ends it.
pub(crate) fn run(mut args: args::InterceptArgs) -> Outcome {
    check_command(&args)?;
    let routes = port_routes(&args.port, &args.to).map_err(CliError::Usage)?;
    let filter = args.conditions.clone().filter()?;
    if args.even_if_down && filter.is_some() {
        return Err(CliError::Usage(say_value::even_if_down_with_conditions()));
    }
    let selector = args.selector.take();
    let signs = ModeSigns {
        target: args.target.as_ref(),
        flag: selector.is_some().then_some("--selector"),
        cluster: &args.cluster,
    };
    match mode::of(&signs, &args.agents)? {
        CommandMode::Static(static_agents) => on_static_agents(args, &routes, filter, static_agents),
        CommandMode::Kubernetes => in_cluster(args, routes, selector, filter),
    }
}

fn on_static_agents(
    args: args::InterceptArgs,
    routes: &[PortRoute],
    filter: Option<Filter>,
    static_agents: StaticAgents,
) -> Outcome {
    let target = args.target.ok_or_else(|| CliError::Failed(say::bug()))?;
    let mut wanted = Vec::with_capacity(routes.len());
    for route in routes {
        let port = match &route.pod {
            PortName::Number(number) => *number,
            PortName::Name(name) => return Err(CliError::Usage(say_value::named_port(name))),
        };
        let service = route.service(port);
        wanted.push(DesiredIntercept {
            token: redir_tunnel::random_token().map_err(|_| CliError::Failed(say::no_random()))?,
            target: target.clone(),
            port,
            to: service.shown(None),
            service,
            filter: filter.clone(),
            probes: probes(args.probes),
            earlier: earlier(args.flush),
            even_if_down: args.even_if_down,
            forwarded: args.forwarded,
            proxy: args.proxy_protocol,
            speaks: speaks(args.local_tls),
        });
    }
    with_runtime(args.agents.output, async move |screen| {
        warn_if_unlikely(&screen, filter.as_ref());
        let mut signals = listen()?;
        let starts_command = !args.command.is_empty();
        if starts_command
            && pod_check::check_pods(&screen, &mut signals, &static_agents, &wanted).await? == PodCheck::Interrupted
        {
            screen.tell(&Event::Ended { reason: say::nothing_yet() });
            return Ok(0);
        }
        let services: Vec<Service> = wanted.iter().map(|wanted| wanted.service.clone()).collect();
        let (child, reported) = match ready(&screen, &mut signals, &services, &args.command, args.wait).await? {
            Ok(ready) => ready,
            Err(code) => return Ok(code),
        };
        let mut run = InterceptRun::new(screen, signals, child, wanted.len());
        for (wanted, (to, seen)) in wanted.into_iter().zip(reported) {
            run.add(static_agents.identity.clone(), DesiredIntercept { to, ..wanted }, seen)
                .dial_all(&static_agents.agents);
        }
        run.run().await
    })
}

fn in_cluster(
    args: args::InterceptArgs,
    routes: Vec<PortRoute>,
    selector: Option<LabelSet>,
    filter: Option<Filter>,
) -> Outcome {
    let target = match (args.target, selector) {
        (Some(target), None) => target,
        (None, Some(LabelSet(labels))) => Target::Labels(labels),
        // clap sees to it that there is exactly one.
        _ => return Err(CliError::Failed(say::bug())),
    };
    with_runtime(args.agents.output, async move |screen| {
        warn_if_unlikely(&screen, filter.as_ref());
        let mut signals = listen()?;
        let cluster = Cluster::connect(&args.cluster).await?;
        let found = match find_ports(&cluster, &target, &routes).await {
            Ok(found) => found,
            // All that is missing at once: what it would be refused next is no news that anybody wants one by one.
            Err(error) => {
                let flushes = args.flush && filter.is_some();
                return Err(rights::explained(&cluster, &target, flushes, error).await);
            }
        };
        let services: Vec<Service> =
            routes.iter().zip(&found).map(|(route, found)| route.service(found.port)).collect();
        let (child, reported) = match ready(&screen, &mut signals, &services, &args.command, args.wait).await? {
            Ok(ready) => ready,
            Err(code) => return Ok(code),
        };
        let mut run = InterceptRun::new(screen, signals, child, routes.len());
        for ((route, found), (service, (to, seen))) in
            routes.into_iter().zip(found).zip(services.into_iter().zip(reported))
        {
            // Nobody but this intercept needs to be known by it.
            let identity = Identity::generate().map_err(|_| CliError::Failed(say::no_random()))?;
            let wanted = DesiredIntercept {
                // The object's, once there is one.
                token: Token([0; 16]),
                target: target.clone(),
                port: found.port,
                service,
                to,
                filter: filter.clone(),
                probes: probes(args.probes),
                earlier: earlier(args.flush),
                even_if_down: args.even_if_down,
                forwarded: args.forwarded,
                proxy: args.proxy_protocol,
                speaks: speaks(args.local_tls),
            };
            // What was made already is not left behind.
            if let Err(error) = begin(&cluster, &mut run, route.pod, identity, wanted, found.pods, seen).await {
                run.give_up().await;
                return Err(error);
            }
        }
        run.run().await
    })
}

/// A port of a target that exists.
struct FoundPort {
    pods: Option<Vec<ExpectedPod>>,
    port: NonZeroU16,
}

/// Asks the API server for the target and the number of each port.
async fn find_ports(cluster: &Cluster, target: &Target, routes: &[PortRoute]) -> Result<Vec<FoundPort>, CliError> {
    let mut all: Vec<FoundPort> = Vec::with_capacity(routes.len());
    for route in routes {
        let found = target::find(cluster, target, &route.pod).await?;
        let number = found.port.or(route.own_port());
        let port = number.ok_or_else(|| CliError::Usage(cluster_say::port_unknown(&route.pod)))?;
        if found.port.is_some() && all.iter().any(|other| other.port == port) {
            return Err(CliError::Usage(say_value::port_twice(&format!("{port} ({})", route.pod))));
        }
        all.push(FoundPort { pods: found.pods, port });
    }
    Ok(all)
}

/// Makes one port's object, and adds its intercept.
async fn begin(
    cluster: &Cluster,
    run: &mut InterceptRun,
    port: PortName,
    identity: Identity,
    wanted: DesiredIntercept,
    pods: Option<Vec<ExpectedPod>>,
    seen: ServiceState,
) -> Result<(), CliError> {
    let template = InterceptTemplate {
        target: wanted.target.clone(),
        port,
        filter: wanted.filter.clone(),
        probes: wanted.probes,
        earlier: wanted.earlier,
        even_if_down: wanted.even_if_down,
        forwarded: wanted.forwarded,
        key: identity.pin(),
        to: wanted.to.clone(),
        user: rights::whoami(cluster).await?,
        from: user::at_machine(),
    };
    let (lease, object) = Lease::start(cluster, template).await?;
    let token =
        object.metadata.uid.as_deref().and_then(redir_api::token).ok_or_else(|| CliError::Failed(say::bug()))?;
    let created = Event::Created {
        intercept: lease.name().to_owned(),
        namespace: cluster.namespace.clone(),
        target: wanted.target.to_string(),
    };
    // A server whose CRD is older drops the fields that it does not know: no agent ever hears of them.
    let is_dropped = wanted.earlier == EarlierConnections::Close && !object.spec.flush;
    let (even_if_down, forwarded) = (object.spec.even_if_down, object.spec.forwarded);
    let unknown =
        [("--even-if-down", wanted.even_if_down && !even_if_down), ("--forwarded", wanted.forwarded && !forwarded)];
    let watch = TargetWatch::new(cluster, &wanted.target);
    let port = run.add(identity, DesiredIntercept { token, even_if_down, forwarded, ..wanted }, seen);
    if is_dropped {
        port.screen.note(cluster_say::no_flush().to_owned());
    }
    for (flag, _) in unknown.into_iter().filter(|(_, is_unknown)| *is_unknown) {
        port.screen.note(cluster_say::resource_is_older(flag));
    }
    port.screen.tell(&created);
    port.nodes = Some(ClusterNodes::new(cluster.clone(), lease, pods, watch, object));
    Ok(())
}

/// What matched requests find: the command, once all its ports answer, and where each service is, for people. `Err` is the
/// exit code if it is over before anything was intercepted.
async fn ready(
    screen: &Screen,
    signals: &mut Signals,
    services: &[Service],
    command: &[OsString],
    wait: Option<Seconds>,
) -> Result<Result<(Option<Child>, Vec<(String, ServiceState)>), u8>, CliError> {
    let reported = |addresses: Vec<Option<SocketAddr>>| {
        let seen = |address: Option<SocketAddr>| {
            if address.is_some() { ServiceState::Answering } else { ServiceState::Silent }
        };
        services.iter().zip(addresses).map(|(service, address)| (service.shown(address), seen(address))).collect()
    };
    if command.is_empty() {
        return Ok(Ok((None, reported(glance(services).await))));
    }
    let wait = wait.map_or(WAIT, |wait| wait.0);
    match start(screen, signals, services, command, wait).await? {
        StartOutcome::Runs(child, addresses) => {
            Ok(Ok((Some(*child), reported(addresses.into_iter().map(Some).collect()))))
        }
        StartOutcome::Ended(code) => ended_first(screen, code).map(Err),
        StartOutcome::Interrupted(code) => {
            screen.tell(&Event::Ended { reason: say::nothing_yet() });
            Ok(Err(code))
        }
    }
}

fn warn_if_unlikely(screen: &Screen, filter: Option<&Filter>) {
    if let Some(both) = filter.and_then(conditions::unlikely) {
        screen.note(say_value::unlikely(both));
    }
}

fn speaks(tls: bool) -> ServiceProtocol {
    if tls { ServiceProtocol::Tls } else { ServiceProtocol::Plaintext }
}

fn probes(taken: bool) -> Probes {
    if taken { Probes::Developer } else { Probes::App }
}

fn earlier(flush: bool) -> EarlierConnections {
    if flush { EarlierConnections::Close } else { EarlierConnections::Stay }
}

fn listen() -> Result<Signals, CliError> {
    Signals::listen().map_err(|error| CliError::Failed(say::no_signals(&error)))
}

/// Refuses what only makes sense with a command.
fn check_command(args: &args::InterceptArgs) -> Result<(), CliError> {
    if !args.command.is_empty() {
        return Ok(());
    }
    // clap does not tell `--` without anything behind it from no `--` at all.
    if std::env::args_os().next_back().is_some_and(|last| last == "--") {
        return Err(CliError::Usage(say::empty_command()));
    }
    match args.wait {
        Some(_) => Err(CliError::Usage(say::wait_without_command())),
        None => Ok(()),
    }
}
