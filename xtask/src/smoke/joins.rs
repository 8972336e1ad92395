//! How soon a new pod is intercepted once its address is known.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use redir_rig::process::Process;

use super::world::{Intercepting, SHOP, SmokeWorld};

/// How often it is looked; what is measured is exact to this.
const LOOK: Duration = Duration::from_millis(2);

/// Does `work`, and notes meanwhile for each pod how long it took from its address's being known to everybody who watches
/// pods until redir told it live.
pub(super) fn noted<T>(
    world: &SmokeWorld<'_>,
    intercept: &Intercepting,
    work: impl FnOnce() -> Result<T>,
) -> Result<(T, BTreeMap<String, Duration>)> {
    let mut watch = world.cluster.kubectl().command();
    watch.args(["-n", SHOP, "get", "pods", "--selector=app=web", "--watch", "--no-headers"]);
    watch.args(["--output=custom-columns=NAME:.metadata.name,IP:.status.podIP"]);
    let pods = Process::spawn("kubectl get pods --watch", &mut watch)?;
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let noting = scope.spawn(|| {
            let (mut addressed, mut live) = (BTreeMap::new(), BTreeMap::new());
            while !is_over.load(Ordering::Relaxed) {
                let now = Instant::now();
                for pod in with_address(&pods.stdout()) {
                    addressed.entry(pod).or_insert(now);
                }
                for pod in intercept.live() {
                    live.entry(pod).or_insert(now);
                }
                thread::sleep(LOOK);
            }
            let took = |(pod, at): (String, Instant)| Some((pod.clone(), at.duration_since(*addressed.get(&pod)?)));
            live.into_iter().filter_map(took).collect()
        });
        let done = work();
        is_over.store(true, Ordering::Relaxed);
        let took = noting.join().map_err(|_| anyhow::anyhow!("the one who notes has panicked"))?;
        Ok((done?, took))
    })
}

/// `web-5lkkv   10.212.1.7`, or `<none>`; the last line may be half a line.
fn with_address(lines: &str) -> Vec<String> {
    let whole = lines.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    let named = whole.filter_map(|line| line.split_whitespace().collect::<Vec<_>>().try_into().ok());
    named.filter(|[_, address]: &[&str; 2]| *address != "<none>").map(|[name, _]| name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_counts_once_it_is_there() {
        assert_eq!(with_address("a   <none>\nb   10.0.0.1\na   10.0.0.2\nc   10.0"), ["b", "a"]);
    }
}
