//! What a child of the guardian may still do once it has started: the process gives everything else up by itself, before it
//! reads a byte from anybody.
//!
//! Two steps, since between them a child hears from the guardian what it is to do: [`enter`] takes files, uid and
//! capabilities, [`restrict_calls`] the system calls. Neither can be taken back. Must be called while the process has one
//! thread: the later ones inherit all of it. Called by `main`, for each kind of child with its [`SandboxProfile`].

mod arguments;
mod calls;
mod files;
mod privileges;
mod profile;

use std::io;

use anyhow::Context;

pub use arguments::ConfinementArguments;
pub use profile::SandboxProfile;

/// Leaves the file system and gives up every privilege. `user` becomes uid and gid. Fails if a privilege stays; a file
/// system that cannot be left is told, with what it means.
pub fn enter(profile: &SandboxProfile, user: u32) -> anyhow::Result<()> {
    // A statically linked C library has no getrandom() that the crate of that name would find: it reads /dev/urandom instead,
    // which it opens with the first call and keeps.
    getrandom::fill(&mut [0]).context("read random numbers")?;
    if let Err(error) = files::leave(profile) {
        tracing::warn!("{}", not_left(profile, &error));
    }
    privileges::drop_to(user)
        .with_context(|| format!("become uid {user}; choose another one (agent.user) or run the agent as root"))
}

/// Whether a child could leave the host's files here; the error is a sentence with the next step.
pub fn try_out() -> Result<(), String> {
    files::try_out().map_err(|error| not_left(&SandboxProfile::Traffic, &error))
}

fn not_left(profile: &SandboxProfile, error: &io::Error) -> String {
    let meaning = match profile {
        SandboxProfile::Traffic => "only the filter of system calls keeps the worker from this machine's files",
        SandboxProfile::ApiServer { .. } => "the process that speaks to the API server sees those of the node",
        SandboxProfile::ContainerRuntimes => {
            "only the filter of system calls keeps the process that reads container runtimes' answers from this machine's files"
        }
    };
    format!(
        "no file system of its own for a process without privileges ({error}): {meaning}. Give the agent CAP_SYS_ADMIN and \
         CAP_SYS_CHROOT, and let it mount (in a container: appArmorProfile Unconfined)"
    )
}

/// Leaves the process only the system calls of its profile.
pub fn restrict_calls(profile: &SandboxProfile) {
    if let Err(error) = calls::restrict(profile) {
        tracing::warn!(
            "this kernel does not restrict system calls ({error:#}); a kernel with CONFIG_SECCOMP_FILTER does"
        );
    }
}
