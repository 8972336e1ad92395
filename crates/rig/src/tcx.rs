//! Whether this kernel has TCX, and the programs on a device's TCX hooks, which the `bpftool` of Debian 12 does not show.

use std::io;

use anyhow::{Context, Result};

use crate::{left_out, namespace::Namespace};

/// Whether a test can attach by TCX; where the kernel has none, it is said that this is left out.
///
/// # Panics
/// Without root.
pub fn is_here() -> bool {
    let exists = exists().expect("the kernel says which programs there are: run as root");
    if !exists {
        left_out("attached by TCX: this kernel has none");
    }
    exists
}

/// Whether this kernel has TCX: asked of the kernel, not of its version.
pub fn exists() -> io::Result<bool> {
    /// `lo`, in every network namespace.
    const LOOPBACK: u32 = 1;
    query(LOOPBACK, BPF_TCX_INGRESS).map(|programs| programs.is_some())
}

/// One line per program: device, direction, name.
pub(crate) fn attached(namespace: &Namespace) -> Result<String> {
    let mut text = String::new();
    for (device, hook, id) in namespace.run(all)?? {
        let shown = namespace.output(&["bpftool", "-j", "prog", "show", "id", &id.to_string()])?;
        let program: serde_json::Value = serde_json::from_str(&shown)?;
        text += &format!("tcx {device} {hook} {}\n", program["name"].as_str().unwrap_or("?"));
    }
    Ok(text)
}

fn all() -> Result<Vec<(String, &'static str, u32)>> {
    let mut found = Vec::new();
    for interface in &nix::net::if_::if_nameindex().context("list devices")? {
        let device = interface.name().to_string_lossy().into_owned();
        for (hook, kind) in [("ingress", BPF_TCX_INGRESS), ("egress", BPF_TCX_EGRESS)] {
            let ids = query(interface.index(), kind).with_context(|| format!("query TCX of {device}"))?;
            found.extend(ids.into_iter().flatten().map(|id| (device.clone(), hook, id)));
        }
    }
    Ok(found)
}

/// The beginning of `union bpf_attr` for `BPF_PROG_QUERY` (linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct Query {
    ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    padding: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// The ids of the programs on a hook; `None` where the kernel has no TCX.
#[expect(unsafe_code, reason = "the bpf system call has no wrapper here")]
fn query(ifindex: u32, attach_type: u32) -> io::Result<Option<Vec<u32>>> {
    let mut ids = vec![0_u32; 64];
    let prog_ids = ids.as_mut_ptr() as u64;
    let mut query = Query { ifindex, attach_type, prog_ids, count: 64, ..Query::default() };
    // SAFETY: the kernel reads and writes `query` within the size given, and at most `count` ids at `prog_ids`; both
    // live until the call returns.
    let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut query, size_of::<Query>()) };
    if result < 0 {
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::EINVAL) { Ok(None) } else { Err(error) };
    }
    ids.truncate(query.count as usize);
    Ok(Some(ids))
}

const BPF_PROG_QUERY: i32 = 16;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
