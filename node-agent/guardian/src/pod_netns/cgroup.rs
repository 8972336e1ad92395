//! Whose a process is, by the names of its cgroups.
//!
//! The kubelet's cgroupfs driver names a pod's cgroup `pod<uid>`, its systemd driver `kubepods-…-pod<uid>.slice` with `_` for
//! `-`; containerd and CRI-O put the containers' below it, in every hierarchy of cgroup v1 as in v2. A container may make more
//! below its own and name them as it likes, so only the outermost of such names counts.

/// Whether a process with this `/proc/PID/cgroup` belongs to the pod. One that is in another pod's in some hierarchy does not.
pub(crate) fn names(cgroup: &str, uid: &str) -> bool {
    let wanted = uid.replace('-', "_");
    let paths = cgroup.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let mut pods =
        paths.filter_map(|path| path.split('/').find_map(pod_of)).map(|pod| pod.replace('-', "_")).peekable();
    pods.peek().is_some() && pods.all(|pod| pod == wanted)
}

/// Whether a cgroup of this name is a pod's.
pub(crate) fn is_pod(name: &str) -> bool {
    pod_of(name).is_some()
}

/// The UID in a cgroup's name, as it is written there.
fn pod_of(name: &str) -> Option<&str> {
    let (before, uid) = name.strip_suffix(".slice").unwrap_or(name).rsplit_once("pod")?;
    let is_uid =
        uid.len() >= SHORTEST_UID && uid.bytes().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b'-' | b'_'));
    (is_uid && (before.is_empty() || before.ends_with('-'))).then_some(uid)
}

/// A mirror pod's is 32 digits without dashes, any other's 36 characters.
pub(super) const SHORTEST_UID: usize = 32;
