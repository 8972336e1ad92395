//! What a worker that is somebody else's now gets of a guardian in Kubernetes: what live Intercepts mean, and nothing more.

use std::{collections::BTreeSet, fs, os::unix::fs::symlink};

use redir_api::names;
use tempfile::TempDir;

use super::*;
use redir_ipc::{FirstHand, PodPermission};

const WEB: &str = "6fa459ea-ee8a-3ca4-894e-db77e160355e";
const OTHER: &str = "16fd2706-8baf-433b-82eb-8c7fada847da";

/// Two pods of namespace `shop`, with a process each.
struct NodeFixture {
    _proc: TempDir,
    topology: Topology,
    config: NodeConfig,
    pods: PodTable,
    before: Snapshot,
}

impl NodeFixture {
    fn new() -> Self {
        let topology = Topology::new(&unique_prefix("t"), 2).expect("namespaces: run as root");
        let proc = tempfile::tempdir().expect("folder");
        for (index, uid) in [WEB, OTHER].into_iter().enumerate() {
            let folder = proc.path().join((10 + index).to_string());
            fs::create_dir_all(folder.join("ns")).expect("made");
            fs::write(folder.join("cgroup"), format!("0::/kubepods/pod{uid}/c\n")).expect("written");
            fs::write(folder.join("comm"), "app\n").expect("written");
            let stat = format!("{} (app) S 1{} 1 0 10 0\n", 10 + index, " 0".repeat(15));
            fs::write(folder.join("stat"), stat).expect("written");
            symlink(topology.pods[index].namespace.path(), folder.join("ns/net")).expect("linked");
        }
        let text = "[agent]\nlisten = \"127.0.0.1:7447\"\n[kubernetes]\nnode = \"n1\"\n";
        let config = NodeConfig::parse(text, Path::new("agent.toml")).expect("good");
        let forbidden = config.kubernetes.as_ref().expect("there").forbidden.clone();
        assert_eq!(forbidden, BTreeSet::from(["kube-system".to_owned()]), "by default");
        let cluster = (NetnsResolver::new(proc.path()), PermissionList::new(forbidden));
        let pods = PodTable::new(
            HostNamespaces::new().expect("own namespace"),
            AttachSetting::Auto,
            names::WORKER_USER,
            Some(cluster),
        );
        let before = Snapshot::take(&topology.pods[0].namespace).expect("bpftool, ip");
        Self { _proc: proc, topology, config, pods, before }
    }

    /// What a worker says, whoever it is.
    fn ask(&mut self, request: Request) -> Result<GrantedReply, RequestRefusal> {
        self.pods.serve(&self.config, request, &mut |_, _| {}).expect("a request")
    }

    fn arm(&mut self, uid: &str, port: u16) -> Result<GrantedReply, RequestRefusal> {
        self.ask(Request::Arm { pod: PodName::new(uid).expect("good"), port })
    }

    /// What the controller says, as a whole.
    fn permit(&mut self, list: Vec<PodPermission>, now: Instant) {
        let list = list.into_iter().map(ControllerMessage::Allow);
        for message in [ControllerMessage::Begin].into_iter().chain(list).chain([ControllerMessage::Commit]) {
            self.pods.permit(message, now);
        }
    }

    fn permission(&self, uid: &str, namespace: &str, ip: usize) -> PodPermission {
        let at = PodLocation { ips: vec![self.topology.pods[ip].v4.into()], first: FirstHand::App };
        let pod = PodName::of_uid(uid, namespace, "web").expect("good");
        PodPermission { pod, namespace: namespace.to_owned(), at, ports: vec![8080] }
    }

    fn enforce(&mut self, now: Instant) -> Vec<PodName> {
        self.pods.enforce(now, DRAIN, &mut |_, _| {})
    }

    fn armed_ports(&self) -> Vec<u16> {
        self.pods.armed.get(&PodName::new(WEB).expect("good")).map(ArmedPod::ports).unwrap_or_default()
    }

    fn assert_untouched(&self) {
        self.before.restored(&self.topology.pods[0].namespace, Duration::from_secs(5)).expect("nothing is attached");
    }
}

const DRAIN: Duration = Duration::from_secs(10);

#[test]
fn without_a_live_intercept_nothing_is_armed() {
    let (mut node, now) = (NodeFixture::new(), Instant::now());
    let refused = node.arm(WEB, 8080).expect_err("the controller has said nothing yet");
    assert_eq!(refused.code, RefusalCode::UnknownPod);
    assert!(refused.sentence.contains("no live Intercept") && refused.sentence.contains(';'), "{}", refused.sentence);
    node.permit(vec![node.permission(WEB, "shop", 0)], now);
    assert_eq!(node.arm(WEB, 22).expect_err("another port").code, RefusalCode::PortNotAllowed);
    assert_eq!(node.arm(OTHER, 8080).expect_err("another pod").code, RefusalCode::UnknownPod);
    node.assert_untouched();
    node.arm(WEB, 8080).expect("an Intercept means it");
    assert_eq!(node.armed_ports(), [8080]);
    assert_eq!(node.arm(WEB, 8081).expect_err("another port of an armed pod").code, RefusalCode::PortNotAllowed);
    node.permit(vec![], now);
    assert_eq!(node.arm(WEB, 8080).expect_err("it has ended").code, RefusalCode::UnknownPod);
}

/// Whatever address the worker would like a pod to have: it cannot say any, and the API server's must fit the pod.
#[test]
fn the_address_of_another_pod_opens_no_namespace() {
    let (mut node, now) = (NodeFixture::new(), Instant::now());
    node.permit(vec![node.permission(WEB, "shop", 1)], now);
    let refused = node.arm(WEB, 8080).expect_err("another pod's address");
    assert_eq!(refused.code, RefusalCode::Namespace, "{}", refused.sentence);
    node.assert_untouched();
}

#[test]
fn nothing_is_armed_in_kube_system() {
    let (mut node, now) = (NodeFixture::new(), Instant::now());
    node.permit(vec![node.permission(WEB, "kube-system", 0)], now);
    assert_eq!(node.arm(WEB, 8080).expect_err("forbidden").code, RefusalCode::UnknownPod);
    node.assert_untouched();
}

/// A worker that keeps what no Intercept means any more loses it: first its new connections, then all.
#[test]
fn what_a_worker_does_not_give_back_is_taken_from_it() {
    let (mut node, now) = (NodeFixture::new(), Instant::now());
    node.permit(vec![node.permission(WEB, "shop", 0)], now);
    node.arm(WEB, 8080).expect("armed");
    assert_eq!(node.pods.next_withdrawal(), None);
    node.permit(vec![], now);
    let due = node.pods.next_withdrawal().expect("a time");
    assert!(node.enforce(due - Duration::from_millis(1)).is_empty());
    assert_eq!(node.armed_ports(), [8080], "the worker has a while to do it by itself");
    assert!(node.enforce(due).is_empty());
    assert_eq!(node.armed_ports(), [0; 0]);
    assert_eq!(node.pods.next_withdrawal(), Some(due + DRAIN));
    assert_eq!(node.enforce(due + DRAIN), [PodName::new(WEB).expect("good")]);
    assert_eq!(node.pods.next_withdrawal(), None);
    node.assert_untouched();
}

/// Connections of an Intercept that has ended go on for a long time, if the worker has disarmed its port; not for ever: a
/// worker that was taken over would keep the pod.
#[test]
fn a_worker_that_gives_back_in_time_keeps_its_connections() {
    let (mut node, now) = (NodeFixture::new(), Instant::now());
    node.permit(vec![node.permission(WEB, "shop", 0)], now);
    node.arm(WEB, 8080).expect("armed");
    node.permit(vec![], now);
    let due = node.pods.next_withdrawal().expect("a time");
    node.ask(disarm()).expect("disarmed");
    assert!(node.enforce(due).is_empty() && node.enforce(due + 100 * DRAIN).is_empty());
    node.ask(Request::Stats { pod: PodName::new(WEB).expect("good") }).expect("still reflected");
    assert_eq!(node.pods.next_withdrawal(), Some(now + LAST_CONNECTIONS));
    node.permit(vec![node.permission(WEB, "shop", 0)], now);
    assert_eq!(node.pods.next_withdrawal(), None, "an Intercept means it again");
    node.permit(vec![], now + DRAIN);
    assert_eq!(node.enforce(now + DRAIN + LAST_CONNECTIONS), [PodName::new(WEB).expect("good")]);
    node.assert_untouched();
}

/// As often as a worker that was taken over asks, for a day; an Intercept that means the pod again ends it.
#[test]
fn a_pod_without_an_intercept_has_a_bounded_number_of_new_connections() {
    let (mut node, now) = (NodeFixture::new(), Instant::now());
    node.permit(vec![node.permission(WEB, "shop", 0)], now);
    node.arm(WEB, 8080).expect("armed");
    let ip = node.topology.pods[0].v4.into();
    let sockets = || Request::Sockets {
        pod: PodName::new(WEB).expect("good"),
        bind: redir_ipc::BindAddress { ip, scope: 0 },
        ports: (20_000..20_032).collect(),
        for_trial: false,
    };
    for _ in 0..crate::late_sockets::LATE_SOCKETS_OF_POD / 32 + 2 {
        node.ask(sockets()).expect("intercepted");
    }
    node.permit(vec![], now);
    node.ask(disarm()).expect("disarmed");
    let granted = (0..).map_while(|_| node.ask(sockets()).ok()).map(|(_, sockets)| sockets.len()).sum::<usize>();
    assert_eq!(granted, crate::late_sockets::LATE_SOCKETS_OF_POD);
    let refused = node.ask(sockets()).expect_err("it had its part");
    assert!(
        refused.code == RefusalCode::Busy && refused.sentence.contains("no Intercept means"),
        "{}",
        refused.sentence
    );
    node.permit(vec![node.permission(WEB, "shop", 0)], now);
    node.ask(sockets()).expect("intercepted again");
}

fn disarm() -> Request {
    Request::Disarm { pod: PodName::new(WEB).expect("good"), port: 8080 }
}

/// A worker without time is late, and gives back all the same.
#[test]
fn a_late_worker_that_gives_back_keeps_its_connections() {
    let (mut node, now) = (NodeFixture::new(), Instant::now());
    node.permit(vec![node.permission(WEB, "shop", 0)], now);
    node.arm(WEB, 8080).expect("armed");
    node.permit(vec![], now);
    let due = node.pods.next_withdrawal().expect("a time");
    assert!(node.enforce(due).is_empty());
    node.ask(disarm()).expect("disarmed");
    assert!(node.enforce(due + DRAIN).is_empty());
    node.ask(Request::Stats { pod: PodName::new(WEB).expect("good") }).expect("still reflected");
}

#[test]
fn a_cut_is_put_off_while_another_port_is_wanted_and_not_lost() {
    let (mut node, now) = (NodeFixture::new(), Instant::now());
    let other = |node: &NodeFixture| PodPermission { ports: vec![8081], ..node.permission(WEB, "shop", 0) };
    node.permit(vec![node.permission(WEB, "shop", 0), other(&node)], now);
    node.arm(WEB, 8080).expect("armed");
    node.arm(WEB, 8081).expect("armed");
    node.permit(vec![other(&node)], now);
    let due = node.pods.next_withdrawal().expect("a time");
    assert!(node.enforce(due).is_empty() && node.enforce(due + DRAIN).is_empty());
    assert_eq!((node.armed_ports(), node.pods.next_withdrawal()), (vec![8081], None));
    node.permit(vec![], due + DRAIN);
    assert_eq!(node.enforce(due + DRAIN), [PodName::new(WEB).expect("good")]);
    node.assert_untouched();
}
