//! Tunnels that bring a port of `web-2` to the developer's machine: `ssh -R`, rathole, rusnel, bore. The server's end is
//! on the middle's CPU; the developer's end is wherever the cell puts the ends, as `redir`'s is.

use std::{fs, net::SocketAddr, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result};
use redir_rig::{Http, Process, namespace::checked, wait};

use super::{Contender, filled, find, write};
use crate::{
    cost::MIDDLE,
    programs::START,
    world::{BenchWorld, LOCAL},
};

/// A kind of tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TunnelPeer {
    /// OpenSSH
    Ssh,
    /// rathole over noise
    Rathole,
    /// rusnel, QUIC on quinn
    Rusnel,
    /// bore, not encrypted
    Bore,
}

/// All of them.
pub const ALL: [TunnelPeer; 4] = [TunnelPeer::Ssh, TunnelPeer::Rathole, TunnelPeer::Rusnel, TunnelPeer::Bore];

impl TunnelPeer {
    /// Its name in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ssh => "ssh -R",
            Self::Rathole => "rathole",
            Self::Rusnel => "rusnel",
            Self::Bore => "bore (clear)",
        }
    }

    /// Starts its server in `web-2`, its files in `folder`.
    pub fn server(self, world: &BenchWorld, folder: &Path) -> Result<Process> {
        let pod = &world.topology.pods[1];
        let (host, cpu) = (pod.v4.to_string(), MIDDLE.to_string());
        let mut command = Command::new("taskset");
        command.args(["--cpu-list", &cpu]);
        match self {
            Self::Ssh => {
                for key in ["host", "user"] {
                    let file = folder.join(key);
                    checked(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(file), None)?;
                }
                // Where sshd wants to shut its unprivileged process in; a package's start script makes it.
                fs::create_dir_all("/run/sshd").context("make /run/sshd")?;
                let dir = folder.to_str().context("a folder's name is not UTF-8")?;
                let file = write(folder, "sshd_config", &filled(SSHD, &[("host", &host), ("dir", dir)]))?;
                command.arg(find("sshd")?).arg("-D").arg("-e").arg("-f").arg(file);
            }
            Self::Rathole => {
                let (control, listen) = (format!("{host}:2333"), self.to(world).to_string());
                let text = filled(RATHOLE_SERVER, &[("control", &control), ("listen", &listen)]);
                command.arg(find("rathole")?).arg("--server").arg(write(folder, "rathole-server.toml", &text)?);
            }
            Self::Rusnel => {
                command.arg(find("rusnel")?).args([
                    "server",
                    "--quiet",
                    "--allow-reverse",
                    "--insecure",
                    "--host",
                    &host,
                ]);
                command.args(["--port", "2444"]);
            }
            Self::Bore => {
                command.arg(find("bore")?).args(["server", "--min-port", "9200", "--max-port", "9200"]);
                command.args(["--bind-addr", &host, "--bind-tunnels", &host]);
            }
        }
        pod.namespace.spawn(self.name(), &mut command)
    }

    /// Starts the developer's end and does not wait.
    pub fn client(self, world: &BenchWorld, folder: &Path) -> Result<Process> {
        let (host, to) = (world.topology.pods[1].v4.to_string(), self.to(world));
        let local = format!("127.0.0.1:{LOCAL}");
        let mut command;
        match self {
            Self::Ssh => {
                command = Command::new(find("ssh")?);
                command.args(["-N", "-p", "2222", "-F", "none", "-i"]).arg(folder.join("user"));
                for option in SSH_OPTIONS {
                    command.args(["-o", option]);
                }
                command.arg("-R").arg(format!("{to}:{local}")).arg(format!("root@{host}"));
            }
            Self::Rathole => {
                command = Command::new(find("rathole")?);
                let text = filled(RATHOLE_CLIENT, &[("control", &format!("{host}:2333")), ("to", &local)]);
                command.arg("--client").arg(write(folder, "rathole-client.toml", &text)?);
            }
            Self::Rusnel => {
                command = Command::new(find("rusnel")?);
                command.args(["client", "--quiet", "--insecure", &format!("{host}:2444"), &format!("R:{to}:{local}")]);
            }
            Self::Bore => {
                command = Command::new(find("bore")?);
                command.args(["local", &LOCAL.to_string(), "--to", &host, "--port", &to.port().to_string()]);
            }
        }
        world.topology.developer.namespace.spawn(self.name(), &mut command)
    }

    /// Both ends, once a request goes through. The cost of the server alone is counted, as the agent's is.
    pub fn start(self, world: &BenchWorld, folder: &Path) -> Result<Contender> {
        let server = self.server(world, folder)?;
        let client = wait::until(format!("{} to go through", self.name()), START, || {
            let mut client = self.client(world, folder)?;
            // Its server may not listen yet; a client that gives up is started again.
            let answered = wait::until_true("an answer", Duration::from_secs(5), || {
                Ok(client.exited()?.is_some() || answers(world, self.to(world)))
            });
            Ok((answered.is_ok() && client.exited()?.is_none()).then_some(client))
        })
        .with_context(|| format!("its server: {}", server.log()))?;
        let mut contender = Contender::transparent(self.name(), self.to(world), vec![server.pid()]);
        contender.expect = "blue";
        contender.processes = vec![client, server];
        Ok(contender)
    }

    /// Where its clients go.
    pub fn to(self, world: &BenchWorld) -> SocketAddr {
        let port = if self == Self::Bore { 9200 } else { 9101 + self as u16 };
        SocketAddr::new(world.topology.pods[1].v4.into(), port)
    }
}

/// Whether the developer answers there.
pub fn answers(world: &BenchWorld, to: SocketAddr) -> bool {
    let connected = world.topology.client.namespace.connect_with(to, Duration::from_secs(1), |_| Ok(()));
    let answer = connected.and_then(|stream| Http::new(stream).get("/", &[]));
    answer.is_ok_and(|answer| answer.text().starts_with("blue"))
}

const SSHD: &str = include_str!("../../peers/sshd_config");
const RATHOLE_SERVER: &str = include_str!("../../peers/rathole-server.toml");
const RATHOLE_CLIENT: &str = include_str!("../../peers/rathole-client.toml");

/// No question, no shared connection, nothing of the person's own.
const SSH_OPTIONS: [&str; 6] = [
    "StrictHostKeyChecking=no",
    "UserKnownHostsFile=/dev/null",
    "BatchMode=yes",
    "ExitOnForwardFailure=yes",
    "LogLevel=ERROR",
    "Ciphers=aes128-gcm@openssh.com",
];
