//! gRPC as people run it, through the real agent: services and clients of tonic and of Google's own library, in all four
//! kinds of calls, matched and unmatched ones at once on one connection.
#![cfg(target_os = "linux")]

use std::{
    convert::Infallible,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bytes::{Buf, BufMut};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use redir_rig::{Namespace, Process, topology::Family};
use redir_tests::{LOCAL, PORT, SOON, Scenario, USUAL, cases, once};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{
    Code, Request, Response, Status, Streaming,
    body::Body,
    client,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    server,
    transport::{Channel, Endpoint, Server, server::TcpIncoming},
};
use tower::service_fn;

const LONG: Scenario = Scenario { limit: Duration::from_secs(120), ..USUAL };
const ROUNDS: usize = 40;

/// Starts a script of this folder with grpcio.
fn python(namespace: &Namespace, script: &str, arguments: &[&str]) -> Result<Process> {
    let mut command = Command::new("python3");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(script)).args(arguments);
    namespace.spawn(script, command.env("PYTHONPATH", cases("grpcio")?).env("PYTHONDONTWRITEBYTECODE", "1"))
}

fn grpcio_service(namespace: &Namespace, address: SocketAddr, version: &str) -> Result<Process> {
    service(namespace, &[&address.to_string(), version])
}

fn service(namespace: &Namespace, arguments: &[&str]) -> Result<Process> {
    let mut service = python(namespace, "service.py", arguments)?;
    service.wait_for_line("serving", SOON)?;
    Ok(service)
}

/// Messages are bytes.
#[derive(Clone, Copy, Default)]
struct Plain;

impl Codec for Plain {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Plain;
    type Decoder = Plain;

    fn encoder(&mut self) -> Plain {
        Plain
    }

    fn decoder(&mut self) -> Plain {
        Plain
    }
}

impl Encoder for Plain {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, message: Vec<u8>, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put_slice(&message);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut message = vec![0; from.remaining()];
        from.copy_to_slice(&mut message);
        Ok(Some(message))
    }
}

/// The same service as `service.py`, with tonic. It runs as long as the namespace.
fn tonic_service(namespace: &Namespace, address: SocketAddr, version: &'static str) -> Result<()> {
    let listener = namespace.run(|| TcpListener::bind(address))?.with_context(|| format!("listen on {address}"))?;
    listener.set_nonblocking(true)?;
    namespace.handle()?.spawn(async move {
        let incoming = TcpIncoming::from(tokio::net::TcpListener::from_std(listener)?).with_nodelay(Some(true));
        let service =
            service_fn(move |request| async move { Ok::<_, Infallible>(answer(version.as_bytes(), request).await) });
        Server::builder().serve_with_incoming(service, incoming).await?;
        anyhow::Ok(())
    });
    Ok(())
}

fn said(version: &[u8], what: &[u8]) -> Vec<u8> {
    [version, b" ", what].concat()
}

async fn answer(version: &'static [u8], request: http::Request<Body>) -> http::Response<Body> {
    let mut grpc = server::Grpc::new(Plain);
    match request.uri().path() {
        "/redir.Test/Unary" => {
            let unary = service_fn(move |request: Request<Vec<u8>>| async move {
                match request.get_ref().as_slice() {
                    b"fail" => Err(Status::failed_precondition(String::from_utf8_lossy(version))),
                    message => {
                        let mut response = Response::new(said(version, message));
                        let name = String::from_utf8_lossy(version).parse().expect("ASCII");
                        response.metadata_mut().insert("x-version", name);
                        Ok(response)
                    }
                }
            });
            grpc.unary(unary, request).await
        }
        "/redir.Test/ServerStreaming" => {
            let streaming = service_fn(move |request: Request<Vec<u8>>| async move {
                let count: usize = String::from_utf8_lossy(request.get_ref()).parse().unwrap_or_default();
                let numbers = (0..count).map(move |number| Ok(said(version, number.to_string().as_bytes())));
                Ok::<_, Status>(Response::new(tokio_stream::iter(numbers)))
            });
            grpc.server_streaming(streaming, request).await
        }
        "/redir.Test/ClientStreaming" => {
            let streaming = service_fn(move |request: Request<Streaming<Vec<u8>>>| async move {
                let (mut messages, mut sum) = (request.into_inner(), 0);
                while let Some(message) = messages.message().await? {
                    sum += message.len();
                }
                Ok::<_, Status>(Response::new(said(version, sum.to_string().as_bytes())))
            });
            grpc.client_streaming(streaming, request).await
        }
        _ => {
            let streaming = service_fn(move |request: Request<Streaming<Vec<u8>>>| async move {
                let back = request.into_inner().map(move |message| message.map(|message| said(version, &message)));
                Ok::<_, Status>(Response::new(back))
            });
            grpc.streaming(streaming, request).await
        }
    }
}

/// What `client.py` does, with tonic.
async fn tonic_client(to: SocketAddr) -> Result<()> {
    let channel = Endpoint::from_shared(format!("http://{to}"))?.connect().await?;
    let mut rounds = JoinSet::new();
    for number in 0..ROUNDS {
        let (user, version) = [("alice", "blue"), ("bob", "green")][number % 2];
        rounds.spawn(round(client::Grpc::new(channel.clone()), user, version.as_bytes(), number));
    }
    while let Some(round) = rounds.join_next().await {
        round??;
    }
    Ok(())
}

fn call<T>(user: &'static str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-user", user.parse().expect("ASCII"));
    request
}

fn method(name: &str) -> http::uri::PathAndQuery {
    format!("/redir.Test/{name}").parse().expect("a path")
}

async fn round(mut grpc: client::Grpc<Channel>, user: &'static str, version: &[u8], number: usize) -> Result<()> {
    grpc.ready().await?;
    let message = vec![b'x'; number];
    let answer = grpc.unary(call(user, message.clone()), method("Unary"), Plain).await?;
    ensure!(answer.get_ref() == &said(version, &message), "{answer:?}");

    grpc.ready().await?;
    let failure = grpc.unary::<_, Vec<u8>, _>(call(user, b"fail".to_vec()), method("Unary"), Plain).await;
    let status = failure.err().context("a failure")?;
    ensure!(status.code() == Code::FailedPrecondition && status.message().as_bytes() == version, "{status:?}");

    grpc.ready().await?;
    let numbers = grpc.server_streaming(call(user, b"100".to_vec()), method("ServerStreaming"), Plain).await?;
    let numbers: Vec<Vec<u8>> = numbers.into_inner().collect::<Result<_, _>>().await?;
    ensure!((0..100).map(|number| said(version, number.to_string().as_bytes())).eq(numbers));

    grpc.ready().await?;
    let pieces = tokio_stream::iter(std::iter::repeat_n(vec![b'y'; 10_000], 50));
    let sum = grpc.client_streaming(call(user, pieces), method("ClientStreaming"), Plain).await?;
    ensure!(sum.get_ref() == &said(version, b"500000"), "{sum:?}");

    // One message there, one back, in turn. Google's service sends no head before its first message.
    grpc.ready().await?;
    let (send, messages) = mpsc::channel(1);
    send.send(b"first".to_vec()).await?;
    let both_ways = grpc.streaming(call(user, ReceiverStream::new(messages)), method("BothWays"), Plain).await?;
    let mut back: Streaming<Vec<u8>> = both_ways.into_inner();
    ensure!(back.message().await? == Some(said(version, b"first")));
    for number in 0..20 {
        let message = number.to_string().into_bytes();
        send.send(message.clone()).await?;
        ensure!(back.message().await? == Some(said(version, &message)));
    }
    drop(send);
    ensure!(back.message().await?.is_none());

    // And one that is given up, before Google's service has said anything and after tonic's head.
    grpc.ready().await?;
    let (_send, messages) = mpsc::channel::<Vec<u8>>(1);
    let given_up =
        grpc.streaming::<_, _, Vec<u8>, _>(call(user, ReceiverStream::new(messages)), method("BothWays"), Plain);
    let _ = timeout(Duration::from_millis(50), given_up).await;
    Ok(())
}

once!(googles_client_meets_its_own_service_and_tonics, LONG, |w| {
    let _green = grpcio_service(&w.pod().namespace, ([0; 4], PORT).into(), "green")?;
    tonic_service(&w.topology.developer.namespace, ([127, 0, 0, 1], LOCAL).into(), "blue")?;
    let mut cli = w.alice()?;
    let to = w.pod().at(Family::V4, PORT).to_string();
    let mut client = python(&w.client().namespace, "client.py", &[&to, &ROUNDS.to_string()])?;
    client.wait_for_line("rounds", Duration::from_secs(60))?;
    // Five whole calls of each of alice's rounds; one of them fails by its status, which HTTP calls 200 as well.
    let events = cli.wait_events("request", ROUNDS / 2 * 5, SOON)?;
    ensure!(events.iter().all(|event| event["method"] == "POST"), "{events:?}");
    let opened = w.metric("redir_connections_total", &[])?;
    ensure!(opened < 3.5, "one connection carried everything: {opened}");
    Ok(())
});

once!(tonics_client_meets_its_own_service_and_googles, LONG, |w| {
    tonic_service(&w.pod().namespace, ([0u16; 8], PORT).into(), "green")?;
    let _blue = grpcio_service(&w.topology.developer.namespace, ([127, 0, 0, 1], LOCAL).into(), "blue")?;
    let _cli = w.alice()?;
    for family in [Family::V4, Family::V6] {
        let to = w.pod().at(family, PORT);
        w.client().namespace.block_on(Duration::from_secs(60), tonic_client(to))??;
    }
    Ok(())
});

once!(a_call_given_up_is_given_up_at_its_service, LONG, |w| {
    let green = grpcio_service(&w.pod().namespace, ([0; 4], PORT).into(), "green")?;
    let blue = grpcio_service(&w.topology.developer.namespace, ([127, 0, 0, 1], LOCAL).into(), "blue")?;
    let _cli = w.alice()?;
    for (user, mut service) in [("alice", blue), ("bob", green)] {
        let to = w.pod().at(Family::V4, PORT);
        // Without a deadline, which the service would keep by itself.
        let hanging = w.client().namespace.handle()?.spawn(async move {
            let mut grpc = client::Grpc::new(Endpoint::from_shared(format!("http://{to}"))?.connect().await?);
            grpc.ready().await?;
            anyhow::Ok(grpc.unary::<_, Vec<u8>, _>(call(user, b"hang".to_vec()), method("Unary"), Plain).await?)
        });
        service.wait_for_line("hanging", SOON)?;
        hanging.abort();
        service.wait_for_line("given up", SOON)?;
    }
    Ok(())
});

/// Talks in turn, and ends the service in the middle.
async fn talk_to_its_end(to: SocketAddr, user: &'static str, version: &[u8], service: Pid) -> Result<()> {
    let mut grpc = client::Grpc::new(Endpoint::from_shared(format!("http://{to}"))?.connect().await?);
    grpc.ready().await?;
    let (send, messages) = mpsc::channel(1);
    send.send(b"0".to_vec()).await?;
    let both_ways = grpc.streaming(call(user, ReceiverStream::new(messages)), method("BothWays"), Plain).await?;
    let mut back: Streaming<Vec<u8>> = both_ways.into_inner();
    for number in 0..40_u8 {
        let answer = timeout(SOON, back.message()).await.context("no answer")??;
        ensure!(answer == Some(said(version, number.to_string().as_bytes())), "{answer:?}");
        if number == 10 {
            kill(service, Signal::SIGTERM)?;
        }
        send.send((number + 1).to_string().into_bytes()).await?;
    }
    drop(send);
    ensure!(back.message().await? == Some(said(version, b"40")) && back.message().await?.is_none());
    Ok(())
}

once!(a_service_that_ends_lets_its_calls_end, LONG, |w| {
    let green = grpcio_service(&w.pod().namespace, ([0; 4], PORT).into(), "green")?;
    let blue = grpcio_service(&w.topology.developer.namespace, ([127, 0, 0, 1], LOCAL).into(), "blue")?;
    let _cli = w.alice()?;
    for (user, version, mut service) in [("alice", b"blue".as_slice(), blue), ("bob", b"green", green)] {
        let (to, pid) = (w.pod().at(Family::V4, PORT), Pid::from_raw(service.pid()));
        w.client().namespace.block_on(Duration::from_secs(60), talk_to_its_end(to, user, version, pid))??;
        ensure!(service.exit_code(SOON)? == 0, "{}", service.log());
    }
    Ok(())
});

// A service that ends connections by their age refuses what was on its way: nobody else sees that either.
once!(a_service_that_ends_its_connections_costs_no_call, LONG, |w| {
    tonic_service(&w.pod().namespace, ([0u16; 8], PORT).into(), "green")?;
    let address = SocketAddr::from(([127, 0, 0, 1], LOCAL)).to_string();
    let _blue = service(&w.topology.developer.namespace, &[&address, "blue", "150"])?;
    let _cli = w.alice()?;
    let to = w.pod().at(Family::V4, PORT);
    w.client().namespace.block_on(Duration::from_secs(90), async move {
        let channel = Endpoint::from_shared(format!("http://{to}"))?.connect().await?;
        let mut callers = JoinSet::new();
        for caller in 0..8 {
            let channel = channel.clone();
            callers.spawn(async move {
                let mut grpc = client::Grpc::new(channel);
                for number in 0..400 {
                    grpc.ready().await?;
                    let message = format!("{caller} {number}").into_bytes();
                    let answer = grpc.unary(call("alice", message.clone()), method("Unary"), Plain).await;
                    let answer = answer.with_context(|| format!("call {number} of caller {caller}"))?;
                    ensure!(answer.get_ref() == &said(b"blue", &message), "{answer:?}");
                }
                anyhow::Ok(())
            });
        }
        while let Some(caller) = callers.join_next().await {
            caller??;
        }
        anyhow::Ok(())
    })?
});

// The kubelet probes with gRPC's own library, whose user agent it begins with its name.
once!(a_global_intercept_leaves_the_kubelets_probes_to_the_app, LONG, |w| {
    let _green = grpcio_service(&w.pod().namespace, ([0; 4], PORT).into(), "green")?;
    let _blue = grpcio_service(&w.topology.developer.namespace, ([127, 0, 0, 1], LOCAL).into(), "blue")?;
    let to = w.pod().at(Family::V4, PORT);
    for (flags, probed) in [(&[][..], "green"), (&["--probes"], "blue")] {
        let cli = w.intercept(&w.alice, LOCAL, flags)?;
        for (agent, version) in [("kube-probe/1.30", probed), ("else", "blue"), ("kube-probe/1.30", probed)] {
            w.client().namespace.block_on(Duration::from_secs(60), async move {
                let endpoint = Endpoint::from_shared(format!("http://{to}"))?.user_agent(agent)?;
                let mut grpc = client::Grpc::new(endpoint.connect().await?);
                grpc.ready().await?;
                let answer = grpc.unary(call("alice", b"probe".to_vec()), method("Unary"), Plain).await?;
                ensure!(answer.get_ref() == &said(version.as_bytes(), b"probe"), "{agent}: {answer:?}");
                anyhow::Ok(())
            })??;
        }
        cli.leave()?;
    }
    Ok(())
});
