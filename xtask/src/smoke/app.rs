//! The app of the smoke test: a static program of std alone, compiled by `rustc` as it is and put into an image. It
//! answers every HTTP/1.1 request with its name and the client's address as it sees it, and ends when it is asked for `/end`:
//! `app NAME PORT`. As a client it prints the body of an answer, or one word and what went wrong: `app get HOST PORT SECONDS
//! [HEADER]`; `app ask PORT HEADER` asks over the loopback device, with the header and without, in both families.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::time::Duration;
use std::{env, process, thread};

fn main() {
    let mut arguments = env::args().skip(1).peekable();
    if arguments.next_if(|word| word == "get").is_some() {
        let arguments: Vec<String> = arguments.collect();
        let (host, port) = (&arguments[0], arguments[1].parse().expect("PORT"));
        let limit = Duration::from_secs(arguments[2].parse().expect("SECONDS"));
        println!("{}", get(host, port, limit, arguments.get(3).map(String::as_str)).unwrap_or_else(|error| error));
        return;
    }
    let name = arguments.next().expect("NAME");
    let port: u16 = arguments.next().and_then(|port| port.parse().ok()).expect("PORT");
    if name == "ask" {
        return ask(port, &arguments.next().expect("HEADER"));
    }
    let pod = env::var("HOSTNAME").unwrap_or_default();
    // Both families, as most programs do.
    let listener = TcpListener::bind(("::", port)).expect("the port is free, and there is IPv6");
    for stream in listener.incoming().flatten() {
        let line = format!("{name} {pod}");
        thread::spawn(move || serve(&stream, &line));
    }
}

/// The body's line; what kept it from coming otherwise.
fn get(host: &str, port: u16, limit: Duration, header: Option<&str>) -> Result<String, String> {
    let mut addresses = (host.trim_matches(['[', ']']), port).to_socket_addrs().map_err(|error| format!("unnamed {error}"))?;
    let address = addresses.next().ok_or("unnamed no address")?;
    let mut stream = TcpStream::connect_timeout(&address, limit).map_err(|error| format!("denied {error}"))?;
    let header = header.map(|header| format!("{header}\r\n")).unwrap_or_default();
    let exchange = |stream: &mut TcpStream| {
        stream.set_read_timeout(Some(limit))?;
        write!(stream, "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{header}\r\n")?;
        let (mut reader, mut line, mut length) = (BufReader::new(stream), String::new(), 0);
        while line != "\r\n" {
            line.clear();
            reader.read_line(&mut line)?;
            if let Some((name, value)) = line.split_once(':') {
                if name.eq_ignore_ascii_case("content-length") {
                    length = value.trim().parse().unwrap_or(0);
                }
            }
            if line.is_empty() {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        Ok(String::from_utf8_lossy(&body).trim_end().to_owned())
    };
    exchange(&mut stream).map_err(|error: std::io::Error| format!("broken {error}"))
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
        if head.starts_with("GET /end ") {
            process::exit(0);
        }
    }
}

/// Prints an answer a line.
fn ask(port: u16, header: &str) {
    for host in ["127.0.0.1", "::1"] {
        for header in [Some(header), None] {
            println!("{}", get(host, port, Duration::from_secs(15), header).unwrap_or_else(|error| error));
        }
    }
}
