//! The agent in memory cgroups, and crowds that want more memory than it has. Owns the order, the table and the verdict; who
//! the crowds are is in `crowds`, what is around them in `world`.

mod bystanders;
pub(super) mod crowds;
mod http2;
pub(super) mod world;

use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;
use redir_rig::cleanup;

use crate::ui;
use bystanders::Alive;
use crowds::{CROWDS, Crowd};
use world::{OTHERS, World};

#[derive(Args)]
#[command(after_help = LESSON)]
pub(crate) struct Options {
    /// Which of them to play; all, if none is named
    #[arg(value_name = "CROWD", value_parser = names())]
    crowds: Vec<String>,
    /// Memory of the agent's cgroup, in MiB; several one after the other
    #[arg(long, value_name = "MIB", value_delimiter = ',', default_values_t = [128, 256])]
    memory: Vec<u64>,
    /// The programs are built and this process is root
    #[arg(long, hide = true)]
    prepared: bool,
}

const LESSON: &str = "\
Each crowd meets an agent of its own, in a cgroup with that much memory (the
chart gives it 256 MiB), while connections to another pod, of HTTP/1 and of
HTTP/2, are asked all the time. A line says how much memory was used at most,
how many of the others' connections of both kinds live, and what became of the
crowd. Exit code 1 if one was lost, if the kernel had to kill, or if the worker
was started anew.

  cargo xtask chaos limits                      every crowd, twice: some minutes
  cargo xtask chaos limits heads --memory 96    one of them, with less

heads       1,000 clients of HTTP/1 that never finish 255 KB of headers
unread      240 clients, through four tunnels of one key, that read no answer
tls         1,000 clients that never finish 60 KB of a ClientHello
http2       200 clients of HTTP/2 that never finish their headers
streams     20 clients of HTTP/2 with 4,000 requests each that nobody answers
idle        one client that opens connections and says nothing, until it has its share
idle-http2  the same with the beginning of HTTP/2
handshakes  QUIC handshakes of one address that are not gone on with

Ctrl-C removes everything.";

fn names() -> clap::builder::PossibleValuesParser {
    CROWDS.iter().map(|crowd| crowd.name).collect::<Vec<_>>().into()
}

impl Options {
    pub(super) fn is_prepared(&self) -> bool {
        self.prepared
    }

    /// What was typed, without what is for this program alone.
    pub(super) fn arguments(&self) -> Vec<String> {
        let memory: Vec<String> = self.memory.iter().map(u64::to_string).collect();
        let fixed = ["chaos".to_owned(), "limits".to_owned(), "--memory".to_owned(), memory.join(",")];
        fixed.into_iter().chain(self.crowds.iter().cloned()).collect()
    }
}

/// What a crowd has come to.
struct Outcome {
    /// In bytes.
    peak: u64,
    /// Of the crowd, in words.
    crowd: String,
    /// Of the others' connections.
    alive: Alive,
    /// Why it is none that may be, if it is.
    failed: Option<String>,
}

pub(super) fn play(options: &Options) -> Result<()> {
    cleanup::on_signals();
    let wanted = |crowd: &&Crowd| options.crowds.is_empty() || options.crowds.iter().any(|name| name == crowd.name);
    println!(
        "{}",
        ui::bold(&format!("{:<9} {:<10} {:<10} {:<12} what became of the crowd", "memory", "crowd", "peak", "others"))
    );
    let mut failed = 0;
    for memory in &options.memory {
        for crowd in CROWDS.iter().filter(wanted) {
            let begun = Instant::now();
            let outcome = meet(crowd, *memory)?;
            print(&outcome, crowd.name, *memory, &ui::spoken(begun.elapsed()));
            failed += usize::from(outcome.failed.is_some());
        }
    }
    match failed {
        0 => Ok(()),
        failed => {
            bail!("{failed} of the plays did harm; `cargo test -p redir-tests --test limits` is where to look closer")
        }
    }
}

/// One crowd, and an agent of its own.
fn meet(crowd: &Crowd, memory: u64) -> Result<Outcome> {
    let mut world = World::new(crowd.setting, memory << 20)?;
    let result = (crowd.come)(&world);
    let (alive, failed) = world.verdict();
    let (said, failed) = match result {
        Ok(said) => (said, failed),
        Err(error) => ("see below".to_owned(), Some(failed.unwrap_or_else(|| format!("{error:#}")))),
    };
    Ok(Outcome { peak: world.peak()?, crowd: said, alive, failed })
}

fn print(outcome: &Outcome, crowd: &str, memory: u64, took: &str) {
    let Outcome { peak, crowd: said, alive, failed } = outcome;
    let peak = format!("{} MiB", peak >> 20);
    let others = format!("{}/{} {}/{}", alive.http1, OTHERS.http1, alive.http2, OTHERS.http2);
    println!("{:<9} {crowd:<10} {peak:<10} {others:<12} {said} {}", format!("{memory} MiB"), ui::dim(took));
    if let Some(failed) = failed {
        println!("          {} {failed}", ui::red("FAIL"));
    }
}
