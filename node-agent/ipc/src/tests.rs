//! Every message comes back as it went; no bytes make the decoder panic or accept what the encoder would not write.

use std::{os::fd::AsFd, time::Duration};

use super::{reply::MAX_SENTENCE, *};

fn longest() -> PodName {
    PodName::new(&"p".repeat(PodName::MAX)).expect("longest")
}

fn requests() -> Vec<Request> {
    let pod = longest();
    let v6: IpAddr = "fe80::1234:5678:9abc:def0".parse().expect("address");
    vec![
        Request::Ready,
        Request::Alive,
        Request::Arm { pod: pod.clone(), port: 8080 },
        Request::Steer { pod: pod.clone(), port: 8080, gate: ListenerGate::AppListening },
        Request::Steer { pod: pod.clone(), port: 65535, gate: ListenerGate::Always },
        Request::TrialListeners { pod: pod.clone() },
        Request::Arm { pod: pod.clone(), port: 65535 },
        Request::Disarm { pod: pod.clone(), port: 1 },
        Request::Release { pod: pod.clone() },
        Request::Sockets {
            pod: pod.clone(),
            bind: BindAddress { ip: v6, scope: u32::MAX },
            ports: (0..32).map(|i| 65535 - i).collect(),
            for_trial: true,
        },
        Request::Bypass { pod: pod.clone(), client: v6, how_long: Duration::from_millis(600_000) },
        Request::Stats { pod: pod.clone() },
        Request::Listening { pod: pod.clone(), port: 65_535 },
        Request::Ending { pod: pod.clone(), last: Some(LastProcess::OfContainers) },
        Request::Ending { pod: pod.clone(), last: Some(LastProcess::OfSandbox) },
        Request::Ending { pod: pod.clone(), last: None },
        Request::Flush { pod, port: 65_535 },
    ]
}

fn armed(addresses: usize, handed: HandedSockets) -> ArmedReply {
    let addresses = vec!["2001:db8::1".parse().expect("address"); addresses];
    let app = Some(AppListening::LoopbackOnly);
    ArmedReply { earlier: u32::MAX, app, pod_addresses: addresses.clone(), loopback_addresses: addresses, handed }
}

fn replies() -> Vec<Reply> {
    vec![
        Reply::Bootstrap,
        Reply::Config,
        Reply::Peer,
        Reply::Certificates,
        Reply::Shutdown { drain: Duration::from_secs(600) },
        Reply::PodGone { pod: longest() },
        Reply::PodEnded { pod: longest() },
        Reply::Armed(armed(0, HandedSockets::Nothing)),
        Reply::Armed(armed(1, HandedSockets::Ipv4)),
        Reply::Armed(armed(MAX_ADDRESSES, HandedSockets::Both)),
        Reply::Done,
        Reply::Sockets { errnos: vec![98; MAX_SOCKETS], first: u64::MAX },
        Reply::TrialListeners(HandedSockets::Both),
        Reply::Stats { counters: vec![u64::MAX; Reason::ALL.len()] },
        Reply::Flushed { closed: u32::MAX, left: 1 },
        Reply::Network(PodNetwork {
            pod: longest(),
            first: true,
            last: false,
            pod_addresses: armed(MAX_PART_ADDRESSES, HandedSockets::Nothing).pod_addresses,
            loopback_addresses: armed(MAX_PART_ADDRESSES, HandedSockets::Nothing).loopback_addresses,
        }),
        Reply::Listening { app: None, detour: None },
        Reply::Listening { app: Some(AppListening::Yes), detour: Some(PortDetour::Redirected) },
        Reply::Listening { app: Some(AppListening::Nobody), detour: Some(PortDetour::Unseen) },
        Reply::Refused { code: RefusalCode::PortNotReserved, sentence: "no; do this".into() },
    ]
}

#[test]
fn requests_come_back() {
    for (seq, request) in (0..).zip(requests()) {
        assert_eq!(Request::decode(&request.encode(seq)), Ok((seq, request)));
    }
}

#[test]
fn replies_come_back() {
    for (seq, reply) in (u32::MAX - 99..).zip(replies()) {
        assert_eq!(Reply::decode(&reply.encode(seq)), Ok((seq, reply)));
    }
}

#[test]
fn long_sentences_and_lists_are_cut() {
    let sentence = "ä".repeat(1000);
    let reply = Reply::Refused { code: RefusalCode::Namespace, sentence: sentence.clone() };
    let Ok((7, Reply::Refused { sentence: cut, .. })) = Reply::decode(&reply.encode(7)) else { panic!("decodes") };
    assert!(sentence.starts_with(&cut) && cut.len() == MAX_SENTENCE);
    let reply = Reply::Armed(armed(100, HandedSockets::Both));
    assert_eq!(Reply::decode(&reply.encode(7)), Ok((7, Reply::Armed(armed(MAX_ADDRESSES, HandedSockets::Both)))));
}

#[test]
fn lengths_other_than_the_fixed_one_are_malformed() {
    for length in [0, 1, 5, REQUEST_LEN - 1, REQUEST_LEN + 1, REPLY_LEN] {
        assert_eq!(Request::decode(&vec![0; length]), Err(MalformedMessage));
    }
    assert_eq!(Reply::decode(&[0; REQUEST_LEN]), Err(MalformedMessage));
}

#[test]
fn values_outside_their_limits_are_malformed() {
    let pod = PodName::new("p").expect("good");
    let encode = |ip: &str, scope, ports| {
        let bind = BindAddress { ip: ip.parse().expect("address"), scope };
        Request::Sockets { pod: pod.clone(), bind, ports, for_trial: false }.encode(1)
    };
    for message in [
        encode("10.0.0.1", 0, vec![]),
        encode("10.0.0.1", 0, vec![0]),
        encode("10.0.0.1", 0, vec![700; 33]),
        encode("10.0.0.1", 3, vec![700]),
        encode("2001:db8::1", 3, vec![700]),
        encode("0.0.0.0", 0, vec![700]),
        encode("::ffff:10.0.0.1", 0, vec![700]),
        encode("ff02::1", 0, vec![700]),
        Request::Arm { pod: pod.clone(), port: 0 }.encode(1),
    ] {
        assert_eq!(Request::decode(&message), Err(MalformedMessage));
        assert_eq!(Request::seq(&message), Some(1));
    }
    let mut message = Request::Release { pod }.encode(1);
    message[REQUEST_LEN - 1] = 1;
    assert_eq!(Request::decode(&message), Err(MalformedMessage), "something follows the last field");
    let mut message = Request::Ready.encode(1);
    for kind in (0..=255).filter(|kind| !(1..=12).contains(kind)) {
        message[4] = kind;
        assert_eq!(Request::decode(&message), Err(MalformedMessage), "kind {kind}");
    }
}

/// xorshift64*: the same bytes in every run.
struct RandomBytes(u64);

impl RandomBytes {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).expect("below a usize")
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[7]
    }
}

/// What is accepted has exactly one encoding: the bytes that were accepted.
fn check(bytes: &[u8]) -> bool {
    match Request::decode(bytes) {
        Ok((seq, request)) => {
            assert_eq!(request.encode(seq)[..], *bytes);
            true
        }
        Err(MalformedMessage) => false,
    }
}

#[test]
fn random_bytes_never_panic() {
    let mut random = RandomBytes(0x5eed);
    for _ in 0..20_000 {
        let mut bytes = [0; REQUEST_LEN];
        let filled = random.below(REQUEST_LEN + 1);
        bytes[..filled].iter_mut().for_each(|byte| *byte = random.byte());
        bytes[4] = random.byte() % 12;
        check(&bytes);
        let mut bytes = [0; REPLY_LEN];
        bytes[..filled].iter_mut().for_each(|byte| *byte = random.byte());
        bytes[4] = random.byte() % 12;
        Reply::decode(&bytes).ok();
    }
}

#[test]
fn good_messages_with_a_few_changed_bytes_are_refused_or_mean_what_they_say() {
    let mut random = RandomBytes(0xfeed);
    let mut accepted = 0;
    for round in 0..20_000 {
        let requests = requests();
        let mut bytes = requests[round % requests.len()].encode(9);
        for _ in 0..=random.below(3) {
            bytes[random.below(REQUEST_LEN)] = random.byte();
        }
        accepted += usize::from(check(&bytes));
    }
    assert!(accepted > 100, "changed numbers are still requests: {accepted}");
}

#[test]
fn descriptors_travel_with_a_message() {
    let (guardian, worker) = pair().expect("socket pair");
    let file = tempfile::tempfile().expect("file");
    let message = Reply::Bootstrap.encode(0);
    send(guardian.as_fd(), &message, &[file.as_fd(), file.as_fd()]).expect("sent");
    let mut buffer = [0; REPLY_LEN];
    let (length, fds) = receive(worker.as_fd(), &mut buffer).expect("received");
    assert_eq!((length, fds.len()), (REPLY_LEN, 2));
    let empty = receive(worker.as_fd(), &mut buffer).expect_err("nothing more");
    assert_eq!(empty.kind(), std::io::ErrorKind::WouldBlock);
    drop(guardian);
    assert_eq!(receive(worker.as_fd(), &mut buffer).expect("closed").0, 0);
}

#[test]
fn of_descriptors_without_room_the_first_come_and_none_leaks() {
    let (guardian, worker) = pair().expect("socket pair");
    let (reader, writer) = std::io::pipe().expect("pipe");
    send(guardian.as_fd(), &Reply::Done.encode(7), &[writer.as_fd(); MAX_FDS + 5]).expect("sent");
    drop(writer);
    let mut buffer = [0; REPLY_LEN];
    let (length, fds) = receive(worker.as_fd(), &mut buffer).expect("received");
    assert_eq!((length, fds.len()), (REPLY_LEN, MAX_FDS));
    assert_eq!(Reply::decode(&buffer), Ok((7, Reply::Done)));
    drop(fds);
    assert_eq!(std::io::read_to_string(reader).expect("every writer is closed"), "");
}

#[test]
fn the_guardian_takes_no_descriptors() {
    let (guardian, worker) = pair().expect("socket pair");
    let (reader, writer) = std::io::pipe().expect("pipe");
    send(worker.as_fd(), &Request::Alive.encode(0), &[writer.as_fd()]).expect("sent");
    drop(writer);
    let mut buffer = [0; REQUEST_LEN];
    assert_eq!(receive_plain(guardian.as_fd(), &mut buffer).expect("received"), REQUEST_LEN);
    // The pipe's last writer was the one in flight: it is closed, not installed here.
    assert_eq!(std::io::read_to_string(reader).expect("end of file"), "");
}

#[test]
fn a_longer_datagram_is_seen_as_such() {
    let (guardian, worker) = pair().expect("socket pair");
    send(worker.as_fd(), &[1; REQUEST_LEN + 1], &[]).expect("sent");
    let mut buffer = [0; REQUEST_LEN];
    assert_eq!(receive_plain(guardian.as_fd(), &mut buffer).expect("received"), REQUEST_LEN + 1);
}
