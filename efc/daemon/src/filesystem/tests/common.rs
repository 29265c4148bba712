//! What stories, told or random, have in common.

use std::time::Duration;

use efc_model::{Nas, Options};
use efc_tasks::simulation::{self, Simulation};

use super::kernel::{Done, Kernel, Task};
use crate::filesystem::Settings;

/// A simulation, the NAS in it, and the first node.
pub fn world(seed: u64, options: Options, settings: Settings) -> (Simulation, Nas, Kernel) {
    let simulation = Simulation::new(seed);
    let nas = Nas::new(options, seed);
    let kernel = Kernel::mount(&nas, 1, settings, None);
    (simulation, nas, kernel)
}

/// A number below `end`, drawn by lot.
pub fn draw(end: usize) -> usize {
    simulation::current().expect("a simulation").draw(end as u64) as usize
}

/// Time passes.
pub async fn pass(time: Duration) {
    efc_tasks::time::sleep(time).await;
}

/// Lets all go on that can, for a while in which nobody's patience ends.
pub async fn pause() {
    pass(Duration::from_millis(1)).await;
}

/// The calls that the NAS was asked by what is done, and what came of that.
pub async fn calls<T>(nas: &Nas, of: impl Future<Output = T>) -> (u64, T) {
    let before = nas.calls();
    let result = of.await;
    (nas.calls() - before, result)
}

/// Opens a file, reads its first `length` bytes or all it has, and closes it.
pub async fn head(kernel: &Kernel, task: Task, path: &str, length: usize) -> Done<Vec<u8>> {
    let file = kernel.open(task, path, libc::O_RDONLY).await?;
    let data = kernel.read(task, file, 0, length).await;
    kernel.close(task, file).await?;
    data
}
