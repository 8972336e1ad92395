//! What cannot be done is said in a sentence with the next step, and leaves nothing attached.

use std::{net::IpAddr, os::fd::AsFd, thread};

use super::{
    super::{AttachMode, DatapathError, LinkLayer, PodDatapath, PodDevice, PodSpec, object},
    intercepted::hooks,
    rig::*,
};

fn spec<'a>(
    pair: &'a PodAndClient,
    listeners: &'a TestListeners,
    devices: &'a [PodDevice],
    addresses: &'a [IpAddr],
) -> PodSpec<'a> {
    PodSpec {
        netns: pair.pod.fd().as_fd(),
        devices,
        addresses,
        agent_port: listeners.port,
        listener_v4: listeners.v4.as_fd(),
        listener_v6: None,
        attach: AttachMode::Auto,
    }
}

/// Empties the calling thread's capability sets, for good.
#[expect(unsafe_code, reason = "no wrapper for capset")]
fn drop_capabilities() {
    // `_LINUX_CAPABILITY_VERSION_3`, for the calling thread.
    let header: [u32; 2] = [0x2008_0522, 0];
    let none = [0_u32; 6];
    // SAFETY: both are as long as version 3 says.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) };
    assert_eq!(result, 0);
}

#[test]
fn every_program_loads_on_this_kernel() {
    object::all_classifiers(&mut object::load().unwrap()).unwrap();
}

#[test]
fn without_capabilities_the_admin_is_told_which() {
    let error = thread::spawn(|| {
        drop_capabilities();
        object::load().unwrap_err()
    });
    let error = error.join().unwrap();
    assert!(matches!(error, DatapathError::Permission { .. }), "{error}");
    assert!(error.to_string().contains("CAP_BPF"), "{error}");
}

#[test]
fn a_pod_without_device_or_address_is_refused() {
    let pair = PodAndClient::new();
    let listeners = TestListeners::new(&pair.pod);
    let devices = pair.devices();
    let many: Vec<IpAddr> =
        (0..513_u16).map(|i| IpAddr::from([10, 0, i.to_be_bytes()[0], i.to_be_bytes()[1]])).collect();
    for (devices, addresses) in [(&[][..], &[POD_V4][..]), (&devices, &[]), (&devices, &many)] {
        let error = PodDatapath::load(&spec(&pair, &listeners, devices, addresses), &mut || {}).unwrap_err();
        assert!(matches!(error, DatapathError::Spec(_)), "{error}");
    }
}

#[test]
fn a_device_that_went_meanwhile_is_passed_over() {
    let pair = PodAndClient::new();
    let listeners = TestListeners::new(&pair.pod);
    let before = pair.pod.footprint();
    for attach in hooks().into_iter().chain([AttachMode::Auto]) {
        let mut devices = pair.devices();
        devices.insert(0, PodDevice { index: 999, name: "eth9".into(), framing: LinkLayer::Ethernet });
        let spec = PodSpec { attach, ..spec(&pair, &listeners, &devices, &[POD_V4]) };
        let mut datapath = PodDatapath::load(&spec, &mut || {}).unwrap();
        datapath.attach(&mut || {}).unwrap();
        assert!(pair.pod.footprint().contains("redir_reflect"), "{attach:?}");
        drop(datapath);
        assert_eq!(pair.pod.footprint(), before, "{attach:?}");
    }
}

/// The test asks the kernel by itself, and does not believe its version either.
#[test]
fn what_the_kernel_has_is_taken_and_what_it_lacks_is_refused() {
    let pair = PodAndClient::new();
    let listeners = TestListeners::new(&pair.pod);
    let (before, devices) = (pair.pod.footprint(), pair.devices());
    let attached = |attach| {
        let spec = PodSpec { attach, ..spec(&pair, &listeners, &devices, &[POD_V4]) };
        let mut datapath = PodDatapath::load(&spec, &mut || {}).unwrap();
        datapath.attach(&mut || {}).map(|()| datapath.hook())
    };
    let exists = redir_rig::tcx::exists().unwrap();
    assert_eq!(attached(AttachMode::Auto).unwrap(), if exists { AttachMode::Tcx } else { AttachMode::Clsact });
    assert_eq!(attached(AttachMode::Clsact).unwrap(), AttachMode::Clsact);
    match attached(AttachMode::Tcx) {
        Ok(hook) => assert!(exists && hook == AttachMode::Tcx),
        Err(error) => assert!(!exists && matches!(error, DatapathError::NoTcx), "{error}"),
    }
    assert_eq!(pair.pod.footprint(), before);
}

#[test]
fn every_error_ends_with_a_next_step() {
    let io = || std::io::Error::from_raw_os_error(libc::ENODEV);
    let detail = || "what the kernel said".to_owned();
    let device = || "eth0".to_owned();
    let errors = [
        DatapathError::Permission { action: "load the programs" },
        DatapathError::LockedMemory { action: "create the maps", limit: 65_536 },
        DatapathError::KernelTooOld { detail: detail() },
        DatapathError::NoTcx,
        DatapathError::Load { program: "redir_steer", detail: detail() },
        DatapathError::Interrupted { program: "redir_steer" },
        DatapathError::Attach { program: "redir_steer", device: device(), source: io() },
        DatapathError::Detach(io()),
        DatapathError::Clsact { action: "add the clsact qdisc", device: device(), source: io() },
        DatapathError::Map { name: "PORTS", detail: detail() },
        DatapathError::Netns(io()),
    ];
    for error in errors {
        let text = error.to_string();
        assert!(text.contains("; ") && !text.ends_with('.'), "{text}");
    }
}
