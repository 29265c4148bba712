//! The file system between a kernel and a NAS that are both played: without root, without a server, under whatever
//! schedule a seed makes.

mod kernel;
#[cfg(not(feature = "shuttle"))]
mod faults;
