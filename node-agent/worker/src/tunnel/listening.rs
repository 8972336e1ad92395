//! Watches whether the apps listen on the armed ports, so that developers hear of an app that is not there.
//!
//! Beside the hub, which never waits. Asks the guardian one question at a time, seldom, and less often the longer
//! nothing changes: no port keeps it busy. Must not decide anything: what is steered is the kernel's gate.

use std::{
    collections::{BTreeMap, BTreeSet, hash_map::RandomState},
    hash::BuildHasher,
    time::Duration,
};

use tokio::{
    sync::{mpsc::Sender, watch},
    time::{Instant, sleep_until},
};

use super::hub::HubCommand;
use crate::{
    broker::{AppListening, Broker},
    misses::Misses,
};
use redir_config::PodName;

/// Runs until the hub ends.
pub(super) async fn run(
    broker: Broker,
    misses: Misses,
    mut armed: watch::Receiver<BTreeSet<(PodName, u16)>>,
    hub: Sender<HubCommand>,
) {
    let mut watched: BTreeMap<(PodName, u16), WatchedPort> = BTreeMap::new();
    loop {
        let now = Instant::now();
        let ports = armed.borrow_and_update().clone();
        watched.retain(|port, _| ports.contains(port));
        for port in ports {
            watched.entry(port).or_insert_with(|| WatchedPort::new(now));
        }
        let next =
            watched.iter().min_by_key(|(_, watched)| watched.due).map(|(port, watched)| (port.clone(), watched.due));
        let due = async {
            match &next {
                Some((_, due)) => sleep_until(*due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = armed.changed() => if changed.is_err() { return },
            () = due => {
                let Some((port, _)) = next else { continue };
                // A pod that is being released, or a guardian that is busy: it is asked again.
                let (seen, detour) = broker.listening(&port.0, port.1).await.unwrap_or_default();
                if let Some(detour) = detour {
                    misses.saw(&port.0, port.1, detour.into());
                }
                let Some(watched) = watched.get_mut(&port) else { continue };
                if let Some(app) = watched.saw(seen, Instant::now())
                    && hub.send(HubCommand::Listening(port.0, port.1, app)).await.is_err()
                {
                    return;
                }
            }
        }
    }
}

/// One port, as it was seen.
struct WatchedPort {
    due: Instant,
    pause: Duration,
    told: Option<AppListening>,
    /// What the look before showed, if that was something new.
    doubted: Option<AppListening>,
}

impl WatchedPort {
    fn new(now: Instant) -> Self {
        Self { due: now + FIRST, pause: FIRST, told: None, doubted: None }
    }

    /// Takes what a look has shown; returns what the hub is to hear. An app that goes away is seen twice before it is
    /// told: most are back within a second.
    fn saw(&mut self, seen: Option<AppListening>, now: Instant) -> Option<AppListening> {
        let changed = seen.filter(|seen| self.told != Some(*seen));
        let goes_away = self.told == Some(AppListening::Yes);
        let is_told = changed.is_some() && (!goes_away || self.doubted == changed);
        self.pause = if changed.is_some() { FIRST } else { (self.pause * 2).min(LONGEST) };
        self.doubted = changed;
        if is_told {
            (self.told, self.doubted) = (changed, None);
        }
        self.due = now + jittered(self.pause);
        changed.filter(|_| is_told)
    }
}

/// Up to a quarter more: so that many ports are not asked about at the same time.
fn jittered(pause: Duration) -> Duration {
    let random = u32::try_from(RandomState::new().hash_one(()) % 256).unwrap_or_default();
    pause + pause / 4 * random / 256
}

/// From arming to the first look, and between two looks of which the first has shown something new.
const FIRST: Duration = Duration::from_millis(500);
/// Between looks at a port where nothing has changed for a while.
const LONGEST: Duration = Duration::from_secs(4);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_app_that_is_away_for_a_moment_is_not_told() {
        let now = Instant::now();
        let mut watched = WatchedPort::new(now);
        let (yes, nobody) = (Some(AppListening::Yes), Some(AppListening::Nobody));
        assert_eq!(watched.saw(nobody, now), nobody, "nobody was there from the start");
        assert_eq!(watched.saw(nobody, now), None);
        assert_eq!(watched.saw(yes, now), yes, "at once");
        assert_eq!(watched.saw(nobody, now), None);
        assert_eq!(watched.saw(yes, now), None, "it was restarted");
        assert_eq!(watched.saw(nobody, now), None);
        assert_eq!(watched.saw(None, now), None, "nothing is known");
        assert_eq!(watched.saw(nobody, now), None);
        assert_eq!(watched.saw(nobody, now), nobody);
    }

    #[tokio::test]
    async fn looks_become_rare() {
        let mut now = Instant::now();
        let mut watched = WatchedPort::new(now);
        let begin = now;
        let mut looks = 0;
        while now.duration_since(begin) < Duration::from_secs(60) {
            now = watched.due;
            watched.saw(Some(AppListening::Nobody), now);
            looks += 1;
        }
        assert!((10..22).contains(&looks), "{looks} looks in a minute");
        watched.saw(Some(AppListening::Yes), now);
        assert!(watched.due.duration_since(now) <= FIRST * 5 / 4, "a change is looked at again soon");
    }
}
