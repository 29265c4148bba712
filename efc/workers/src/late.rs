//! An answer that came too late for its reader still tells whether the worker has the block; if not, the block is
//! stored there once it has been fetched.
//!
//! Without that the block would be missing at the worker until it is read again, and on a machine that stalls now and
//! then that would be a part of each file. Also, a marker that the late answer has set would make other nodes wait for
//! a block that nobody stores.

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
