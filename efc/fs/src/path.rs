//! Paths as the command line gives them: relative to the URL's directory, and never out of it.

use crate::error::Failure;

/// Components below the URL's directory; none means that directory itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    components: Vec<Vec<u8>>,
}

impl Path {
    /// Takes `""`, `"."` and `"a/b"`; refuses absolute paths and empty, `.` and `..` components instead of guessing.
    pub fn parse(path: &[u8]) -> Result<Path, Failure> {
        if path.is_empty() || path == b"." {
            return Ok(Path { components: Vec::new() });
        }
        let refused = |why| Failure::invalid(format!("the path {:?} {why}", String::from_utf8_lossy(path)));
        if path[0] == b'/' {
            return Err(refused("is absolute: give it relative to the URL's directory"));
        }
        if path.contains(&0) {
            return Err(refused("holds a NUL byte"));
        }
        let components: Vec<_> = path.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect();
        if components.iter().any(|component| matches!(&component[..], b"" | b"." | b"..")) {
            return Err(refused("holds an empty, . or .. component"));
        }
        Ok(Path { components })
    }

    /// All components.
    pub fn components(&self) -> &[Vec<u8>] {
        &self.components
    }

    /// The parent's components and the last name; refuses the URL's directory itself.
    pub fn split(&self) -> Result<(&[Vec<u8>], &[u8]), Failure> {
        let (name, parent) = self.components.split_last().ok_or_else(|| {
            Failure::invalid("this needs a path below the URL's directory, not that directory itself")
        })?;
        Ok((parent, name))
    }
}

impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.components.is_empty() {
            return f.write_str(".");
        }
        f.write_str(&String::from_utf8_lossy(&self.components.join(&b'/')))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_below_the_directory_are_taken() {
        for root in [&b""[..], b"."] {
            assert_eq!(Path::parse(root).unwrap().components().len(), 0);
            assert!(Path::parse(root).unwrap().split().is_err());
        }
        let path = Path::parse(b"a/...b/ c\xff").unwrap();
        let (parent, name) = path.split().unwrap();
        assert_eq!((parent, name), (&[b"a".to_vec(), b"...b".to_vec()][..], &b" c\xff"[..]));
    }

    #[test]
    fn everything_else_is_refused() {
        for bad in [&b"/"[..], b"/a", b"..", b"a/..", b"../a", b"a/../b", b"a//b", b"a/", b"./a", b"a/.", b"a\0b"] {
            let failure = Path::parse(bad).unwrap_err();
            assert_eq!((failure.code, failure.errno), ("INVALID_ARGUMENT", "EINVAL"), "{bad:?}");
        }
    }
}
