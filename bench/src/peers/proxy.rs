//! Proxies in front of the app: the floor, HAProxy, nginx, Envoy. Each listens in `web-2` and goes to the app over the
//! pod's own address.

use std::{
    io::{Read, Write},
    net::SocketAddr,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use redir_rig::wait;

use super::{Contender, filled, find, write};
use crate::{
    cost::MIDDLE,
    programs::{self, START},
    world::BenchWorld,
};

/// A kind of proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyPeer {
    /// The bench's own relay.
    Floor,
    /// HAProxy, reading HTTP
    HaproxyHttp,
    /// HAProxy, reading nothing
    HaproxyTcp,
    /// nginx
    Nginx,
    /// Envoy
    Envoy,
}

/// All of them.
pub const ALL: [ProxyPeer; 5] =
    [ProxyPeer::Floor, ProxyPeer::HaproxyHttp, ProxyPeer::HaproxyTcp, ProxyPeer::Nginx, ProxyPeer::Envoy];

impl ProxyPeer {
    /// Its name in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Floor => "epoll floor",
            Self::HaproxyHttp => "HAProxy http",
            Self::HaproxyTcp => "HAProxy tcp",
            Self::Nginx => "nginx",
            Self::Envoy => "Envoy",
        }
    }

    fn port(self) -> u16 {
        9001 + self as u16
    }

    /// Starts it in `web-2`, its files in `folder`; it answers when this returns.
    pub fn start(self, world: &BenchWorld, folder: &Path) -> Result<Contender> {
        let pod = &world.topology.pods[1];
        let listen = SocketAddr::new(pod.v4.into(), self.port());
        let app = world.app(1);
        let mut process = match self {
            Self::Floor => {
                programs::start(&pod.namespace, &["relay", "--listen", &listen.to_string(), "--to", &app.to_string()])?
            }
            _ => pod.namespace.spawn(self.name(), &mut self.command(listen, app, folder)?)?,
        };
        wait::until_true(format!("{} to listen", self.name()), START, || {
            if let Some(status) = process.exited()? {
                bail!("it ended ({status}): {}", process.log());
            }
            Ok(world.topology.client.namespace.connect_with(listen, Duration::from_secs(1), |_| Ok(())).is_ok())
        })?;
        let mut contender = Contender::transparent(self.name(), listen, vec![process.pid()]);
        contender.processes = vec![process];
        contender.statistics = matches!(self, Self::HaproxyHttp | Self::HaproxyTcp).then(|| self.statistics(folder));
        Ok(contender)
    }

    /// The socket on which HAProxy answers questions about itself.
    fn statistics(self, folder: &Path) -> PathBuf {
        folder.join(format!("haproxy-{}.sock", self.port()))
    }

    fn command(self, listen: SocketAddr, app: SocketAddr, folder: &Path) -> Result<Command> {
        let (listen_text, app_text) = (listen.to_string(), app.to_string());
        let folder_text = folder.to_str().context("a folder's name is not UTF-8")?;
        let plain = [("listen", listen_text.as_str()), ("app", app_text.as_str()), ("dir", folder_text)];
        let cpu = MIDDLE.to_string();
        let mut command = Command::new("taskset");
        command.args(["--cpu-list", &cpu]);
        match self {
            Self::Floor => unreachable!("it is this very program"),
            Self::HaproxyHttp | Self::HaproxyTcp => {
                let text = if self == Self::HaproxyTcp { HAPROXY_TCP } else { HAPROXY_HTTP };
                let socket = self.statistics(folder);
                let socket = socket.to_str().context("a folder's name is not UTF-8")?;
                let text = filled(&filled(text, &plain), &[("statistics", socket)]);
                let file = write(folder, &format!("haproxy-{}.cfg", self.port()), &text)?;
                command.arg(find("haproxy")?).arg("-db").arg("-f").arg(file);
            }
            Self::Nginx => {
                let file = write(folder, "nginx.conf", &filled(NGINX, &plain))?;
                command.arg(find("nginx")?).arg("-c").arg(file).arg("-e").arg(folder.join("error.log"));
            }
            Self::Envoy => {
                let (listen_port, app_port) = (listen.port().to_string(), app.port().to_string());
                let (listen_host, app_host) = (listen.ip().to_string(), app.ip().to_string());
                let places = [
                    ("listen-host", listen_host.as_str()),
                    ("listen-port", &listen_port),
                    ("app-host", &app_host),
                    ("app-port", &app_port),
                ];
                let file = write(folder, "envoy.yaml", &filled(ENVOY, &places))?;
                command.arg(find("envoy")?).arg("--config-path").arg(file);
                command.args(["--concurrency", "1", "--use-dynamic-base-id", "--log-level", "error"]);
            }
        }
        Ok(command)
    }
}

/// What is shown of the settings that a cell rests on: in one with large bodies, HAProxy's TCP mode must have spliced all of
/// them. An error if it has not: its figure would be that of another setting.
pub fn proven(contenders: &[Contender], cell: &str) -> Result<Vec<String>> {
    let tcp = |contender: &&Contender| contender.name == ProxyPeer::HaproxyTcp.name() && cell.contains("MB bodies");
    let Some(contender) = contenders.iter().find(tcp) else { return Ok(Vec::new()) };
    let socket = contender.statistics.as_deref().context("HAProxy's socket for statistics is not configured")?;
    let [all, spliced] = haproxy_bytes_out(socket)?;
    if spliced * 10 < all * 9 {
        bail!("{} was to splice in {cell}, and did so with {spliced} of {all} bytes", contender.name);
    }
    let percent = (spliced * 100).checked_div(all).unwrap_or(0);
    Ok(vec![format!("{} in {cell}: {percent} % of its {} MB went through splice(2)", contender.name, all / 1_000_000)])
}

/// Bytes that HAProxy has sent: all, and those by splice(2).
fn haproxy_bytes_out(socket: &Path) -> Result<[u64; 2]> {
    let mut stream = UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    stream.write_all(b"show info\n").context("ask HAProxy")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("read HAProxy's answer")?;
    let value = |names: &[&str]| {
        let line = answer.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            names.contains(&name).then_some(value)
        });
        line.with_context(|| format!("HAProxy does not tell {}", names[0]))?.trim().parse().context("no number")
    };
    // The second one's name is written so up to 2.6.
    Ok([value(&["TotalBytesOut"])?, value(&["TotalSplicedBytesOut", "TotalSplicdedBytesOut"])?])
}

const HAPROXY_HTTP: &str = include_str!("../../peers/haproxy-http.cfg");
const HAPROXY_TCP: &str = include_str!("../../peers/haproxy-tcp.cfg");
const NGINX: &str = include_str!("../../peers/nginx.conf");
const ENVOY: &str = include_str!("../../peers/envoy.yaml");
