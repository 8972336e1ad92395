//! Requests that take microseconds, which are answered between the steps of slow work.

use std::{io, os::fd::OwnedFd};

use super::{ArmedPods, find};
use crate::{
    answer::{GrantedReply, RequestRefusal},
    late_sockets::{LATE_SOCKETS, LATE_SOCKETS_OF_POD},
    listeners::ListenerPair,
    netns::HostNamespaces,
};
use redir_config::PodName;
use redir_ipc::{HandedSockets, RefusalCode, Reply, Request};

/// Answers a request that takes microseconds; None for one that gets no answer, or is not of this kind.
pub(crate) fn serve_quick(
    home: &HostNamespaces,
    armed: &mut ArmedPods,
    request: Request,
) -> Option<Result<GrantedReply, RequestRefusal>> {
    Some(match request {
        Request::Sockets { pod: name, bind, ports, for_trial } => {
            let all_late = armed.values().map(|armed| armed.late_sockets().given()).sum();
            find(armed, &name).and_then(|armed| {
                if !armed.late_sockets().may_have(ports.len(), all_late) {
                    return Err(RequestRefusal::new(RefusalCode::Busy, too_many_late_sockets(&name)));
                }
                armed.sockets(home, bind, &ports, for_trial).map(sockets)
            })
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

fn too_many_late_sockets(name: &PodName) -> String {
    format!(
        "no Intercept means {name} any more, and its last connections have had {LATE_SOCKETS_OF_POD} new ones to the app (all \
         such pods {LATE_SOCKETS}); intercept it again, or release it"
    )
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
