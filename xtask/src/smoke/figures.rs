//! What was measured on the way.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;

use super::world::SmokeWorld;
use crate::demo::story::{Story, precise};

/// The figures of one run.
#[derive(Default)]
pub(super) struct SmokeFigures {
    /// From the command to the last pod's being live.
    pub(super) live: Option<Duration>,
    /// From a new pod's address being known to its being live, each.
    pub(super) joined: Vec<Duration>,
    calls: BTreeMap<String, u64>,
    /// Resident bytes of the agents' processes, both of each.
    memory: Vec<u64>,
}

/// What a person still takes for at once, on two cores that also run the whole cluster. The goals on an idle machine, 100 ms
/// and 500 ms with three round trips, are the bench's to judge.
const LIVE_LIMIT: Duration = Duration::from_secs(3);
const JOIN_LIMIT: Duration = Duration::from_secs(3);

/// Requests that the API server has answered for Intercepts, by verb.
pub(super) struct ApiCalls(BTreeMap<String, u64>);

impl SmokeFigures {
    /// Those until now.
    #[expect(clippy::unused_self, reason = "one place for everything that is measured")]
    pub(super) fn calls(&self, world: &SmokeWorld<'_>) -> Result<ApiCalls> {
        Ok(ApiCalls(calls(&world.cluster.kubectl().raw("/metrics")?)))
    }

    /// Those since then.
    pub(super) fn calls_made(&mut self, world: &SmokeWorld<'_>, before: &ApiCalls) -> Result<()> {
        for (verb, count) in calls(&world.cluster.kubectl().raw("/metrics")?) {
            let made = count - before.0.get(&verb).copied().unwrap_or(0);
            if made > 0 {
                self.calls.insert(verb, made);
            }
        }
        Ok(())
    }

    /// What the agents hold now.
    pub(super) fn memory(&mut self, world: &SmokeWorld<'_>) -> Result<()> {
        // On one machine the nodes' processes see each other's.
        let script = "for p in $(pidof redir-agent); do \
                      [ $(readlink /proc/$p/ns/net) = $(readlink /proc/self/ns/net) ] && grep VmRSS /proc/$p/status; \
                      done; true";
        for node in &world.nodes {
            let words =
                redir_rig::namespace::checked(world.cluster.enter(&node.name)?.args(["sh", "-c", script]), None)?;
            let kibibytes = words.lines().filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
            self.memory.push(kibibytes.sum::<u64>() << 10);
        }
        Ok(())
    }

    pub(super) fn print(&self, story: &mut Story) {
        println!();
        if let Some(live) = self.live {
            let within = story.must(live <= LIVE_LIMIT, &format!("the intercept was live after {}", precise(live)));
            story.say(&format!(
                "command to live               {} (limit {}) {within}",
                precise(live),
                precise(LIVE_LIMIT)
            ));
        }
        if let Some(slowest) = self.joined.iter().max() {
            let within = story.must(*slowest <= JOIN_LIMIT, &format!("a new pod was live after {}", precise(*slowest)));
            story.say(&format!(
                "a new pod's address to live   {} at most (limit {}) {within}",
                precise(*slowest),
                precise(JOIN_LIMIT)
            ));
        }
        let calls: Vec<String> = self.calls.iter().map(|(verb, count)| format!("{count} {verb}")).collect();
        story.say(&format!("API calls for the intercept   {} (redir and the agents)", calls.join(", ")));
        let memory: Vec<String> = self.memory.iter().map(|bytes| format!("{} MiB", bytes >> 20)).collect();
        story.say(&format!("memory of each agent          {}", memory.join(", ")));
    }
}

/// `apiserver_request_total{…resource="intercepts"…verb="GET"…} 12`
fn calls(metrics: &str) -> BTreeMap<String, u64> {
    let mut calls = BTreeMap::new();
    for line in metrics.lines().filter(|line| line.starts_with("apiserver_request_total{")) {
        if !line.contains("resource=\"intercepts\"") {
            continue;
        }
        let verb = line.split("verb=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
        let status = if line.contains("subresource=\"status\"") { " status" } else { "" };
        let count = line.rsplit(' ').next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0);
        *calls.entry(format!("{}{status}", verb.to_lowercase())).or_default() += count;
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_verb() {
        let metrics = "\
# HELP apiserver_request_total x
apiserver_request_total{code=\"201\",resource=\"intercepts\",subresource=\"\",verb=\"POST\"} 2
apiserver_request_total{code=\"403\",resource=\"intercepts\",subresource=\"\",verb=\"POST\"} 1
apiserver_request_total{code=\"200\",resource=\"intercepts\",subresource=\"status\",verb=\"APPLY\"} 4
apiserver_request_total{code=\"200\",resource=\"pods\",subresource=\"\",verb=\"LIST\"} 9
";
        let calls: Vec<_> = calls(metrics).into_iter().collect();
        assert_eq!(calls, [("apply status".to_owned(), 4), ("post".to_owned(), 3)]);
    }
}
