//! Connections of others, of HTTP/1 and of HTTP/2, which are asked one after the other as long as the crowd is there.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Result, ensure};
use redir_rig::{Http, Namespace};

use super::http2::Http2Client;

/// How long an answer may take. Who waits longer is not served.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Bystanders {
    stop: Arc<AtomicBool>,
    asking: JoinHandle<Alive>,
}

/// Connections that live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::chaos) struct Alive {
    pub(super) http1: usize,
    pub(super) http2: usize,
}

/// Where the two kinds are to be dialled.
#[derive(Clone, Copy)]
pub(super) struct Targets {
    pub(super) http1: SocketAddr,
    pub(super) http2: SocketAddr,
}

impl Bystanders {
    /// So many connections from a namespace, each asked once before this returns.
    pub(super) fn start(namespace: &Namespace, to: Targets, count: Alive) -> Result<Self> {
        let dial = |to| -> Result<TcpStream> {
            let stream = namespace.connect(to)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            Ok(stream)
        };
        let (mut http1, mut http2) = (Vec::new(), Vec::new());
        for _ in 0..count.http1 {
            let mut connection = Http::new(dial(to.http1)?);
            ask(&mut connection, 0)?;
            http1.push(connection);
        }
        for _ in 0..count.http2 {
            let mut connection = Http2Client::new(dial(to.http2)?)?;
            ask_http2(&mut connection, 0)?;
            http2.push(connection);
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let asking = thread::spawn(move || {
            let mut round = 0;
            loop {
                // Once more when it is over: nothing that happened may have ended one.
                let is_last = stopped.load(Ordering::Relaxed);
                http1.retain_mut(|connection| ask(connection, round).is_ok());
                http2.retain_mut(|connection| ask_http2(connection, round).is_ok());
                round += 1;
                if is_last {
                    return Alive { http1: http1.len(), http2: http2.len() };
                }
            }
        });
        Ok(Self { stop, asking })
    }

    /// How many live.
    pub(super) fn alive(self) -> Alive {
        self.stop.store(true, Ordering::Relaxed);
        self.asking.join().unwrap_or_default()
    }
}

/// The app and the developer by turns.
fn ask(connection: &mut Http, round: usize) -> Result<()> {
    let (user, answer) = turn(round);
    let text = connection.get("/", &[&format!("x-user: {user}"), &format!("cookie: {}", cookie())])?.text();
    ensure!(text.starts_with(answer), "{user} was answered {text:?}");
    Ok(())
}

/// The same.
fn ask_http2(connection: &mut Http2Client, round: usize) -> Result<()> {
    let (user, answer) = turn(round);
    let text = connection.get(&[("x-user", user), ("cookie", &cookie())])?;
    ensure!(text.starts_with(answer), "{user} was answered {text:?}");
    Ok(())
}

fn turn(round: usize) -> (&'static str, &'static str) {
    [("nobody", "green"), ("alice", "blue")][round % 2]
}

/// More of a head than each connection may hold at any time.
fn cookie() -> String {
    "y".repeat(4 << 10)
}
