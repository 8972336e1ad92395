//! `cargo xtask demo`: the main job, played with the real programs in network namespaces of its own. Owns the order of the
//! scenes and the exit; the world is built in `world`, each scene is in `scenes`, `faults` or `figures`, and what is
//! printed, and whether an answer was right, in `story`.

mod faults;
mod figures;
mod scenes;
pub(crate) mod story;
mod world;

use std::ffi::OsStr;

use anyhow::Result;
use clap::Args;
use redir_rig::cleanup;

use crate::privilege::{self, Privilege};
use crate::{child, paths, setup, ui};
use story::Story;
use world::World;

#[derive(Args)]
pub(crate) struct Options {
    /// Leave everything running at the end, and print what to try
    #[arg(long)]
    keep: bool,
    /// The programs are built and this process is root
    #[arg(long, hide = true)]
    prepared: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if options.prepared {
        return play(options.keep);
    }
    setup::run(setup::Say::OnlyWork)?;
    let by_hand = ["cargo xtask demo".to_owned()];
    let privilege = privilege::obtain("making the demo's network namespaces and loading kernel programs", &by_hand)?;
    println!("building redir and redir-agent as they are shipped (a first build takes minutes)");
    child::show(paths::cargo().current_dir(paths::root()).args([
        "build",
        "--release",
        "--package",
        "redir",
        "--package",
        "redir-node-agent",
    ]))?;
    become_the_play(privilege, options.keep)
}

/// The same program once more, as root and with the shipped programs' place in its environment.
fn become_the_play(privilege: Privilege, keep: bool) -> Result<()> {
    let place = paths::target()?.join("release");
    let mut arguments = vec!["demo", "--prepared"];
    arguments.extend(keep.then_some("--keep"));
    let arguments: Vec<&OsStr> = arguments.into_iter().map(OsStr::new).collect();
    privilege.again(&[("REDIR_BIN_DIR", place.as_os_str())], &arguments)
}

fn play(keep: bool) -> Result<()> {
    cleanup::sweep()?;
    let mut story = Story::begin();
    let mut world = World::build(&mut story)?;
    let mut times = figures::Times::default();

    let mut intercept = scenes::filtered(&mut story, &world, &mut times)?;
    scenes::kept_alive(&mut story, &world)?;
    scenes::new_version(&mut story, &mut world)?;
    figures::latency(&mut story, &world, &mut times)?;
    scenes::two_at_once(&mut story, &world)?;
    scenes::ctrl_c(&mut story, &world, &mut intercept, &mut times)?;
    let intercept = faults::worker_killed(&mut story, &mut world, &mut times)?;
    let intercept = faults::agent_killed(&mut story, &mut world, intercept, &mut times)?;
    if keep {
        times.print(&mut story);
        return stay(&story, &world);
    }
    drop(intercept);
    scenes::goodbye(&mut story, world)?;
    times.print(&mut story);
    story.end()
}

/// Everything goes on until the person has had enough.
fn stay(story: &Story, world: &World) -> Result<()> {
    story.verdict()?;
    world.print_what_to_try();
    println!("\n{} Ctrl-C ends it and removes everything.", ui::bold("It is running."));
    loop {
        // The rig takes the signal, removes everything and ends this process.
        std::thread::park();
    }
}
