//! The address of a worker, as an option or a file names it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Where a worker listens, and how many blocks it gets beside others: `HOST:PORT`, or `HOST:PORT*WEIGHT`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// A name, or an address; one of IPv6 without brackets.
    pub host: String,
    /// TCP.
    pub port: u16,
    /// Its part beside those of other workers; 1 unless it is given.
    pub weight: u32,
}

/// The largest weight.
const WEIGHT_MAX: u32 = 1_000_000;

impl Endpoint {
    /// `HOST:PORT`: by this its place among the workers is drawn, so all nodes must write it alike.
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address())?;
        if self.weight == 1 { Ok(()) } else { write!(f, "*{}", self.weight) }
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Endpoint, String> {
        let wrong = |what: &str| format!("{text}: {what}; HOST:PORT or HOST:PORT*WEIGHT is expected");
        let (address, weight) = text.split_once('*').unwrap_or((text, "1"));
        let (host, port) = address.rsplit_once(':').ok_or_else(|| wrong("it has no port"))?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(inner) if matches!(inner.parse(), Ok(IpAddr::V6(_))) => inner,
            None if is_name(host) => host,
            _ => return Err(wrong("that is no host")),
        };
        let port =
            number(port).filter(|port| (1..=u16::MAX.into()).contains(port)).ok_or_else(|| wrong("that is no port"))?;
        let weight = number(weight).filter(|weight| (1..=WEIGHT_MAX).contains(weight));
        let weight = weight.ok_or_else(|| wrong("a weight is a number from 1 to 1000000"))?;
        Ok(Endpoint { host: host.to_ascii_lowercase(), port: port as u16, weight })
    }
}

fn is_name(host: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    !host.is_empty() && host.len() <= 253 && host.bytes().all(is_part)
}

fn number(digits: &str) -> Option<u32> {
    if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_and_written() {
        for (text, host, port, weight) in [
            ("10.0.0.1:11211", "10.0.0.1", 11211, 1),
            ("w-0.workers.svc:1*20", "w-0.workers.svc", 1, 20),
            ("[fd00::1]:65535", "fd00::1", 65535, 1),
        ] {
            let endpoint: Endpoint = text.parse().expect(text);
            assert_eq!(endpoint, Endpoint { host: host.into(), port, weight });
            assert_eq!(endpoint.to_string(), text);
        }
        assert_eq!("Worker:7*1".parse::<Endpoint>().expect("good").to_string(), "worker:7");
    }

    #[test]
    fn what_is_no_endpoint_is_refused() {
        for text in [
            "",
            "host",
            ":1",
            "host:",
            "host:0",
            "host:65536",
            "host:+1",
            "host:1*",
            "host:1*0",
            "host:1*1000001",
            "fd00::1:7",
            "[host]:1",
            "a b:1",
            "a/b:1",
            "host:1*2*3",
            "[fd00::1:1",
        ] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }
}
