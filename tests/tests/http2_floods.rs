//! Long lists of headers in HTTP/2: what passes, and what clients can make the agent hold, measured at the real worker.
#![cfg(target_os = "linux")]

use std::{fs, io::Write, net::TcpStream, time::Duration};

use anyhow::{Context, Result, ensure};
use redir_rig::{
    http2::{CONTINUATION, END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, frame},
    topology::Family,
};
use redir_tests::{
    LOCAL, PORT, Scenario, USUAL, World,
    http2::{Client, LIMIT, Origin, whole},
    once,
};

/// What a flood may cost in memory, in KiB.
const MOST: u64 = 20 * 1024;

/// `GET /` with a field in the compression table, named so often again: a byte each.
fn list(fields: usize, stream: u32) -> Vec<u8> {
    let block = [&[0x82, 0x84, 0x86, 0x41, 1, b'w', 0x40, 1, b'a', 0][..], &vec![0xbe; fields]].concat();
    let mut frames = Vec::new();
    let mut pieces = block.chunks(16_384).enumerate().peekable();
    while let Some((number, piece)) = pieces.next() {
        let last = if pieces.peek().is_none() { END_HEADERS } else { 0 };
        match number {
            0 => frames.extend(frame(HEADERS, END_STREAM | last, stream, piece)),
            _ => frames.extend(frame(CONTINUATION, last, stream, piece)),
        }
    }
    frames
}

/// The most memory of a process since the peak was last forgotten, in KiB.
fn peak(pid: i32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("a peak")?;
    Ok(peak.trim().trim_end_matches(" kB").parse()?)
}

/// Sends lists, one stream each, until all are sent or the connection has ended.
fn pour(client: &mut TcpStream, fields: usize, lists: u32) -> Result<()> {
    client.set_nodelay(true)?;
    let mut heard = client.try_clone()?;
    let reader = std::thread::spawn(move || {
        // A reset is an end as well.
        let _ = std::io::copy(&mut heard, &mut std::io::sink());
    });
    client.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat())?;
    let _all = (0..lists).try_for_each(|number| client.write_all(&list(fields, 2 * number + 1)));
    client.shutdown(std::net::Shutdown::Write)?;
    reader.join().map_err(|_| anyhow::anyhow!("it panicked"))
}

/// The app's version and the developer's.
fn origins(w: &World) -> Result<(Origin, Origin)> {
    let green = Origin::start(&w.pod().namespace, ([0u16; 8], PORT).into(), "green", None)?;
    let blue = Origin::start(&w.topology.developer.namespace, ([127, 0, 0, 1], LOCAL).into(), "blue", None)?;
    Ok((green, blue))
}

once!(long_lists_of_headers_pass_and_longer_ones_cost_only_themselves, USUAL, |w| {
    let (green, blue) = origins(w)?;
    let _cli = w.alice()?;
    let to = w.pod().at(Family::V4, PORT);
    w.client().namespace.block_on(LIMIT, async move {
        let mut client = Client::connect(to).await?;
        for (user, version) in [("alice", "blue"), ("bob", "green")] {
            for bytes in [300_000, 900_000] {
                let response = client.get_long("/", user, bytes).await?;
                let answer = whole(response).await.with_context(|| format!("{bytes} bytes of {user}'s"))?;
                ensure!(answer.version() == version, "{bytes} bytes of {user}'s: {:?}", answer.head);
            }
            let too_long = client.get_long("/", user, 1_200_000).await?;
            ensure!(whole(too_long).await?.head.status() == 431);
            ensure!(client.fetch("/", user).await?.version() == version, "the connection goes on");
        }
        anyhow::Ok(())
    })??;
    for origin in [green, blue] {
        let fields: Vec<_> = origin.seen().iter().map(|seen| seen.headers.len()).collect();
        ensure!(fields == [76, 226, 1], "{fields:?}");
    }
    Ok(())
});

once!(lists_of_many_fields_are_held_a_few_at_a_time, Scenario { limit: Duration::from_secs(180), ..USUAL }, |w| {
    let _origins = origins(w)?;
    let _cli = w.alice()?;
    let worker = w.agent.worker()?;
    // The first connection makes what every later one uses.
    pour(&mut w.connect(w.client(), Family::V4)?, 1_000, 3)?;
    // Far below what is taken, just below, and above.
    for (fields, lists) in [(7_400, 240), (30_000, 60), (60_000, 60)] {
        fs::write(format!("/proc/{worker}/clear_refs"), "5")?;
        let before = peak(worker)?;
        pour(&mut w.connect(w.client(), Family::V4)?, fields, lists)?;
        let grown = peak(worker)?.saturating_sub(before);
        ensure!(grown <= MOST, "{lists} lists of {fields} fields took {grown} KiB");
        ensure!(w.agent.worker()? == worker, "the worker is another one");
    }
    Ok(())
});
