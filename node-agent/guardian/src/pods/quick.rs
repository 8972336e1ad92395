//! Requests that take microseconds, which are answered between the steps of slow work.

use std::{io, os::fd::OwnedFd};

use super::{ArmedPods, find};
use crate::{
    answer::{GrantedReply, RequestRefusal},
    listeners::ListenerPair,
    netns::HostNamespaces,
};
use redir_ipc::{HandedSockets, Reply, Request};

/// Answers a request that takes microseconds; None for one that gets no answer, or is not of this kind.
pub(crate) fn serve_quick(
    home: &HostNamespaces,
    armed: &mut ArmedPods,
    request: Request,
) -> Option<Result<GrantedReply, RequestRefusal>> {
    Some(match request {
        Request::Sockets { pod: name, bind, ports, for_trial } => {
            find(armed, &name).and_then(|armed| armed.sockets(home, bind, &ports, for_trial)).map(sockets)
        }
        Request::Steer { pod: name, port, gate } => {
            find(armed, &name).and_then(|armed| armed.steer(port, gate)).map(|()| (Reply::Done, Vec::new()))
        }
        Request::TrialListeners { pod: name } => {
            find(armed, &name).and_then(|armed| armed.trial_listeners(home)).map(trial_listeners)
        }
        Request::Bypass { pod: name, client, how_long } => {
            find(armed, &name).and_then(|armed| armed.bypass(client, how_long)).map(|()| (Reply::Done, Vec::new()))
        }
        Request::Stats { pod: name } => find(armed, &name)
            .and_then(|armed| armed.counters())
            .map(|counters| (Reply::Stats { counters }, Vec::new())),
        Request::Listening { pod: name, port } => find(armed, &name).map(|armed| {
            let (app, detour) = armed.app_on(home, port);
            (Reply::Listening { app, detour }, Vec::new())
        }),
        Request::Ready
        | Request::Alive
        | Request::Arm { .. }
        | Request::Disarm { .. }
        | Request::Release { .. }
        | Request::Ending { .. }
        | Request::Flush { .. } => return None,
    })
}

fn trial_listeners(listeners: Option<ListenerPair>) -> GrantedReply {
    match listeners {
        Some(ListenerPair { v4, v6: Some(v6), .. }) => (Reply::TrialListeners(HandedSockets::Both), vec![v4, v6]),
        Some(ListenerPair { v4, v6: None, .. }) => (Reply::TrialListeners(HandedSockets::Ipv4), vec![v4]),
        None => (Reply::TrialListeners(HandedSockets::Nothing), Vec::new()),
    }
}

fn sockets((results, first): (Vec<io::Result<OwnedFd>>, u64)) -> GrantedReply {
    let mut fds = Vec::new();
    let errnos = results
        .into_iter()
        .map(|result| match result {
            Ok(fd) => {
                fds.push(fd);
                0
            }
            Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
        })
        .collect();
    (Reply::Sockets { errnos, first }, fds)
}
