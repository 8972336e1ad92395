//! Tries the way of a leg to the app and back, without the app: the leg comes from an address that nobody has, is turned
//! round like every other, and is taken behind netfilter's INPUT by a listener of the agent's own, which answers, so that
//! the answer crosses OUTPUT. Done before a port is steered, and whenever legs come to nothing.
//!
//! Owns what is tried and what is made of it. Where the kernel cannot give the leg to that listener, or the pod has no route
//! out, nothing is tried, and the notes of the legs themselves must do.

use std::{
    future::{Future, poll_fn},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use redir_abi::Reason;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
    time::timeout,
};

use super::{Note, Ranges, Shared, lock};
use crate::broker::LegSocket;
use redir_ipc::FirstHand;

/// Which source ports get through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Through {
    pub(super) low: bool,
    pub(super) high: bool,
}

/// From where to where a leg goes.
#[derive(Debug, Clone, Copy)]
struct Way {
    bind: IpAddr,
    target: IpAddr,
    name: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Range {
    Low,
    High,
}

/// What became of one leg.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Tried {
    Passed,
    /// There is no such way in this pod.
    NoSuchWay,
    Failed(Fault),
}

/// Why a leg came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fault {
    /// Nobody answered, and it was not turned round.
    LostOnTheWayOut,
    /// It was turned round, and did not arrive.
    LostOnTheWayIn,
    Rejected,
    /// It arrived, and no answer came back.
    NoAnswer,
    /// Somebody outside has answered.
    LeftThePod,
    Other(String),
}

/// Why the app's port was not found to be reached. Each names the next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotThrough {
    /// It could not be tried (no socket, no answer of the guardian's): nothing is known of the way.
    Untried(String),
    /// It was tried, and there is no way.
    Broken(String),
}

impl NotThrough {
    /// For the developers.
    pub(crate) fn reason(self) -> String {
        match self {
            NotThrough::Untried(reason) | NotThrough::Broken(reason) => reason,
        }
    }
}

/// Tries every way from both ranges at once; None where nothing can be tried.
pub(super) async fn run(shared: &Arc<Shared>, port: u16) -> Result<Option<Through>, NotThrough> {
    let listeners = shared.broker.trial_listeners(&shared.pod).await;
    let listeners = listeners.map_err(|error| NotThrough::Untried(error.to_string()))?;
    if listeners.is_empty() {
        tracing::info!(pod = %shared.pod, "the way to the app cannot be tried here: the first connections will show it");
        return Ok(None);
    }
    let mut answering = JoinSet::new();
    for listener in listeners {
        let unusable = |error| NotThrough::Untried(format!("use a listener of the pod: {error}; try again"));
        answering.spawn(answer(TcpListener::from_std(listener).map_err(unusable)?));
    }
    let rerouted_before = counted(shared, Reason::ReflectTrialRerouted).await;
    let mut trials = JoinSet::new();
    let ranges: &[Range] = if shared.ranges == Ranges::HighOnly { &[Range::High] } else { &[Range::Low, Range::High] };
    for way in ways(shared) {
        for range in ranges {
            let (shared, range) = (shared.clone(), *range);
            trials.spawn(async move { (way, range, attempt(&shared, way, range, port).await) });
        }
    }
    let tried = trials.join_all().await;
    let through = judge(&tried, port);
    let rerouted = counted(shared, Reason::ReflectTrialRerouted).await;
    let sent_elsewhere = rerouted_before.zip(rerouted).is_some_and(|(before, now)| now > before);
    if through.is_ok() || !sent_elsewhere {
        return through.map(Some);
    }
    // A mesh redirects what leaves the pod, and as a rule what comes to it: clients then come over `lo`, from its proxy. One
    // that comes otherwise shows by its leg that it has no way.
    let inside: Vec<_> = tried.into_iter().filter(|(way, ..)| way.name == LO).collect();
    judge(&inside, port).map(Some).map_err(|lost_too| match lost_too {
        NotThrough::Broken(_) => NotThrough::Broken(redirected(port)),
        NotThrough::Untried(reason) => NotThrough::Untried(reason),
    })
}

/// Answers every leg that arrives, byte for byte.
async fn answer(listener: TcpListener) {
    let mut legs = JoinSet::new();
    while let Ok((mut leg, _)) = listener.accept().await {
        legs.spawn(async move {
            let mut byte = [0];
            leg.read_exact(&mut byte).await?;
            leg.write_all(&byte).await?;
            // Until the other end is closed: this one must not be first, and leave a TIME_WAIT in the pod.
            leg.read(&mut byte).await
        });
    }
}

/// The pod's first address of each family, and `lo`. Behind a mesh's proxy clients come over `lo` only.
fn ways(shared: &Shared) -> Vec<Way> {
    let outside = |ip: &IpAddr| !ip.is_loopback() && !matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let own: Vec<IpAddr> = shared.addresses.all().iter().copied().filter(outside).collect();
    let v4 = own.iter().find(|ip| ip.is_ipv4()).map(|bind| (*bind, "IPv4"));
    let v6 = own.iter().find(|ip| ip.is_ipv6()).map(|bind| (*bind, "IPv6"));
    let reflected = [v4, v6].into_iter().flatten().filter(|_| shared.first_hand == FirstHand::App);
    let reflected = reflected.map(|(bind, name)| Way { bind, target: nobody(&own, bind.is_ipv4()), name });
    let inside = IpAddr::from(Ipv4Addr::LOCALHOST);
    reflected.chain([Way { bind: inside, target: inside, name: LO }]).collect()
}

/// An address for documentation (RFC 5737, RFC 3849), and none beside the pod's own.
fn nobody(own: &[IpAddr], v4: bool) -> IpAddr {
    if !v4 {
        return Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0xffff, 0, 0, 0, 1).into();
    }
    let beside =
        |it: &Ipv4Addr| own.iter().any(|ip| matches!(ip, IpAddr::V4(ip) if ip.octets()[..3] == it.octets()[..3]));
    let documentation = [[192, 0, 2, 1], [198, 51, 100, 1], [203, 0, 113, 1]].map(Ipv4Addr::from);
    documentation.iter().find(|it| !beside(it)).unwrap_or(&documentation[0]).to_owned().into()
}

async fn attempt(shared: &Shared, way: Way, range: Range, port: u16) -> Tried {
    let wanted = match range {
        Range::Low => lock(&shared.ports).low(CANDIDATES),
        Range::High => lock(&shared.ports).high(CANDIDATES),
    };
    let bind = SocketAddr::new(way.bind, 0);
    let given = match shared.broker.sockets(&shared.pod, bind, &wanted, true).await {
        Ok(given) => given,
        Err(error) => return Tried::Failed(Fault::Other(error.to_string())),
    };
    let (mut last, mut missing) = (Tried::NoSuchWay, false);
    for leg in given {
        match leg {
            Ok(LegSocket { socket, number }) => {
                let socket = TcpSocket::from_std_stream(socket.into());
                match connect(shared, socket, number, SocketAddr::new(way.target, port)).await {
                    // Believed of the second one.
                    Some(Tried::Failed(Fault::LeftThePod)) if !missing => {
                        missing = true;
                        last = Tried::Failed(Fault::Other("one leg seems to leave the pod".to_owned()));
                    }
                    Some(tried) => return tried,
                    None => continue,
                }
            }
            // The address is gone, or its family.
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {}
            Err(error) => last = Tried::Failed(Fault::Other(format!("bind a source port: {error}"))),
        }
    }
    last
}

/// None: this source port is taken, another may do.
async fn connect(shared: &Shared, socket: TcpSocket, number: u64, target: SocketAddr) -> Option<Tried> {
    let started = Instant::now();
    let connecting = socket.connect(target);
    tokio::pin!(connecting);
    let connected = match poll_fn(|context| Poll::Ready(connecting.as_mut().poll(context))).await {
        // Without a route the call itself fails; whatever says so later is on the way.
        Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::NetworkUnreachable => return Some(Tried::NoSuchWay),
        Poll::Ready(done) => Ok(done),
        Poll::Pending => timeout(LIMIT, connecting).await,
    };
    let note = shared.turned.note(number);
    let fault = match connected {
        Ok(Ok(_)) if note != Note::Turned => Fault::LeftThePod,
        Ok(Ok(leg)) => match timeout(LIMIT, exchange(leg)).await {
            Ok(Ok(())) => return Some(Tried::Passed),
            Ok(Err(_)) | Err(_) => Fault::NoAnswer,
        },
        Err(_) if note == Note::Turned => Fault::LostOnTheWayIn,
        Err(_) => Fault::LostOnTheWayOut,
        Ok(Err(error)) => match error.kind() {
            io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable => return None,
            // No gateway: the kernel asks for it three times, a second each.
            io::ErrorKind::HostUnreachable if note == Note::Missing && started.elapsed() > NO_GATEWAY => {
                return Some(Tried::NoSuchWay);
            }
            // Said outside the pod, or by its firewall.
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable if note == Note::Missing => {
                Fault::LostOnTheWayOut
            }
            io::ErrorKind::PermissionDenied => Fault::LostOnTheWayOut,
            io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable => Fault::Rejected,
            _ => Fault::Other(format!("connect to the app: {error}")),
        },
    };
    Some(Tried::Failed(fault))
}

async fn exchange(mut leg: TcpStream) -> io::Result<()> {
    leg.write_all(b"?").await?;
    leg.read_exact(&mut [0]).await.map(drop)
}

/// How many SYNs of the agent's legs the pod has sent elsewhere; None if the guardian does not say.
pub(super) async fn rerouted(shared: &Shared) -> Option<u64> {
    counted(shared, Reason::ReflectRerouted).await
}

async fn counted(shared: &Shared, reason: Reason) -> Option<u64> {
    let stats = shared.broker.stats(&shared.pod).await.ok()?;
    stats.iter().find(|(counted, _)| *counted == reason).map(|(_, count)| *count)
}

/// A range gets through if no way has lost a leg from it. What could not be tried says nothing of it.
fn judge(tried: &[(Way, Range, Tried)], port: u16) -> Result<Through, NotThrough> {
    let failed = |of: Range, untried: bool| {
        tried.iter().find_map(|(way, range, tried)| match tried {
            Tried::Failed(fault) if *range == of && matches!(fault, Fault::Other(_)) == untried => {
                Some(sentence(way.name, fault, port))
            }
            _ => None,
        })
    };
    let (lost, untried) = (|of| failed(of, false), |of| failed(of, true));
    let passed = |of| tried.iter().any(|(_, range, tried)| *range == of && *tried == Tried::Passed);
    let none_of = |of| !tried.iter().any(|(_, range, _)| *range == of);
    // One range is lost: the other one must be known to get through.
    let other = |other, fault| match untried(other) {
        _ if passed(other) => Ok(Through { low: other == Range::Low, high: other == Range::High }),
        Some(reason) => Err(NotThrough::Untried(reason)),
        None => Err(NotThrough::Broken(fault)),
    };
    match (lost(Range::Low), lost(Range::High)) {
        (None, None) => match untried(Range::Low).or_else(|| untried(Range::High)) {
            Some(reason) if !passed(Range::Low) && !passed(Range::High) => Err(NotThrough::Untried(reason)),
            _ => Ok(Through { low: !none_of(Range::Low), high: !none_of(Range::High) }),
        },
        (Some(fault), None) => other(Range::High, fault),
        (None, Some(fault)) => other(Range::Low, fault),
        (Some(fault), Some(_)) => Err(NotThrough::Broken(fault)),
    }
}

fn sentence(way: &str, fault: &Fault, port: u16) -> String {
    let pass = "let connections from source ports 512-1023 or 10000-29999 pass there";
    match fault {
        Fault::LostOnTheWayOut => format!(
            "the pod's firewall drops the agent's connections to port {port} on their way out ({way}, OUTPUT), or a route \
             or another program of the pod takes them; {pass}"
        ),
        Fault::LostOnTheWayIn => {
            format!(
                "the pod's firewall drops the agent's connections to port {port} on their way in ({way}, INPUT); {pass}"
            )
        }
        Fault::Rejected => format!("the pod's firewall rejects the agent's connections to port {port} ({way}); {pass}"),
        Fault::NoAnswer => format!(
            "the pod's firewall drops what port {port} answers to the agent ({way}, OUTPUT); let answers of established \
             connections pass, of every user"
        ),
        Fault::LeftThePod => left_the_pod(port),
        Fault::Other(error) => format!("the way to port {port} could not be tried ({way}): {error}; try again"),
    }
}

/// What is said of a leg that somebody outside has answered.
pub(super) fn left_the_pod(port: u16) -> String {
    format!(
        "the agent's connections to port {port} leave the pod: a program of somebody else comes before redir's on the pod's \
         device (`tc filter show`, `bpftool net`), or the pod has a new device; remove the program, or restart the pod"
    )
}

/// What is said where the pod sends legs elsewhere.
pub(super) fn redirected(port: u16) -> String {
    format!(
        "the pod redirects the agent's connections to port {port} elsewhere (netfilter, a mesh's proxy); exclude port {port} \
         from what the pod redirects"
    )
}

/// The way of clients inside the pod.
const LO: &str = "lo";
/// Source ports asked for: some may be in use.
const CANDIDATES: usize = 8;
/// For one leg's connect, and for its answer: two SYNs, and time for a gateway to be found missing (three seconds).
const LIMIT: Duration = Duration::from_millis(3500);
/// What answers a SYN answers the first or the second.
const NO_GATEWAY: Duration = Duration::from_millis(2500);

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(results: &[(&'static str, Range, Tried)]) -> Result<Through, NotThrough> {
        let ip = IpAddr::from(Ipv4Addr::LOCALHOST);
        let way = |name| Way { bind: ip, target: ip, name };
        let tried: Vec<_> = results.iter().map(|(name, range, tried)| (way(name), *range, tried.clone())).collect();
        judge(&tried, 8080)
    }

    fn failed(fault: Fault) -> Tried {
        Tried::Failed(fault)
    }

    #[test]
    fn a_range_that_passes_everywhere_is_enough() {
        use Range::{High, Low};
        use Tried::{NoSuchWay, Passed};
        let both = Through { low: true, high: true };
        assert_eq!(tried(&[("IPv4", Low, Passed), ("IPv4", High, Passed), ("IPv6", Low, NoSuchWay)]), Ok(both));
        let lost = || failed(Fault::LostOnTheWayIn);
        let high = Through { low: false, high: true };
        assert_eq!(tried(&[("IPv4", Low, lost()), ("IPv4", High, Passed), ("lo", Low, Passed)]), Ok(high));
        let low = Through { low: true, high: false };
        assert_eq!(tried(&[("IPv4", Low, Passed), ("IPv4", High, lost())]), Ok(low));
        let error =
            tried(&[("IPv4", Low, lost()), ("IPv4", High, Passed), ("IPv6", Low, Passed), ("IPv6", High, lost())]);
        assert!(matches!(error, Err(NotThrough::Broken(reason)) if reason.contains("(IPv4, INPUT)")));
        assert_eq!(tried(&[("IPv4", High, Passed)]), Ok(high), "as configured");
    }

    #[test]
    fn what_could_not_be_tried_is_not_broken() {
        use Range::{High, Low};
        use Tried::{NoSuchWay, Passed};
        let (lost, untried) = (|| failed(Fault::Rejected), || failed(Fault::Other("too many open files".into())));
        let is_untried = |result: Result<Through, NotThrough>| matches!(result, Err(NotThrough::Untried(reason)) if reason.contains("too many open files"));
        assert!(is_untried(tried(&[("IPv4", Low, untried()), ("IPv4", High, untried()), ("lo", Low, NoSuchWay)])));
        assert!(is_untried(tried(&[("IPv4", Low, lost()), ("IPv4", High, untried())])));
        let both = Through { low: true, high: true };
        assert_eq!(tried(&[("IPv4", Low, Passed), ("IPv4", High, untried())]), Ok(both));
        let high = Through { low: false, high: true };
        assert_eq!(tried(&[("IPv4", Low, lost()), ("IPv4", High, Passed), ("lo", Low, untried())]), Ok(high));
        let broken = tried(&[("IPv4", Low, lost()), ("IPv4", High, lost()), ("lo", High, untried())]);
        assert!(matches!(broken, Err(NotThrough::Broken(_))), "{broken:?}");
    }

    #[test]
    fn every_fault_has_a_sentence_with_a_next_step() {
        for fault in [
            Fault::LostOnTheWayOut,
            Fault::LostOnTheWayIn,
            Fault::Rejected,
            Fault::NoAnswer,
            Fault::LeftThePod,
            Fault::Other("no".into()),
        ] {
            let sentence = sentence("IPv4", &fault, 8080);
            assert!(sentence.contains("8080") && sentence.contains("; "), "{sentence}");
        }
    }

    #[test]
    fn the_address_that_nobody_has_is_not_beside_the_pods() {
        let own = ["192.0.2.7".parse().unwrap(), "198.51.100.7".parse().unwrap()];
        assert_eq!(nobody(&own, true), IpAddr::from([203, 0, 113, 1]));
        assert!(nobody(&own, false).is_ipv6());
    }
}
