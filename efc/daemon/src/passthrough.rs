//! Files of the local store that the kernel reads by itself: found by the store, registered by the keeper.

use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use efc_cache::blocks::BlockKey;
use efc_proto::{DaemonConfig, FreshnessConfig, PassthroughStats, passthrough_stats};
use efc_store::Store;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use crate::filesystem::{Backing, Backings};
use crate::keeper::{Keeper, Registering};

/// Whether the kernel shall read files of the local store by itself. Nothing that the daemon decides reaches it when it does, so it
/// is for data that nobody changes.
pub fn wants_passthrough(config: &DaemonConfig) -> bool {
    // A file that the kernel opens without asking cannot be given another in its place.
    let is_sealed = |freshness: &FreshnessConfig| freshness.consistency == "sealed" && freshness.small_files.is_empty();
    let is_sealed = config.freshness.as_ref().is_some_and(is_sealed);
    let cache = config.cache.as_ref().filter(|cache| cache.store_mib > 0);
    is_sealed && cache.is_some_and(|cache| cache.passthrough != "off")
}

/// Files of the store, for the kernel.
pub struct Passthrough {
    store: Option<Arc<Store>>,
    keeper: Arc<Keeper>,
    is_wanted: AtomicBool,
}

impl Passthrough {
    /// As configured.
    pub fn new(config: &DaemonConfig, store: Option<Arc<Store>>, keeper: Arc<Keeper>) -> Passthrough {
        Passthrough { store, keeper, is_wanted: AtomicBool::new(wants_passthrough(config)) }
    }

    /// Whether opens shall be answered so from now on. Files that are open stay as they are.
    pub fn follow(&self, config: &DaemonConfig) {
        self.is_wanted.store(wants_passthrough(config), Ordering::Relaxed);
    }

    /// For the keeper; `None`: nobody wants it. `is_agreed` and `is_offered` are of the session with the kernel.
    pub fn stats(&self, (is_agreed, is_offered): (bool, bool), (opens, files): (u64, u64)) -> Option<PassthroughStats> {
        if !self.is_wanted.load(Ordering::Relaxed) && files == 0 {
            return None;
        }
        let state = match self.keeper.registering() {
            _ if !is_offered => passthrough_stats::State::Kernel,
            _ if !is_agreed => passthrough_stats::State::Mount,
            _ if self.store.is_none() => passthrough_stats::State::Store,
            Registering::NoKeeper => passthrough_stats::State::Keeper,
            Registering::Refused => passthrough_stats::State::Refused,
            Registering::On => passthrough_stats::State::On,
        };
        Some(PassthroughStats { state: state.into(), opens, files })
    }

    async fn file(&self, of: &BlockKey) -> Option<OwnedFd> {
        let is_of_use = self.is_wanted.load(Ordering::Relaxed) && self.keeper.registering() == Registering::On;
        let store = self.store.as_ref().filter(|_| is_of_use)?;
        store.whole_file(of).await.filter(opens_direct)
    }
}

/// Whether it can be opened with O_DIRECT, which the kernel asks of it for whoever opens ours so.
fn opens_direct(file: &OwnedFd) -> bool {
    fcntl_getfl(file)
        .is_ok_and(|flags| fcntl_setfl(file, flags | OFlags::DIRECT).and_then(|()| fcntl_setfl(file, flags)).is_ok())
}

impl Backings for Passthrough {
    fn open(self: Arc<Self>, of: BlockKey) -> Pin<Box<dyn Future<Output = Option<Backing>> + Send>> {
        Box::pin(async move {
            let found = self.file(&of).await?;
            let keeper = self.keeper.clone();
            keeper.open(found, self).await
        })
    }

    fn close(&self, id: u32) {
        self.keeper.close(id);
    }

    fn keep(&self, ids: Vec<u32>) {
        self.keeper.keep(ids);
    }
}
