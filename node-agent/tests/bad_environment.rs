//! A wrong command line, file or machine: one sentence with the next step, the right exit code, nothing left behind.

use std::{
    fs,
    net::UdpSocket,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tempfile::TempDir;

const AGENT: &str = env!("CARGO_BIN_EXE_redir-agent");

/// A folder with a good configuration and key.
struct TestFolder {
    folder: TempDir,
}

impl TestFolder {
    fn new() -> Self {
        let folder = Self { folder: tempfile::tempdir().expect("folder") };
        let made = agent(&["keygen", &folder.text("agent.key")]);
        assert!(made.status.success(), "{made:?}");
        folder.write("[agent]\nlisten = \"127.0.0.1:47447\"\nkey = \"agent.key\"\nadmin = \"127.0.0.1:47448\"\n");
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn write(&self, text: &str) {
        fs::write(self.path("agent.toml"), text).expect("written");
    }

    fn run(&self) -> Output {
        agent(&["run", "--config", &self.text("agent.toml")])
    }
}

fn agent(arguments: &[&str]) -> Output {
    Command::new(AGENT).args(arguments).output().expect("started")
}

/// One line on stderr that says all of this.
fn assert_ends(output: &Output, code: i32, words: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    let last = stderr.lines().last().unwrap_or_default();
    assert!(last.starts_with("redir-agent: "), "{stderr}");
    words.iter().for_each(|word| assert!(last.contains(word), "{last:?} should say {word:?}"));
}

#[test]
fn a_missing_configuration() {
    let output = agent(&["run", "--config", "/nowhere/agent.toml"]);
    assert_ends(&output, 1, &["/nowhere/agent.toml", "--config"]);
}

#[test]
fn a_bad_configuration_is_wrong_usage() {
    let folder = TestFolder::new();
    folder.write("[agent]\nlisten = \"127.0.0.1\"\nkey = \"agent.key\"\n");
    assert_ends(&folder.run(), 2, &["agent.toml:2: agent.listen: ", "0.0.0.0:7447"]);
    let checked = agent(&["check", "--config", &folder.text("agent.toml")]);
    assert_ends(&checked, 2, &["agent.toml:2: agent.listen: "]);
}

#[test]
fn a_missing_key_and_one_that_others_may_read() {
    let folder = TestFolder::new();
    let key = folder.path("agent.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("mode");
    assert_ends(&folder.run(), 1, &["agent.key", "chmod 600"]);
    fs::remove_file(&key).expect("removed");
    assert_ends(&folder.run(), 1, &["agent.key", "keygen"]);
    fs::write(&key, "no key").expect("written");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("mode");
    assert_ends(&folder.run(), 1, &["agent.key", "keygen"]);
}

#[test]
fn a_port_in_use() {
    let folder = TestFolder::new();
    let taken = UdpSocket::bind("127.0.0.1:0").expect("port");
    let port = taken.local_addr().expect("bound").port();
    folder.write(&format!("[agent]\nlisten = \"127.0.0.1:{port}\"\nkey = \"agent.key\"\n"));
    assert_ends(&folder.run(), 1, &[&format!("UDP 127.0.0.1:{port} is in use"), "agent.listen"]);
}

#[test]
fn an_address_of_another_machine() {
    let folder = TestFolder::new();
    folder.write("[agent]\nlisten = \"192.0.2.1:7447\"\nkey = \"agent.key\"\n");
    assert_ends(&folder.run(), 1, &["192.0.2.1 is not an address of this machine", "agent.listen"]);
}

#[test]
fn missing_capabilities_are_named() {
    let folder = TestFolder::new();
    let without = |capabilities: &str| {
        let output = Command::new("setpriv")
            .args(["--bounding-set", capabilities, "--inh-caps", capabilities, AGENT, "run", "--config"])
            .arg(folder.path("agent.toml"))
            .output();
        output.expect("setpriv of util-linux")
    };
    assert_ends(&without("-net_admin"), 1, &["lacks CAP_NET_ADMIN", "as root"]);
    assert_ends(&without("-sys_admin,-bpf"), 1, &["CAP_SYS_ADMIN", "CAP_BPF", "as root"]);
    assert_ends(&without("-all"), 1, &["CAP_SETUID", "CAP_KILL", "as root"]);
}

#[test]
fn check_says_what_protects_and_what_does_not() {
    let folder = TestFolder::new();
    let check = |bounds: &[&str]| {
        let output = Command::new("setpriv")
            .args(bounds)
            .args([AGENT, "check", "--config"])
            .arg(folder.path("agent.toml"))
            .output();
        String::from_utf8(output.expect("setpriv of util-linux").stdout).expect("text")
    };
    let all = check(&[]);
    assert!(all.contains("worker: has no file of this machine") && !all.contains("warning"), "{all}");
    let lacking = "-sys_chroot,-ipc_lock";
    let less = check(&["--bounding-set", lacking, "--inh-caps", lacking]);
    for words in [
        "warning: the agent lacks CAP_SYS_CHROOT",
        "warning: the agent lacks CAP_IPC_LOCK",
        "only the filter of system calls keeps the worker from this machine's files",
        "let it mount",
    ] {
        assert!(less.contains(words), "{less}");
    }
}

#[test]
fn a_worker_is_not_started_by_hand() {
    let output = agent(&["worker", "--config", "/nowhere/agent.toml"]);
    assert_ends(&output, 1, &["redir-agent run"]);
}

#[test]
fn wrong_usage() {
    for arguments in [&["run", "--cfg", "x"][..], &["frobnicate"], &["keygen"], &[]] {
        assert_eq!(agent(arguments).status.code(), Some(2), "{arguments:?}");
    }
    let folder = TestFolder::new();
    let output = agent(&["run", "--config", &folder.text("agent.toml"), "--log", "info,=,"]);
    assert_ends(&output, 2, &["log filter"]);
}

#[test]
fn help_names_what_can_be_done_and_hides_the_worker() {
    let output = agent(&["--help"]);
    let help = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success());
    for word in ["run", "keygen", "check", "Exit status"] {
        assert!(help.contains(word), "{help}");
    }
    // As a command; --log names it as a module.
    assert!(!help.lines().any(|line| line.trim_start().starts_with("worker")), "{help}");
}

#[test]
fn keygen_prints_the_pin_and_never_overwrites() {
    let folder = tempfile::tempdir().expect("folder");
    let key = folder.path().join("new/agent.key");
    let made = agent(&["keygen", &key.display().to_string()]);
    let pin = String::from_utf8_lossy(&made.stdout).trim().to_owned();
    assert!(pin.starts_with("sha256:") && pin.len() == 50, "{pin}");
    assert_eq!(fs::metadata(&key).expect("there").permissions().mode() & 0o7777, 0o600);
    let before = fs::read(&key).expect("readable");
    let again = agent(&["keygen", &key.display().to_string()]);
    assert_ends(&again, 1, &["exists already"]);
    assert_eq!(fs::read(&key).expect("readable"), before);
}

/// The test asks the kernel by itself: what is said is not its version's.
#[test]
fn a_way_of_attaching_that_the_kernel_lacks_ends_the_agent() {
    let folder = TestFolder::new();
    let text = fs::read_to_string(folder.path("agent.toml")).expect("readable");
    folder.write(&text.replace("[agent]", "[agent]\nattach = \"tcx\""));
    let output = agent(&["check", "--config", &folder.text("agent.toml")]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    if redir_rig::tcx::exists().expect("root") {
        assert!(output.status.success() && stdout.contains("attached by TCX"), "{output:?}");
        redir_rig::left_out("a refused attach = \"tcx\": this kernel has TCX");
    } else {
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(stdout.contains("problem: attach = \"tcx\": this kernel has no TCX"), "{stdout}");
        assert_ends(&folder.run(), 1, &["this kernel has no TCX", "attach = \"auto\""]);
    }
}

/// Some kernels count maps and programs against it, as 5.10 does; nothing is said of it where they do not.
#[test]
fn a_limit_of_locked_memory_that_is_too_low_is_named() {
    let folder = TestFolder::new();
    let with_little = |command: &str| {
        let output = Command::new("prlimit")
            .args([
                "--memlock=65536:65536",
                "setpriv",
                "--bounding-set",
                "-sys_resource",
                "--inh-caps",
                "-sys_resource",
            ])
            .args([AGENT, command, "--config"])
            .arg(folder.path("agent.toml"))
            .output();
        output.expect("prlimit and setpriv")
    };
    let output = with_little("check");
    let stdout = String::from_utf8_lossy(&output.stdout);
    if output.status.success() {
        assert!(stdout.contains("programs: all load"), "{stdout}");
        redir_rig::left_out("RLIMIT_MEMLOCK: this kernel does not count maps against it");
        return;
    }
    for words in ["RLIMIT_MEMLOCK, which is 64 KiB", "CAP_SYS_RESOURCE", "raiseMemlock"] {
        assert!(stdout.contains(words), "{stdout}");
    }
    assert_ends(&with_little("run"), 1, &["RLIMIT_MEMLOCK, which is 64 KiB"]);
}

/// As behind `| head`, when that has enough. Nobody reads it, and nothing else is different.
#[test]
fn a_reader_that_left_is_no_failure() {
    let folder = TestFolder::new();
    let new_key = folder.text("other.key");
    for arguments in [&["check", "--config", &folder.text("agent.toml")][..], &["keygen", &new_key], &["--help"]] {
        let whole = agent(arguments);
        fs::remove_file(&new_key).ok();
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = Command::new(AGENT).args(arguments).stdout(writer).output().expect("started");
        assert_eq!(output.status.code(), whole.status.code(), "{arguments:?}: {output:?}");
        assert_eq!(output.stderr, whole.stderr, "{arguments:?}: {output:?}");
        fs::remove_file(&new_key).ok();
    }
    let full = fs::File::options().write(true).open("/dev/full").expect("a full disk");
    let output = Command::new(AGENT).args(["keygen", &new_key]).stdout(full).output().expect("started");
    assert_ends(&output, 1, &["standard output"]);
}

#[test]
fn check_says_what_the_machine_can_do_and_changes_nothing() {
    let folder = TestFolder::new();
    let text = fs::read_to_string(folder.path("agent.toml")).expect("readable");
    folder.write(&format!(
        "{text}[[pod]]\nname = \"gone\"\nnetns = \"/run/netns/redir-no-such\"\n\
         [[pod]]\nname = \"host\"\nnetns = \"/proc/self/ns/net\"\n"
    ));
    let output = agent(&["check", "--config", &folder.text("agent.toml")]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    let hook = if redir_rig::tcx::exists().expect("root") { "attached by TCX" } else { "attached by clsact" };
    let companion = "companion (sk_lookup): attached";
    for word in
        ["good (2 pods", "kernel ", hook, companion, "capabilities: all", "sha256:", "pod gone: not now", "hostNetwork"]
    {
        assert!(stdout.contains(word), "{stdout}");
    }
    fs::remove_file(folder.path("agent.key")).expect("removed");
    let output = agent(&["check", "--config", &folder.text("agent.toml")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("problem: there is no key file"));
    assert!(!Path::new("/run/netns/redir-no-such").exists());
}
