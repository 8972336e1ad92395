//! Connections of others, which are asked one after the other as long as the crowd is there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Result, ensure};
use redir_rig::{Http, Namespace};

/// How long an answer may take. Who waits longer is not served.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Bystanders {
    stop: Arc<AtomicBool>,
    asking: JoinHandle<usize>,
}

impl Bystanders {
    /// So many connections from a namespace, each asked once before this returns.
    pub(super) fn start(namespace: &Namespace, to: SocketAddr, count: usize) -> Result<Self> {
        let mut connections = Vec::new();
        for _ in 0..count {
            let stream = namespace.connect(to)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut connection = Http::new(stream);
            ask(&mut connection, 0)?;
            connections.push(connection);
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let asking = thread::spawn(move || {
            let mut round = 0;
            // Once more when it is over: nothing that happened may have ended one.
            while !stopped.load(Ordering::Relaxed) {
                connections.retain_mut(|connection| ask(connection, round).is_ok());
                round += 1;
            }
            connections.retain_mut(|connection| ask(connection, round).is_ok());
            connections.len()
        });
        Ok(Self { stop, asking })
    }

    /// How many live.
    pub(super) fn alive(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.asking.join().unwrap_or_default()
    }
}

/// The app and the developer by turns.
fn ask(connection: &mut Http, round: usize) -> Result<()> {
    let (header, answer) = [("x-user: nobody", "green"), ("x-user: alice", "blue")][round % 2];
    // More of a head than each connection may hold at any time.
    let cookie = format!("cookie: {}", "y".repeat(4 << 10));
    let text = connection.get("/", &[header, &cookie])?.text();
    ensure!(text.starts_with(answer), "{header} was answered {text:?}");
    Ok(())
}
