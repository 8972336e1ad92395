//! Figures about names and sizes, each with a limit that the tree must keep. Code of tests counts like any other.
//!
//! The limits are a ratchet: whoever makes a figure better lowers its limit, nobody raises one.

use std::collections::BTreeMap;
use std::fmt;

use syn::visit::{self, Visit};

use super::sources::SourceFile;

/// How many names, functions or files are named where a limit is exceeded.
const WORST: usize = 12;

/// What is measured over all files.
pub(crate) struct CodeFigures {
    types: Vec<String>,
    functions: Vec<FunctionLength>,
    files: Vec<(usize, String)>,
}

struct FunctionLength {
    lines: usize,
    name: String,
    file: String,
}

/// One figure, and the most that it may be.
pub(crate) struct LimitedFigure {
    pub(crate) what: &'static str,
    pub(crate) value: f64,
    pub(crate) limit: f64,
    /// What to change first.
    pub(crate) worst: Vec<String>,
}

impl LimitedFigure {
    pub(crate) fn exceeded(&self) -> bool {
        self.value > self.limit
    }
}

impl fmt::Display for LimitedFigure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:.1} (at most {})", self.what, self.value, self.limit)
    }
}

impl CodeFigures {
    pub(crate) fn of(files: &[SourceFile]) -> Self {
        let mut figures = Self { types: Vec::new(), functions: Vec::new(), files: Vec::new() };
        for file in files {
            let path = file.path.display().to_string();
            figures.files.push((file.lines, path.clone()));
            FileVisitor { figures: &mut figures, path }.visit_file(&file.syntax);
        }
        figures.functions.sort_by_key(|function| std::cmp::Reverse(function.lines));
        figures.files.sort_by(|one, other| other.cmp(one));
        figures
    }

    /// Every figure with its limit.
    pub(crate) fn limited(&self) -> Vec<LimitedFigure> {
        vec![self.one_word_types(), self.shared_type_names(), self.long_functions(), self.long_files()]
    }

    fn one_word_types(&self) -> LimitedFigure {
        let one_word: Vec<&String> = self.types.iter().filter(|name| words(name) < 2).collect();
        LimitedFigure {
            what: "types with a name of one word, %",
            value: percent(one_word.len(), self.types.len()),
            limit: super::limits::ONE_WORD_TYPES,
            worst: most_frequent(one_word.into_iter()),
        }
    }

    fn shared_type_names(&self) -> LimitedFigure {
        let counts = frequencies(self.types.iter());
        let shared: Vec<&String> = self.types.iter().filter(|name| counts[name.as_str()] >= 3).collect();
        LimitedFigure {
            what: "types whose name three or more have, %",
            value: percent(shared.len(), self.types.len()),
            limit: super::limits::SHARED_TYPE_NAMES,
            worst: most_frequent(shared.into_iter()),
        }
    }

    fn long_functions(&self) -> LimitedFigure {
        // Sorted from the longest on: one in a hundred is longer than this one.
        let percentile = self.functions.get(self.functions.len() / 100).map_or(0, |function| function.lines);
        let longest = self.functions.iter().take(WORST);
        LimitedFigure {
            what: "lines of a function, 99th percentile",
            value: as_figure(percentile),
            limit: super::limits::FUNCTION_LINES,
            worst: longest.map(|long| format!("{} in {}: {}", long.name, long.file, long.lines)).collect(),
        }
    }

    fn long_files(&self) -> LimitedFigure {
        let longest = self.files.first().map_or(0, |(lines, _)| *lines);
        let limit = super::limits::FILE_LINES;
        let beyond = self.files.iter().filter(|(lines, _)| as_figure(*lines) > limit);
        LimitedFigure {
            what: "lines of the longest file",
            value: as_figure(longest),
            limit,
            worst: beyond.map(|(lines, path)| format!("{path}: {lines}")).collect(),
        }
    }
}

fn as_figure(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::INFINITY, f64::from)
}

fn percent(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { as_figure(part) * 100.0 / as_figure(whole) }
}

/// How many words a CamelCase name has; a run of capitals (`TLS`) is one, and digits belong to the word before them.
fn words(name: &str) -> usize {
    let letters: Vec<char> = name.chars().collect();
    let begins_a_word = |at: usize| {
        letters[at].is_uppercase()
            && (at == 0
                || !letters[at - 1].is_uppercase()
                || letters.get(at + 1).is_some_and(|next| next.is_lowercase()))
    };
    (0..letters.len()).filter(|at| begins_a_word(*at)).count()
}

fn frequencies<'a>(names: impl Iterator<Item = &'a String>) -> BTreeMap<&'a str, usize> {
    let mut counts = BTreeMap::new();
    for name in names {
        *counts.entry(name.as_str()).or_default() += 1;
    }
    counts
}

fn most_frequent<'a>(names: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut counts: Vec<_> = frequencies(names).into_iter().collect();
    counts.sort_by_key(|(name, count)| (std::cmp::Reverse(*count), *name));
    counts.into_iter().take(WORST).map(|(name, count)| format!("{name} {count}×")).collect()
}

struct FileVisitor<'a> {
    figures: &'a mut CodeFigures,
    path: String,
}

impl FileVisitor<'_> {
    fn type_named(&mut self, name: &syn::Ident) {
        self.figures.types.push(name.to_string());
    }

    /// From the line of `fn` to that of the closing brace.
    fn function(&mut self, signature: &syn::Signature, body: &syn::Block) {
        let (first, last) = (signature.fn_token.span.start().line, body.brace_token.span.close().end().line);
        self.figures.functions.push(FunctionLength {
            lines: last + 1 - first,
            name: signature.ident.to_string(),
            file: self.path.clone(),
        });
    }
}

impl<'ast> Visit<'ast> for FileVisitor<'_> {
    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.type_named(&item.ident);
        visit::visit_item_struct(self, item);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.type_named(&item.ident);
        visit::visit_item_enum(self, item);
    }

    fn visit_item_union(&mut self, item: &'ast syn::ItemUnion) {
        self.type_named(&item.ident);
        visit::visit_item_union(self, item);
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.type_named(&item.ident);
        visit::visit_item_trait(self, item);
    }

    fn visit_item_type(&mut self, item: &'ast syn::ItemType) {
        self.type_named(&item.ident);
        visit::visit_item_type(self, item);
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(body) = &item.default {
            self.function(&item.sig, body);
        }
        visit::visit_trait_item_fn(self, item);
    }
}

#[cfg(test)]
mod tests {
    use super::super::sources;
    use super::*;

    fn figures(text: &str) -> CodeFigures {
        CodeFigures::of(&[sources::parse("a.rs".into(), text).unwrap()])
    }

    #[test]
    fn words_of_a_name_are_counted() {
        for (name, count) in
            [("Pod", 1), ("PodLocation", 2), ("TLS", 1), ("TLSAlert", 2), ("Http2Handoff", 2), ("IPv4", 2), ("H2", 1)]
        {
            assert_eq!(words(name), count, "{name}");
        }
    }

    #[test]
    fn types_of_every_kind_and_place_count() {
        let text = "struct A; enum B {} trait C {} type D = u8; union E { a: u8 }
            mod m { struct Pod; fn f() { struct Pod; } } mod n { struct Pod; } struct TwoWords; struct A;";
        let figures = figures(text);
        assert_eq!(figures.types.len(), 10);
        assert!((figures.one_word_types().value - 90.0).abs() < 0.01);
        assert!((figures.shared_type_names().value - 30.0).abs() < 0.01);
        assert_eq!(figures.shared_type_names().worst, ["Pod 3×"]);
    }

    #[test]
    fn functions_are_measured_wherever_they_are() {
        let text = "fn a() {}\nimpl X {\n#[inline]\nfn b(\n) {\n}\n}\ntrait Y { fn c(); fn d() {\n} }\n";
        let figures = figures(text);
        let lengths: Vec<_> = figures.functions.iter().map(|long| (long.name.as_str(), long.lines)).collect();
        assert_eq!(lengths, [("b", 3), ("d", 2), ("a", 1)]);
        assert!((figures.long_files().value - 9.0).abs() < 0.01);
    }

    #[test]
    fn one_above_the_limit_fails() {
        let figure = |value| LimitedFigure { what: "", value, limit: 7.0, worst: Vec::new() };
        assert!(figure(7.1).exceeded());
        assert!(!figure(7.0).exceeded());
    }
}
