//! What the worker may do, and what it holds.

use super::*;

once!(the_worker_has_no_rights, USUAL, |w| {
    let _green = w.green()?;
    let _cli = w.alice()?;
    let worker = w.agent.worker()?;
    let status = fs::read_to_string(format!("/proc/{worker}/status"))?;
    let field = |name: &str| {
        status
            .lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
            .with_context(|| name.to_owned())
    };
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        ensure!(field(set)? == "0000000000000000", "{set}: {}", field(set)?);
    }
    ensure!(field("NoNewPrivs")? == "1" && field("Seccomp")? == "2");
    ensure!(fs::read_dir(format!("/proc/{worker}/root/"))?.next().is_none(), "it sees a file");
    ensure!(field("Groups")?.is_empty(), "groups: {}", field("Groups")?);
    for ids in ["Uid", "Gid"] {
        ensure!(field(ids)?.split_whitespace().all(|id| id == "60744"), "{ids}: {}", field(ids)?);
    }
    // It holds no namespace, no program, nothing that leads into the pod but its sockets, maps and links.
    for fd in fs::read_dir(format!("/proc/{worker}/fd"))? {
        let target = fs::read_link(fd?.path())?.display().to_string();
        ensure!(
            !target.contains("net:[") && !target.contains("netns") && !target.contains("bpf-prog"),
            "holds {target}"
        );
    }
    ensure!(fs::metadata(format!("/proc/{worker}/ns/net"))?.ino_eq(&fs::metadata(w.node().path())?));
    // With such credentials the kernel lets nobody into a pod's namespace.
    let net = format!("--net={}", w.pod().namespace.path().display());
    let entered = w.node().output(&[
        "setpriv",
        "--reuid",
        "60744",
        "--regid",
        "60744",
        "--clear-groups",
        "--inh-caps",
        "-all",
        "--bounding-set",
        "-all",
        "--no-new-privs",
        "nsenter",
        &net,
        "true",
    ]);
    ensure!(entered.is_err_and(|e| format!("{e:#}").contains("not permitted")));
    Ok(())
});

trait SameInode {
    fn ino_eq(&self, other: &Self) -> bool;
}

impl SameInode for fs::Metadata {
    fn ino_eq(&self, other: &Self) -> bool {
        use std::os::unix::fs::MetadataExt;
        self.ino() == other.ino()
    }
}

// Thousands of connections end at once, on several CPUs: where the agent's last two segments overtake each other, the app's
// TIME_WAIT answers the older one when the agent's socket is gone, and that ACK leaves the pod.
const ENDING_AT_ONCE: Scenario = Scenario { sniff: false, ..UNDER_LOAD };

once!(memory_stays_small, ENDING_AT_ONCE, |w| {
    const CONNECTIONS: usize = 2_500;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let both = [w.agent.guardian()?, w.agent.worker()?];
    let idle = both.iter().map(|pid| memory(*pid, "Rss:")).sum::<Result<u64>>()?;
    let anonymous = both.iter().map(|pid| memory(*pid, "Pss_Anon:")).sum::<Result<u64>>()?;
    let release = redir_rig::binaries::find("redir-agent")?.components().any(|c| c.as_os_str() == Path::new("release"));
    eprintln!(
        "idle agent, guardian and worker: {idle} KiB resident, {anonymous} KiB of it their own; release build: {release}"
    );
    // A debug build's code is several times as large; its own memory is bounded all the same.
    ensure!(if release { idle } else { anonymous } <= 20 * 1024, "{idle} KiB resident, {anonymous} KiB own");

    let _green = w.green()?;
    let _cli = w.alice()?;
    let mut open: Vec<Http> = Vec::with_capacity(CONNECTIONS + 500);
    let grow = |open: &mut Vec<Http>, to: usize| -> Result<u64> {
        while open.len() < to {
            let from = [w.client(), &w.topology.peer, &w.topology.developer][open.len() % 3];
            let mut http = w.http(from, Family::V4)?;
            ensure!(http.get("/", &[])?.text().starts_with("green"));
            open.push(http);
        }
        both.iter().map(|pid| memory(*pid, "Pss_Anon:")).sum()
    };
    let before = grow(&mut open, 500)?;
    grow(&mut open, 500 + CONNECTIONS)?;
    // Connections give back what they do not need when they rest, which takes a turn of each.
    wait::until_true("at most 8 KiB for each idle connection", SOON, || {
        let after = grow(&mut open, 0)?;
        let each = (after.saturating_sub(before) * 1024) / CONNECTIONS as u64;
        eprintln!("{each} bytes of the agent's memory for each idle connection ({before} KiB → {after} KiB)");
        Ok(each <= 8 * 1024)
    })
});

/// A line of `smaps_rollup`, KiB.
fn memory(pid: i32, field: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find_map(|l| l.strip_prefix(field)).with_context(|| field.to_owned())?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}
