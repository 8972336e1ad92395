//! An open-loop stream of requests at a fixed rate: each on a connection of its own, never retried, with 15 s of
//! patience. What a fault costs is read from when each connection's SYN was sent.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{self, MissedTickBehavior},
};

use crate::{
    http,
    namespace::{Namespace, PATIENCE},
    wait,
};

/// What a request became.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Just before the SYN.
    pub syn: Instant,
    /// From the SYN to the last byte (or to the failure).
    pub took: Duration,
    /// The body, or why there is none.
    pub result: Result<String, String>,
}

/// A running stream.
#[derive(Debug)]
pub struct Load {
    outcomes: Arc<Mutex<Vec<Outcome>>>,
    stop: Arc<AtomicBool>,
    ended: std::sync::mpsc::Receiver<()>,
}

/// All outcomes of a stream, in the order they ended.
#[derive(Debug)]
pub struct LoadReport {
    /// One for each request that was started.
    pub outcomes: Vec<Outcome>,
}

impl Load {
    /// Starts `rate` requests a second from the namespace to `to`; `headers` are `name: value`.
    pub fn start(namespace: &Namespace, to: SocketAddr, rate: u32, path: &str, headers: &[&str]) -> Result<Self> {
        let request: Arc<str> = http::request("GET", path, headers).into();
        let outcomes = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (end, ended) = std::sync::mpsc::channel();
        let (kept, stopped) = (Arc::clone(&outcomes), Arc::clone(&stop));
        namespace.handle()?.spawn(async move {
            let mut tick = time::interval(Duration::from_secs(1) / rate);
            tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let mut running = JoinSet::new();
            while !stopped.load(Ordering::Acquire) {
                tick.tick().await;
                let (request, kept) = (Arc::clone(&request), Arc::clone(&kept));
                running.spawn(async move {
                    let outcome = one(to, &request).await;
                    kept.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
                });
                while running.try_join_next().is_some() {}
            }
            running.join_all().await;
            drop(end);
        });
        Ok(Self { outcomes, stop, ended })
    }

    /// Waits until so many requests that were sent after `since` have ended, well or not.
    pub fn wait_for(&self, count: usize, since: Instant) -> Result<()> {
        wait::until_true(format!("{count} requests"), Duration::from_secs(60), || {
            let outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(outcomes.iter().filter(|o| o.syn >= since).count() >= count)
        })
    }

    /// Waits until a request sent after `since` was answered with a body that begins with `body`.
    pub fn wait_for_body(&self, body: &str, since: Instant) -> Result<Outcome> {
        wait::until(format!("an answer {body:?}"), Duration::from_secs(30), || {
            let outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
            let hit = outcomes.iter().find(|o| o.syn >= since && o.result.as_ref().is_ok_and(|b| b.starts_with(body)));
            Ok(hit.cloned())
        })
    }

    /// Starts no more, waits for those under way, and reports.
    pub fn stop(self) -> Result<LoadReport> {
        self.stop.store(true, Ordering::Release);
        // Nothing is sent: the channel closes when the stream's task ends.
        let ended = self.ended.recv_timeout(wait::scaled(PATIENCE + Duration::from_secs(5)));
        ensure!(ended == Err(std::sync::mpsc::RecvTimeoutError::Disconnected), "requests did not end in time");
        let outcomes = std::mem::take(&mut *self.outcomes.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(LoadReport { outcomes })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

impl LoadReport {
    /// The failed ones whose SYN was sent in the span `from ≤ syn < to`.
    pub fn failed(&self, from: Option<Instant>, to: Option<Instant>) -> Vec<&Outcome> {
        self.outcomes
            .iter()
            .filter(|o| o.result.is_err() && from.is_none_or(|t| o.syn >= t) && to.is_none_or(|t| o.syn < t))
            .collect()
    }

    /// Answers by the first word of their body, and failures by reason.
    pub fn by_answer(&self) -> BTreeMap<String, usize> {
        self.outcomes.iter().fold(BTreeMap::new(), |mut all, outcome| {
            let key = match &outcome.result {
                Ok(body) => body.split_whitespace().next().unwrap_or_default().to_owned(),
                Err(reason) => format!("failed: {reason}"),
            };
            *all.entry(key).or_default() += 1;
            all
        })
    }

    /// The time at a quantile (0.0 to 1.0) of those that were answered.
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        let mut times: Vec<_> = self.outcomes.iter().filter(|o| o.result.is_ok()).map(|o| o.took).collect();
        times.sort_unstable();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index"
        )]
        let index = ((times.len().saturating_sub(1)) as f64 * q.clamp(0.0, 1.0)).round() as usize;
        times.get(index).copied()
    }

    /// The slowest answer.
    pub fn slowest(&self) -> Duration {
        self.quantile(1.0).unwrap_or_default()
    }
}

async fn one(to: SocketAddr, request: &str) -> Outcome {
    let (syn, limit) = (Instant::now(), wait::scaled(PATIENCE));
    let result = match time::timeout(limit, exchange(to, request)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(e)) => Err(format!("{e:#}")),
        Err(_) => Err(format!("no answer in {limit:?}")),
    };
    Outcome { syn, took: syn.elapsed(), result }
}

async fn exchange(to: SocketAddr, request: &str) -> Result<String> {
    let mut stream = TcpStream::connect(to).await.context("connect")?;
    stream.set_nodelay(true)?;
    stream.write_all(request.as_bytes()).await.context("send")?;
    let mut bytes = Vec::with_capacity(1024);
    loop {
        ensure!(stream.read_buf(&mut bytes).await.context("read")? > 0, "closed before the end of the response");
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length: usize = http::header(head, "content-length").context("no content-length")?.parse()?;
        if body.len() >= length {
            let status = head.split(' ').nth(1).unwrap_or_default();
            ensure!(status == "200", "status {status}: {}", body.trim());
            return Ok(body.to_owned());
        }
    }
}
