//! Who may do what, against a real API server with the roles and policies as they are installed. Needs root, and what
//! `cargo xtask cluster setup` has built.
//!
//! Every sentence of the documents about rights is a row: who, what they try, and how the server answers.

#[expect(dead_code, reason = "nothing here stops the server")]
#[path = "../kubernetes/server.rs"]
mod server;

mod agent;
mod command;
mod intercepts;
mod request;
mod schema;
mod status;
mod users;
mod world;

use anyhow::{Result, ensure};

use world::RightsCluster;

/// One server for all of it: most of the time is its start.
#[test]
fn rights_are_as_documented() -> Result<()> {
    let world = RightsCluster::new()?;
    let mut wrong = world.installed.clone();
    wrong.extend(intercepts::tries(&world)?);
    wrong.extend(users::tries(&world)?);
    wrong.extend(status::tries(&world)?);
    wrong.extend(schema::tries(&world)?);
    wrong.extend(command::tries(&world)?);
    ensure!(wrong.is_empty(), "{} tries went another way:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}
