//! Messages to the developer.

use super::{labels, labels_to_proto, list, named, port, text, token};
use crate::code::CloseCode;
use crate::error::Malformed;
use crate::message::{
    Bye, Conflict, ConnectionBytes, Ended, InterceptEntry, InterceptState, Left, LeftIntercept, Listening, Listing,
    Liveness, Miss, Owner, PodEntry, PodFlush, PodState, Refused, RefusedCode, RequestEvent, RequestOutcome,
    StatusReport, Takes, ToDeveloper, TunnelStatus, UnixMillis, Welcome,
};
use crate::{limits, proto};

impl TryFrom<proto::ToDeveloperBody> for ToDeveloper {
    type Error = Malformed;

    fn try_from(body: proto::ToDeveloperBody) -> Result<Self, Malformed> {
        Ok(match body {
            proto::ToDeveloperBody::Welcome(welcome) => Self::Welcome(Welcome {
                version: welcome.version,
                software: name(welcome.software)?,
                agent: name(welcome.agent)?,
                developer: name(welcome.developer)?,
            }),
            proto::ToDeveloperBody::Intercept(state) => Self::Intercept(InterceptState {
                id: state.id,
                token: token(&state.token)?,
                since: UnixMillis(state.since),
                pods: list(state.pods, "the number of pods", limits::ENTRIES, pod_state)?,
                conflicts: list(state.conflicts, "the number of conflicts", limits::ENTRIES, conflict)?,
                overlaps: list(state.overlaps, "the number of overlaps", limits::ENTRIES, conflict)?,
                bypassed: state.bypassed,
                even_if_down: state.even_if_down,
                forwarded: state.forwarded,
            }),
            proto::ToDeveloperBody::Request(event) => Self::Request(request(event)?),
            proto::ToDeveloperBody::Listing(listing) => Self::Listing(Listing {
                pods: list(listing.pods, "the number of pods", limits::ENTRIES, pod_entry)?,
                intercepts: list(listing.intercepts, "the number of intercepts", limits::ENTRIES, intercept_entry)?,
            }),
            proto::ToDeveloperBody::Status(report) => Self::Status(StatusReport {
                agent: name(report.agent)?,
                software: name(report.software)?,
                tunnels: list(report.tunnels, "the number of tunnels", limits::ENTRIES, tunnel_status)?,
                intercepts: list(report.intercepts, "the number of intercepts", limits::ENTRIES, intercept_entry)?,
            }),
            proto::ToDeveloperBody::Left(left) => Self::Left(self::left(left)?),
            proto::ToDeveloperBody::Ended(ended) => {
                Self::Ended(Ended { id: ended.id, token: token(&ended.token)?, sentence: sentence(ended.sentence)? })
            }
            proto::ToDeveloperBody::Refused(refused) => Self::Refused(Refused {
                code: RefusedCode::from_number(refused.code),
                sentence: sentence(refused.sentence)?,
            }),
            proto::ToDeveloperBody::Pong(number) => Self::Pong(number),
            proto::ToDeveloperBody::Bye(bye) => {
                Self::Bye(Bye { code: CloseCode::from_number(bye.code), sentence: sentence(bye.sentence)? })
            }
        })
    }
}

impl From<&ToDeveloper> for proto::ToDeveloperBody {
    fn from(message: &ToDeveloper) -> Self {
        match message {
            ToDeveloper::Welcome(welcome) => Self::Welcome(proto::Welcome {
                version: welcome.version,
                software: welcome.software.clone(),
                agent: welcome.agent.clone(),
                developer: welcome.developer.clone(),
            }),
            ToDeveloper::Intercept(state) => Self::Intercept(state_to_proto(state)),
            ToDeveloper::Request(event) => Self::Request(request_to_proto(event)),
            ToDeveloper::Listing(listing) => Self::Listing(proto::Listing {
                pods: listing.pods.iter().map(pod_entry_to_proto).collect(),
                intercepts: listing.intercepts.iter().map(intercept_entry_to_proto).collect(),
            }),
            ToDeveloper::Status(report) => Self::Status(proto::StatusReport {
                agent: report.agent.clone(),
                software: report.software.clone(),
                tunnels: report.tunnels.iter().map(tunnel_status_to_proto).collect(),
                intercepts: report.intercepts.iter().map(intercept_entry_to_proto).collect(),
            }),
            ToDeveloper::Left(left) => Self::Left(proto::Left {
                what: left.intercepts.iter().map(|left| left.what.clone()).collect(),
                ids: left.intercepts.iter().filter_map(|left| left.id).collect(),
            }),
            ToDeveloper::Ended(ended) => Self::Ended(proto::Ended {
                id: ended.id,
                token: ended.token.0.to_vec(),
                sentence: ended.sentence.clone(),
            }),
            ToDeveloper::Refused(refused) => {
                Self::Refused(proto::Refused { code: refused.code.number(), sentence: refused.sentence.clone() })
            }
            ToDeveloper::Pong(number) => Self::Pong(*number),
            ToDeveloper::Bye(bye) => Self::Bye(proto::Bye { code: bye.code.number(), sentence: bye.sentence.clone() }),
        }
    }
}

fn name(name: String) -> Result<String, Malformed> {
    text(name, "a name", limits::NAME)
}

fn sentence(sentence: String) -> Result<String, Malformed> {
    text(sentence, "a sentence", limits::SENTENCE)
}

fn pod_name(pod: String) -> Result<String, Malformed> {
    named(pod, "a pod's name", limits::NAME)
}

fn pod_state(state: proto::PodState) -> Result<PodState, Malformed> {
    Ok(PodState {
        pod: pod_name(state.pod)?,
        addresses: list(state.addresses, "the number of addresses", limits::ENTRIES, name)?,
        state: liveness(state.state)?,
        reason: sentence(state.reason)?,
        earlier_connections: state.earlier_connections,
        since: UnixMillis(state.since),
        tls: state.tls.map(TryInto::try_into).transpose()?,
        probes: list(state.probes, "the number of probes", limits::PROBES, sentence)?,
        flushed: state.flushed.map(pod_flush).transpose()?,
        listening: listening(state.listening),
        misses: list(state.misses, "the number of causes", limits::CAUSES, miss)?,
    })
}

fn pod_flush(flush: proto::PodFlush) -> Result<PodFlush, Malformed> {
    Ok(PodFlush { closed: flush.closed, left: flush.left, reason: sentence(flush.reason)? })
}

fn pod_flush_to_proto(flush: &PodFlush) -> proto::PodFlush {
    proto::PodFlush { closed: flush.closed, left: flush.left, reason: flush.reason.clone() }
}

fn miss(miss: proto::Miss) -> Result<Miss, Malformed> {
    Ok(Miss { cause: named(miss.cause, "a cause", limits::NAME)?, sentence: sentence(miss.sentence)? })
}

fn listening(number: u32) -> Option<Listening> {
    match number {
        1 => Some(Listening::Yes),
        2 => Some(Listening::Nobody),
        3 => Some(Listening::LoopbackOnly),
        // Not said, or a newer agent's.
        _ => None,
    }
}

fn listening_to_proto(listening: Option<Listening>) -> u32 {
    match listening {
        None => 0,
        Some(Listening::Yes) => 1,
        Some(Listening::Nobody) => 2,
        Some(Listening::LoopbackOnly) => 3,
    }
}

fn state_to_proto(state: &InterceptState) -> proto::InterceptState {
    let pods = state.pods.iter().map(|pod| proto::PodState {
        pod: pod.pod.clone(),
        addresses: pod.addresses.clone(),
        state: liveness_to_proto(pod.state),
        reason: pod.reason.clone(),
        earlier_connections: pod.earlier_connections,
        since: pod.since.0,
        tls: pod.tls.as_ref().map(Into::into),
        probes: pod.probes.clone(),
        flushed: pod.flushed.as_ref().map(pod_flush_to_proto),
        listening: listening_to_proto(pod.listening),
        misses: pod.misses.iter().map(miss_to_proto).collect(),
    });
    proto::InterceptState {
        id: state.id,
        token: state.token.0.to_vec(),
        since: state.since.0,
        pods: pods.collect(),
        conflicts: state.conflicts.iter().map(conflict_to_proto).collect(),
        overlaps: state.overlaps.iter().map(conflict_to_proto).collect(),
        bypassed: state.bypassed,
        even_if_down: state.even_if_down,
        forwarded: state.forwarded,
    }
}

fn miss_to_proto(miss: &Miss) -> proto::Miss {
    proto::Miss { cause: miss.cause.clone(), sentence: miss.sentence.clone() }
}

fn conflict(conflict: proto::Conflict) -> Result<Conflict, Malformed> {
    let takes = match conflict.takes {
        1 => Takes::Everything,
        2 => Takes::Shared,
        _ => return Err(Malformed::Missing("what the other intercept takes")),
    };
    Ok(Conflict {
        id: (conflict.id != 0).then_some(conflict.id),
        pod: pod_name(conflict.pod)?,
        developer: name(conflict.developer)?,
        since: UnixMillis(conflict.since),
        takes,
    })
}

fn conflict_to_proto(conflict: &Conflict) -> proto::Conflict {
    proto::Conflict {
        pod: conflict.pod.clone(),
        developer: conflict.developer.clone(),
        since: conflict.since.0,
        takes: match conflict.takes {
            Takes::Everything => 1,
            Takes::Shared => 2,
        },
        id: conflict.id.unwrap_or_default(),
    }
}

fn left(left: proto::Left) -> Result<Left, Malformed> {
    let what = list(left.what, "the number of intercepts", limits::ENTRIES, sentence)?;
    // An older agent gives no numbers.
    let ids = if left.ids.len() == what.len() { left.ids } else { vec![0; what.len()] };
    let each = what.into_iter().zip(ids);
    Ok(Left { intercepts: each.map(|(what, id)| LeftIntercept { id: (id != 0).then_some(id), what }).collect() })
}

fn request(event: proto::RequestEvent) -> Result<RequestEvent, Malformed> {
    let outcome = match event.outcome {
        0 => RequestOutcome::Answered,
        1 => RequestOutcome::Refused(sentence(event.reason)?),
        2 => RequestOutcome::ClientLeft,
        3 => RequestOutcome::Cut,
        _ => RequestOutcome::Other,
    };
    Ok(RequestEvent {
        intercept: event.intercept,
        when: UnixMillis(event.when),
        method: name(event.method)?,
        path: text(event.path, "a path", limits::PATH)?,
        status: u16::try_from(event.status).map_err(|_| Malformed::Invalid("a status"))?,
        micros: event.micros,
        pod: name(event.pod)?,
        client: name(event.client)?,
        missed: event.missed,
        outcome,
        grpc_status: event.grpc_status,
        bytes: event.bytes.map(|bytes| ConnectionBytes { received: bytes.received, sent: bytes.sent }),
    })
}

fn request_to_proto(event: &RequestEvent) -> proto::RequestEvent {
    let (outcome, reason) = match &event.outcome {
        RequestOutcome::Answered => (0, String::new()),
        RequestOutcome::Refused(why) => (1, why.clone()),
        RequestOutcome::ClientLeft => (2, String::new()),
        RequestOutcome::Cut => (3, String::new()),
        RequestOutcome::Other => (u32::MAX, String::new()),
    };
    proto::RequestEvent {
        intercept: event.intercept,
        when: event.when.0,
        method: event.method.clone(),
        path: event.path.clone(),
        status: u32::from(event.status),
        micros: event.micros,
        pod: event.pod.clone(),
        client: event.client.clone(),
        missed: event.missed,
        outcome,
        reason,
        grpc_status: event.grpc_status,
        bytes: event.bytes.map(|bytes| proto::ConnectionBytes { received: bytes.received, sent: bytes.sent }),
    }
}

fn pod_entry(entry: proto::PodEntry) -> Result<PodEntry, Malformed> {
    Ok(PodEntry {
        name: pod_name(entry.name)?,
        labels: labels(entry.labels)?,
        ports: list(entry.ports, "the number of ports", limits::PORTS, port)?,
    })
}

fn pod_entry_to_proto(entry: &PodEntry) -> proto::PodEntry {
    proto::PodEntry {
        name: entry.name.clone(),
        labels: labels_to_proto(&entry.labels),
        ports: entry.ports.iter().copied().map(u32::from).collect(),
    }
}

fn intercept_entry(entry: proto::InterceptEntry) -> Result<InterceptEntry, Malformed> {
    Ok(InterceptEntry {
        id: entry.id,
        developer: name(entry.developer)?,
        owner: if entry.yours { Owner::You } else { Owner::Other },
        pod: pod_name(entry.pod)?,
        port: port(entry.port)?,
        filter: sentence(entry.filter)?,
        to: name(entry.to)?,
        since: UnixMillis(entry.since),
        state: liveness(entry.state)?,
        reason: sentence(entry.reason)?,
        requests: entry.requests,
        tls: entry.tls.map(TryInto::try_into).transpose()?,
        listening: listening(entry.listening),
    })
}

fn intercept_entry_to_proto(entry: &InterceptEntry) -> proto::InterceptEntry {
    proto::InterceptEntry {
        id: entry.id,
        developer: entry.developer.clone(),
        yours: matches!(entry.owner, Owner::You),
        pod: entry.pod.clone(),
        port: u32::from(entry.port),
        filter: entry.filter.clone(),
        to: entry.to.clone(),
        since: entry.since.0,
        state: liveness_to_proto(entry.state),
        reason: entry.reason.clone(),
        requests: entry.requests,
        tls: entry.tls.as_ref().map(Into::into),
        listening: listening_to_proto(entry.listening),
    }
}

fn tunnel_status(status: proto::TunnelStatus) -> Result<TunnelStatus, Malformed> {
    Ok(TunnelStatus {
        address: name(status.address)?,
        user: name(status.user)?,
        since: UnixMillis(status.since),
        rtt_micros: status.rtt_micros,
        sent_bytes: status.sent_bytes,
        received_bytes: status.received_bytes,
        streams: status.streams,
        streams_total: status.streams_total,
        asking: status.asking,
    })
}

fn tunnel_status_to_proto(status: &TunnelStatus) -> proto::TunnelStatus {
    proto::TunnelStatus {
        address: status.address.clone(),
        user: status.user.clone(),
        since: status.since.0,
        rtt_micros: status.rtt_micros,
        sent_bytes: status.sent_bytes,
        received_bytes: status.received_bytes,
        streams: status.streams,
        streams_total: status.streams_total,
        asking: status.asking,
    }
}

fn liveness(number: u32) -> Result<Liveness, Malformed> {
    Ok(match number {
        1 => Liveness::Pending,
        2 => Liveness::Live,
        3 => Liveness::Refused,
        4 => Liveness::Lost,
        _ => return Err(Malformed::Missing("a pod's state")),
    })
}

fn liveness_to_proto(state: Liveness) -> u32 {
    match state {
        Liveness::Pending => 1,
        Liveness::Live => 2,
        Liveness::Refused => 3,
        Liveness::Lost => 4,
    }
}

impl RefusedCode {
    const fn number(self) -> u32 {
        match self {
            Self::Other => 0,
            Self::Version => 1,
            Self::NoSuchPod => 2,
            Self::PortNotAllowed => 3,
            Self::BadFilter => 4,
            Self::TooMany => 5,
            Self::TokenInUse => 6,
            Self::NotFound => 7,
            Self::Unsupported => 8,
            Self::Malformed => 9,
            Self::Shutdown => 10,
            Self::FlushNotAllowed => 20,
            Self::NoMemory => 21,
        }
    }

    const fn from_number(number: u32) -> Self {
        match number {
            1 => Self::Version,
            2 => Self::NoSuchPod,
            3 => Self::PortNotAllowed,
            4 => Self::BadFilter,
            5 => Self::TooMany,
            6 => Self::TokenInUse,
            7 => Self::NotFound,
            8 => Self::Unsupported,
            9 => Self::Malformed,
            10 => Self::Shutdown,
            20 => Self::FlushNotAllowed,
            21 => Self::NoMemory,
            _ => Self::Other,
        }
    }
}
