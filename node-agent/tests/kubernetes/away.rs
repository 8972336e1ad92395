//! An API server that goes away and comes back, also at another address.

use redir_rig::{namespace::Namespace, starvation::Starvation};

use super::*;

/// From the first answer to an entry in the status: some seconds, with the first of the server itself.
const ONCE_IT_IS_BACK: Duration = Duration::from_secs(10);

/// Swallows what is sent to the address that the agent was told, as a Service does whose kube-proxy has not heard yet.
fn swallow(node: &Namespace) -> Result<()> {
    let address = server::CLUSTER_IP;
    let rules = format!(
        "table inet t {{ chain output {{ type filter hook output priority 0; ip daddr {address} tcp dport 6443 drop; }}; }}"
    );
    node.output_with(&["nft", "-f", "-"], Some(&rules)).map(drop)
}

/// How long after `since` an Intercept that is made now has been heard of.
fn heard_of(world: &AgentCluster, name: &str, since: Instant) -> Result<Duration> {
    world.intercept(name, &Identity::generate()?, &filtered(name))?;
    world.status(name, "told", |_| true)?;
    Ok(since.elapsed())
}

/// `/readyz` of the agent, with what it says beside.
fn readiness(world: &AgentCluster) -> Result<String> {
    let stream = world.topology.node.namespace.connect("127.0.0.1:7448".parse()?)?;
    Ok(Http::new(stream).get("/readyz", &["connection: close"])?.text())
}

/// The address that it was told leads nowhere any more: it goes on with the one that it has read.
#[test]
fn the_api_server_is_found_at_its_own_address() -> Result<()> {
    let mut world = AgentCluster::new()?;
    world.running_pod(0)?;
    wait::until_true("the agent to be ready", SOON, || Ok(world.is_ready()))?;
    world.agent().wait_for_line("the API server's addresses", SOON)?;
    assert_eq!(readiness(&world)?, "ready\n");
    for (number, lost) in [(1, false), (2, true)] {
        if lost {
            swallow(&world.topology.node.namespace)?;
        }
        world.server.stop()?;
        wait::until_true("the silence to be told", SOON, || Ok(readiness(&world)?.contains("has not been heard")))?;
        assert!(world.is_ready(), "what is known stays in force");
        world.server.resume(&world.topology.node.namespace)?;
        let machine = Starvation::watch();
        let took = heard_of(&world, &format!("late-{number}"), Instant::now())?;
        let what = format!("an Intercept made after the outage heard of, the first address lost: {lost}");
        machine.promise(&what, took, ONCE_IT_IS_BACK)?;
        assert_eq!(readiness(&world)?, "ready\n");
    }
    Ok(())
}
