//! Faults that were seen in use, each as the shortest story that shows it.

use std::time::Duration;

use efc_backend::{SetAttr as ServerSetAttr, SetTime as ServerSetTime, Status};
use efc_fuse::SetAttr;
use efc_model::{Fault, Nas, Options, Procedure};
use efc_tasks::simulation::Simulation;

use super::kernel::{Kernel, Task, settings};

const TTL: Duration = Duration::from_secs(1);

fn world(seed: u64) -> (Simulation, Nas, Kernel) {
    let simulation = Simulation::new(seed);
    let nas = Nas::new(Options::default(), seed);
    let kernel = Kernel::mount(&nas, 1, settings(TTL), None);
    (simulation, nas, kernel)
}

#[test]
fn what_is_written_is_read_and_durable_after_close() {
    let (simulation, nas, kernel) = world(1);
    let task = Task::root();
    simulation.run(async {
        let file = kernel.open(task, "file", libc::O_RDWR | libc::O_CREAT).await.unwrap();
        kernel.write(task, file, 0, b"hello").await.unwrap();
        assert_eq!(kernel.read(task, file, 0, 100).await.unwrap(), b"hello");
        assert_eq!(nas.durable("file").unwrap(), b"");
        kernel.close(task, file).await.unwrap();
        assert_eq!(nas.durable("file").unwrap(), b"hello");
        kernel.settled().await;
    });
    kernel.assert_nothing_leaked();
}
