//! Real sockets of this machine's own namespace. Needs root.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd},
    thread::sleep,
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

use super::*;

/// No user of this test.
const NOBODY: u32 = 4_000_000;

fn pair(listener: &TcpListener) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
    client.set_read_timeout(Some(Duration::from_secs(20))).expect("option");
    (client, listener.accept().expect("accepted").0)
}

/// Ends of a request and its answer, which took the app longer than a tick of the clock.
fn exchange((client, app): (&mut TcpStream, &mut TcpStream)) {
    let mut buffer = [0; 8];
    client.write_all(b"question").expect("sent");
    app.read_exact(&mut buffer).expect("received");
    sleep(Duration::from_millis(25));
    app.write_all(b"answered").expect("sent");
    client.read_exact(&mut buffer).expect("received");
}

fn to_the_end(flush: &mut PortFlush) -> FlushResult {
    let limit = Instant::now() + Duration::from_secs(60);
    loop {
        sleep(flush.next().saturating_duration_since(Instant::now()));
        if let Some(flushed) = flush.step(Instant::now()).expect("this kernel can") {
            return flushed;
        }
        assert!(Instant::now() < limit, "{flush:?}");
    }
}

fn is_reset(client: &mut TcpStream) -> bool {
    matches!(client.read(&mut [0]), Err(error) if error.kind() == ErrorKind::ConnectionReset)
}

fn is_alive(client: &mut TcpStream, app: &mut TcpStream) -> bool {
    let mut byte = [0];
    client.write_all(b"x").is_ok() && app.read_exact(&mut byte).is_ok() && byte == *b"x"
}

#[test]
fn idle_connections_are_closed_and_those_in_use_once_they_are_idle() {
    for host in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
        let listener = TcpListener::bind(host).expect("port");
        let port = listener.local_addr().expect("bound").port();
        let (mut fresh, mut answered, mut asked, mut unread) =
            (pair(&listener), pair(&listener), pair(&listener), pair(&listener));
        exchange((&mut answered.0, &mut answered.1));
        exchange((&mut asked.0, &mut asked.1));
        asked.0.write_all(b"question").expect("sent");
        asked.1.read_exact(&mut [0; 8]).expect("received");
        unread.0.write_all(b"question").expect("sent");
        sleep(Duration::from_millis(300));

        let mut flush = PortFlush::new(port, NOBODY, Instant::now());
        while flush.so_far().closed < 2 {
            assert_eq!(flush.step(Instant::now()).expect("this kernel can"), None);
            sleep(Duration::from_millis(10));
        }
        assert!(is_reset(&mut fresh.0) && is_reset(&mut answered.0), "{host}");
        let mut later = pair(&listener);
        for _ in 0..8 {
            assert_eq!(flush.step(Instant::now()).expect("this kernel can"), None, "{host}");
            sleep(Duration::from_millis(50));
        }
        assert_eq!(flush.so_far(), FlushResult { closed: 2, left: 2 }, "{host}");

        // The slow answer, and the one that is read at last.
        asked.1.write_all(b"answered").expect("sent");
        asked.0.read_exact(&mut [0; 8]).expect("whole");
        unread.1.read_exact(&mut [0; 8]).expect("whole");
        sleep(Duration::from_millis(25));
        unread.1.write_all(b"answered").expect("sent");
        unread.0.read_exact(&mut [0; 8]).expect("whole");
        assert_eq!(to_the_end(&mut flush), FlushResult { closed: 4, left: 0 }, "{host}");
        assert!(is_reset(&mut asked.0) && is_reset(&mut unread.0), "{host}");
        assert!(is_alive(&mut later.0, &mut later.1), "one that came later is not touched");
    }
}

#[test]
fn what_the_app_opened_from_that_port_and_what_is_the_agents_stays() {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
    listener.set_reuse_address(true).expect("option");
    listener.set_reuse_port(true).expect("option");
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("port");
    listener.listen(16).expect("listening");
    let listener = TcpListener::from(listener);
    let at = listener.local_addr().expect("bound");
    let elsewhere = TcpListener::bind("127.0.0.1:0").expect("port");
    let outgoing = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
    outgoing.set_reuse_address(true).expect("option");
    outgoing.set_reuse_port(true).expect("option");
    outgoing.bind(&at.into()).expect("the same port");
    outgoing.connect(&elsewhere.local_addr().expect("bound").into()).expect("connected");
    let (mut outgoing, mut its_server) = (TcpStream::from(outgoing), elsewhere.accept().expect("accepted").0);
    exchange((&mut outgoing, &mut its_server));
    // As the agent's legs: from a reserved port.
    let leg = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
    leg.bind(&SocketAddr::from(([127, 0, 0, 1], 29_871)).into()).expect("free");
    leg.connect(&at.into()).expect("connected");
    let (mut leg, mut its_app) = (TcpStream::from(leg), listener.accept().expect("accepted").0);
    let mut usual = pair(&listener);
    sleep(Duration::from_millis(300));

    assert_eq!(to_the_end(&mut PortFlush::new(at.port(), nix::unistd::getuid().as_raw(), Instant::now())).closed, 0);
    let flushed = to_the_end(&mut PortFlush::new(at.port(), NOBODY, Instant::now()));
    assert_eq!(flushed, FlushResult { closed: 1, left: 0 });
    assert!(is_reset(&mut usual.0));
    assert!(is_alive(&mut its_server, &mut outgoing) && is_alive(&mut leg, &mut its_app));
    // Nobody listens on the outgoing connection's own port.
    let port = its_server.peer_addr().expect("connected").port();
    assert_eq!(port, at.port());
    drop(listener);
    assert_eq!(to_the_end(&mut PortFlush::new(port, NOBODY, Instant::now())), FlushResult { closed: 0, left: 0 });
    assert!(outgoing.as_fd().as_raw_fd() > 0);
}

#[test]
fn thousands_of_connections_are_closed_in_steps_of_milliseconds() {
    // As many as this process may have both ends of.
    const MANY: u32 = 8_000;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("readable");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("up to the hard limit");
    let listener = TcpListener::bind("127.0.0.1:0").expect("port");
    let clients: Vec<_> = (0..MANY).map(|_| pair(&listener)).collect();
    sleep(Duration::from_millis(300));
    let mut flush = PortFlush::new(listener.local_addr().expect("bound").port(), NOBODY, Instant::now());
    let mut steps = Vec::new();
    let flushed = loop {
        sleep(flush.next().saturating_duration_since(Instant::now()));
        let start = Instant::now();
        let flushed = flush.step(start).expect("this kernel can");
        steps.push(start.elapsed());
        if let Some(flushed) = flushed {
            break flushed;
        }
    };
    assert_eq!(flushed, FlushResult { closed: MANY, left: 0 });
    steps.sort_unstable();
    println!("{} steps, median {:?}, longest {:?}", steps.len(), steps[steps.len() / 2], steps[steps.len() - 1]);
    assert!(steps.len() > 60, "{} steps", steps.len());
    drop(clients);
}

#[test]
fn refusals_say_their_cause() {
    let error = io::Error::from_raw_os_error;
    assert!(unreadable(&error(libc::ENOENT)).contains("tcp_diag"));
    assert!(indestructible(&error(libc::EOPNOTSUPP)).contains("CONFIG_INET_DIAG_DESTROY"));
    assert!(indestructible(&error(libc::EPERM)).contains("CAP_NET_ADMIN"));
}
