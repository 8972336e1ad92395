//! The certificates that are given for one port.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use rustls::{server::ParsedCertificate, sign::CertifiedKey};

use super::{app::Agreed, finding::Means};
use redir_config::certificates::Pair;

/// See the module. A newer one takes its place when a file changes.
pub(crate) struct Given {
    pairs: Vec<Pair>,
    keys: Vec<Arc<CertifiedKey>>,
    /// Those before the newest change: an app may show its old certificate until it is restarted.
    before: Vec<Arc<CertifiedKey>>,
    /// The app asks for client certificates: it is not tried again.
    asks: AtomicBool,
}

impl Given {
    /// These pairs; `before` are what they replace.
    pub(super) fn new(pairs: &[Pair], before: Option<&Given>) -> Self {
        // Whoever gave them has checked them.
        let keys = pairs.iter().filter_map(|pair| pair.certified().ok()).collect();
        let before = before.map(|before| before.keys.clone()).unwrap_or_default();
        Given { pairs: pairs.to_vec(), keys, before, asks: AtomicBool::new(false) }
    }

    /// Whether it was made of these.
    pub(super) fn is(&self, pairs: &[Pair]) -> bool {
        self.pairs == pairs
    }

    /// Whether anything can be decrypted with it.
    pub(crate) fn means(&self) -> Means {
        if self.keys.is_empty() { Means::Unusable } else { Means::Certificate }
    }

    /// The key of the certificate that the app has shown, if it is one of these: then the agent may stand in for it.
    pub(crate) fn signer(&self, agreed: &Agreed) -> Option<Arc<CertifiedKey>> {
        let shown = ParsedCertificate::try_from(agreed.chain.first()?).ok()?.subject_public_key_info();
        let same = |given: &&Arc<CertifiedKey>| given.key.public_key().as_ref() == Some(&shown);
        self.keys.iter().chain(&self.before).find(same).cloned()
    }

    /// The app has asked for a client certificate.
    pub(crate) fn asks(&self) -> bool {
        self.asks.load(Ordering::Relaxed)
    }

    /// Remembers that, or forgets it.
    pub(crate) fn note_asking(&self, asks: bool) {
        self.asks.store(asks, Ordering::Relaxed);
    }

    /// A name that one of the certificates is for.
    pub(super) fn name(&self) -> Option<String> {
        let leaf = self.keys.first()?.cert.first()?;
        let leaf = webpki::EndEntityCert::try_from(leaf).ok()?;
        leaf.valid_dns_names().find(|name| !name.starts_with('*')).map(str::to_owned)
    }
}
