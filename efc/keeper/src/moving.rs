//! Moves daemons out of a network that was replaced: with its pod it has lost its interface, and the NAS is silent in it for ever.
//!
//! One thread of the keeper's asks whoever holds a network for it, as long as mounts use it, and has each daemon that is in another one
//! replaced, as an upgrade would (`session/upgrade.rs`). Which network a daemon is in says the kernel, so nothing is saved, and daemons
//! of an earlier keeper are moved, too. While nobody hands the network out, daemons stay where they are.
//!
//! A move costs applications a pause. So a network must have been the same for a while before daemons are moved to it, and for longer
//! after each move, up to a limit: one that is replaced again and again, or that a daemon cannot be moved to, does no more harm than that.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use efc_proto::mount_status::State;

use crate::entry::MountEntry;
use crate::mounts::Mounts;
use crate::network;
use crate::takeover::UPGRADE_TIME_LIMIT;
use crate::wishes::Wish;

/// How often holders of networks are asked.
const INTERVAL: Duration = Duration::from_secs(2);
/// How long a network must have been the same before daemons are moved to it; it doubles with every move ...
const REST_MIN: Duration = Duration::from_secs(2);
/// ... up to this.
const REST_MAX: Duration = Duration::from_secs(60);
/// After so long without a move the next is as the first.
const CALM: Duration = Duration::from_secs(600);
/// Daemons that are moved at once: each waits most of the time.
const AT_ONCE: usize = 8;

/// When daemons are moved to a network.
#[derive(Debug)]
struct Pace {
    /// The network that was handed out at the last look.
    offered: String,
    /// Since when, or since the last move.
    since: Instant,
    /// Moves, until there was none for a while.
    moves: u32,
}

impl Pace {
    fn new(now: Instant) -> Pace {
        Pace { offered: String::new(), since: now, moves: 0 }
    }

    /// How long daemons must wait that are in another network than this one, which is handed out now.
    fn wait(&mut self, offered: &str, now: Instant) -> Duration {
        if self.offered != offered {
            (self.offered, self.since) = (offered.to_owned(), now);
        }
        let rest = REST_MIN.saturating_mul(1 << self.moves.min(16)).min(REST_MAX);
        rest.saturating_sub(now.saturating_duration_since(self.since))
    }

    fn moved(&mut self, now: Instant) {
        (self.moves, self.since) = (self.moves.saturating_add(1), now);
    }

    /// All daemons are in the network that is handed out.
    fn settled(&mut self, now: Instant) {
        if now.saturating_duration_since(self.since) >= CALM {
            self.moves = 0;
        }
    }
}

/// Follows the networks of these mounts for as long as there are any.
pub fn follow(mounts: &Weak<Mounts>) {
    let mut paces: HashMap<String, Pace> = HashMap::new();
    loop {
        std::thread::sleep(INTERVAL);
        let Some(mounts) = mounts.upgrade() else { return };
        let mut users: BTreeMap<String, Vec<Arc<MountEntry>>> = BTreeMap::new();
        for entry in mounts.all().into_iter().filter(|entry| !entry.config().network.is_empty()) {
            users.entry(entry.config().network.clone()).or_default().push(entry);
        }
        paces.retain(|name, _| users.contains_key(name));
        for (name, entries) in users {
            let pace = paces.entry(name.clone()).or_insert_with(|| Pace::new(Instant::now()));
            look(&mounts, &name, &entries, pace);
        }
    }
}

/// Moves the daemons of one network's mounts, if it was replaced and it is time; their status says what they wait for.
fn look(mounts: &Mounts, name: &str, entries: &[Arc<MountEntry>], pace: &mut Pace) {
    let offered = match mounts.programs().networks.offered(name) {
        Ok(offered) => offered,
        Err(error) => {
            let trouble = format!(
                "nobody hands out the network {name:?} now ({error}): when somebody does, daemons are moved to it"
            );
            return entries.iter().for_each(|entry| note(entry, &trouble));
        }
    };
    let is_elsewhere = |entry: &&Arc<MountEntry>| {
        let status = entry.status();
        status.state() != State::Starting && network::of_process(status.pid).is_some_and(|present| present != offered)
    };
    let (elsewhere, there): (Vec<_>, Vec<_>) = entries.iter().partition(is_elsewhere);
    there.iter().for_each(|entry| note(entry, ""));
    if elsewhere.is_empty() {
        return pace.settled(Instant::now());
    }
    let wait = pace.wait(&offered, Instant::now());
    let trouble =
        format!("the network {name:?} was replaced: the daemon is moved to the new one in {} s", wait.as_secs());
    elsewhere.iter().for_each(|entry| note(entry, &trouble));
    if wait.is_zero() {
        log::warn!("the network {name:?} was replaced: {} daemons are moved to the new one", elsewhere.len());
        elsewhere.chunks(AT_ONCE).for_each(|some| move_to(&offered, some));
        pace.moved(Instant::now());
    }
}

/// Has the mount's status say what is the matter with its network.
fn note(entry: &MountEntry, trouble: &str) {
    entry.update(|status| trouble.clone_into(&mut status.network_trouble));
}

/// Has these daemons replaced at once, and waits for that. Those that stay have their turn again.
fn move_to(offered: &str, entries: &[&Arc<MountEntry>]) {
    let deadline = Instant::now() + UPGRADE_TIME_LIMIT;
    let ask =
        |entry: &&Arc<MountEntry>| entry.ask_upgrade(Wish { network: Some(offered.to_owned()), ..Wish::default() });
    let asked: Vec<_> = entries.iter().map(ask).collect();
    for (entry, number) in entries.iter().zip(asked) {
        match number.and_then(|number| entry.wait_upgraded(number, deadline)) {
            Ok(_) => note(entry, ""),
            Err(error) => log::warn!("{}: the move to another network: {}", entry.target().display(), error.message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_must_rest_before_daemons_are_moved_to_it() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut pace = Pace::new(start);
        assert_eq!(pace.wait("a", at(5)).as_secs(), 2);
        assert_eq!(pace.wait("a", at(6)).as_secs(), 1);
        assert_eq!(pace.wait("b", at(7)).as_secs(), 2, "replaced meanwhile");
        assert_eq!(pace.wait("b", at(9)), Duration::ZERO);
    }

    #[test]
    fn one_that_does_not_rest_moves_daemons_ever_less_often() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let mut rests = Vec::new();
        for second in 0..400 {
            let now = start + Duration::from_secs(second);
            if pace.wait("same", now).is_zero() {
                rests.push(now.saturating_duration_since(pace.since).as_secs());
                pace.moved(now);
            }
        }
        assert_eq!(rests, [2, 4, 8, 16, 32, 60, 60, 60, 60, 60]);
        let flapping = |second: u64| pace.wait(&second.to_string(), start + Duration::from_secs(400 + second));
        assert!((0..1_000).map(flapping).all(|wait| wait == REST_MAX), "never the same for long enough");
    }

    #[test]
    fn after_a_calm_time_a_replacement_is_as_the_first() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        pace.moved(start);
        pace.settled(start + CALM - Duration::from_secs(1));
        assert_eq!(pace.wait("a", start), 2 * REST_MIN);
        pace.settled(start + CALM);
        assert_eq!(pace.wait("b", start), REST_MIN);
    }
}
