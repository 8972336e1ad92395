//! The datapath: loads, attaches and detaches the eBPF programs of one pod. The only place that imports aya.
//!
//! Owns the programs, their maps and their links. Must not listen, accept or read packets. Called by the guardian, from
//! whatever network namespace it is in: what needs the pod's is done on a thread of its own that enters it.

mod adapt;
mod attachment;
mod clsact;
mod error;
mod link;
mod maps;
mod netlink;
mod netns;
mod object;
mod spec;
mod storage;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aya::Ebpf;
use redir_abi::{ACCEPTS, POD_IP_ENTRIES, Reason, TRIAL, program};

pub(crate) use adapt::AdaptStep;
pub(crate) use error::DatapathError;
pub(crate) use spec::{AttachMode, LinkLayer, PodDevice, PodSpec, SteerGate};

use attachment::{NO_DEVICE, ProgramAttachment, is_unknown_hook};
use clsact::QdiscHold;
use link::AttachType;
use maps::DatapathMaps;
use netlink::FilterParent;

/// Called between the steps of slow work, each of which is one system call of the kind that takes milliseconds: who waits
/// for something quick does not wait for all of it.
pub(crate) type YieldPoint<'a> = &'a mut dyn FnMut();

/// Index of `lo`, in every network namespace.
const LOOPBACK: u32 = 1;

/// Devices of one pod that are given programs; two links each.
pub(crate) const MAX_DEVICES: usize = 256;

/// The programs of one pod. Dropping it detaches everything.
///
/// Steering stops in three ways, so that a failure of one is covered: the listener goes, the heartbeat stops, or the
/// guardian detaches. Reflection outlives steering for as long as connections drain.
pub(crate) struct PodDatapath {
    ebpf: Ebpf,
    maps: DatapathMaps,
    netns: OwnedFd,
    devices: Vec<PodDevice>,
    /// The last device that could not be given its programs.
    last_failed: Option<u32>,
    /// What the next attach uses; `Auto` until the first has shown what the kernel can.
    attach: AttachMode,
    qdiscs: Vec<(u32, QdiscHold)>,
    reflecting: Vec<ProgramAttachment>,
    steering: Vec<ProgramAttachment>,
    /// Why there is no companion, if so: it needs its listeners, and a kernel that has such programs.
    no_companion: Option<String>,
    armed: BTreeSet<u16>,
    /// The number of the last leg.
    legs: Mutex<u64>,
}

impl PodDatapath {
    /// Loads the programs for a pod; nothing is attached yet and no port armed. The listeners are only looked at.
    pub(crate) fn load(spec: &PodSpec<'_>, pause: YieldPoint<'_>) -> Result<Self, DatapathError> {
        if spec.devices.is_empty() || spec.addresses.is_empty() {
            return Err(DatapathError::Spec("the pod has no address on a device; wait until its network is set up"));
        }
        if u32::try_from(spec.addresses.len()).is_ok_and(|n| n > POD_IP_ENTRIES) {
            return Err(DatapathError::Spec("the pod has more than 512 addresses; intercept a pod with fewer"));
        }
        if spec.devices.len() > MAX_DEVICES {
            return Err(DatapathError::Spec("the pod has more than 256 devices; intercept a pod with fewer"));
        }
        let mut ebpf = object::load()?;
        let mut maps = DatapathMaps::take(&mut ebpf)?;
        maps.set_agent_port(spec.agent_port)?;
        maps.set_pod_ips(spec.addresses)?;
        for device in spec.devices {
            for name in [object::reflect_for(device), object::steer_for(device)] {
                pause();
                object::classifier(&mut ebpf, name, pause)?;
            }
        }
        pause();
        object::load_filter(&mut ebpf, pause)?;
        pause();
        object::classifier(&mut ebpf, program::REFLECT_LO, pause)?;
        pause();
        object::classifier(&mut ebpf, program::STEER_LO, pause)?;
        pause();
        let no_companion = match maps.set_listeners(spec.listener_v4, spec.listener_v6) {
            Ok(()) => match object::companion(&mut ebpf, pause) {
                Ok(_) => None,
                // They say nothing about what the kernel has, and must not decide how this pod is steered.
                Err(e @ (DatapathError::Interrupted { .. } | DatapathError::LockedMemory { .. })) => return Err(e),
                Err(e) => Some(e.to_string()),
            },
            Err(e) => Some(object::chain(&e)),
        };
        if let Some(why) = &no_companion {
            tracing::info!("no companion, steer assigns by itself: {why}");
        }
        let netns = spec.netns.try_clone_to_owned().map_err(DatapathError::Netns)?;
        Ok(Self {
            ebpf,
            maps,
            netns,
            devices: spec.devices.to_vec(),
            last_failed: None,
            attach: spec.attach,
            qdiscs: Vec::new(),
            reflecting: Vec::new(),
            steering: Vec::new(),
            no_companion,
            armed: BTreeSet::new(),
            legs: Mutex::new(0),
        })
    }

    /// Loads what no device of this pod needs as well: shows what the kernel refuses.
    pub(crate) fn load_all(&mut self) -> Result<(), DatapathError> {
        object::all_classifiers(&mut self.ebpf)
    }

    /// Attaches what is not attached: reflect first, steer last. After an error nothing is attached but what was.
    pub(crate) fn attach(&mut self, pause: YieldPoint<'_>) -> Result<(), DatapathError> {
        let was_reflecting = !self.reflecting.is_empty();
        self.maps.set_released(false)?;
        let reflecting = if was_reflecting { Ok(()) } else { self.attach_reflect(pause) };
        let result = reflecting.and_then(|()| match self.steering.is_empty() {
            true => self.attach_steer(pause),
            false => Ok(()),
        });
        result.inspect_err(|_| {
            // Connections that drain still need reflect.
            let cleared = if was_reflecting { self.detach_steer(pause) } else { self.detach_all(pause) };
            if let Err(e) = cleared {
                tracing::warn!("clear up after a failed attach: {e}");
            }
        })
    }

    /// Lets legs to `port` pass; nothing is steered there yet.
    pub(crate) fn reflect(&mut self, port: u16) -> Result<(), DatapathError> {
        self.maps.reflect(port)?;
        self.armed.insert(port);
        Ok(())
    }

    /// Makes a socket, which is not connected yet, a leg's: the programs know it by that, and a filter keeps connections from
    /// it. `trial`: the leg only tries the way, and never reaches the app. The result is its number, by which its note of a
    /// turned SYN is found.
    pub(crate) fn make_leg(&self, socket: BorrowedFd<'_>, trial: bool) -> io::Result<u64> {
        self.filter(socket)?;
        let mut legs = self.legs.lock().unwrap_or_else(PoisonError::into_inner);
        let count = *legs + 1;
        let number = if trial { count | TRIAL } else { count };
        self.maps.put_leg(socket, number)?;
        // Only now: who asks for many is told the first number, and counts on from there.
        *legs = count;
        Ok(number)
    }

    /// Makes a socket a listener of the agent's: what it accepts, and it itself, opens no connection, and it accepts none but to
    /// ports that are intercepted.
    pub(crate) fn make_listener(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.filter(socket)?;
        self.maps.put_leg(socket, ACCEPTS)
    }

    fn filter(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let filter = object::socket_filter(&self.ebpf).ok_or(io::ErrorKind::NotFound)?;
        storage::filter_for_good(socket, filter)
    }

    /// The listeners that take the legs which only try the way, until they are closed.
    pub(crate) fn set_trial_listeners(
        &mut self,
        v4: BorrowedFd<'_>,
        v6: Option<BorrowedFd<'_>>,
    ) -> Result<(), DatapathError> {
        self.maps.set_trial_listeners(v4, v6)
    }

    /// A duplicate of the descriptor of the notes about turned SYNs, for the worker to map.
    pub(crate) fn turned_fd(&self) -> io::Result<OwnedFd> {
        self.maps.turned_fd()
    }

    /// Steers again what was left to the app because the way to it was broken.
    pub(crate) fn divert_no_more(&mut self) -> Result<(), DatapathError> {
        self.maps.set_diverted(false)
    }

    /// Steers new connections to `port` from now on.
    pub(crate) fn arm(&mut self, port: u16, gate: SteerGate) -> Result<(), DatapathError> {
        self.maps.steer(port, gate)?;
        self.armed.insert(port);
        Ok(())
    }

    /// Leaves new connections to `port` to the app from now on; those that are intercepted go on.
    pub(crate) fn disarm(&mut self, port: u16) -> Result<(), DatapathError> {
        self.maps.leave(port)?;
        self.armed.remove(&port);
        Ok(())
    }

    /// The ports that are armed.
    pub(crate) fn armed_ports(&self) -> &BTreeSet<u16> {
        &self.armed
    }

    /// Leaves new connections of `client` to the app for a while.
    pub(crate) fn bypass(&mut self, client: IpAddr, how_long: Duration) -> Result<(), DatapathError> {
        self.maps.bypass(client, how_long)
    }

    /// One counter, summed over the CPUs.
    pub(crate) fn count(&self, reason: Reason) -> Result<u64, DatapathError> {
        self.maps.count(reason)
    }

    /// Every counter, summed over the CPUs.
    pub(crate) fn stats(&self) -> Result<Vec<(Reason, u64)>, DatapathError> {
        self.maps.stats()
    }

    /// A duplicate of the heartbeat map's descriptor, for the worker to map.
    pub(crate) fn heartbeat_fd(&self) -> io::Result<OwnedFd> {
        self.maps.heartbeat_fd()
    }

    /// Duplicates of the TCX links attached now, reflect's first; none with clsact.
    pub(crate) fn link_fds(&self) -> io::Result<Vec<OwnedFd>> {
        let links = self.reflecting.iter().chain(&self.steering).filter_map(ProgramAttachment::link);
        links.map(|link| link.try_clone_to_owned()).collect()
    }

    /// How the programs are attached: TCX or clsact once something was, before that what was asked for.
    pub(crate) fn hook(&self) -> AttachMode {
        self.attach
    }

    /// Whether connections are taken where the stack looks for a listener, after netfilter: what is redirected to a proxy
    /// in the pod stays the proxy's. Only while steering is attached.
    pub(crate) fn looks_up(&self) -> bool {
        self.no_companion.is_none() && self.steering.iter().any(|attachment| attachment.device() == NO_DEVICE)
    }

    /// Why it is not so on this kernel.
    pub(crate) fn no_companion(&self) -> Option<&str> {
        self.no_companion.as_deref()
    }

    /// Stops steering; what was steered goes on being reflected.
    pub(crate) fn detach_steer(&mut self, pause: YieldPoint<'_>) -> Result<(), DatapathError> {
        let detached = self.detach_each(|this| &mut this.steering, pause);
        // Only now: until then a program that steers must not assign by itself.
        detached.and(self.maps.set_companion(false))
    }

    /// Detaches everything, also links that others hold duplicates of. Goes on after an error and returns the first.
    pub(crate) fn detach_all(&mut self, pause: YieldPoint<'_>) -> Result<(), DatapathError> {
        // First: whoever still holds a leg must not use it where nobody looks at what it sends.
        let mut result = self.maps.set_released(true);
        result = result.and(self.detach_steer(pause));
        result = result.and(self.detach_each(|this| &mut this.reflecting, pause));
        if self.qdiscs.is_empty() {
            return result;
        }
        let released = self.inside(|this| {
            let released: Vec<_> = this.qdiscs.drain(..).map(|(_, qdisc)| qdisc.release()).collect();
            released.into_iter().collect()
        });
        result.and(released)
    }

    /// Takes every program of a list off its hook, the last first. Goes on after an error and returns the first.
    fn detach_each(
        &mut self,
        list: impl Fn(&mut Self) -> &mut Vec<ProgramAttachment>,
        pause: YieldPoint<'_>,
    ) -> Result<(), DatapathError> {
        let mut result = Ok(());
        while let Some(attachment) = list(self).pop() {
            pause();
            result = result.and(self.inside(|_| attachment.detach()));
        }
        result
    }

    /// Ends as a killed process does: descriptors close, nothing is detached.
    #[cfg(test)]
    fn let_go_as_if_killed(mut self) {
        self.reflecting.clear();
        self.steering.clear();
    }

    fn attach_reflect(&mut self, pause: YieldPoint<'_>) -> Result<(), DatapathError> {
        for device in self.devices.clone() {
            pause();
            let attach = |this: &mut Self| this.attach_one(&device, FilterParent::Egress, object::reflect_for(&device));
            match self.inside(attach) {
                Err(error) if error.is_of_a_device_that_went() => {}
                attached => self.reflecting.push(attached?),
            }
        }
        pause();
        let attachment = self.inside(|this| this.attach_one(&loopback(), FilterParent::Egress, program::REFLECT_LO))?;
        self.reflecting.push(attachment);
        Ok(())
    }

    fn attach_steer(&mut self, pause: YieldPoint<'_>) -> Result<(), DatapathError> {
        if self.no_companion.is_none() {
            pause();
            match self.attach_companion() {
                Ok(link) => self.steering.push(ProgramAttachment::Link(NO_DEVICE, link)),
                Err(e) => {
                    tracing::info!("no companion, steer assigns by itself: {e}");
                    self.no_companion = Some(e.to_string());
                }
            }
        }
        self.maps.set_companion(self.no_companion.is_none())?;
        let devices = self.devices.clone().into_iter().map(|device| (object::steer_for(&device), device));
        for (program, device) in devices.chain([(program::STEER_LO, loopback())]) {
            pause();
            match self.inside(|this| this.attach_one(&device, FilterParent::Ingress, program)) {
                Err(error) if error.is_of_a_device_that_went() => {}
                attached => self.steering.push(attached?),
            }
        }
        Ok(())
    }

    fn attach_companion(&mut self) -> Result<OwnedFd, DatapathError> {
        let fd = object::companion(&mut self.ebpf, &mut || {})?
            .fd()
            .map_err(|e| DatapathError::Load { program: program::SK_LOOKUP, detail: object::chain(&e) })?;
        link::create(fd.as_fd(), AttachType::SkLookup(self.netns.as_fd())).map_err(|source| DatapathError::Attach {
            program: program::SK_LOOKUP,
            device: "the network namespace".into(),
            source,
        })
    }

    /// By TCX, or by clsact where the kernel has no TCX and we may.
    fn attach_one(
        &mut self,
        device: &PodDevice,
        direction: FilterParent,
        program: &'static str,
    ) -> Result<ProgramAttachment, DatapathError> {
        if self.attach != AttachMode::Clsact {
            let hook = match direction {
                FilterParent::Ingress => AttachType::TcxIngress(device.index),
                FilterParent::Egress => AttachType::TcxEgress(device.index),
            };
            match link::create(self.program_fd(program)?, hook) {
                Ok(link) => {
                    self.attach = AttachMode::Tcx;
                    return Ok(ProgramAttachment::Link(device.index, link));
                }
                Err(e) if is_unknown_hook(&e) && self.attach == AttachMode::Auto => self.attach = AttachMode::Clsact,
                Err(e) if is_unknown_hook(&e) => return Err(DatapathError::NoTcx),
                Err(e) if e.raw_os_error() == Some(libc::EPERM) => {
                    return Err(DatapathError::Permission { action: "attach the programs" });
                }
                Err(source) => return Err(DatapathError::Attach { program, device: device.name.clone(), source }),
            }
        }
        if !self.qdiscs.iter().any(|(index, _)| *index == device.index) {
            self.qdiscs.push((device.index, QdiscHold::hold(device.index, &device.name)?));
        }
        let fd = self.program_fd(program)?.try_clone_to_owned().map_err(DatapathError::Netns)?;
        let held = self.qdiscs.iter().find(|(index, _)| *index == device.index);
        let (_, qdisc) = held.expect("held a moment ago");
        qdisc.attach(direction, program, fd.as_fd()).map(ProgramAttachment::Filter)
    }

    fn program_fd(&mut self, name: &'static str) -> Result<BorrowedFd<'_>, DatapathError> {
        let program = object::classifier(&mut self.ebpf, name, &mut || {})?;
        program.fd().map(AsFd::as_fd).map_err(|e| DatapathError::Load { program: name, detail: object::chain(&e) })
    }

    /// Runs `work` in the pod's network namespace: filters and qdiscs are the calling thread's.
    fn inside<T: Send>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, DatapathError> + Send,
    ) -> Result<T, DatapathError> {
        let netns = self.netns.try_clone().map_err(DatapathError::Netns)?;
        netns::within(netns.as_fd(), || work(self))
    }
}

fn loopback() -> PodDevice {
    PodDevice { index: LOOPBACK, name: "lo".into(), framing: LinkLayer::Ethernet }
}

impl Drop for PodDatapath {
    fn drop(&mut self) {
        if let Err(e) = self.detach_all(&mut || {}) {
            tracing::error!("{e}");
        }
    }
}

impl fmt::Debug for PodDatapath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PodDatapath")
            .field("devices", &self.devices)
            .field("attach", &self.attach)
            .field("armed", &self.armed)
            .finish_non_exhaustive()
    }
}
