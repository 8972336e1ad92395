//! The name of a pod, as the configuration or the API server has it.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Which pod: by its name in the configuration (1 to 253 visible ASCII characters without `/`, `,` and `=`), or in
/// Kubernetes by its UID, which no other pod ever has, together with what people call it.
#[derive(Debug, Clone)]
pub struct PodName {
    key: Arc<str>,
    shown: Arc<str>,
}

impl PodName {
    /// Longest key, in bytes: a DNS name, as Kubernetes has them.
    pub const MAX: usize = 253;

    /// Checks a name, or the key of one.
    pub fn new(name: &str) -> Result<Self, &'static str> {
        let visible = name.bytes().all(|byte| byte.is_ascii_graphic() && !b"/,=".contains(&byte));
        if name.is_empty() || name.len() > Self::MAX || !visible {
            return Err("a pod's name is 1 to 253 letters, digits or marks, without spaces, `/`, `,` and `=`");
        }
        let key: Arc<str> = name.into();
        Ok(Self { shown: key.clone(), key })
    }

    /// A pod of Kubernetes.
    pub fn of_uid(uid: &str, namespace: &str, name: &str) -> Result<Self, &'static str> {
        let Self { key, .. } = Self::new(uid)?;
        Ok(Self { key, shown: format!("{namespace}/{name}").into() })
    }

    /// What tells it from every other pod.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Its name alone, as its developers say it: they know the namespace.
    pub fn bare(&self) -> &str {
        self.shown.rsplit_once('/').map_or(&*self.shown, |(_, name)| name)
    }
}

/// Between the agent's own processes: the key, and what people call it.
impl Serialize for PodName {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        (&*self.key, &*self.shown).serialize(to)
    }
}

impl<'de> Deserialize<'de> for PodName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let (key, shown) = <(String, String)>::deserialize(from)?;
        let name = Self::new(&key).map_err(D::Error::custom)?;
        if shown.len() > 2 * Self::MAX + 1 {
            return Err(D::Error::custom("a pod is called by at most its namespace and name"));
        }
        Ok(Self { shown: shown.into(), ..name })
    }
}

impl PartialEq for PodName {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for PodName {}

impl PartialOrd for PodName {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for PodName {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key.cmp(&other.key)
    }
}

impl std::hash::Hash for PodName {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.key.hash(state);
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}
