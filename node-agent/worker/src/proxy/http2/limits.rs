//! How much each side may have under way, and why so much.
//!
//! A window is what a sender may send before it hears that it was taken, so it bounds what is held for a slow receiver
//! and, with the round trip, how fast a stream can be: windows are small towards neighbours and larger through the
//! tunnel. What stalled streams hold is added to the connection's window (`serving`), so that they do not keep the others
//! from theirs; that has its end in the agent's budget for slow readers (`relay`).

use std::time::Duration;

use h2::{client, server};

use super::{origin::Announced, upgrade::Upgrade};
use crate::memory::{self, FREE, Purpose};

/// What clients may send on one stream. 128 MB/s at 2 ms.
const CLIENT_STREAM: u32 = 256 * 1024;
/// On all streams of a connection, beyond what stalled ones hold.
pub(super) const CLIENT_CONNECTION: u32 = 1024 * 1024;
/// What the app may send on one stream. Its round trip is a fraction of a millisecond.
const APP_STREAM: u32 = 256 * 1024;
/// On all streams.
pub(super) const APP_CONNECTION: u32 = 1024 * 1024;
/// What a developer's service may send on one stream: 10 MB/s at 100 ms.
const DEVELOPER_STREAM: u32 = 1024 * 1024;
/// On all streams.
pub(super) const DEVELOPER_CONNECTION: u32 = 4 * 1024 * 1024;

/// Streams of one connection at once, if the app does not say less. An open stream that waits costs some 3 KiB
/// in the agent; gRPC servers that set no limit are common, and so are clients with a thousand watches.
pub(super) const MAX_STREAMS: u32 = 4096;
/// What a stream takes of the agent's memory beside its bytes.
pub(super) const STREAM_COST: usize = 3 * 1024;
/// So many streams of a connection are always taken: the limit of connections pays for them, in which one with HTTP/2 counts
/// more (`shares`).
pub(super) const FREE_STREAMS: usize = 8;
/// How soon a side that is not read, or not written to, because memory is scarce, is tried again.
pub(super) const SCARCE_PAUSE: Duration = Duration::from_millis(50);

/// Whether no more is to be taken from a side of which so many bytes wait already: other slow readers hold what there is.
pub(super) fn is_scarce(waiting: usize) -> bool {
    waiting > FREE && !memory::has_room(Purpose::SlowReader)
}

/// What is written to a connection whose other end does not take it, for each stream: four frames.
const SEND_BUFFER: usize = 64 * 1024;
/// A request's headers, decoded, each with 32 bytes more (RFC 9113, 10.5.1): more than any server takes that is known. A
/// longer list is decoded for the compression's sake, and its request answered 431; only what is four times as long, or
/// comes in more than 80 frames of 16 KiB, ends the connection. An app that takes less has said so: the client is told
/// (`wire`), and the app judges a client that does not keep to it.
pub(super) const HEADER_LIST: u32 = 1024 * 1024;
/// The same while slow readers hold the agent's budget; a longer one counts for `flood`.
pub(super) const HEADER_LIST_SCARCE: usize = 64 * 1024;
/// Streams that are reset before they were looked at. A turn of the connection's task may bring half as many as
/// `wire` has frames in a turn, from a client that cancels everything at once; what comes turn by turn is `flood`'s.
const RESET_UNSEEN: usize = 200;
/// Streams that the h2 crate itself resets for faults, in the whole life of a connection. A client that is cancelled
/// while it sends makes some, so it is no small number for a connection that lives for weeks.
const FAULTS: usize = 10_000;
/// Streams that were reset here, and for which frames may still come that are then no faults.
const REMEMBERED: usize = 1_000;
/// Bytes that many small pieces may take beyond their own while they lie in the h2 crate. `copy` takes them out in every
/// turn, so that a client's never come near it. Origins are not strangers: theirs are only bounded at all.
const SMALL_PIECES: usize = 2 * 1024 * 1024;

/// The side that clients see.
pub(super) fn server(announced: Announced) -> server::Builder {
    let mut builder = server::Builder::new();
    builder
        .initial_window_size(CLIENT_STREAM)
        .initial_connection_window_size(CLIENT_CONNECTION)
        .max_concurrent_streams(announced.streams.unwrap_or(MAX_STREAMS).min(MAX_STREAMS))
        .max_header_list_size(HEADER_LIST)
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(RESET_UNSEEN)
        .max_local_error_reset_streams(Some(FAULTS))
        .max_concurrent_reset_streams(REMEMBERED)
        .data_frame_budget(SMALL_PIECES);
    if announced.extended_connect {
        builder.enable_connect_protocol();
    }
    builder
}

/// The side that the app sees.
pub(super) fn towards_app() -> client::Builder {
    client(APP_STREAM, APP_CONNECTION)
}

/// The same, where the app goes by the client's SETTINGS until it has read the agent's own: what it may send by those has
/// to be taken.
pub(super) fn towards_upgraded_app(upgrade: &Upgrade) -> client::Builder {
    let mut builder = towards_app();
    if let Some(size) = upgrade.header_table_size() {
        builder.header_table_size(size.min(MAX_TABLE));
    }
    if let Some(size) = upgrade.max_frame_size() {
        builder.max_frame_size(size.clamp(MIN_FRAME, MAX_FRAME));
    }
    // Frames of pushed streams are read, and the streams cancelled; `upgrade` tells the app to begin none.
    builder.enable_push(true);
    builder
}

/// The default, and the least that may be named (RFC 9113, 6.5.2).
const MIN_FRAME: u32 = 16_384;
/// The first window of a connection: before it has heard of a larger one, the app sends no more in one frame.
const MAX_FRAME: u32 = 65_535;
/// What a server's encoder may remember; 4 KiB is the default, and the JDK's client names 16.
const MAX_TABLE: u32 = 64 * 1024;

/// The side that a developer's service sees.
pub(super) fn towards_developer() -> client::Builder {
    client(DEVELOPER_STREAM, DEVELOPER_CONNECTION)
}

fn client(stream: u32, connection: u32) -> client::Builder {
    let mut builder = client::Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(stream)
        .initial_connection_window_size(connection)
        .max_send_buffer_size(SEND_BUFFER)
        .max_local_error_reset_streams(None)
        .max_concurrent_reset_streams(REMEMBERED)
        .data_frame_budget(8 * SMALL_PIECES);
    builder
}
