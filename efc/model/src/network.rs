//! The way to the server, which takes time, and on which calls overtake each other and get lost.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::dice::roll;
use crate::faults::Procedure;

/// How calls get to the server, and answers back.
pub struct Network {
    dice: Mutex<u64>,
    delay_max_us: AtomicU64,
    /// Of 100 calls without a caller, so many are lost if the server has not begun them.
    lost_of_100: AtomicU32,
    /// Of 100 calls that change something, so many are executed twice, by a server that remembers no answers.
    twice_of_100: AtomicU32,
    pub(crate) holds: Mutex<Vec<(Procedure, Arc<Semaphore>)>>,
}

/// What happens to one call.
pub(crate) struct Plan {
    pub there: Duration,
    pub back: Duration,
    pub gate: Option<Arc<Semaphore>>,
    pub is_lost_without_caller: bool,
    pub is_executed_twice: bool,
}

impl Network {
    pub(crate) fn new(seed: u64) -> Network {
        Network {
            dice: Mutex::new(seed ^ 0x6e65_7477_6f72_6b21),
            delay_max_us: AtomicU64::new(0),
            lost_of_100: AtomicU32::new(0),
            twice_of_100: AtomicU32::new(0),
            holds: Mutex::default(),
        }
    }

    /// Each way takes up to so long.
    pub fn set_delay(&self, most: Duration) {
        self.delay_max_us.store(most.as_micros() as u64, Ordering::Relaxed);
    }

    /// Of 100 calls whose caller is gone, so many do not come to the server.
    pub fn set_lost(&self, of_100: u32) {
        self.lost_of_100.store(of_100, Ordering::Relaxed);
    }

    /// Of 100 calls that change something, so many are executed twice.
    pub fn set_twice(&self, of_100: u32) {
        self.twice_of_100.store(of_100, Ordering::Relaxed);
    }

    pub(crate) fn plan(&self, procedure: Procedure) -> Plan {
        let mut dice = self.dice.lock().expect("dice lock");
        let mut draw = |end: u64| roll(&mut dice) % end.max(1);
        let delay_max = self.delay_max_us.load(Ordering::Relaxed) + 1;
        Plan {
            there: Duration::from_micros(draw(delay_max)),
            back: Duration::from_micros(draw(delay_max)),
            is_lost_without_caller: draw(100) < self.lost_of_100.load(Ordering::Relaxed).into(),
            is_executed_twice: draw(100) < self.twice_of_100.load(Ordering::Relaxed).into(),
            gate: {
                let holds = self.holds.lock().expect("holds lock");
                holds.iter().find(|(of, _)| *of == procedure).map(|(_, gate)| gate.clone())
            },
        }
    }
}
