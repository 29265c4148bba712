//! What the keeper can ask of this daemon about its file system: statistics, finding the root again, draining, and the
//! like.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use efc_cache::blocks::{Given, GivenBy, Level};
use efc_cache::{BOUNDS_US, Took};
use efc_fuse::{Negotiated, Session};
use efc_nfs::Config;
use efc_proto::{
    CacheStats, DaemonConfig, DaemonStats, Error, FoundRoot, FuseStats, Latency, LatencyStats, MetadataStats, NfsStats,
    PassthroughStats, PrefetchStats, StateStats, WritingStats, error::Code,
};
use efc_state::State;

use crate::configuration::client_config;
use crate::control::Serving;
use crate::filesystem::{self, AheadFigures, Efc, ROOT};
use crate::live::Live;
use crate::memory;
use crate::sources::{self, Storage, Watched};
use crate::store::figures;
use crate::workers::add_figures;

/// How long looking for the dataset's root once more may take: somebody waits for it who wants to start a pod.
const FIND_TIME_LIMIT: Duration = Duration::from_millis(1500);
/// Inodes that the kernel has forgotten whose memory is worth giving back: a megabyte and more.
const NODES_WORTH_A_TRIM: u64 = 4096;
/// A NAS that lets a call wait longer than this is reported as not responding.
const RESPONDING_MAX: Duration = Duration::from_secs(5);
/// How long a drained daemon's successor waits for the answers that are still due; then it executes the rest itself.
const DRAIN_TIME_LIMIT: Duration = Duration::from_millis(400);
/// Time for data that is held back before a drain.
const SEND_TIME_LIMIT: Duration = Duration::from_millis(150);

/// What the control thread speaks for.
pub struct Served {
    root: Watched,
    efc: Arc<Efc<Storage>>,
    session: Session,
    state: Arc<State>,
    /// In force now.
    config: Mutex<DaemonConfig>,
    live: Live,
    /// Somebody looks for the dataset's root.
    is_finding: Arc<AtomicBool>,
    /// The most inodes that the kernel knew since memory was last given back to the system.
    nodes_peak: AtomicU64,
    started_at: Instant,
}

impl Served {
    /// A daemon that was started at `started_at`, and serves with these options now.
    pub fn new(
        (root, efc): (Watched, Arc<Efc<Storage>>),
        (session, state): (Session, Arc<State>),
        (config, live): (DaemonConfig, Live),
        started_at: Instant,
    ) -> Served {
        let (config, is_finding) = (Mutex::new(config), Arc::default());
        let nodes_peak = AtomicU64::new(0);
        Served { root, efc, session, state, config, live, is_finding, nodes_peak, started_at }
    }

    fn config(&self) -> MutexGuard<'_, DaemonConfig> {
        self.config.lock().expect("configuration lock")
    }

    fn nfs_stats(&self) -> NfsStats {
        let counters = self.root.counters();
        NfsStats {
            calls: counters.calls,
            retransmits: counters.retransmits,
            reconnects: counters.reconnects,
            bytes_read: counters.bytes_read,
            bytes_written: counters.bytes_written,
            bytes_spliced: counters.bytes_spliced,
            pipe_misfits: counters.pipe_misfits,
            responding: counters.oldest_call.is_none_or(|age| age < RESPONDING_MAX),
            oldest_call_ms: counters.oldest_call.map_or(0, milliseconds),
        }
    }

    /// Gives the memory of many inodes back that the kernel has forgotten since. They are small and lie among others, so
    /// the allocator keeps it otherwise.
    fn give_memory_back(&self) {
        let nodes = self.state.node_count();
        let peak = self.nodes_peak.fetch_max(nodes, Ordering::Relaxed).max(nodes);
        if peak - nodes >= NODES_WORTH_A_TRIM {
            self.nodes_peak.store(nodes, Ordering::Relaxed);
            memory::trim();
        }
    }

    fn state_stats(&self) -> StateStats {
        StateStats {
            nodes: self.state.node_count(),
            nodes_max: self.state.nodes_max().unwrap_or(0),
            open_files: self.efc.open_files(),
            uncommitted_bytes: self.efc.uncommitted_bytes(),
        }
    }

    fn metadata_stats(&self) -> MetadataStats {
        let used = self.efc.metadata();
        MetadataStats {
            bytes_max: used.max,
            inode_bytes: used.inodes,
            name_bytes: used.names,
            listing_bytes: used.listings,
            node_bytes: self.state.node_count() * memory::NODE_BYTES,
        }
    }

    fn writing_stats(&self) -> WritingStats {
        WritingStats {
            unsent_bytes: self.efc.unanswered_bytes(),
            oldest_unsent_ms: self.efc.oldest_unsent().map_or(0, milliseconds),
            append_overlaps: self.efc.append_overlaps(),
            changes: self.efc.changes(),
        }
    }

    fn passthrough_stats(&self) -> Option<PassthroughStats> {
        let negotiated = Negotiated::of(&self.state).unwrap_or_default();
        let session = (negotiated.has_passthrough(), negotiated.offers_passthrough());
        self.live.passthrough.stats(session, self.efc.passed_through())
    }

    fn prefetch_stats(&self) -> PrefetchStats {
        let AheadFigures { order, directory, held_bytes } = self.efc.asked_ahead();
        PrefetchStats {
            order_asked: order.asked,
            order_used: order.used,
            order_wasted: order.wasted,
            directory_asked: directory.asked,
            directory_used: directory.used,
            directory_wasted: directory.wasted,
            held_bytes,
        }
    }

    fn cache_stats(&self) -> Option<CacheStats> {
        let given = self.efc.given_blocks()?;
        let [by_store, by_workers] = self.given_by_levels(&given);
        let mut stats = CacheStats {
            memory_bytes: given.memory.bytes,
            memory_blocks: given.memory.blocks,
            store_bytes: by_store.bytes,
            store_blocks: by_store.blocks,
            workers_bytes: by_workers.bytes,
            workers_blocks: by_workers.blocks,
            nas_bytes: given.backend.bytes,
            nas_blocks: given.backend.blocks,
            ..Default::default()
        };
        self.live.workers.iter().for_each(|workers| add_figures(&mut stats, workers));
        Some(stats)
    }

    /// What the local store has given, and what workers have.
    fn given_by_levels(&self, given: &GivenBy) -> [Given; 2] {
        let of = |level: Option<&dyn Level>| level.map_or_else(Given::default, |level| given.level(level.name()));
        let (store, workers) = (self.live.store.as_deref(), self.live.workers.as_deref());
        [of(store.map(|store| store as &dyn Level)), of(workers.map(|workers| workers as &dyn Level))]
    }

    fn latency_stats(&self) -> LatencyStats {
        let given = self.efc.given_blocks();
        let [store, workers] = given.as_ref().map(|given| self.given_by_levels(given)).unwrap_or_default();
        let (memory, nas) = given.map(|given| (given.memory.took, given.backend.took)).unwrap_or_default();
        let (memory_alone, nas_alone) = self.efc.read_latencies();
        let reads = [
            ("memory", memory.and(memory_alone)),
            ("store", store.took),
            ("workers", workers.took),
            ("nas", nas.and(nas_alone)),
        ];
        LatencyStats {
            bounds_us: BOUNDS_US.to_vec(),
            reads: reads.into_iter().map(latency).collect(),
            operations: self.efc.operation_latencies().map(latency).collect(),
        }
    }
}

fn latency((of, took): (&str, Took)) -> Latency {
    Latency { of: of.to_owned(), sum_us: took.sum_us, buckets: took.buckets.to_vec() }
}

impl Serving for Served {
    fn report(&self) -> DaemonStats {
        self.give_memory_back();
        let stats = DaemonStats {
            uptime_ms: milliseconds(self.started_at.elapsed()),
            resumed: self.state.is_resumed(),
            fuse: Some(FuseStats { requests: self.session.requests() }),
            nfs: Some(self.nfs_stats()),
            state: Some(self.state_stats()),
            metadata: Some(self.metadata_stats()),
            writing: Some(self.writing_stats()),
            cache: self.cache_stats(),
            store: self.live.store.as_deref().map(figures),
            passthrough: self.passthrough_stats(),
            prefetch: Some(self.prefetch_stats()),
            latency: Some(self.latency_stats()),
            sources: self.root.stats(),
            ..Default::default()
        };
        stats.for_all_releases()
    }

    fn configure(&self, options: &DaemonConfig, workers_file: &[u8]) -> Result<(), Error> {
        let mut config = self.config();
        sources::check(&options.sources)?;
        self.live.take(&config, options, workers_file).map_err(|fixed| {
            let message = format!("a running daemon does not take other values of the fields {fixed:?}");
            Error { code: Code::InvalidArgument.into(), message }
        })?;
        if *config != *options {
            log::info!("serving with other options");
        }
        *config = options.clone();
        self.root.follow(options);
        Ok(())
    }

    fn resend(&self, predecessor_remains: bool) {
        if let Err(error) = self.session.resend() {
            log::warn!("the kernel does not deliver again what a predecessor held: {error}");
        }
        if !predecessor_remains {
            filesystem::drop_unclaimed(self.session.clone());
        }
    }

    fn drain(&self) {
        // The next daemon may be of a release that does not lay held data over what it reads.
        self.efc.stop_holding_back(SEND_TIME_LIMIT);
        let begin = Instant::now();
        let all = self.session.drain(DRAIN_TIME_LIMIT);
        self.efc.settle(DRAIN_TIME_LIMIT.saturating_sub(begin.elapsed()));
        log::info!("drained{}", if all { "" } else { "; some requests are left to the next daemon" });
    }

    fn find_root(&self) -> Option<Box<dyn FnOnce() -> FoundRoot + Send>> {
        if self.is_finding.swap(true, Ordering::AcqRel) {
            return None;
        }
        let (root, state, is_finding) = (self.root.clone(), self.state.clone(), self.is_finding.clone());
        let config = Config { connect_time_limit: FIND_TIME_LIMIT, ..client_config(&self.config(), &state) };
        Some(Box::new(move || {
            let served = state.node(ROOT).map(|root| root.handle).unwrap_or_default();
            let found = root.find(&config, &served);
            is_finding.store(false, Ordering::Release);
            match found {
                Ok(found) => FoundRoot { served, found, error: None },
                Err(error) => FoundRoot { served, found: Vec::new(), error: Some(error) },
            }
        }))
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
