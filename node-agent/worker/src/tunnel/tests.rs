//! Agent and developers over real QUIC on loopback; only the guardian's part, arming, is played by the test.

mod ends;
mod scarce;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{SocketAddr, UdpSocket},
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use redir_config::{
    NodeConfig, PodName,
    certificates::{Certificates, testing::pair},
};
use redir_http::filter::{Condition, Key, Mode, Subject, Test};
use redir_tunnel::{DialError, Dialled, Identity, Lost, Pin, dial};
use redir_wire::{
    CloseCode, Filter, InterceptRequest, InterceptState, LeaveScope, Liveness, Owner, Probes, Refused, RefusedCode,
    RequestOutcome, Selector, Takes, TlsHandling, ToAgent, ToDeveloper, Token,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use super::{TunnelService, hub::HubOutputs, keys::TUNNELS_OF_A_KEY, start_with};
use crate::{
    control::Policy,
    misses::Misses,
    plan::{Plan, Plans},
    proxy::DeveloperStream,
    registry::arming::{ArmingOp, ArmingOutcome},
    tls::{Finding, GivenFor, Means, Tls},
    tunnel_handle::{OpenError, RequestEvent},
};

/// An agent whose ports are armed at once, always.
struct TunnelRig {
    tunnels: TunnelService,
    plans: Plans,
    config: watch::Sender<Policy>,
    armed: watch::Receiver<BTreeSet<(PodName, u16)>>,
    tls: Tls,
    /// Ports that are to be looked at.
    unseen: mpsc::UnboundedReceiver<(PodName, u16)>,
    /// Whose earlier connections are to be closed.
    to_flush: mpsc::UnboundedReceiver<super::flushes::FlushRequest>,
    address: SocketAddr,
    pin: Pin,
    alice: Identity,
    bob: Identity,
    _guardian: JoinHandle<()>,
}

impl TunnelRig {
    fn new() -> Self {
        let (alice, bob) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let identity = Identity::generate().unwrap();
        let (config, receiver) = watch::channel(configuration(&[("alice", &alice), ("bob", &bob)]));
        let plans = Plans::default();
        let (ops, asked) = mpsc::unbounded_channel();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (tls_probes, unseen) = mpsc::unbounded_channel();
        let tls = Tls::new(&Certificates::default(), GivenFor::Ports, true);
        let (flushes, to_flush) = mpsc::unbounded_channel();
        let outputs = HubOutputs {
            ops,
            tls_probes,
            flushes,
            armed: watch::Sender::new(BTreeSet::new()),
            reports: watch::Sender::new(BTreeMap::new()),
        };
        let tunnels =
            start_with((udp, 64 << 20), &identity, receiver, plans.clone(), (tls.clone(), Misses::default()), outputs)
                .unwrap();
        let (armed, watching) = watch::channel(BTreeSet::new());
        let guardian = tokio::spawn(guardian(asked, tunnels.hub.clone(), armed));
        let address = tunnels.address().unwrap();
        let pin = identity.pin();
        Self {
            tunnels,
            plans,
            config,
            armed: watching,
            tls,
            unseen,
            to_flush,
            address,
            pin,
            alice,
            bob,
            _guardian: guardian,
        }
    }

    async fn dial(&self, who: &Identity) -> TestDeveloper {
        let dialled = within(dial(&[self.address], who, self.pin, "redir test", "someone")).await.unwrap();
        TestDeveloper { dialled, heard: Vec::new() }
    }

    fn plan(&self) -> Option<Arc<Plan>> {
        self.plans.plan(&pod(), 8080)
    }

    /// Waits until the plans are such.
    async fn plans_become(&self, done: impl Fn(Option<Arc<Plan>>) -> bool) {
        within(async {
            while !done(self.plan()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    async fn armed_becomes(&self, ports: &[u16]) {
        let wanted: BTreeSet<_> = ports.iter().map(|port| (pod(), *port)).collect();
        within(self.armed.clone().wait_for(|armed| *armed == wanted)).await.unwrap();
    }
}

async fn guardian(
    mut asked: mpsc::UnboundedReceiver<ArmingOp>,
    hub: mpsc::Sender<super::HubCommand>,
    armed: watch::Sender<BTreeSet<(PodName, u16)>>,
) {
    while let Some(op) = asked.recv().await {
        let outcome = match op.clone() {
            ArmingOp::Arm(pod, port, _) => {
                armed.send_modify(|armed| assert!(armed.insert((pod, port))));
                ArmingOutcome::Armed { earlier: 5, addresses: vec!["10.0.0.1".parse().unwrap()], app: None }
            }
            ArmingOp::Regate(..) => ArmingOutcome::Regated,
            ArmingOp::Disarm(pod, port) => {
                armed.send_modify(|armed| assert!(armed.remove(&(pod, port))));
                ArmingOutcome::Disarmed
            }
        };
        hub.send(super::HubCommand::Done(op, outcome)).await.ok();
    }
}

/// One developer's tunnel.
struct TestDeveloper {
    dialled: Dialled,
    /// What was heard unasked while an answer was awaited.
    heard: Vec<ToDeveloper>,
}

impl TestDeveloper {
    async fn ask(&mut self, question: ToAgent) -> ToDeveloper {
        let seq = self.dialled.control.ask(&question).unwrap();
        loop {
            let heard = within(self.dialled.control.next()).await.unwrap().unwrap();
            if heard.answers == seq {
                return heard.message;
            }
            self.heard.push(heard.message);
        }
    }

    async fn intercept(&mut self, request: InterceptRequest) -> InterceptState {
        match self.ask(ToAgent::Intercept(request)).await {
            ToDeveloper::Intercept(state) => state,
            other => panic!("{other:?}"),
        }
    }

    /// The first unasked message that is such.
    async fn hears<T>(&mut self, wanted: impl Fn(&ToDeveloper) -> Option<T>) -> T {
        loop {
            while !self.heard.is_empty() {
                if let Some(found) = wanted(&self.heard.remove(0)) {
                    return found;
                }
            }
            let heard = within(self.dialled.control.next()).await.unwrap().expect("the agent still talks");
            self.heard.push(heard.message);
        }
    }

    async fn state(&mut self, wanted: impl Fn(&InterceptState) -> bool) -> InterceptState {
        self.hears(|message| match message {
            ToDeveloper::Intercept(state) if wanted(state) => Some(state.clone()),
            _ => None,
        })
        .await
    }
}

fn configuration(developers: &[(&str, &Identity)]) -> Policy {
    let mut text = String::from(
        "[agent]\nlisten = \"127.0.0.1:7447\"\nkey = \"/k\"\nadmin = \"127.0.0.1:7448\"\n\
         [[pod]]\nname = \"web-1\"\nlabels = { app = \"web\" }\nnetns = \"/run/netns/web-1\"\n",
    );
    for (name, identity) in developers {
        let pin = identity.pin();
        text += &format!("[[developer]]\nname = \"{name}\"\nkey = \"{pin}\"\npods = [{{}}]\n");
    }
    Arc::new(NodeConfig::parse(&text, Path::new("agent.toml")).unwrap())
}

/// As above for one developer, who may have other people's connections closed.
fn with_flush(developer: &Identity) -> Policy {
    let text = format!(
        "[agent]\nlisten = \"127.0.0.1:7447\"\nkey = \"/k\"\n\
         [[pod]]\nname = \"web-1\"\nlabels = {{ app = \"web\" }}\nnetns = \"/run/netns/web-1\"\n\
         [[developer]]\nname = \"alice\"\nkey = \"{}\"\npods = [{{}}]\nflush = true\n",
        developer.pin()
    );
    Arc::new(NodeConfig::parse(&text, Path::new("agent.toml")).unwrap())
}

fn pod() -> PodName {
    PodName::new("web-1").unwrap()
}

fn request(token: u8) -> InterceptRequest {
    InterceptRequest {
        earlier: redir_wire::EarlierConnections::Stay,
        token: Token([token; 16]),
        selector: Selector::Pod("web-1".into()),
        port: 8080,
        filter: None,
        to: "127.0.0.1:3000".into(),
        probes: Probes::App,
        even_if_down: false,
        forwarded: false,
    }
}

fn filtered(token: u8) -> InterceptRequest {
    let (subject, test) = (Subject::Header("x-user".into()), Test::Exact("alice".into()));
    let conditions = vec![Condition { subject, test, negate: false }];
    InterceptRequest { filter: Some(Filter { mode: Mode::All, conditions, preflights: false }), ..request(token) }
}

fn event(path: &str) -> RequestEvent {
    RequestEvent {
        when: SystemTime::now(),
        method: "GET".into(),
        path: path.into(),
        status: 200,
        micros: 1500,
        client: "192.0.2.1:4000".parse().unwrap(),
        outcome: RequestOutcome::Answered,
        grpc_status: None,
        bytes: None,
    }
}

fn is_live(state: &InterceptState) -> bool {
    state.pods.iter().all(|pod| pod.state == Liveness::Live)
}

/// Fails loudly instead of hanging.
async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("must be done long before")
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_from_before_are_closed_once_where_that_is_asked_for_and_allowed() {
    let mut world = TunnelRig::new();
    let closing = |request| InterceptRequest { earlier: redir_wire::EarlierConnections::Close, ..request };
    let mut alice = world.dial(&world.alice).await;
    match alice.ask(ToAgent::Intercept(closing(filtered(1)))).await {
        ToDeveloper::Refused(refused) => {
            assert_eq!(refused.code, RefusedCode::FlushNotAllowed);
            assert!(refused.sentence.contains("flush = true"), "{refused:?}");
        }
        other => panic!("{other:?}"),
    }
    let id = alice.intercept(closing(request(2))).await.id;
    let flush = within(world.to_flush.recv()).await.unwrap();
    assert_eq!(flush, super::flushes::FlushRequest { intercept: id, pod: pod(), port: 8080 });
    let outcome = redir_wire::PodFlush { closed: 12, left: 1, reason: String::new() };
    world.tunnels.tell(super::HubCommand::Flushed(flush, outcome.clone())).await;
    let told = alice.state(|state| state.pods.iter().any(|pod| pod.flushed.is_some())).await;
    assert_eq!(told.pods[0].flushed, Some(outcome));

    // It dials again, and bob comes, who asks for nothing of the kind: nothing is closed once more.
    drop(alice);
    let mut again = world.dial(&world.alice).await;
    assert_eq!(again.intercept(closing(request(2))).await.id, id);
    let mut bob = world.dial(&world.bob).await;
    assert!(is_live(&bob.intercept(filtered(3)).await), "its port is armed already");
    // By the time this is answered, the hub has done what followed.
    assert!(matches!(bob.ask(ToAgent::Status).await, ToDeveloper::Status(_)));
    assert!(world.to_flush.try_recv().is_err());
    // The right beside a filter.
    world.config.send_replace(with_flush(&world.alice));
    // The hub hears of it in its own time.
    within(async {
        while !matches!(again.ask(ToAgent::Intercept(closing(filtered(4)))).await, ToDeveloper::Intercept(_)) {}
    })
    .await;
    within(world.to_flush.recv()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intercept_becomes_live_and_carries_a_stream_and_its_events() {
    let world = TunnelRig::new();
    let mut alice = world.dial(&world.alice).await;
    let first = alice.intercept(filtered(1)).await;
    assert_eq!(first.pods[0].pod, "web-1");
    let live = alice.state(is_live).await;
    assert_eq!((live.id, live.pods[0].earlier_connections), (first.id, 5));
    assert_eq!(live.pods[0].addresses, ["10.0.0.1"]);
    world.armed_becomes(&[8080]).await;

    let plan = world.plan().unwrap();
    assert!(plan.probes_to_app && plan.global.is_none());
    assert_eq!(plan.table.key(0), Some(Key(first.id)));
    let intercept = plan.intercept(Key(first.id)).unwrap();
    assert!(intercept.alive());
    let (client, destination) = ("192.0.2.1:4000".parse().unwrap(), "10.0.0.1:8080".parse().unwrap());
    let mut leg = within(DeveloperStream::open(intercept, client, destination, None)).await.unwrap();
    assert_eq!(std::future::poll_fn(|cx| leg.poll_write(cx, b"GET /")).await, Ok(5));
    let stream = within(within(alice.dialled.tunnel.accept()).await.unwrap().header()).await.unwrap();
    assert_eq!((stream.header.intercept, stream.header.client), (first.id, client));
    assert_eq!((stream.header.pod.as_str(), stream.header.destination), ("web-1", destination));

    intercept.report(event("/one"));
    let heard = alice
        .hears(|message| match message {
            ToDeveloper::Request(event) => Some(event.clone()),
            _ => None,
        })
        .await;
    assert_eq!((heard.intercept, heard.path.as_str(), heard.status, heard.missed), (first.id, "/one", 200, 0));

    let ToDeveloper::Status(status) = alice.ask(ToAgent::Status).await else { panic!() };
    assert_eq!(status.tunnels.len(), 1);
    let tunnel = &status.tunnels[0];
    assert!(tunnel.asking && tunnel.sent_bytes > 0 && tunnel.received_bytes > 0 && tunnel.rtt_micros > 0);
    assert_eq!((tunnel.streams, tunnel.streams_total, tunnel.user.as_str()), (1, 1, "someone"));
    assert_eq!((status.intercepts[0].requests, status.intercepts[0].owner), (1, Owner::You));
    drop(leg);
    assert_eq!(world.tunnels.counters().streams.value(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_with_a_global_intercept_ends_with_it() {
    let world = TunnelRig::new();
    let (mut alice, mut bob) = (world.dial(&world.alice).await, world.dial(&world.bob).await);
    let global = alice.intercept(InterceptRequest { probes: Probes::Developer, ..request(1) }).await.id;
    assert!(!world.plan().unwrap().probes_to_app);
    let own = bob.intercept(filtered(2)).await.id;
    let plan = world.plan().unwrap();
    assert_eq!((plan.table.key(0), plan.table.key(1), plan.table.len()), (Some(Key(own)), Some(Key(global)), 2));
    assert!(plan.probes_to_app, "one of them did not ask for probes");
    let told = alice.state(|state| !state.conflicts.is_empty()).await;
    assert_eq!((told.conflicts[0].developer.as_str(), told.conflicts[0].takes), ("bob", Takes::Shared));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_renewed_is_armed_anew_and_told_as_lost_meanwhile() {
    let world = TunnelRig::new();
    let mut alice = world.dial(&world.alice).await;
    alice.intercept(request(1)).await;
    alice.state(is_live).await;
    world.tunnels.rearm(&pod()).await;
    alice.state(|state| state.pods[0].state == Liveness::Lost).await;
    alice.state(is_live).await;
    world.armed_becomes(&[8080]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shutting_down_disarms_first_lets_streams_go_on_and_says_goodbye() {
    let world = TunnelRig::new();
    let mut alice = world.dial(&world.alice).await;
    alice.intercept(request(1)).await;
    alice.state(is_live).await;
    let intercept = world.plan().unwrap().global.clone().unwrap();
    let (client, destination) = ("192.0.2.1:4000".parse().unwrap(), "10.0.0.1:8080".parse().unwrap());
    let mut leg = within(DeveloperStream::open(&intercept, client, destination, None)).await.unwrap();
    let mut stream = within(within(alice.dialled.tunnel.accept()).await.unwrap().header()).await.unwrap();

    within(world.tunnels.stop_new()).await;
    assert!(world.plan().is_none() && world.armed.borrow().is_empty());
    alice.state(|state| state.pods[0].state == Liveness::Lost && state.pods[0].reason.contains("shutting down")).await;
    let refused = alice.ask(ToAgent::Intercept(request(2))).await;
    assert!(matches!(refused, ToDeveloper::Refused(Refused { code: RefusedCode::Shutdown, .. })));
    stream.send.write_all(b"late answer").await.unwrap();
    stream.send.finish().unwrap();
    let mut answer = [0; 11];
    let mut read = 0;
    while read < answer.len() {
        read += within(std::future::poll_fn(|cx| leg.poll_read(cx, &mut answer[read..]))).await.unwrap();
    }
    assert_eq!(&answer, b"late answer");
    assert_eq!(within(std::future::poll_fn(|cx| leg.poll_read(cx, &mut answer))).await, Ok(0));

    let (heard, ()) = tokio::join!(
        alice.hears(|message| match message {
            ToDeveloper::Bye(bye) => Some(bye.code),
            _ => None,
        }),
        within(world.tunnels.close())
    );
    assert_eq!(heard, redir_wire::CloseCode::Shutdown);
    let lost = within(alice.dialled.tunnel.lost()).await;
    assert!(matches!(lost, Lost::Closed(redir_wire::CloseCode::Shutdown, _)), "{lost:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_nobody_reads_are_dropped_and_counted() {
    const EVENTS: u64 = 50_000;
    let world = TunnelRig::new();
    let mut alice = world.dial(&world.alice).await;
    let id = alice.intercept(request(1)).await.id;
    let intercept = world.plan().unwrap().global.clone().unwrap();
    let path = format!("/{}", "p".repeat(500));
    let began = Instant::now();
    for _ in 0..EVENTS {
        intercept.report(event(&path));
    }
    assert!(began.elapsed() < Duration::from_secs(5), "never waits");
    let dropped = world.tunnels.counters().events_dropped.value();
    assert!(dropped > 0);
    // Those that are told, and those that are told as missed, are all of them, once one more gets through.
    let (mut told, mut missed) = (0, 0);
    while told + missed < EVENTS {
        if told + dropped >= EVENTS {
            intercept.report(event("/last"));
        }
        let heard = alice
            .hears(|message| match message {
                ToDeveloper::Request(event) => Some(event.clone()),
                _ => None,
            })
            .await;
        assert_eq!(heard.intercept, id);
        told += 1;
        missed += heard.missed;
    }
    assert!(missed >= dropped && matches!(alice.ask(ToAgent::Ping(1)).await, ToDeveloper::Pong(1)));
}

/// Who asks and asks, and reads no answer, would have the agent keep them all.
#[tokio::test(flavor = "multi_thread")]
async fn who_reads_no_answer_is_asked_to_read_first() {
    // More than what fits into the stream's windows, both ways.
    const QUESTIONS: u32 = 150_000;
    const READ: u32 = 30_000;
    let world = TunnelRig::new();
    let mut alice = world.dial(&world.alice).await;
    for _ in 0..QUESTIONS {
        alice.dialled.control.ask(&ToAgent::List).unwrap();
    }
    let stalled = alice.dialled.control.flush().await;
    assert!(
        matches!(stalled, Err(redir_tunnel::ControlError::Stalled)),
        "the agent has taken all questions: {stalled:?}"
    );
    // Nothing is lost: once the answers are read, the others are asked.
    for seq in 2..READ + 2 {
        let answer = within(alice.dialled.control.next()).await.unwrap().expect("the tunnel is up");
        assert!(answer.answers == seq && matches!(answer.message, ToDeveloper::Listing(_)), "{seq}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_found_out_about_tls_is_told_to_each_as_it_concerns_them() {
    let mut world = TunnelRig::new();
    let pod = PodName::new("web-1").unwrap();
    let (mut alice, mut bob) = (world.dial(&world.alice).await, world.dial(&world.bob).await);
    alice.intercept(request(1)).await;
    alice.state(is_live).await;
    assert!(world.unseen.try_recv().is_err(), "what is for everything need not be HTTP: the app is left alone");
    bob.intercept(filtered(2)).await;
    assert_eq!(within(world.unseen.recv()).await, Some((pod.clone(), 8080)));
    bob.intercept(filtered(3)).await;

    world.tls.found(&pod, 8080, Finding::Tls);
    let fate = |state: &InterceptState| state.pods[0].tls.as_ref().map(|tls| tls.handling);
    assert_eq!(fate(&alice.state(|state| fate(state).is_some()).await), Some(TlsHandling::Passed));
    assert_eq!(fate(&bob.state(|state| fate(state).is_some()).await), Some(TlsHandling::Unread));
    let ToDeveloper::Listing(listing) = bob.ask(ToAgent::List).await else { panic!() };
    assert!(listing.intercepts.iter().all(|entry| entry.tls.is_some()));

    world.tls.replace(&Certificates([((pod.clone(), 8080), vec![pair("web.test")])].into()));
    assert_eq!(
        fate(&alice.state(|state| fate(state) != Some(TlsHandling::Passed)).await),
        Some(TlsHandling::Decrypted)
    );
    assert_eq!(
        within(world.unseen.recv()).await,
        Some((pod.clone(), 8080)),
        "it is looked at with the new certificate"
    );
    world.tls.found(&pod, 8080, Finding::ClientCertificate);
    assert_eq!(fate(&bob.state(|state| fate(state) == Some(TlsHandling::Unread)).await), Some(TlsHandling::Unread));

    world.tunnels.rearm(&pod).await;
    assert_eq!(within(world.unseen.recv()).await, Some((pod.clone(), 8080)), "another pod, another app");
    drop((alice, bob));
    world.armed_becomes(&[]).await;
    assert!(world.unseen.try_recv().is_err());
    assert_eq!(world.tls.finding(&pod, 8080), Some((Finding::Tls, Means::Certificate)), "nothing is remembered");
}

#[tokio::test]
async fn one_key_has_a_bounded_number_of_tunnels_and_hears_why() {
    let world = TunnelRig::new();
    let mut tunnels = Vec::new();
    for _ in 0..TUNNELS_OF_A_KEY {
        tunnels.push(world.dial(&world.alice).await);
    }
    let refused = within(dial(&[world.address], &world.alice, world.pin, "redir test", "someone")).await.unwrap_err();
    let DialError::Refused(_, Refused { code, sentence }) = refused else { panic!("{refused}") };
    assert_eq!(code, RefusedCode::TooMany);
    assert!(sentence.contains("32 tunnels") && sentence.contains("; end some"), "{sentence}");
    world.dial(&world.bob).await;
    tunnels.pop().unwrap().dialled.tunnel.close(CloseCode::Done).await;
    within(async {
        while dial(&[world.address], &world.alice, world.pin, "redir test", "someone").await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
