//! `redir-bench relay`: copies each connection to the app and back with epoll, one thread, looking at nothing: the floor
//! of what a proxy outside the kernel costs.

use std::{
    collections::HashMap,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
};

use anyhow::Result;
use clap::Args;
use socket2::{Domain, Protocol, Socket, Type};

use super::{Events, Interest, app};

/// Its command line.
#[derive(Debug, Args)]
pub struct RelayOptions {
    /// Where it listens
    #[arg(long)]
    listen: SocketAddr,
    /// The app
    #[arg(long)]
    to: SocketAddr,
    /// Listens as netfilter's TPROXY wants it
    #[arg(long)]
    transparent: bool,
}

/// One direction's reading end and what could not be written to the other yet.
struct RelayLeg {
    stream: TcpStream,
    /// For the other leg.
    held: Vec<u8>,
    ended: bool,
    /// What it is watched for.
    watched: Interest,
}

const LISTENER: u64 = u64::MAX;
/// A read's size, as the app's.
const READ: usize = 256 * 1024;

/// Relays until it is killed. Says `ready` on standard output once it listens.
pub fn run(options: &RelayOptions) -> Result<()> {
    let listener = app::listen(options.listen, options.transparent)?;
    println!("ready");
    let mut events = Events::new()?;
    events.add(&listener, LISTENER, Interest::INPUT)?;
    let mut pairs: HashMap<u64, [RelayLeg; 2]> = HashMap::new();
    let mut next = 0;
    let mut buffer = vec![0; READ];
    loop {
        for number in events.wait(None)? {
            if number == LISTENER {
                while let Ok((client, _)) = listener.accept() {
                    client.set_nonblocking(true)?;
                    client.set_nodelay(true)?;
                    let pair = [RelayLeg::new(client), RelayLeg::new(connect(options.to)?)];
                    // Even: the client's leg; odd: the app's.
                    events.add(&pair[0].stream, next, Interest::INPUT)?;
                    events.add(&pair[1].stream, next + 1, Interest::INPUT)?;
                    pairs.insert(next, pair);
                    next += 2;
                }
            } else if let Some(pair) = pairs.get_mut(&(number & !1)) {
                let keep = step(pair, usize::from(number & 1 == 1), &mut buffer);
                if keep.is_err() || pair.iter().all(|leg| leg.ended) {
                    pairs.remove(&(number & !1));
                } else {
                    watch(&events, number & !1, pair)?;
                }
            }
        }
    }
}

/// A leg is watched for input while more of it is wanted, and for output while something is held for it.
fn watch(events: &Events, first: u64, pair: &mut [RelayLeg; 2]) -> Result<()> {
    for (side, number) in [(0, first), (1, first + 1)] {
        let leg = &pair[side];
        let wanted = Interest { input: !leg.ended && leg.held.is_empty(), output: !pair[1 - side].held.is_empty() };
        if pair[side].watched != wanted {
            pair[side].watched = wanted;
            events.change(&pair[side].stream, number, wanted)?;
        }
    }
    Ok(())
}

/// Without waiting for the handshake: what is written before it ends is refused and held.
fn connect(to: SocketAddr) -> Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    // EINPROGRESS; a refusal shows at the first read.
    let _ = socket.connect(&to.into());
    Ok(socket.into())
}

/// Something is to be read from `side`, or can be written to it.
fn step(pair: &mut [RelayLeg; 2], side: usize, buffer: &mut [u8]) -> std::io::Result<()> {
    flush(pair, 1 - side)?;
    if pair[side].held.is_empty() && !pair[side].ended {
        match pair[side].stream.read(buffer) {
            Ok(0) => {
                pair[side].ended = true;
                pair[1 - side].stream.shutdown(Shutdown::Write)?;
            }
            Ok(n) => pass(pair, side, &buffer[..n])?,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes what `from` has held for the other leg.
fn flush(pair: &mut [RelayLeg; 2], from: usize) -> std::io::Result<()> {
    let held = std::mem::take(&mut pair[from].held);
    pass(pair, from, &held)
}

fn pass(pair: &mut [RelayLeg; 2], from: usize, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match pair[1 - from].stream.write(bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => break,
            Err(error) => return Err(error),
        }
    }
    pair[from].held.extend_from_slice(bytes);
    Ok(())
}

impl RelayLeg {
    fn new(stream: TcpStream) -> Self {
        Self { stream, held: Vec::new(), ended: false, watched: Interest::INPUT }
    }
}
