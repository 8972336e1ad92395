//! A developer's end of a tunnel: answers every request with `blue`, but for `/hold`, and keeps what the agent says.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use redir_rig::{namespace::Namespace, wait};
use redir_tunnel::{Dialled, Identity, Pin, Tunnel, dial};
use redir_wire::{CloseCode, InterceptRequest, Probes, Selector, ToAgent, ToDeveloper, Token};

const SOON: Duration = Duration::from_secs(60);

/// A tunnel that is up, or was.
pub(crate) struct DeveloperTunnel {
    tunnel: Tunnel,
    heard: Arc<Mutex<Vec<ToDeveloper>>>,
}

impl DeveloperTunnel {
    /// Dials from inside `from`, and asks for these Intercepts.
    pub(crate) fn dial(
        from: &Namespace,
        agent: SocketAddr,
        key: Pin,
        identity: &Identity,
        tokens: Vec<Token>,
    ) -> Result<Self> {
        let identity = identity.clone();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let keep = heard.clone();
        let tunnel = from.block_on(SOON, async move {
            let dialled = dial(&[agent], &identity, key, "test", "somebody").await?;
            let tunnel = dialled.tunnel.clone();
            tokio::spawn(listen(dialled, tokens, keep));
            tokio::spawn(serve(tunnel.clone()));
            Ok::<_, redir_tunnel::DialError>(tunnel)
        })?;
        Ok(Self { tunnel: tunnel.context("dial")?, heard })
    }

    /// Waits for something that the agent says.
    pub(crate) fn hears<T>(&self, what: &str, found: impl Fn(&ToDeveloper) -> Option<T>) -> Result<T> {
        wait::until(what, SOON, || {
            Ok(self.heard.lock().unwrap_or_else(PoisonError::into_inner).iter().rev().find_map(&found))
        })
        .with_context(|| format!("heard: {:?}", self.heard.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Closes the tunnel, as Ctrl-C does.
    pub(crate) fn leave(self, from: &Namespace) -> Result<()> {
        from.block_on(SOON, async move { self.tunnel.close(CloseCode::Done).await })
    }
}

async fn listen(mut dialled: Dialled, tokens: Vec<Token>, heard: Arc<Mutex<Vec<ToDeveloper>>>) {
    for token in tokens {
        let request = InterceptRequest {
            earlier: redir_wire::EarlierConnections::Stay,
            token,
            selector: Selector::Pod("-".into()),
            port: 1,
            filter: None,
            to: "127.0.0.1:3000".into(),
            probes: Probes::Developer,
            even_if_down: false,
            forwarded: false,
        };
        dialled.control.ask(&ToAgent::Intercept(request)).expect("a good request");
    }
    while let Ok(Some(message)) = dialled.control.next().await {
        heard.lock().unwrap_or_else(PoisonError::into_inner).push(message.message);
    }
}

async fn serve(tunnel: Tunnel) {
    while let Ok(arrival) = tunnel.accept().await {
        tokio::spawn(async move {
            let mut stream = arrival.header().await.ok()?;
            let mut buffer = [0; 4096];
            // One read is one request here: each is small and waits for its answer.
            while let length @ 1.. = stream.recv.read(&mut buffer).await.ok()?? {
                if buffer[..length].starts_with(b"GET /hold ") {
                    continue;
                }
                stream.send.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nblue\n").await.ok()?;
            }
            Some(())
        });
    }
}
