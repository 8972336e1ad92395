//! Requests on one connection, one after the other, while something happens to the pod.

use anyhow::Result;
use redir_rig::process::Process;

use crate::demo::story::Story;
use crate::smoke::world::{PORT, SmokePod, SmokeWorld, node, until};

/// Requests after something has happened to the pod, before it counts as survived.
const AFTER: usize = 3;

/// A client that keeps its connection; it ends when it is dropped.
pub(super) struct KeptAlive {
    curl: Process,
    name: &'static str,
    /// The first word of every answer.
    expected: &'static str,
}

/// What a client has got so far.
struct Answers {
    lines: Vec<String>,
    connections: usize,
}

impl KeptAlive {
    /// Begins, and waits for the first answers.
    pub(super) fn start(
        world: &SmokeWorld<'_>,
        pod: &SmokePod,
        header: Option<&str>,
        expected: &'static str,
    ) -> Result<KeptAlive> {
        let mut command = world.cluster.enter(&node(&world.nodes, &pod.node)?.name)?;
        command.args(["curl", "--silent", "--show-error", "--noproxy", "*", "--no-buffer"]);
        // Ten a second for five minutes, which is longer than anything that is waited for meanwhile.
        command.args(["--rate", "10/s", "--write-out", "connections %{num_connects}\n"]);
        if let Some(header) = header {
            command.args(["--header", header]);
        }
        command.arg(format!("http://{}:{PORT}/?request=[1-3000]", pod.address));
        let name = if header.is_some() { "with the header" } else { "without" };
        let alive = KeptAlive { curl: Process::spawn("curl, kept alive", &mut command)?, name, expected };
        alive.more(0)?;
        Ok(alive)
    }

    /// Waits for some more answers; all of them must be right, and on one connection.
    pub(super) fn check(&self, story: &mut Story) -> Result<()> {
        let answers = self.more(self.answers().lines.len())?;
        let right = answers.lines.iter().all(|line| line.split(' ').next() == Some(self.expected));
        let trouble = self.curl.stderr();
        let tick = story.must(
            right && answers.connections == 1 && trouble.is_empty(),
            &format!(
                "every answer to requests {} is {:?}, on one connection: {} connections, {:?} {trouble}",
                self.name, self.expected, answers.connections, answers.lines
            ),
        );
        let count = answers.lines.len();
        story.say(&format!(
            "{tick} kept alive, {}: {count} answers on one connection, all {}",
            self.name, self.expected
        ));
        Ok(())
    }

    fn more(&self, than: usize) -> Result<Answers> {
        until("a client that keeps its connection has more answers", || {
            Ok(Some(self.answers()).filter(|answers| answers.lines.len() >= than + AFTER))
        })
    }

    fn answers(&self) -> Answers {
        answers(&self.curl.stdout())
    }
}

/// An answer's line, then `connections 1` if it took a new connection, else `connections 0`.
fn answers(log: &str) -> Answers {
    let mut answers = Answers { lines: Vec::new(), connections: 0 };
    for line in log.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        match line.strip_prefix("connections ") {
            Some(count) => answers.connections += count.parse::<usize>().unwrap_or(0),
            None => answers.lines.push(line.to_owned()),
        }
    }
    answers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_counted_beside_the_answers() {
        let found = answers("blue a 1\nconnections 1\nblue a 1\nconnections 0\nblue a 1\nconnections 1\nblu");
        assert_eq!((found.lines.len(), found.connections), (3, 2));
    }
}
