//! The broker against a guardian played by the test, over a real socket pair.

use std::{fs::File, os::fd::AsRawFd};

use nix::sys::resource::{Resource, getrlimit};
use tokio::task::JoinHandle;

use super::*;
use redir_ipc::REQUEST_LEN;

/// The guardian's end, with blocking-free waits of at most five seconds.
struct TestGuardian {
    socket: AsyncFd<OwnedFd>,
}

impl TestGuardian {
    async fn request(&self) -> (u32, Request) {
        let receive = self.socket.async_io(Interest::READABLE, |socket| {
            let mut buffer = [0; REQUEST_LEN];
            let length = ipc::receive_plain(socket.as_fd(), &mut buffer)?;
            assert_eq!(length, REQUEST_LEN);
            Ok(Request::decode(&buffer).expect("a request"))
        });
        timeout(Duration::from_secs(5), receive).await.expect("in time").expect("received")
    }

    fn reply(&self, seq: u32, reply: &Reply, fds: &[&OwnedFd]) {
        let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
        ipc::send(self.socket.get_ref().as_fd(), &reply.encode(seq), &fds).expect("sent");
    }
}

struct BrokerRig {
    guardian: TestGuardian,
    broker: Broker,
    events: mpsc::Receiver<GuardianEvent>,
    driver: JoinHandle<()>,
}

fn rig() -> BrokerRig {
    let (ours, theirs) = ipc::pair().expect("socket pair");
    let (broker, driver, events) = start(theirs, Path::new("/etc/redir/agent.toml")).expect("started");
    let guardian = TestGuardian { socket: register(ours).expect("registered") };
    BrokerRig { guardian, broker, events, driver: tokio::spawn(driver.run()) }
}

fn pod() -> PodName {
    PodName::new("web-1").expect("good")
}

fn armed(earlier: u32, handed: HandedSockets) -> Reply {
    let address = |text: &str| vec![text.parse().expect("address")];
    let (pod_addresses, loopback_addresses) = (address("10.0.0.2"), address("127.0.0.1"));
    Reply::Armed(ipc::ArmedReply { earlier, app: None, pod_addresses, loopback_addresses, handed })
}

fn listener() -> OwnedFd {
    TcpListener::bind("127.0.0.1:0").expect("port").into()
}

fn memory(text: &str) -> OwnedFd {
    use std::io::Write;
    let mut file = tempfile::tempfile().expect("file");
    file.write_all(text.as_bytes()).expect("written");
    file.into()
}

fn target(fd: i32) -> Option<String> {
    Some(std::fs::read_link(format!("/proc/self/fd/{fd}")).ok()?.display().to_string())
}

#[tokio::test]
async fn answers_find_their_questions_in_any_order() {
    let rig = rig();
    let (guardian, broker) = (&rig.guardian, &rig.broker);
    let played = async {
        let (first, disarm) = guardian.request().await;
        let (second, stats) = guardian.request().await;
        assert_eq!(disarm, Request::Disarm { pod: pod(), port: 80 });
        assert_eq!(stats, Request::Stats { pod: pod() });
        guardian.reply(second, &Reply::Stats { counters: vec![5; Reason::ALL.len()] }, &[]);
        guardian.reply(first, &Reply::Done, &[]);
    };
    let name = pod();
    let (disarmed, stats, ()) = tokio::join!(biased; broker.disarm(&name, 80), broker.stats(&name), played);
    disarmed.expect("done");
    let stats = stats.expect("counters");
    assert_eq!((stats.len(), stats[0]), (Reason::ALL.len(), (Reason::ALL[0], 5)));
}

#[tokio::test]
async fn the_first_arm_brings_descriptors_to_their_places() {
    let rig = rig();
    let (guardian, broker) = (&rig.guardian, &rig.broker);
    let link = OwnedFd::from(File::open("/proc/self/status").expect("there"));
    let played = async {
        let (seq, request) = guardian.request().await;
        assert_eq!(request, Request::Arm { pod: pod(), port: 80 });
        let reply = armed(3, HandedSockets::Both);
        guardian.reply(seq, &reply, &[&listener(), &listener(), &memory("beat"), &memory("turned"), &link]);
        let (seq, _) = guardian.request().await;
        guardian.reply(seq, &armed(3, HandedSockets::Nothing), &[]);
        let (seq, request) = guardian.request().await;
        assert_eq!(request, Request::Release { pod: pod() });
        guardian.reply(seq, &Reply::Done, &[]);
    };
    let name = pod();
    let slot = broker.state().links.lowest();
    let asked = async {
        let armed = broker.arm(&name, 80, FirstHand::App).await.expect("armed");
        assert_eq!((armed.earlier_connections, armed.pod_addresses.len()), (3, 1));
        let armed = armed.first.expect("first");
        assert_eq!(armed.addresses.all().len(), 2);
        assert!(broker.arm(&name, 81, FirstHand::App).await.expect("armed").first.is_none());
        let kept = broker.state().links.kept(&name);
        assert_eq!(kept, [slot.expect("free")]);
        assert!(target(kept[0]).is_some_and(|target| target.ends_with("/status")));
        let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).expect("limit");
        for listener in [armed.listener4, armed.listener6.expect("IPv6")] {
            assert!(u64::try_from(listener.as_raw_fd()).expect("positive") >= soft.min(65_536) - 512);
        }
        broker.release(&name).await.expect("released");
        assert!(broker.state().links.kept(&name).is_empty());
    };
    tokio::join!(asked, played);
}

#[tokio::test]
async fn an_arm_that_nobody_waits_for_is_undone() {
    let rig = rig();
    let name = pod();
    {
        let arm = rig.broker.arm(&name, 80, FirstHand::App);
        tokio::pin!(arm);
        let (seq, _) = tokio::select! {
            _ = &mut arm => panic!("nobody has answered"),
            request = rig.guardian.request() => request,
        };
        let reply = armed(3, HandedSockets::Ipv4);
        rig.guardian.reply(seq, &reply, &[&listener(), &memory("beat"), &memory("turned")]);
        // The asker goes away with the answer on its way.
    }
    let arm_again = rig.broker.arm(&name, 80, FirstHand::App);
    tokio::pin!(arm_again);
    let undone =
        async { (rig.guardian.request().await.1, rig.guardian.request().await.1, rig.guardian.request().await) };
    let (disarm, release, (seq, arm)) = tokio::select! {
        _ = &mut arm_again => panic!("nobody has answered"),
        requests = undone => requests,
    };
    assert_eq!(disarm, Request::Disarm { pod: pod(), port: 80 });
    assert_eq!(release, Request::Release { pod: pod() });
    assert_eq!(arm, Request::Arm { pod: pod(), port: 80 });
    let reply = armed(2, HandedSockets::Ipv4);
    rig.guardian.reply(seq, &reply, &[&listener(), &memory("beat"), &memory("turned")]);
    let again = arm_again.await.expect("armed");
    assert!(again.earlier_connections == 2 && again.first.is_some());

    // A further port of a pod that is held is taken back without releasing the pod.
    tokio::select! {
        _ = rig.broker.arm(&name, 81, FirstHand::App) => panic!("nobody has answered"),
        _ = rig.guardian.request() => {}
    }
    assert_eq!(rig.guardian.request().await.1, Request::Disarm { pod: pod(), port: 81 });
    let played = async {
        let (seq, request) = rig.guardian.request().await;
        assert_eq!(request, Request::Release { pod: pod() }, "asked for, not a consequence");
        rig.guardian.reply(seq, &Reply::Done, &[]);
    };
    let (released, ()) = tokio::join!(rig.broker.release(&name), played);
    released.expect("done");
}

#[tokio::test]
async fn a_pod_that_is_armed_anew_right_after_its_release_keeps_what_came_with_it() {
    let rig = rig();
    let (guardian, broker, name) = (&rig.guardian, &rig.broker, pod());
    let link = OwnedFd::from(File::open("/proc/self/status").expect("there"));
    let hand_over = |seq| {
        guardian.reply(seq, &armed(0, HandedSockets::Ipv4), &[&listener(), &memory("beat"), &memory("turned"), &link]);
    };
    let arm = || broker.arm(&name, 80, FirstHand::App);
    let (first, ()) = tokio::join!(arm(), async { hand_over(guardian.request().await.0) });
    first.expect("armed");
    // The guardian answers both before either asker runs; then the arm's runs first.
    let release = broker.release(&name);
    let again = arm();
    tokio::pin!(release, again);
    let (release_seq, arm_seq) = tokio::select! {
        biased;
        _ = &mut release => panic!("nobody has answered"),
        _ = &mut again => panic!("nobody has answered"),
        seqs = async { (guardian.request().await.0, guardian.request().await.0) } => seqs,
    };
    guardian.reply(release_seq, &Reply::Done, &[]);
    hand_over(arm_seq);
    again.await.expect("armed");
    release.await.expect("released");
    let kept = broker.state().links.kept(&name);
    assert_eq!(kept.len(), 1);
    assert!(target(kept[0]).is_some_and(|target| target.ends_with("/status")));
    assert!(broker.state().held.contains(&name));
}

#[tokio::test(start_paused = true)]
async fn a_guardian_that_owes_a_quick_answer_hangs_until_it_answers() {
    let rig = rig();
    let mut hung = rig.broker.guardian_hangs();
    assert!(!*hung.borrow_and_update());
    let (broker, asked) = (rig.broker.clone(), Instant::now());
    let stats = tokio::spawn(async move { broker.stats(&pod()).await });
    hung.changed().await.expect("the broker lives");
    assert!(*hung.borrow_and_update() && asked.elapsed() >= pending::QUICK);
    let error = stats.await.expect("ended").expect_err("nobody answers");
    assert!(matches!(error, BrokerError::Timeout), "{error}");
    // Slow work that is asked for meanwhile does not excuse it, and the late answer ends it.
    let (broker, name) = (rig.broker.clone(), pod());
    let disarm = tokio::spawn(async move { broker.disarm(&name, 80).await });
    let (seq, _) = rig.guardian.request().await;
    rig.guardian.request().await;
    assert!(*hung.borrow());
    rig.guardian.reply(seq, &Reply::Stats { counters: vec![] }, &[]);
    hung.changed().await.expect("the broker lives");
    assert!(!*hung.borrow());
    disarm.abort();
}

#[tokio::test]
async fn a_refused_arm_takes_nothing_back() {
    let rig = rig();
    let name = pod();
    let played = async {
        let (seq, _) = rig.guardian.request().await;
        let refused = Reply::Refused { code: RefusalCode::UnknownPod, sentence: "no".into() };
        rig.guardian.reply(seq, &refused, &[]);
    };
    let (armed, ()) = tokio::join!(rig.broker.arm(&name, 80, FirstHand::App), played);
    assert!(matches!(armed, Err(BrokerError::Refused { code: RefusalCode::UnknownPod, .. })));
    let played = async {
        let (seq, request) = rig.guardian.request().await;
        assert_eq!(request, Request::Stats { pod: pod() }, "nothing came before");
        rig.guardian.reply(seq, &Reply::Stats { counters: vec![] }, &[]);
    };
    let (stats, ()) = tokio::join!(rig.broker.stats(&name), played);
    stats.expect("answered");
}

#[tokio::test]
async fn sockets_have_a_result_each() {
    let rig = rig();
    let (guardian, broker) = (&rig.guardian, &rig.broker);
    let played = async {
        let (seq, request) = guardian.request().await;
        let Request::Sockets { ports, .. } = request else { panic!("sockets") };
        assert_eq!(ports, [700, 701, 702, 703]);
        // Of the last one the descriptor is missing, as when this process has no room for it.
        let errnos = vec![0, libc::EADDRINUSE, 0, 0];
        guardian.reply(seq, &Reply::Sockets { errnos, first: 7 }, &[&listener(), &listener()]);
    };
    let name = pod();
    let address = "10.0.0.2:0".parse().expect("address");
    let (sockets, ()) = tokio::join!(broker.sockets(&name, address, &[700, 701, 702, 703], false), played);
    let sockets = sockets.expect("answered");
    assert!(sockets[0].is_ok() && sockets[2].is_ok());
    assert_eq!(sockets[1].as_ref().expect_err("in use").kind(), io::ErrorKind::AddrInUse);
    assert_eq!(sockets[3].as_ref().expect_err("no room").raw_os_error(), Some(libc::EMFILE));
}

#[tokio::test]
async fn a_refusal_carries_its_sentence() {
    let rig = rig();
    let (guardian, broker) = (&rig.guardian, &rig.broker);
    let played = async {
        let (seq, _) = guardian.request().await;
        let refused = Reply::Refused { code: RefusalCode::Busy, sentence: "disarm it first".into() };
        guardian.reply(seq, &refused, &[]);
    };
    let name = pod();
    let (released, ()) = tokio::join!(broker.release(&name), played);
    let error = released.expect_err("refused");
    assert!(matches!(error, BrokerError::Refused { code: RefusalCode::Busy, .. }));
    assert_eq!(error.to_string(), "disarm it first");
}

/// A connection may come as soon as the port is armed.
#[tokio::test]
async fn certificates_are_taken_before_their_port_is_known_to_be_armed() {
    let (ours, theirs) = ipc::pair().expect("socket pair");
    let (broker, driver, _events) = start(theirs, Path::new("/etc/redir/agent.toml")).expect("started");
    let guardian = TestGuardian { socket: register(ours).expect("registered") };
    let taken = Arc::new(Mutex::new(Vec::new()));
    let take = taken.clone();
    tokio::spawn(driver.with_certificates(move |given| take.lock().expect("whole").push(given.clone())).run());
    let played = async {
        let (seq, _) = guardian.request().await;
        guardian.reply(0, &Reply::Certificates, &[]);
        guardian.reply(0, &Reply::Certificates, &[&memory("no certificates")]);
        guardian.reply(0, &Reply::Certificates, &[&memory(r#"[{"pod":"web-1","port":80,"pairs":[]}]"#)]);
        guardian.reply(seq, &Reply::Done, &[]);
    };
    let name = pod();
    let (disarmed, ()) = tokio::join!(broker.disarm(&name, 80), played);
    disarmed.expect("answered");
    let taken = taken.lock().expect("whole");
    assert_eq!(taken.len(), 1, "what is malformed changes nothing");
    assert!(taken[0].0.contains_key(&(pod(), 80)));
}

#[tokio::test]
async fn pushes_become_events_and_the_guardians_end_is_the_last() {
    let mut rig = rig();
    let good = "[agent]\nlisten = \"127.0.0.1:7447\"\nkey = \"/k\"\n";
    rig.guardian.reply(0, &Reply::Config, &[&memory("not TOML ["), &memory("[]")]);
    rig.guardian.reply(0, &Reply::Config, &[&memory(good)]);
    rig.guardian.reply(0, &Reply::Config, &[&memory(good), &memory("[]")]);
    rig.guardian.reply(0, &Reply::PodGone { pod: pod() }, &[]);
    rig.guardian.reply(0, &Reply::Shutdown { drain: Duration::from_secs(7) }, &[]);
    let Some(GuardianEvent::Config(config)) = rig.events.recv().await else { panic!("the good configuration") };
    assert_eq!(config.agent.listen.port(), 7447);
    assert!(matches!(rig.events.recv().await, Some(GuardianEvent::PodGone(name)) if name == pod()));
    let Some(GuardianEvent::Shutdown { drain }) = rig.events.recv().await else { panic!("shutdown") };
    assert_eq!(drain, Duration::from_secs(7));

    let name = pod();
    let waiting = rig.broker.disarm(&name, 80);
    let end = async {
        rig.guardian.request().await;
        drop(rig.guardian);
    };
    let (waiting, ()) = tokio::join!(waiting, end);
    assert!(matches!(waiting, Err(BrokerError::GuardianGone)));
    assert!(matches!(rig.events.recv().await, Some(GuardianEvent::GuardianGone)));
    rig.driver.await.expect("ended by itself");
    assert!(matches!(rig.broker.disarm(&name, 80).await, Err(BrokerError::GuardianGone)));
}

#[tokio::test(start_paused = true)]
async fn no_answer_is_a_timeout() {
    let rig = rig();
    let error = rig.broker.disarm(&pod(), 80).await.expect_err("nobody answers");
    assert!(matches!(error, BrokerError::Timeout), "{error}");
}

#[test]
fn bootstrap_wants_exactly_what_the_guardian_sends() {
    let good = "[agent]\nlisten = \"127.0.0.1:7447\"\nkey = \"/k\"\n";
    let udp = || OwnedFd::from(UdpSocket::bind("127.0.0.1:0").expect("port"));
    let file = Path::new("/etc/redir/agent.toml");
    let attempt = |reply: Reply, fds: Vec<OwnedFd>| {
        let (ours, theirs) = ipc::pair().expect("socket pair");
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        ipc::send(ours.as_fd(), &reply.encode(0), &fds).expect("sent");
        bootstrap(theirs, file)
    };
    let told = attempt(Reply::Bootstrap, vec![udp(), memory("key"), memory(good), memory("[]")]).expect("good");
    assert_eq!((told.key.as_slice(), told.config.agent.listen.port()), (&b"key"[..], 7447));
    assert_eq!(told.config_file, file);
    assert!(attempt(Reply::Bootstrap, vec![udp(), memory("key"), memory(good)]).is_err());
    assert!(attempt(Reply::Config, vec![udp(), memory("key"), memory(good), memory("[]")]).is_err());
    assert!(attempt(Reply::Bootstrap, vec![udp(), memory("key"), memory("["), memory("[]")]).is_err());
    assert!(attempt(Reply::Bootstrap, vec![udp(), memory("key"), memory(good), memory("{}")]).is_err());
    let (ours, theirs) = ipc::pair().expect("socket pair");
    drop(ours);
    assert!(bootstrap(theirs, file).is_err());
}
