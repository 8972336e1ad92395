//! Where redir keeps its files on each system.
//!
//! Owns: the directory's name. Must not read files. Called by: `config`, `commands::keygen`.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::error::CliError;
use crate::wording::config as say;

/// The directory of `redir.toml` and `key`: `$XDG_CONFIG_HOME/redir`, else `%APPDATA%\redir` on Windows and
/// `~/.config/redir` elsewhere (also on macOS, where command-line tools are looked for there).
pub(crate) fn config_directory() -> Result<PathBuf, CliError> {
    directory(|name| std::env::var_os(name)).ok_or_else(|| CliError::Usage(say::no_home()))
}

/// The XDG rules: a relative `$XDG_CONFIG_HOME` is ignored.
fn directory(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = match cfg!(windows) {
        true => absolute("APPDATA"),
        false => absolute("HOME").map(|home| home.join(".config")),
    };
    absolute("XDG_CONFIG_HOME").or(home).map(|base| base.join("redir"))
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;

    #[test]
    fn xdg_comes_before_home() {
        let of = |pairs: &[(&str, &str)]| {
            directory(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value)))
        };
        assert_eq!(of(&[("XDG_CONFIG_HOME", "/x"), ("HOME", "/h")]), Some("/x/redir".into()));
        assert_eq!(of(&[("XDG_CONFIG_HOME", "x"), ("HOME", "/h")]), Some("/h/.config/redir".into()));
        assert_eq!(of(&[("HOME", "")]), None);
    }
}
