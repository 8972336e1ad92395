//! A pod that ends while the agent holds its clients' connections.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::SystemTime,
};

use redir_rig::starvation::Starvation;

use super::*;

/// A runtime takes the link away some hundredths of a second after the last process.
const BEFORE_THE_LINK_GOES: Duration = Duration::from_millis(100);

/// A process of a pod's, in this cgroup of it: it runs as long as the real one does.
fn process(world: &AgentCluster, pod: &Pod, cgroup: &str) -> Result<Process> {
    // A sandbox's own process holds no file; what is inherited beside these would be pipes.
    let program = if cgroup == "sandbox" { "exec sleep 600 </dev/null >/dev/null 2>&1" } else { "exec sleep 600" };
    let process = world.topology.pods[0].namespace.spawn(cgroup, Command::new("sh").args(["-c", program]))?;
    let (pid, folder) = (process.pid(), world.proc.path().join(process.pid().to_string()));
    fs::create_dir_all(folder.join("ns"))?;
    fs::write(folder.join("cgroup"), format!("0::/kubepods/burstable/pod{}/{cgroup}\n", pod.uid().context("uid")?))?;
    fs::write(folder.join("comm"), if cgroup == "sandbox" { "pause\n" } else { "app\n" })?;
    for file in ["stat", "fd", "ns/net"] {
        symlink(format!("/proc/{pid}/{file}"), folder.join(file))?;
    }
    Ok(process)
}

fn end(mut client: TcpStream) -> Result<Result<usize, ErrorKind>> {
    client.set_read_timeout(Some(wait::scaled(SOON)))?;
    Ok(client.read(&mut [0; 64]).map_err(|error| error.kind()))
}

fn goes_on(client: &TcpStream) -> Result<bool> {
    client.set_nonblocking(true)?;
    let seen = client.peek(&mut [0; 1]).map_err(|error| error.kind());
    client.set_nonblocking(false)?;
    Ok(seen == Err(ErrorKind::WouldBlock))
}

/// Neither the deletion nor the end of the app ends what the developer works on, but both together.
#[test]
fn what_is_held_ends_with_the_last_process_of_a_pod_that_is_deleted() -> Result<()> {
    let mut world = AgentCluster::new()?;
    let pod = world.pod(0)?;
    // These stand for themselves, and end.
    fs::remove_dir_all(world.process_of(0))?;
    let _sandbox = process(&world, &pod, "sandbox")?;
    let mut app = process(&world, &pod, "app")?;
    world.give_address(0)?;
    let alice = Identity::generate()?;
    let intercept = world.intercept("mine", &alice, &filtered("alice"))?;
    let told = world.status("mine", "waiting", |entry| entry.state == AgentState::Waiting)?;
    let _developer = world.dial(&told, &alice, &[&intercept])?;
    world.becomes(0, &["x-user: alice"], "blue", SOON)?;
    let connect = || world.topology.client.namespace.connect(world.topology.pods[0].at(Family::V4, PORT));
    let mut held = connect()?;
    held.write_all(b"GET /hold HTTP/1.1\r\nhost: a\r\nx-user: alice\r\n\r\n")?;
    let mut idle = Vec::new();
    for (headers, version) in [(&["x-user: alice"][..], "blue"), (&[], "green")] {
        let stream = connect()?;
        assert!(Http::new(stream.try_clone()?).get("/", headers)?.text().starts_with(version));
        idle.push(stream);
    }

    // A container is started again: the developer's request goes on.
    app.kill()?;
    let mut app = process(&world, &pod, "app")?;
    world.answers(0, &["x-user: alice"], "blue")?;
    assert!(goes_on(&held)? && idle.iter().all(|idle| goes_on(idle).is_ok_and(|on| on)), "after a restart");

    // A pod that is deleted in the second of the intercept counts as older.
    let made = intercept.metadata.creation_timestamp.as_ref().context("when it was made")?.0.as_second();
    let second = || Ok(i64::try_from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs())? > made);
    wait::until_true("the next second", SOON, second)?;
    // Deleted: the grace period is the app's to finish in.
    let (api, name) = (Api::<Pod>::namespaced(world.client.clone(), SHOP), pod.name_any());
    world.call(async move { api.delete(&name, &DeleteParams::default()).await.map(drop) })?;
    world.agent().wait_for_line("the pod is to end", SOON)?;
    world.answers(0, &["x-user: alice"], "blue")?;
    assert!(goes_on(&held)? && idle.iter().all(|idle| goes_on(idle).is_ok_and(|on| on)), "in the grace period");

    let (machine, killed) = (Starvation::watch(), Instant::now());
    app.kill()?;
    assert_eq!(end(held)?, Err(ErrorKind::ConnectionReset), "the request under way");
    machine.promise("the last process killed, its client told", killed.elapsed(), BEFORE_THE_LINK_GOES)?;
    for idle in idle {
        assert!(matches!(end(idle)?, Ok(0) | Err(ErrorKind::ConnectionReset)), "a connection between requests");
    }
    let told = |entry: &AgentStatus| entry.pods.iter().all(|pod| pod.state != PodState::Live);
    world.status("mine", "told as lost", told)?;
    world.answers(0, &["x-user: alice"], "green")
}
