//! The maps of one pod, typed: which ports are steered, who is bypassed, what was counted.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{Array, HashMap, IterableMap, Map, MapData, MapError, PerCpuArray, SockMap},
};
use nix::time::{ClockId, clock_gettime};
use redir_abi::{MappedAddress, PortBit, PortWord, REFLECTED, Reason, STEERED, UNGATED, map};

use super::{
    DatapathError, SteerGate,
    object::{map_error, map_missing},
    storage,
};

/// Handles on the maps of one loaded object. The programs name them by these very descriptors until they are loaded.
pub(super) struct DatapathMaps {
    agent_port: Array<MapData, u32>,
    ports: Array<MapData, PortWord>,
    pod_ips: HashMap<MapData, [u8; 16], u8>,
    bypass: HashMap<MapData, [u8; 16], u64>,
    stats: PerCpuArray<MapData, u64>,
    heartbeat: Array<MapData, u64>,
    companion: Array<MapData, u32>,
    diverted: Array<MapData, u32>,
    released: Array<MapData, u32>,
    /// Socket storage, behind the descriptor of what stands in for it.
    leg_sockets: Array<MapData, u64>,
    turned: Array<MapData, u64>,
    listeners: SockMap<MapData>,
}

impl DatapathMaps {
    /// Takes the maps out of the object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self {
            leg_sockets: typed(ebpf, map::LEG_SOCKETS)?,
            turned: typed(ebpf, map::TURNED)?,
            diverted: typed(ebpf, map::DIVERTED)?,
            released: typed(ebpf, map::RELEASED)?,
            heartbeat: typed(ebpf, map::HEARTBEAT)?,
            agent_port: typed(ebpf, map::AGENT_PORT)?,
            companion: typed(ebpf, map::COMPANION)?,
            ports: typed(ebpf, map::PORTS)?,
            pod_ips: typed(ebpf, map::POD_IPS)?,
            bypass: typed(ebpf, map::BYPASS)?,
            stats: typed(ebpf, map::STATS)?,
            listeners: typed(ebpf, map::LISTENERS)?,
        })
    }

    pub(super) fn set_agent_port(&mut self, port: u16) -> Result<(), DatapathError> {
        self.agent_port.set(0, u32::from(port), 0).map_err(|e| map_error(map::AGENT_PORT, &e))
    }

    /// Says whether the companion is attached.
    pub(super) fn set_companion(&mut self, attached: bool) -> Result<(), DatapathError> {
        self.companion.set(0, u32::from(attached), 0).map_err(|e| map_error(map::COMPANION, &e))
    }

    /// Says whether everything is left to the app.
    pub(super) fn set_diverted(&mut self, diverted: bool) -> Result<(), DatapathError> {
        self.diverted.set(0, u32::from(diverted), 0).map_err(|e| map_error(map::DIVERTED, &e))
    }

    /// Says whether the programs are detached, so that legs must get nothing any more.
    pub(super) fn set_released(&mut self, released: bool) -> Result<(), DatapathError> {
        self.released.set(0, u32::from(released), 0).map_err(|e| map_error(map::RELEASED, &e))
    }

    /// Puts a leg's number on its socket, or what stands for one.
    pub(super) fn put_leg(&self, socket: BorrowedFd<'_>, number: u64) -> io::Result<()> {
        storage::put(self.leg_sockets.map().fd().as_fd(), socket, number)
    }

    /// What is noted at a slot.
    #[cfg(test)]
    pub(super) fn turned(&self, slot: u32) -> u64 {
        self.turned.get(&slot, 0).unwrap()
    }

    /// A duplicate of the descriptor of the notes about turned SYNs.
    pub(super) fn turned_fd(&self) -> io::Result<OwnedFd> {
        self.turned.map().fd().as_fd().try_clone_to_owned()
    }

    /// The addresses that are steered, from now on these. An address that stays is never missing meanwhile.
    pub(super) fn set_pod_ips(&mut self, addresses: &[IpAddr]) -> Result<(), DatapathError> {
        let wanted: Vec<_> = addresses.iter().map(|address| MappedAddress::from(*address).0).collect();
        let failed = |e: &MapError| map_error(map::POD_IPS, e);
        let known: Vec<_> = self.pod_ips.keys().collect::<Result<_, _>>().map_err(|e| failed(&e))?;
        for gone in known.iter().filter(|address| !wanted.contains(address)) {
            self.pod_ips.remove(gone).map_err(|e| failed(&e))?;
        }
        for new in wanted.iter().filter(|address| !known.contains(address)) {
            self.pod_ips.insert(new, 1, 0).map_err(|e| failed(&e))?;
        }
        Ok(())
    }

    /// Gives the companion its listeners. Only sockets in LISTEN are taken.
    pub(super) fn set_listeners(&mut self, v4: BorrowedFd<'_>, v6: Option<BorrowedFd<'_>>) -> Result<(), MapError> {
        self.listeners.set(map::LISTENER_V4, &v4, 0)?;
        v6.map_or(Ok(()), |v6| self.listeners.set(map::LISTENER_V6, &v6, 0))
    }

    /// Gives the companion the listeners that take the legs which only try the way.
    pub(super) fn set_trial_listeners(
        &mut self,
        v4: BorrowedFd<'_>,
        v6: Option<BorrowedFd<'_>>,
    ) -> Result<(), DatapathError> {
        let mut set = |index, listener: BorrowedFd<'_>| {
            self.listeners.set(index + map::LISTENERS_OF_TRIAL, &listener, 0).map_err(|e| map_error(map::LISTENERS, &e))
        };
        set(map::LISTENER_V4, v4)?;
        v6.map_or(Ok(()), |v6| set(map::LISTENER_V6, v6))
    }

    /// Reflects a port's packets from now on until the object goes.
    pub(super) fn reflect(&mut self, port: u16) -> Result<(), DatapathError> {
        self.change(port, |word, bit| word[REFLECTED] |= bit)
    }

    /// Steers a port. Its packets are reflected from now on until the object goes.
    pub(super) fn steer(&mut self, port: u16, gate: SteerGate) -> Result<(), DatapathError> {
        self.change(port, |word, bit| {
            word[REFLECTED] |= bit;
            word[STEERED] |= bit;
            match gate {
                SteerGate::AppListening => word[UNGATED] &= !bit,
                SteerGate::Always => word[UNGATED] |= bit,
            }
        })
    }

    /// Steers a port no more.
    pub(super) fn leave(&mut self, port: u16) -> Result<(), DatapathError> {
        self.change(port, |word, bit| {
            word[STEERED] &= !bit;
            word[UNGATED] &= !bit;
        })
    }

    fn change(&mut self, port: u16, change: impl FnOnce(&mut PortWord, u64)) -> Result<(), DatapathError> {
        let at = PortBit::of(port);
        let mut word = self.ports.get(&at.word, 0).map_err(|e| map_error(map::PORTS, &e))?;
        change(&mut word, at.bit);
        self.ports.set(at.word, word, 0).map_err(|e| map_error(map::PORTS, &e))
    }

    pub(super) fn bypass(&mut self, client: IpAddr, how_long: Duration) -> Result<(), DatapathError> {
        let until = monotonic_nanos()?.saturating_add(u64::try_from(how_long.as_nanos()).unwrap_or(u64::MAX));
        self.bypass.insert(MappedAddress::from(client).0, until, 0).map_err(|e| map_error(map::BYPASS, &e))
    }

    /// Every counter, summed over the CPUs.
    pub(super) fn stats(&self) -> Result<Vec<(Reason, u64)>, DatapathError> {
        Reason::ALL.iter().map(|reason| Ok((*reason, self.count(*reason)?))).collect()
    }

    /// One counter, summed over the CPUs.
    pub(super) fn count(&self, reason: Reason) -> Result<u64, DatapathError> {
        let each_cpu = self.stats.get(&(reason as u32), 0).map_err(|e| map_error(map::STATS, &e))?;
        Ok(each_cpu.iter().sum())
    }

    /// A duplicate of the heartbeat's descriptor.
    pub(super) fn heartbeat_fd(&self) -> io::Result<OwnedFd> {
        self.heartbeat.map().fd().as_fd().try_clone_to_owned()
    }
}

fn typed<T: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, DatapathError> {
    let map = ebpf.take_map(name).ok_or_else(|| map_missing(name))?;
    map.try_into().map_err(|e| map_error(name, &e))
}

/// `CLOCK_MONOTONIC`, as the programs read it.
pub(super) fn monotonic_nanos() -> Result<u64, DatapathError> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_err(|e| DatapathError::Map { name: map::BYPASS, detail: e.to_string() })?;
    Ok(u64::try_from(Duration::from(now).as_nanos()).unwrap_or(u64::MAX))
}
