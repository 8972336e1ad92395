//! Pods that the file names by a process, whose number another process may get later.

use std::{
    fs, io,
    path::PathBuf,
    process::{Child, Command},
};

use redir_rig::{namespace::Namespace, wait};

use super::*;
use crate::process::ProcessHandle as Seen;

const PATIENCE: Duration = Duration::from_secs(60);

/// A process in a namespace that has the number of one that has ended.
fn with_number(namespace: &Namespace, pid: u32) -> Child {
    let mut got = None;
    wait::until_true(format!("process {pid} again"), PATIENCE, || {
        let started = namespace.run(|| {
            // The next number is the kernel's to choose, from here on; another process of the machine may be faster.
            fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string())?;
            sleeper()
        })??;
        let mut other = got.replace(started).filter(|last| last.id() != pid);
        other.iter_mut().try_for_each(end)?;
        Ok(got.as_ref().is_some_and(|last| last.id() == pid))
    })
    .expect("a kernel with CONFIG_CHECKPOINT_RESTORE, and root");
    got.expect("it was")
}

fn sleeper() -> io::Result<Child> {
    Command::new("sleep").arg("600").spawn()
}

fn sleeper_in(namespace: &Namespace) -> Child {
    namespace.run(sleeper).expect("inside").expect("started")
}

fn end(process: &mut Child) -> io::Result<()> {
    process.kill()?;
    process.wait().map(drop)
}

fn path_of(process: &Child) -> PathBuf {
    format!("/proc/{}/ns/net", process.id()).into()
}

#[test]
fn a_number_that_another_process_has_now_names_no_pod() {
    for met_before in [true, false] {
        let mut rig = PodsRig::new(AttachSetting::Auto);
        let mut first = sleeper_in(&rig.topology.pods[0].namespace);
        let pid = first.id();
        let began = Seen::of(Path::new("/proc"), pid).expect("readable").expect("runs");
        rig.config = config(&path_of(&first), "8080, 8081");
        if met_before {
            rig.pods.note(&rig.config);
        } else {
            rig.arm(8080).expect("armed");
            rig.ask(Request::Disarm { pod: web(), port: 8080 }).expect("disarmed");
            rig.ask(Request::Release { pod: web() }).expect("released");
        }
        end(&mut first).expect("ended");
        // The kernel's clock of starts ticks each 10 ms: nobody gets a number again within one.
        wait::until_true("a tick", PATIENCE, || {
            let mut other = sleeper()?;
            let now = Seen::of(Path::new("/proc"), other.id())?;
            end(&mut other)?;
            Ok(now.is_some_and(|now| now.began_after(began)))
        })
        .expect("time passes");
        let mut another = with_number(&rig.topology.peer.namespace, pid);
        let refused = rig.arm(8080).expect_err("another's");
        assert_eq!(refused.code, RefusalCode::Namespace);
        for word in [format!("process {pid} has ended"), "SandboxKey".to_owned()] {
            assert!(refused.sentence.contains(&word), "{}", refused.sentence);
        }
        let programs = Snapshot::take(&rig.topology.peer.namespace).expect("bpftool").programs().to_owned();
        assert!(!programs.contains("redir"), "{programs}");
        // A file that is read again for another reason still means the first.
        rig.config = config(&path_of(&another), "8080");
        rig.pods.note(&rig.config);
        assert!(rig.arm(8080).is_err());
        let mut right = sleeper_in(&rig.topology.pods[0].namespace);
        rig.config = config(&path_of(&right), "8080");
        rig.pods.note(&rig.config);
        rig.arm(8080).expect("corrected");
        [&mut another, &mut right].into_iter().try_for_each(end).expect("ended");
    }
}
