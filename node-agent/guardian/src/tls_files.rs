//! The files of `[[pod.tls]]`: read, watched, and kept while a newer version is bad.
//!
//! Owns each entry's last good certificate and key, and every sentence about a bad file. The worker could not open the
//! key files and must not: it gets what is in those of armed ports through sealed memory, and no other key is ever in its
//! reach. Called by the supervisor and by `check`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
    sync::Arc,
};

use redir_config::{
    NodeConfig, PodName, TlsFiles as Files,
    certificates::{CertificateFlaw, Certificates, Pair},
};
use rustls::sign::CertifiedKey;

use super::reload::FileStamp;

/// All entries of the configuration.
#[derive(Default)]
pub(super) struct TlsFiles {
    entries: BTreeMap<(PodName, Files), PortPair>,
    armed: BTreeSet<(PodName, u16)>,
}

/// One entry.
struct PortPair {
    seen: PairStamps,
    last_good: Option<Pair>,
    /// The one before: an app may show its old certificate until it is restarted.
    before: Option<Pair>,
    /// What is wrong with the files as they were seen, until it is told.
    problem: Option<String>,
}

/// What the two files looked like when they were last read.
type PairStamps = [Option<FileStamp>; 2];

impl TlsFiles {
    /// Follows the configuration: new entries are read, what is wrong with them is told.
    pub(super) fn configure(&mut self, config: &NodeConfig) {
        let wanted = config.pods.iter().flat_map(|pod| pod.tls.iter().map(|files| (pod.name.clone(), files.clone())));
        let mut before = std::mem::take(&mut self.entries);
        for (pod, files) in wanted {
            let entry = before.remove(&(pod.clone(), files.clone())).unwrap_or_else(|| PortPair::read(&files));
            self.entries.insert((pod, files), entry);
        }
        self.tell();
    }

    /// Looks at the files again; true if the certificates are others now. What is wrong is told at the next look if
    /// it still is: two files cannot be replaced at once.
    pub(super) fn changed(&mut self) -> bool {
        self.tell();
        let mut changed = false;
        for ((pod, files), entry) in &mut self.entries {
            let now = looks(files);
            // Files that are away for a moment, between two renames, are as they were.
            if now == entry.seen || now.iter().any(Option::is_none) {
                continue;
            }
            let new = PortPair::read(files);
            if new.last_good.is_some() && new.last_good != entry.last_good {
                tracing::info!(%pod, port = files.port, cert = %files.cert.display(), "the certificate is read again");
                changed = true;
            }
            let known = entry.last_good.take();
            let (last_good, before) = match new.last_good {
                Some(good) if known.as_ref() != Some(&good) => (Some(good), known.or(entry.before.take())),
                _ => (known, entry.before.take()),
            };
            *entry = PortPair { last_good, before, ..new };
        }
        changed
    }

    /// Notes the ports that are armed now; true if the worker is to get other certificates than before.
    pub(super) fn armed(&mut self, ports: impl Iterator<Item = (PodName, u16)>) -> bool {
        let named =
            |(pod, port): &(PodName, u16)| self.entries.keys().any(|(name, files)| name == pod && files.port == *port);
        let armed = ports.filter(named).collect();
        let before = std::mem::replace(&mut self.armed, armed);
        before != self.armed
    }

    /// What the worker gets: the certificates of armed ports.
    pub(super) fn certificates(&self) -> Certificates {
        let mut given = BTreeMap::<_, Vec<Pair>>::new();
        let armed = |(pod, files): &(PodName, Files)| self.armed.contains(&(pod.clone(), files.port));
        for ((pod, files), entry) in self.entries.iter().filter(|(key, _)| armed(key)) {
            given
                .entry((pod.clone(), files.port))
                .or_default()
                .extend(entry.last_good.iter().chain(&entry.before).cloned());
        }
        Certificates(given)
    }

    fn tell(&mut self) {
        for ((pod, files), entry) in &mut self.entries {
            let Some(problem) = entry.problem.take() else { continue };
            let instead = match entry.last_good {
                Some(_) => "the last good one stays in use",
                None => "what clients send to this port cannot be read",
            };
            tracing::error!(%pod, port = files.port, "{problem}; {instead}");
        }
    }
}

impl PortPair {
    fn read(files: &Files) -> Self {
        // Looked at before they are read: a change in between is found the next time.
        let seen = looks(files);
        match read(files) {
            Ok((pair, _)) => PortPair { seen, last_good: Some(pair), before: None, problem: None },
            Err(problem) => PortPair { seen, last_good: None, before: None, problem: Some(problem) },
        }
    }
}

fn looks(files: &Files) -> PairStamps {
    [&files.cert, &files.key].map(|path| FileStamp::at(path).ok())
}

/// Reads and checks an entry's files. The error is a sentence with the next step.
pub(super) fn read(files: &Files) -> Result<(Pair, Arc<CertifiedKey>), String> {
    let chain = content(&files.cert, "certificate").map(|(text, _)| text)?;
    let (key, mode) = content(&files.key, "key")?;
    let (cert_path, key_path) = (files.cert.display(), files.key.display());
    if mode & !0o600 != 0 {
        return Err(format!(
            "the key file {key_path} may be used by others (mode {mode:04o}); run `chmod 600 {key_path}`"
        ));
    }
    let pair = Pair { chain, key };
    match pair.certified() {
        Ok(certified) => Ok((pair, certified)),
        Err(CertificateFlaw::NoCertificate) => {
            Err(format!("{cert_path} holds no certificate in PEM; write the app's there"))
        }
        Err(CertificateFlaw::NoKey) => Err(format!(
            "{key_path} holds no private key in PEM, or an encrypted one; write the app's own, not encrypted"
        )),
        Err(CertificateFlaw::UnknownKey) => Err(format!(
            "the key in {key_path} is of a kind that the agent does not know; it knows RSA, ECDSA on P-256 and P-384, and Ed25519"
        )),
        Err(CertificateFlaw::Mismatch) => Err(format!(
            "the key in {key_path} is not that of the certificate in {cert_path}; name two files that belong together"
        )),
    }
}

/// A file's text and mode. Never waits, as a named pipe would have it.
fn content(path: &Path, what: &str) -> Result<(String, u32), String> {
    let failed = |error: &io::Error| match error.kind() {
        io::ErrorKind::NotFound => format!("there is no {what} file {}; correct the path", path.display()),
        io::ErrorKind::InvalidData => format!("the {what} file {} is not text; convert it to PEM", path.display()),
        _ => format!("cannot read the {what} file {}: {error}; correct it", path.display()),
    };
    let open = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let (file, metadata) =
        open.and_then(|file| file.metadata().map(|metadata| (file, metadata))).map_err(|e| failed(&e))?;
    if !metadata.is_file() {
        return Err(format!("{} is no file; correct the path", path.display()));
    }
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text).map_err(|error| failed(&error))?;
    Ok((text, metadata.mode() & 0o7777))
}

/// Bytes; the longest chains have some tens of thousands.
const MAX_FILE: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

    use super::*;
    use redir_config::certificates::testing::pair;

    struct TlsFolder {
        folder: tempfile::TempDir,
        files: Files,
    }

    impl TlsFolder {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("folder");
            let at = |name| folder.path().join(name);
            let files = Files { port: 8443, cert: at("web.crt"), key: at("web.key") };
            TlsFolder { folder, files }
        }

        fn write(&self, path: &PathBuf, text: &str, mode: u32) {
            let new = path.with_extension("new");
            fs::write(&new, text).expect("written");
            fs::set_permissions(&new, fs::Permissions::from_mode(mode)).expect("mode");
            fs::rename(new, path).expect("renamed");
        }

        fn put(&self, pair: &Pair) {
            self.write(&self.files.cert, &pair.chain, 0o644);
            self.write(&self.files.key, &pair.key, 0o600);
        }

        fn config(&self) -> NodeConfig {
            let text = "[agent]\nlisten = \"127.0.0.1:7447\"\nkey = \"/k\"\n[[pod]]\nname = \"web-1\"\nnetns = \"/n\"\n\
                        [[pod.tls]]\nport = 8443\ncert = \"web.crt\"\nkey = \"web.key\"\n";
            NodeConfig::parse(text, &self.folder.path().join("agent.toml")).expect("good")
        }
    }

    #[test]
    fn every_bad_file_is_a_sentence_with_the_next_step() {
        let folder = TlsFolder::new();
        let (one, other) = (pair("web.test"), pair("web.test"));
        let bad = |needles: &[&str]| {
            let sentence = read(&folder.files).expect_err("bad");
            for needle in needles {
                assert!(sentence.contains(needle), "{sentence:?} should say {needle:?}");
            }
            assert!(sentence.contains(';') && !sentence.contains('\n') && !sentence.contains("BEGIN"), "{sentence}");
        };
        bad(&["no certificate file", "web.crt", "correct the path"]);
        folder.put(&one);
        assert_eq!(read(&folder.files).map(|(pair, _)| pair), Ok(one.clone()));
        folder.write(&folder.files.key, &one.key, 0o640);
        bad(&["web.key", "0640", "chmod 600"]);
        folder.write(&folder.files.key, &other.key, 0o600);
        bad(&["web.key", "web.crt", "belong together"]);
        folder.write(&folder.files.key, "no key", 0o600);
        bad(&["web.key", "no private key"]);
        folder.write(&folder.files.cert, "no certificate", 0o600);
        bad(&["web.crt", "no certificate in PEM"]);
        fs::write(&folder.files.cert, [0x30, 0x82, 0xff]).expect("written");
        bad(&["web.crt", "convert it to PEM"]);
        fs::remove_file(&folder.files.cert).expect("removed");
        nix::unistd::mkfifo(&folder.files.cert, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        bad(&["web.crt", "is no file"]);
    }

    #[test]
    fn a_rotation_is_followed_and_a_bad_one_leaves_the_last_good() {
        let folder = TlsFolder::new();
        let key = (PodName::new("web-1").expect("good"), 8443);
        let mut files = TlsFiles::default();
        files.configure(&folder.config());
        assert!(files.armed([key.clone()].into_iter()));
        let given = |files: &TlsFiles| files.certificates().0[&key].first().cloned();
        assert_eq!(given(&files), None, "given, and not usable");

        let (one, two, three) = (pair("web.test"), pair("web.test"), pair("web.test"));
        folder.put(&one);
        assert!(files.changed());
        assert!(!files.changed());
        assert_eq!(given(&files).as_ref(), Some(&one));

        // Halfway through a rotation: the certificate is new, its key is not there yet.
        folder.write(&folder.files.cert, &two.chain, 0o644);
        assert!(!files.changed());
        assert_eq!(given(&files).as_ref(), Some(&one));
        folder.write(&folder.files.key, &two.key, 0o600);
        assert!(files.changed());
        assert_eq!(given(&files).as_ref(), Some(&two));

        let both = vec![two.clone(), one.clone()];
        assert_eq!(files.certificates().0[&key], both, "the app may show its old one still");

        fs::remove_file(&folder.files.key).expect("removed");
        assert!(!files.changed(), "away for a moment");
        folder.write(&folder.files.key, &three.key, 0o666);
        assert!(!files.changed());
        assert_eq!(given(&files).as_ref(), Some(&two));

        files.configure(&folder.config());
        let two_again = two.clone();
        assert_eq!(given(&files), Some(two), "the configuration was read again, and the entry is the same");
        assert!(files.armed(std::iter::empty()), "taken back with the port");
        assert_eq!(files.certificates(), Certificates::default());
        let other = (key.0.clone(), 8080);
        assert!(!files.armed([other].into_iter()), "a port without a certificate is none of theirs");
        assert!(files.armed([key.clone()].into_iter()));
        assert!(!files.armed([key.clone()].into_iter()), "as before");
        assert!(
            files.armed(std::iter::empty()),
            "the app goes on, and between two intercepts its certificate is renewed"
        );
        folder.put(&three);
        assert!(files.changed() && files.armed([key.clone()].into_iter()));
        assert_eq!(files.certificates().0[&key], [three, two_again], "what the app still shows can be read");
        let none = NodeConfig { pods: Vec::new(), ..folder.config() };
        files.configure(&none);
        assert_eq!(files.certificates(), Certificates::default());
    }
}
