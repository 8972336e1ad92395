//! The links of the documents: each leads to a file that exists and, with `#`, to a heading of that page. Also the rules that
//! keep the book whole: SUMMARY.md lists every page once, and no page of the book links by a path to a file outside of the book,
//! which mdbook would not copy. Other websites are not asked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::{fmt, fs};

use anyhow::{Context, Result};
use pulldown_cmark::{BrokenLink, CowStr, Event, LinkType, Options, Parser, Tag, TagEnd};

/// A link to the repository from the book: a page or file on the main branch.
const REPOSITORY: [&str; 3] = [
    concat!(env!("CARGO_PKG_REPOSITORY"), "/blob/main/"),
    concat!(env!("CARGO_PKG_REPOSITORY"), "/tree/main/"),
    concat!(env!("CARGO_PKG_REPOSITORY"), "/raw/main/"),
];
const BOOK: &str = "docs/src";

/// What is wrong with one page.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// From the repository's root.
    page: PathBuf,
    link: String,
    why: &'static str,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: `{}` {}", self.page.display(), self.link, self.why)
    }
}

/// A page's links as they are written, and the anchors of its headings.
#[derive(Default)]
struct Page {
    links: Vec<String>,
    /// `[text][name]` without a line `[name]: …`.
    undefined: Vec<String>,
    anchors: BTreeSet<String>,
}

/// Every broken link of the Markdown pages at the root, in the book, and in the published results of the bench.
pub(crate) fn broken(root: &Path) -> Result<Vec<Problem>> {
    let mut pages = BTreeMap::new();
    for folder in [root.to_owned(), root.join(BOOK)] {
        read_pages(root, &folder, &mut pages)?;
    }
    for result in folders(&root.join("bench/results"))? {
        read_pages(root, &result, &mut pages)?;
    }
    let mut problems = summary(&pages);
    for (path, page) in &pages {
        let mut add = |link: &str, why| problems.push(Problem { page: path.clone(), link: link.to_owned(), why });
        for name in &page.undefined {
            add(name, "is not defined on this page");
        }
        for link in &page.links {
            if let Err(why) = follow(root, &pages, path, link) {
                add(link, why);
            }
        }
    }
    Ok(problems)
}

/// Whether a link of the page leads somewhere.
fn follow(root: &Path, pages: &BTreeMap<PathBuf, Page>, from: &Path, link: &str) -> Result<(), &'static str> {
    let to_repository = REPOSITORY.iter().find_map(|start| link.strip_prefix(start));
    let (target, anchor) = match to_repository.unwrap_or(link).split_once('#') {
        Some((target, anchor)) => (target, Some(anchor)),
        None => (to_repository.unwrap_or(link), None),
    };
    let path = match to_repository {
        Some(_) => PathBuf::from(target),
        None if target.contains("://") || target.starts_with("mailto:") => return Ok(()),
        None if target.is_empty() => from.to_owned(),
        None => {
            let path = normal(&from.with_file_name("").join(target)).ok_or("leaves the repository")?;
            if from.starts_with(BOOK) && !path.starts_with(BOOK) {
                return Err("leaves the book: link to the file in the repository by its whole URL");
            }
            path
        }
    };
    if !root.join(&path).exists() {
        return Err("leads to no file");
    }
    match (anchor, pages.get(&path)) {
        (Some(anchor), Some(page)) if !page.anchors.contains(anchor) => Err("leads to no heading"),
        // A line of a source, `#L10`, would be another one tomorrow.
        (Some(_), None) => Err("has an anchor in a file that is no page"),
        _ => Ok(()),
    }
}

/// SUMMARY.md lists every page of the book, once.
fn summary(pages: &BTreeMap<PathBuf, Page>) -> Vec<Problem> {
    let path = Path::new(BOOK).join("SUMMARY.md");
    let listed = pages.get(&path).map_or(&[][..], |summary| &summary.links);
    let of_the_book = pages.keys().filter(|page| page.starts_with(BOOK) && **page != path);
    let names = of_the_book.filter_map(|page| page.file_name()?.to_str());
    names
        .filter(|name| listed.iter().filter(|link| link == name).count() != 1)
        .map(|name| Problem { page: path.clone(), link: name.to_owned(), why: "must be listed exactly once" })
        .collect()
}

/// `docs/src/./a/../b.md` as `docs/src/b.md`; `None` where it leaves the root.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => normal.push(name),
            Component::CurDir => {}
            Component::ParentDir if normal.pop() => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(normal)
}

fn folders(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut folders = entries(folder)?;
    folders.retain(|path| path.is_dir());
    Ok(folders)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let what = || format!("cannot list {}", folder.display());
    fs::read_dir(folder).with_context(what)?.map(|entry| Ok(entry.with_context(what)?.path())).collect()
}

/// The folder's own `*.md`, without those of its folders.
fn read_pages(root: &Path, folder: &Path, pages: &mut BTreeMap<PathBuf, Page>) -> Result<()> {
    for path in entries(folder)? {
        if path.extension().is_some_and(|extension| extension == "md") {
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            pages.insert(path.strip_prefix(root).context("a page lies in the repository")?.to_owned(), read(&text));
        }
    }
    Ok(())
}

fn read(text: &str) -> Page {
    let mut undefined = Vec::new();
    let note = |link: BrokenLink<'_>| -> Option<(CowStr<'_>, CowStr<'_>)> {
        // `[::1]` in a sentence is a shortcut, which is nearly always just brackets.
        if link.link_type != LinkType::Shortcut {
            undefined.push(link.reference.to_string());
        }
        None
    };
    let mut page = Page::default();
    let mut heading: Option<String> = None;
    let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH;
    for event in Parser::new_with_broken_link_callback(text, options, Some(note)) {
        match event {
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                page.links.push(dest_url.to_string());
            }
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::End(TagEnd::Heading(_)) => {
                let slug = slug(&heading.take().unwrap_or_default());
                let again = (1..).map(|number| format!("{slug}-{number}"));
                let anchor = std::iter::once(slug.clone()).chain(again).find(|anchor| !page.anchors.contains(anchor));
                page.anchors.extend(anchor);
            }
            Event::Text(text) | Event::Code(text) => {
                if let Some(heading) = &mut heading {
                    heading.push_str(&text);
                }
            }
            _ => {}
        }
    }
    page.undefined = undefined;
    page
}

/// The anchor that GitHub and mdbook make of a heading.
fn slug(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_link_of_the_documents_leads_somewhere() {
        let problems = broken(&crate::paths::root()).unwrap();
        assert!(problems.is_empty(), "{problems:#?}");
    }

    /// A repository with a book of three pages, and a README with this text.
    fn told(readme: &str, page: &str) -> Vec<String> {
        let root = tempfile::tempdir().unwrap();
        for folder in [BOOK, "bench/results/1"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        let summary = "# Summary\n- [A](a.md)\n- [B](b.md)\n";
        let b = "# Is it `b`?\n## Twice\n## Twice\n";
        for (name, text) in [("SUMMARY.md", summary), ("a.md", page), ("b.md", b)] {
            fs::write(root.path().join(BOOK).join(name), text).unwrap();
        }
        fs::write(root.path().join("README.md"), readme).unwrap();
        broken(root.path()).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_right_is_not_told() {
        let readme = "# R\n[b](docs/src/b.md#is-it-b) [b](docs/src/./a.md) [r](#r) <https://example.com/#x>\n\
                      [x][y] [::1] ![](docs/src/b.md)\n\n[y]: docs/src/b.md#twice-1\n\n```\n[no](no.md)\n```\n";
        let page = format!("[r]({}README.md#r) [b](b.md#twice) [s](mailto:a@example.com)\n", REPOSITORY[0]);
        assert_eq!(told(readme, &page), Vec::<String>::new());
    }

    #[test]
    fn what_leads_nowhere_is_told() {
        let readme = "[1](no.md) [2](docs/src/b.md#thrice) [3](#no) [4](../x.md) [5][five] | [6](docs/src/b.md#twice-2)\n\
                      ![7](no.svg)\n\n|a|\n|-|\n|[8](eight)|\n";
        let all = told(readme, "").join("\n");
        for link in
            ["no.md", "docs/src/b.md#thrice", "#no", "../x.md", "five", "docs/src/b.md#twice-2", "no.svg", "eight"]
        {
            assert!(all.contains(&format!("README.md: `{link}` ")), "{link} is missing in\n{all}");
        }
        assert_eq!(all.lines().count(), 8, "{all}");
    }

    #[test]
    fn the_book_is_whole() {
        let outside = told("", &format!("[r](../../README.md) [x]({}no.rs)", REPOSITORY[0]));
        assert!(outside[0].contains("leaves the book") && outside[1].contains("no file"), "{outside:?}");
        let pages = |summary: &str| {
            [("SUMMARY.md", summary), ("a.md", ""), ("b.md", "")]
                .map(|(name, text)| (Path::new(BOOK).join(name), read(text)))
                .into_iter()
                .collect()
        };
        let told = summary(&pages("[A](a.md)\n[A](a.md)\n"));
        assert_eq!(told.iter().map(|problem| &*problem.link).collect::<Vec<_>>(), ["a.md", "b.md"]);
    }
}
