//! A runtime's stream of events: one JSON object in each line, for as long as the runtime runs.

use std::collections::VecDeque;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde::Deserialize;
use tokio::task::JoinSet;

use super::answer::RuntimeAnswer;

/// The stream.
pub(super) struct Events {
    body: Incoming,
    lines: Lines,
    _reader: JoinSet<()>,
}

/// What an event is about.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RuntimeEvent {
    /// A container: its ID, its name, and the one that it had before.
    Container(Vec<String>),
    /// It cannot be read: it may be about any of them.
    Unreadable,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Line {
    actor: Actor,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Actor {
    #[serde(rename = "ID")]
    id: String,
    #[serde(default)]
    attributes: Attributes,
}

/// A container's labels stand beside these.
#[derive(Deserialize, Default)]
struct Attributes {
    name: Option<String>,
    #[serde(rename = "oldName")]
    old_name: Option<String>,
}

impl Events {
    pub(super) fn new(answer: RuntimeAnswer) -> Self {
        let (body, reader) = answer.into_body();
        Self { body, lines: Lines::default(), _reader: reader }
    }

    /// The next event; `None` once the stream has ended. May be dropped and called again.
    pub(super) async fn next(&mut self) -> Option<RuntimeEvent> {
        loop {
            if let Some(event) = self.lines.next() {
                return Some(event);
            }
            // How it ended does not matter: whoever follows it asks for another.
            let frame = self.body.frame().await?.ok()?;
            self.lines.take(frame.data_ref().map_or(&[], |data| data));
        }
    }
}

/// Bytes that become events.
#[derive(Default)]
struct Lines {
    begun: Vec<u8>,
    /// The line that has begun is too long.
    skipping: bool,
    events: VecDeque<RuntimeEvent>,
}

impl Lines {
    fn next(&mut self) -> Option<RuntimeEvent> {
        self.events.pop_front()
    }

    fn take(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.begun.len() + part.len() > LONGEST_LINE {
                self.begun = Vec::new();
                self.skipping = true;
            } else if !self.skipping {
                self.begun.extend_from_slice(part);
            }
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.begun);
                let skipped = std::mem::take(&mut self.skipping);
                self.end(skipped, line.trim_ascii());
            }
        }
    }

    fn end(&mut self, skipped: bool, line: &[u8]) {
        let event = match serde_json::from_slice(line) {
            _ if skipped => RuntimeEvent::Unreadable,
            _ if line.is_empty() => return,
            Ok(Line { actor: Actor { id, attributes: Attributes { name, old_name } } }) => {
                let names = [name, old_name].into_iter().flatten();
                let names = names.map(|name| name.trim_start_matches('/').to_owned());
                RuntimeEvent::Container([id].into_iter().chain(names).collect())
            }
            Err(_) => RuntimeEvent::Unreadable,
        };
        // One of them says it for all.
        if event != RuntimeEvent::Unreadable || self.events.back() != Some(&RuntimeEvent::Unreadable) {
            self.events.push_back(event);
        }
    }
}

/// Bytes: labels are in it. Of a longer one it is only known that something has changed.
const LONGEST_LINE: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn events(parts: &[&[u8]]) -> Vec<RuntimeEvent> {
        let mut lines = Lines::default();
        parts.iter().for_each(|part| lines.take(part));
        std::iter::from_fn(|| lines.next()).collect()
    }

    #[test]
    fn events_are_lines_wherever_they_are_cut() {
        let text: &[u8] = b"{\"Action\":\"start\",\"Actor\":{\"ID\":\"abc\",\"Attributes\":{\"name\":\"web\"}}}\r\n\n\
            {\"Action\":\"rename\",\"Actor\":{\"ID\":\"abc\",\"Attributes\":{\"name\":\"db\",\"oldName\":\"/web\",\"x\":\"y\"}}}\n";
        let both = [vec!["abc", "web"], vec!["abc", "db", "web"]]
            .map(|names| RuntimeEvent::Container(names.into_iter().map(str::to_owned).collect()));
        for at in 0..text.len() {
            assert_eq!(events(&[&text[..at], &text[at..]]), both, "{at}");
        }
    }

    #[test]
    fn what_cannot_be_read_may_be_about_anything_and_ends_with_its_line() {
        let long = vec![b'x'; 3 * LONGEST_LINE];
        let good: &[u8] = b"\n{\"Actor\":{\"ID\":\"a\"}}\n";
        assert_eq!(
            events(&[&long, &long, good]),
            [RuntimeEvent::Unreadable, RuntimeEvent::Container(vec!["a".to_owned()])]
        );
        assert_eq!(events(&[b"{}\n[]\nnonsense\n"]), [RuntimeEvent::Unreadable], "told once");
        let mut lines = Lines::default();
        (0..1000).for_each(|_| lines.take(&long[..1000]));
        assert!(lines.begun.capacity() <= 2 * LONGEST_LINE && lines.next().is_none());
    }
}
