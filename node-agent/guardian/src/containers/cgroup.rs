//! Whose container a process is in, by the names of its cgroups.
//!
//! Docker's cgroupfs driver names a container's cgroup by its ID, its systemd driver `docker-ID.scope`; Podman `libpod-ID`,
//! `libpod-ID.scope`, and in a systemd unit of its own `libpod-payload-ID`. Its pods are `libpod_parent/ID` with cgroupfs, and
//! have containers below. A container may make more cgroups below its own
//! and name them as it likes, so only the outermost of such names counts, in every hierarchy.

use redir_config::ContainerRuntime;
use redir_ipc::ContainerId;

use crate::pod_netns::is_pod;

/// The container that a process with this `/proc/PID/cgroup` is in. None, if hierarchies differ about it.
pub(super) fn container(cgroup: &str) -> Option<(ContainerRuntime, ContainerId)> {
    let paths = cgroup.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let mut named = paths.filter_map(outermost);
    let first = named.next()??;
    named.all(|other| other == Some(first)).then_some(first)
}

/// The outermost container in a path, if there is one; it is `None` inside where it is a Kubernetes pod's, which has names
/// like Docker's.
fn outermost(path: &str) -> Option<Option<(ContainerRuntime, ContainerId)>> {
    let mut names = path.split('/');
    let mut parent = "";
    while let Some(name) = names.next() {
        if is_pod(name) {
            return Some(None);
        }
        if parent == PODMAN_PODS && name.parse::<ContainerId>().is_ok() {
            let container = names.next().and_then(named);
            return Some(container.filter(|(runtime, _)| *runtime == ContainerRuntime::Podman));
        }
        if let Some(container) = named(name) {
            return Some(Some(container));
        }
        parent = name;
    }
    None
}

fn named(name: &str) -> Option<(ContainerRuntime, ContainerId)> {
    let name = name.strip_suffix(".scope").unwrap_or(name);
    let (runtime, id) = if let Some(id) = name.strip_prefix("libpod-") {
        (ContainerRuntime::Podman, id.strip_prefix("payload-").unwrap_or(id))
    } else {
        (ContainerRuntime::Docker, name.strip_prefix("docker-").unwrap_or(name))
    };
    Some((runtime, id.parse().ok()?))
}

/// Where Podman has its pods, and containers without one.
const PODMAN_PODS: &str = "libpod_parent";

#[cfg(test)]
mod tests {
    use super::*;

    fn id(digit: char) -> String {
        digit.to_string().repeat(64)
    }

    #[test]
    fn each_driver_s_names_are_known() {
        let a = id('a');
        for (path, runtime) in [
            (format!("0::/docker/{a}"), ContainerRuntime::Docker),
            (format!("0::/system.slice/docker-{a}.scope"), ContainerRuntime::Docker),
            (format!("0::/custom/parent/{a}/init"), ContainerRuntime::Docker),
            (format!("0::/machine.slice/libpod-{a}.scope/container"), ContainerRuntime::Podman),
            (format!("0::/machine.slice/machine-libpod_pod_{a}.slice/libpod-{a}.scope"), ContainerRuntime::Podman),
            (format!("0::/libpod_parent/libpod-{a}"), ContainerRuntime::Podman),
            (format!("0::/libpod_parent/{}/libpod-{a}/init", id('b')), ContainerRuntime::Podman),
            (format!("0::/system.slice/web.service/libpod-payload-{a}"), ContainerRuntime::Podman),
            (format!("9:name=systemd:/docker/{a}\n8:pids:/docker/{a}\n4:memory:/\n"), ContainerRuntime::Docker),
        ] {
            assert_eq!(container(&path), Some((runtime, a.parse().expect("an ID"))), "{path}");
        }
    }

    #[test]
    fn a_name_inside_of_a_container_and_other_names_do_not_count() {
        let (a, b) = (id('a'), id('b'));
        let nested = format!("0::/docker/{a}/docker/{b}");
        assert_eq!(container(&nested), Some((ContainerRuntime::Docker, a.parse().expect("an ID"))));
        for none in [
            "0::/".to_owned(),
            "0::/system.slice/ssh.service".to_owned(),
            format!("0::/machine.slice/libpod-conmon-{a}.scope"),
            format!("0::/kubepods/besteffort/pod6fa459ea-ee8a-3ca4-894e-db77e160355e/{a}"),
            format!("0::/kubepods.slice/kubepods-pod6fa459ea_ee8a_3ca4_894e_db77e160355e.slice/docker-{a}.scope"),
            format!("2:cpu:/docker/{a}\n0::/docker/{b}"),
            format!("0::/docker/{}", &a[1..]),
            format!("0::/libpod_parent/{a}"),
            format!("0::/libpod_parent/{a}/{b}"),
            format!("0::/libpod_parent/{a}/docker-{b}.scope"),
            format!("0::/libpod_parent/{a}/sub/libpod-{b}"),
        ] {
            assert_eq!(container(&none), None, "{none}");
        }
    }
}
