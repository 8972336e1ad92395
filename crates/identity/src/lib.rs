//! A private key and its file: Ed25519, PKCS#8, PEM, readable by its owner alone.

mod pin;

use std::{
    fmt,
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use rustls::pki_types::pem::PemObject as _;
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::{CertifiedKey, SigningKey},
};

pub use pin::{Pin, PinError};

/// An Ed25519 private key with its public half. `Debug` shows the pin alone.
#[derive(Clone)]
pub struct Identity {
    pkcs8: Arc<[u8]>,
    signer: Arc<dyn SigningKey>,
    spki: Vec<u8>,
    pin: Pin,
}

impl Identity {
    /// A fresh key from the system's random numbers.
    pub fn generate() -> Result<Self, IdentityError> {
        let random = ring::rand::SystemRandom::new();
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&random).map_err(|_| IdentityError::NoRandom)?;
        Self::from_pkcs8_der(pkcs8.as_ref())
    }

    /// Reads a PKCS#8 private key in DER.
    pub fn from_pkcs8_der(der: &[u8]) -> Result<Self, IdentityError> {
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map_err(|_| IdentityError::NotEd25519)?;
        let spki = spki_of(pair.public_key().as_ref());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der.to_vec()));
        let signer = rustls::crypto::ring::sign::any_supported_type(&key).map_err(|_| IdentityError::NotEd25519)?;
        Ok(Self { pkcs8: der.into(), signer, pin: Pin::of_spki(&spki), spki })
    }

    /// Reads a PEM text with one `PRIVATE KEY` section.
    pub fn from_pem(text: &str) -> Result<Self, IdentityError> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).map_err(|_| IdentityError::NotPem)?;
        Self::from_pkcs8_der(der.secret_pkcs8_der())
    }

    /// Reads a key file. A file that others may read or write is refused.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let at = |error| IdentityError::Read(path.to_owned(), error);
        let file = File::open(path).map_err(at)?;
        check_mode(&file, path)?;
        let mut text = String::new();
        file.take(MAX_FILE).read_to_string(&mut text).map_err(at)?;
        Self::from_pem(&text).map_err(|why| IdentityError::Content(path.to_owned(), Box::new(why)))
    }

    /// Writes a key file of mode 0600, whole or not at all; never over an existing file.
    pub fn save(&self, path: &Path) -> Result<(), IdentityError> {
        let at = |error| IdentityError::Write(path.to_owned(), error);
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(directory).map_err(at)?;
        let name = path.file_name().ok_or_else(|| at(io::Error::from(io::ErrorKind::IsADirectory)))?;
        let mut unfinished = name.to_owned();
        unfinished.push(format!(".{}.new", std::process::id()));
        let unfinished = directory.join(unfinished);
        let written = write_private(&unfinished, self.to_pem().as_bytes()).and_then(|()| publish(&unfinished, path));
        // Gone already when it was renamed; an error here would hide the one that matters.
        std::fs::remove_file(&unfinished).ok();
        written.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => IdentityError::Exists(path.to_owned()),
            _ => at(error),
        })
    }

    /// The key as PEM text.
    pub fn to_pem(&self) -> String {
        let encoded = STANDARD.encode(&self.pkcs8);
        let mut text = String::from("-----BEGIN PRIVATE KEY-----\n");
        let mut rest = encoded.as_str();
        while !rest.is_empty() {
            let (line, after) = rest.split_at(rest.len().min(PEM_LINE));
            text.push_str(line);
            text.push('\n');
            rest = after;
        }
        text.push_str("-----END PRIVATE KEY-----\n");
        text
    }

    /// The key as PKCS#8 in DER.
    pub fn to_pkcs8_der(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The public key's SubjectPublicKeyInfo in DER.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// The public key's name.
    pub fn pin(&self) -> Pin {
        self.pin
    }

    /// The raw public key (RFC 7250) and its signer, as rustls wants them.
    pub fn certified(&self) -> Arc<CertifiedKey> {
        Arc::new(CertifiedKey::new(vec![CertificateDer::from(self.spki.clone())], self.signer.clone()))
    }

    /// A secret derived from the private key, for one named use.
    pub fn derived_secret(&self, label: &str) -> [u8; 32] {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &self.pkcs8);
        let mut secret = [0; 32];
        secret.copy_from_slice(ring::hmac::sign(&key, label.as_bytes()).as_ref());
        secret
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.pin)
    }
}

/// Why a key could not be made, read or written.
#[derive(Debug)]
pub enum IdentityError {
    /// The system gave no random bytes.
    NoRandom,
    /// The text holds no `PRIVATE KEY` section.
    NotPem,
    /// The section is not an Ed25519 key.
    NotEd25519,
    /// The file's content is no key.
    Content(PathBuf, Box<IdentityError>),
    /// Others may read the file: its mode.
    Mode(PathBuf, u32),
    /// There is a file already.
    Exists(PathBuf),
    /// The file could not be read.
    Read(PathBuf, io::Error),
    /// The file could not be written.
    Write(PathBuf, io::Error),
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRandom => f.write_str("the system gave no random numbers for a key; try again"),
            Self::NotPem => f.write_str("there is no `BEGIN PRIVATE KEY` section; make a key with `keygen`"),
            Self::NotEd25519 => f.write_str("the private key is not Ed25519 in PKCS#8; make a key with `keygen`"),
            Self::Content(path, why) => write!(f, "key file {}: {why}", path.display()),
            Self::Mode(path, mode) => write!(
                f,
                "key file {path} may be used by others (mode {mode:04o}); run `chmod 600 {path}`",
                path = path.display()
            ),
            Self::Exists(path) => {
                write!(f, "{} exists already; keep it, or name another file", path.display())
            }
            Self::Read(path, error) if error.kind() == io::ErrorKind::NotFound => {
                write!(f, "there is no key file {}; make one with `keygen`", path.display())
            }
            Self::Read(path, error) => write!(f, "cannot read key file {}: {error}", path.display()),
            Self::Write(path, error) => write!(f, "cannot write key file {}: {error}", path.display()),
        }
    }
}

impl std::error::Error for IdentityError {}

/// SubjectPublicKeyInfo of an Ed25519 public key (RFC 8410, section 4).
fn spki_of(public: &[u8]) -> Vec<u8> {
    const HEAD: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
    [HEAD.as_slice(), public].concat()
}

#[cfg(unix)]
fn check_mode(file: &File, path: &Path) -> Result<(), IdentityError> {
    use std::os::unix::fs::MetadataExt as _;
    let at = |error| IdentityError::Read(path.to_owned(), error);
    let metadata = file.metadata().map_err(at)?;
    let mode = metadata.mode() & 0o7777;
    match mode & !0o600 == 0 {
        true => Ok(()),
        // Another mode would not make a key of a directory or a device.
        false if metadata.is_dir() => Err(at(io::Error::other("it is a directory"))),
        false if !metadata.is_file() => Err(at(io::Error::other("it is not a regular file"))),
        false => Err(IdentityError::Mode(path.to_owned(), mode)),
    }
}

/// Windows keeps a user's profile from other users by itself; there is no mode to check.
#[cfg(not(unix))]
fn check_mode(_file: &File, _path: &Path) -> Result<(), IdentityError> {
    Ok(())
}

fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    let mut file = options.open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Gives the finished file its name, and fails if the name is taken: a link does not replace.
#[cfg(unix)]
fn publish(unfinished: &Path, path: &Path) -> io::Result<()> {
    std::fs::hard_link(unfinished, path)
}

#[cfg(not(unix))]
fn publish(unfinished: &Path, path: &Path) -> io::Result<()> {
    if path.exists() {
        return Err(io::Error::from(io::ErrorKind::AlreadyExists));
    }
    std::fs::rename(unfinished, path)
}

/// A key file is under 200 bytes; a larger one is something else.
const MAX_FILE: u64 = 16 * 1024;
/// Characters in a line of PEM (RFC 7468).
const PEM_LINE: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_and_der_come_back() {
        let identity = Identity::generate().unwrap();
        assert_eq!(Identity::from_pem(&identity.to_pem()).unwrap().pin(), identity.pin());
        assert_eq!(Identity::from_pkcs8_der(identity.to_pkcs8_der()).unwrap().pin(), identity.pin());
        assert!(identity.to_pem().lines().all(|line| line.len() <= PEM_LINE));
        assert_eq!(format!("{identity:?}"), format!("Identity({})", identity.pin()));
        assert_eq!(identity.signer.public_key().unwrap().as_ref(), identity.spki());
    }

    #[test]
    fn file_comes_back_and_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/key");
        let identity = Identity::generate().unwrap();
        identity.save(&path).unwrap();
        assert_eq!(Identity::load(&path).unwrap().pin(), identity.pin());
        let refused = Identity::generate().unwrap().save(&path).unwrap_err();
        assert!(matches!(refused, IdentityError::Exists(_)), "{refused}");
        assert_eq!(Identity::load(&path).unwrap().pin(), identity.pin());
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing unfinished is left");
    }

    #[cfg(unix)]
    #[test]
    fn a_wider_mode_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        Identity::generate().unwrap().save(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        for mode in [0o640, 0o604, 0o700, 0o620] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let sentence = Identity::load(&path).unwrap_err().to_string();
            assert!(sentence.contains("chmod 600"), "{sentence}");
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
        Identity::load(&path).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_file_is_not_to_be_given_another_mode() {
        let folder = tempfile::tempdir().unwrap();
        for (path, expected) in
            [(folder.path(), "it is a directory"), (Path::new("/dev/null"), "it is not a regular file")]
        {
            let sentence = Identity::load(path).unwrap_err().to_string();
            assert!(sentence.contains(expected) && !sentence.contains("chmod"), "{sentence}");
        }
    }

    #[test]
    fn bad_content_is_a_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let missing = Identity::load(&path).unwrap_err().to_string();
        assert!(missing.contains("there is no key file") && missing.ends_with("`keygen`"), "{missing}");
        write_private(&path, b"hello").unwrap();
        let junk = Identity::load(&path).unwrap_err().to_string();
        assert!(junk.contains("BEGIN PRIVATE KEY"), "{junk}");
        assert!(matches!(Identity::from_pkcs8_der(b"\x30\x03\x02\x01\x00"), Err(IdentityError::NotEd25519)));
    }
}
