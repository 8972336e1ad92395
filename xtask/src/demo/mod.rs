//! `cargo xtask demo`: the main job, played with the real programs in network namespaces of its own. Owns the order of the
//! scenes and the exit; the world is built in `world`, each scene is in `scenes`, `faults` or `figures`, and what is
//! printed, and whether an answer was right, in `story`.

mod faults;
mod figures;
mod picture;
mod scenes;
pub(crate) mod story;
mod world;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use redir_rig::cleanup;

use crate::privilege::{self, Privilege};
use crate::{child, paths, setup, ui};
use story::Story;
use world::DemoWorld;

#[derive(Args)]
pub(crate) struct DemoOptions {
    /// Leave everything running at the end, and print what to try
    #[arg(long)]
    keep: bool,
    /// Save the first scenes as a picture of the terminal, as README has it (docs/demo.svg)
    #[arg(long, value_name = "FILE", conflicts_with = "keep")]
    record: Option<PathBuf>,
    /// The programs are built and this process is root
    #[arg(long, hide = true)]
    prepared: bool,
}

pub(crate) fn run(options: &DemoOptions) -> Result<()> {
    if options.prepared {
        return play(options);
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
    become_the_play(privilege, options)
}

/// The same program once more, as root and with the shipped programs' place in its environment.
fn become_the_play(privilege: Privilege, options: &DemoOptions) -> Result<()> {
    let place = paths::target()?.join("release");
    let mut arguments: Vec<&OsStr> = ["demo", "--prepared"].map(OsStr::new).to_vec();
    arguments.extend(options.keep.then_some(OsStr::new("--keep")));
    if let Some(file) = &options.record {
        arguments.extend([OsStr::new("--record"), file.as_os_str()]);
    }
    privilege.again(&[("REDIR_BIN_DIR", place.as_os_str())], &arguments)
}

fn play(options: &DemoOptions) -> Result<()> {
    if options.record.is_some() {
        ui::always_in_colour();
    }
    cleanup::sweep()?;
    let mut story = Story::begin();
    let mut world = DemoWorld::build(&mut story)?;
    let mut times = figures::DemoTimes::default();

    let mut intercept = scenes::filtered(&mut story, &world, &mut times)?;
    scenes::kept_alive(&mut story, &world)?;
    scenes::new_version(&mut story, &mut world)?;
    figures::latency(&mut story, &world, &mut times)?;
    scenes::two_at_once(&mut story, &world)?;
    scenes::ctrl_c(&mut story, &world, &mut intercept, &mut times)?;
    let intercept = faults::worker_killed(&mut story, &mut world, &mut times)?;
    let intercept = faults::agent_killed(&mut story, &mut world, intercept, &mut times)?;
    if options.keep {
        times.print(&mut story);
        return stay(&story, &world);
    }
    drop(intercept);
    scenes::goodbye(&mut story, world)?;
    times.print(&mut story);
    story.end()?;
    options.record.as_deref().map_or(Ok(()), |file| record(&story, file))
}

/// Only of a run in which every answer was right.
fn record(story: &Story, file: &Path) -> Result<()> {
    picture::write(file, &story.printed(PICTURED)).with_context(|| format!("cannot write {}", file.display()))?;
    println!("the first {PICTURED} scenes are in {}", file.display());
    Ok(())
}

/// The scenes of the picture: what redir is for, and no figure of this machine but two.
const PICTURED: usize = 4;

/// Everything goes on until the person has had enough.
fn stay(story: &Story, world: &DemoWorld) -> Result<()> {
    story.verdict()?;
    world.print_what_to_try();
    println!("\n{} Ctrl-C ends it and removes everything.", ui::bold("It is running."));
    loop {
        // The rig takes the signal, removes everything and ends this process.
        std::thread::park();
    }
}
