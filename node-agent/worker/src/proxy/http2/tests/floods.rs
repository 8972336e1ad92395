//! What a hostile client can do to its connection: end it, and cost no more than a little until then.

use bytes::Bytes;
use h2::{Reason, server};
use http::Response;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, split},
    task::JoinHandle,
};

use super::{
    super::{Ended, frames::tests::frame},
    rig::{Pipes, soon},
};

const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// `GET /` of `http://web`, in HPACK.
const GET: [u8; 8] = [0x82, 0x84, 0x86, 0x41, 3, b'w', b'e', b'b'];

/// How a flood ended.
struct Outcome {
    /// Frames, or groups of them, that were written before it was over.
    written: usize,
    /// The code of the last GOAWAY.
    goaway: Option<Reason>,
    ended: Ended,
}

/// Floods with what `next` makes of the stream numbers 1, 3, 5, …, while an app answers every request at once.
async fn flood(next: impl FnMut(u32) -> Vec<u8>) -> Outcome {
    flood_app(true, next).await
}

/// The same with an app that answers, or only holds what it is asked.
async fn flood_app(answers: bool, next: impl FnMut(u32) -> Vec<u8>) -> Outcome {
    let pipes = Pipes::new().await;
    let app = tokio::spawn(answer(pipes.app, answers));
    let (mut read, mut write) = split(pipes.client);
    let heard: JoinHandle<Vec<u8>> = tokio::spawn(async move {
        let mut heard = Vec::new();
        // A reset is an end as well.
        let _ = read.read_to_end(&mut heard).await;
        heard
    });
    write.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    let mut written = 0;
    for piece in (1..).step_by(2).take(1_000_000).map(next) {
        if soon(write.write_all(&piece)).await.is_err() {
            break;
        }
        written += 1;
        if written % 100 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let ended = soon(pipes.served).await.unwrap();
    drop(write);
    let heard = soon(heard).await.unwrap();
    app.abort();
    Outcome { written, goaway: last_goaway(&heard), ended }
}

fn last_goaway(mut heard: &[u8]) -> Option<Reason> {
    let mut last = None;
    while let Some((head, rest)) = heard.split_at_checked(9) {
        let len = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let Some((payload, rest)) = rest.split_at_checked(len) else { break };
        if head[3] == GOAWAY {
            last = Some(Reason::from(u32::from_be_bytes(payload[4..8].try_into().unwrap())));
        }
        heard = rest;
    }
    last
}

async fn answer(pipe: DuplexStream, answers: bool) {
    let mut builder = server::Builder::new();
    builder.max_local_error_reset_streams(None);
    let mut connection = builder.handshake::<_, Bytes>(pipe).await.unwrap();
    let mut held = Vec::new();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        if answers {
            let _ = respond.send_response(Response::new(()), true);
        } else {
            held.push((request, respond));
        }
    }
}

impl Outcome {
    /// It ended as a flood, after at most so many pieces; the pipe holds some more.
    fn is_flood(&self, most: usize) {
        const IN_THE_PIPE: usize = 64 * 1024 / 9;
        assert!(self.written <= most + IN_THE_PIPE, "{} pieces", self.written);
        match self.ended {
            Ended::Closed("flood") => assert_eq!(self.goaway, Some(Reason::ENHANCE_YOUR_CALM)),
            Ended::Reset("client_reset") => {}
            ref other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn frames_that_carry_nothing_end_the_connection() {
    let open = |stream| if stream == 1 { frame(HEADERS, END_HEADERS, 1, &GET) } else { vec![] };
    flood(|_| frame(PING, 0, 0, &[0; 8])).await.is_flood(10_000);
    flood(|_| frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])).await.is_flood(200);
    flood(|_| frame(SETTINGS, 0, 0, &[])).await.is_flood(200);
    flood(|_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])).await.is_flood(10_000);
    flood(|stream| frame(PRIORITY, 0, stream, &[0, 0, 0, 0, 1])).await.is_flood(10_000);
    flood(|_| frame(0xbb, 0, 0, b"?")).await.is_flood(10_000);
    flood(|stream| [open(stream), frame(0, 0, 1, b"")].concat()).await.is_flood(10_000);
}

#[tokio::test]
async fn streams_that_are_opened_and_reset_end_the_connection() {
    let rapid = |stream| {
        [frame(HEADERS, END_HEADERS | END_STREAM, stream, &GET), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
    };
    flood(rapid).await.is_flood(4_000);
}

#[tokio::test]
async fn requests_that_cannot_be_taken_end_the_connection() {
    // Without a scheme, without a path, and beyond what one client may have open.
    flood(|stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &[0x82, 0x84])).await.is_flood(1_000);
    flood(|stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &[0x82, 0x86])).await.is_flood(1_000);
    flood_app(false, |stream| frame(HEADERS, END_HEADERS, stream, &GET)).await.is_flood(4_096 + 1_000);
}

#[tokio::test]
async fn header_blocks_without_an_end_or_without_measure_end_the_connection() {
    let begun = |stream| if stream == 1 { frame(HEADERS, END_STREAM, 1, &GET) } else { frame(CONTINUATION, 0, 1, b"") };
    let outcome = flood(begun).await;
    assert!(outcome.written < 8_000, "{}", outcome.written);
    assert!(matches!(outcome.ended, Ended::Closed("protocol_error") | Ended::Reset("client_reset")));

    // One entry of 4,000 bytes in the table, and a byte for each time it is named.
    let mut block = GET.to_vec();
    block.extend([0x40, 1, b'x', 0x7f, 0xa1, 0x1e]);
    block.extend([b'v'; 4000]);
    block.extend([0xbe; 12_000]);
    let outcome = flood(|stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)).await;
    assert!(outcome.written < 10, "{}", outcome.written);
    assert!(matches!(outcome.ended, Ended::Closed("protocol_error") | Ended::Reset("client_reset")));

    // Half a megabyte each, again and again: answered with 431, as long as it is not too often.
    let mut block = GET.to_vec();
    block.extend([0x40, 1, b'x', 0x7f, 0xa1, 0x1e]);
    block.extend([b'v'; 4000]);
    let (first, again) = ([&block[..], &[0xbe; 120]].concat(), [&GET[..], &[0xbe; 120]].concat());
    let bomb = |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, if stream == 1 { &first } else { &again });
    flood(bomb).await.is_flood(1_000);
}

#[tokio::test]
async fn whoever_reads_nothing_does_not_grow() {
    // PINGs that are never answered for, since the answers are not taken: the agent stops to read.
    let pipes = Pipes::new().await;
    let _app = tokio::spawn(answer(pipes.app, true));
    let mut client = pipes.client;
    client.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    let ping = frame(PING, 0, 0, &[0; 8]).repeat(100);
    let mut written = 0;
    while let Ok(Ok(())) = tokio::time::timeout(std::time::Duration::from_millis(300), client.write_all(&ping)).await {
        written += ping.len();
        assert!(written < 1_000_000);
    }
}
