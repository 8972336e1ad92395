//! One armed pod: its namespace, its programs, and the sockets made in it.
//!
//! Owns what is attached in the pod; dropping it detaches everything. Called by `pods`.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use redir_abi::{Reason, is_reserved};

use super::{
    answer::{GrantedReply, RequestRefusal},
    connections::{self, PortConnection},
    datapath::{self, AdaptStep, PodDatapath, PodSpec, YieldPoint},
    detours::{PortDetours, SteerCounts},
    devices::NetnsSurvey,
    flush::{FlushResult, PortFlush},
    late_sockets::LateSockets,
    listeners::{self, ListenerPair},
    monitor::{DeviceMonitor, SurveyOutcome},
    netns::{HostNamespaces, NetnsId, PodNetns},
    orphans::OrphanedLegs,
    sockets,
};
use redir_config::{self as config, PodName};
use redir_ipc::{
    AppListening, ArmedReply, BindAddress, FirstHand, HandedSockets, ListenerGate, MAX_ADDRESSES, MAX_FDS, PodLocation,
    PodNetwork, PortDetour, RefusalCode,
};

/// A pod with programs in it.
#[derive(Debug)]
pub(super) struct ArmedPod {
    netns: PodNetns,
    datapath: PodDatapath,
    agent_port: u16,
    survey: NetnsSurvey,
    monitor: DeviceMonitor,
    /// What the last look failed with: told once.
    failing: Option<String>,
    /// The worker does not know everything yet.
    untold: bool,
    /// Whose sockets are the agent's.
    user: u32,
    orphans: OrphanedLegs,
    at: PodLocation,
    /// What was seen on each armed port of clients that dialled another one.
    detours: BTreeMap<u16, PortDetours>,
    /// Packets of legs to something else than the app, as far as they were told.
    elsewhere: u64,
    late_sockets: LateSockets,
}

/// What is the same for all pods.
#[derive(Debug, Clone, Copy)]
pub(super) struct PodContext<'a> {
    pub(super) home: &'a HostNamespaces,
    pub(super) attach: config::AttachSetting,
    /// The worker's uid.
    pub(super) user: u32,
}

/// What the worker gets for an armed port.
pub(super) type ArmedHandover = (ArmedReply, Vec<OwnedFd>);

impl ArmedPod {
    /// Enters the pod, listens, loads and attaches, in this order; on an error nothing stays. `ports` are the only ones
    /// that may be armed.
    pub(super) fn new(
        common: PodContext<'_>,
        netns: PodNetns,
        ports: Option<&BTreeSet<u16>>,
        port: u16,
        at: PodLocation,
        pause: YieldPoint<'_>,
    ) -> Result<(Self, ArmedHandover), RequestRefusal> {
        let inside = netns.within(common.home, || look_and_listen(ports, port)).map_err(|error| {
            unusable(format!("cannot enter the pod's network namespace: {error}; run the agent as root"))
        })?;
        let EnteredPod { monitor, survey, listeners, connections, app } = inside.map_err(unusable)?;
        let spec = PodSpec {
            netns: netns.as_fd(),
            devices: &survey.devices,
            addresses: &survey.steered_addresses(),
            agent_port: listeners.port,
            listener_v4: listeners.v4.as_fd(),
            listener_v6: listeners.v6.as_ref().map(AsFd::as_fd),
            attach: common.attach.into(),
        };
        pause();
        let mut datapath = PodDatapath::load(&spec, pause)?;
        keep_to_ports(&datapath, &listeners)?;
        datapath.reflect(port)?;
        datapath.attach(pause)?;
        if at.first == FirstHand::Proxy && !datapath.looks_up() {
            let why = datapath.no_companion().unwrap_or("nothing is steered");
            let sentence = format!(
                "a mesh's proxy takes this pod's connections, and this kernel cannot steer behind it ({why}); use a kernel \
                 with sk_lookup programs on this node"
            );
            return Err(RequestRefusal::new(RefusalCode::Datapath, sentence));
        }
        let agent_port = listeners.port;
        let mut orphans = OrphanedLegs::default();
        orphans.note(port, &connections);
        let user = common.user;
        let mut armed = Self {
            netns,
            datapath,
            agent_port,
            survey,
            monitor,
            failing: None,
            untold: false,
            user,
            orphans,
            at,
            detours: BTreeMap::new(),
            elsewhere: 0,
            late_sockets: LateSockets::default(),
        };
        let handed = if listeners.v6.is_some() { HandedSockets::Both } else { HandedSockets::Ipv4 };
        let fds = armed.handover(listeners).map_err(|error| {
            let sentence = format!("cannot hand descriptors over: {error}; raise the agent's RLIMIT_NOFILE");
            RequestRefusal::new(RefusalCode::Datapath, sentence)
        })?;
        let told = armed.told(count(&connections, from_before), armed.reached(app), handed);
        if armed.is_long() {
            armed.untold = true;
            armed.monitor.look_anyway();
        }
        Ok((armed, (told, fds)))
    }

    /// Lets legs to one more port pass; nothing is steered there yet.
    pub(super) fn arm(
        &mut self,
        home: &HostNamespaces,
        port: u16,
        pause: YieldPoint<'_>,
    ) -> Result<ArmedReply, RequestRefusal> {
        let look = || (connections_of(port), listening_on(port));
        let (connections, app) = self.netns.within(home, look).unwrap_or_default();
        self.orphans.note(port, &connections);
        // What the agent itself has accepted on this port before is not the app's; an app of the worker's uid is not
        // told apart from it, and counted short.
        let earlier = count(&connections, |connection| from_before(connection) && connection.uid != self.user);
        self.datapath.reflect(port)?;
        // Steering was detached if no port was armed for a while.
        self.datapath.attach(pause).inspect_err(|_| self.disarm(port, pause))?;
        Ok(self.told(earlier, self.reached(app), HandedSockets::Nothing))
    }

    /// Whether the app listens on a port (`None` where the kernel does not tell), and how clients reach it there past the
    /// programs, if they do.
    pub(super) fn app_on(&mut self, home: &HostNamespaces, port: u16) -> (Option<AppListening>, Option<PortDetour>) {
        let look = || (connections_of(port), listening_on(port));
        let Ok((connections, app)) = self.netns.within(home, look) else { return (None, None) };
        let app = self.reached(app);
        if !self.datapath.armed_ports().contains(&port) {
            return (app, None);
        }
        let Ok(counters) = self.datapath.stats() else { return (app, None) };
        let direct = connections.iter().filter(|connection| from_before(connection) && connection.uid != self.user);
        // One of the agent's own that it has not accepted yet does not show whose it is.
        let direct = direct.filter(|connection| connection.is_accepted);
        let direct = direct.filter_map(|connection| Some((connection.peer?, connection.peer_port))).collect();
        (app, self.detours.entry(port).or_default().saw(direct, SteerCounts::of(&counters)))
    }

    /// A proxy inside the pod reaches the app on `lo`, too.
    fn reached(&self, app: Option<AppListening>) -> Option<AppListening> {
        match (app, self.at.first) {
            (Some(AppListening::LoopbackOnly), FirstHand::Proxy) => Some(AppListening::Yes),
            _ => app,
        }
    }

    /// Steers an armed port: the way to the app was tried.
    pub(super) fn steer(&mut self, port: u16, gate: ListenerGate) -> Result<(), RequestRefusal> {
        if !self.datapath.armed_ports().contains(&port) {
            return Err(RequestRefusal::new(RefusalCode::NotArmed, format!("port {port} is not armed; arm it first")));
        }
        self.datapath.divert_no_more()?;
        Ok(self.datapath.arm(port, gate.into())?)
    }

    /// New listeners for legs that only try the way; None where the kernel has no companion to give them connections.
    pub(super) fn trial_listeners(&mut self, home: &HostNamespaces) -> Result<Option<ListenerPair>, RequestRefusal> {
        if !self.datapath.looks_up() {
            return Ok(None);
        }
        let listeners =
            self.netns.within(home, || listeners::listen(|_| true)).flatten().map_err(|error| {
                unusable(format!("cannot listen in the pod's network namespace: {error}; try again"))
            })?;
        keep_to_ports(&self.datapath, &listeners)?;
        self.datapath.set_trial_listeners(listeners.v4.as_fd(), listeners.v6.as_ref().map(AsFd::as_fd))?;
        Ok(Some(listeners))
    }

    fn told(&self, earlier: u32, app: Option<AppListening>, handed: HandedSockets) -> ArmedReply {
        ArmedReply {
            earlier,
            app,
            pod_addresses: self.survey.pod_addresses.clone(),
            loopback_addresses: self.survey.loopback_addresses.clone(),
            handed,
        }
    }

    /// The guardian keeps no listener: they must die with the worker.
    fn handover(&self, listeners: ListenerPair) -> io::Result<Vec<OwnedFd>> {
        let mut fds = vec![listeners.v4];
        fds.extend(listeners.v6);
        fds.push(self.datapath.heartbeat_fd()?);
        fds.push(self.datapath.turned_fd()?);
        fds.extend(self.datapath.link_fds()?);
        fds.truncate(MAX_FDS);
        Ok(fds)
    }

    /// Whether the answer to the first arm cannot hold all addresses and links: the rest follows.
    fn is_long(&self) -> bool {
        let NetnsSurvey { devices, pod_addresses, loopback_addresses, .. } = &self.survey;
        pod_addresses.len().max(loopback_addresses.len()) > MAX_ADDRESSES || 2 * devices.len() + LINKS > MAX_FDS
    }

    /// Leaves the port's new connections to the app; with the last port steering is detached.
    pub(super) fn disarm(&mut self, port: u16, pause: YieldPoint<'_>) {
        self.detours.remove(&port);
        if let Err(error) = self.datapath.disarm(port) {
            tracing::error!(%error, port, "disarming a port failed");
        }
        if self.datapath.armed_ports().is_empty() {
            self.stop_steering(pause);
        }
    }

    /// Leaves all new connections to the app; those that were steered go on being reflected.
    pub(super) fn stop_steering(&mut self, pause: YieldPoint<'_>) {
        if let Err(error) = self.datapath.detach_steer(pause) {
            tracing::error!(%error, "detaching steering failed; without its listener it passes everything");
        }
    }

    /// Detaches everything.
    pub(super) fn detach(mut self, pause: YieldPoint<'_>) {
        if let Err(error) = self.datapath.detach_all(pause) {
            tracing::error!(%error, "detaching a pod's programs failed");
        }
    }

    /// Sockets for legs in this pod, and the number of the first that could be made; the others' follow it.
    pub(super) fn sockets(
        &mut self,
        home: &HostNamespaces,
        bind: BindAddress,
        ports: &[u16],
        for_trial: bool,
    ) -> Result<(Vec<io::Result<OwnedFd>>, u64), RequestRefusal> {
        if let Some(port) = ports.iter().find(|port| !is_reserved(**port)) {
            return Err(RequestRefusal::new(
                RefusalCode::PortNotReserved,
                format!("port {port} is not one of the agent's source ports; take one of 512-1023 or 10000-29999"),
            ));
        }
        if for_trial && !self.datapath.looks_up() {
            // Nothing would keep such a leg from the app.
            let sentence = "nothing is steered in the pod, so the way to its app cannot be tried; arm a port first";
            return Err(RequestRefusal::new(RefusalCode::NotArmed, sentence));
        }
        let orphans = &mut self.orphans;
        let make = || {
            let occupied = orphans.among(ports);
            let make = |port: &u16| match occupied.contains(port) {
                true => Err(io::Error::from_raw_os_error(libc::EADDRINUSE)),
                false => sockets::upstream(bind, *port),
            };
            ports.iter().map(make).collect()
        };
        let made: Vec<io::Result<OwnedFd>> = self
            .netns
            .within(home, make)
            .map_err(|error| unusable(format!("cannot enter the pod's network namespace: {error}; release the pod")))?;
        let mut first = None;
        let as_leg = |socket: io::Result<OwnedFd>| {
            let socket = socket?;
            let number = self.datapath.make_leg(socket.as_fd(), for_trial)?;
            first.get_or_insert(number);
            Ok(socket)
        };
        let legs: Vec<_> = made.into_iter().map(as_leg).collect();
        self.late_sockets.note(legs.iter().filter(|leg| leg.is_ok()).count());
        Ok((legs, first.unwrap_or(0)))
    }

    /// How many sockets it was given since no Intercept means it any more.
    pub(super) fn late_sockets(&self) -> LateSockets {
        self.late_sockets
    }

    /// To be told whether an Intercept means it.
    pub(super) fn late_sockets_mut(&mut self) -> &mut LateSockets {
        &mut self.late_sockets
    }

    /// Where to hear of changes.
    pub(super) fn monitor_mut(&mut self) -> &mut DeviceMonitor {
        &mut self.monitor
    }

    pub(super) fn monitor(&self) -> &DeviceMonitor {
        &self.monitor
    }

    /// Looks at the pod's devices and addresses again and brings the programs in line; what the worker must know, if it
    /// is news. Takes some milliseconds; what is left over is done by the next look.
    pub(super) fn look(
        &mut self,
        home: &HostNamespaces,
        name: &PodName,
        now: Instant,
        pause: YieldPoint<'_>,
    ) -> Vec<GrantedReply> {
        let before = std::mem::take(&mut self.untold);
        let (changed, adapted) = self.try_look(home, pause);
        if changed {
            let NetnsSurvey { devices, pod_addresses, .. } = &self.survey;
            tracing::info!(pod = %name, devices = devices.len(), addresses = pod_addresses.len(), "the pod's devices or addresses have changed");
        }
        let outcome = match &adapted {
            Ok(AdaptStep::Whole) => SurveyOutcome::Done,
            Ok(AdaptStep::Partly) => SurveyOutcome::Partly,
            Err(_) => SurveyOutcome::Failed,
        };
        self.monitor.looked(now, outcome);
        self.note_failure(name, adapted.err().or_else(|| self.survey.unusable.clone()));
        self.untold = (changed || before) && outcome == SurveyOutcome::Partly;
        if (changed || before) && !self.untold { self.network(name) } else { Vec::new() }
    }

    /// Whether anything is new, and whether every device has its programs now.
    fn try_look(&mut self, home: &HostNamespaces, pause: YieldPoint<'_>) -> (bool, Result<AdaptStep, String>) {
        let survey = match self.netns.within(home, NetnsSurvey::take).and_then(|survey| survey) {
            Ok(survey) => survey,
            Err(error) => return (false, Err(format!("cannot list the pod's addresses: {error}"))),
        };
        let adapted = self.datapath.adapt(&survey.devices, pause);
        // Programs first: what is steered from a new device must be turned round there.
        // A device that takes none must not keep the addresses of the others back.
        let readdressed = self.datapath.readdress(&survey.steered_addresses());
        let adapted = adapted.and_then(|adapted| readdressed.map(|()| adapted));
        let changed = survey != self.survey;
        self.survey = survey;
        (changed, adapted.map_err(|error| error.to_string()))
    }

    /// Says what is wrong, once.
    fn note_failure(&mut self, name: &PodName, sentence: Option<String>) {
        if let Some(sentence) = sentence.as_ref().filter(|sentence| self.failing.as_ref() != Some(*sentence)) {
            tracing::warn!(pod = %name, "not all of the pod's new devices are intercepted: {sentence}");
        }
        self.failing = sentence;
    }

    /// All addresses and links, in as many messages as they need.
    fn network(&self, name: &PodName) -> Vec<GrantedReply> {
        let links = self.datapath.link_fds().unwrap_or_else(|error| {
            // They are duplicates for a guardian that dies: without them it is as with clsact.
            tracing::warn!(pod = %name, %error, "cannot hand the pod's links to the worker; raise the agent's RLIMIT_NOFILE");
            Vec::new()
        });
        PodNetwork::parts(name, &self.survey.pod_addresses, &self.survey.loopback_addresses, links)
    }

    /// One step of a flush.
    pub(super) fn flush(
        &self,
        home: &HostNamespaces,
        flush: &mut PortFlush,
        now: Instant,
    ) -> Result<Option<FlushResult>, RequestRefusal> {
        let step = self.netns.within(home, || flush.step(now)).map_err(|error| {
            unusable(format!("cannot enter the pod's network namespace: {error}; look whether the pod still runs"))
        })?;
        step.map_err(|sentence| RequestRefusal::new(RefusalCode::Datapath, sentence))
    }

    pub(super) fn bypass(&mut self, client: IpAddr, how_long: Duration) -> Result<(), RequestRefusal> {
        Ok(self.datapath.bypass(client, how_long)?)
    }

    /// In the order of `Reason::ALL`.
    pub(super) fn counters(&self) -> Result<Vec<u64>, RequestRefusal> {
        let stats = self.datapath.stats()?;
        let counter =
            |reason: &Reason| stats.iter().find(|(counted, _)| counted == reason).map_or(0, |(_, count)| *count);
        Ok(Reason::ALL.iter().map(counter).collect())
    }

    /// How many packets the worker has tried to send to something else than the app since this was asked last.
    pub(super) fn new_elsewhere(&mut self) -> u64 {
        // What cannot be read now is told the next time.
        let count = self.datapath.count(Reason::ReflectElsewhere).unwrap_or(self.elsewhere);
        count - std::mem::replace(&mut self.elsewhere, count)
    }

    pub(super) fn ports(&self) -> Vec<u16> {
        self.datapath.armed_ports().iter().copied().collect()
    }

    pub(super) fn agent_port(&self) -> u16 {
        self.agent_port
    }

    pub(super) fn netns_id(&self) -> NetnsId {
        self.netns.id()
    }

    /// Its addresses as the API server had them when it was armed; none outside Kubernetes.
    pub(super) fn ips(&self) -> &[IpAddr] {
        &self.at.ips
    }

    pub(super) fn hook(&self) -> datapath::AttachMode {
        self.datapath.hook()
    }
}

/// What is found and made inside the pod before anything is attached.
struct EnteredPod {
    monitor: DeviceMonitor,
    survey: NetnsSurvey,
    listeners: ListenerPair,
    connections: Vec<PortConnection>,
    app: Option<AppListening>,
}

/// Before the worker gets them: it must be able to accept with them, and nothing else.
fn keep_to_ports(datapath: &PodDatapath, listeners: &ListenerPair) -> Result<(), RequestRefusal> {
    let sockets = [Some(&listeners.v4), listeners.v6.as_ref()];
    let kept = sockets.into_iter().flatten().try_for_each(|socket| datapath.make_listener(socket.as_fd()));
    kept.map_err(|error| {
        unusable(format!("cannot put the agent's filter on its listener: {error}; raise net.core.optmem_max"))
    })
}

fn look_and_listen(ports: Option<&BTreeSet<u16>>, port: u16) -> Result<EnteredPod, String> {
    let taken = |agent_port| agent_port == port || ports.is_some_and(|ports| ports.contains(&agent_port));
    // First, so that nothing that changes from the survey on is missed.
    let monitor = DeviceMonitor::open(Instant::now())
        .map_err(|error| format!("cannot hear of changes in the pod's network namespace: {error}; try again"))?;
    let survey = NetnsSurvey::of_intercepted()?;
    let listeners = listeners::listen(|agent_port| !taken(agent_port))
        .map_err(|error| format!("cannot listen in the pod's network namespace: {error}; free some ports there"))?;
    Ok(EnteredPod { monitor, survey, listeners, connections: connections_of(port), app: listening_on(port) })
}

/// None where the kernel does not tell: they are a number for people and a precaution.
fn connections_of(port: u16) -> Vec<PortConnection> {
    connections::on_port(port).unwrap_or_else(|error| {
        tracing::debug!(%error, port, "the kernel does not tell which connections the port has");
        Vec::new()
    })
}

/// None where the kernel does not tell.
fn listening_on(port: u16) -> Option<AppListening> {
    let listening = connections::listening(port);
    listening.inspect_err(|error| tracing::debug!(%error, port, "the kernel does not tell who listens")).ok()
}

fn count(connections: &[PortConnection], counts: impl Fn(&PortConnection) -> bool) -> u32 {
    u32::try_from(connections.iter().filter(|connection| counts(connection)).count()).unwrap_or(u32::MAX)
}

/// The app's end of an agent's upstream leg has a reserved port on the other side.
fn from_before(connection: &PortConnection) -> bool {
    !is_reserved(connection.peer_port)
}

/// The listeners, the two maps, and the links of `lo` (both ways) and of the companion.
const LINKS: usize = 7;

fn unusable(sentence: String) -> RequestRefusal {
    RequestRefusal::new(RefusalCode::Namespace, sentence)
}

impl From<ListenerGate> for datapath::SteerGate {
    fn from(gate: ListenerGate) -> Self {
        match gate {
            ListenerGate::AppListening => Self::AppListening,
            ListenerGate::Always => Self::Always,
        }
    }
}

impl From<config::AttachSetting> for datapath::AttachMode {
    fn from(attach: config::AttachSetting) -> Self {
        match attach {
            config::AttachSetting::Auto => Self::Auto,
            config::AttachSetting::Tcx => Self::Tcx,
            config::AttachSetting::Clsact => Self::Clsact,
        }
    }
}
