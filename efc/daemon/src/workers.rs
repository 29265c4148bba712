//! The workers of the dataset, as its options name them.

use std::io;
use std::sync::Arc;

use efc_buffer::Budget;
use efc_proto::{CacheStats, DaemonConfig, WorkersSecrets};
use efc_workers::{DataSetKey, Endpoint, Settings, Tls, WorkerState, Workers};

/// The workers, if there is a key for what lies there.
///
/// # Errors
/// `InvalidInput`: the key or the files of TLS are not what they should be. Others: there is no thread for them.
pub fn workers(
    config: &DaemonConfig,
    (secrets, file): (&WorkersSecrets, &[u8]),
    budget: &Budget,
) -> io::Result<Option<Arc<Workers>>> {
    let Some(cache) = config.cache.as_ref().filter(|cache| !cache.workers_key.is_empty()) else { return Ok(None) };
    let key = key(&secrets.key).ok_or_else(|| {
        let what = "cannot be read, or does not hold 64 hexadecimal digits";
        invalid(format!("workers-key: {} {what}", cache.workers_key))
    })?;
    let tls = match cache.workers_tls.as_str() {
        "" => None,
        path => Some(tls(secrets).map_err(|error| invalid(format!("workers-tls: {path}: {error}")))?),
    };
    let server = config.source.as_ref().map(|source| format!("{}:{}", source.host, source.port)).unwrap_or_default();
    let settings =
        Settings { key: key.of_server(&server), budget: budget.clone(), tls, wait_max: efc_workers::health::WAIT_MAX };
    let workers = Workers::new(settings)?;
    workers.follow(endpoints(config, file));
    Ok(Some(Arc::new(workers)))
}

fn key(text: &[u8]) -> Option<DataSetKey> {
    DataSetKey::parse(std::str::from_utf8(text).ok()?)
}

fn tls(secrets: &WorkersSecrets) -> Result<Tls, String> {
    let files = [(&secrets.authority, "ca.crt"), (&secrets.certificate, "tls.crt"), (&secrets.private_key, "tls.key")];
    let tls = match files.iter().find(|(content, _)| content.is_empty()) {
        Some((_, name)) => return Err(format!("{name} cannot be read, or is empty")),
        None => Tls::new(&secrets.authority, &secrets.certificate, &secrets.private_key)?,
    };
    match &secrets.server_name[..] {
        b"" => Ok(tls),
        name => {
            tls.with_server_name(String::from_utf8_lossy(name).trim()).map_err(|error| format!("server-name: {error}"))
        }
    }
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

fn option(config: &DaemonConfig) -> &str {
    config.cache.as_ref().map_or("", |cache| &cache.workers)
}

/// Does the option name a file that says where the workers listen?
pub fn names_file(config: &DaemonConfig) -> bool {
    option(config).starts_with('/')
}

/// Where the workers listen, by the option, or by the `file` that it names. What names none is left out, and the log says so once for each
/// line.
///
/// The file has them in lines, or between blanks or `+`; what follows a `#` in a line is for people.
pub fn endpoints(config: &DaemonConfig, file: &[u8]) -> Vec<Endpoint> {
    let (found, wrong) = parsed(option(config), &String::from_utf8_lossy(file));
    wrong.iter().for_each(|wrong| log::error!("workers: {wrong}"));
    found
}

/// The endpoints, and what is wrong with each line that has something else, too.
fn parsed(option: &str, file: &str) -> (Vec<Endpoint>, Vec<String>) {
    let (mut found, mut wrong) = (Vec::new(), Vec::new());
    let names_file = option.starts_with('/');
    let text = if names_file { file } else { option };
    for (line, number) in text.lines().zip(1..) {
        let names = line.split('#').next().unwrap_or_default();
        let names = names.split(|letter: char| letter == '+' || letter.is_whitespace());
        let mut first_error = None;
        for name in names.filter(|name| !name.is_empty()) {
            match name.parse() {
                Ok(endpoint) => found.push(endpoint),
                Err(error) => drop(first_error.get_or_insert(error)),
            }
        }
        let place = if names_file { format!("{option}, line {number} ({line:?}): ") } else { String::new() };
        wrong.extend(first_error.map(|error: String| place + &error));
    }
    (found, wrong)
}

/// Adds what this node knows of the workers.
pub fn add_figures(stats: &mut CacheStats, workers: &Workers) {
    for worker in workers.figures() {
        stats.workers += 1;
        let counts = &worker.counts;
        stats.workers_refused += counts.refused_blocks;
        stats.workers_misses += counts.misses;
        stats.workers_filled_bytes += counts.fill_bytes;
        stats.workers_unfilled_overtaken += counts.fills_overtaken;
        stats.workers_unfilled_full += counts.fills_failed;
        stats.workers_unfilled_memory += counts.fills_without_budget;
        stats.workers_unfilled_busy += counts.fills_unsent;
        if worker.state == WorkerState::Serving {
            stats.workers_ready += 1;
            stats.workers_capacity_bytes += worker.capacity_bytes;
            stats.workers_held_bytes += worker.held_bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use efc_proto::CacheConfig;

    use super::*;

    #[test]
    fn endpoints_are_those_of_the_option_or_of_its_file() {
        let of = |workers: &str, file: &str| {
            let cache = Some(CacheConfig { workers: workers.into(), ..Default::default() });
            let found = endpoints(&DaemonConfig { cache, ..Default::default() }, file.as_bytes());
            found.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(of("a:1+b:2*3", "c:4"), "a:1 b:2*3");
        assert_eq!(
            of("/file", "# all of them\na:1\n\n  b:2*3 # the large one\nc:4+d:5 e:6\nnonsense\n"),
            "a:1 b:2*3 c:4 d:5 e:6"
        );
        assert_eq!((of("/file", ""), of("", "a:1")), (String::new(), String::new()));
    }

    #[test]
    fn a_bad_line_is_named_once_and_whole() {
        let (found, wrong) = parsed("/etc/workers", "a:1\nthis is bad b:2\nc:3\n");
        assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a:1", "b:2", "c:3"]);
        let expected = "/etc/workers, line 2 (\"this is bad b:2\"): this: it has no port; HOST:PORT or HOST:PORT*WEIGHT is expected";
        assert_eq!(wrong, [expected]);
        assert_eq!(parsed("nonsense", "").1, ["nonsense: it has no port; HOST:PORT or HOST:PORT*WEIGHT is expected"]);
    }
}
