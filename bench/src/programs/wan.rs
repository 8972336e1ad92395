//! `redir-bench program wan`: holds packets for as long as a long link would, and loses some. One of netfilter's queues a
//! direction; only what the kernel says about a packet is read, never a byte of it. Rates are the qdiscs' (`crate::wan`).

mod queue;

use std::{
    collections::VecDeque,
    os::fd::AsFd,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Args;
use nix::{
    poll::{PollFd, PollFlags, ppoll},
    sys::time::TimeSpec,
};

use crate::figures::Xorshift;
use queue::NetfilterQueue;

/// Its command line.
#[derive(Debug, Args)]
pub struct WanOptions {
    /// Microseconds that each direction takes
    #[arg(long)]
    delay: u64,
    /// Packets lost of a million, in each direction
    #[arg(long, default_value_t = 0)]
    loss: usize,
    /// Which of them: the same seed loses the same
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The queues' numbers
    #[arg(long, required = true)]
    queue: Vec<u16>,
}

const MILLION: usize = 1_000_000;

/// Serves the queues until it is killed. Says `ready` on standard output once it does.
pub fn run(options: &WanOptions) -> Result<()> {
    let mut directions = Vec::new();
    for number in &options.queue {
        directions.push(LinkDirection::open(*number, options).with_context(|| format!("netfilter's queue {number}"))?);
    }
    println!("ready");
    thread::scope(|scope| {
        let running: Vec<_> = directions.iter_mut().map(|direction| scope.spawn(|| direction.serve())).collect();
        running
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| anyhow::anyhow!("a queue's thread panicked"))?)
    })
}

/// One direction.
struct LinkDirection {
    queue: NetfilterQueue,
    delay: Duration,
    loss: usize,
    random: Xorshift,
    /// In the order in which they are let go.
    under_way: VecDeque<(Instant, u32)>,
}

impl LinkDirection {
    fn open(number: u16, options: &WanOptions) -> Result<Self> {
        // A loss takes one packet of the wire: there the kernel cuts what was joined before it queues it.
        let queue = NetfilterQueue::open(number, options.loss == 0)?;
        let random = Xorshift::new(options.seed ^ (u64::from(number) << 32));
        let delay = Duration::from_micros(options.delay);
        Ok(Self { queue, delay, loss: options.loss, random, under_way: VecDeque::new() })
    }

    fn serve(&mut self) -> Result<()> {
        loop {
            self.wait()?;
            while let Some(packet) = self.queue.take()? {
                if self.loss > 0 && self.random.below(MILLION) < self.loss {
                    self.queue.drop(packet)?;
                } else {
                    self.under_way.push_back((Instant::now() + self.delay, packet));
                }
            }
            let (now, mut last) = (Instant::now(), None);
            while let Some((_, packet)) = self.under_way.pop_front_if(|(at, _)| *at <= now) {
                last = Some(packet);
            }
            // Its predecessors go with it.
            last.map_or(Ok(()), |packet| self.queue.accept_until(packet))?;
        }
    }

    /// Until a packet comes or one is due.
    fn wait(&self) -> Result<()> {
        let due = self.under_way.front().map(|(at, _)| at.saturating_duration_since(Instant::now()));
        let mut fds = [PollFd::new(self.queue.as_fd(), PollFlags::POLLIN)];
        ppoll(&mut fds, due.map(TimeSpec::from_duration), None)?;
        Ok(())
    }
}
