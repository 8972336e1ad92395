//! Pods that are named by a container: `docker = "web"`, `podman = "web"`, and where those runtimes are asked.
//!
//! Owns which names and sockets may stand in the file. What a name means now is the runtime's to say.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use super::table::{ConfigError, ConfigSection, KeyPlace, PlacedValue};

/// Where a pod's network namespace is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetnsSource {
    /// At this absolute path.
    Path(PathBuf),
    /// Where the first process of this container is.
    Container(ContainerRef),
}

/// A container by its name, which may mean another container tomorrow.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContainerRef {
    /// Whose it is.
    pub runtime: ContainerRuntime,
    /// Its name, or its whole ID: 1 to 253 characters that need no escape in a URL.
    pub name: String,
}

impl ContainerRef {
    /// Bytes of a name; the runtimes have no limit of their own, and a host's name has this one.
    pub const MAX_NAME: usize = 253;
}

/// A container runtime with the Docker Engine API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ContainerRuntime {
    /// Docker Engine.
    Docker,
    /// Podman, run by root.
    Podman,
}

/// `[runtimes]`: the sockets at which container runtimes are asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeSockets {
    docker: PathBuf,
    podman: PathBuf,
}

impl NetnsSource {
    /// The path, of a pod that is named by one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Path(path) => Some(path),
            Self::Container(_) => None,
        }
    }

    /// The container, of a pod that is named by one.
    pub fn container(&self) -> Option<&ContainerRef> {
        match self {
            Self::Path(_) => None,
            Self::Container(container) => Some(container),
        }
    }
}

impl fmt::Display for NetnsSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Container(container) => container.fmt(f),
        }
    }
}

impl fmt::Display for ContainerRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} container {}", self.runtime, self.name)
    }
}

impl ContainerRuntime {
    /// Every one.
    pub const ALL: [Self; 2] = [Self::Docker, Self::Podman];

    /// Its key in the file: of a pod, and of `[runtimes]`.
    pub fn key(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
        }
    }
}

impl fmt::Display for ContainerRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Docker => "Docker",
            Self::Podman => "Podman",
        })
    }
}

impl RuntimeSockets {
    /// The socket of a runtime.
    pub fn of(&self, runtime: ContainerRuntime) -> &Path {
        match runtime {
            ContainerRuntime::Docker => &self.docker,
            ContainerRuntime::Podman => &self.podman,
        }
    }

    pub(super) fn read(section: Option<ConfigSection<'_>>) -> Result<Self, ConfigError> {
        let mut sockets = Self::default();
        let Some(mut section) = section else { return Ok(sockets) };
        for (runtime, socket) in
            [(ContainerRuntime::Docker, &mut sockets.docker), (ContainerRuntime::Podman, &mut sockets.podman)]
        {
            if let Some(value) = section.optional(runtime.key()) {
                *socket = socket_path(&value)?;
            }
        }
        section.finish("docker, podman")?;
        Ok(sockets)
    }
}

impl Default for RuntimeSockets {
    fn default() -> Self {
        Self { docker: DOCKER_SOCKET.into(), podman: PODMAN_SOCKET.into() }
    }
}

/// Where the pod's network namespace is: exactly one of the keys says it.
pub(super) fn netns_source<'a>(section: &mut ConfigSection<'a>) -> Result<(NetnsSource, KeyPlace<'a>), ConfigError> {
    let mut found: Option<(NetnsSource, KeyPlace<'a>)> = None;
    for key in ["netns", "docker", "podman"] {
        let Some(value) = section.optional(key) else { continue };
        if found.is_some() {
            return Err(value.error("a pod is named by one of `netns`, `docker` and `podman`; take the others out"));
        }
        let runtime = ContainerRuntime::ALL.into_iter().find(|runtime| runtime.key() == key);
        let source = match runtime {
            Some(runtime) => NetnsSource::Container(ContainerRef { runtime, name: container_name(&value)? }),
            None => NetnsSource::Path(netns_path(&value)?),
        };
        found = Some((source, value.place()));
    }
    found.ok_or_else(|| section.missing("netns", MISSING))
}

fn netns_path(value: &PlacedValue<'_>) -> Result<PathBuf, ConfigError> {
    let path = PathBuf::from(value.text()?);
    if !path.is_absolute() {
        return Err(value.error(format!(
            "{:?} is not an absolute path; write the whole path, as in \"/run/netns/web-1\"",
            path.display()
        )));
    }
    Ok(path)
}

/// What Docker and Podman take for a name.
fn container_name(value: &PlacedValue<'_>) -> Result<String, ConfigError> {
    let text = value.text()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let starts = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if !starts || text.len() > ContainerRef::MAX_NAME || !text.bytes().all(plain) {
        return Err(value.error(format!(
            "{text:?} is no container's name; write it as `docker ps` and `podman ps` show it, as in \"web\""
        )));
    }
    Ok(text.to_owned())
}

fn socket_path(value: &PlacedValue<'_>) -> Result<PathBuf, ConfigError> {
    let text = value.text()?;
    let path = PathBuf::from(text.strip_prefix("unix://").unwrap_or(text));
    if !path.is_absolute() || text.len() > MAX_SOCKET_PATH || text.contains('\0') {
        let problem = "is no path of a unix socket; write an absolute one, as in \"/run/docker.sock\"";
        return Err(value.error(problem));
    }
    Ok(path)
}

const MISSING: &str = "write the container's name as `docker` or `podman`, or the path of a network namespace, as in \
                       \"/run/netns/web-1\"";
const DOCKER_SOCKET: &str = "/run/docker.sock";
const PODMAN_SOCKET: &str = "/run/podman/podman.sock";
/// Bytes: `sockaddr_un` has 108 with a zero at the end.
const MAX_SOCKET_PATH: usize = 107;
