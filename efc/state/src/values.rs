//! Single values: what the session's ends have agreed on, what the daemon knows of its server, and the ports that it
//! came from.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::layout::Header;
use super::mapping::WORD;
use super::pair::Pair;
use super::record::{pack, unpack};
use super::regions::{AGREEMENT, BLOB, PORTS};

/// Words of an agreement.
pub const AGREEMENT_WORDS: usize = 3;
/// Largest blob, in bytes.
pub const BLOB_MAX: usize = 4000;
/// Connections whose ports are remembered.
const PORTS_MAX: usize = 64;
/// Ports in a word.
const PORTS_PER_WORD: usize = 4;

const _: () = assert!(AGREEMENT.sealed() >= AGREEMENT_WORDS);
const _: () = assert!((BLOB.sealed() - 1) * WORD >= BLOB_MAX);
const _: () = assert!(PORTS.sealed() >= PORTS_MAX / PORTS_PER_WORD);

/// All values.
pub struct Values {
    agreement: Pair,
    blob: Pair,
    ports: Pair,
    /// Guards the ports against two writers.
    saving_ports: Mutex<()>,
}

impl Values {
    /// Finds the values; also says how many records are damaged.
    pub fn open(header: &Header) -> io::Result<(Values, u64)> {
        let (blob, damaged_blobs) = Pair::open_twofold(header.region(&BLOB)?)?;
        let (agreement, damaged_agreements) = Pair::open_twofold(header.region(&AGREEMENT)?)?;
        let (ports, damaged_ports) = Pair::open(header.region(&PORTS)?)?;
        let values = Values { agreement, blob, ports, saving_ports: Mutex::default() };
        Ok((values, damaged_blobs + damaged_agreements + damaged_ports))
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
        assert!(blob.len() <= BLOB_MAX, "a blob of {} bytes", blob.len());
        let mut sealed = [0; BLOB.sealed()];
        sealed[0] = blob.len() as u64;
        pack(blob, &mut sealed[1..]);
        self.blob.set_twofold(&sealed);
    }

    /// The blob; empty if none was saved.
    pub fn blob(&self) -> Vec<u8> {
        let decode =
            |sealed: &[AtomicU64]| unpack(&sealed[1..], (sealed[0].load(Ordering::Relaxed) as usize).min(BLOB_MAX));
        self.blob.get(decode).unwrap_or_default()
    }

    /// Saves the source port of a connection. Ignored for connections beyond the first 64.
    pub fn save_source_port(&self, connection: usize, port: u16) {
        if connection >= PORTS_MAX || self.source_port(connection) == Some(port) {
            return;
        }
        let _one = self.saving_ports.lock().expect("ports lock");
        let mut words = self.ports.get(ports).unwrap_or([0; PORTS_MAX / PORTS_PER_WORD]);
        let shift = 16 * (connection % PORTS_PER_WORD);
        let word = &mut words[connection / PORTS_PER_WORD];
        *word = *word & !(0xffff << shift) | u64::from(port) << shift;
        self.ports.set(&words);
    }

    /// The source port that a connection had last.
    pub fn source_port(&self, connection: usize) -> Option<u16> {
        let words = self.ports.get(ports)?;
        let port = (words.get(connection / PORTS_PER_WORD)? >> (16 * (connection % PORTS_PER_WORD))) as u16;
        (port != 0).then_some(port)
    }
}

fn ports(sealed: &[AtomicU64]) -> [u64; PORTS_MAX / PORTS_PER_WORD] {
    std::array::from_fn(|index| sealed[index].load(Ordering::Relaxed))
}
