//! Data streams between real TCP connections: checksums, half-close, resets, slow readers.

use std::time::{Duration, Instant};

use bytes::Bytes;
use redir_wire::{StreamCode, StreamHeader};
use ring::digest::{Context, SHA256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use super::{TestAgent, within};
use crate::{Arrival, HeaderError, Identity, Pin, Relayed, STALLED_STREAMS, STREAM_WINDOW, Tunnel, UnreadPool, relay};

/// A tunnel, and the agent's connection.
struct TunnelPair {
    agent: quinn::Connection,
    developer: Tunnel,
    _keep: Box<dyn std::any::Any>,
}

impl TunnelPair {
    async fn new() -> Self {
        let alice = Identity::generate().unwrap();
        let agent = TestAgent::start(&[&alice]);
        let (connection, control, dialled) = within(agent.pair(&alice)).await;
        Self { agent: connection, developer: dialled.tunnel, _keep: Box::new((agent, control, dialled.control)) }
    }

    /// A stream as the agent opens it, and as it arrives.
    async fn stream(&self) -> ((quinn::SendStream, quinn::RecvStream), Arrival) {
        let (mut send, recv) = within(self.agent.open_bi()).await.unwrap();
        send.write_chunk(header().encode().unwrap()).await.unwrap();
        ((send, recv), within(self.developer.accept()).await.unwrap())
    }

    /// A stream that is relayed to a service; the service's end of the TCP connection.
    async fn relayed(&self, tasks: &mut JoinSet<Relayed>) -> ((quinn::SendStream, quinn::RecvStream), TcpStream) {
        let (agent, arrival) = self.stream().await;
        let stream = within(arrival.header()).await.unwrap();
        assert_eq!(stream.header, header());
        // Left to the kernel, the buffers of a service that does not read grow by megabytes.
        let [listener, ours] = [(); 2].map(|()| TcpSocket::new_v4().unwrap());
        listener.set_recv_buffer_size(TCP_BUFFER).unwrap();
        ours.set_send_buffer_size(TCP_BUFFER).unwrap();
        listener.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = listener.listen(1).unwrap();
        let (ours, service) = tokio::join!(ours.connect(listener.local_addr().unwrap()), listener.accept());
        let budget = self.developer.budget().clone();
        tasks.spawn(async move { relay(ours.unwrap(), stream.send, stream.recv, &budget).await });
        (agent, service.unwrap().0)
    }
}

const TCP_BUFFER: u32 = 256 * 1024;

fn header() -> StreamHeader {
    StreamHeader {
        intercept: 7,
        pod: "web-1".into(),
        client: "192.0.2.1:40000".parse().unwrap(),
        destination: "10.0.0.1:8080".parse().unwrap(),
        tls: None,
    }
}

#[tokio::test]
async fn a_hundred_megabytes_each_way_keep_their_checksum() {
    const CHUNKS: usize = 1600;
    let pair = TunnelPair::new().await;
    let mut tasks = JoinSet::new();
    let ((mut send, mut recv), service) = pair.relayed(&mut tasks).await;
    let (mut read, mut write) = service.into_split();
    let block = Bytes::from((0..64 * 1024_u32).map(|index| (index % 251) as u8).collect::<Vec<_>>());
    let mut expected = Context::new(&SHA256);
    (0..CHUNKS).for_each(|_| expected.update(&block));
    let expected = expected.finish();
    let to_service = async {
        for _ in 0..CHUNKS {
            send.write_chunk(block.clone()).await.unwrap();
        }
        send.finish().unwrap();
    };
    let from_service = async {
        for _ in 0..CHUNKS {
            write.write_all(&block).await.unwrap();
        }
        write.shutdown().await.unwrap();
    };
    let at_service = async {
        let mut seen = Context::new(&SHA256);
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match read.read(&mut buffer).await.unwrap() {
                0 => break seen.finish(),
                length => seen.update(&buffer[..length]),
            }
        }
    };
    let at_agent = async {
        let mut seen = Context::new(&SHA256);
        while let Some(chunk) = recv.read_chunk(1 << 20, true).await.unwrap() {
            seen.update(&chunk.bytes);
        }
        seen.finish()
    };
    let ((), (), service, agent) = tokio::time::timeout(Duration::from_secs(120), async {
        tokio::join!(to_service, from_service, at_service, at_agent)
    })
    .await
    .unwrap();
    assert_eq!(service.as_ref(), expected.as_ref());
    assert_eq!(agent.as_ref(), expected.as_ref());
    let bytes = (CHUNKS * block.len()) as u64;
    let relayed = within(tasks.join_next()).await.unwrap().unwrap();
    assert_eq!(relayed, Relayed { to_tcp: bytes, from_tcp: bytes, reset: None });
}

#[tokio::test]
async fn a_half_close_leaves_the_other_direction_open() {
    let pair = TunnelPair::new().await;
    let mut tasks = JoinSet::new();
    let ((mut send, mut recv), mut service) = pair.relayed(&mut tasks).await;
    send.write_all(b"question").await.unwrap();
    send.finish().unwrap();
    let mut question = Vec::new();
    within(service.read_to_end(&mut question)).await.unwrap();
    assert_eq!(question, b"question");
    service.write_all(b"answer").await.unwrap();
    service.shutdown().await.unwrap();
    assert_eq!(within(recv.read_to_end(100)).await.unwrap(), b"answer");
    assert_eq!(within(tasks.join_next()).await.unwrap().unwrap().reset, None);

    let ((mut send, mut recv), mut service) = pair.relayed(&mut tasks).await;
    service.shutdown().await.unwrap();
    assert_eq!(within(recv.read_to_end(100)).await.unwrap(), b"");
    send.write_all(b"late").await.unwrap();
    send.finish().unwrap();
    let mut late = Vec::new();
    within(service.read_to_end(&mut late)).await.unwrap();
    assert_eq!(late, b"late");
}

#[tokio::test]
async fn a_reset_of_the_stream_resets_the_service() {
    let pair = TunnelPair::new().await;
    let mut tasks = JoinSet::new();
    let ((mut send, mut recv), mut service) = pair.relayed(&mut tasks).await;
    send.write_all(b"x").await.unwrap();
    assert_eq!(within(service.read_u8()).await.unwrap(), b'x');
    crate::developer::refuse(&mut send, &mut recv, StreamCode::Reset);
    let error = within(service.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(within(tasks.join_next()).await.unwrap().unwrap().reset, Some(StreamCode::Reset));
}

/// As when the agent's client has what it wanted: its FIN, and nobody reads.
#[tokio::test]
async fn a_reader_that_is_done_is_an_ordinary_end_for_the_service() {
    let pair = TunnelPair::new().await;
    for _ in 0..20 {
        let mut tasks = JoinSet::new();
        let ((mut send, recv), mut service) = pair.relayed(&mut tasks).await;
        send.write_all(b"question").await.unwrap();
        send.finish().unwrap();
        drop(recv);
        let mut question = Vec::new();
        within(service.read_to_end(&mut question)).await.unwrap();
        assert_eq!(question, b"question");
        let relayed = within(tasks.join_next()).await.unwrap().unwrap();
        assert_eq!(relayed, Relayed { to_tcp: 8, from_tcp: 0, reset: None });
        assert!(service.take_error().unwrap().is_none());
    }
}

#[tokio::test]
async fn a_reset_of_the_service_resets_the_stream() {
    let pair = TunnelPair::new().await;
    let mut tasks = JoinSet::new();
    let ((send, mut recv), service) = pair.relayed(&mut tasks).await;
    socket2::SockRef::from(&service).set_linger(Some(Duration::ZERO)).unwrap();
    drop(service);
    let reset = within(recv.read_to_end(100)).await.unwrap_err();
    assert!(
        matches!(reset, quinn::ReadToEndError::Read(quinn::ReadError::Reset(code)) if code == 4_u32.into()),
        "{reset:?}"
    );
    assert_eq!(within(send.stopped()).await.unwrap(), Some(4_u32.into()));
    assert_eq!(within(tasks.join_next()).await.unwrap().unwrap().reset, Some(StreamCode::Reset));
}

#[tokio::test]
async fn a_relay_that_is_dropped_resets_both_sides() {
    let pair = TunnelPair::new().await;
    let mut tasks = JoinSet::new();
    let ((mut send, mut recv), mut service) = pair.relayed(&mut tasks).await;
    send.write_all(b"x").await.unwrap();
    assert_eq!(within(service.read_u8()).await.unwrap(), b'x');
    tasks.shutdown().await;
    assert_eq!(within(service.read_u8()).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    let reset = within(recv.read_to_end(100)).await.unwrap_err();
    assert!(
        matches!(reset, quinn::ReadToEndError::Read(quinn::ReadError::Reset(code)) if code == 7_u32.into()),
        "{reset:?}"
    );
}

#[tokio::test]
async fn a_lost_tunnel_resets_the_service() {
    let pair = TunnelPair::new().await;
    let mut tasks = JoinSet::new();
    let (_stream, mut service) = pair.relayed(&mut tasks).await;
    pair.agent.close(2_u32.into(), b"");
    assert_eq!(within(service.read_u8()).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(within(tasks.join_next()).await.unwrap().unwrap().reset, Some(StreamCode::Gone));
}

/// Ctrl-C while a client's request is on its way: the agent must not wait for any timer.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_opened_while_the_developer_goes_ends_at_once() {
    for round in 0..50 {
        let pair = TunnelPair::new().await;
        let (agent, developer) = (pair.agent.clone(), pair.developer.clone());
        let opened = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_micros(round * 40)).await;
            let (mut send, mut recv) = agent.open_bi().await.ok()?;
            send.write_chunk(header().encode().unwrap()).await.ok()?;
            send.write_all(b"GET / HTTP/1.1\r\n\r\n").await.ok()?;
            recv.read_to_end(100).await.ok()
        });
        developer.close(redir_wire::CloseCode::Done).await;
        let began = Instant::now();
        assert_eq!(within(opened).await.unwrap(), None);
        assert!(began.elapsed() < Duration::from_secs(1), "round {round}: {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn a_refusal_carries_its_code() {
    let pair = TunnelPair::new().await;
    let ((send, mut recv), arrival) = pair.stream().await;
    within(arrival.header()).await.unwrap().refuse(StreamCode::Refused);
    let reset = within(recv.read_to_end(100)).await.unwrap_err();
    assert!(
        matches!(reset, quinn::ReadToEndError::Read(quinn::ReadError::Reset(code)) if code == 1_u32.into()),
        "{reset:?}"
    );
    assert_eq!(within(send.stopped()).await.unwrap(), Some(1_u32.into()));
}

#[tokio::test]
async fn a_stream_without_a_header_is_refused() {
    let pair = TunnelPair::new().await;
    let (mut send, _recv) = pair.agent.open_bi().await.unwrap();
    send.write_all(&[0xff, 0xff, 1, 2, 3]).await.unwrap();
    let arrival = within(pair.developer.accept()).await.unwrap();
    assert!(matches!(within(arrival.header()).await, Err(HeaderError::Malformed(_))));
    assert_eq!(within(send.stopped()).await.unwrap(), Some(5_u32.into()));
    let (mut send, _recv) = pair.agent.open_bi().await.unwrap();
    send.write_all(&[0]).await.unwrap();
    send.finish().unwrap();
    let arrival = within(pair.developer.accept()).await.unwrap();
    assert!(matches!(within(arrival.header()).await, Err(HeaderError::Ended)));
}

/// 64 services that do not read must not slow the 65th; one more than the budget is reset.
#[tokio::test]
async fn stalled_readers_do_not_stall_the_rest() {
    const BYTES: usize = 8 << 20;
    let pair = TunnelPair::new().await;
    let mut tasks = JoinSet::new();
    let alone = Instant::now();
    transfer(&pair, &mut tasks, BYTES).await;
    let alone = alone.elapsed();
    let mut stalled = Vec::new();
    let mut filling = JoinSet::new();
    for _ in 0..STALLED_STREAMS {
        let ((send, recv), service) = pair.relayed(&mut tasks).await;
        stalled.push((recv, service));
        filling.spawn(fill(send));
    }
    let senders = within(filling.join_all()).await;
    wait_for(|| pair.developer.budget().stalled() == STALLED_STREAMS).await;
    let among = Instant::now();
    transfer(&pair, &mut tasks, BYTES).await;
    let among = among.elapsed();
    // A stall would last until the first reader reads, which is never; the factor leaves room for a busy machine.
    assert!(among < alone * 10 + Duration::from_millis(500), "{among:?} among stalled readers, {alone:?} alone");

    let ((send, recv), service) = pair.relayed(&mut tasks).await;
    stalled.push((recv, service));
    let last = fill(send).await;
    let slow = loop {
        let relayed = within(tasks.join_next()).await.unwrap().unwrap();
        if relayed.reset.is_some() {
            break relayed;
        }
    };
    assert_eq!(slow.reset, Some(StreamCode::Slow));
    transfer(&pair, &mut tasks, BYTES).await;
    drop((senders, last, stalled));
}

/// However many tunnels and streams of them stand unread, the agent holds what all tunnels may, and not that of each.
#[tokio::test]
async fn unread_bytes_of_all_tunnels_have_one_bound() {
    const TUNNELS: u64 = 4;
    const STREAMS: usize = 20;
    const ALL: u64 = 16 << 20;
    let pool = UnreadPool::new(ALL);
    let (mut pairs, mut unread, mut sending) = (Vec::new(), Vec::new(), JoinSet::new());
    for number in 0..TUNNELS {
        let pair = TunnelPair::new().await;
        // Two keys: one has one tunnel, the other all others.
        let budget = pool.join(&pair.agent, Pin::of_spki(if number == 0 { b"alice" } else { b"bob" }));
        pairs.push((pair, budget));
    }
    for (pair, _) in &pairs {
        for _ in 0..STREAMS {
            let ((send, recv), arrival) = pair.stream().await;
            let mut stream = within(arrival.header()).await.unwrap();
            unread.push((send, recv));
            // It ends with its tunnel.
            sending.spawn(async move { stream.send.write_all(&vec![7; STREAM_WINDOW as usize]).await });
        }
    }
    let all = settled(&pairs).await;
    // What was given to the first before the others came is not taken back: 1/2 for one key, and 1/2, 1/4 and 1/6 for the
    // other's. The packets' own bytes are counted as well.
    assert!((ALL..ALL * 7 / 4).contains(&all), "{all} bytes");
}

/// What all agents have got, once nothing more comes.
async fn settled(pairs: &[(TunnelPair, crate::Budget)]) -> u64 {
    let sum = || pairs.iter().map(|(pair, _)| pair.agent.stats().udp_rx.datagrams).sum::<u64>();
    // Keep-alives come each half second.
    let (mut before, few) = (0, 4 * pairs.len() as u64);
    while sum() > before + few {
        before = sum();
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    pairs.iter().map(|(pair, _)| pair.agent.stats().udp_rx.bytes).sum()
}

/// Sends until a service that never reads has filled everything between.
async fn fill(mut send: quinn::SendStream) -> quinn::SendStream {
    let block = vec![0; 256 * 1024];
    let most = usize::try_from(STREAM_WINDOW).unwrap() + (64 << 20);
    let mut sent = 0;
    // More than the window and both sockets' buffers can hold; the write that does not end is the sign.
    while tokio::time::timeout(Duration::from_millis(1000), send.write_all(&block)).await.is_ok() {
        sent += block.len();
        assert!(sent < most, "the service does not read");
    }
    send
}

async fn transfer(pair: &TunnelPair, tasks: &mut JoinSet<Relayed>, bytes: usize) {
    let ((mut send, _recv), mut service) = pair.relayed(tasks).await;
    let block = vec![1; 256 * 1024];
    let write = async {
        for _ in 0..bytes / block.len() {
            send.write_all(&block).await.unwrap();
        }
        send.finish().unwrap();
    };
    let mut got = Vec::with_capacity(bytes);
    let ((), length) = within(async { tokio::join!(write, service.read_to_end(&mut got)) }).await;
    assert_eq!(length.unwrap(), bytes);
}

async fn wait_for(mut done: impl FnMut() -> bool) {
    within(async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// A service that answers before it has read the request, says so with a FIN, and closes.
#[tokio::test]
async fn an_early_answer_arrives_whole_although_the_service_closes() {
    const ANSWER: usize = STREAM_WINDOW as usize + 64 * 1024;
    let pair = TunnelPair::new().await;
    let mut tasks = JoinSet::new();
    let ((mut send, mut recv), mut service) = pair.relayed(&mut tasks).await;
    send.write_all(b"POST /").await.unwrap();
    within(service.write_all(&vec![b'x'; ANSWER])).await.unwrap();
    service.shutdown().await.unwrap();
    let mut six = [0; 6];
    within(service.read_exact(&mut six)).await.unwrap();
    // Nothing of the answer is read yet, so its end is not even sent; but the copy has it, and the FIN.
    within(async {
        while pair.agent.stats().udp_rx.bytes < u64::from(STREAM_WINDOW) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(service);
    let stopped = within(async {
        while send.write_all(&[b'y'; 1000]).await.is_ok() {
            tokio::task::yield_now().await;
        }
        send.stopped().await
    });
    assert_eq!(stopped.await.unwrap().map(quinn::VarInt::into_inner), Some(StreamCode::Reset.number()));
    assert_eq!(within(recv.read_to_end(ANSWER)).await.unwrap().len(), ANSWER);
    assert_eq!(within(tasks.join_next()).await.unwrap().unwrap().reset, None);
}
