//! The URL of a dataset: `nfs://host[:port]/path[?mountport=N]`, and `nfs://host:/path` as in `host:/path` of mount(8).
//!
//! A URL names a place and nothing else: no user, no options. What it does not understand it refuses, so that a typing
//! error or an injected option never becomes a mount of something else. Nothing is percent-decoded: the path is taken
//! as it stands, because directories on a NAS have names with `%` in them.

/// Longest path of an export (MNTPATHLEN of RFC 1813, section 5.1.1).
const PATH_MAX: usize = 1024;
/// Longest host name (RFC 1035, section 2.3.4).
const HOST_MAX: usize = 253;

/// A parsed URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// Name, IPv4 or IPv6 address, without brackets.
    pub host: String,
    /// NFS port, if it is named.
    pub port: Option<u16>,
    /// MOUNT port, if it is named.
    pub mount_port: Option<u16>,
    /// Absolute, without empty, `.` and `..` components, without a slash at its end.
    pub path: String,
}

/// Parses `url`; the error is a sentence for a person.
pub fn parse_url(url: &str) -> Result<Url, String> {
    if url.chars().any(char::is_control) {
        return Err("the URL holds a control character".into());
    }
    let rest = url.strip_prefix("nfs://").ok_or_else(|| format!("{url:?} does not begin with nfs://"))?;
    if rest.contains('#') {
        return Err(format!("{url:?} holds a fragment (#...), which means nothing here"));
    }
    let (place, query) = rest.split_once('?').map_or((rest, None), |(place, query)| (place, Some(query)));
    let slash = place.find('/').ok_or_else(|| format!("{url:?} names no path: nfs://host/path"))?;
    let (authority, path) = place.split_at(slash);
    if authority.contains('@') {
        return Err(format!("{url:?} names a user, which NFSv3 does not use"));
    }
    let (host, port) = parse_authority(authority).map_err(|why| format!("{url:?}: {why}"))?;
    let path = parse_path(path).map_err(|why| format!("{url:?}: {why}"))?;
    let mount_port = query.map(parse_query).transpose().map_err(|why| format!("{url:?}: {why}"))?;
    Ok(Url { host, port, mount_port, path })
}

fn parse_authority(authority: &str) -> Result<(String, Option<u16>), String> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or("a bracket is not closed")?;
            let address: std::net::Ipv6Addr = host.parse().map_err(|_| format!("{host:?} is not an IPv6 address"))?;
            let port = match port.strip_prefix(':') {
                None if port.is_empty() => None,
                None => return Err(format!("{port:?} behind the address is not understood")),
                port => port,
            };
            (address.to_string(), port)
        }
        None => match authority.split_once(':') {
            Some((_, port)) if port.contains(':') => return Err("an IPv6 address needs brackets".into()),
            Some((host, port)) => (host.to_owned(), Some(port)),
            None => (authority.to_owned(), None),
        },
    };
    let allowed = |char: char| char.is_ascii_alphanumeric() || matches!(char, '.' | '-' | '_' | ':');
    if host.is_empty() || host.len() > HOST_MAX || !host.chars().all(allowed) || host.starts_with('-') {
        return Err(format!("{host:?} is not a host name"));
    }
    let port = port.filter(|port| !port.is_empty()).map(parse_port).transpose()?;
    Ok((host, port))
}

fn parse_port(port: &str) -> Result<u16, String> {
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let number = port.parse().ok().filter(|number| digits && *number != 0);
    number.ok_or_else(|| format!("{port:?} is not a port: 1 to 65535"))
}

fn parse_path(path: &str) -> Result<String, String> {
    let mut clean = String::with_capacity(path.len());
    for component in path.split('/').filter(|component| !component.is_empty()) {
        if component == ".." || component == "." {
            return Err(format!("the path holds a {component:?} component"));
        }
        clean.push('/');
        clean.push_str(component);
    }
    if clean.len() > PATH_MAX {
        return Err(format!("the path is longer than {PATH_MAX} bytes"));
    }
    Ok(if clean.is_empty() { "/".into() } else { clean })
}

fn parse_query(query: &str) -> Result<u16, String> {
    let port = query.strip_prefix("mountport=");
    parse_port(port.ok_or_else(|| format!("{query:?} is not understood: only mountport=N is"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(host: &str, port: Option<u16>, mount_port: Option<u16>, path: &str) -> Url {
        Url { host: host.into(), port, mount_port, path: path.into() }
    }

    #[test]
    fn all_forms() {
        assert_eq!(parse_url("nfs://nas/a/b"), Ok(url("nas", None, None, "/a/b")));
        assert_eq!(parse_url("nfs://nas:/a"), Ok(url("nas", None, None, "/a")));
        assert_eq!(parse_url("nfs://10.0.0.1:20049//a/"), Ok(url("10.0.0.1", Some(20049), None, "/a")));
        assert_eq!(parse_url("nfs://[fe80::1]/"), Ok(url("fe80::1", None, None, "/")));
        assert_eq!(parse_url("nfs://[::1]:2049/x?mountport=20048"), Ok(url("::1", Some(2049), Some(20048), "/x")));
        assert_eq!(parse_url("nfs://nas/a b/100%/%2e%2e"), Ok(url("nas", None, None, "/a b/100%/%2e%2e")));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for bad in [
            "",
            "nas:/a",
            "http://nas/a",
            "nfs://nas",
            "nfs:///a",
            "nfs://u@nas/a",
            "nfs://nas/a#b",
            "nfs://nas/a?ro",
            "nfs://nas/a?mountport=",
            "nfs://nas/a?mountport=1&x=2",
            "nfs://nas/../etc",
            "nfs://nas/a/..",
            "nfs://nas/./a",
            "nfs://nas:0/a",
            "nfs://nas:65536/a",
            "nfs://nas:+1/a",
            "nfs://nas:x/a",
            "nfs://::1/a",
            "nfs://[::1/a",
            "nfs://[nas]/a",
            "nfs://[::1]x/a",
            "nfs://na s/a",
            "nfs://-o/a",
            "nfs://nas/a\0b",
            "nfs://nas/a\nb",
        ] {
            assert!(parse_url(bad).is_err(), "{bad:?}");
        }
        assert!(parse_url(&format!("nfs://nas/{}", "x".repeat(PATH_MAX))).is_err());
    }
}
