//! What container runtimes say of the containers that the configuration names, asked once and in the way in which the agent
//! asks: a controller of its own reads the answers.

use std::{
    ffi::OsString,
    os::fd::AsFd as _,
    path::Path,
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollTimeout, poll},
    sys::wait::waitpid,
};
use redir_config::NodeConfig;
use redir_ipc::ControllerMessage;

use crate::{
    containers::Containers, controller::ControllerSupervisor, memory, reload::ConfigFile, runtimes::RuntimeRelays,
};

/// Asks until each container is known, or for as long as a slow runtime may take. `arguments` start the controller.
pub(super) fn containers(file: &ConfigFile, arguments: Vec<OsString>) -> anyhow::Result<Containers> {
    let config: &NodeConfig = file.config();
    let mut containers = Containers::new(Path::new("/proc"));
    if config.containers().next().is_none() {
        return Ok(containers);
    }
    let mut controller = ControllerSupervisor::new(arguments, None, memory::sealed(c"redir-agent-pin", b"")?);
    let mut relays = RuntimeRelays::default();
    let until = Instant::now() + PATIENCE;
    controller.start_if_due(|| memory::sealed(c"redir-agent-config", file.text().as_bytes()), Instant::now());
    while !containers.are_all_known(config) && Instant::now() < until {
        let mut fds: Vec<_> = relays.interests().map(|(fd, interest)| PollFd::new(fd, interest)).collect();
        let control = controller.interest();
        // One that has ended says nothing more.
        let Some((control, interest)) = control else { break };
        fds.push(PollFd::new(control.as_fd(), interest));
        let left = until.saturating_duration_since(Instant::now());
        // A wait that fails is a short one.
        poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO)).unwrap_or_default();
        drop(fds);
        let mut take = |message| {
            if let ControllerMessage::Container(report) = message {
                containers.take(report, config);
            }
        };
        relays.serve(&mut controller, config, &mut take, Instant::now());
        relays.pump();
    }
    controller.kill();
    // What cannot be waited for has ended.
    controller.pid().map(|pid| waitpid(pid, None).ok());
    Ok(containers)
}

/// A runtime that is silent for longer is told as one that has not answered.
const PATIENCE: Duration = Duration::from_secs(12);
