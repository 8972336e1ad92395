//! Kubernetes' versions. The one that a cluster has unless another is asked for stands in `local/go/kubernetes/go.mod`, and
//! nowhere else.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

/// The oldest minor version that redir is made for: its admission policies are served from there on.
const OLDEST_MINOR: u32 = 30;

/// `1.37.2`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct KubernetesVersion {
    pub(super) minor: u32,
    pub(super) patch: u32,
}

impl KubernetesVersion {
    /// The version whose modules are in the tree.
    pub(crate) fn in_tree() -> KubernetesVersion {
        static VERSION: LazyLock<KubernetesVersion> = LazyLock::new(|| {
            let mut lines = include_str!("local/go/kubernetes/go.mod").lines();
            let version = lines.find_map(|line| line.strip_prefix("require k8s.io/kubernetes v"));
            version.and_then(|version| version.parse().ok()).expect("go.mod requires one version of Kubernetes")
        });
        *VERSION
    }
}

impl FromStr for KubernetesVersion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut numbers = text.split('.').map(|number| number.parse::<u32>().ok().filter(|_| is_plain(number)));
        let version =
            match (numbers.next().flatten(), numbers.next().flatten(), numbers.next().flatten(), numbers.next()) {
                (Some(1), Some(minor), Some(patch), None) => KubernetesVersion { minor, patch },
                _ => return Err("write a release of Kubernetes as 1.MINOR.PATCH, for example 1.34.4".into()),
            };
        if version.minor < OLDEST_MINOR {
            return Err(format!("redir is made for Kubernetes 1.{OLDEST_MINOR} and newer"));
        }
        Ok(version)
    }
}

/// `4`, and neither `+4` nor `04`.
fn is_plain(number: &str) -> bool {
    number.bytes().all(|byte| byte.is_ascii_digit()) && (number == "0" || !number.starts_with('0'))
}

impl fmt::Display for KubernetesVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1.{}.{}", self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_read_and_nothing_else() {
        let version: KubernetesVersion = "1.34.4".parse().unwrap();
        assert_eq!((version.minor, version.patch, version.to_string()), (34, 4, "1.34.4".into()));
        for text in ["", "1.34", "v1.34.4", "1.34.4.1", "2.1.0", "1.38.0-beta.0", "1.+34.4", "1.034.4", "latest"] {
            assert!(text.parse::<KubernetesVersion>().unwrap_err().contains("1.MINOR.PATCH"), "{text}");
        }
        assert!("1.29.6".parse::<KubernetesVersion>().unwrap_err().contains("1.30"));
    }

    #[test]
    fn the_document_names_the_version_in_the_tree() {
        let page = include_str!("../../../CONTRIBUTING.md");
        assert!(page.contains(&format!("compiles Kubernetes\n{},", KubernetesVersion::in_tree())));
    }

    /// Kubernetes' own parts are published with the same minor and patch.
    #[test]
    fn every_part_in_the_tree_has_the_version_of_the_whole() {
        let version = KubernetesVersion::in_tree();
        let published = format!("v0.{}.{}", version.minor, version.patch);
        let go_mod = include_str!("local/go/kubernetes/go.mod");
        let replaced: Vec<&str> = go_mod.lines().filter(|line| line.contains(" => ")).collect();
        assert!(replaced.len() > 25, "{replaced:?}");
        for part in replaced {
            assert_eq!(part.split(' ').next_back(), Some(published.as_str()), "{part}");
        }
    }
}
