//! What daemons report: the two forms that it has on the wire, and counters that go on from one daemon to the next.
//!
//! Release 0.1.0 knows one flat message, later ones a message for each subsystem. Whoever sends fills both, so keepers, daemons
//! and clients of all releases understand each other; whoever receives makes the subsystems from the flat form if they are
//! missing, and looks at nothing else.

use crate::{
    CacheStats, DaemonStats, FuseStats, Latency, LatencyStats, NfsStats, PassthroughStats, PrefetchStats, StateStats,
    StoreStats, WritingStats,
};

impl DaemonStats {
    /// As it was received, by subsystem.
    #[must_use]
    pub fn by_subsystem(mut self) -> DaemonStats {
        if self.fuse.is_none() && self.nfs.is_none() && self.state.is_none() {
            self.fuse = Some(FuseStats { requests: self.fuse_requests });
            self.nfs = Some(NfsStats {
                calls: self.nfs_calls,
                retransmits: self.nfs_retransmits,
                reconnects: self.nfs_reconnects,
                bytes_read: self.bytes_read,
                bytes_written: self.bytes_written,
                bytes_spliced: self.bytes_spliced,
                pipe_misfits: self.pipe_misfits,
                responding: self.nas_responding,
                oldest_call_ms: self.oldest_call_ms,
            });
            self.state = Some(StateStats {
                nodes: self.nodes,
                nodes_max: self.nodes_max,
                open_files: self.open_files,
                uncommitted_bytes: self.uncommitted_bytes,
            });
        }
        self
    }

    /// To be sent to whoever it is: the flat form is made from the subsystems.
    #[must_use]
    pub fn for_all_releases(self) -> DaemonStats {
        let fuse = self.fuse.unwrap_or_default();
        let nfs = self.nfs.unwrap_or_default();
        let state = self.state.unwrap_or_default();
        DaemonStats {
            uptime_ms: self.uptime_ms,
            resumed: self.resumed,
            fuse_requests: fuse.requests,
            nfs_calls: nfs.calls,
            nfs_retransmits: nfs.retransmits,
            nfs_reconnects: nfs.reconnects,
            bytes_read: nfs.bytes_read,
            bytes_written: nfs.bytes_written,
            bytes_spliced: nfs.bytes_spliced,
            pipe_misfits: nfs.pipe_misfits,
            nas_responding: nfs.responding,
            oldest_call_ms: nfs.oldest_call_ms,
            nodes: state.nodes,
            nodes_max: state.nodes_max,
            open_files: state.open_files,
            uncommitted_bytes: state.uncommitted_bytes,
            fuse: Some(fuse),
            nfs: Some(nfs),
            state: Some(state),
            metadata: self.metadata,
            writing: self.writing,
            cache: self.cache,
            store: self.store,
            passthrough: self.passthrough,
            latency: self.latency,
            prefetch: self.prefetch,
            sources: self.sources,
        }
    }

    /// To be sent where there is no room for both forms: one of them.
    #[must_use]
    pub fn for_one_release(self, by_subsystem: bool) -> DaemonStats {
        let flat = self.for_all_releases();
        if by_subsystem {
            let DaemonStats { uptime_ms, resumed, fuse, nfs, state, metadata, .. } = flat;
            let DaemonStats { writing, cache, store, passthrough, prefetch, latency, sources, .. } = flat;
            let base = DaemonStats { uptime_ms, resumed, fuse, nfs, state, ..Default::default() };
            DaemonStats { metadata, writing, cache, store, passthrough, prefetch, latency, sources, ..base }
        } else {
            let flat = DaemonStats { fuse: None, nfs: None, state: None, metadata: None, writing: None, ..flat };
            DaemonStats {
                cache: None,
                store: None,
                passthrough: None,
                prefetch: None,
                latency: None,
                sources: Vec::new(),
                ..flat
            }
        }
    }

    /// This daemon's report, its counters on top of those of the daemons before it. All else is of now. Both are by subsystem.
    #[must_use]
    pub fn on_top_of(&self, former: &DaemonStats) -> DaemonStats {
        let (fuse, before) = (self.fuse.unwrap_or_default(), former.fuse.unwrap_or_default());
        let FuseStats { requests } = fuse;
        let fuse = FuseStats { requests: requests.saturating_add(before.requests) };
        let (nfs, before) = (self.nfs.unwrap_or_default(), former.nfs.unwrap_or_default());
        let nfs = NfsStats {
            calls: nfs.calls.saturating_add(before.calls),
            retransmits: nfs.retransmits.saturating_add(before.retransmits),
            reconnects: nfs.reconnects.saturating_add(before.reconnects),
            bytes_read: nfs.bytes_read.saturating_add(before.bytes_read),
            bytes_written: nfs.bytes_written.saturating_add(before.bytes_written),
            bytes_spliced: nfs.bytes_spliced.saturating_add(before.bytes_spliced),
            pipe_misfits: nfs.pipe_misfits.saturating_add(before.pipe_misfits),
            // Of now. Named one by one, so that a counter that is added is not forgotten here.
            responding: nfs.responding,
            oldest_call_ms: nfs.oldest_call_ms,
        };
        let (writing, before) = (self.writing, former.writing.unwrap_or_default());
        let writing = writing.map(|writing| {
            let WritingStats { unsent_bytes, oldest_unsent_ms, append_overlaps, changes } = writing;
            WritingStats {
                unsent_bytes,
                oldest_unsent_ms,
                append_overlaps: append_overlaps.saturating_add(before.append_overlaps),
                changes: changes.saturating_add(before.changes),
            }
        });
        let before = former.cache.unwrap_or_default();
        let cache = self.cache.map(|cache| CacheStats {
            memory_bytes: cache.memory_bytes.saturating_add(before.memory_bytes),
            workers_bytes: cache.workers_bytes.saturating_add(before.workers_bytes),
            nas_bytes: cache.nas_bytes.saturating_add(before.nas_bytes),
            workers_refused: cache.workers_refused.saturating_add(before.workers_refused),
            workers_capacity_bytes: cache.workers_capacity_bytes,
            workers_held_bytes: cache.workers_held_bytes,
            workers: cache.workers,
            workers_ready: cache.workers_ready,
            store_bytes: cache.store_bytes.saturating_add(before.store_bytes),
            memory_blocks: cache.memory_blocks.saturating_add(before.memory_blocks),
            store_blocks: cache.store_blocks.saturating_add(before.store_blocks),
            workers_blocks: cache.workers_blocks.saturating_add(before.workers_blocks),
            nas_blocks: cache.nas_blocks.saturating_add(before.nas_blocks),
            workers_misses: cache.workers_misses.saturating_add(before.workers_misses),
            workers_filled_bytes: cache.workers_filled_bytes.saturating_add(before.workers_filled_bytes),
            workers_unfilled_overtaken: cache
                .workers_unfilled_overtaken
                .saturating_add(before.workers_unfilled_overtaken),
            workers_unfilled_full: cache.workers_unfilled_full.saturating_add(before.workers_unfilled_full),
            workers_unfilled_memory: cache.workers_unfilled_memory.saturating_add(before.workers_unfilled_memory),
            workers_unfilled_busy: cache.workers_unfilled_busy.saturating_add(before.workers_unfilled_busy),
        });
        let before = former.store.unwrap_or_default();
        let store = self.store.map(|store| StoreStats {
            state: store.state,
            capacity_bytes: store.capacity_bytes,
            held_bytes: store.held_bytes,
            files: store.files,
            hits: store.hits.saturating_add(before.hits),
            misses: store.misses.saturating_add(before.misses),
            filled_bytes: store.filled_bytes.saturating_add(before.filled_bytes),
            refused: store.refused.saturating_add(before.refused),
            evicted_bytes: store.evicted_bytes.saturating_add(before.evicted_bytes),
            damaged: store.damaged.saturating_add(before.damaged),
            late: store.late.saturating_add(before.late),
            refused_busy: store.refused_busy.saturating_add(before.refused_busy),
            refused_disk: store.refused_disk.saturating_add(before.refused_disk),
            disk_bytes: store.disk_bytes,
            disk_free_bytes: store.disk_free_bytes,
        });
        let before = former.passthrough.unwrap_or_default();
        let passthrough = self.passthrough.map(|passthrough| PassthroughStats {
            state: passthrough.state,
            opens: passthrough.opens.saturating_add(before.opens),
            files: passthrough.files,
        });
        let before = former.prefetch.unwrap_or_default();
        let prefetch = self.prefetch.map(|prefetch| PrefetchStats {
            order_asked: prefetch.order_asked.saturating_add(before.order_asked),
            order_used: prefetch.order_used.saturating_add(before.order_used),
            order_wasted: prefetch.order_wasted.saturating_add(before.order_wasted),
            directory_asked: prefetch.directory_asked.saturating_add(before.directory_asked),
            directory_used: prefetch.directory_used.saturating_add(before.directory_used),
            directory_wasted: prefetch.directory_wasted.saturating_add(before.directory_wasted),
            held_bytes: prefetch.held_bytes,
        });
        let latency = self.latency.as_ref().map(|latency| latency.on_top_of(former.latency.as_ref()));
        DaemonStats {
            fuse: Some(fuse),
            nfs: Some(nfs),
            writing,
            cache,
            store,
            passthrough,
            prefetch,
            latency,
            ..self.clone()
        }
    }
}

impl LatencyStats {
    /// These on top of `former`, as far as they were counted in the same buckets.
    fn on_top_of(&self, former: Option<&LatencyStats>) -> LatencyStats {
        let Some(former) = former.filter(|former| former.bounds_us == self.bounds_us) else { return self.clone() };
        let sum = |own: &[Latency], former: &[Latency]| {
            let with_former = |own: &Latency| match former.iter().find(|former| former.of == own.of) {
                Some(former) => own.on_top_of(former),
                None => own.clone(),
            };
            own.iter().map(with_former).collect()
        };
        LatencyStats {
            bounds_us: self.bounds_us.clone(),
            reads: sum(&self.reads, &former.reads),
            operations: sum(&self.operations, &former.operations),
        }
    }
}

impl Latency {
    fn on_top_of(&self, former: &Latency) -> Latency {
        let pairs = self.buckets.iter().zip(former.buckets.iter().chain(std::iter::repeat(&0)));
        Latency {
            of: self.of.clone(),
            sum_us: self.sum_us.saturating_add(former.sum_us),
            buckets: pairs.map(|(own, former)| own.saturating_add(*former)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    /// As a daemon of 0.1.0 reports.
    fn former_release() -> DaemonStats {
        DaemonStats {
            uptime_ms: 1,
            fuse_requests: 2,
            nfs_calls: 3,
            nodes: 8,
            nas_responding: true,
            ..Default::default()
        }
    }

    #[test]
    fn both_forms_say_the_same() {
        let stats = former_release().by_subsystem();
        assert_eq!(stats.fuse, Some(FuseStats { requests: 2 }));
        assert_eq!(stats.nfs, Some(NfsStats { calls: 3, responding: true, ..Default::default() }));
        assert_eq!(stats.state, Some(StateStats { nodes: 8, ..Default::default() }));
        let sent = DaemonStats { fuse_requests: 77, ..stats.clone() }.for_all_releases();
        assert_eq!(sent, stats, "what is flat is made anew");
        assert_eq!(sent.clone().for_one_release(false), former_release());
        assert_eq!(sent.clone().for_one_release(true).for_all_releases(), sent);
        assert_eq!(sent.for_one_release(true).nfs_calls, 0);
    }

    #[test]
    fn every_flat_field_has_its_place_in_a_subsystem() {
        // Fields 2 to 12, 14, 15 and 20, each with its number for a value.
        let numbers = (2..=12).chain([14, 15, 20]);
        let bytes: Vec<u8> = numbers
            .flat_map(|number: u64| {
                let mut field = Vec::new();
                prost::encoding::encode_varint(number << 3, &mut field);
                prost::encoding::encode_varint(if number == 11 { 1 } else { number }, &mut field);
                field
            })
            .collect();
        let flat = DaemonStats::decode(bytes.as_slice()).unwrap();
        assert_eq!(flat.clone().by_subsystem().for_one_release(true).for_one_release(false), flat);
    }

    #[test]
    fn counters_go_on_and_nothing_else_does() {
        let own = DaemonStats { nfs_calls: 10, nodes: 5, uptime_ms: 9, ..Default::default() }.by_subsystem();
        let sum = own.on_top_of(&former_release().by_subsystem());
        let nfs = sum.nfs.unwrap();
        assert_eq!((sum.fuse.unwrap().requests, nfs.calls, nfs.responding), (2, 13, false));
        assert_eq!((sum.state.unwrap().nodes, sum.uptime_ms), (5, 9));
        let writing = |unsent_bytes, counter| {
            Some(WritingStats { unsent_bytes, append_overlaps: counter, changes: 2 * counter, ..Default::default() })
        };
        let [own_writing, former] =
            [writing(1, 2), writing(4, 8)].map(|writing| DaemonStats { writing, ..own.clone() });
        assert_eq!(own_writing.on_top_of(&former).writing, writing(1, 10));
        let cache = |workers, counter| {
            let (memory_bytes, workers_bytes, nas_bytes, workers_refused) =
                (counter, counter + 1, counter + 2, counter + 3);
            Some(CacheStats { memory_bytes, workers_bytes, nas_bytes, workers_refused, workers, ..Default::default() })
        };
        let [with_cache, former] = [cache(1, 10), cache(2, 20)].map(|cache| DaemonStats { cache, ..own.clone() });
        let sum = with_cache.on_top_of(&former).cache.unwrap();
        assert_eq!((sum.memory_bytes, sum.workers_bytes, sum.nas_bytes, sum.workers_refused), (30, 32, 34, 36));
        assert_eq!((sum.workers, own.on_top_of(&former).cache), (1, None));
        let store = |held_bytes, hits| Some(StoreStats { held_bytes, hits, damaged: hits + 1, ..Default::default() });
        let [with_store, former] = [store(1, 10), store(2, 20)].map(|store| DaemonStats { store, ..own.clone() });
        let sum = with_store.on_top_of(&former).store.unwrap();
        assert_eq!((sum.held_bytes, sum.hits, sum.damaged), (1, 30, 32));
        let passed = |files, opens| Some(PassthroughStats { state: 1, opens, files });
        let [passing, former] =
            [passed(1, 10), passed(2, 20)].map(|passthrough| DaemonStats { passthrough, ..own.clone() });
        assert_eq!(passing.on_top_of(&former).passthrough, passed(1, 30));
        let prefetched = |held_bytes, order_asked, directory_wasted| {
            Some(PrefetchStats { order_asked, directory_wasted, held_bytes, ..Default::default() })
        };
        let [asking, former] =
            [prefetched(1, 10, 3), prefetched(2, 20, 4)].map(|prefetch| DaemonStats { prefetch, ..own.clone() });
        assert_eq!(asking.on_top_of(&former).prefetch, prefetched(1, 30, 7));
        assert_eq!(own.on_top_of(&DaemonStats::default()), own);
        let latency = |bounds_us: &[u64], count| {
            let of = |of: &str| Latency { of: of.into(), sum_us: 3 * count, buckets: vec![count, 2 * count] };
            let (reads, operations) = (vec![of("nas")], vec![of("open"), of("read")]);
            Some(LatencyStats { bounds_us: bounds_us.to_vec(), reads, operations })
        };
        let on_top = |own_bounds: &[u64], bounds: &[u64]| {
            let [own, former] = [latency(own_bounds, 10), latency(bounds, 20)]
                .map(|latency| DaemonStats { latency, ..DaemonStats::default() });
            own.on_top_of(&former).latency
        };
        assert_eq!(on_top(&[50], &[50]), latency(&[50], 30));
        assert_eq!(on_top(&[50], &[60]), latency(&[50], 10), "other buckets, of another release");
    }
}
