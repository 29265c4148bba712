//! Plays many nodes that start at once on one data set, in a time of its own: `scale [NAME=NUMBER ...]`, see [`settings`].
//! Prints what came of it as JSON. The same numbers give the same result on every machine.
//!
//! What nodes decide is decided by the daemon's own code, `efc_workers::policy`; what is played is the rest: networks and a
//! NAS that send one block after another, workers with memory enough that answer at once, and readers.

mod figures;
mod node;
mod play;
mod world;

use crate::play::Play;
use crate::world::Settings;

fn main() {
    let settings = match settings(std::env::args().skip(1)) {
        Ok(settings) => settings,
        Err(why) => {
            eprintln!("scale: {why}");
            std::process::exit(2);
        }
    };
    let mut play = Play::new(settings);
    play.run();
    println!("{}", play.figures.report(&play.world));
}

/// `nodes`, `workers`, `beside` (0 or 1), `blocks`, `blocks_per_file`, `files_per_node`, `in_order` (0 or 1), `streams`,
/// `ahead`, `network` and `nas` (Gbit/s), `seed`.
fn settings(arguments: impl Iterator<Item = String>) -> Result<Settings, String> {
    let mut settings = Settings {
        seed: 1,
        nodes: 100,
        workers: 100,
        beside: true,
        blocks: 102_400,
        blocks_per_file: 64,
        files_per_node: 40,
        in_order: false,
        streams: 8,
        ahead: 8,
        network: 100e9 / 8.0,
        nas: 100e9 / 8.0,
    };
    for argument in arguments {
        let (name, value) = argument.split_once('=').ok_or(format!("{argument} is not NAME=NUMBER"))?;
        let number: f64 = value.parse().map_err(|_| format!("{value} is not a number"))?;
        match name {
            "seed" => settings.seed = number as u64,
            "nodes" => settings.nodes = number as usize,
            "workers" => settings.workers = number as usize,
            "beside" => settings.beside = number != 0.0,
            "blocks" => settings.blocks = number as usize,
            "blocks_per_file" => settings.blocks_per_file = number as usize,
            "files_per_node" => settings.files_per_node = number as usize,
            "in_order" => settings.in_order = number != 0.0,
            "streams" => settings.streams = number as usize,
            "ahead" => settings.ahead = number as usize,
            "network" => settings.network = number * 1e9 / 8.0,
            "nas" => settings.nas = number * 1e9 / 8.0,
            _ => return Err(format!("there is no {name}")),
        }
    }
    if settings.beside && settings.workers > settings.nodes {
        return Err("there are more workers than nodes that they could run beside".into());
    }
    Ok(settings)
}
