//! The certificates of the pods' apps, by pod and port: what the worker decrypts with.
//!
//! Owns their form and what makes a pair of certificate and key usable. Does not know where they come from: the static
//! configuration's files are read by the guardian (`guardian::tls_files`), and another control plane fills the same
//! [`Certificates`]. `Debug` shows no key.

mod validity;

use std::{collections::BTreeMap, fmt, sync::Arc};

use rustls::{
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use serde::{Deserialize, Serialize};

use crate::PodName;

pub use validity::{CertificateValidity, UtcTime};

/// What is given for each port. A port with an empty list has certificates that cannot be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificates(pub BTreeMap<(PodName, u16), Vec<Pair>>);

/// A certificate with its chain, and its private key, in PEM.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// The certificate, its chain behind it.
    pub chain: String,
    /// The private key.
    pub key: String,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pair(..)")
    }
}

impl Pair {
    /// Of both texts.
    pub fn bytes(&self) -> usize {
        self.chain.len() + self.key.len()
    }

    /// The pair as rustls uses it: parsed, and the key is the certificate's.
    pub fn certified(&self) -> Result<Arc<CertifiedKey>, CertificateFlaw> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(self.chain.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|_| CertificateFlaw::NoCertificate)?;
        if chain.is_empty() {
            return Err(CertificateFlaw::NoCertificate);
        }
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(|_| CertificateFlaw::NoKey)?;
        let key = ring::sign::any_supported_type(&key).map_err(|_| CertificateFlaw::UnknownKey)?;
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            Ok(()) => Ok(Arc::new(certified)),
            Err(rustls::Error::InconsistentKeys(_)) => Err(CertificateFlaw::Mismatch),
            Err(_) => Err(CertificateFlaw::NoCertificate),
        }
    }
}

/// Why a pair cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateFlaw {
    /// No certificate, or one that is malformed.
    NoCertificate,
    /// No private key, or an encrypted one.
    NoKey,
    /// A key that is neither RSA, ECDSA on P-256 or P-384, nor Ed25519.
    UnknownKey,
    /// The key is another certificate's.
    Mismatch,
}

/// One certificate on its way to the worker.
#[derive(Serialize, Deserialize)]
struct WireCertificate {
    pod: String,
    port: u16,
    pairs: Vec<Pair>,
}

impl Certificates {
    /// The bytes that go to the worker.
    pub fn encode(&self) -> Vec<u8> {
        let entries: Vec<_> = self
            .0
            .iter()
            .map(|((pod, port), pairs)| WireCertificate { pod: pod.to_string(), port: *port, pairs: pairs.clone() })
            .collect();
        serde_json::to_vec(&entries).expect("texts and numbers have a JSON form")
    }

    /// Reads what [`Certificates::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let entries: Vec<WireCertificate> = serde_json::from_slice(bytes).ok()?;
        let entries =
            entries.into_iter().map(|entry| Some(((PodName::new(&entry.pod).ok()?, entry.port), entry.pairs)));
        entries.collect::<Option<_>>().map(Self)
    }
}

/// For tests of this crate and of others.
#[cfg(any(test, feature = "testing"))]
pub mod testing {
    use super::Pair;

    /// A self-signed certificate for this name, and its key.
    ///
    /// # Panics
    ///
    /// If none can be made.
    pub fn pair(name: &str) -> Pair {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        Pair { chain: made.cert.pem(), key: made.signing_key.serialize_pem() }
    }
}

#[cfg(test)]
mod tests {
    use super::{testing::pair, *};

    #[test]
    fn a_pair_is_usable_or_its_flaw_is_named() {
        let (one, other) = (pair("web.test"), pair("web.test"));
        let certified = one.certified().expect("usable");
        assert_eq!(certified.cert.len(), 1);
        let chained = Pair { chain: one.chain.clone() + &other.chain, ..one.clone() };
        assert_eq!(chained.certified().expect("usable").cert.len(), 2);
        let flaw = |chain: &str, key: &str| {
            Pair { chain: chain.to_owned(), key: key.to_owned() }.certified().expect_err("flawed")
        };
        assert_eq!(flaw("", &one.key), CertificateFlaw::NoCertificate);
        assert_eq!(flaw(&one.key, &one.key), CertificateFlaw::NoCertificate);
        assert_eq!(
            flaw("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &one.key),
            CertificateFlaw::NoCertificate
        );
        assert_eq!(flaw("-----BEGIN CERTIFICATE-----\n\u{1}\n", &one.key), CertificateFlaw::NoCertificate);
        assert_eq!(flaw(&one.chain, &one.chain), CertificateFlaw::NoKey);
        assert_eq!(flaw(&one.chain, &one.key.replace("PRIVATE", "ENCRYPTED PRIVATE")), CertificateFlaw::NoKey);
        assert_eq!(
            flaw(&one.chain, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
            CertificateFlaw::UnknownKey
        );
        assert_eq!(flaw(&one.chain, &other.key), CertificateFlaw::Mismatch);
    }

    #[test]
    fn both_may_be_in_one_file() {
        let one = pair("web.test");
        let both = one.key.clone() + &one.chain;
        assert!(Pair { chain: both.clone(), key: both }.certified().is_ok());
    }

    #[test]
    fn they_come_to_the_worker_as_they_were_and_show_no_key() {
        let name = |name| PodName::new(name).expect("good");
        let given = Certificates(BTreeMap::from([
            ((name("web-1"), 8443), vec![pair("a.test"), pair("b.test")]),
            ((name("web-1"), 9443), vec![]),
        ]));
        assert_eq!(Certificates::decode(&given.encode()), Some(given.clone()));
        assert_eq!(Certificates::decode(b"{}"), None);
        assert!(!format!("{given:?}").contains("BEGIN"));
    }
}
