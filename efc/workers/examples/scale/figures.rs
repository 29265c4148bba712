//! What is counted, and what it comes to.

use crate::world::{BLOCK, WINDOW, World};

/// What is counted.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    pub delivered: u64,
    pub from_nas: u64,
    pub hedged: u64,
    pub late: u64,
    pub skipped: u64,
    pub vain_waits: u64,
    pub copies: u64,
    pub events: u64,
    /// When a tenth of the data was delivered, when the first node had all, when the last.
    pub tenth_at: u64,
    pub first_at: u64,
    pub first_delivered: u64,
    /// When the last block came to the workers, and what was delivered then.
    pub full_at: u64,
    pub full_delivered: u64,
    pub end_at: u64,
}

impl Figures {
    /// A block is delivered, of so many in all; it may be the last one of its node.
    pub fn deliver(&mut self, now: u64, all: u64, is_last: bool) {
        self.delivered += 1;
        if self.delivered == all / 10 {
            self.tenth_at = now;
        }
        if is_last && self.first_at == 0 {
            (self.first_at, self.first_delivered) = (now, self.delivered);
        }
        self.end_at = now;
    }

    /// As JSON. Throughput is beside the sum of the networks that limit it, as long as all nodes read; what the NAS gave is
    /// beside the data set.
    pub fn report(&self, world: &World) -> String {
        let (settings, load) = (&world.settings, &world.load);
        let seconds = |nanos: u64| nanos as f64 / 1e9;
        let networks = settings.network * settings.nodes.min(settings.workers) as f64;
        let all = self.delivered;
        let rate = |from: (u64, u64), to: (u64, u64)| {
            let bytes = to.0.saturating_sub(from.0) as f64 * BLOCK as f64;
            bytes / seconds(to.1.saturating_sub(from.1).max(1)) / networks
        };
        let (tenth, first) = ((all / 10, self.tenth_at), (self.first_delivered, self.first_at));
        let full = settings.network * seconds(WINDOW) / BLOCK as f64 * settings.workers as f64;
        // Of windows in which workers have given this part of what they could.
        let busiest = |part: f64| {
            let windows = load.windows.iter().filter(|(blocks, _)| *blocks as f64 >= part * full);
            windows.map(|(_, busiest)| *busiest).fold(0.0, f64::max)
        };
        // Of windows that begin when all blocks are at the workers, and end before any node has all of its.
        let full_windows = (self.full_at / WINDOW + 1) as usize..(self.first_at / WINDOW) as usize;
        let full_windows = load.windows.get(full_windows).unwrap_or_default();
        let busiest_when_full = full_windows.iter().map(|(_, busiest)| *busiest).fold(0.0, f64::max);
        let of_all = |count: u64| count as f64 / all as f64;
        let figures = [
            ("seconds", seconds(self.end_at)),
            ("seconds_of_first_tenth", seconds(self.tenth_at)),
            ("seconds_of_first_node", seconds(self.first_at)),
            ("seconds_until_full", seconds(self.full_at)),
            ("delivered_until_full", of_all(self.full_delivered)),
            ("throughput", rate(tenth, first)),
            ("throughput_when_full", rate((self.full_delivered, self.full_at), first)),
            ("throughput_to_the_end", rate(tenth, (all, self.end_at))),
            ("busiest", load.busiest()),
            ("busiest_in_window", busiest(0.1)),
            ("busiest_in_window_when_full", busiest_when_full),
            ("busiest_in_any_window", busiest(0.0)),
            ("nas", self.from_nas as f64 / settings.blocks as f64),
            ("copies", self.copies as f64 / settings.blocks as f64),
            ("hedged", of_all(self.hedged)),
            ("late", of_all(self.late)),
            ("skipped", of_all(self.skipped)),
            ("vain_waits", of_all(self.vain_waits)),
            ("events", self.events as f64),
        ];
        let figures = figures.map(|(name, value)| format!("\"{name}\": {value:.4}"));
        format!("{{{}}}", figures.join(", "))
    }
}
