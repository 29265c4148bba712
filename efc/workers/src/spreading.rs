//! Further copies of a hot block: one is stored at the next worker, and then the number in the first copy is raised.
//!
//! Of all nodes that want to store one there, the one whose marker it is does so. If the first copy promises a copy
//! that does not exist, that costs a small question, so nothing here is rolled back.

use std::sync::Arc;

use efc_cache::blocks::{Block, BlockKey, Fill};

use crate::basics::Then;
use crate::figures::count;
use crate::filling::Filling;
use crate::held::Held;
use crate::keys::Name;
use crate::protocol::{Cas, Token};
use crate::worker::Worker;

/// A place at a worker for a copy of a block that was found elsewhere.
#[derive(Debug)]
pub(crate) struct Spreading {
    pub(crate) worker: Arc<Worker>,
    pub(crate) key: BlockKey,
    pub(crate) name: Name,
    /// How many there are then.
    pub(crate) copies: u8,
    /// What is told, if it is not known there: the first copy, of this number, at this worker.
    pub(crate) first: Option<(Arc<Worker>, Cas)>,
}

impl Fill for Spreading {
    fn fill(self: Box<Self>, block: &Arc<Block>) {
        let block = block.clone();
        efc_tasks::spawn(async move { self.put(&block).await });
    }
}

impl Spreading {
    async fn put(self, block: &Arc<Block>) {
        let Some(flags) = self.worker.claim(&self.name).await.filter(|flags| flags.token == Token::Won) else { return };
        let Spreading { worker, key, name, copies, first } = self;
        let marker = Some(Held::new(&worker, &name, flags.cas));
        let (holder, kept) = (worker.clone(), block.clone());
        let then = Then::new(move || {
            count(&holder.tally.copies_done);
            if let Some((worker, cas)) = first {
                // In place of the first copy, one that says how many there are.
                let first =
                    Filling { worker, key, name, copies, marker: None, replaces: Some(cas), then: None, way: None };
                Box::new(first).fill(&kept);
            }
        });
        Box::new(Filling { worker, key, name, copies, marker, replaces: None, then: Some(then), way: None })
            .fill(block);
    }
}
