//! Every value that a person can get wrong, and the sentence they get for it.

use super::*;

const PIN: &str = "sha256:47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU";
const PIN2: &str = "sha256:n4bQgYhMfWWaL-qgxVrQFaO_TxsrC4Is0V1sFbDwCgg";

fn parse(text: &str) -> Result<NodeConfig, ConfigError> {
    NodeConfig::parse(text, Path::new("/etc/redir/agent.toml"))
}

fn good() -> String {
    format!(
        r#"[agent]
listen = "0.0.0.0:7447"
key = "agent.key"
drain = "1500ms"
attach = "clsact"
upstream_ports = "high"
user = 1000

[[pod]]
name = "web-1"
labels = {{ app = "web", tier = "front" }}
netns = "/run/netns/web-1"
ports = [8080, 9090]
tls = [{{ port = 9090, cert = "tls/web.crt", key = "/k/web.key" }}]

[[pod]]
name = "db-1"
netns = "/run/netns/db-1"

[[developer]]
name = "alice"
key = "{PIN}"
pods = [{{ app = "web" }}]

[[developer]]
name = "bob"
key = "{PIN2}"
pods = [{{}}]
"#
    )
}

#[test]
fn reads_everything() {
    let config = parse(&good()).expect("the sample is good");
    assert_eq!(config.agent.key.as_deref(), Some(Path::new("/etc/redir/agent.key")));
    assert_eq!(config.agent.admin, DEFAULT_ADMIN);
    assert_eq!(config.agent.drain, Duration::from_millis(1500));
    assert_eq!((config.agent.attach, config.agent.user), (AttachSetting::Clsact, 1000));
    assert_eq!((config.agent.upstream_ports, config.agent.probe_tls), (UpstreamPorts::High, true));
    let quiet = parse(&good().replace("user = 1000", "probe_tls = false")).expect("it is good too");
    assert!(!quiet.agent.probe_tls);
    let web = config.pod(&PodName::new("web-1").expect("good")).expect("there");
    assert!(web.allows(8080) && !web.allows(80) && !web.allows(0));
    let files = TlsFiles { port: 9090, cert: "/etc/redir/tls/web.crt".into(), key: "/k/web.key".into() };
    assert_eq!((&web.tls[..], &config.pods[1].tls[..]), (&[files][..], &[][..]));
    assert!(config.pods[1].allows(80) && !config.pods[1].allows(0));
    let [alice, bob] = &config.developers[..] else { panic!("two developers") };
    assert!(alice.may(web) && !alice.may(&config.pods[1]));
    assert!(bob.may(web) && bob.may(&config.pods[1]));
    assert_eq!(config.developer(&bob.key), Some(bob));
}

#[test]
fn defaults() {
    let config = parse("[agent]\nlisten = \"[::]:7447\"\nkey = \"/k\"").expect("enough");
    assert_eq!((config.agent.drain, config.agent.user), (DEFAULT_DRAIN, names::WORKER_USER));
    let agent = &config.agent;
    assert_eq!((agent.attach, agent.upstream_ports, agent.probe_tls), (AttachSetting::Auto, UpstreamPorts::Low, true));
    assert!(config.pods.is_empty() && config.developers.is_empty());
}

#[test]
fn a_pod_is_a_container_by_name_and_runtimes_have_sockets() {
    let text = good().replace("netns = \"/run/netns/web-1\"", "docker = \"web\"");
    let text = text.replace("netns = \"/run/netns/db-1\"", "podman = \"web\"");
    let config = parse(&text).expect("good");
    let named: Vec<_> = config.containers().map(|(pod, container)| format!("{pod}: {container}")).collect();
    assert_eq!(named, ["web-1: Docker container web", "db-1: Podman container web"]);
    let [docker, podman] = ContainerRuntime::ALL.map(|runtime| config.runtimes.of(runtime));
    assert_eq!((docker, podman), (Path::new("/run/docker.sock"), Path::new("/run/podman/podman.sock")));
    let other = parse(&(text.clone() + "[runtimes]\ndocker = \"unix:///d.sock\"\n")).expect("good");
    assert_eq!(other.runtimes.of(ContainerRuntime::Docker), Path::new("/d.sock"));
    let twice = parse(&text.replace("podman", "docker")).expect_err("the same container").to_string();
    assert!(twice.contains("pod[1].docker: is the same"), "{twice}");
}

#[test]
fn the_api_server_is_named_by_host_and_port() {
    let read = |address: &str| {
        let text = format!("[agent]\nlisten = \"[::]:7447\"\n[kubernetes]\nnode = \"n1\"\napi_server = \"{address}\"");
        parse(&text).map(|config| config.kubernetes.and_then(|kubernetes| kubernetes.api_server))
    };
    for address in ["192.0.2.1:6443", "https://192.0.2.1:6443", "https://192.0.2.1:6443/"] {
        assert_eq!(read(address).expect(address), Some(http::Uri::from_static("https://192.0.2.1:6443")));
    }
    assert!(read("[2001:db8::1]:443").is_ok() && read("api.example.com:443").is_ok());
    for wrong in ["192.0.2.1", "http://192.0.2.1:80", "192.0.2.1:6443/path", "me@192.0.2.1:6443", "192.0.2.1:70000", ""]
    {
        let error = read(wrong).expect_err(wrong).to_string();
        assert!(error.contains("api_server") && error.contains("write HOST:PORT"), "{error}");
    }
}

/// (what to replace in the good file, by what, the beginning of the message after the file name, a word of the next step)
const BAD: &[(&str, &str, &str, &str)] = &[
    ("[agent]", "[agent", ":1: not valid TOML", "correct this line"),
    ("name = \"web-1\"", "name = web", ":10: not valid TOML", "correct this line"),
    ("[agent]", "[agemt]", ":1: agent: is missing", "[agent]"),
    ("[agent]", "agent = 1\n[x]", ":1: agent: is a whole number where a table", "write it as"),
    (
        "[agent]",
        "typo = 1\n[agent]",
        ":1: typo: is not a known key",
        "known: agent, kubernetes, pod, developer, runtimes",
    ),
    ("user = 1000", "usr = 1000", ":7: agent.usr: is not a known key", "known: listen"),
    ("listen = \"0.0.0.0:7447\"\n", "", ":1: agent.listen: is missing", "0.0.0.0:7447"),
    ("0.0.0.0:7447", "0.0.0.0", ":2: agent.listen: \"0.0.0.0\" is not an address", "write \"0.0.0.0:7447\""),
    ("0.0.0.0:7447", "0.0.0.0:0", ":2: agent.listen: port 0", "1 to 65535"),
    ("0.0.0.0:7447", "0.0.0.0:70000", ":2: agent.listen: \"0.0.0.0:70000\" is not an address", "write"),
    ("\"0.0.0.0:7447\"", "7447", ":2: agent.listen: is a whole number where a string", "double quotes"),
    ("key = \"agent.key\"\n", "", ":1: agent.key: is missing", "redir-agent keygen"),
    ("agent.key", "", ":3: agent.key: is empty", "path"),
    ("user = 1000", "admin = \"0.0.0.0:7448\"", ":7: agent.admin: 0.0.0.0 can be reached", "loopback"),
    ("user = 1000", "admin = \"127.0.0.1:0\"", ":7: agent.admin: port 0", "1 to 65535"),
    ("1500ms", "1500", ":4: agent.drain: \"1500\" is not a duration", "\"10s\""),
    ("1500ms", "99999999999999999999s", ":4: agent.drain: ", "\"10s\""),
    ("1500ms", "11m", ":4: agent.drain: 11m is longer", "shorter"),
    ("1500ms", "-1s", ":4: agent.drain: \"-1s\" is not", "\"10s\""),
    ("\"clsact\"", "\"xdp\"", ":5: agent.attach: \"xdp\" is not a choice", "\"auto\" or \"tcx\" or \"clsact\""),
    ("\"high\"", "\"mid\"", ":6: agent.upstream_ports: \"mid\"", "\"low\" or \"high\""),
    ("user = 1000", "probe_tls = \"no\"", ":7: agent.probe_tls: is a string where true or false", "without quotes"),
    ("user = 1000", "user = 0", ":7: agent.user: 0 is root", "60744"),
    ("user = 1000", "user = -1", ":7: agent.user: is no uid", "60744"),
    ("user = 1000", "user = 4294967295", ":7: agent.user: is no uid", "60744"),
    ("user = 1000", "user = \"nobody\"", ":7: agent.user: is a string", "without quotes"),
    ("name = \"web-1\"", "name = \"\"", ":10: pod[0].name: a pod's name is", "choose another"),
    ("name = \"web-1\"", "name = \"a b\"", ":10: pod[0].name: a pod's name is", "choose another"),
    ("name = \"db-1\"", "name = \"web-1\"", ":17: pod[1].name: is the same as in entry [0]", "its own"),
    ("netns = \"/run/netns/db-1\"", "netns = \"/run/netns/web-1\"", ":18: pod[1].netns: is the same", "its own"),
    ("netns = \"/run/netns/db-1\"", "", ":16: pod[1].netns: is missing", "/run/netns/"),
    ("netns = \"/run/netns/db-1\"", "netns = \"db-1\"", ":18: pod[1].netns: \"db-1\" is not an absolute", "whole path"),
    (
        "netns = \"/run/netns/db-1\"",
        "docker = \"-db\"",
        ":18: pod[1].docker: \"-db\" is no container's name",
        "`docker ps`",
    ),
    ("netns = \"/run/netns/db-1\"", "podman = \"a/b\"", ":18: pod[1].podman: \"a/b\" is no container's", "`podman ps`"),
    ("netns = \"/run/netns/db-1\"", "podman = \"\"", ":18: pod[1].podman: \"\" is no container's", "as in \"web\""),
    (
        "netns = \"/run/netns/db-1\"",
        "netns = \"/n\"\ndocker = \"db\"",
        ":19: pod[1].docker: a pod is named by one of",
        "out",
    ),
    ("[agent]", "[runtimes]\ndocker = \"docker.sock\"\n[agent]", ":2: runtimes.docker: is no path", "/run/docker.sock"),
    (
        "[agent]",
        "[runtimes]\ncontainerd = \"/c\"\n[agent]",
        ":2: runtimes.containerd: is not a known",
        "docker, podman",
    ),
    ("tier = \"front\"", "tier = 3", ":11: pod[0].labels.tier: is a whole number", "double quotes"),
    ("tier = \"front\"", "tier = \"a=b\"", ":11: pod[0].labels.tier: is no label", "without spaces"),
    ("labels = { app = \"web\", tier = \"front\" }", "labels = \"web\"", ":11: pod[0].labels: is a string", "{ key"),
    ("[8080, 9090]", "[]", ":13: pod[0].ports: is empty", "leave the key out"),
    ("[8080, 9090]", "[8080, 0]", ":13: pod[0].ports[1]: 0 is no port", "1 to 65535"),
    ("[8080, 9090]", "[65536]", ":13: pod[0].ports[0]: 65536 is no port", "1 to 65535"),
    ("[8080, 9090]", "[99999999999999999999]", ":13: pod[0].ports[0]: is too large", "smaller"),
    ("[8080, 9090]", "8080", ":13: pod[0].ports: is a whole number where a list", "square brackets"),
    ("[8080, 9090]", "[\"8080\"]", ":13: pod[0].ports[0]: is a string", "without quotes"),
    ("port = 9090", "port = 0", ":14: pod[0].tls[0].port: 0 is no port", "1 to 65535"),
    ("port = 9090", "port = 8443", ":14: pod[0].tls[0].port: 8443 may not be intercepted", "`ports`"),
    ("port = 9090, ", "", ":14: pod[0].tls[0].port: is missing", "8443"),
    ("cert = \"tls/web.crt\", ", "", ":14: pod[0].tls[0].cert: is missing", "PEM file"),
    (", key = \"/k/web.key\"", "", ":14: pod[0].tls[0].key: is missing", "private key"),
    ("tls/web.crt", "", ":14: pod[0].tls[0].cert: is empty", "path"),
    ("cert = ", "crt = ", ":14: pod[0].tls[0].cert: is missing", "PEM file"),
    ("key = \"/k/web.key\"", "key = \"k\", sni = 1", ":14: pod[0].tls[0].sni: is not a known key", "port, cert, key"),
    ("name = \"bob\"", "name = \"alice\"", ":26: developer[1].name: is the same as in entry [0]", "its own"),
    ("name = \"bob\"", "name = \"b ob\"", ":26: developer[1].name: a developer's name is", "choose another"),
    (PIN2, PIN, ":27: developer[1].key: is the same as in entry [0]", "its own"),
    (PIN2, "sha256:abc", ":27: developer[1].key: ", "keygen"),
    (PIN2, "md5:abc", ":27: developer[1].key: ", "keygen"),
    ("pods = [{}]", "", ":25: developer[1].pods: is missing", "[{}] is every pod"),
    ("pods = [{}]", "pods = []", ":28: developer[1].pods: is empty", "[{}] is every pod"),
    ("pods = [{}]", "pods = [\"web\"]", ":28: developer[1].pods[0]: is a string where a table", "{ key"),
    ("pods = [{}]", "pods = [{ app = 1 }]", ":28: developer[1].pods[0].app: is a whole number", "double quotes"),
    ("pods = [{}]", "pods = [{}]\nrole = 1", ":29: developer[1].role: is not a known key", "known: name"),
];

#[test]
fn every_bad_value_is_named_with_file_line_key_and_next_step() {
    for (from, to, start, next) in BAD {
        let text = good().replacen(from, to, 1);
        assert_ne!(text, good(), "{from:?} is not in the sample");
        let message = parse(&text).expect_err(to).to_string();
        let expected = format!("/etc/redir/agent.toml{start}");
        assert!(message.starts_with(&expected), "{message:?} should start with {expected:?}");
        assert!(message.contains(next), "{message:?} should say {next:?}");
        assert!(!message.contains('\n'), "{message:?} is one line");
    }
}

#[test]
fn pod_names_are_bounded() {
    assert!(PodName::new(&"a".repeat(253)).is_ok());
    assert!(PodName::new(&"a".repeat(254)).is_err());
    assert!(PodName::new("ns/pod").is_err() && PodName::new("pöd").is_err() && PodName::new("a\u{1b}").is_err());
}
