//! What is asked wrongly: one sentence with the next step, exit code 2, nothing tried.

mod common;

use common::{Home, assert_one_sentence};

const PIN: &str = "sha256:47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU";

/// Flags, and words that the sentence must hold: the thing and the next step.
const WRONG: &[(&[&str], &[&str])] = &[
    (&["intercept"], &["--port", "TARGET", "missing", "redir intercept --help"]),
    (&["intercept", "web-1"], &["--port is missing"]),
    (&["intercept", "web-1", "--port"], &["--port needs a value"]),
    (&["intercept", "web-1", "--port", "99999"], &["--port", "`99999`", "1 to 65535"]),
    (&["intercept", "web-1", "--port", "0"], &["`0`"]),
    (&["intercept", "web-1", "--port", "8080:http"], &["`http`"]),
    (&["intercept", "web-1", "--port", "8080:10.0.0.1:80"], &["not a port"]),
    (&["intercept", "web-1", "--port", "1", "--port", "1:2"], &["port 1 is there twice"]),
    (&["intercept", "web-1", "--port", "1:2", "--to", "h:3"], &["--port 1:2 and --to h:3", "leave"]),
    (&["intercept", "web-1", "--port", "1", "--port", "2", "--to", "h:3"], &["2 --port and 1 --to"]),
    (&["intercept", "web-1", "--port", "1", "--to", "h:3", "--to", "h:4"], &["1 --port and 2 --to"]),
    (&["intercept", "web-1", "--to", "h:3"], &["--port is missing"]),
    (&["intercept", "web-1", "--port", "1", "--to", "3000"], &["--to", "`3000`", "localhost:3000"]),
    (&["intercept", "web-1", "--port", "1", "--to", "http://h:3/"], &["--to", "is a URL"]),
    (&["intercept", "web-1", "--port", "1", "--to", "::1:3000"], &["brackets", "[::1]:3000"]),
    (&["intercept", "web-1", "--port", "1", "--to", "0.0.0.0:3000"], &["write 127.0.0.1"]),
    (&["intercept", "web-1", "--prot", "8080"], &["--prot", "did you mean --port"]),
    (&["intercept", "web 1", "--port", "1"], &["neither a workload, a pod nor labels"]),
    (&["intercept", "cronjob/web", "--port", "1"], &["`cronjob`", "deploy/"]),
    (&["intercept", "deploy/", "--port", "1"], &["not a workload's name"]),
    (&["intercept", "deploy/web", "--port", "HTTP"], &["`HTTP`", "its name"]),
    (&["intercept", "deploy/web", "-l", "app=web", "--port", "1"], &["exclude each other"]),
    (&["intercept", "-l", "web", "--port", "1"], &["`web`", "key=value"]),
    (&["intercept", "deploy/web", "--port", "1", "--agent", "h:1", "--agent-key", PIN], &["deploy/web", "--agent"]),
    (&["intercept", "web-1", "-n", "shop", "--port", "1", "--agent", "h:1", "--agent-key", PIN], &["--namespace"]),
    (&["list", "-A", "-n", "shop"], &["--all-namespaces", "exclude each other"]),
    (&["leave", "7"], &["numbers are for static agents", "redir list"]),
    (&["describe"], &["INTERCEPT is missing"]),
    (&["install", "--values", "/nonexistent/values.yaml"], &["/nonexistent/values.yaml", "--values"]),
    (&["install", "--print", "--dry-run"], &["exclude each other"]),
    (
        &["intercept", "deploy/web", "--port", "1", "--kubeconfig", "/nonexistent/config"],
        &["/nonexistent/config", "--kubeconfig"],
    ),
    (&["intercept", "app=web,tier", "--port", "1"], &["`tier`", "key=value"]),
    (&["intercept", "\u{1b}[31m", "--port", "1"], &["\\x1b[31m"]),
    (&["intercept", "web-1", "--port", "1", "--header", "alice"], &["no colon", "x-user: alice"]),
    (&["intercept", "web-1", "--port", "1", "--header", "x user: a"], &["`x user`", "header name"]),
    (&["intercept", "web-1", "--port", "1", "--header", "x-user:"], &["--header-present x-user"]),
    (&["intercept", "web-1", "--port", "1", "--header", "x-user: a\nb"], &["control character"]),
    (&["intercept", "web-1", "--port", "1", "--header-regex", "x-user: (al"], &["unclosed group"]),
    (&["intercept", "web-1", "--port", "1", "--header-regex", "x-user: (?=a)"], &["look-around"]),
    (&["intercept", "web-1", "--port", "1", "--path", "api"], &["write /api"]),
    (&["intercept", "web-1", "--port", "1", "--path", "/a?b=c"], &["query"]),
    (&["intercept", "web-1", "--port", "1", "--path-regex", "["], &["--path-regex", "regular expression"]),
    (
        &["intercept", "web-1", "--port", "1", "--path-regex", "(a{1000}){1000}"],
        &["--path-regex", "too big", "shorter"],
    ),
    (&["intercept", "web-1", "--port", "1", "--method", "get"], &["write GET"]),
    (&["intercept", "web-1", "--port", "1", "--method", "GET", "--method", "PUT"], &["no request has both", "(any)"]),
    (&["intercept", "web-1", "--port", "1", "--query", "user"], &["--query", "no =", "user=alice"]),
    (&["intercept", "web-1", "--port", "1", "--query", "q=a b"], &["a%20b"]),
    (&["intercept", "web-1", "--port", "1", "--cookie", "sid="], &["--cookie-present sid", "sid=^$"]),
    (&["intercept", "web-1", "--port", "1", "--cookie-prefix", "a b=c"], &["`a b`", "cookie name"]),
    (&["intercept", "web-1", "--port", "1", "--baggage", "t=a,b"], &["behind `t=`", "baggage"]),
    (&["intercept", "web-1", "--port", "1", "--any"], &["--any", "add one"]),
    (&["intercept", "web-1", "--port", "1", "--not"], &["--not", "add one"]),
    (&["intercept", "web-1", "--port", "1", "--header", "a: b", "--not"], &["--not", "behind it"]),
    (&["intercept", "web-1", "--port", "1", "--not-header", "a: b"], &["--not --header"]),
    (&["intercept", "web-1", "--port", "1", "--not-a-flag", "a: b"], &["no --not-a-flag"]),
    (&["intercept", "web-1", "--port", "1", "--wait", "5"], &["--wait", "no command", "-- npm start"]),
    (&["intercept", "web-1", "--port", "1", "--"], &["no command behind --"]),
    (&["intercept", "web-1", "--port", "1", "--any=yes"], &["--any takes no value"]),
    (&["intercept", "web-1", "--port", "1", "--wait", "0"], &["--wait", "1 to 3600"]),
    (&["intercept", "web-1", "--port", "1", "-o", "xml"], &["`xml`", "text or json"]),
    (&["intercept", "web-1", "npm", "--port", "1"], &["`npm`", "--"]),
    (&["intercept", "web-1", "--port", "1", "--agent", "node-1", "--agent-key", PIN], &["`node-1` has no port"]),
    (&["intercept", "web-1", "--port", "1", "--agent", "::1:7447", "--agent-key", PIN], &["brackets"]),
    (&["intercept", "web-1", "--port", "1", "--agent", "h:1"], &["--agent-key is missing"]),
    (&["list", "--agent-key", PIN], &["--agent is missing"]),
    (&["list", "--agent", "h:1", "--agent-key", "sha256:abc"], &["--agent-key", "`sha256:abc`", "43 characters"]),
    (&["list", "--agent", "h:1", "--agent-key", "MCowBQYDK2VwAyEA"], &["--agent-key", "`sha256:`"]),
    (&["list", "--agent", "h:1", "--agent", "i:1", "--agent-key", PIN], &["2 --agent and 1 --agent-key"]),
    (&["list", "--agent", "h:1", "--agent-key", PIN], &["no key file", "redir keygen"]),
    (&["list", "--config", "/nonexistent/redir.toml"], &["/nonexistent/redir.toml", "--config"]),
    (&["list"], &["no kubeconfig", "--kubeconfig", "redir.toml"]),
    (&["status", "--foo"], &["--foo", "redir status --help"]),
    (&["leave"], &["missing", "redir leave --help"]),
    (&["leave", "web-1", "--all"], &["exclude each other"]),
    (&["completions", "tcsh"], &["`tcsh`", "bash"]),
    (&["completions"], &["SHELL is missing"]),
    (&["intercpet"], &["did you mean `redir intercept`"]),
    (&["frobnicate"], &["`frobnicate`", "redir --help"]),
    (&["--frobnicate"], &["--frobnicate", "redir --help"]),
];

#[test]
fn wrong_flags_get_one_sentence() {
    let home = Home::new();
    for (arguments, expected) in WRONG {
        let (code, text) = home.refusal(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {text}");
        assert_one_sentence(&text);
        for words in *expected {
            assert!(text.contains(words), "{arguments:?} lacks {words:?}: {text}");
        }
    }
    assert!(!home.config().exists(), "something was left behind");
}

#[test]
fn wrong_lines_of_the_configuration_are_named() {
    let table = [
        ("key = 3\n", "redir.toml:1: key: "),
        ("\n[agents.a]\naddress = \"h\"\n", "redir.toml:3: agents.a.address: `h` has no port"),
        ("[agents.a]\naddress = \"h:1\"\nkey = \"sha256:\"\n", "redir.toml:3: agents.a.key: "),
        ("[agents.a]\naddres = \"h:1\"\n", "redir.toml:2: agents.a.addres: there is no such key"),
        ("[agents.a\n", "redir.toml:1: "),
    ];
    for (text, expected) in table {
        let home = Home::new();
        home.write_config(text);
        for arguments in [&["list"][..], &["intercept", "web-1", "--port", "1"]] {
            let (code, said) = home.refusal(arguments);
            assert_eq!(code, Some(2), "{said}");
            assert_one_sentence(&said);
            assert!(said.contains(expected), "{said} lacks {expected}");
        }
    }
}

#[cfg(unix)]
#[test]
fn a_file_that_is_no_key_is_refused() {
    let home = Home::new();
    let key = home.path().join("key");
    std::fs::write(&key, "hello").unwrap();
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let key = key.to_str().unwrap();
    let (code, text) = home.refusal(&["list", "--agent", "h:1", "--agent-key", PIN, "--key", key]);
    assert_eq!(code, Some(2));
    assert_one_sentence(&text);
    assert!(text.contains("no key of redir") && text.contains("redir keygen"), "{text}");
}

#[cfg(unix)]
#[test]
fn a_directory_is_no_key_whatever_its_mode() {
    let home = Home::new();
    let key = home.path().to_str().unwrap();
    let (code, text) = home.refusal(&["list", "--agent", "h:1", "--agent-key", PIN, "--key", key]);
    assert_eq!(code, Some(2));
    assert_one_sentence(&text);
    assert!(text.contains("it is a directory") && text.contains("--key") && !text.contains("chmod"), "{text}");
}

#[test]
fn help_teaches_and_succeeds() {
    let home = Home::new();
    for (arguments, expected) in [
        (&["--help"][..], "First steps"),
        (&["intercept", "--help"], "--header 'x-user: alice'"),
        (&["intercept", "-h"], "--port"),
        (&["leave", "--help"], "redir leave 7"),
        (&["help"], "First steps"),
        (&["help", "leave"], "redir leave 7"),
        (&["--version"], env!("CARGO_PKG_VERSION")),
    ] {
        let output = home.run(arguments);
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(expected), "{arguments:?}: {text}");
        assert!(!text.contains('\u{1b}'), "colours without a terminal");
    }
    assert_eq!(home.run(&[]).status.code(), Some(2));
}

#[test]
fn completions_know_the_flags() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let output = home.run(&["completions", shell]);
        assert!(output.status.success(), "{shell}");
        let text = String::from_utf8(output.stdout).unwrap();
        for word in ["intercept", "header-prefix", "cookie-regex", "baggage-present", "query", "not", "keygen"] {
            assert!(text.contains(word), "{shell} lacks {word}");
        }
    }
    #[cfg(unix)]
    {
        let script = format!("source <('{}' completions bash) && complete -p redir", env!("CARGO_BIN_EXE_redir"));
        let output = std::process::Command::new("bash").args(["-c", &script]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// `script` gives the command a terminal.
#[cfg(target_os = "linux")]
#[test]
fn colours_are_for_terminals_that_want_them() {
    let home = Home::new();
    let run = |name: &str, value: &str| {
        let line = format!("'{}' list", env!("CARGO_BIN_EXE_redir"));
        let mut command = std::process::Command::new("script");
        command.args(["-qec", &line, "/dev/null"]).stdin(std::process::Stdio::null());
        command.env("HOME", home.path()).env_remove("XDG_CONFIG_HOME").env_remove("NO_COLOR").env("TERM", "xterm");
        command.env_remove("KUBECONFIG").env_remove("KUBERNETES_SERVICE_HOST");
        String::from_utf8(command.env(name, value).output().unwrap().stdout).unwrap()
    };
    assert!(run("LANG", "C").starts_with("\u{1b}[31mredir:\u{1b}[0m there is no kubeconfig"));
    assert!(run("NO_COLOR", "").contains("\u{1b}[31m"), "an empty NO_COLOR says nothing");
    assert!(run("NO_COLOR", "1").starts_with("redir: there is no kubeconfig"));
    assert!(run("TERM", "dumb").starts_with("redir: there is no kubeconfig"));
}
