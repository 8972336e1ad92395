//! All armed pods, and what of a dead worker's is still attached.
//!
//! Owns the checks: a request names a pod and a port that the configuration allows, or in Kubernetes a pod that is found on
//! this node, or it is refused. Called by the supervisor.

mod flushes;
mod quick;

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::BorrowedFd,
    path::Path,
    time::{Duration, Instant},
};

use super::{
    answer::{GrantedReply, RequestRefusal},
    containers::Containers,
    datapath::YieldPoint,
    endings::PodEndings,
    linger::LingerQueue,
    monitor::DeviceMonitor,
    netns::{HostNamespaces, NetnsId, PodNetns},
    owners::NetnsOwners,
    permissions::PermissionList,
    pod::{ArmedPod, PodContext},
    pod_netns::NetnsResolver,
};
use redir_config::{AttachSetting, NetnsSource, NodeConfig, PodConfig, PodName};
use redir_ipc::{ContainerReport, ControllerMessage, PodLocation, RefusalCode, Reply, Request};

use self::flushes::PodFlush;
pub(super) use self::quick::serve_quick;

/// Armed pods by name.
pub(super) type ArmedPods = BTreeMap<PodName, ArmedPod>;

/// Called between the steps of slow work, for quick requests about the other pods (see [`serve_quick`]).
pub(super) type QuickRequests<'a> = &'a mut dyn FnMut(&HostNamespaces, &mut ArmedPods);

/// Everything about pods that the guardian holds.
#[derive(Debug)]
pub(super) struct PodTable {
    home: HostNamespaces,
    attach: AttachSetting,
    user: u32,
    armed: ArmedPods,
    lingering: LingerQueue<ArmedPod>,
    /// Pods that the worker has been told are gone.
    told: BTreeSet<PodName>,
    flushes: Vec<PodFlush>,
    /// No step of any flush before this.
    flush_again: Option<Instant>,
    /// In Kubernetes: where the pods are, since no configuration says it.
    resolver: Option<NetnsResolver>,
    /// In Kubernetes: what may be armed.
    permissions: Option<PermissionList>,
    /// Ports that the worker did not disarm in time: when their pods are detached, until they are permitted again.
    cuts: BTreeMap<(PodName, u16), Instant>,
    /// Armed pods that no Intercept means any more: when they are detached, whatever the worker does.
    ended: BTreeMap<PodName, Instant>,
    endings: PodEndings,
    owners: NetnsOwners,
    /// Without Kubernetes: the containers that the configuration names.
    containers: Containers,
    /// No line about what the worker may not arm before this.
    refused_again: Option<Instant>,
}

impl PodTable {
    /// `user` is the worker's uid; `cluster` says in Kubernetes where pods are and what may be armed.
    pub(super) fn new(
        home: HostNamespaces,
        attach: AttachSetting,
        user: u32,
        cluster: Option<(NetnsResolver, PermissionList)>,
    ) -> Self {
        let (resolver, permissions) = cluster.unzip();
        let (armed, lingering, told) = (BTreeMap::new(), LingerQueue::default(), BTreeSet::new());
        let (flushes, flush_again) = (Vec::new(), None);
        let (endings, owners) = (PodEndings::default(), NetnsOwners::default());
        let (cuts, ended) = (BTreeMap::new(), BTreeMap::new());
        Self {
            home,
            attach,
            user,
            armed,
            lingering,
            told,
            flushes,
            flush_again,
            resolver,
            permissions,
            cuts,
            ended,
            endings,
            owners,
            containers: Containers::new(Path::new("/proc")),
            refused_again: None,
        }
    }

    /// Answers a request about a pod. `Ready` and `Alive` are not requests and get no answer.
    pub(super) fn serve(
        &mut self,
        config: &NodeConfig,
        request: Request,
        meanwhile: QuickRequests<'_>,
    ) -> Option<Result<GrantedReply, RequestRefusal>> {
        let done = |()| (Reply::Done, Vec::new());
        Some(match request {
            Request::Arm { pod, port } => self.arm(config, &pod, port, meanwhile),
            Request::Disarm { pod, port } => {
                self.disarm(&pod, port, meanwhile);
                // It was late, and it is no worker that keeps what it must not.
                self.cuts.remove(&(pod, port));
                Ok(done(()))
            }
            Request::Release { pod } => self.release(&pod, meanwhile).map(done),
            Request::Ending { pod, last } => find(&mut self.armed, &pod).map(|armed| {
                // Without Kubernetes the pod's path says it.
                match last {
                    Some(last) if self.resolver.is_some() => {
                        self.endings.watch(pod, armed.netns_id(), last, Instant::now());
                    }
                    Some(_) => {}
                    None => self.endings.forget(&pod),
                }
                done(())
            }),
            quick => return serve_quick(&self.home, &mut self.armed, quick),
        })
    }

    fn arm(
        &mut self,
        config: &NodeConfig,
        asked: &PodName,
        port: u16,
        meanwhile: QuickRequests<'_>,
    ) -> Result<GrantedReply, RequestRefusal> {
        // What the worker says of a pod is its name alone.
        let permitted = self.permitted(config, asked, port);
        let (name, at) = &permitted.inspect_err(|refusal| self.note_refused(asked, port, refusal))?;
        if let Some(armed) = self.armed.get_mut(name) {
            let replaced = match &mut self.resolver {
                Some(resolver) => resolver.replaced(&self.home, name, armed.netns_id(), &at.ips),
                None => config.pod(name).is_none_or(|pod| current(&self.containers, pod) != Some(armed.netns_id())),
            };
            if replaced {
                let sentence = format!("{name} has been replaced by a new pod; release the old one first");
                return Err(RequestRefusal::new(RefusalCode::Busy, sentence));
            }
            if port == armed.agent_port() {
                let sentence = format!("port {port} of {name} is the agent's own; release the pod and arm it again");
                return Err(RequestRefusal::new(RefusalCode::PortNotAllowed, sentence));
            }
            let told = self.aside(name, meanwhile, |armed, home, pause| armed.arm(home, port, pause));
            let told = told.unwrap_or_else(|| Err(not_armed(name)))?;
            tracing::info!(pod = %name, port, "armed");
            return Ok((Reply::Armed(told), Vec::new()));
        }
        let netns = self.open(config, name, at, meanwhile);
        let netns = netns.map_err(|sentence| RequestRefusal::new(RefusalCode::Namespace, sentence))?;
        if let Some((other, _)) = self.armed.iter().find(|(_, armed)| armed.netns_id() == netns.id()) {
            return Err(RequestRefusal::new(RefusalCode::Namespace, same_namespace(name, other)));
        }
        let common = PodContext { home: &self.home, attach: self.attach, user: self.user };
        let ports = config.pod(name).and_then(|pod| pod.ports.as_ref());
        let mut pause = || meanwhile(&self.home, &mut self.armed);
        let (armed, (told, fds)) = ArmedPod::new(common, netns, ports, port, at.clone(), &mut pause)?;
        tracing::info!(pod = %name, port, agent_port = armed.agent_port(), hook = ?armed.hook(), "armed");
        self.told.remove(name);
        self.armed.insert(name.clone(), armed);
        self.watch_owner(config, name);
        Ok((Reply::Armed(told), fds))
    }

    /// Waits for the end of the process that a pod of the file ends with, if there is one.
    fn watch_owner(&mut self, config: &NodeConfig, name: &PodName) {
        match config.pod(name).map(|pod| &pod.netns) {
            Some(NetnsSource::Path(path)) => self.owners.watch(name, path),
            Some(NetnsSource::Container(_)) => match self.containers.pidfd(name) {
                Some(Ok(process)) => self.owners.watch_process(name, process),
                Some(Err(error)) => tracing::debug!(pod = %name, %error, "the process of the pod is not waited for"),
                // It has ended meanwhile, which the next look shows.
                None => {}
            },
            None => {}
        }
    }

    /// For people, and not as often as the worker likes.
    fn note_refused(&mut self, pod: &PodName, port: u16, refusal: &RequestRefusal) {
        let now = Instant::now();
        if self.refused_again.is_none_or(|at| at <= now) {
            self.refused_again = Some(now + REFUSED_PAUSE);
            tracing::warn!(%pod, port, reason = refusal.sentence, "the worker may not arm this");
        }
    }

    /// The pod as people call it, and where it is: by the configuration, or by what the controller has said.
    fn permitted(
        &self,
        config: &NodeConfig,
        name: &PodName,
        port: u16,
    ) -> Result<(PodName, PodLocation), RequestRefusal> {
        match &self.permissions {
            Some(permissions) => permissions.check(name, port).map(|pod| (pod.name.clone(), pod.at.clone())),
            None => allowed(config, name, port).map(|()| (name.clone(), PodLocation::default())),
        }
    }

    /// Does slow work with one armed pod, which is not among the others meanwhile.
    fn aside<T>(
        &mut self,
        name: &PodName,
        meanwhile: QuickRequests<'_>,
        work: impl FnOnce(&mut ArmedPod, &HostNamespaces, YieldPoint<'_>) -> T,
    ) -> Option<T> {
        let (name, mut pod) = self.armed.remove_entry(name)?;
        let done = work(&mut pod, &self.home, &mut || meanwhile(&self.home, &mut self.armed));
        self.armed.insert(name, pod);
        Some(done)
    }

    fn open(
        &mut self,
        config: &NodeConfig,
        name: &PodName,
        at: &PodLocation,
        meanwhile: QuickRequests<'_>,
    ) -> Result<PodNetns, String> {
        let Self { home, armed, resolver, owners, containers, .. } = self;
        match (resolver, config.pod(name)) {
            (Some(resolver), _) => resolver.open(home, name, &at.ips, &mut || meanwhile(home, armed)),
            (None, Some(pod)) => match &pod.netns {
                NetnsSource::Path(path) => {
                    let netns = home.open(path)?;
                    owners.confirm(path).map(|()| netns)
                }
                NetnsSource::Container(container) => containers.open(home, name, container),
            },
            (None, None) => Err(no_such_pod(name)),
        }
    }

    /// A pod or port that is not armed is no error: the request is fulfilled.
    fn disarm(&mut self, name: &PodName, port: u16, meanwhile: QuickRequests<'_>) {
        if self.aside(name, meanwhile, |armed, _, pause| armed.disarm(port, pause)).is_some() {
            tracing::info!(pod = %name, port, "disarmed");
        }
    }

    fn release(&mut self, name: &PodName, meanwhile: QuickRequests<'_>) -> Result<(), RequestRefusal> {
        let ports = self.armed.get(name).map(ArmedPod::ports).unwrap_or_default();
        if let Some(port) = ports.first() {
            let sentence = format!("port {port} of {name} is still armed; disarm it first");
            return Err(RequestRefusal::new(RefusalCode::Busy, sentence));
        }
        self.detach(name, meanwhile);
        Ok(())
    }

    fn detach(&mut self, name: &PodName, meanwhile: QuickRequests<'_>) {
        let Some((name, armed)) = self.armed.remove_entry(name) else { return };
        armed.detach(&mut || meanwhile(&self.home, &mut self.armed));
        self.resolver.iter_mut().for_each(|resolver| resolver.forget(&name));
        self.cuts.retain(|(pod, _), _| *pod != name);
        self.ended.remove(&name);
        self.endings.forget(&name);
        self.owners.forget(&name);
        tracing::info!(pod = %name, "released");
    }

    /// Takes what the controller says may be armed.
    pub(super) fn permit(&mut self, message: ControllerMessage, now: Instant) {
        let Some(permissions) = &mut self.permissions else { return };
        permissions.take(message, now);
        self.cuts.retain(|(name, port), _| permissions.check(name, *port).is_err());
        self.ended.retain(|name, _| !permissions.has(name));
        for (name, armed) in &mut self.armed {
            armed.late_sockets_mut().set_permitted(permissions.has(name));
        }
        for name in self.armed.keys().filter(|name| !permissions.has(name)) {
            self.ended.entry(name.clone()).or_insert(now + LAST_CONNECTIONS);
        }
    }

    /// When [`PodTable::enforce`] has something to do.
    pub(super) fn next_withdrawal(&self) -> Option<Instant> {
        let permissions = self.permissions.as_ref()?;
        let cuts = self.cuts.iter().filter(|((name, _), _)| !permissions.has(name)).map(|(_, at)| *at);
        permissions.next().into_iter().chain(cuts).chain(self.ended.values().copied()).min()
    }

    /// Disarms what no Intercept wants any more and the worker has not disarmed by itself. Of such a worker nothing is
    /// left to chance: once its connections have had `drain`, the pod is detached, unless an Intercept means another port
    /// of it: then as soon as none does. One that has disarmed keeps a pod's connections for [`LAST_CONNECTIONS`]. The
    /// result are the pods that are detached.
    pub(super) fn enforce(&mut self, now: Instant, drain: Duration, meanwhile: QuickRequests<'_>) -> Vec<PodName> {
        let due = self.permissions.as_mut().map_or_else(Vec::new, |permissions| permissions.due(now));
        for (name, port) in due {
            if !self.armed.get(&name).is_some_and(|armed| armed.ports().contains(&port)) {
                continue;
            }
            tracing::warn!(pod = %name, port, "no Intercept wants this port any more, and the worker keeps it: it is disarmed");
            self.disarm(&name, port, meanwhile);
            self.cuts.entry((name, port)).or_insert(now + drain);
        }
        let cut = self.cut(now);
        for name in &cut {
            tracing::warn!(pod = %name, "no Intercept wants this pod any more, and the worker keeps it: it is detached");
            self.detach(name, meanwhile);
        }
        cut
    }

    /// The pods that are to be detached now.
    fn cut(&self, now: Instant) -> Vec<PodName> {
        let permitted = |name: &PodName| self.permissions.as_ref().is_some_and(|permissions| permissions.has(name));
        let cuts = self.cuts.iter().map(|((name, _), at)| (name, at)).chain(&self.ended);
        let due = cuts.filter(|(name, at)| **at <= now && !permitted(name) && self.armed.contains_key(*name));
        due.map(|(name, _)| name.clone()).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The worker is dead: steering ends now, reflection when the dead worker's last packets are through.
    pub(super) fn worker_died(&mut self, now: Instant) {
        for (_, mut armed) in std::mem::take(&mut self.armed) {
            armed.stop_steering(&mut || {});
            self.lingering.keep(armed, now);
        }
        self.told.clear();
        self.cuts.clear();
        self.ended.clear();
        self.flushes.clear();
        self.endings = PodEndings::default();
        self.owners.forget_all();
    }

    /// Detaches what has lingered long enough.
    pub(super) fn expire(&mut self, now: Instant, meanwhile: QuickRequests<'_>) {
        for armed in self.lingering.expire(now) {
            armed.detach(&mut || meanwhile(&self.home, &mut self.armed));
        }
    }

    /// When something lingering is due.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.lingering.next()
    }

    /// What to poll: the changes of pods that have not just had their turn.
    pub(super) fn monitors(&self, now: Instant) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.armed.values().filter_map(move |armed| armed.monitor().interest(now))
    }

    /// When a pod is to be polled, or looked at, again.
    pub(super) fn next_look(&self, now: Instant) -> Option<Instant> {
        let monitors = self.armed.values().map(ArmedPod::monitor);
        monitors.filter(|monitor| monitor.is_unfinished() || monitor.next() > now).map(DeviceMonitor::next).min()
    }

    /// The pod whose devices or addresses are to be looked at now: of those that changed, the one that has waited longest.
    pub(super) fn next_changed(&mut self, now: Instant) -> Option<PodName> {
        let mut waiting: Vec<_> = self.armed.iter_mut().filter(|(_, armed)| armed.monitor().next() <= now).collect();
        waiting.sort_by_key(|(_, armed)| armed.monitor().last());
        waiting.into_iter().find_map(|(name, armed)| armed.monitor_mut().take(now).then(|| name.clone()))
    }

    /// Looks at it; what the worker is told.
    pub(super) fn look(&mut self, name: &PodName, now: Instant, meanwhile: QuickRequests<'_>) -> Vec<GrantedReply> {
        self.aside(name, meanwhile, |armed, home, pause| armed.look(home, name, now, pause)).unwrap_or_default()
    }

    /// The ports that are armed for the worker.
    pub(super) fn armed_ports(&self) -> impl Iterator<Item = (PodName, u16)> {
        self.armed.iter().flat_map(|(pod, armed)| armed.ports().into_iter().map(move |port| (pod.clone(), port)))
    }

    /// When pods that are to end are to be looked at again.
    pub(super) fn next_ending(&self) -> Option<Instant> {
        self.endings.next()
    }

    /// Pods that were to end and whose last process has ended, each told once.
    pub(super) fn ended(&mut self, now: Instant, meanwhile: QuickRequests<'_>) -> Vec<PodName> {
        let Self { home, armed, resolver: Some(resolver), endings, .. } = self else { return Vec::new() };
        endings.look(resolver.proc(), now, &mut || meanwhile(home, armed))
    }

    /// What to poll: the processes that pods of the file end with.
    pub(super) fn owners(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.owners.descriptors()
    }

    /// One of them has ended: it is waited for no longer.
    pub(super) fn forget_ended_owners(&mut self) {
        self.owners.forget_ended();
    }

    /// Takes note of what a configuration names: the first, and each new one.
    pub(super) fn note(&mut self, config: &NodeConfig) {
        self.owners.note(config);
        self.containers.note(config);
    }

    /// Takes what the controller says of a container.
    pub(super) fn take_container(&mut self, report: ContainerReport, config: &NodeConfig) {
        self.containers.take(report, config);
    }

    /// Takes back what a new configuration no longer allows; the worker hears of it by itself.
    pub(super) fn restrict(&mut self, config: &NodeConfig) {
        if self.resolver.is_some() {
            return;
        }
        for (name, armed) in &mut self.armed {
            let allowed = |port: &u16| config.pod(name).is_some_and(|pod| pod.allows(*port));
            for port in armed.ports().into_iter().filter(|port| !allowed(port)) {
                tracing::info!(pod = %name, port, "disarmed: the configuration no longer allows it");
                armed.disarm(port, &mut || {});
            }
        }
    }

    /// Says whose legs were used for something else than the app, which no worker does by itself.
    pub(super) fn warn_of_misuse(&mut self) {
        for (pod, armed) in &mut self.armed {
            let packets = armed.new_elsewhere();
            if packets > 0 {
                tracing::warn!(
                    %pod,
                    packets,
                    "the worker has tried to reach something else than the pod's app as the pod; the packets were dropped. It \
                     may have been taken over: stop the agent on this node, keep its log, and report it"
                );
            }
        }
    }

    /// Armed pods that have another namespace now, each told once.
    pub(super) fn gone(&mut self, config: &NodeConfig) -> Vec<PodName> {
        let (home, resolver, containers) = (&self.home, &mut self.resolver, &self.containers);
        let replaced = |(name, armed): &(&PodName, &ArmedPod)| match resolver.as_mut() {
            Some(resolver) => resolver.replaced(home, name, armed.netns_id(), armed.ips()),
            None => config.pod(name).is_some_and(|pod| current(containers, pod) != Some(armed.netns_id())),
        };
        let gone: Vec<_> = self.armed.iter().filter(replaced).map(|(name, _)| name.clone()).collect();
        gone.into_iter().filter(|name| self.told.insert(name.clone())).collect()
    }
}

fn find<'a>(armed: &'a mut ArmedPods, name: &PodName) -> Result<&'a mut ArmedPod, RequestRefusal> {
    armed.get_mut(name).ok_or_else(|| not_armed(name))
}

/// Refuses a pod or port that the configuration does not let be intercepted.
fn allowed(config: &NodeConfig, name: &PodName, port: u16) -> Result<(), RequestRefusal> {
    let pod = config.pod(name).ok_or_else(|| RequestRefusal::new(RefusalCode::UnknownPod, no_such_pod(name)))?;
    if pod.allows(port) {
        return Ok(());
    }
    let sentence = format!(
        "the agent's configuration does not let port {port} of {name} be intercepted; see `ports` of the pod there"
    );
    Err(RequestRefusal::new(RefusalCode::PortNotAllowed, sentence))
}

fn no_such_pod(name: &PodName) -> String {
    format!("there is no pod {name} in the agent's configuration; `redir list` names those there are")
}

/// A second set of programs behind the first would never see a connection.
fn same_namespace(name: &PodName, other: &PodName) -> String {
    format!(
        "{name} has the same network namespace as {other}, which is intercepted already; intercept {other}, or leave one of \
         the two out of the agent's configuration"
    )
}

fn current(containers: &Containers, pod: &PodConfig) -> Option<NetnsId> {
    match &pod.netns {
        NetnsSource::Path(path) => NetnsId::of(path).ok(),
        NetnsSource::Container(_) => containers.netns_id(&pod.name),
    }
}

fn not_armed(name: &PodName) -> RequestRefusal {
    RequestRefusal::new(RefusalCode::NotArmed, format!("{name} is not armed; arm it first"))
}

/// Between two lines about what the worker may not arm.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);
/// What the connections of a pod have, once the last Intercept of it has ended and its ports are disarmed. Longer than
/// clients and connection pools keep one; as long a worker that was taken over can make connections to its app.
const LAST_CONNECTIONS: Duration = Duration::from_secs(24 * 3600);

#[cfg(test)]
mod tests;
