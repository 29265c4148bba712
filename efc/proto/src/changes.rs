//! Which options a running daemon takes, which ones the next daemon, and which ones belong to the session: what the option
//! `change` of `proto/efc.proto` says of each field. All but this file is made of that at build time (`build.rs`).

use crate::{CacheConfig, Change, DaemonConfig, FreshnessConfig, Source, WritingConfig};

#[allow(clippy::clone_on_copy)] // some messages are small
mod generated {
    use super::{CacheConfig, Change, DaemonConfig, FreshnessConfig, Source, WritingConfig};

    include!(concat!(env!("OUT_DIR"), "/changes.rs"));
}

impl DaemonConfig {
    /// What it takes to serve with `other` instead; `None` if nothing differs.
    pub fn change_to(&self, other: &DaemonConfig) -> Option<Change> {
        self.differences(other).into_iter().map(|(_, change)| change).max()
    }

    /// Names of the options that are not the same in `other`, each once; "source" is where the data is.
    pub fn differing_options(&self, other: &DaemonConfig) -> Vec<&'static str> {
        let differences = self.differences(other);
        let differs = |number| differences.iter().any(|(differing, _)| *differing == number);
        let mut names = Vec::new();
        for (_, name) in Self::OPTION_NAMES.iter().filter(|(number, _)| differs(*number)) {
            if !names.contains(name) {
                names.push(*name);
            }
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> DaemonConfig {
        let source = Source { host: "nas".into(), path: "/export".into(), ..Default::default() };
        DaemonConfig { source: Some(source), connections: 4, attr_ttl_ms: 1000, ..Default::default() }
    }

    #[test]
    fn a_step_takes_what_its_largest_change_takes() {
        let step = |change: fn(&mut DaemonConfig)| {
            let mut other = config();
            change(&mut other);
            config().change_to(&other)
        };
        assert_eq!(step(|_| {}), None);
        assert_eq!(step(|other| other.attr_ttl_ms = 5), Some(Change::Live));
        assert_eq!(step(|other| (other.attr_ttl_ms, other.connections) = (5, 5)), Some(Change::NewDaemon));
        assert_eq!(step(|other| (other.connections, other.read_only) = (5, true)), Some(Change::NewMount));
        assert_eq!(step(|other| other.source.as_mut().unwrap().port = 2049), Some(Change::NewMount));
        assert_eq!(step(|other| other.source = None), Some(Change::NewMount));
        // An empty message is the same as none.
        let (none, empty) =
            (DaemonConfig::default(), DaemonConfig { source: Some(Source::default()), ..Default::default() });
        assert_eq!(none.change_to(&empty), None);
    }

    #[test]
    fn differences_have_the_numbers_of_the_protocol() {
        let other = DaemonConfig { attr_ttl_ms: 5, log_level: "warn".into(), source: None, ..config() };
        let found = config().differences(&other);
        let in_source = [(1001, Change::NewMount), (1004, Change::NewMount)];
        assert_eq!(found, [&in_source[..], &[(6, Change::Live), (12, Change::Live)]].concat());
        assert!([6, 12].iter().all(|number| DaemonConfig::LIVE_FIELDS.contains(number)));
        assert!(![1, 2, 3].iter().any(|number| DaemonConfig::LIVE_FIELDS.contains(number)));
        assert_eq!(Source::LIVE_FIELDS, &[] as &[u32]);
    }

    #[test]
    fn what_differs_is_named_as_its_option() {
        let cache = |store_mib| Some(CacheConfig { store_mib, workers_key: "/secret".into(), ..Default::default() });
        let one = DaemonConfig { cache: cache(64), ..config() };
        let mut other = DaemonConfig { cache: cache(128), attr_ttl_ms: 5, read_only: true, ..config() };
        other.source = Some(Source { host: "other".into(), path: "/other".into(), ..Default::default() });
        assert_eq!(one.differing_options(&other), ["source", "ro", "attr-ttl", "cache-size"]);
        assert_eq!(one.differing_options(&one), [] as [&str; 0]);
    }

    #[test]
    fn wishes_are_merged_field_by_field() {
        let base = config();
        let current = DaemonConfig { connections: 8, ..config() };
        let mut wish = DaemonConfig { attr_ttl_ms: 7, ..config() };
        wish.source.as_mut().unwrap().port = 2049;
        let merged = current.merged(wish, &base);
        let source = Source { port: 2049, ..config().source.unwrap() };
        assert_eq!(merged, DaemonConfig { connections: 8, attr_ttl_ms: 7, source: Some(source), ..config() });
    }
}
