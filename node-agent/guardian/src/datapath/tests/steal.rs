//! A processor that is taken away in the middle, as busy hosts and burstable instances do to a virtual machine.

use std::{
    fs::{self, File},
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    path::PathBuf,
    sync::Arc,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{intercepted::*, rig::*};

const CONNECTIONS: usize = 900;
/// The file whose presence asks for the pauses; `cargo xtask test --kernel` says where it must be.
const STEAL: &str = "REDIR_STEAL";

/// Between `steer`, which notes the connection, and the companion, which finds the note, lies a pause of any length.
#[test]
fn a_processor_that_is_taken_away_costs_no_connection() {
    let steal = StolenTime::begin();
    let (hooks, mut tried, mut lost) = (hooks(), 0, Vec::new());
    for &attach in &hooks {
        let pod = InterceptedPod::new(attach);
        for _ in 0..CONNECTIONS / hooks.len() / FAMILIES.len() {
            for (address, _) in FAMILIES {
                tried += 1;
                if !is_steered(&pod, address) {
                    lost.push((tried, attach, address));
                }
            }
        }
    }
    eprintln!("{} pauses in {tried} connections, {} of them lost", steal.pauses(), lost.len());
    assert_eq!(tried, CONNECTIONS);
    assert!(lost.is_empty(), "{} of {tried} connections went past the agent: {lost:?}", lost.len());
    assert!(!steal.is_asked_for() || steal.pauses() > 50, "{} pauses: nobody took the processor away", steal.pauses());
}

/// Opens a connection; whether the agent has it, and not the app.
fn is_steered(pod: &InterceptedPod, address: IpAddr) -> bool {
    pod.heartbeat.beat();
    let client = connect(&pod.pair.client, None, SocketAddr::new(address, APP_PORT)).unwrap();
    let (agent, app) = (pod.listeners.of(address), pod.app.of(address));
    let mut ends = [PollFd::new(agent.as_fd(), PollFlags::POLLIN), PollFd::new(app.as_fd(), PollFlags::POLLIN)];
    let ready = poll(&mut ends, PollTimeout::try_from(patience()).unwrap()).unwrap();
    assert_eq!(ready, 1, "the connection is at neither of both, or at both");
    let is_steered = ends[0].any() == Some(true);
    let (end, peer) = accept(if is_steered { agent } else { app });
    assert_eq!(peer, client.local_addr().unwrap());
    for end in [&end, &client] {
        reset_on_close(end);
    }
    is_steered
}

/// Pauses of the whole machine, for as long as this lives: somebody outside makes them, and this counts them.
struct StolenTime {
    asked_for: Option<PathBuf>,
    pauses: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl StolenTime {
    fn begin() -> Self {
        let asked_for = std::env::var_os(STEAL).map(PathBuf::from);
        match &asked_for {
            Some(file) => drop(File::create(file).unwrap()),
            None => redir_rig::left_out("pauses of the processor: `cargo xtask test --kernel` makes them"),
        }
        let steal = Self { asked_for, pauses: Arc::default(), stop: Arc::default() };
        let (pauses, stop) = (steal.pauses.clone(), steal.stop.clone());
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let before = Instant::now();
                thread::sleep(Duration::from_millis(1));
                pauses.fetch_add(usize::from(before.elapsed() > LATE), Ordering::Relaxed);
            }
        });
        steal
    }

    fn is_asked_for(&self) -> bool {
        self.asked_for.is_some()
    }

    fn pauses(&self) -> usize {
        self.pauses.load(Ordering::Relaxed)
    }
}

impl Drop for StolenTime {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(file) = &self.asked_for {
            let _ = fs::remove_file(file);
        }
    }
}

/// A wake-up that is later than this was a pause.
const LATE: Duration = Duration::from_millis(8);
