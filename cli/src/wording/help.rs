//! The help texts: what `--help` teaches.

pub(crate) const ABOUT: &str = "Real traffic of a cluster's service, on your own machine";

pub(crate) const LONG_ABOUT: &str = "\
Real traffic of a cluster's service, on your own machine: all of it, or only the requests that you name. \
Everything else stays with the app in the cluster, as if redir were not there. Needs no root.";

pub(crate) const EXAMPLES: &str = "\
First steps in Kubernetes:
  redir install        once, as the cluster's admin
  redir list           what can be intercepted, and what is
  redir intercept deploy/web --port 8080:3000 --header 'x-user: alice'
                       requests with this header go to port 3000 of your
                       machine, the others to the app
First steps with a static agent:
  redir keygen         make your key; its last lines are for the agent's admin
  redir intercept web-1 --port 8080:3000 --header 'x-user: alice'

Which of the two is meant: static agents if redir.toml or --agent names some, else Kubernetes. A target with a \
slash (deploy/web), -l, -A, -n, --context and --kubeconfig always mean Kubernetes, --agent never does.

Exit codes: 0 done, 1 it failed, 2 usage error; `intercept … -- COMMAND` passes COMMAND's on \
(1 instead of 0 if nothing was intercepted before it ended).";

pub(crate) const INTERCEPT: &str = "Bring a pod's requests to a port of your machine until Ctrl-C";

pub(crate) const INTERCEPT_LONG: &str = "\
Bring a pod's requests to a port of your machine until Ctrl-C. \
Without a condition every request comes to you; with conditions only those that meet all of them (or one, with --any). \
The others go to the app. Connections that were open before stay with the app.

Conditions compare bytes as they are in the request. Case counts, but not in a header's name. Nothing is decoded: write \
%20 where the request has it. What is there several times (a header, a parameter, a cookie, a baggage member) needs one \
value that fits. A regular expression must match the whole value. --not is for the one condition behind it, and holds \
also where there is no such thing. For `a and b, or c` run redir twice, once for each side of the `or`, with the same \
port of yours.

Requests go to your machine's 127.0.0.1, or to ::1 where nobody listens on 127.0.0.1; --to names another place. --port \
may be there several times: each is an intercept of its own with the same conditions, and all end together.

A target with a slash, or -l, is looked for in Kubernetes: all its pods on all nodes, also those that come later. A bare \
name or labels are a static agent's pods if redir.toml or --agent names agents, else pods in Kubernetes.";

pub(crate) const INTERCEPT_EXAMPLES: &str = "\
Examples:
  redir intercept deploy/web --port http:3000 --header 'x-user: alice'
      requests to the port named http of every pod of the deployment that carry
      the header go to port 3000 of your machine
  redir intercept service/web -n shop --port 80:3000
      every request to port 80 of the Service, also if sent to its pods directly
  redir intercept -l app=web,tier=front --port 8080
      all pods with these labels
  redir intercept web-1 --port 8080:3000 --header 'x-user: alice'
      requests to port 8080 of pod web-1 that carry `x-user: alice`
  redir intercept app=web,tier=front -p 8080 --path-prefix /api --method POST
      POST requests below /api, on every pod with both labels
  redir intercept web-1 -p 80 --header 'x-user: al' --header 'x-user: bo' --any
      requests of either
  redir intercept web-1 -p 80 --cookie session=4711 --not --path-prefix /health
      all requests of one browser session, but not health checks
  redir intercept web-1 --port 8080:3000 -- npm start
      starts your service, waits until it answers, ends it with the intercept
  redir intercept web-1 --port 8080:3000 --port 9090 -- ./start-both
      two ports of one service: two intercepts, which end together
  redir intercept web-1 --port 8080 --to host.docker.internal:3000
      where redir runs in a container, and the service beside it
  redir intercept web-1 -p 8080 -o json | jq -c 'select(.event == \"request\")'
      one JSON object for each matched request";

pub(crate) const JSON_LINES: &str = "With -o json each line is an object with an `event`:";
pub(crate) const JSON_REST: &str = "\
Each line about one intercept also has its `port` in the pod. A field is null where its value is not known. `local` is what \
your service gets: plaintext, tls (with --local-tls), as_sent (what the client sends), null (nothing). Times are RFC 3339 in \
UTC. COMMAND's own standard output goes to standard error. The documentation describes each field.";

pub(crate) const TARGET: &str = "A workload (deploy/web, also statefulset/, daemonset/, replicaset/, job/, rollout/, service/, pod/), a pod's name (web-1), or labels that its pods carry (app=web,tier=front)";
pub(crate) const SELECTOR: &str = "Every pod in the namespace with these labels, instead of a workload";
pub(crate) const PORT: &str = "The app's port in the pod (of service/ the Service's), in Kubernetes also by its name, and, behind a colon, your own on this machine [default: the same number]; may be repeated";
pub(crate) const TO: &str = "Where your service is, instead of this machine's 127.0.0.1 (or ::1, if only that answers), such as [::1]:3000 or host.docker.internal:3000; with several --port one for each, in the same order";
pub(crate) const HEADER: &str = "A header with this value, such as 'x-user: alice'";
pub(crate) const HEADER_PREFIX: &str = "A header whose value begins like this, such as 'x-user: al'";
pub(crate) const HEADER_REGEX: &str = "A header whose whole value matches, such as 'x-user: al.*|bob'";
pub(crate) const HEADER_PRESENT: &str = "A header, whatever its value";
pub(crate) const PATH: &str = "Exactly this path (compared without the query)";
pub(crate) const PATH_PREFIX: &str = "A path that begins like this, such as /api/";
pub(crate) const PATH_REGEX: &str = "A path that matches as a whole, such as '/users/[0-9]+'";
pub(crate) const METHOD: &str = "This method, such as POST";
pub(crate) const METHOD_REGEX: &str = "A method that matches as a whole, such as 'PUT|PATCH'";
pub(crate) const QUERY: &str = "A query parameter with this value, such as user=alice";
pub(crate) const QUERY_PREFIX: &str = "A query parameter whose value begins like this";
pub(crate) const QUERY_REGEX: &str = "A query parameter whose whole value matches";
pub(crate) const QUERY_PRESENT: &str = "A query parameter, whatever its value";
pub(crate) const COOKIE: &str = "A cookie with this value, such as session=4711";
pub(crate) const COOKIE_PREFIX: &str = "A cookie whose value begins like this";
pub(crate) const COOKIE_REGEX: &str = "A cookie whose whole value matches";
pub(crate) const COOKIE_PRESENT: &str = "A cookie, whatever its value";
pub(crate) const BAGGAGE: &str = "A member of the W3C header `baggage` with this value, such as tenant=alpha";
pub(crate) const BAGGAGE_PREFIX: &str = "A baggage member whose value begins like this";
pub(crate) const BAGGAGE_REGEX: &str = "A baggage member whose whole value matches";
pub(crate) const BAGGAGE_PRESENT: &str = "A baggage member, whatever its value";
pub(crate) const NOT: &str = "Turns the condition behind it around, such as --not --path-prefix /health";
pub(crate) const ANY: &str = "One of the conditions is enough; without this flag all must hold";
pub(crate) const PREFLIGHT: &str = "Take the CORS preflights too that ask for the headers of your conditions: browsers send them without the headers' values";
pub(crate) const PROBES: &str = "Take the kubelet's probes too; without this flag they go to the app";
pub(crate) const FLUSH: &str = "Close connections that the app has already, once they are idle, so that their clients connect anew; beside a filter this needs a right of its own";
pub(crate) const EVEN_IF_DOWN: &str = "Answer also while nobody listens on the port in the pod; only without conditions (the kubelet's HTTP probes fail then as without redir, its TCP probes succeed)";
pub(crate) const FORWARDED: &str = "Have the agent write the client's address into the HTTP requests that come to you: X-Forwarded-For, behind what is there, and X-Forwarded-Proto and -Host where there is none";
pub(crate) const PROXY_PROTOCOL: &str = "Begin each connection to your service with the client's address, in the PROXY protocol's header [without a version: v1]";
pub(crate) const LOCAL_TLS: &str =
    "Your service speaks TLS, with any certificate; without this flag it gets plaintext, also where the app speaks TLS";
pub(crate) const WAIT: &str = "How many seconds COMMAND may take until it answers on your port [default: 120]";
pub(crate) const COMMAND: &str = "Start your service with this; it ends together with the intercept";

pub(crate) const LIST: &str = "Show what is intercepted, and what can be";
pub(crate) const LEAVE: &str = "End intercepts of your own, also those of another terminal";
pub(crate) const LEAVE_EXAMPLES: &str = "\
Examples:
  redir leave web-1       your intercepts on pod web-1
  redir leave deploy/web  your intercepts of this workload
  redir leave web-x7k2p   the one with this name in `redir list`
  redir leave app=web     your intercepts on pods with this label
  redir leave 7           the one of this number in `redir list` (static agents)
  redir leave --all       all of yours";
pub(crate) const LEAVE_WHICH: &str = "A workload, a pod's name, labels, or the name or number that `redir list` shows";
pub(crate) const LEAVE_ALL: &str = "All of your own";
pub(crate) const STATUS: &str = "Show your tunnels: round trip, pods, requests";
pub(crate) const COMPLETIONS: &str = "Print the completions of your shell";
pub(crate) const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  redir completions bash > ~/.local/share/bash-completion/completions/redir
  redir completions zsh  > ~/.zfunc/_redir
  redir completions fish > ~/.config/fish/completions/redir.fish";
pub(crate) const SHELL: &str = "Which shell";
pub(crate) const KEYGEN: &str = "Make your key, and print the lines that let it in at an agent";
pub(crate) const KEYGEN_FILE: &str = "Where to [default: `key` beside redir.toml]";

pub(crate) const AGENTS_HEADING: &str = "Agents and key";
pub(crate) const AGENT: &str = "An agent's HOST:PORT, instead of those in redir.toml; may be repeated";
pub(crate) const AGENT_KEY: &str =
    "That agent's key (sha256:…, printed by `redir-agent keygen`), once for each --agent";
pub(crate) const KEY: &str = "Your key, made by `redir keygen` [default: the one in redir.toml]";
pub(crate) const CONFIG: &str = "Another configuration file [default: redir.toml in $XDG_CONFIG_HOME/redir]";
pub(crate) const OUTPUT: &str = "Text for people, or a JSON object on each line for programs";
pub(crate) const CONDITIONS_HEADING: &str = "Conditions, on what a request has (each may be repeated)";

pub(crate) const CLUSTER_HEADING: &str = "Kubernetes";
pub(crate) const NAMESPACE: &str = "The namespace [default: the context's]";
pub(crate) const CONTEXT: &str = "The context of the kubeconfig [default: its current one]";
pub(crate) const KUBECONFIG: &str = "The kubeconfig [default: $KUBECONFIG, else ~/.kube/config]";
pub(crate) const ALL_NAMESPACES: &str = "In all namespaces";

pub(crate) const DESCRIBE: &str = "Show everything about one intercept in Kubernetes, with its events";
pub(crate) const DESCRIBE_NAME: &str = "Its name, as `redir list` shows it";

pub(crate) const INSTALL: &str = "Install redir into a Kubernetes cluster";
pub(crate) const INSTALL_LONG: &str = "\
Install redir into a Kubernetes cluster, as its admin: the resource, the roles, and an agent on every node. \
Nothing is intercepted by it, no pod is restarted, no webhook is made. Waits until every node's agent is ready. \
Running it again brings everything back to what this release installs. A namespace that exists stays as it is, but for the \
PodSecurity level that it enforces, which must admit the agents: that is asked for first, and put back by `redir uninstall`. \
What Helm has installed is left to Helm.";
pub(crate) const INSTALL_EXAMPLES: &str = "\
Examples:
  redir install --dry-run
      ask the server whether it would take everything
  redir install --image registry.local/redir-agent:0.1.0
  redir install --print | kubectl apply -f -
      the manifests, for kubectl
  kubectl -n shop create rolebinding redir-developers \\
      --clusterrole=redir-developer --group=shop-developers
      whoever may intercept in namespace shop";
pub(crate) const UPGRADE: &str = "Bring a cluster's agents to this release, node by node";
pub(crate) const UPGRADE_LONG: &str = "\
Bring a cluster's agents to this release, node by node. The same as `redir install` on a cluster that has redir; it fails \
on one that has not. An agent that is replaced stops steering first and lets its connections end.";
pub(crate) const UNINSTALL: &str = "Remove redir from a Kubernetes cluster";
pub(crate) const UNINSTALL_LONG: &str = "\
Remove redir from a Kubernetes cluster, as its admin: every intercept first, whose requests go to their apps, then the agents, the \
roles and the resource. What will be removed is listed, and asked for. \
The namespace goes only if `redir install` has created it and nothing of anybody else is in it.";
pub(crate) const IMAGE: &str = "The agent's image [default: the published one of this release]";
pub(crate) const VALUES: &str = "A file with values of the Helm chart (manifests/chart/values.yaml); may be repeated";
pub(crate) const DRY_RUN: &str = "Let the server check everything, and change nothing";
pub(crate) const PRINT: &str = "Print the manifests, for kubectl, instead of applying them";
pub(crate) const INSTALL_WAIT: &str = "How many seconds the agents may take until they are ready [default: 300]";
pub(crate) const INSTALL_YES: &str =
    "Change the namespace's PodSecurity level without asking, where it does not admit agents";
pub(crate) const UNINSTALL_YES: &str = "Remove without asking";
pub(crate) const UNINSTALL_WAIT: &str = "How many seconds it may take until everything is gone [default: 120]";
pub(crate) const DOCTOR: &str = "Check a cluster, its agents and your own rights, and say what to do next";
pub(crate) const DOCTOR_LONG: &str = "\
Check a cluster, its agents and your own rights: one line each, with the next step where a check fails. \
Ends with 1 if one does. What you may not look at is said, and does not count as a failure.

With a TARGET it says whether you may intercept just that one, and if not the line with which the cluster's admin grants \
it; without, all that you may intercept in the namespace.";
pub(crate) const DOCTOR_EXAMPLES: &str = "\
Examples:
  redir doctor -n shop               what you may intercept in namespace shop
  redir doctor deploy/web -n shop    whether you may intercept this workload
  redir doctor -l app=web            whether you may intercept by labels";
pub(crate) const DOCTOR_TARGET: &str =
    "What you want to intercept: a workload (deploy/web), a pod's name, or labels (app=web)";

#[cfg(test)]
mod tests {
    use super::*;

    /// clap wraps what is too long for the terminal: prose that is broken here already would be broken twice, and a column
    /// that is too wide would be torn apart.
    #[test]
    fn help_is_wrapped_once() {
        for text in [
            LONG_ABOUT,
            EXAMPLES,
            INTERCEPT_LONG,
            INTERCEPT_EXAMPLES,
            LEAVE_EXAMPLES,
            COMPLETIONS_EXAMPLES,
            INSTALL_LONG,
            INSTALL_EXAMPLES,
            UPGRADE_LONG,
            UNINSTALL_LONG,
            DOCTOR_LONG,
            JSON_REST,
            DOCTOR_EXAMPLES,
        ] {
            let mut before = "";
            for line in text.lines() {
                let is_column = line.starts_with("  ");
                assert!(!is_column || line.chars().count() <= 80, "too wide: {line:?}");
                let goes_on = !before.is_empty() && !before.ends_with(':') && !before.starts_with("  ");
                assert!(is_column || line.is_empty() || !goes_on, "{before:?} goes on in {line:?}");
                before = line;
            }
        }
    }
}
