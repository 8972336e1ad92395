//! Connections that an intercept does not reach although they are its port's, and why: developers are told, once for
//! each cause.
//!
//! Owns: the causes and their sentences, and which were seen on which port. Must not hold anything of a connection.
//! Called by `connection`, which sees them, and by the tunnels' hub, which tells developers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use redir_http::{Ambiguity, OpaqueReason};
use redir_wire::Miss;
use tokio::sync::watch;

use redir_config::PodName;
use redir_ipc::PortDetour;

/// Why a connection is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cause {
    /// Its first bytes are those of the PROXY protocol.
    ProxyProtocol,
    /// A request's head is above the limit.
    HeadTooLong,
    /// Clients reach the app on the port that dialled another one.
    Redirected,
    /// Clients reach the app on the port, and the programs see no packet.
    Unseen,
    /// It speaks HTTP/2 with an app that does not answer like a server of HTTP/2.
    Http2Unanswered,
    /// Its client has its share of the agent's connections.
    ClientPasses,
    /// The pod has its share of them, or there is none left.
    PodPasses,
    /// A request's head took too long.
    HeadTooSlow,
    /// There was no memory to wait for the rest of a head.
    MemoryScarce,
}

impl From<PortDetour> for Cause {
    fn from(detour: PortDetour) -> Self {
        match detour {
            PortDetour::Redirected => Self::Redirected,
            PortDetour::Unseen => Self::Unseen,
        }
    }
}

impl Cause {
    /// What made a connection one that is not read; `None`: nothing that its developer could do something about. `unread`
    /// are the bytes that could not be read, `first` if they are the connection's first.
    pub(crate) fn of(why: OpaqueReason, unread: &[u8], first: bool) -> Option<Self> {
        match why {
            OpaqueReason::Ambiguous(Ambiguity::HeadTooLong) => Some(Self::HeadTooLong),
            OpaqueReason::HeadTooSlow => Some(Self::HeadTooSlow),
            OpaqueReason::MemoryScarce => Some(Self::MemoryScarce),
            OpaqueReason::NotHttp | OpaqueReason::Ambiguous(_) if first && is_proxy_protocol(unread) => {
                Some(Self::ProxyProtocol)
            }
            _ => None,
        }
    }

    /// Whether connections do not come that are not to be read either.
    fn concerns_connections(self) -> bool {
        match self {
            Self::Redirected | Self::Unseen | Self::ClientPasses | Self::PodPasses => true,
            Self::ProxyProtocol
            | Self::HeadTooLong
            | Self::Http2Unanswered
            | Self::HeadTooSlow
            | Self::MemoryScarce => false,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::ProxyProtocol => "proxy_protocol",
            Self::HeadTooLong => "head_too_long",
            Self::Redirected => "redirected",
            Self::Unseen => "unseen",
            Self::Http2Unanswered => "http2_unanswered",
            Self::ClientPasses => "client_passes",
            Self::PodPasses => "pod_passes",
            Self::HeadTooSlow => "head_too_slow",
            Self::MemoryScarce => "memory_scarce",
        }
    }

    fn sentence(self) -> &'static str {
        match self {
            Self::ProxyProtocol => {
                "whoever is in front of this port begins connections with the PROXY protocol's header, which is not HTTP: \
                 they go to the app unread; intercept without conditions, or a port that gets plain HTTP"
            }
            Self::HeadTooLong => {
                "a client sends a request with more than 256 KiB of headers, which are not read: from there on its \
                 connection goes to the app; look at its cookies, or open a new connection without them"
            }
            Self::Redirected => {
                "clients reach the app on this port although they dialled another port or address: a rule in the pod sends \
                 them there, and they are not intercepted; intercept the port that they dial, too"
            }
            Self::Unseen => {
                "clients reach the app on this port, and no packet comes to redir's programs in the pod: another program on \
                 its network device ends them before, or the device delivers past them; such connections are not \
                 intercepted; the admin looks at `tc filter show` and `ip -d link` in the pod's network namespace"
            }
            Self::Http2Unanswered => {
                "a client speaks HTTP/2 and the app does not answer it like a server of HTTP/2: such connections go to the \
                 app unread; let the client speak HTTP/1.1, or intercept without conditions"
            }
            Self::ClientPasses => {
                "one client has so many connections to the pod that its new ones pass to the app, until it has fewer; look at \
                 who keeps them open, or let the admin give the agent more memory and file descriptors"
            }
            Self::PodPasses => {
                "new connections to the pod pass to the app, until there are fewer: it has its share of the agent's connections, \
                 or the agent has no file descriptor left; look at who keeps them open, or let the admin give the agent more \
                 memory and file descriptors"
            }
            Self::HeadTooSlow => {
                "a client has begun a request and not finished its headers within 30 s: its connection goes to the app \
                 unread; look at what holds the client up"
            }
            Self::MemoryScarce => {
                "the requests that clients have begun and not finished fill the memory that the agent has for them: a \
                 connection goes to the app unread; look for clients that never finish their headers, or have the admin \
                 raise the agent's memory limit"
            }
        }
    }
}

/// The header's first version is a line, the second begins with bytes that no other protocol begins with.
fn is_proxy_protocol(bytes: &[u8]) -> bool {
    const V1: [&[u8]; 3] = [b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN"];
    bytes.starts_with(b"\r\n\r\n\0\r\nQUIT\n") || V1.iter().any(|v1| bytes.starts_with(v1))
}

/// What was seen on all ports; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Misses(Arc<MissesInner>);

#[derive(Debug, Default)]
struct MissesInner {
    seen: Mutex<BTreeMap<(PodName, u16), BTreeSet<Cause>>>,
    news: watch::Sender<()>,
}

impl Misses {
    /// Notes what a connection has shown.
    pub(crate) fn saw(&self, pod: &PodName, port: u16, cause: Cause) {
        let is_new = self.seen().entry((pod.clone(), port)).or_default().insert(cause);
        if is_new {
            tracing::info!(%pod, port, cause = cause.name(), "connections are not read");
            self.0.news.send_replace(());
        }
    }

    /// What was seen on a pod's ports is over, and news when it is seen again.
    pub(crate) fn over(&self, pod: &PodName, cause: Cause) {
        let mut was_there = false;
        for (_, causes) in self.seen().iter_mut().filter(|((name, _), _)| name == pod) {
            was_there |= causes.remove(&cause);
        }
        if was_there {
            tracing::info!(%pod, cause = cause.name(), "connections are read again");
            self.0.news.send_replace(());
        }
    }

    /// What is to be told about a port, to a developer who wants requests to be read or only connections.
    pub(crate) fn of(&self, pod: &PodName, port: u16, reads: bool) -> Vec<Miss> {
        let seen = self.seen();
        let causes = seen.get(&(pod.clone(), port)).into_iter().flatten();
        let causes = causes.filter(|cause| reads || cause.concerns_connections());
        causes.map(|cause| Miss { cause: cause.name().to_owned(), sentence: cause.sentence().to_owned() }).collect()
    }

    /// Forgets what was seen on these ports.
    pub(crate) fn forget(&self, which: impl Fn(&PodName, u16) -> bool) {
        self.seen().retain(|(pod, port), _| !which(pod, *port));
    }

    /// Changes when something is to be told.
    pub(crate) fn news(&self) -> watch::Receiver<()> {
        self.0.news.subscribe()
    }

    fn seen(&self) -> MutexGuard<'_, BTreeMap<(PodName, u16), BTreeSet<Cause>>> {
        // The map has no half-done state that a panic could leave.
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_developer_can_do_something_about_is_a_cause() {
        let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c";
        let target = OpaqueReason::Ambiguous(Ambiguity::Target);
        for (why, bytes, first, cause) in [
            (OpaqueReason::NotHttp, &v2[..], true, Some(Cause::ProxyProtocol)),
            (target, b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2\r\n", true, Some(Cause::ProxyProtocol)),
            (target, b"PROXY UNKNOWN\r\n", true, Some(Cause::ProxyProtocol)),
            (target, b"PROXY TCP6 ::1 ::1 1 2\r\n", false, None),
            (target, b"GET  /\r\n", true, None),
            (OpaqueReason::NotHttp, b"SSH-2.0-x\r\n", true, None),
            (OpaqueReason::Tls, b"\x16\x03\x01", true, None),
            (OpaqueReason::Ambiguous(Ambiguity::HeadTooLong), b"GET / HTTP/1.1\r\n", false, Some(Cause::HeadTooLong)),
        ] {
            assert_eq!(Cause::of(why, bytes, first), cause, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn each_cause_is_told_once_with_a_next_step() {
        let (misses, pod) = (Misses::default(), PodName::new("web-1").expect("good"));
        let mut news = misses.news();
        for _ in 0..2 {
            misses.saw(&pod, 80, Cause::ProxyProtocol);
        }
        assert!(news.has_changed().expect("open"));
        news.mark_unchanged();
        misses.saw(&pod, 80, Cause::ProxyProtocol);
        assert!(!news.has_changed().expect("open"));
        for cause in [
            Cause::HeadTooLong,
            Cause::Http2Unanswered,
            Cause::Redirected,
            Cause::Unseen,
            Cause::HeadTooSlow,
            Cause::MemoryScarce,
        ] {
            misses.saw(&pod, 80, cause);
        }
        let told = misses.of(&pod, 80, true);
        assert_eq!((told.len(), misses.of(&pod, 80, false).len()), (7, 2));
        assert!(
            told.iter().all(|miss| miss.sentence.contains("; ") && miss.sentence.len() < redir_wire::limits::SENTENCE)
        );
        assert!(misses.of(&pod, 81, true).is_empty());
        misses.saw(&pod, 80, Cause::PodPasses);
        assert_eq!(misses.of(&pod, 80, false).len(), 3);
        news.mark_unchanged();
        misses.over(&pod, Cause::ClientPasses);
        assert!(!news.has_changed().expect("open"), "it was not there");
        misses.over(&pod, Cause::PodPasses);
        assert!(news.has_changed().expect("open"));
        assert_eq!(misses.of(&pod, 80, false).len(), 2);
        misses.forget(|_, port| port == 80);
        assert!(misses.of(&pod, 80, true).is_empty());
    }
}
