//! The three processes of a Kubernetes node's agent: which of them may what, and what becomes of traffic when one of them ends.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::*;

/// The agent's process of this name.
fn process(world: &mut AgentCluster, name: &str) -> Result<i32> {
    let found = wait::until(format!("the {name}"), SOON, || {
        let children = world.agent().children();
        let is_it = |pid: &i32| {
            let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            words.split('\0').nth(1) == Some(name)
        };
        Ok(children.into_iter().find(is_it))
    });
    found.with_context(|| world.agent().log())
}

fn send(pid: i32, signal: Signal) -> Result<()> {
    kill(Pid::from_raw(pid), signal).with_context(|| format!("{signal} to {pid}"))
}

fn status(pid: i32, key: &str) -> Result<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    Ok(line.context("no such key")?.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// An Intercept whose requests go to a developer.
fn live_intercept(world: &mut AgentCluster) -> Result<(Identity, Intercept, DeveloperTunnel)> {
    world.running_pod(0)?;
    let alice = Identity::generate()?;
    let intercept = world.intercept("mine", &alice, &filtered("alice"))?;
    let developer = dial_again(world, &alice, &intercept)?;
    Ok((alice, intercept, developer))
}

fn dial_again(world: &AgentCluster, alice: &Identity, intercept: &Intercept) -> Result<DeveloperTunnel> {
    let told = world.status("mine", "told", |entry| !entry.endpoints.is_empty())?;
    // A worker that was started just now lets somebody in once the controller has told it everything.
    let developer = wait::until("a tunnel", SOON, || Ok(world.dial(&told, alice, &[intercept]).ok()))?;
    wait::until_true("the developer to answer", SOON, || {
        Ok(world.get(0, &["x-user: alice"]).is_ok_and(|text| text.starts_with("blue")))
    })?;
    world.status("mine", "live", |entry| live(entry, 1))?;
    Ok(developer)
}

/// An Intercept that is made now is heard of.
fn is_heard_of(world: &AgentCluster, name: &str) -> Result<()> {
    world.intercept(name, &Identity::generate()?, &filtered(name))?;
    world.status(name, "told", |entry| entry.state == AgentState::Waiting).map(drop)
}

fn goes_on(world: &AgentCluster) -> Result<()> {
    world.answers(0, &["x-user: alice"], "blue")?;
    world.answers(0, &[], "green")
}

/// After the end of a process. A connection that was accepted in its last moment is reset.
fn goes_to_the_app(world: &AgentCluster) -> Result<()> {
    wait::until_true("the app to answer", SOON, || {
        Ok(world.get(0, &["x-user: alice"]).is_ok_and(|text| text.starts_with("green")))
    })
}

#[test]
fn only_the_controller_can_speak_to_the_api_server() -> Result<()> {
    let mut world = AgentCluster::new()?;
    let (worker, controller) = (process(&mut world, "worker")?, process(&mut world, "controller")?);
    for pid in [worker, controller] {
        for key in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(status(pid, key)?, "0000000000000000", "{key}");
        }
        assert_eq!(status(pid, "NoNewPrivs")?, "1");
        assert_eq!(status(pid, "Groups")?, "");
    }
    let user = names::CONTROLLER_USER.to_string();
    assert!(status(controller, "Uid")?.split(' ').all(|uid| uid == user));
    assert!(
        status(worker, "Uid")?.split(' ').chain(status(worker, "Gid")?.split(' ')).all(|id| id != user && id != "0")
    );
    let environment = |pid: i32| fs::read_to_string(format!("/proc/{pid}/environ"));
    assert!(environment(controller)?.contains("KUBERNETES_SERVICE_HOST="), "as in a pod");
    assert!(!environment(worker)?.contains("KUBERNETES"), "{}", environment(worker)?);
    // The token as the kubelet mounts it: root's, and of the group that the pod names.
    let kubeconfig = world.server.agent_kubeconfig();
    let reads = |id: &str| -> Result<bool> {
        let ids = [&*format!("--reuid={id}"), &*format!("--regid={id}"), "--clear-groups"];
        Ok(Command::new("setpriv").args(ids).arg("cat").arg(&kubeconfig).output()?.status.success())
    };
    assert!(reads(&user)?);
    let of_worker = status(worker, "Uid")?;
    assert!(!reads(of_worker.split(' ').next().context("a uid")?)?, "the worker's uid may read the token");
    let threads = fs::read_dir(format!("/proc/{controller}/task"))?.count();
    eprintln!(
        "resident: {} + {}; {threads} threads of the controller",
        status(worker, "VmRSS")?,
        status(controller, "VmRSS")?
    );
    Ok(())
}

#[test]
fn nothing_is_let_go_while_the_controller_is_dead_or_frozen() -> Result<()> {
    let mut world = AgentCluster::new()?;
    let _live = live_intercept(&mut world)?;
    for number in 0..2 {
        let controller = process(&mut world, "controller")?;
        send(controller, Signal::SIGKILL)?;
        goes_on(&world)?;
        is_heard_of(&world, &format!("after-a-death-{number}"))?;
        assert_ne!(process(&mut world, "controller")?, controller);
        goes_on(&world)?;
    }
    let controller = process(&mut world, "controller")?;
    send(controller, Signal::SIGSTOP)?;
    let ready = || -> Result<(u16, String)> {
        let stream = world.topology.node.namespace.connect("127.0.0.1:7448".parse()?)?;
        let answer = Http::new(stream).get("/readyz", &["connection: close"])?;
        Ok((answer.status, answer.text()))
    };
    wait::until_true("the silence to be told", SOON, || {
        goes_on(&world)?;
        let (status, text) = ready()?;
        ensure!(status == 200, "it stays ready: {text}");
        Ok(text.contains("controller has not been heard"))
    })?;
    // On a machine without time it was killed for its silence by now.
    send(controller, Signal::SIGCONT).ok();
    is_heard_of(&world, "after-the-frost")?;
    wait::until_true("that it is heard", SOON, || Ok(ready()?.1 == "ready\n"))?;
    goes_on(&world)?;
    world.status("mine", "live", |entry| live(entry, 1))?;
    let log = world.agent().log();
    assert!(!log.contains("new connections go to the app"), "let go on the way: {log}");
    Ok(())
}

#[test]
fn a_new_worker_is_told_everything_and_the_guardians_end_is_everybodys() -> Result<()> {
    let mut world = AgentCluster::new()?;
    let (alice, intercept, developer) = live_intercept(&mut world)?;
    let (worker, controller) = (process(&mut world, "worker")?, process(&mut world, "controller")?);
    send(worker, Signal::SIGKILL)?;
    drop(developer);
    goes_to_the_app(&world)?;
    let _developer = dial_again(&world, &alice, &intercept)?;
    assert_eq!(process(&mut world, "controller")?, controller, "it is the same");
    let worker = process(&mut world, "worker")?;
    world.agent().kill()?;
    let gone = |pid: i32| status(pid, "State").map_or(true, |state| state.starts_with('Z'));
    wait::until_true("the others to end", SOON, || Ok(gone(worker) && gone(controller)))?;
    goes_to_the_app(&world)
}
