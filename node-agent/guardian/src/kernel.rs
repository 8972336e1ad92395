//! What this kernel can, tried in a network namespace that is made for it and goes with it: every program is loaded, and
//! attached as in a pod. A version says little: distributions take features back to old kernels and leave some out of new
//! ones, and what a process may do is not in it either.
//!
//! Owns the namespace while it tries. Called by `run` and `check`, before anything is touched.

use std::{
    fs::File,
    io,
    net::Ipv4Addr,
    os::fd::{AsFd, OwnedFd},
    thread,
};

use nix::sched::{CloneFlags, unshare};

use super::{
    datapath::{AttachMode, DatapathError, LinkLayer, PodDatapath, PodDevice, PodSpec},
    listeners::{self, ListenerPair},
};

/// What was seen to work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KernelFeatures {
    /// How programs are attached to devices: TCX or clsact.
    hook: AttachMode,
    /// Why connections are not taken where the stack looks for a listener, if so.
    no_companion: Option<String>,
}

impl KernelFeatures {
    /// Loads and attaches everything once. The error is why pods cannot be intercepted here.
    pub(super) fn try_out(attach: AttachMode) -> Result<Self, DatapathError> {
        let (netns, listeners) = scratch()?;
        // Nothing is steered: no packet is ever on it, and it is down.
        let lo = PodDevice { index: 1, name: "lo".into(), framing: LinkLayer::Ethernet };
        let spec = PodSpec {
            netns: netns.as_fd(),
            devices: &[lo],
            addresses: &[Ipv4Addr::LOCALHOST.into()],
            agent_port: listeners.port,
            listener_v4: listeners.v4.as_fd(),
            listener_v6: listeners.v6.as_ref().map(AsFd::as_fd),
            attach,
        };
        let mut datapath = PodDatapath::load(&spec, &mut || {})?;
        datapath.load_all()?;
        datapath.attach(&mut || {})?;
        Ok(Self { hook: datapath.hook(), no_companion: datapath.no_companion().map(ToOwned::to_owned) })
    }

    /// For `redir-agent check`.
    pub(super) fn describe(&self) -> Vec<String> {
        let attached = match self.hook {
            AttachMode::Clsact => "clsact filters",
            AttachMode::Tcx | AttachMode::Auto => "TCX",
        };
        let companion = match &self.no_companion {
            None => "companion (sk_lookup): attached".to_owned(),
            Some(why) => format!(
                "companion (sk_lookup): none ({why}); a client port that is used again within a minute is not intercepted, and \
                 neither are ports that a mesh redirects"
            ),
        };
        vec![format!("programs: all load, and are attached by {attached}"), companion]
    }

    /// For the log.
    pub(super) fn tell(&self) {
        let companion = self.no_companion.as_deref().unwrap_or("attached");
        tracing::info!(hook = ?self.hook, companion, "the programs were loaded and attached for a try");
    }
}

/// A network namespace of our own, and listeners in it. It goes with the last of its descriptors.
fn scratch() -> Result<(OwnedFd, ListenerPair), DatapathError> {
    let make = || -> io::Result<_> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        Ok((File::open("/proc/thread-self/ns/net")?.into(), listeners::listen(|_| true)?))
    };
    let made = thread::Builder::new().name("scratch".into()).spawn(make).and_then(|thread| {
        thread.join().unwrap_or_else(|_panic| Err(io::Error::other("the thread in the namespace panicked")))
    });
    made.map_err(|error| match error.raw_os_error() {
        Some(libc::EPERM) => DatapathError::Permission { action: "make a network namespace" },
        _ => DatapathError::Netns(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_what_the_kernel_does() {
        let exists = redir_rig::tcx::exists().expect("root");
        let auto = KernelFeatures::try_out(AttachMode::Auto).expect("root");
        assert_eq!(auto.hook, if exists { AttachMode::Tcx } else { AttachMode::Clsact });
        assert_eq!(auto.describe()[0].contains("TCX"), exists, "{:?}", auto.describe());
        let clsact = KernelFeatures::try_out(AttachMode::Clsact).expect("root");
        assert!(clsact.describe()[0].contains("clsact"), "{:?}", clsact.describe());
        assert_eq!(auto.no_companion, None, "every kernel that redir was tried on has sk_lookup");
        match KernelFeatures::try_out(AttachMode::Tcx) {
            Ok(tcx) => assert!(exists && tcx.hook == AttachMode::Tcx),
            Err(error) => assert!(!exists && matches!(error, DatapathError::NoTcx), "{error}"),
        }
    }

    #[test]
    fn what_a_lack_means_is_told_with_it() {
        let none = KernelFeatures { hook: AttachMode::Clsact, no_companion: Some("no such program".into()) };
        let told = none.describe().join("\n");
        assert!(told.contains("none (no such program)") && told.contains("a mesh redirects"), "{told}");
    }
}
