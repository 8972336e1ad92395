//! What was found out about TLS on a port, and how developers are told.

use std::time::{Duration, Instant};

use redir_wire::{PodTls, TlsHandling};

/// What the newest connections to a port, or the agent's own look at it, have shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// A certificate was given, and the app does not speak TLS.
    Clear,
    /// It is TLS. With a usable certificate it is decrypted, without it is not.
    Tls,
    /// A client offers nothing that the agent could answer.
    Client,
    /// The app does not complete a handshake with the agent.
    Refused,
    /// The app shows another certificate than the one given.
    OtherCertificate,
    /// The app asks for client certificates.
    ClientCertificate,
}

/// What is given to decrypt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Means {
    /// Nothing.
    None,
    /// A certificate that cannot be used.
    Unusable,
    /// A certificate.
    Certificate,
}

/// What an intercept wants of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InterceptCoverage {
    /// The requests that match its filter.
    Some,
    /// Everything.
    Everything,
}

impl Finding {
    /// Why a connection is not looked at: a bounded label for the access event and the metrics.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Finding::Clear | Finding::Tls => "tls",
            Finding::Client => "tls_client",
            Finding::Refused => "tls_refused",
            Finding::OtherCertificate => "tls_other_certificate",
            Finding::ClientCertificate => "tls_client_certificate",
        }
    }

    /// The graver one stays: what concerns every connection before what concerns some.
    fn weight(self) -> u8 {
        match self {
            Finding::Clear => 0,
            Finding::Tls => 1,
            Finding::Client => 2,
            Finding::Refused => 3,
            Finding::OtherCertificate => 4,
            Finding::ClientCertificate => 5,
        }
    }

    /// For a developer's screen.
    pub(crate) fn told(self, means: Means, wants: InterceptCoverage) -> PodTls {
        let (handling, sentence) = match (self, means, wants) {
            (Finding::Clear, _, _) => (
                TlsHandling::Clear,
                "the agent has a certificate for this port, and the app does not speak TLS there: requests are read as they are; ask the agent's administrator whether the port in [[pod.tls]] is right",
            ),
            (_, Means::None, InterceptCoverage::Everything) => (
                TlsHandling::Passed,
                "this port speaks TLS: your service gets it as the clients send it, and must show a certificate that they take; with the app's own, the agent would give it plaintext: ask the agent's administrator",
            ),
            (Finding::ClientCertificate, _, _) => (
                TlsHandling::Unread,
                "this port speaks TLS and asks for client certificates, which only the app can check: its connections go to the app unread; intercept another port of the app, if it has one that does not ask",
            ),
            (_, Means::None, InterceptCoverage::Some) => (
                TlsHandling::Unread,
                "this port speaks TLS, which cannot be read without the app's certificate: its connections go to the app; ask the agent's administrator to give it to the agent, or intercept without conditions",
            ),
            (_, Means::Unusable, _) => (
                TlsHandling::Unread,
                "this port speaks TLS, and the certificate that the agent has for it cannot be used: its connections go to the app unread; ask the agent's administrator to run `redir-agent check`",
            ),
            (Finding::Tls, Means::Certificate, _) => (
                TlsHandling::Decrypted,
                "this port speaks TLS, which the agent decrypts and encrypts again for the app",
            ),
            (Finding::Client, Means::Certificate, _) => (
                TlsHandling::Unread,
                "this port speaks TLS, and a client offers only versions or ciphers that the agent does not have: its connections go to the app unread; those of other clients are decrypted",
            ),
            (Finding::Refused, Means::Certificate, _) => (
                TlsHandling::Unread,
                "this port speaks TLS, and the app does not shake hands with the agent: its connections go to the app unread; look at the app's log",
            ),
            (Finding::OtherCertificate, Means::Certificate, _) => (
                TlsHandling::Unread,
                "this port speaks TLS, and the app shows another certificate than the one that the agent has: such connections go to the app unread; ask the agent's administrator to give it the new one",
            ),
        };
        PodTls { handling, sentence: sentence.to_owned() }
    }
}

/// A port's finding over time: a graver one counts at once, a lighter one when the graver was not seen for [`HOLD`], so
/// that two kinds of clients in turn are not told in turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct FindingHistory {
    pub(super) finding: Finding,
    seen: Instant,
}

impl FindingHistory {
    pub(super) fn new(finding: Finding, now: Instant) -> Self {
        FindingHistory { finding, seen: now }
    }

    /// Takes the next one; true if developers are to be told.
    pub(super) fn next(&mut self, finding: Finding, now: Instant) -> bool {
        let changes = finding != self.finding;
        if changes && finding.weight() < self.finding.weight() && now.duration_since(self.seen) < HOLD {
            return false;
        }
        *self = FindingHistory::new(finding, now);
        changes
    }
}

/// Longer than between two requests of a client that is tried by hand.
const HOLD: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Finding; 6] = [
        Finding::Clear,
        Finding::Tls,
        Finding::Client,
        Finding::Refused,
        Finding::OtherCertificate,
        Finding::ClientCertificate,
    ];

    #[test]
    fn graver_findings_are_told_at_once_and_lighter_ones_when_they_last() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut latest = FindingHistory::new(Finding::Tls, start);
        assert!(!latest.next(Finding::Tls, at(1)));
        assert!(latest.next(Finding::OtherCertificate, at(2)));
        assert!(!latest.next(Finding::Tls, at(31)), "in turn");
        assert!(!latest.next(Finding::OtherCertificate, at(31)));
        assert!(!latest.next(Finding::Tls, at(60)));
        assert!(latest.next(Finding::Tls, at(61)), "it is over");
        assert!(latest.next(Finding::ClientCertificate, at(61)));
        assert_eq!(latest.finding, Finding::ClientCertificate);
    }

    #[test]
    fn nobody_gets_ciphertext_without_being_told() {
        for finding in ALL {
            for means in [Means::None, Means::Unusable, Means::Certificate] {
                for wants in [InterceptCoverage::Some, InterceptCoverage::Everything] {
                    let told = finding.told(means, wants);
                    assert!(told.sentence.len() <= redir_wire::limits::SENTENCE);
                    // Only what was not given a certificate passes to a developer as it is.
                    let passes =
                        means == Means::None && wants == InterceptCoverage::Everything && finding != Finding::Clear;
                    assert_eq!(told.handling == TlsHandling::Passed, passes, "{finding:?} {means:?} {wants:?}");
                    let next_step = told.sentence.contains(';') || told.handling == TlsHandling::Decrypted;
                    assert!(next_step, "{}", told.sentence);
                }
            }
        }
    }
}
