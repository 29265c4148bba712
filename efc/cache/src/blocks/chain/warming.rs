//! Fills one level of a chain and no other with a block, before anybody reads it.
//!
//! The block comes from whoever has it, levels first. Fetches are shared with readers in both directions; levels filled
//! on behalf of readers are filled as usual. That a level was given a block does not mean that it keeps it: asking
//! again tells whether the block is there.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use efc_buffer::Buffer;

use super::{Absent, Chain, Fetched, Filled, Place, Sought};
use crate::blocks::{Block, BlockKey, Fill, Lookup, Miss};

/// How long a level may keep who fills it waiting: nobody waits for the data.
const PATIENCE: Duration = Duration::from_secs(1);

/// What has come of filling a level with a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Warmed {
    /// The level had it.
    WasThere,
    /// The level was given it.
    Given,
    /// The level takes nothing now, or the block is not to be had for it.
    Refused,
}

/// Gives a block that nobody waits for to levels that lack it.
pub(super) async fn fill(places: Vec<Box<dyn Fill>>, block: &Arc<Block>) {
    for mut place in places {
        efc_tasks::time::in_time(place.unhurried_turn(), Some(PATIENCE)).await;
        place.fill(block);
    }
}

impl Chain {
    /// The number of the level of this name, if there is one.
    pub fn level(&self, name: &str) -> Option<usize> {
        self.levels.iter().position(|(level, _)| level.name() == name)
    }

    /// Sees to it that the level of this number has the block of `key`; `fetch` is that of [`Chain::get`].
    ///
    /// # Errors
    /// Those of [`Chain::get`]; [`Absent::Unshared`] also if the level takes nothing.
    pub async fn warm<F>(
        self: &Arc<Self>,
        key: BlockKey,
        level: usize,
        fetch: impl FnOnce(Buffer) -> F + Send + 'static,
    ) -> Result<Warmed, Absent>
    where
        F: Future<Output = Result<Fetched, Absent>> + Send + 'static,
    {
        if !self.levels[level].0.serves() {
            return Ok(Warmed::Refused);
        }
        let begun = efc_tasks::time::now();
        let block = match self.place(&key, false) {
            Place::There(block) => {
                self.from_recent.count_since(begun, block.len());
                block
            }
            Place::Awaited(end) => {
                let block = end.await.unwrap_or(Err(Absent::Unshared))?;
                self.from_recent.count(block.len());
                block
            }
            Place::First => {
                let chain = self.clone();
                let fetched = async move { chain.fetch(key, Filled::Only(level), fetch).await };
                let Sought { block, found, is_given } = efc_tasks::detached(fetched).end().await?;
                match found {
                    Some(found) if found < level => block,
                    Some(found) if found == level => return Ok(Warmed::WasThere),
                    _ => return Ok(if is_given { Warmed::Given } else { Warmed::Refused }),
                }
            }
        };
        Ok(self.offer(level, &key, &block).await)
    }

    /// Gives these levels a block that they may lack.
    pub(super) async fn fill_others(&self, levels: impl Iterator<Item = usize>, key: &BlockKey, block: &Arc<Block>) {
        for level in levels.filter(|level| self.levels[*level].0.serves()) {
            self.offer(level, key, block).await;
        }
    }

    /// Asks a level for a block that is known, and gives it that if it lacks it.
    async fn offer(&self, level: usize, key: &BlockKey, block: &Arc<Block>) -> Warmed {
        let Some(room) = self.room(key) else { return Warmed::Refused };
        match self.levels[level].0.get_unhurried(*key, room).await {
            Lookup::Hit { block, .. } if block.len() == key.length() => Warmed::WasThere,
            Lookup::Miss(Miss { room, fill: Some(place) }) => {
                drop(room); // the level may need it
                fill(vec![place], block).await;
                Warmed::Given
            }
            Lookup::Hit { .. } | Lookup::Miss(_) => Warmed::Refused,
        }
    }
}
