//! The guardian's loop: signals, the worker's requests, and the clock, one after the other in a single thread.
//!
//! Owns the worker's life and the agent's end. Waits in `poll` only. Called by `guardian::run`.

mod wait;

use std::{
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use super::{
    answer::{GrantedReply, RequestRefusal},
    backoff::RestartBackoff,
    child::{self, ChildLauncher, ExitCause},
    control::ControlSocket,
    controller::{ControllerExit, ControllerSupervisor},
    memory,
    netns::HostNamespaces,
    pods::{self, ArmedPods, PodTable},
    reload::{ConfigFile, ReloadOutcome},
    runtimes::RuntimeRelays,
    signals::GuardianSignals,
    tls_files::TlsFiles,
    watch::WatchdogVerdict,
    worker::WorkerProcess,
};
use redir_config::PodName;
use redir_ipc::{ControllerMessage, Reply, Request};

/// Everything the guardian holds.
pub(super) struct Supervisor {
    pub(super) file: ConfigFile,
    pub(super) tls: TlsFiles,
    pub(super) signals: GuardianSignals,
    pub(super) udp: OwnedFd,
    pub(super) key: OwnedFd,
    pub(super) launch: ChildLauncher,
    /// In Kubernetes, and where the configuration names containers.
    pub(super) controller: ControllerSupervisor,
    pub(super) relays: RuntimeRelays,
    pub(super) drain: Duration,
    pub(super) pods: PodTable,
    pub(super) life: WorkerLifecycle,
}

/// The worker's life, and the agent's.
#[derive(Default)]
pub(super) struct WorkerLifecycle {
    worker: Option<WorkerProcess>,
    restart_at: Option<Instant>,
    backoff: RestartBackoff,
    /// A worker has served: from now on a death is followed by a restart.
    served: bool,
    stopping: Option<ShutdownDeadline>,
    exit: Option<u8>,
    next_look: Option<Instant>,
}

struct ShutdownDeadline {
    kill_at: Instant,
    at_once: bool,
}

impl Supervisor {
    /// Runs until the agent ends; the result is its exit code.
    pub(super) fn run(mut self) -> u8 {
        // Children of whatever this process was before it became the agent, which ended before SIGCHLD was blocked.
        self.reap();
        loop {
            let now = Instant::now();
            self.expire(now);
            if let Some(code) = self.finished() {
                self.controller.kill();
                return code;
            }
            self.start_if_due(now);
            self.start_controller_if_due(now);
            self.look_around(now);
            let silence = self.judge_silence(now);
            let woken = self.wait(now, silence);
            while let Some(signal) = self.signals.next() {
                self.signal(signal);
            }
            self.hear_controller();
            self.relays.pump();
            self.controller.judge_silence(Instant::now());
            self.serve();
            // What the worker has asked for meanwhile counts first.
            self.enforce(Instant::now());
            if woken.owner_ended {
                self.pods.forget_ended_owners();
                self.life.next_look = None;
            }
            if woken.devices_changed {
                self.look_at_devices();
            }
            self.flush();
            self.look_at_endings();
        }
    }

    /// The exit code, once nothing lingers any more or nobody wants to wait for it.
    fn finished(&self) -> Option<u8> {
        let at_once = self.life.stopping.as_ref().is_some_and(|stopping| stopping.at_once);
        self.life.exit.filter(|_| at_once || self.pods.next_expiry().is_none())
    }

    fn start_if_due(&mut self, now: Instant) {
        let due = self.life.restart_at.is_none_or(|at| at <= now);
        if self.life.worker.is_some() || self.life.exit.is_some() || self.life.stopping.is_some() || !due {
            return;
        }
        match self.start(now) {
            Ok(mut worker) => {
                tracing::info!(pid = worker.pid.as_raw(), "the worker is started");
                self.controller.join(&mut worker.control);
                self.life.worker = Some(worker);
            }
            Err(error) => {
                tracing::error!(
                    "cannot start the worker: {error:#}; see that this binary is still there, and what else the node runs"
                );
                self.life.exit = (!self.life.served).then_some(1);
                self.life.restart_at = Some(self.life.backoff.died(now, now).max(now + RETRY));
            }
        }
    }

    fn start(&mut self, now: Instant) -> anyhow::Result<WorkerProcess> {
        let [config, certificates] = self.config()?;
        let (udp, key) = (self.udp.try_clone()?, self.key.try_clone()?);
        let (pid, mut control) = self.launch.spawn()?;
        control.send(0, &Reply::Bootstrap, vec![udp, key, config, certificates]);
        Ok(WorkerProcess::new(pid, control, now))
    }

    /// With a new controller the worker hears everything anew.
    fn start_controller_if_due(&mut self, now: Instant) {
        let Self { controller, relays, file, life, .. } = self;
        if life.exit.is_some() || life.stopping.is_some() || !controller.is_wanted(file.config()) {
            return;
        }
        let config = || memory::sealed(c"redir-agent-config", file.text().as_bytes());
        if controller.start_if_due(config, now) {
            relays.clear();
            life.worker.iter_mut().for_each(|worker| controller.join(&mut worker.control));
        }
    }

    /// What the controller has said counts before anything that the worker asks for because of it.
    fn hear_controller(&mut self) {
        let now = Instant::now();
        let Self { controller, relays, pods, file, .. } = self;
        let config = file.config();
        let mut take = |message| match message {
            ControllerMessage::Container(report) => pods.take_container(report, config),
            other => pods.permit(other, now),
        };
        relays.serve(controller, config, &mut take, now);
    }

    /// Takes back what may not be armed any more.
    fn enforce(&mut self, now: Instant) {
        if self.pods.next_withdrawal().is_none_or(|at| at > now) {
            return;
        }
        let Self { pods, life, drain, .. } = self;
        let WorkerLifecycle { worker, served, .. } = life;
        let gone = pods.enforce(now, *drain, &mut |home, armed| {
            if let Some(worker) = worker {
                serve_meanwhile(worker, served, None, &mut Vec::new(), home, armed);
            }
        });
        let Some(worker) = worker else { return };
        for pod in gone {
            worker.control.send(0, &Reply::PodGone { pod }, Vec::new());
        }
    }

    /// Once a second: has the file changed, has a pod been replaced?
    fn look_around(&mut self, now: Instant) {
        if self.life.next_look.is_some_and(|next| now < next) {
            return;
        }
        self.life.next_look = Some(now + LOOK);
        if self.file.changed() {
            self.reload();
        }
        if self.tls.changed() {
            self.push_config();
        }
        self.pods.warn_of_misuse();
        let gone = self.pods.gone(self.file.config());
        let Some(worker) = &mut self.life.worker else { return };
        for pod in gone {
            tracing::info!(%pod, "the pod has been replaced or is gone");
            worker.control.send(0, &Reply::PodGone { pod }, Vec::new());
        }
    }

    fn reload(&mut self) {
        match self.file.reload() {
            Ok(ReloadOutcome::Same) => {}
            Ok(ReloadOutcome::New { restart_needed }) => {
                tracing::info!(file = %self.file.path().display(), "the configuration is read again");
                if restart_needed {
                    tracing::warn!("a change of [agent] takes effect when the agent is started again");
                }
                self.pods.note(self.file.config());
                self.pods.restrict(self.file.config());
                self.tls.configure(self.file.config());
                let text = memory::sealed(c"redir-agent-config", self.file.text().as_bytes());
                self.controller.configure(self.file.config(), text);
                self.push_config();
            }
            Err(error) => tracing::error!("{error:#}; the last good configuration stays in use"),
        }
    }

    /// The configuration and the certificates, for the worker.
    fn config(&mut self) -> io::Result<[OwnedFd; 2]> {
        self.tls.armed(self.pods.armed_ports());
        let text = memory::sealed(c"redir-agent-config", self.file.text().as_bytes())?;
        Ok([text, certificates(&self.tls)?])
    }

    fn push_config(&mut self) {
        let config = self.config();
        let Some(worker) = &mut self.life.worker else { return };
        match config {
            Ok(config) => worker.control.send(0, &Reply::Config, config.into()),
            Err(error) => {
                tracing::error!(%error, "cannot hand the configuration to the worker; send SIGHUP to try again");
            }
        }
    }

    fn judge_silence(&mut self, now: Instant) -> Option<Instant> {
        let worker = self.life.worker.as_mut()?;
        let overdue = self.life.stopping.as_ref().is_some_and(|stopping| now >= stopping.kill_at);
        match worker.judge(now) {
            WatchdogVerdict::Fine(until) if !overdue => return Some(until),
            WatchdogVerdict::Fine(_) => tracing::warn!("the worker did not end within the drain time; it is killed"),
            WatchdogVerdict::TooLong => tracing::error!("the worker is silent; it is killed"),
        }
        worker.kill();
        // Its death is reported by SIGCHLD; until then look again soon, in case the signal is slow.
        Some(now + LOOK)
    }

    /// One step of closing earlier connections, if one is due.
    fn flush(&mut self) {
        let over = self.pods.flush(Instant::now());
        if let (Some((seq, answer)), Some(worker)) = (over, &mut self.life.worker) {
            reply(&mut worker.control, seq, Some(answer));
        }
    }

    /// One pod at a time, between the worker's requests.
    fn look_at_devices(&mut self) {
        let Self { pods, file, life, .. } = self;
        let WorkerLifecycle { worker: Some(worker), served, .. } = life else { return };
        let Some(changed) = pods.next_changed(Instant::now()) else { return };
        let mut deferred = Vec::new();
        let mut meanwhile = |home: &HostNamespaces, armed: &mut ArmedPods| {
            serve_meanwhile(worker, served, Some(&changed), &mut deferred, home, armed);
        };
        let news = pods.look(&changed, Instant::now(), &mut meanwhile);
        for (news, fds) in news {
            worker.control.send(0, &news, fds);
        }
        for (seq, quick) in deferred {
            let answer = pods.serve(file.config(), quick, &mut |_, _| {});
            reply(&mut worker.control, seq, answer);
        }
    }

    /// Says which pods that are to end have no process left.
    fn look_at_endings(&mut self) {
        let WorkerLifecycle { worker: Some(worker), served, .. } = &mut self.life else { return };
        let mut meanwhile = |home: &HostNamespaces, armed: &mut ArmedPods| {
            serve_meanwhile(worker, served, None, &mut Vec::new(), home, armed);
        };
        for pod in self.pods.ended(Instant::now(), &mut meanwhile) {
            tracing::info!(%pod, "the pod's last process has ended");
            worker.control.send(0, &Reply::PodEnded { pod }, Vec::new());
        }
    }

    fn signal(&mut self, signal: Signal) {
        match signal {
            Signal::SIGHUP => self.reload(),
            Signal::SIGCHLD => self.reap(),
            _ => self.stop(signal),
        }
    }

    fn stop(&mut self, signal: Signal) {
        if let Some(stopping) = &mut self.life.stopping {
            tracing::warn!("{signal} again: ending at once");
            stopping.at_once = true;
            stopping.kill_at = Instant::now();
        } else {
            tracing::info!("{signal}: ending within {:?}", self.drain);
            let kill_at = Instant::now() + self.drain + GRACE;
            self.life.stopping = Some(ShutdownDeadline { kill_at, at_once: false });
            if let Some(worker) = &mut self.life.worker {
                worker.control.send(0, &Reply::Shutdown { drain: self.drain }, Vec::new());
            }
        }
        if self.life.worker.is_none() {
            self.life.exit.get_or_insert(0);
        }
    }

    fn reap(&mut self) {
        while let Some(ended) = child::reap() {
            if self.life.worker.as_ref().is_some_and(|worker| worker.pid == ended.pid) {
                self.worker_died(ended);
                continue;
            }
            // Its last words count: the worker may know what came of them.
            self.hear_controller();
            match self.controller.ended(ended, Instant::now()) {
                ControllerExit::Another | ControllerExit::Restart => {}
                ControllerExit::End(code) => self.end(code),
            }
        }
    }

    /// Nothing can be served: there is no use in going on.
    fn end(&mut self, code: u8) {
        self.life.exit.get_or_insert(code);
        self.life.worker.iter().for_each(WorkerProcess::kill);
    }

    fn worker_died(&mut self, ended: ExitCause) {
        let now = Instant::now();
        let Some(worker) = self.life.worker.take() else { return };
        self.pods.worker_died(now);
        if ended.code == FORBIDDEN_CALL {
            tracing::error!(
                "the worker was ended for a system call that only an intruder makes: somebody may have taken it over. Keep this \
                 log, see which call it was in the node's (type=1326), and report it"
            );
        }
        if self.life.stopping.is_some() {
            tracing::info!(code = ended.code, "the worker has ended");
            self.life.exit.get_or_insert(ended.code);
        } else if ended.code == USAGE || !self.life.served {
            tracing::error!(code = ended.code, "the worker could not start; the agent ends");
            self.life.exit.get_or_insert(ended.code.max(1));
        } else {
            let restart_at = self.life.backoff.died(worker.born, now);
            let delay = restart_at.duration_since(now);
            tracing::error!(code = ended.code, ?delay, "the worker is dead; a new one is started");
            self.life.restart_at = Some(restart_at);
        }
    }

    /// Answers the quick requests, up to a batch of them, and one slow one, so that neither a flood nor a line of them
    /// keeps signals and the clock waiting.
    fn serve(&mut self) {
        for _ in 0..BATCH {
            let Some(worker) = &mut self.life.worker else { return };
            match worker.next_quick(Instant::now()) {
                Some((seq, request)) => self.answer(seq, request),
                None => break,
            }
        }
        if let Some((seq, request)) = self.life.worker.as_mut().and_then(WorkerProcess::next_slow) {
            self.answer(seq, request);
        }
    }

    /// Answers a request. Between the steps of a slow one the quick ones that came meanwhile are answered: connections that
    /// are there already wait for sockets. Those about the very pod that is worked on come after it.
    fn answer(&mut self, seq: u32, request: Request) {
        if matches!(request, Request::Arm { .. }) {
            // The worker may have been told of it a moment ago.
            self.hear_controller();
        }
        let Self { pods, file, tls, life, .. } = self;
        let WorkerLifecycle { worker: Some(worker), served, .. } = life else { return };
        let busy = request.pod().cloned().filter(|_| request.is_slow());
        note_ready(&request, served);
        let mut deferred = Vec::new();
        let mut meanwhile = |home: &HostNamespaces, armed: &mut ArmedPods| {
            serve_meanwhile(worker, served, busy.as_ref(), &mut deferred, home, armed);
        };
        let answer = match request {
            // Answered when it is over.
            Request::Flush { pod, port } => pods.begin_flush(seq, pod, port, Instant::now()).err().map(Err),
            request => pods.serve(file.config(), request, &mut meanwhile),
        };
        if busy.is_some() && tls.armed(pods.armed_ports()) {
            push_certificates(&mut worker.control, tls);
        }
        reply(&mut worker.control, seq, answer);
        for (seq, quick) in deferred {
            let answer = pods.serve(file.config(), quick, &mut |_, _| {});
            reply(&mut worker.control, seq, answer);
        }
    }

    /// Detaches what has lingered long enough.
    fn expire(&mut self, now: Instant) {
        let WorkerLifecycle { worker, served, .. } = &mut self.life;
        self.pods.expire(now, &mut |home, armed| {
            if let Some(worker) = worker {
                // No pod is worked on that a request could name.
                serve_meanwhile(worker, served, None, &mut Vec::new(), home, armed);
            }
        });
    }
}

/// Answers the quick requests that wait, but for those about the pod that is `busy`, which are put off: as many as there may be
/// in all pauses of one work, then none is taken any more.
fn serve_meanwhile(
    worker: &mut WorkerProcess,
    served: &mut bool,
    busy: Option<&PodName>,
    deferred: &mut Vec<(u32, Request)>,
    home: &HostNamespaces,
    armed: &mut ArmedPods,
) {
    for _ in 0..BATCH {
        if deferred.len() >= MOST_DEFERRED {
            return;
        }
        let Some((seq, quick)) = worker.next_quick(Instant::now()) else { break };
        note_ready(&quick, served);
        if quick.pod().is_some() && quick.pod() == busy {
            deferred.push((seq, quick));
        } else {
            reply(&mut worker.control, seq, pods::serve_quick(home, armed, quick));
        }
    }
}

fn certificates(tls: &TlsFiles) -> io::Result<OwnedFd> {
    memory::sealed(c"redir-agent-certificates", &tls.certificates().encode())
}

/// Before the answer to the request that changed what is armed.
fn push_certificates(control: &mut ControlSocket, tls: &TlsFiles) {
    match certificates(tls) {
        Ok(certificates) => control.send(0, &Reply::Certificates, vec![certificates]),
        Err(error) => {
            tracing::error!(%error, "cannot hand the certificates to the worker; send SIGHUP to try again");
        }
    }
}

fn note_ready(request: &Request, served: &mut bool) {
    if *request == Request::Ready {
        *served = true;
        tracing::info!("the worker is ready");
    }
}

fn reply(control: &mut ControlSocket, seq: u32, answer: Option<Result<GrantedReply, RequestRefusal>>) {
    let Some(answer) = answer else { return };
    let (reply, fds) = answer.unwrap_or_else(|RequestRefusal { code, sentence }| {
        tracing::debug!(%sentence, "refused");
        (Reply::Refused { code, sentence }, Vec::new())
    });
    control.send(seq, &reply, fds);
}

/// How often files and namespaces are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// What a worker has beyond the drain time to close its tunnels.
const GRACE: Duration = Duration::from_secs(5);
/// Until a worker that could not be started (no process ids, no memory) is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Requests between two looks at signals and the clock.
const BATCH: usize = 64;
/// Requests about a pod that is worked on, which wait for the end of that.
const MOST_DEFERRED: usize = 4 * BATCH;
/// 128 + SIGSYS: the filter of system calls (`sandbox`).
const FORBIDDEN_CALL: u8 = 159;
/// The exit code for a wrong configuration: a restart would not help.
const USAGE: u8 = 2;
