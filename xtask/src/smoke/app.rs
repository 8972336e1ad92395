//! The app of the smoke test: a static program of std alone, compiled by `rustc` as it is and put into an image. It
//! answers every HTTP/1.1 request with its name and the client's address as it sees it. `app NAME PORT`.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::{env, thread};

fn main() {
    let mut arguments = env::args().skip(1);
    let name = arguments.next().expect("NAME");
    let port: u16 = arguments.next().and_then(|port| port.parse().ok()).expect("PORT");
    let pod = env::var("HOSTNAME").unwrap_or_default();
    // Both families, as most programs do.
    let listener = TcpListener::bind(("::", port)).expect("the port is free, and there is IPv6");
    for stream in listener.incoming().flatten() {
        let line = format!("{name} {pod}");
        thread::spawn(move || serve(&stream, &line));
    }
}

/// Requests without a body, one after the other.
fn serve(stream: &TcpStream, line: &str) -> Option<()> {
    let client = stream.peer_addr().ok()?.ip().to_canonical();
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        let body = format!("{line} {client}\n");
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        (&mut &*stream).write_all(answer.as_bytes()).ok()?;
    }
}
