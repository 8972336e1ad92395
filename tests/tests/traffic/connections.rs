//! Connections as a whole: how they end, what they carry besides HTTP/1, and where they come from.

use super::*;

const BULK: Scenario = Scenario { limit: Duration::from_secs(150), ..USUAL };
const MEGABYTES_200: usize = 200_000_000;

/// Sends and receives 200 MB with every byte checked.
fn bulk(w: &World, family: Family, header: &str) -> anyhow::Result<()> {
    let mut http = w.http(w.client(), family)?;
    http.send(request("GET", &format!("/download/{MEGABYTES_200}"), &[header]))?;
    let (mut pattern, mut offset) = (Pattern::default(), 0);
    let (_, length) = http.response_with(|piece| {
        anyhow::ensure!(pattern.check(offset, piece), "wrong bytes near {offset}");
        offset += piece.len() as u64;
        Ok(())
    })?;
    assert_eq!(length, MEGABYTES_200);
    http.send(request("POST", "/upload", &[header, &format!("content-length: {MEGABYTES_200}")]))?;
    let (mut buffer, mut sent) = (vec![0; 250_000], 0);
    while sent < MEGABYTES_200 {
        pattern.fill(sent as u64, &mut buffer);
        http.send(&buffer)?;
        sent += buffer.len();
    }
    assert_eq!(http.response()?.text(), format!("whole {MEGABYTES_200}\n"));
    // The connection is as good as before.
    assert_eq!(http.get("/", &[header])?.status, 200);
    Ok(())
}

both!(two_hundred_megabytes_each_way_unmatched, BULK, |w| {
    let _green = w.green()?;
    let _cli = w.alice()?;
    FAMILIES.into_iter().try_for_each(|family| bulk(w, family, "x-user: nobody"))
});

both!(two_hundred_megabytes_each_way_matched, BULK, |w| {
    let _green = w.green()?;
    let blue = w.local(LOCAL, "blue")?;
    let _cli = w.alice()?;
    bulk(w, Family::V4, ALICE)?;
    assert_eq!(blue.seen().len(), 3);
    Ok(())
});

both!(half_close_passes_both_ways, USUAL, |w| {
    let _cli = w.alice()?;
    for family in FAMILIES {
        let app = Listener::new(&w.pod().namespace, (family.any(), PORT).into())?;
        let bulk = vec![b'r'; 1_000_000];
        // The client ends first; the app still talks.
        let mut pair = w.pair(w.client(), family, &app)?;
        write(&mut pair.client, [b'q'; 100])?;
        pair.client.shutdown(Shutdown::Write)?;
        assert_eq!(read_all(&mut pair.app)?, [b'q'; 100]);
        let sender = std::thread::spawn({
            let (mut end, bulk) = (pair.app, bulk.clone());
            move || write(&mut end, bulk)
        });
        assert_eq!(read_all(&mut pair.client)?.len(), bulk.len());
        assert!(sender.join().is_ok_and(|r| r.is_ok()));
        // The app ends first; the client still talks.
        let mut pair = w.pair(w.client(), family, &app)?;
        write(&mut pair.app, b"hi")?;
        pair.app.shutdown(Shutdown::Write)?;
        assert_eq!(read_all(&mut pair.client)?, b"hi");
        let sender = std::thread::spawn({
            let (mut end, bulk) = (pair.client, bulk.clone());
            move || write(&mut end, bulk)
        });
        assert_eq!(read_all(&mut pair.app)?.len(), bulk.len());
        assert!(sender.join().is_ok_and(|r| r.is_ok()));
    }
    Ok(())
});

both!(half_close_after_a_request_still_gets_the_answer, USUAL, |w| {
    let _green = w.green()?;
    let _blue = w.local(LOCAL, "blue")?;
    let _cli = w.alice()?;
    for (header, version) in [(ALICE, "blue"), ("x-user: nobody", "green")] {
        let mut http = w.http(w.client(), Family::V4)?;
        http.send(request("GET", "/", &[header]))?;
        http.stream.shutdown(Shutdown::Write)?;
        assert!(http.response()?.text().starts_with(version));
        assert!(http.closed()?);
    }
    Ok(())
});

both!(resets_pass_both_ways, USUAL, |w| {
    let _cli = w.alice()?;
    for family in FAMILIES {
        let app = Listener::new(&w.pod().namespace, (family.any(), PORT).into())?;
        let mut pair = w.pair(w.client(), family, &app)?;
        write(&mut pair.client, b"not http\r\n")?;
        assert_eq!(read_exactly(&mut pair.app, 10)?, b"not http\r\n");
        reset(pair.app)?;
        assert!(is_reset(&read_all(&mut pair.client)), "the app's reset");
        let mut pair = w.pair(w.client(), family, &app)?;
        write(&mut pair.client, b"not http\r\n")?;
        assert_eq!(read_exactly(&mut pair.app, 10)?, b"not http\r\n");
        reset(pair.client)?;
        assert!(is_reset(&read_all(&mut pair.app)), "the client's reset");
    }
    Ok(())
});

both!(a_reset_by_the_developers_app_reaches_the_client, USUAL, |w| {
    let _green = w.green()?;
    for flags in [&["--header", ALICE][..], &[]] {
        let cli = w.intercept_early(&w.alice, LOCAL, flags)?;
        let local = Listener::new(&w.topology.developer.namespace, ([127, 0, 0, 1], LOCAL).into())?;
        for family in FAMILIES {
            let mut http = w.http(w.client(), family)?;
            http.send(request("GET", "/", &[ALICE]))?;
            let (mut end, _) = local.accept()?;
            // Inside a response there is no other way to say it.
            let part = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf";
            write(&mut end, part)?;
            assert_eq!(read_exactly(&mut http.stream, part.len())?, part);
            reset(end)?;
            assert!(is_reset(&read_all(&mut http.stream)));
            // Before a response it is a 502, which says more; without a filter the connection is the service's own.
            let mut http = w.http(w.client(), family)?;
            http.send(request("GET", "/", &[ALICE]))?;
            reset(local.accept()?.0)?;
            if flags.is_empty() {
                assert!(is_reset(&read_all(&mut http.stream)));
            } else {
                assert_eq!(http.response()?.status, 502);
            }
            // The client's reset reaches the developer's service.
            let mut http = w.http(w.client(), family)?;
            http.send(request("GET", "/", &[ALICE]))?;
            let (mut end, _) = local.accept()?;
            let head = request("GET", "/", &[ALICE]);
            assert_eq!(read_exactly(&mut end, head.len())?, head.as_bytes());
            reset(http.stream)?;
            assert!(is_reset(&read_all(&mut end)));
        }
        cli.leave()?;
    }
    Ok(())
});

fn is_reset(result: &anyhow::Result<Vec<u8>>) -> bool {
    let reset = |e: &anyhow::Error| {
        e.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset)
    };
    result.as_ref().is_err_and(|e| reset(e) || format!("{e:#}").contains("reset by peer"))
}

both!(an_app_that_does_not_listen_refuses_as_ever, USUAL, |w| {
    let _blue = w.local(LOCAL, "blue")?;
    let _cli = w.alice()?;
    for family in FAMILIES {
        for host in [w.client(), &w.topology.peer] {
            let begin = Instant::now();
            let refused = w.connect(host, family).expect_err("nobody listens");
            assert!(format!("{refused:#}").contains("refused"), "{refused:#}");
            assert!(begin.elapsed() < wait::scaled(Duration::from_secs(1)), "{:?}", begin.elapsed());
        }
    }
    w.counted("steer", "app_not_listening", 4.0)?;
    // The app comes, goes, and binds its port again at once, with connections of the old one still open.
    for _ in 0..3 {
        let green = w.green()?;
        let mut open = Vec::new();
        for family in FAMILIES {
            let mut http = w.http(w.client(), family)?;
            assert!(http.get("/", &[])?.text().starts_with("green"));
            assert!(http.get("/", &[ALICE])?.text().starts_with("blue"));
            open.push(http);
        }
        green.stop();
        for http in &mut open {
            assert!(http.closed().unwrap_or(true), "the app's end reaches the client");
        }
    }
    Ok(())
});

both!(a_server_that_speaks_first_is_not_delayed, USUAL, |w| {
    let _cli = w.alice()?;
    for family in FAMILIES {
        let app = Listener::new(&w.pod().namespace, (family.any(), PORT).into())?;
        let mut pair = w.pair(w.client(), family, &app)?;
        let begin = Instant::now();
        write(&mut pair.app, b"220 ready\r\n")?;
        assert_eq!(read_exactly(&mut pair.client, 11)?, b"220 ready\r\n");
        // No detection timeout: those are whole seconds elsewhere.
        assert!(begin.elapsed() < wait::scaled(Duration::from_millis(300)), "{:?}", begin.elapsed());
        // Opaque from then on, even if the client's words look like a matching request.
        let text = request("GET", "/", &[ALICE]);
        write(&mut pair.client, &text)?;
        assert_eq!(read_exactly(&mut pair.app, text.len())?, text.as_bytes());
    }
    Ok(())
});

both!(what_is_not_http_1_goes_to_the_app_untouched, USUAL, |w| {
    let _cli = w.alice()?;
    let app = Listener::new(&w.pod().namespace, (Family::V4.any(), PORT).into())?;
    let hello = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 505]].concat();
    let both_lengths = request("POST", "/", &[ALICE, "content-length: 5", "transfer-encoding: chunked"]) + "0\r\n\r\n";
    let folded = "GET / HTTP/1.1\r\nhost: web\r\nx-user:\r\n alice\r\n\r\n";
    let cases: [&[u8]; 6] = [
        &hello,
        b"PRI * HTTP/2.0\r\n\r\nSN\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        both_lengths.as_bytes(),
        folded.as_bytes(),
        b"\0\0\0\0",
        b"* OK IMAP4rev1 ready\r\n",
    ];
    for bytes in cases {
        let mut pair = w.pair(w.client(), Family::V4, &app)?;
        for piece in bytes.chunks(5) {
            write(&mut pair.client, piece)?;
        }
        assert_eq!(read_exactly(&mut pair.app, bytes.len())?, bytes);
        // Opaque for good.
        let later = request("GET", "/", &[ALICE]);
        write(&mut pair.client, &later)?;
        assert_eq!(read_exactly(&mut pair.app, later.len())?, later.as_bytes());
        write(&mut pair.app, b"bye")?;
        drop(pair.app);
        assert_eq!(read_all(&mut pair.client)?, b"bye");
    }
    Ok(())
});
