//! The help texts: what `--help` teaches.

pub(crate) const ABOUT: &str = "Real traffic of a cluster's service, on your own machine";

pub(crate) const LONG_ABOUT: &str = "\
Real traffic of a cluster's service, on your own machine: all of it, or only the requests that you name.
Everything else stays with the app in the cluster, as if redir were not there. Needs no root.";

pub(crate) const EXAMPLES: &str = "\
First steps:
  redir keygen                     make your key; its last lines are for the agent's admin
  redir list                       what can be intercepted, and what is
  redir intercept web-1 --port 8080:3000 --header 'x-user: alice'
                                   requests with this header go to 127.0.0.1:3000, the others to the app

Exit codes: 0 done, 1 it failed, 2 it was asked wrongly; `intercept … -- COMMAND` passes COMMAND's on
(1 instead of 0 if nothing was intercepted before it ended).";

pub(crate) const INTERCEPT: &str = "Bring a pod's requests to a port of your machine until Ctrl-C";

pub(crate) const INTERCEPT_LONG: &str = "\
Bring a pod's requests to a port of your machine until Ctrl-C.
Without a condition every request comes to you; with conditions only those that meet all of them (or one, with --any).
The others go to the app. Connections that were open before stay with the app.

Conditions compare bytes as they are in the request. Case counts, but not in a header's name. Nothing is decoded: write \
%20 where the request has it. What is there several times (a header, a parameter, a cookie, a baggage member) needs one \
value that fits. A regular expression must match the whole value. --not is for the one condition behind it, and holds \
also where there is no such thing. For `a and b, or c` run redir twice, once for each side of the `or`, with the same \
port of yours.";

pub(crate) const INTERCEPT_EXAMPLES: &str = "\
Examples:
  redir intercept web-1 --port 8080:3000 --header 'x-user: alice'
      requests to port 8080 of pod web-1 that carry `x-user: alice` go to 127.0.0.1:3000
  redir intercept app=web,tier=front --port 8080 --path-prefix /api --method POST
      POST requests below /api, on every pod with both labels, to 127.0.0.1:8080
  redir intercept web-1 --port 8080 --header 'x-user: alice' --header 'x-user: bob' --any
      requests of either
  redir intercept web-1 --port 8080 --cookie session=4711 --not --path-prefix /health
      all requests of one browser session, but not health checks
  redir intercept web-1 --port 8080:3000 -- npm start
      starts your service, waits until it answers, ends it together with the intercept
  redir intercept web-1 --port 8080 -o json | jq -c 'select(.event == \"request\")'
      one JSON object for each matched request

With -o json each line is an object with an `event`:
  connected   agent, address, developer
  live        agent, id, pod, port, to, local, addresses, earlier_connections, after_ms, curl
  tls         agent, pod, port, state (unread, passed, decrypted, clear, other), local, reason
  refused     agent, pod (null: the whole wish), state, reason
  conflict    agent, pod, developer, yours, id, since, takes (everything, shared)
              of an intercept that gets requests which you want; later conflict_over
  overlap     the same of one that wants requests which you get; later overlap_over
  request     agent, id, pod, client, when, method, path, status (null: none), ms, missed
  lost        agent, reason
  restored    agent, pods, after_ms
  command     state (started, ready, ended), pid, port, code
  ended       reason
`redir list` and `redir status` print pod, intercept and tunnel, `redir leave` prints left (agent, what, count, ids).
What is not known is null: curl where no request to try was found, id and status.
`local` is what your service gets: plaintext, tls (--local-tls), as_sent (what the client sends), null (nothing).
Times are RFC 3339 in UTC. COMMAND's own standard output goes to standard error then. In paths every byte that is not printable ASCII is written \\xNN.";

pub(crate) const TARGET: &str = "A pod's name (web-1), or labels that its pods carry (app=web,tier=front)";
pub(crate) const PORT: &str =
    "The app's port in the pod and, behind a colon, your own on 127.0.0.1 [default: the same number]";
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
pub(crate) const PROBES: &str = "Take the kubelet's probes too; without this flag they go to the app";
pub(crate) const LOCAL_TLS: &str =
    "Your service speaks TLS, with any certificate; without this flag it gets plaintext, also where the app speaks TLS";
pub(crate) const WAIT: &str = "How many seconds COMMAND may take until it answers on your port [default: 120]";
pub(crate) const COMMAND: &str = "Start your service with this; it ends together with the intercept";

pub(crate) const LIST: &str = "Show what is intercepted, and what can be";
pub(crate) const LEAVE: &str = "End intercepts of your own, also those of another terminal";
pub(crate) const LEAVE_EXAMPLES: &str = "\
Examples:
  redir leave web-1       your intercepts on pod web-1
  redir leave app=web     your intercepts on pods with this label
  redir leave 7           the one with this number in `redir list`
  redir leave --all       all of yours";
pub(crate) const LEAVE_WHICH: &str = "A pod's name, labels, or the number that `redir list` shows";
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
