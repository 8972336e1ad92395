//! Who asks a pod for its health, as far as its spec tells, and what of that comes to a developer who did not ask for it.
//!
//! Owns: the decision and its sentences. Must not: know Kubernetes' objects, or steer anything: the kubelet's own probes go to
//! the app by their User-Agent; what is told here cannot be known by that. Called by: the registry's reports, with what the
//! policy knows of the pod.

use redir_http::{
    filter::{Filter, Key, Table},
    head::{Progress, RequestHead},
};
use redir_link::health_checks::{CheckTransport, HealthCheck, HttpGetCheck, USER_AGENT};
use redir_wire::limits;

/// What an intercept takes of a port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InterceptScope<'a> {
    /// The port's number in the pod.
    pub(crate) port: u16,
    /// Which requests; `None` is all of them.
    pub(crate) filter: Option<&'a Filter>,
    /// Whether the agent was given the app's certificate.
    pub(crate) certificate: bool,
}

/// A sentence for each health check that comes to the developer.
pub(crate) fn told(checks: &[HealthCheck], taken: InterceptScope<'_>) -> Vec<String> {
    let there = checks.iter().filter(|check| check.port.is_none_or(|port| port == taken.port));
    let mut told: Vec<String> = there.filter_map(|check| sentence(check, taken)).collect();
    told.dedup();
    told.truncate(limits::PROBES);
    for sentence in &mut told {
        sentence.truncate(sentence.floor_char_boundary(limits::SENTENCE));
    }
    told
}

fn sentence(check: &HealthCheck, taken: InterceptScope<'_>) -> Option<String> {
    let what = &check.what;
    match &check.asks {
        CheckTransport::Http(get) if taken.filter.is_none_or(|filter| matches(get, filter)) => {
            let away = condition(get);
            Some(format!("{what} comes to you{RESTARTS}; keep it away with {away}"))
        }
        CheckTransport::KubeletHttps if taken.filter.is_none() && !taken.certificate => Some(format!(
            "{what} comes to you, since it is inside TLS that the agent cannot read{RESTARTS}; add a condition, and \
             all TLS goes to the app unread, or ask the agent's administrator to give it the app's certificate"
        )),
        CheckTransport::LoadBalancer(agent) if taken.filter.is_none() => {
            Some(format!("{what} come to you; keep them away with --not --header-prefix 'user-agent: {agent}'"))
        }
        CheckTransport::Http(_) | CheckTransport::KubeletHttps | CheckTransport::LoadBalancer(_) => None,
    }
}

const RESTARTS: &str =
    " (if it gets no answer, as at a breakpoint, the pod may be restarted or taken out of its Services)";

/// Whether a filter takes it, judged as the agent judges requests.
fn matches(get: &HttpGetCheck, filter: &Filter) -> bool {
    let table = Table::new([(Key(0), filter.clone())]);
    let fields = get.fields.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
    let wire = format!("GET {} HTTP/1.1\r\n{}\r\n", get.target, fields.collect::<String>()).into_bytes();
    let mut head = RequestHead::new();
    // One that cannot be read goes to the app.
    let read = head.advance(&wire, table.names());
    read == Ok(Progress::Complete) && matches!(table.decide(&mut head, &wire), Ok(Some(_)))
}

/// The condition that keeps it away: its User-Agent, or where it has none its path.
fn condition(get: &HttpGetCheck) -> String {
    let agent = get.fields.iter().find(|(name, value)| name.eq_ignore_ascii_case(USER_AGENT) && !value.is_empty());
    let (flag, value) = match agent {
        Some((_, agent)) => ("--header", format!("user-agent: {agent}")),
        None => ("--path", get.target.split('?').next().unwrap_or_default().to_owned()),
    };
    format!("--not {flag} '{}'", value.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use redir_http::filter::{Condition, Mode, Subject, Test};

    use super::*;

    fn probe(port: u16, asks: CheckTransport) -> HealthCheck {
        HealthCheck { what: "the liveness probe of container app".into(), port: Some(port), asks }
    }

    fn get(fields: &[(&str, &str)]) -> CheckTransport {
        let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        CheckTransport::Http(HttpGetCheck { target: "/healthz?full=1".into(), fields: fields.collect() })
    }

    fn filter(subject: Subject, value: &str) -> Filter {
        let test = Test::Prefix(value.as_bytes().to_vec());
        Filter::new(Mode::All, vec![Condition { subject, test, negate: false }]).unwrap()
    }

    #[test]
    fn a_global_intercept_is_told_of_what_is_not_the_kubelets_by_its_looks() {
        let taken = InterceptScope { port: 8080, filter: None, certificate: false };
        let own = probe(8080, get(&[("User-Agent", "it's me/1"), ("X", "y")]));
        let none = probe(8080, get(&[("user-agent", "")]));
        let balancer =
            HealthCheck { what: "checks".into(), port: None, asks: CheckTransport::LoadBalancer("GoogleHC".into()) };
        let checks =
            [own.clone(), none, probe(8443, get(&[])), probe(8080, CheckTransport::KubeletHttps), balancer, own];
        let told = told(&checks, taken);
        assert_eq!(told.len(), 5, "{told:?}");
        assert!(told[0].contains("liveness probe of container app comes to you"), "{}", told[0]);
        assert!(told[0].ends_with(r"keep it away with --not --header 'user-agent: it'\''s me/1'"), "{}", told[0]);
        assert!(told[1].ends_with("--not --path '/healthz'"), "{}", told[1]);
        assert!(told[2].contains("TLS") && told[2].contains("certificate"), "{}", told[2]);
        assert!(told[3].ends_with("--not --header-prefix 'user-agent: GoogleHC'"), "{}", told[3]);
        let read = InterceptScope { certificate: true, ..taken };
        assert_eq!(
            super::told(&[probe(8080, CheckTransport::KubeletHttps)], read),
            Vec::<String>::new(),
            "it is decrypted"
        );
    }

    #[test]
    fn a_filter_takes_what_it_matches() {
        let checks = [
            probe(8080, get(&[("User-Agent", "mine"), ("X-User", "alice")])),
            probe(8080, CheckTransport::KubeletHttps),
            HealthCheck { what: "checks".into(), port: None, asks: CheckTransport::LoadBalancer("GoogleHC".into()) },
        ];
        let count = |filter: Filter| {
            let taken = InterceptScope { port: 8080, filter: Some(&filter), certificate: false };
            told(&checks, taken).len()
        };
        assert_eq!(count(filter(Subject::Header(b"x-user".into()), "alice")), 1);
        assert_eq!(count(filter(Subject::Header(b"x-user".into()), "bob")), 0);
        assert_eq!(count(filter(Subject::Path, "/health")), 1);
        assert_eq!(count(filter(Subject::Path, "/api")), 0);
    }

    #[test]
    fn bounds_hold() {
        let taken = InterceptScope { port: 1, filter: None, certificate: false };
        let check = |n: usize| HealthCheck {
            what: format!("{n} {}", "\u{e9}".repeat(3000)),
            ..probe(1, CheckTransport::KubeletHttps)
        };
        let told = told(&(0..100).map(check).collect::<Vec<_>>(), taken);
        assert_eq!(told.len(), limits::PROBES);
        assert!(told.iter().all(|sentence| sentence.len() <= limits::SENTENCE));
    }
}
