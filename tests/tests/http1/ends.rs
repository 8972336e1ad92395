//! Who may end a connection, and when: closes, half-closes, early ends, early answers.

use super::*;

once!(a_close_is_passed_on_after_the_answer, HTTP1, |w| {
    let stage = Stage::new(w)?;
    let until_close = "HTTP/1.1 200 OK\r\nX-Body: follows\r\n\r\nas long as it lasts";
    let old = "HTTP/1.0 200 OK\r\n\r\nas long as it lasts";
    let old_with_length = "HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nold";
    let closing = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbye";
    let closing_chunked =
        "HTTP/1.1 200 OK\r\nConnection: x, Close\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nbye\r\n0\r\n\r\n";
    for answer in [until_close, old, old_with_length, closing, closing_chunked] {
        stage.play(both_ways(|of, other| {
            let before = exchange(other, get(other, 1), ok("1"));
            [before, exchange(of, get(of, 2), answer), vec![(of, Closes), (Client, HearsEnd)]].concat()
        }))?;
    }
    // A developer's service that says so and does not do it; nothing that follows is anybody's.
    let silent = [says(Client, get(Alice, 1) + &get(Alice, 2)), hears(Alice, get(Alice, 1) + &get(Alice, 2))];
    let silent =
        [silent.to_vec(), passes(Alice, Client, closing), vec![(Client, HearsEnd), (Alice, HearsEnd)]].concat();
    // The app closes by itself, or not: what follows is between it and the client.
    let app = [exchange(App, get(App, 1), closing), exchange(App, get(Alice, 2), ok("2"))].concat();
    stage.play([("a developer says close", silent), ("the app says close", app)])?;
    // The client says that it is the last.
    let last = |of: Who| request(of, "GET /last", "Connection: close\r\n");
    let old = |of: Who| format!("GET /last HTTP/1.0\r\nX-User: {}\r\n\r\n", of.user());
    stage.play(both_ways(|of, other| {
        let before = exchange(other, get(other, 1), ok("1"));
        [before, exchange(of, last(of), ok("bye")), vec![(of, Closes), (Client, HearsEnd)]].concat()
    }))?;
    stage.play(both_ways(|of, other| {
        let before = exchange(other, get(other, 1), ok("1"));
        [before, exchange(of, old(of), old_with_length), vec![(of, Closes), (Client, HearsEnd)]].concat()
    }))
});

once!(a_client_that_is_done_gets_its_answers, HTTP1, |w| {
    let stage = Stage::new(w)?;
    let post = |of| request(of, "POST /", "Content-Length: 10\r\n");
    stage.play(both_ways(|of, other| {
        [
            exchange(other, get(other, 1), ok("1")),
            vec![says(Client, get(of, 2) + &get(of, 3)), (Client, Finishes), hears(of, get(of, 2) + &get(of, 3))],
            passes(of, Client, ok("2") + &ok("3")),
        ]
        .concat()
    }))?;
    stage.play(both_ways(|of, other| {
        [
            vec![says(Client, get(other, 1) + &get(of, 2)), (Client, Finishes), hears(other, get(other, 1))],
            vec![says(other, ok("1")), hears(Client, ok("1")), hears(of, get(of, 2))],
            passes(of, Client, ok("2")),
        ]
        .concat()
    }))?;
    // Inside a body: the origin hears the end there, and may still answer.
    let bad = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    stage.play(both_ways(|of, other| {
        [
            exchange(other, get(other, 1), ok("1")),
            passes(Client, of, post(of) + "01234"),
            vec![(Client, Finishes), (of, HearsEnd)],
            passes(of, Client, bad),
            vec![(of, Closes), (Client, HearsEnd)],
        ]
        .concat()
    }))?;
    // Inside a head: it is the app's, as it came.
    let half = "GET / HTTP/1.1\r\nX-User: alice\r\nX-Ha";
    stage.play([(
        "half a head",
        [
            exchange(Alice, get(Alice, 1), ok("1")),
            vec![says(Client, half), (Client, Finishes), hears(App, half), (App, HearsEnd)],
            passes(App, Client, bad),
            vec![(App, Closes), (Client, HearsEnd)],
        ]
        .concat(),
    )])
});

once!(an_origin_that_ends_early_is_seen_as_it_is, HTTP1, |w| {
    let stage = Stage::new(w)?;
    let part = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nnot all";
    let chunk = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let begin = |of: Who| [exchange(Bob, get(Bob, 1), ok("1")), exchange(of, get(of, 2), part)].concat();
    let chunks = |of: Who| exchange(of, get(of, 2), chunk);
    stage.play([
        // The app's end is the client's, as without redir.
        ("the app closes", [begin(App), vec![(App, Closes), (Client, HearsEnd)]].concat()),
        ("the app closes in chunks", [chunks(App), vec![(App, Closes), (Client, HearsEnd)]].concat()),
        ("the app resets", [begin(App), vec![(App, Resets), (Client, HearsReset)]].concat()),
        (
            "the app closes in a head",
            [
                passes(Client, App, get(App, 1)),
                passes(App, Client, ""),
                vec![says(App, "HTTP/1.1 2"), (App, Closes), hears(Client, "HTTP/1.1 2"), (Client, HearsEnd)],
            ]
            .concat(),
        ),
        (
            "the app closes instead",
            [passes(Client, App, get(App, 1)), vec![(App, Closes), (Client, HearsEnd)]].concat(),
        ),
        // A developer's is one that no client takes for the end of the answer.
        ("a developer closes", [begin(Alice), vec![(Alice, Closes), (Client, HearsReset)]].concat()),
        ("a developer closes in chunks", [chunks(Alice), vec![(Alice, Closes), (Client, HearsReset)]].concat()),
        ("a developer resets", [begin(Alice), vec![(Alice, Resets), (Client, HearsReset)]].concat()),
    ])?;
    // Without an answer it is a 502 of redir's own, and the connection goes on.
    let mut talk = stage.talk()?;
    for (more, kept) in [("", true), ("Content-Length: 5\r\n", false)] {
        let request = request(Alice, "PUT /", more);
        passes(Client, Alice, &request).iter().try_for_each(|step| talk.step(step))?;
        talk.step(&(Alice, Closes))?;
        let head = b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: ";
        talk.step(&hears(Client, head))?;
        let rest = talk.line(Client)?;
        let length: usize = rest.trim().parse()?;
        if !kept {
            talk.step(&hears(Client, "Connection: close\r\n"))?;
        }
        talk.step(&hears(Client, "\r\n"))?;
        let body = talk.read(Client, length)?;
        ensure!(body.starts_with(b"redir: ") && body.ends_with(b"\n"), "{}", body.escape_ascii());
    }
    talk.step(&(Client, HearsEnd))?;
    // An answer before the whole request is read, from who then closes.
    let post = |of| request(of, "POST /", "Content-Length: 10\r\n") + "01234";
    let full = "HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nno\n";
    stage.play(both_ways(|of, _| [exchange(of, post(of), full), vec![(of, Closes), (Client, HearsEnd)]].concat()))
});

once!(an_answer_before_the_requests_end_lets_the_body_go_on, HTTP1, |w| {
    let stage = Stage::new(w)?;
    let post = |of| request(of, "POST /", "Content-Length: 10\r\n") + "01234";
    stage.play(both_ways(|of, other| {
        [
            exchange(of, post(of), ok("early")),
            // The other one's request waits for the body's end, not for an answer.
            vec![says(Client, "56789".to_owned() + &get(other, 2)), hears(of, "56789"), hears(other, get(other, 2))],
            passes(other, Client, ok("2")),
            as_before(),
        ]
        .concat()
    }))?;
    // A developer's service that says more than its answer, or ends, inside the request: the rest of the body is nobody's,
    // and least of all a request on a connection of its own.
    let rest = request(Alice, "56789GET", "");
    let inside = |of| request(of, "POST /", &format!("Content-Length: {}\r\n", rest.len()));
    let more = [
        vec![says(Client, inside(Alice)), hears(Alice, inside(Alice))],
        vec![says(Alice, ok("early") + "and more"), hears(Client, ok("early")), (Alice, HearsEnd), (Alice, Closes)],
        vec![says(Client, rest.clone() + &get(Alice, 2)), hears(Alice, get(Alice, 2))],
        passes(Alice, Client, ok("2")),
        as_before(),
    ];
    let ends = [exchange(Alice, inside(Alice), ok("early")), vec![(Alice, Closes), (Client, HearsEnd)]];
    stage.play([("more than the answer", more.concat()), ("an end", ends.concat())])
});
