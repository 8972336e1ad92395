//! Nothing stays behind, and nothing of others is touched.

use std::os::fd::AsFd;

use redir_abi::program;
use redir_rig::tcx;

use super::{
    super::netlink::{self, FilterParent},
    super::{AttachMode, PodDatapath, SteerGate, object},
    intercepted::hooks,
    rig::*,
};

struct LeftoverPod {
    pair: PodAndClient,
    listeners: TestListeners,
    _app: TestApp,
}

impl LeftoverPod {
    fn new() -> Self {
        let pair = PodAndClient::new();
        let (listeners, app) = (TestListeners::new(&pair.pod), TestApp::new(&pair.pod));
        Self { pair, listeners, _app: app }
    }

    fn attached(&self, attach: AttachMode) -> PodDatapath {
        let mut datapath = load(&self.pair.pod, &self.pair.devices(), &[POD_V4, POD_V6], &self.listeners, attach);
        datapath.arm(APP_PORT, SteerGate::AppListening).unwrap();
        datapath.attach(&mut || {}).unwrap();
        datapath
    }

    fn footprint(&self) -> String {
        self.pair.pod.footprint()
    }

    /// Puts a program of ours on a hook as somebody else would, under a name.
    fn filter(&self, direction: FilterParent, priority: u16, name: &str) {
        let device = self.pair.pod.index_of("eth0");
        self.pair.pod.run(|| {
            let mut ebpf = object::load().unwrap();
            let program = object::classifier(&mut ebpf, program::STEER, &mut || {}).unwrap();
            netlink::add_filter(device, direction, priority, name, program.fd().unwrap().as_fd()).unwrap();
        });
    }
}

/// How often a program is attached, by TCX or as a filter.
fn count(footprint: &str, name: &str) -> usize {
    footprint.matches(&format!("gress: {name}\n")).count()
        + footprint.matches(&format!(" {name} direct-action")).count()
}

#[track_caller]
fn assert_only_the_stranger_is_left(footprint: &str) {
    assert!(footprint.contains("qdisc clsact"), "{footprint}");
    assert_eq!(count(footprint, "stranger"), 1, "{footprint}");
    for name in program::CLASSIFIERS {
        assert_eq!(count(footprint, name), 0, "{footprint}");
    }
}

#[test]
fn detaching_and_dropping_leave_what_was_there() {
    let pod = LeftoverPod::new();
    let before = pod.footprint();
    for attach in hooks().into_iter().chain([AttachMode::Auto]) {
        let mut datapath = pod.attached(attach);
        assert_ne!(pod.footprint(), before);
        datapath.detach_all(&mut || {}).unwrap();
        assert_eq!(pod.footprint(), before, "{attach:?}");
        datapath.attach(&mut || {}).unwrap();
        assert_ne!(pod.footprint(), before);
        drop(datapath);
        assert_eq!(pod.footprint(), before, "{attach:?}");
    }
}

#[test]
fn loading_attaches_nothing() {
    let pod = LeftoverPod::new();
    let before = pod.footprint();
    let mut datapath = load(&pod.pair.pod, &pod.pair.devices(), &[POD_V4], &pod.listeners, AttachMode::Auto);
    datapath.arm(APP_PORT, SteerGate::Always).unwrap();
    assert_eq!(pod.footprint(), before);
}

#[test]
fn tcx_links_go_although_the_worker_holds_duplicates() {
    if !tcx::is_here() {
        return;
    }
    let pod = LeftoverPod::new();
    let before = pod.footprint();
    let mut datapath = pod.attached(AttachMode::Tcx);
    let duplicates = datapath.link_fds().unwrap();
    // reflect and steer, each also on lo, and the companion
    assert_eq!(duplicates.len(), 5);
    datapath.detach_steer(&mut || {}).unwrap();
    assert_eq!(datapath.link_fds().unwrap().len(), 2);
    drop(datapath);
    assert_eq!(pod.footprint(), before);
    drop(duplicates);
}

#[test]
fn a_duplicate_keeps_the_links_when_the_guardian_is_killed() {
    if !tcx::is_here() {
        return;
    }
    let pod = LeftoverPod::new();
    let before = pod.footprint();
    let datapath = pod.attached(AttachMode::Tcx);
    let attached = pod.footprint();
    let duplicates = datapath.link_fds().unwrap();
    // Killed: its descriptors close, nothing is detached.
    datapath.let_go_as_if_killed();
    assert_eq!(pod.footprint(), attached);
    drop(duplicates);
    assert_eq!(pod.footprint(), before);
}

#[test]
fn a_strangers_qdisc_and_filters_stay() {
    let pod = LeftoverPod::new();
    pod.pair.pod.sh("tc qdisc add dev eth0 clsact");
    let qdisc_only = pod.footprint();
    drop(pod.attached(AttachMode::Clsact));
    assert_eq!(pod.footprint(), qdisc_only);
    // On the priority that we would like, of our kind and of another.
    pod.filter(FilterParent::Ingress, 1, "stranger");
    pod.pair.pod.sh("tc filter add dev eth0 egress prio 1 protocol ip u32 match u32 0 0 flowid 1:1");
    let with_filters = pod.footprint();
    drop(pod.attached(AttachMode::Clsact));
    assert_eq!(pod.footprint(), with_filters);
}

#[test]
fn our_qdisc_stays_when_a_stranger_has_moved_in() {
    let pod = LeftoverPod::new();
    let datapath = pod.attached(AttachMode::Clsact);
    pod.filter(FilterParent::Egress, 9, "stranger");
    drop(datapath);
    assert_only_the_stranger_is_left(&pod.footprint());
}

#[test]
fn what_a_killed_predecessor_left_is_cleared_away() {
    let pod = LeftoverPod::new();
    let before = pod.footprint();
    for _ in 0..2 {
        pod.pair.pod.sh("tc qdisc add dev eth0 clsact");
        pod.filter(FilterParent::Ingress, 1, program::STEER);
        pod.filter(FilterParent::Egress, 1, program::REFLECT);
        let datapath = pod.attached(AttachMode::Clsact);
        let attached = pod.footprint();
        assert_eq!(count(&attached, program::STEER), 1, "{attached}");
        drop(datapath);
        assert_eq!(pod.footprint(), before);
    }
    pod.pair.pod.sh("tc qdisc add dev eth0 clsact");
    pod.filter(FilterParent::Ingress, 1, program::STEER);
    pod.filter(FilterParent::Ingress, 2, "stranger");
    drop(pod.attached(AttachMode::Clsact));
    assert_only_the_stranger_is_left(&pod.footprint());
}

#[test]
fn two_datapaths_of_a_pod_do_not_take_each_others_filters() {
    for attach in hooks() {
        let pod = LeftoverPod::new();
        let before = pod.footprint();
        let mut lingering = pod.attached(attach);
        lingering.detach_steer(&mut || {}).unwrap();
        let successor = pod.attached(attach);
        drop(lingering);
        let alone = pod.footprint();
        for name in [program::STEER_LO, program::STEER, program::REFLECT] {
            assert_eq!(count(&alone, name), 1, "{alone}");
        }
        drop(successor);
        assert_eq!(pod.footprint(), before);
    }
}

#[test]
fn a_device_that_went_first_is_no_error() {
    for attach in hooks() {
        let pod = LeftoverPod::new();
        let mut datapath = pod.attached(attach);
        pod.pair.client.sh("ip link del eth0");
        datapath.detach_all(&mut || {}).unwrap();
    }
}
