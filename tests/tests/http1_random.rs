//! Random conversations through the real agent: requests and answers of every framing, pipelined, cut anywhere and sent
//! in fits and starts from both sides; what arrives is compared byte for byte with what was written.
#![cfg(target_os = "linux")]

use std::{
    io::Write,
    net::{Shutdown, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use redir_rig::dice::Dice;
use redir_tests::{
    Scenario, USUAL, once,
    talk::{ORIGINS, Stage, Who, hear},
};

const RANDOM: Scenario = Scenario { limit: Duration::from_secs(120), ..USUAL };
const CONVERSATIONS: u64 = 80;

once!(whatever_is_said_arrives_as_it_was_said, RANDOM, |w| {
    let stage = Stage::new(w)?;
    let mut seen = [0; ORIGINS.len()];
    for seed in 1..=CONVERSATIONS {
        let conversation = Conversation::new(&mut Choices::new(seed));
        conversation.run(&stage, seed).with_context(|| format!("seed {seed}: {conversation:?}"))?;
        for message in &conversation.messages {
            seen[message.origin as usize - Who::App as usize] += 1;
        }
    }
    ensure!(seen.iter().all(|count| *count > 100), "too little for some: {seen:?}");
    // Had it gone opaque, the developers would have heard nothing of what follows; but then it would be for nothing.
    let opaque = w.metric("redir_connections_opaque_total", &["reason=\"ambiguous\""])?;
    ensure!(opaque == 0.0, "{opaque} connections went opaque");
    Ok(())
});

/// What a conversation is made of, the same in each run.
struct Choices(Dice);

impl Choices {
    fn new(seed: u64) -> Self {
        Self(Dice::new(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed)))
    }

    fn roll(&mut self, sides: usize) -> usize {
        usize::try_from(self.0.roll(sides as u64)).expect("below a usize")
    }

    fn one_in(&mut self, sides: usize) -> bool {
        self.roll(sides) == 0
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.roll(of.len())]
    }

    /// Mostly small, seldom large.
    fn size(&mut self) -> usize {
        let most = self.pick(&[1, 10, 10, 300, 300, 5_000, 70_000]);
        self.roll(most + 1)
    }

    /// Any bytes at all.
    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.roll(256).to_le_bytes()[0]).collect()
    }
}

struct Message {
    origin: Who,
    request: Vec<u8>,
    answer: Vec<u8>,
}

struct Conversation {
    messages: Vec<Message>,
    /// The last origin closes when it has answered.
    closes: bool,
}

impl std::fmt::Debug for Conversation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let heads = |bytes: &[u8]| bytes[..bytes.len().min(300)].escape_ascii().to_string();
        let mut list = f.debug_list();
        for message in &self.messages {
            list.entry(&(message.origin, heads(&message.request), heads(&message.answer)));
        }
        list.finish()
    }
}

impl Conversation {
    fn new(dice: &mut Choices) -> Self {
        let count = 1 + dice.size() % 90;
        let closes = dice.one_in(3);
        let mut origin = dice.pick(&ORIGINS);
        let messages = (0..count).map(|number| {
            // Runs for one origin, so that its requests are pipelined.
            origin = if dice.one_in(3) { dice.pick(&ORIGINS) } else { origin };
            let last = closes && number + 1 == count;
            let method = dice.pick(&["GET", "GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "M-SEARCH"]);
            let expects = method == "PUT" && dice.one_in(3);
            let request = request(dice, origin, method, expects, last);
            let mut answer = if expects { b"HTTP/1.1 100 Continue\r\n\r\n".to_vec() } else { vec![] };
            // An app that closes without a word is the client's end too; a developer's service is only opened again.
            let says = last && (origin != Who::App || dice.one_in(2));
            answer.extend(self::answer(dice, method, last, says));
            Message { origin, request, answer }
        });
        Self { messages: messages.collect(), closes }
    }

    /// All sides at once, each in its own rhythm.
    fn run(&self, stage: &Stage<'_>, seed: u64) -> Result<()> {
        let mut talk = stage.talk()?;
        let client = talk.end_of(Who::Client)?.try_clone()?;
        let app = talk.end_of(Who::App)?.try_clone()?;
        thread::scope(|scope| {
            let mut sides = Vec::new();
            for origin in ORIGINS {
                let known = if origin == Who::App { Some(app.try_clone()?) } else { None };
                let side =
                    scope.spawn(move || self.origin(stage, origin, known, seed).with_context(|| format!("{origin:?}")));
                sides.push(side);
            }
            let mut writer = client.try_clone()?;
            sides.push(scope.spawn(move || {
                let all: Vec<u8> = self.messages.iter().flat_map(|message| &message.request).copied().collect();
                write(&mut writer, &all, &mut Choices::new(seed + 1000)).context("the client writes")?;
                if self.closes { Ok(()) } else { writer.shutdown(Shutdown::Write).context("the client's end") }
            }));
            let mut reader = client;
            sides.push(scope.spawn(move || {
                let all: Vec<u8> = self.messages.iter().flat_map(|message| &message.answer).copied().collect();
                hear(&mut reader, &all).context("the client reads")?;
                end(&mut reader).context("the client's last")
            }));
            // All are waited for; the first that failed says why.
            let results: Vec<Result<()>> = sides.into_iter().map(|side| side.join().expect("no panic")).collect();
            results.into_iter().collect()
        })
    }

    /// Reads each request of its own and answers it.
    fn origin(&self, stage: &Stage<'_>, origin: Who, mut socket: Option<TcpStream>, seed: u64) -> Result<()> {
        let mut dice = Choices::new(seed + 2000 + origin as u64);
        let own = self.messages.iter().filter(|message| message.origin == origin);
        for (number, message) in own.enumerate() {
            if socket.is_none() {
                socket = Some(stage.accept(origin)?);
            }
            let socket = socket.as_mut().context("it was accepted")?;
            hear(socket, &message.request).with_context(|| format!("its request {number}"))?;
            write(socket, &message.answer, &mut dice).with_context(|| format!("its answer {number}"))?;
        }
        let Some(mut socket) = socket else { return Ok(()) };
        if self.closes && self.messages.last().is_some_and(|last| last.origin == origin) {
            return socket.shutdown(Shutdown::Both).context("its close");
        }
        end(&mut socket).context("its end")?;
        socket.shutdown(Shutdown::Write).context("its last")
    }
}

/// Nothing more comes.
fn end(socket: &mut TcpStream) -> Result<()> {
    let rest = redir_tests::read_all(socket)?;
    ensure!(rest.is_empty(), "{} bytes too many: {}", rest.len(), rest[..rest.len().min(300)].escape_ascii());
    Ok(())
}

/// Writes all in pieces of any size, and pauses between some of them: a sender's rhythm, not a wait for anything.
fn write(socket: &mut TcpStream, mut bytes: &[u8], dice: &mut Choices) -> Result<()> {
    while !bytes.is_empty() {
        let most = dice.pick(&[1, 3, 20, 100, 2_000, 100_000]);
        // A few byte by byte are enough where there are many.
        let least = bytes.len() / 200;
        let (piece, rest) = bytes.split_at(bytes.len().min(least + 1 + dice.roll(most)));
        socket.write_all(piece)?;
        bytes = rest;
        if dice.one_in(20) {
            thread::sleep(Duration::from_micros(dice.roll(2_000) as u64));
        }
    }
    Ok(())
}

fn request(dice: &mut Choices, origin: Who, method: &str, expects: bool, last: bool) -> Vec<u8> {
    let target = match method {
        "OPTIONS" if dice.one_in(2) => "*",
        _ => dice.pick(&["/", "/a/../b?x=1&y", "http://web:80/a", "http://web", "//a", "/%2e%2E", "/~a;b=c,d"]),
    };
    // The last of a connection says so, in one way or another, or leaves it to the answer.
    let old = dice.one_in(6);
    let version = if old && !expects { "HTTP/1.0" } else { "HTTP/1.1" };
    let mut fields: Vec<Vec<u8>> = vec![field(dice, "Host", "web")];
    match (version, last) {
        ("HTTP/1.0", false) => fields.push(field(dice, "Connection", "Keep-Alive")),
        (_, true) if dice.one_in(2) => fields.push(field(dice, "Connection", "x, close")),
        _ => {}
    }
    if expects {
        fields.push(field(dice, "Expect", "100-continue"));
    }
    fields.push(field(dice, "X-User", origin.user()));
    more_fields(dice, &mut fields);
    let bodiless = ["GET", "HEAD", "OPTIONS", "DELETE", "M-SEARCH"].contains(&method);
    let body = match (bodiless && !dice.one_in(10), version) {
        (true, _) => vec![],
        (false, "HTTP/1.1") if dice.one_in(2) => chunked(dice, &mut fields),
        (false, _) => lengthy(dice, &mut fields),
    };
    message(dice, &format!("{method} {target} {version}"), fields, body)
}

fn answer(dice: &mut Choices, method: &str, last: bool, says_close: bool) -> Vec<u8> {
    let mut out = vec![];
    for _ in 0..dice.pick(&[0, 0, 0, 1, 2]) {
        let hint = field(dice, "Link", "</a.css>; rel=preload");
        out.extend(message(dice, "HTTP/1.1 103 Early Hints", vec![hint], vec![]));
    }
    let mut fields = vec![];
    more_fields(dice, &mut fields);
    let version = dice.pick(&["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0"]);
    if says_close {
        fields.push(field(dice, "Connection", "close"));
    } else if version == "HTTP/1.0" {
        fields.push(field(dice, "Connection", "keep-alive"));
    }
    let status =
        dice.pick(&["200 OK", "200 OK", "200", "404 Not\u{a0}Found", "500 ", "204 No Content", "304 Not Modified"]);
    let body = match (status, dice.roll(3)) {
        ("204 No Content", _) => vec![],
        ("304 Not Modified", 0) => vec![],
        // What it would have been, and is not sent.
        ("304 Not Modified", _) => {
            lengthy(dice, &mut fields);
            vec![]
        }
        (_, 0) if last && method != "HEAD" => {
            let length = dice.size();
            dice.bytes(length)
        }
        (_, 1) if version == "HTTP/1.1" => chunked(dice, &mut fields),
        _ => lengthy(dice, &mut fields),
    };
    let body = if method == "HEAD" { vec![] } else { body };
    out.extend(message(dice, &format!("{version} {status}"), fields, body));
    out
}

/// Start line, fields in any order, body.
fn message(dice: &mut Choices, line: &str, mut fields: Vec<Vec<u8>>, body: Vec<u8>) -> Vec<u8> {
    let mut out = [line.as_bytes(), b"\r\n"].concat();
    while !fields.is_empty() {
        out.extend(fields.swap_remove(dice.roll(fields.len())));
    }
    [out, b"\r\n".to_vec(), body].concat()
}

/// A field whose name has any case, with blanks around its value where nobody minds.
fn field(dice: &mut Choices, name: &str, value: &str) -> Vec<u8> {
    let name: String = match dice.roll(3) {
        0 => name.to_owned(),
        1 => name.to_ascii_lowercase(),
        _ => {
            name.chars().map(|c| if dice.one_in(2) { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() }).collect()
        }
    };
    let framing = ["content-length", "transfer-encoding"].contains(&name.to_ascii_lowercase().as_str());
    let (before, after) = match framing {
        true => (dice.pick(&["", " "]), ""),
        false => (dice.pick(&[" ", "", "\t ", "  "]), dice.pick(&["", "", " ", "\t"])),
    };
    format!("{name}:{before}{value}{after}\r\n").into_bytes()
}

/// Fields that mean nothing here: long, empty, repeated, with bytes above 0x7f, and some that look like others.
fn more_fields(dice: &mut Choices, fields: &mut Vec<Vec<u8>>) {
    for _ in 0..dice.roll(8) {
        let name = dice.pick(&["X-Use", "X-Users", "Cookie", "Set-Cookie", "X-A", "X-A", "Accept", "Via", "x_user"]);
        let value = match dice.roll(4) {
            0 => String::new(),
            1 => "v".repeat(dice.size() % 9_000),
            2 => "alice, bob \u{eb}\u{1f600} \"x-user: alice\"".to_owned(),
            _ => "a=1; b=2".to_owned(),
        };
        fields.push(field(dice, name, &value));
    }
}

fn lengthy(dice: &mut Choices, fields: &mut Vec<Vec<u8>>) -> Vec<u8> {
    let length = dice.size();
    fields.push(field(dice, "Content-Length", &length.to_string()));
    dice.bytes(length)
}

/// Chunks of any size with extensions and trailers; some hold what looks like a request.
fn chunked(dice: &mut Choices, fields: &mut Vec<Vec<u8>>) -> Vec<u8> {
    fields.push(field(dice, "Transfer-Encoding", "chunked"));
    let mut out = vec![];
    for _ in 0..dice.roll(6) {
        let length = 1 + dice.size();
        let mut bytes = dice.bytes(length);
        let fake = b"0\r\n\r\nGET / HTTP/1.1\r\nX-User: alice\r\n\r\n";
        let fits = bytes.len().min(fake.len());
        if dice.one_in(2) {
            bytes[..fits].copy_from_slice(&fake[..fits]);
        }
        let zeros = dice.pick(&["", "", "0", "000"]);
        let extension = dice.pick(&["", "", ";a=b", ";a=\"b c\";d", ";"]);
        let size = if dice.one_in(2) { format!("{length:x}") } else { format!("{length:X}") };
        out.extend([format!("{zeros}{size}{extension}\r\n").as_bytes(), &bytes, b"\r\n"].concat());
    }
    out.extend(dice.pick(&["0\r\n", "00\r\n", "0;last\r\n"]).as_bytes());
    for _ in 0..dice.pick(&[0, 0, 1, 3]) {
        out.extend(field(dice, "X-Checksum", "\u{eb}1"));
    }
    [out, b"\r\n".to_vec()].concat()
}
