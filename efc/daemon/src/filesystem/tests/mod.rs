//! The file system between a kernel and a NAS that are both played: without root, without a server, under whatever
//! schedule a seed makes.
//!
//! [`behind`], [`blocks`], [`faults`], [`growth`], [`modes`], [`names`], [`passthrough`], [`several`], [`unopened`] and [`warming`] have stories; [`trees`], [`histories`] and [`namings`] make random ones and
//! compare with a reference. Each of these has a seed, which a
//! failure prints: `EFC_MODEL_SEED=N cargo test -p efcd model` runs it again, `EFC_MODEL_RUNS=N` runs so many,
//! `EFC_MODEL_LOG=debug` shows what the file system and its kernel say.

#[cfg(not(feature = "shuttle"))]
mod ahead;
#[cfg(not(feature = "shuttle"))]
mod behind;
#[cfg(not(feature = "shuttle"))]
mod blocks;
#[cfg(not(feature = "shuttle"))]
mod common;
#[cfg(not(feature = "shuttle"))]
mod faults;
#[cfg(not(feature = "shuttle"))]
mod growth;
#[cfg(not(feature = "shuttle"))]
mod histories;
#[cfg_attr(feature = "shuttle", allow(dead_code))] // schedules need less of it
mod kernel;
#[cfg(not(feature = "shuttle"))]
mod modes;
#[cfg(not(feature = "shuttle"))]
mod names;
#[cfg(not(feature = "shuttle"))]
mod namings;
#[cfg_attr(feature = "shuttle", allow(dead_code))] // as above
mod passing;
#[cfg(not(feature = "shuttle"))]
mod passthrough;
#[cfg(not(feature = "shuttle"))]
mod pool;
#[cfg(feature = "shuttle")]
mod schedules;
#[cfg(not(feature = "shuttle"))]
mod several;
#[cfg(not(feature = "shuttle"))]
mod trees;
#[cfg(not(feature = "shuttle"))]
mod unopened;
#[cfg(not(feature = "shuttle"))]
mod warming;

/// Runs `story` with seeds, or with the one that the environment names; a failure says which.
#[cfg(not(feature = "shuttle"))]
fn with_seeds(runs: u64, story: impl Fn(u64) -> u64) -> u64 {
    struct Said(u64);
    impl Drop for Said {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("failed with EFC_MODEL_SEED={}", self.0);
            }
        }
    }
    let number = |name| std::env::var(name).ok().and_then(|number| number.parse::<u64>().ok());
    if let Ok(level) = std::env::var("EFC_MODEL_LOG") {
        let _ = env_logger::Builder::new().parse_filters(&level).try_init();
    }
    let run = |seed| {
        let _said = Said(seed);
        story(seed)
    };
    match number("EFC_MODEL_SEED") {
        Some(seed) => run(seed),
        None => (0..number("EFC_MODEL_RUNS").unwrap_or(runs)).map(run).sum(),
    }
}
