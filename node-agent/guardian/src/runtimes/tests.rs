//! The runtime is a socket of the test's; what is asked and what comes through is looked at.

use std::{
    fs::File,
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
};

use redir_config::PodName;
use tempfile::TempDir;

use super::*;

struct Rig {
    folder: TempDir,
    config: NodeConfig,
    relays: RuntimeRelays,
}

impl Rig {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let text = format!(
            "[agent]\nlisten = \"127.0.0.1:7447\"\nkey = \"/k\"\n[runtimes]\ndocker = \"{0}/docker\"\npodman = \"{0}/podman\"\n\
             [[pod]]\nname = \"web-1\"\ndocker = \"web\"\n[[pod]]\nname = \"path\"\nnetns = \"/run/netns/a\"\n",
            folder.path().display()
        );
        let config = NodeConfig::parse(&text, Path::new("agent.toml")).expect("good");
        Self { folder, config, relays: RuntimeRelays::default() }
    }

    fn listen(&self) -> UnixListener {
        UnixListener::bind(self.folder.path().join("docker")).expect("bound")
    }

    fn ask(&mut self, pod: &str) -> Result<File, String> {
        let question = RuntimeQuestion::Container(PodName::new(pod).expect("good"));
        self.relays.ask(&self.config, &question, Instant::now()).map(File::from)
    }
}

fn request(from: &mut UnixStream) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        from.read_exact(&mut byte).expect("a whole request");
        text.push(byte[0]);
    }
    String::from_utf8(text).expect("text")
}

#[test]
fn what_is_asked_comes_from_the_configuration_and_the_answer_arrives_whole() {
    let mut rig = Rig::new();
    let runtime = rig.listen();
    let mut answer = rig.ask("web-1").expect("asked");
    let (mut stream, _) = runtime.accept().expect("connected");
    let asked = request(&mut stream);
    assert!(asked.starts_with("GET /containers/web/json HTTP/1.1\r\nHost: "), "{asked}");
    // More than the pipe and the socket hold together, so that each of them is full for a while.
    let long: Vec<u8> = (0..3_000_000_u32).map(|at| at.to_ne_bytes()[0]).collect();
    let sent = long.clone();
    let sender = std::thread::spawn(move || stream.write_all(&sent).expect("sent"));
    let (mut got, mut buffer) = (Vec::new(), vec![0; 10_000]);
    loop {
        rig.relays.pump();
        match answer.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => got.extend_from_slice(&buffer[..length]),
            // Also behind the end, for as long as a process that another test starts has inherited the pipe.
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
    assert!(rig.relays.relays.is_empty());
    sender.join().expect("sent");
    assert!(got == long, "{} bytes", got.len());
}

#[test]
fn an_answer_that_nobody_reads_is_let_go_of_and_fills_no_memory() {
    let mut rig = Rig::new();
    let runtime = rig.listen();
    let answer = rig.ask("web-1").expect("asked");
    let (stream, _) = runtime.accept().expect("connected");
    stream.set_nonblocking(true).expect("set");
    let mut sent = 0;
    loop {
        match (&stream).write(&[b'x'; 4096]) {
            Ok(length) => sent += length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                rig.relays.pump();
                if rig.relays.relays[0].full {
                    break;
                }
            }
            Err(error) => panic!("{error}"),
        }
        assert!(sent < 4 << 20, "somebody takes it all");
    }
    let asked_for: Vec<_> = rig.relays.interests().map(|(_, flags)| flags).collect();
    assert_eq!(asked_for, [PollFlags::POLLOUT], "nothing to wake up for");
    drop(answer);
    rig.relays.pump();
    assert!(rig.relays.relays.is_empty());
}

#[test]
fn what_the_configuration_does_not_name_is_not_asked_and_floods_end() {
    let mut rig = Rig::new();
    let _runtime = rig.listen();
    for pod in ["path", "other"] {
        assert!(rig.ask(pod).expect_err("no container").contains("`docker`"));
    }
    let podman = RuntimeQuestion::Events(ContainerRuntime::Podman);
    assert!(rig.relays.ask(&rig.config, &podman, Instant::now()).expect_err("none").contains("no container of Podman"));
    let answers: Vec<_> = (0..2 * MOST_RELAYS).map(|_| rig.ask("web-1")).collect();
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), MOST_RELAYS);
    drop(answers);
    rig.relays.pump();
    let second = (0..2 * MOST_A_SECOND).take_while(|_| {
        rig.relays.clear();
        rig.ask("web-1").is_ok()
    });
    assert!(second.count() < 2 * MOST_A_SECOND as usize);
}

#[test]
fn a_runtime_that_does_not_run_is_told_from_one_that_is_not_roots() {
    let mut rig = Rig::new();
    let said = rig.ask("web-1").expect_err("no socket");
    assert!(said.starts_with("Docker does not run: there is no ") && said.contains("[runtimes] (docker)"), "{said}");
    drop(rig.listen());
    let said = rig.ask("web-1").expect_err("nobody");
    assert!(said.contains("nobody listens on"), "{said}");
    std::fs::remove_file(rig.folder.path().join("docker")).expect("removed");
    // Whoever calls listen(2) is who answers.
    let folder = rig.folder.path().to_owned();
    std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("set");
    let listener =
        std::thread::spawn(move || as_user(60_000, || UnixListener::bind(folder.join("docker")).expect("bound")));
    let _listener = listener.join().expect("listens");
    let said = rig.ask("web-1").expect_err("a user's");
    assert!(said.contains("run by uid 60000") && said.contains("netns ="), "{said}");
}

/// In this thread alone.
#[expect(unsafe_code, reason = "the C library's setresuid changes every thread")]
fn as_user<T>(uid: u32, work: impl FnOnce() -> T) -> T {
    // SAFETY: plain numbers; -1 leaves the other two as they are.
    unsafe { libc::syscall(libc::SYS_setresuid, -1, uid, -1) };
    let done = work();
    // SAFETY: as above.
    unsafe { libc::syscall(libc::SYS_setresuid, -1, 0, -1) };
    done
}
