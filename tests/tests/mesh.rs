//! A pod whose connections a mesh's proxy takes first, as Istio's and Linkerd's sidecars do with netfilter rules.
//!
//! What travels between pods is scrambled, as mTLS would make it: whoever looked at it in front of the proxy would see no
//! request. The proxy passes plain bytes on, over `lo`.
#![cfg(target_os = "linux")]

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr},
};

use anyhow::{Result, ensure};
use nix::unistd::{Uid, setfsuid};
use redir_rig::{Host, Http, Topology, topology::Family};
use redir_tests::{LOCAL, PORT, Scenario, USUAL, World, both};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
};

const ALICE: &str = "x-user: alice";
/// The proxy's user, whom the rules let pass.
const PROXY: u32 = 1337;
const INBOUND: u16 = 15006;
const SCRAMBLE: u8 = 0x5a;

/// What `istio-init` writes, without the ports that it leaves out.
const RULES: [&str; 12] = [
    "-N ISTIO_IN_REDIRECT",
    "-N ISTIO_REDIRECT",
    "-N ISTIO_OUTPUT",
    "-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006",
    "-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001",
    "-A PREROUTING -p tcp -j ISTIO_IN_REDIRECT",
    "-A OUTPUT -p tcp -j ISTIO_OUTPUT",
    "-A ISTIO_OUTPUT -s 127.0.0.6/32 -o lo -j RETURN",
    "-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT",
    "-A ISTIO_OUTPUT -o lo -m owner ! --uid-owner 1337 -j RETURN",
    "-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN",
    "-A ISTIO_OUTPUT -j ISTIO_REDIRECT",
];

const SIDECAR: Scenario = Scenario {
    before: |topology| {
        for rule in RULES {
            let command: Vec<&str> = ["iptables-legacy", "-t", "nat"].into_iter().chain(rule.split(' ')).collect();
            topology.pod().namespace.output(&command)?;
        }
        start_proxy(topology)
    },
    ..USUAL
};

/// Takes what is redirected, unscrambles it, and connects to the app from 127.0.0.6, as Envoy does.
fn start_proxy(topology: &Topology) -> Result<()> {
    let Host { namespace, v4, .. } = topology.pod();
    let app: SocketAddr = (*v4, PORT).into();
    let listener = namespace.run(|| std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, INBOUND)))??;
    listener.set_nonblocking(true)?;
    namespace.handle()?.spawn(accept(listener, app));
    Ok(())
}

async fn accept(listener: std::net::TcpListener, app: SocketAddr) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (client, _) = listener.accept().await?;
        tokio::spawn(pass_on(client, app));
    }
}

async fn pass_on(client: TcpStream, app: SocketAddr) -> std::io::Result<()> {
    // The rules go by the user who made the socket.
    let before = setfsuid(Uid::from_raw(PROXY));
    let socket = TcpSocket::new_v4();
    setfsuid(before);
    let socket = socket?;
    socket.bind((Ipv4Addr::new(127, 0, 0, 6), 0).into())?;
    let app = socket.connect(app).await?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_app, mut to_app) = app.into_split();
    let back = tokio::spawn(async move { scramble(&mut from_app, &mut to_client).await });
    scramble(&mut from_client, &mut to_app).await?;
    drop(to_app);
    back.await?
}

async fn scramble(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
) -> std::io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        scrambled(&mut buffer[..length]);
        to.write_all(&buffer[..length]).await?;
    }
}

fn scrambled(bytes: &mut [u8]) {
    bytes.iter_mut().for_each(|byte| *byte ^= SCRAMBLE);
}

/// Another pod's proxy.
struct Scrambled(std::net::TcpStream);

impl Read for Scrambled {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.0.read(buffer)?;
        scrambled(&mut buffer[..length]);
        Ok(length)
    }
}

impl Write for Scrambled {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let mut buffer = buffer.to_vec();
        scrambled(&mut buffer);
        self.0.write(&buffer)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

fn get(w: &World, headers: &[&str]) -> Result<String> {
    Ok(Http::new(Scrambled(w.connect(w.client(), Family::V4)?)).get("/", headers)?.text())
}

both!(requests_are_decided_behind_the_proxy, SIDECAR, |w| {
    let (green, _blue) = (w.green()?, w.local(LOCAL, "blue")?);
    ensure!(get(w, &[ALICE])?.starts_with("green 127.0.0.6"), "without redir");
    let _cli = w.alice()?;
    for _ in 0..5 {
        ensure!(get(w, &[ALICE])?.starts_with("blue"), "matched");
        let unmatched = get(w, &["x-user: bob"])?;
        ensure!(unmatched.starts_with("green 127.0.0.6"), "unmatched, with the proxy's address: {unmatched}");
    }
    // A client inside the pod that goes past the proxy, as the kubelet's port-forward does.
    let mut inside = Http::new(w.pod().namespace.connect((Ipv4Addr::LOCALHOST, PORT).into())?);
    ensure!(inside.get("/", &[ALICE])?.text().starts_with("blue"));
    // Beside those, the agent's own look whether the port speaks TLS.
    let own = w.pod().ip(Family::V4);
    let known = |client: &SocketAddr| client.ip().to_canonical().is_loopback() || client.ip().to_canonical() == own;
    ensure!(green.clients().iter().all(known), "{:?}", green.clients());
    Ok(())
});

both!(a_global_intercept_gets_what_the_proxy_passes_on, SIDECAR, |w| {
    let (_green, _blue) = (w.green()?, w.local(LOCAL, "blue")?);
    let _cli = w.intercept(&w.alice, LOCAL, &[])?;
    for _ in 0..3 {
        ensure!(get(w, &[])?.starts_with("blue"));
    }
    Ok(())
});
