//! Who sits at this machine, for others to read: nothing is decided by it.
//!
//! Owns: asking the environment. Called by: `commands::keygen`, `link`.

/// The login name, reduced to letters, digits, dashes, dots and underscores; `developer` if there is none.
pub(crate) fn login() -> String {
    let name = std::env::var("USER").or_else(|_| std::env::var("USERNAME")).unwrap_or_default();
    let name: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).take(64).collect();
    if name.is_empty() { "developer".to_owned() } else { name }
}

/// `alice@laptop`, so that one's own tunnels can be told apart.
pub(crate) fn at_machine() -> String {
    let machine: String =
        hostname().chars().filter(|c| c.is_ascii_alphanumeric() || "-.".contains(*c)).take(64).collect();
    if machine.is_empty() { login() } else { format!("{}@{machine}", login()) }
}

#[cfg(unix)]
fn hostname() -> String {
    nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(not(unix))]
fn hostname() -> String {
    std::env::var("COMPUTERNAME").unwrap_or_default()
}
