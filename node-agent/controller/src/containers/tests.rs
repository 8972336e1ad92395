//! Answers of container runtimes of every kind, through the pipes that a guardian gives.

use std::{
    fs::File,
    io::Write as _,
    os::fd::{AsFd as _, OwnedFd},
    time::Duration,
};

use nix::{fcntl::OFlag, unistd::pipe2};
use redir_ipc::{self as ipc, ContainerReport, ContainerState, PERMISSION_LEN, RunningContainer, RuntimeQuestion};
use tokio::time::{Instant, sleep, timeout};

use super::{
    answer::{Failure, RuntimeAnswer},
    *,
};

const DOCKER: ContainerRuntime = ContainerRuntime::Docker;

fn pipe() -> (OwnedFd, File) {
    let (answer, to) = pipe2(OFlag::O_CLOEXEC).expect("a pipe");
    nix::fcntl::fcntl(&answer, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("set");
    (answer, to.into())
}

/// What is made of an answer to `GET /containers/web/json`.
async fn said(bytes: impl Into<Vec<u8>>) -> Result<ContainerState, Failure> {
    let ((answer, mut to), bytes) = (pipe(), bytes.into());
    // Whoever has heard enough closes its end.
    let writer = std::thread::spawn(move || to.write_all(&bytes).unwrap_or_default());
    let answer = match RuntimeAnswer::head(DOCKER, answer).await {
        Ok(head) => head.container(DOCKER, "web").await,
        Err(failure) => Err(failure),
    };
    tokio::task::spawn_blocking(|| writer.join()).await.expect("joined").expect("written");
    answer
}

fn with_body(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Type: application/json\r\n\r\n{body}", body.len())
}

fn inspected(id: &str, name: &str, running: bool, pid: u32) -> String {
    format!(
        "{{\"Id\":\"{id}\",\"Name\":\"/{name}\",\"Path\":\"sh\",\"State\":{{\"Status\":\"{}\",\"Running\":{running},\
         \"Pid\":{pid},\"StartedAt\":\"2026-12-01T02:46:15.50663139Z\"}}}}",
        if running { "running" } else { "exited" }
    )
}

fn id(digit: char) -> String {
    digit.to_string().repeat(64)
}

fn running(digit: char, pid: u32) -> ContainerState {
    let started = 1_796_093_175_506_631_390;
    ContainerState::Running(RunningContainer { id: id(digit).parse().expect("an ID"), pid, started })
}

#[tokio::test]
async fn a_container_that_runs_is_told_from_one_that_does_not() {
    let ok = |body: String| said(with_body("200 OK", &body));
    assert_eq!(ok(inspected(&id('a'), "web", true, 42)).await.expect("read"), running('a', 42));
    // What is written in pieces is one answer.
    let body = inspected(&id('a'), "web", true, 42);
    let chunked =
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    assert_eq!(said(chunked).await.expect("read"), running('a', 42));
    for (body, words) in [
        (inspected(&id('a'), "web", false, 0), "does not run (exited); start it"),
        (inspected(&id('a'), "web", true, 0), "does not run (running); start it"),
        (inspected(&id('a'), "webserver", true, 42), "is the beginning of an ID"),
    ] {
        let state = ok(body).await.expect("read");
        assert!(matches!(&state, ContainerState::NotRunning(reason) if reason.contains(words)), "{state:?}");
    }
    for (status, body, words) in [
        ("404 Not Found", "{\"message\":\"No such container: web\"}", "Docker has no container web"),
        ("500 Internal Server Error", "{\"message\":\"no \\u001b[2J space\"}", "Docker answers 500: no [2J space; see"),
        ("503 No", "<html>", "Docker answers 503: "),
    ] {
        let state = said(with_body(status, body)).await.expect("read");
        let (ContainerState::NotRunning(reason) | ContainerState::Unknown(reason)) = state else { panic!("{state:?}") };
        assert!(reason.contains(words), "{reason}");
    }
}

#[tokio::test]
async fn garbage_and_endless_answers_end_in_a_sentence() {
    let endless_head = [b"HTTP/1.1 200 OK\r\n".to_vec(), b"X-A: b\r\n".repeat(200_000)].concat();
    let endless_body = [b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![b' '; 16 << 20]].concat();
    let short = with_body("200 OK", &inspected(&id('a'), "web", true, 42));
    for bytes in [
        Vec::new(),
        b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(),
        vec![0xff; 100_000],
        endless_head,
        endless_body,
        with_body("200 OK", "[]").into_bytes(),
        with_body("200 OK", &inspected("a", "web", true, 42).replace("\"Pid\":42", "\"Pid\":-1")).into_bytes(),
        short.as_bytes()[..short.len() - 5].to_vec(),
    ] {
        let length = bytes.len();
        let failure = said(bytes).await.expect_err("no answer");
        assert!(
            matches!(&failure, Failure::MalformedMessage(reason) if reason.contains("; see what listens")),
            "{length}: {failure:?}"
        );
    }
    let odd = said(with_body("200 OK", &inspected("abc", "web", true, 42))).await.expect("read");
    assert!(matches!(&odd, ContainerState::Unknown(reason) if reason.contains("no ID and start")), "{odd:?}");
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_is_silent_is_not_waited_for() {
    let (answer, to) = pipe();
    let failure = RuntimeAnswer::head(DOCKER, answer).await.map(|_| ()).expect_err("silence");
    assert!(
        matches!(&failure, Failure::Silent(reason) if reason.contains("does not answer within 10 s")),
        "{failure:?}"
    );
    drop(to);
    let (answer, mut to) = pipe();
    to.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n1").expect("written");
    let head = RuntimeAnswer::head(DOCKER, answer).await.expect("a head");
    assert!(matches!(head.container(DOCKER, "web").await, Err(Failure::Silent(_))));
}

/// The guardian's end, and a runtime that says what the test wants.
struct Rig {
    guardian: OwnedFd,
    events: Option<File>,
    /// Answers that never come.
    silent: Vec<File>,
    _controller: JoinSet<anyhow::Result<()>>,
}

const FILE: &str = "[agent]\nlisten = \"127.0.0.1:7447\"\nkey = \"/k\"\n";

fn config(names: &[&str]) -> NodeConfig {
    let pods: String =
        names.iter().map(|name| format!("[[pod]]\nname = \"{name}-1\"\ndocker = \"{name}\"\n")).collect();
    NodeConfig::parse(&format!("{FILE}{pods}"), std::path::Path::new("agent.toml")).expect("good")
}

impl Rig {
    fn new(names: &[&str]) -> Self {
        let (ours, theirs) = ipc::pair().expect("sockets");
        let guardian = GuardianSocket::new(theirs).expect("a socket");
        let config = config(names);
        let mut controller = JoinSet::new();
        controller.spawn(async move { run(guardian, &config, "agent.toml".into()).await });
        Self { guardian: ours, events: None, silent: Vec::new(), _controller: controller }
    }

    /// What the controller says next, but for signs of life.
    async fn hear(&self) -> ControllerMessage {
        let heard = async {
            loop {
                let mut buffer = [0; PERMISSION_LEN];
                match ipc::receive_plain(self.guardian.as_fd(), &mut buffer) {
                    Ok(length) => match ControllerMessage::decode(&buffer[..length]).expect("a message") {
                        ControllerMessage::Ready | ControllerMessage::Alive => {}
                        other => return other,
                    },
                    Err(_nothing) => sleep(Duration::from_millis(5)).await,
                }
            }
        };
        timeout(Duration::from_secs(60), heard).await.expect("something is said")
    }

    fn reply(&self, number: u32, answer: &Result<OwnedFd, &str>) {
        let (reply, fds) = match answer {
            Ok(pipe) => (Reply::Runtime(Ok(())), vec![pipe.as_fd()]),
            Err(sentence) => (Reply::Runtime(Err((*sentence).to_owned())), Vec::new()),
        };
        ipc::send(self.guardian.as_fd(), &reply.encode(number), &fds).expect("sent");
    }

    /// The next question is for events, which begin.
    async fn begin_events(&mut self) {
        let ControllerMessage::Ask(number, RuntimeQuestion::Events(DOCKER)) = self.hear().await else {
            panic!("events")
        };
        let (answer, mut to) = pipe();
        to.write_all(b"HTTP/1.1 200 OK\r\n\r\n").expect("written");
        self.reply(number, &Ok(answer));
        self.events = Some(to);
    }

    fn event(&mut self, name: &str) {
        let line = format!("{{\"Actor\":{{\"ID\":\"x\",\"Attributes\":{{\"name\":\"{name}\"}}}}}}\n");
        self.events.as_mut().expect("begun").write_all(line.as_bytes()).expect("written");
    }

    /// The next question is for events, and this is the answer.
    async fn refuse_events(&self, bytes: &str) {
        let ControllerMessage::Ask(number, RuntimeQuestion::Events(DOCKER)) = self.hear().await else {
            panic!("events")
        };
        let (answer, mut to) = pipe();
        to.write_all(bytes.as_bytes()).expect("written");
        self.reply(number, &Ok(answer));
    }

    /// The next question is for this pod's container, and there is no answer.
    async fn be_silent(&mut self, pod: &str) {
        let asked = self.hear().await;
        let ControllerMessage::Ask(number, RuntimeQuestion::Container(name)) = &asked else { panic!("{asked:?}") };
        assert_eq!(name.to_string(), pod);
        let (answer, to) = pipe();
        self.silent.push(to);
        self.reply(*number, &Ok(answer));
    }

    /// The runtime is not heard, for these words.
    async fn unknown(&self, pod: &str, words: &str) {
        let state = self.report(pod).await;
        assert!(matches!(&state, ContainerState::Unknown(reason) if reason.contains(words)), "{state:?}");
    }

    /// The next question is for this pod's container, and this is the answer.
    async fn answer(&self, pod: &str, bytes: &str) {
        let asked = self.hear().await;
        let ControllerMessage::Ask(number, RuntimeQuestion::Container(name)) = &asked else { panic!("{asked:?}") };
        assert_eq!(name.to_string(), pod);
        let (answer, mut to) = pipe();
        to.write_all(bytes.as_bytes()).expect("written");
        self.reply(*number, &Ok(answer));
    }

    async fn report(&self, pod: &str) -> ContainerState {
        let said = self.hear().await;
        let ControllerMessage::Container(ContainerReport { pod: name, container, state }) = said else {
            panic!("{said:?}")
        };
        assert_eq!((name.to_string(), container.runtime), (format!("{}-1", container.name), DOCKER));
        assert_eq!(name.to_string(), pod);
        state
    }
}

fn runs(name: &str, digit: char, pid: u32) -> String {
    with_body("200 OK", &inspected(&id(digit), name, true, pid))
}

fn web_runs(digit: char, pid: u32) -> String {
    runs("web", digit, pid)
}

#[tokio::test]
async fn containers_are_asked_again_when_something_happens_to_them_also_for_the_thousandth_time() {
    let mut rig = Rig::new(&["db", "web"]);
    rig.begin_events().await;
    rig.answer("db-1", &with_body("404 Not Found", "{}")).await;
    assert!(matches!(rig.report("db-1").await, ContainerState::NotRunning(_)));
    rig.answer("web-1", &web_runs('a', 42)).await;
    assert_eq!(rig.report("web-1").await, running('a', 42));
    // A thousand others' are nobody's question.
    for number in 0..1000 {
        rig.event(&format!("other-{number}"));
    }
    rig.event("web");
    rig.answer("web-1", &web_runs('a', 43)).await;
    assert_eq!(rig.report("web-1").await, running('a', 43));
    // A thousand of its own are a few questions, of which the last counts; what is not new is not told.
    for _ in 0..1000 {
        rig.event("web");
    }
    rig.answer("web-1", &web_runs('a', 43)).await;
    rig.event("web");
    rig.answer("web-1", &web_runs('b', 44)).await;
    assert_eq!(rig.report("web-1").await, running('b', 44));
    // An event that cannot be read may be about each of them.
    rig.events.as_mut().expect("begun").write_all(b"what?\n").expect("written");
    rig.answer("db-1", "garbage\r\n\r\n").await;
    assert!(matches!(rig.report("db-1").await, ContainerState::Unknown(_)), "and the next is asked about all the same");
    rig.answer("web-1", &web_runs('b', 45)).await;
    assert_eq!(rig.report("web-1").await, running('b', 45));
}

#[tokio::test]
async fn a_runtime_that_is_away_is_told_once_and_heard_again() {
    let mut rig = Rig::new(&["web"]);
    for _ in 0..2 {
        let ControllerMessage::Ask(number, RuntimeQuestion::Events(DOCKER)) = rig.hear().await else {
            panic!("events")
        };
        rig.reply(number, &Err("Docker does not run; start it"));
        if number == 1 {
            assert_eq!(rig.report("web-1").await, ContainerState::Unknown("Docker does not run; start it".to_owned()));
        }
    }
    rig.begin_events().await;
    rig.answer("web-1", &web_runs('a', 42)).await;
    assert_eq!(rig.report("web-1").await, running('a', 42));
    // It is started again.
    rig.events = None;
    let ContainerState::Unknown(reason) = rig.report("web-1").await else { panic!("unknown") };
    assert!(reason.contains("Docker has ended the stream of its events"), "{reason}");
    rig.begin_events().await;
    rig.answer("web-1", &web_runs('a', 42)).await;
    assert_eq!(rig.report("web-1").await, running('a', 42));
}

#[tokio::test]
async fn a_new_configuration_is_followed() {
    let mut rig = Rig::new(&["web"]);
    rig.begin_events().await;
    rig.answer("web-1", &web_runs('a', 42)).await;
    assert_eq!(rig.report("web-1").await, running('a', 42));
    let mut file = tempfile();
    file.write_all(format!("{FILE}[[pod]]\nname = \"db-1\"\ndocker = \"db\"\n").as_bytes()).expect("written");
    ipc::send(rig.guardian.as_fd(), &Reply::Config.encode(0), &[file.as_fd()]).expect("sent");
    rig.begin_events().await;
    rig.answer("db-1", &with_body("404 Not Found", "{}")).await;
    assert!(matches!(rig.report("db-1").await, ContainerState::NotRunning(_)));
}

#[tokio::test(start_paused = true)]
async fn a_container_of_which_nothing_is_heard_keeps_no_other_from_being_followed() {
    let mut rig = Rig::new(&["a", "b"]);
    rig.begin_events().await;
    for pid in [42, 43] {
        rig.be_silent("a-1").await;
        if pid == 42 {
            rig.unknown("a-1", "does not answer within 10 s").await;
        }
        rig.answer("b-1", &runs("b", 'b', pid)).await;
        assert_eq!(rig.report("b-1").await, running('b', pid));
    }
    rig.event("b");
    rig.answer("b-1", &runs("b", 'c', 44)).await;
    assert_eq!(rig.report("b-1").await, running('c', 44));
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_is_silent_twice_is_left_alone_for_a_while_and_asked_about_the_next_one_then() {
    let mut rig = Rig::new(&["a", "b", "c"]);
    rig.begin_events().await;
    rig.be_silent("a-1").await;
    rig.unknown("a-1", "does not answer").await;
    rig.be_silent("b-1").await;
    rig.unknown("b-1", "does not answer").await;
    rig.unknown("c-1", "does not answer").await;
    rig.begin_events().await;
    rig.answer("c-1", &runs("c", 'c', 42)).await;
    assert_eq!(rig.report("c-1").await, running('c', 42));
}

#[tokio::test(start_paused = true)]
async fn a_container_that_starts_and_ends_all_the_time_keeps_no_other_from_being_asked_about_now_and_then() {
    let mut rig = Rig::new(&["db", "web"]);
    rig.begin_events().await;
    rig.answer("db-1", &runs("db", 'b', 41)).await;
    assert_eq!(rig.report("db-1").await, running('b', 41));
    let began = Instant::now();
    for pid in 42.. {
        rig.event("web");
        let asked = rig.hear().await;
        let ControllerMessage::Ask(number, RuntimeQuestion::Container(pod)) = &asked else { panic!("{asked:?}") };
        if pod.to_string() == "db-1" {
            return;
        }
        rig.event("web");
        let (answer, mut to) = pipe();
        to.write_all(web_runs('a', pid).as_bytes()).expect("written");
        rig.reply(*number, &Ok(answer));
        assert_eq!(rig.report("web-1").await, running('a', pid));
        assert!(began.elapsed() < Duration::from_secs(100), "db-1 is forgotten");
    }
}

#[tokio::test(start_paused = true)]
async fn hundreds_of_containers_are_asked_about_without_haste() {
    let names: Vec<String> = (0..300).map(|number| format!("n{number:03}")).collect();
    let mut rig = Rig::new(&names.iter().map(String::as_str).collect::<Vec<_>>());
    rig.begin_events().await;
    let mut asked = Vec::new();
    for name in &names {
        rig.answer(&format!("{name}-1"), &runs(name, 'a', 42)).await;
        asked.push(Instant::now());
        assert_eq!(rig.report(&format!("{name}-1")).await, running('a', 42));
    }
    let second =
        |from: &Instant| asked.iter().filter(|at| **at >= *from && **at < *from + Duration::from_secs(1)).count();
    let most = asked.iter().map(second).max().expect("asked");
    assert!(most <= 100, "{most} in a second");
}

#[tokio::test(start_paused = true)]
async fn without_events_containers_are_asked_about_now_and_then_and_events_too() {
    let mut rig = Rig::new(&["web"]);
    let began = Instant::now();
    rig.refuse_events(&with_body("403 Forbidden", "{\"message\":\"events are denied\"}")).await;
    let mut pid = 42;
    let number = loop {
        match rig.hear().await {
            ControllerMessage::Ask(number, RuntimeQuestion::Container(_)) => {
                let (answer, mut to) = pipe();
                to.write_all(web_runs('a', pid).as_bytes()).expect("written");
                rig.reply(number, &Ok(answer));
                assert_eq!(rig.report("web-1").await, running('a', pid));
                pid += 1;
            }
            ControllerMessage::Ask(number, RuntimeQuestion::Events(DOCKER)) => break number,
            other => panic!("{other:?}"),
        }
    };
    let (after, times) = (began.elapsed().as_secs(), pid - 42);
    assert!((30..=90).contains(&after) && (6..=30).contains(&times), "{times} times in {after} s");
    let (answer, mut to) = pipe();
    to.write_all(b"HTTP/1.1 200 OK\r\n\r\n").expect("written");
    rig.reply(number, &Ok(answer));
    rig.events = Some(to);
    rig.answer("web-1", &web_runs('a', pid)).await;
    assert_eq!(rig.report("web-1").await, running('a', pid));
    rig.event("web");
    rig.answer("web-1", &web_runs('b', 7)).await;
    assert_eq!(rig.report("web-1").await, running('b', 7));
    let why = RuntimeAnswer::head(DOCKER, {
        let (answer, mut to) = pipe();
        to.write_all(with_body("403 Forbidden", "{\"message\":\"events are denied\"}").as_bytes()).expect("written");
        answer
    });
    assert_eq!(why.await.expect("a head").refusal(DOCKER).await, "Docker answers 403: events are denied; see its log");
}

fn tempfile() -> File {
    nix::sys::memfd::memfd_create(c"config", nix::sys::memfd::MFdFlags::MFD_CLOEXEC).expect("memory").into()
}
