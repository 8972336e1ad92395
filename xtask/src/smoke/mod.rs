//! `cargo xtask smoke`: everything an admin and a developer do, on a real cluster, with the real programs and images.
//!
//! Owns: the order of the scenes, and the verdict. What there is to act on is in `world`, the scenes in `scenes`, `rights`,
//! `kinds` and `faults`, what redir leaves in `traces`, the figures in `figures` and `joins`, what it was run on in `record`;
//! the short story of names and network policies in `network`. Works on whatever `cluster` can bring up.

mod faults;
mod figures;
mod joins;
mod kinds;
mod network;
mod record;
mod rights;
mod scenes;
mod traces;
mod world;

use anyhow::{Result, ensure};
use clap::Args;
use redir_rig::cleanup;

use crate::cluster::{self, Up};
use crate::demo::story::Story;
use crate::setup::{self, Say};
use figures::SmokeFigures;

#[derive(Args)]
pub(crate) struct SmokeOptions {
    #[command(flatten)]
    cluster: Up,
    /// Build without optimisation: sooner done, and the figures mean less
    #[arg(long)]
    debug: bool,
    /// Instead of the whole story a short one, of names and network policies on what `--cni` names
    #[arg(long, conflicts_with = "record")]
    network: bool,
    /// Leave the cluster up
    #[arg(long)]
    keep: bool,
    /// Note in `docs` what it was run on, if all is well
    #[arg(long)]
    record: bool,
}

pub(crate) fn run(options: &SmokeOptions) -> Result<()> {
    ensure!(options.cluster.nodes >= 2, "the smoke test needs two nodes: leave --nodes out or say 2 or more");
    setup::run(Say::OnlyWork)?;
    // Before this process may become root: what is built belongs to the person.
    let programs = world::SmokePrograms::build(options.debug)?;
    let up = if options.network { options.cluster.with_names_and_policies() } else { options.cluster };
    cluster::prepare(&up)?;
    let cluster = cluster::Cluster::up(&up)?;
    let result = match options.network {
        true => network::play(&cluster, &programs),
        false => play(&cluster, &programs, options.record),
    };
    if result.is_err() {
        redir_rig::process::ended_logs().iter().for_each(|log| eprintln!("{log}"));
    }
    cleanup::now();
    if !options.keep {
        cluster::Cluster::down()?;
    }
    result
}

fn play(cluster: &cluster::Cluster, programs: &world::SmokePrograms, record: bool) -> Result<()> {
    let mut story = Story::begin();
    let mut figures = SmokeFigures::default();
    // A cluster that was kept may have an older redir in it.
    world::SmokeWorld::admin(cluster, programs, &["uninstall", "--yes"])?;
    let before = traces::nodes_state(cluster)?;
    let mut world = scenes::install(&mut story, cluster, programs)?;
    kinds::start(cluster)?;
    scenes::with_header(&mut story, &mut world, &mut figures)?;
    scenes::rollout_and_scale(&mut story, &mut world, &mut figures)?;
    scenes::everything(&mut story, &mut world)?;
    rights::refusals(&mut story, &world)?;
    rights::tampering(&mut story, &world)?;
    kinds::play(&mut story, &world)?;
    faults::api_server(&mut story, &mut world)?;
    figures.memory(&world)?;
    faults::uninstall(&mut story, &world, cluster, &before)?;
    figures.print(&mut story);
    story.end()?;
    if record { record::write(record::entry(&world, story.answers())?) } else { Ok(()) }
}
