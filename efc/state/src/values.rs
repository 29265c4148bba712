//! Single values: what the session's ends have agreed on, what the daemon knows of its server, and the ports that it
//! came from.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::layout::{Header, OF_SEVERAL_SOURCES};
use super::mapping::WORD;
use super::pair::Pair;
use super::record::{pack, unpack};
use super::regions::{AGREEMENT, BLOB, Format, PORTS, PORTS_OF_SOURCES, SOURCES};

/// Words of an agreement.
pub const AGREEMENT_WORDS: usize = 3;
/// Largest blob, in bytes.
pub const BLOB_MAX: usize = 4000;
/// Largest form of what is known of several sources, in bytes.
pub const SOURCES_BYTES_MAX: usize = 192 << 10;
/// Connections whose ports are remembered in any session. In one of several sources [`MORE_PORTS_MAX`] more are.
pub const PORTS_OF_ONE: usize = 64;
const MORE_PORTS_MAX: usize = 1024;
/// Ports in a word.
const PORTS_PER_WORD: usize = 4;

const _: () = assert!(AGREEMENT.sealed() >= AGREEMENT_WORDS);
const _: () = assert!((BLOB.sealed() - 1) * WORD >= BLOB_MAX);
const _: () = assert!((SOURCES.sealed() - 1) * WORD >= SOURCES_BYTES_MAX);
const _: () = assert!(PORTS.sealed() >= PORTS_OF_ONE / PORTS_PER_WORD);
const _: () = assert!(PORTS_OF_SOURCES.sealed() >= MORE_PORTS_MAX / PORTS_PER_WORD);

/// All values.
pub struct Values {
    agreement: Pair,
    blob: Pair,
    ports: Ports,
    /// `None`: the session has one source.
    of_several: Option<OfSeveral>,
}

/// What only sessions of several sources have.
struct OfSeveral {
    sources: Pair,
    ports: Ports,
}

impl Values {
    /// Finds the values; also says how many records are damaged.
    pub fn open(header: &Header) -> io::Result<(Values, u64)> {
        let (blob, damaged_blobs) = Pair::open_twofold(header.region(&BLOB)?)?;
        let (agreement, damaged_agreements) = Pair::open_twofold(header.region(&AGREEMENT)?)?;
        let (ports, damaged_ports) = Ports::open(header, &PORTS, PORTS_OF_ONE)?;
        let mut damaged = damaged_blobs + damaged_agreements + damaged_ports;
        let of_several = if header.version() == OF_SEVERAL_SOURCES {
            let (sources, damaged_sources) = Pair::open_twofold(header.region(&SOURCES)?)?;
            let (ports, damaged_ports) = Ports::open(header, &PORTS_OF_SOURCES, MORE_PORTS_MAX)?;
            damaged += damaged_sources + damaged_ports;
            Some(OfSeveral { sources, ports })
        } else {
            None
        };
        Ok((Values { agreement, blob, ports, of_several }, damaged))
    }

    /// Saves what the session's ends have agreed on.
    pub fn save_agreement(&self, words: [u64; AGREEMENT_WORDS]) {
        self.agreement.set_twofold(&words);
    }

    /// What was agreed on.
    pub fn agreement(&self) -> Option<[u64; AGREEMENT_WORDS]> {
        self.agreement.get(|sealed| std::array::from_fn(|index| sealed[index].load(Ordering::Relaxed)))
    }

    /// Saves a blob.
    ///
    /// # Panics
    /// If it is longer than [`BLOB_MAX`].
    pub fn save_blob(&self, blob: &[u8]) {
        save_bytes(&self.blob, blob, BLOB_MAX, BLOB.sealed());
    }

    /// The blob; empty if none was saved.
    pub fn blob(&self) -> Vec<u8> {
        saved_bytes(&self.blob, BLOB_MAX)
    }

    /// Whether there is room for several sources.
    pub fn is_of_several(&self) -> bool {
        self.of_several.is_some()
    }

    /// Saves what is known of several sources.
    ///
    /// # Panics
    /// If it is longer than [`SOURCES_BYTES_MAX`], or there is no room for several.
    pub fn save_sources(&self, sources: &[u8]) {
        let of_several = self.of_several.as_ref().expect("a session of several sources");
        save_bytes(&of_several.sources, sources, SOURCES_BYTES_MAX, SOURCES.sealed());
    }

    /// What is known of several sources; empty if nothing was saved.
    pub fn sources(&self) -> Vec<u8> {
        self.of_several.as_ref().map_or(Vec::new(), |of_several| saved_bytes(&of_several.sources, SOURCES_BYTES_MAX))
    }

    /// The ports that have this connection's, and its number there.
    fn ports_of(&self, connection: usize) -> Option<(&Ports, usize)> {
        match connection.checked_sub(PORTS_OF_ONE) {
            None => Some((&self.ports, connection)),
            Some(further) => Some((&self.of_several.as_ref()?.ports, further)),
        }
    }

    /// Saves the source port of a connection. Ignored for connections beyond those that there is room for.
    pub fn save_source_port(&self, connection: usize, port: u16) {
        if let Some((ports, connection)) = self.ports_of(connection) {
            ports.save(connection, port);
        }
    }

    /// The source port that a connection had last.
    pub fn source_port(&self, connection: usize) -> Option<u16> {
        let (ports, connection) = self.ports_of(connection)?;
        ports.get(connection)
    }
}

fn save_bytes(pair: &Pair, bytes: &[u8], bytes_max: usize, words: usize) {
    assert!(bytes.len() <= bytes_max, "{} bytes to be saved", bytes.len());
    let mut sealed = vec![0; words];
    sealed[0] = bytes.len() as u64;
    pack(bytes, &mut sealed[1..]);
    pair.set_twofold(&sealed);
}

fn saved_bytes(pair: &Pair, bytes_max: usize) -> Vec<u8> {
    let decode =
        |sealed: &[AtomicU64]| unpack(&sealed[1..], (sealed[0].load(Ordering::Relaxed) as usize).min(bytes_max));
    pair.get(decode).unwrap_or_default()
}

/// Source ports of connections.
struct Ports {
    pair: Pair,
    count_max: usize,
    /// Guards them against two writers.
    saving: Mutex<()>,
}

impl Ports {
    fn open(header: &Header, format: &Format, count_max: usize) -> io::Result<(Ports, u64)> {
        let (pair, damaged) = Pair::open(header.region(format)?)?;
        Ok((Ports { pair, count_max, saving: Mutex::default() }, damaged))
    }

    fn words(&self) -> Option<Vec<u64>> {
        let count = self.count_max / PORTS_PER_WORD;
        self.pair.get(|sealed| sealed.iter().take(count).map(|word| word.load(Ordering::Relaxed)).collect())
    }

    fn save(&self, connection: usize, port: u16) {
        if connection >= self.count_max || self.get(connection) == Some(port) {
            return;
        }
        let _one = self.saving.lock().expect("ports lock");
        let mut words = self.words().unwrap_or_else(|| vec![0; self.count_max / PORTS_PER_WORD]);
        let shift = 16 * (connection % PORTS_PER_WORD);
        let word = &mut words[connection / PORTS_PER_WORD];
        *word = *word & !(0xffff << shift) | u64::from(port) << shift;
        self.pair.set(&words);
    }

    fn get(&self, connection: usize) -> Option<u16> {
        let word = *self.words()?.get(connection / PORTS_PER_WORD)?;
        let port = (word >> (16 * (connection % PORTS_PER_WORD))) as u16;
        (port != 0).then_some(port)
    }
}
