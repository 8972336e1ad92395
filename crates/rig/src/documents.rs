//! The commands that the project's documents show, so that a test can give each of them to its program.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// README.md and every page of the book in `docs/src`, one behind the other: what the project shows its users.
pub fn user_pages() -> Result<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let readme = root.join("README.md");
    let mut text = fs::read_to_string(&readme).with_context(|| format!("cannot read {}", readme.display()))?;
    let book = root.join("docs/src");
    for page in fs::read_dir(&book).with_context(|| format!("cannot list {}", book.display()))? {
        let page = page?.path();
        text.push_str(&fs::read_to_string(&page).with_context(|| format!("cannot read {}", page.display()))?);
    }
    Ok(text)
}

/// The command lines of `program` (`redir`, `cargo xtask`) in the console blocks of a Markdown text, as words, without the
/// words of `program` itself. One inside `$(…)` counts too; what a shell does with its output does not. An error if a
/// line's quotes do not match.
pub fn commands(markdown: &str, program: &str) -> Result<Vec<Vec<String>>> {
    let mut found = Vec::new();
    for line in shown(markdown) {
        let line = line.split_once("$(").and_then(|(_, rest)| rest.split(')').next()).unwrap_or(line);
        // What is behind ` # ` is a comment, to the shell and to shlex.
        let mut words = shlex::split(line).with_context(|| format!("the quotes of `{line}` do not match"))?;
        let end = words.iter().position(|word| ["|", ">", "&&"].contains(&word.as_str()));
        words.truncate(end.unwrap_or(words.len()));
        let program: Vec<&str> = program.split(' ').collect();
        if words.len() >= program.len() && words.iter().zip(&program).all(|(word, wanted)| word == wanted) {
            found.push(words[program.len()..].to_vec());
        }
    }
    Ok(found)
}

/// Behind the prompt of a user or of root, in ```` ```console ```` blocks.
fn shown(markdown: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    markdown.lines().filter_map(move |line| {
        if line.starts_with("```") {
            inside = line == "```console";
            return None;
        }
        let prompted = line.strip_prefix("$ ").or_else(|| line.strip_prefix("# "));
        prompted.filter(|_| inside)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_where_they_are_shown() {
        let text = "\
            # redir no heading\n`redir list`\n```console\n$ redir list   # all\n# redir-agent run\nredir printed this\n\
            $ eval \"$(redir completions bash)\"\n$ redir intercept web-1 --header 'x-user: alice' | jq .\n```\n$ redir status\n";
        let found = commands(text, "redir").unwrap();
        let expected = [&["list"][..], &["completions", "bash"], &["intercept", "web-1", "--header", "x-user: alice"]];
        assert_eq!(found, expected);
        assert_eq!(commands(text, "redir-agent").unwrap(), [["run"]]);
        assert!(commands("```console\n$ redir list 'x\n```", "redir").is_err());
    }
}
