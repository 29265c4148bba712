//! A place at a worker whose answer came too late for whoever asked: that answer still says whether the block is there.
//!
//! Without it such a block would stay away from the worker until it is read again, on a machine that stands still now and then
//! some of each file; and a marker that the late answer brings would let other nodes wait for what nobody puts there.

use std::sync::Arc;

use efc_cache::blocks::{Block, BlockKey, Fill};
use tokio::sync::oneshot;

use crate::filling::Filling;
use crate::held::Held;
use crate::incoming::Reply;
use crate::keys::Name;
use crate::policy::course::FIRST;
use crate::protocol::Token;
use crate::worker::Worker;

/// A place for the first copy of a block that may be there, or not.
#[derive(Debug)]
pub(crate) struct Late {
    pub(crate) worker: Arc<Worker>,
    pub(crate) key: BlockKey,
    pub(crate) name: Name,
    /// What the worker says. It comes, or the connection ends.
    pub(crate) answer: oneshot::Receiver<Reply>,
}

impl Fill for Late {
    fn fill(self: Box<Self>, block: &Arc<Block>) {
        let block = block.clone();
        efc_tasks::spawn(async move { self.put(&block).await });
    }
}

impl Late {
    async fn put(self, block: &Arc<Block>) {
        let Late { worker, key, name, answer } = self;
        let marker = match answer.await {
            Ok(Reply::Missing(_)) => None,
            Ok(Reply::Value(value)) if value.length == 0 && value.flags.token == Token::Won => {
                Some(Held::new(&worker, &name, value.flags.cas))
            }
            _ => return,
        };
        let filling = Filling { worker, key, name, copies: FIRST, marker, replaces: None, then: None, way: None };
        Box::new(filling).fill(block);
    }
}
