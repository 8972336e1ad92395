//! Cycles between the modules of a crate: two modules that use each other cannot be read, tested or moved one by one.
//!
//! Looked at are a crate's first-level modules, each with all its submodules, and the crate's root file. A module uses
//! another if a path in its code begins there (`crate::other::…`, `super::other::…`, or a name that the root re-exports).
//! Code for tests only is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

use super::sources::{SourceFile, only_for_tests};

/// The node of the root file.
const ROOT: &str = "(root)";

/// A crate's modules and which others each of them uses.
type ModuleGraph = BTreeMap<String, BTreeSet<String>>;

/// The modules that are in a cycle, by the crate's folder; crates without a cycle are left out.
pub(crate) fn find(files: &[SourceFile]) -> BTreeMap<String, BTreeSet<String>> {
    let files: SourceFiles<'_> = files.iter().map(|file| (file.path.as_path(), &file.syntax)).collect();
    let mut cyclic: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for root in files.keys().filter(|path| path.ends_with("src/main.rs") || path.ends_with("src/lib.rs")) {
        let cycles = in_cycles(&CrateModules::read(&files, root).graph());
        let folder = root.parent().and_then(Path::parent).unwrap_or(root);
        if !cycles.is_empty() {
            cyclic.entry(folder.display().to_string()).or_default().extend(cycles);
        }
    }
    cyclic
}

/// Every module from which a way leads back to itself.
fn in_cycles(graph: &ModuleGraph) -> BTreeSet<String> {
    let reaches_itself = |start: &String| {
        let mut seen: BTreeSet<&String> = BTreeSet::new();
        let mut next: Vec<&String> = graph[start].iter().collect();
        while let Some(module) = next.pop() {
            if module == start {
                return true;
            }
            if seen.insert(module) {
                next.extend(graph.get(module).into_iter().flatten());
            }
        }
        false
    };
    graph.keys().filter(|module| reaches_itself(module)).cloned().collect()
}

type SourceFiles<'a> = BTreeMap<&'a Path, &'a syn::File>;

/// All that one crate's code says about modules.
#[derive(Default)]
struct CrateModules {
    /// The first-level ones.
    names: BTreeSet<String>,
    /// Names that the root file brings in, and where from.
    reexports: BTreeMap<String, Vec<String>>,
    /// First-level module (or [`ROOT`]) and an absolute path that its code names.
    uses: Vec<(String, Vec<String>)>,
}

impl CrateModules {
    fn read(files: &SourceFiles<'_>, root: &Path) -> Self {
        let mut modules = Self::default();
        let folder = root.parent().unwrap_or(root).to_owned();
        let mut open = vec![(root.to_owned(), Vec::new(), folder)];
        while let Some((path, module, folder)) = open.pop() {
            let Some(syntax) = files.get(path.as_path()) else { continue };
            let mut visitor = ModuleVisitor { modules: &mut modules, module, folder, declared: Vec::new() };
            visitor.visit_file(syntax);
            for (module, folder) in visitor.declared {
                let candidates = [folder.with_extension("rs"), folder.join("mod.rs")];
                let file = candidates.into_iter().find(|file| files.contains_key(file.as_path()));
                open.extend(file.map(|file| (file, module, folder)));
            }
        }
        modules
    }

    fn graph(&self) -> ModuleGraph {
        let nodes = self.names.iter().cloned().chain([ROOT.to_owned()]);
        let mut graph: ModuleGraph = nodes.map(|name| (name, BTreeSet::new())).collect();
        for (user, path) in &self.uses {
            if let Some(used) = self.used(user, path).filter(|used| used != user) {
                graph.entry(user.clone()).or_default().insert(used);
            }
        }
        graph
    }

    /// The node that an absolute path leads to.
    fn used(&self, user: &str, path: &[String]) -> Option<String> {
        let Some(first) = path.first() else { return Some(ROOT.to_owned()) };
        if self.names.contains(first) {
            return Some(first.clone());
        }
        match self.reexports.get(first).and_then(|from| from.first()) {
            Some(module) if self.names.contains(module) => Some(module.clone()),
            // The root's own paths may begin with anything: another crate, a local name.
            _ => (user != ROOT).then(|| ROOT.to_owned()),
        }
    }
}

struct ModuleVisitor<'a> {
    modules: &'a mut CrateModules,
    /// The module whose code is read, from the crate's root.
    module: Vec<String>,
    /// Where files of its submodules are.
    folder: PathBuf,
    /// Submodules with a file of their own: each with its path, and the folder of its submodules.
    declared: Vec<(Vec<String>, PathBuf)>,
}

impl ModuleVisitor<'_> {
    fn node(&self) -> String {
        self.module.first().cloned().unwrap_or_else(|| ROOT.to_owned())
    }

    /// Notes that the code names this path.
    fn named(&mut self, segments: &[String]) {
        if let Some(absolute) = self.absolute(segments) {
            let node = self.node();
            self.modules.uses.push((node, absolute));
        }
    }

    /// The path from the crate's root, if it is one into this crate.
    fn absolute(&self, segments: &[String]) -> Option<Vec<String>> {
        let first = segments.first()?;
        let mut base = match first.as_str() {
            "crate" => Vec::new(),
            "self" | "super" => self.module.clone(),
            _ => return self.module.is_empty().then(|| segments.to_vec()),
        };
        let ups = segments.iter().take_while(|segment| *segment == "super").count();
        base.truncate(base.len().saturating_sub(ups));
        base.extend(segments.iter().skip(ups.max(1)).cloned());
        // `self` alone is a value, and `Self` a type.
        (segments.len() > 1).then_some(base)
    }

    fn use_tree(&mut self, tree: &syn::UseTree, prefix: &mut Vec<String>, public: bool) {
        match tree {
            syn::UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.use_tree(&path.tree, prefix, public);
                prefix.pop();
            }
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.use_tree(tree, prefix, public);
                }
            }
            syn::UseTree::Name(name) => {
                let name = name.ident.to_string();
                self.imported(&[prefix.as_slice(), std::slice::from_ref(&name)].concat(), &name, public);
            }
            syn::UseTree::Rename(rename) => {
                let path = [prefix.as_slice(), &[rename.ident.to_string()]].concat();
                self.imported(&path, &rename.rename.to_string(), public);
            }
            syn::UseTree::Glob(_) => self.imported(&[prefix.as_slice(), &["*".to_owned()]].concat(), "*", public),
        }
    }

    fn imported(&mut self, path: &[String], name: &str, public: bool) {
        if self.module.is_empty() {
            let path = self.absolute(path).unwrap_or_default();
            self.modules.reexports.insert(name.to_owned(), path);
        }
        // What the root re-exports it need not use itself.
        if !(public && self.module.is_empty()) {
            self.named(path);
        }
    }

    /// Paths in the arguments of macros, which are no syntax yet.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.macro_path(&std::mem::take(&mut path));
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                other => {
                    self.macro_path(&std::mem::take(&mut path));
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.tokens(group.stream());
                    }
                }
            }
        }
        self.macro_path(&path);
    }

    fn macro_path(&mut self, path: &[String]) {
        if path.len() > 1 {
            self.named(path);
        }
    }
}

impl<'ast> Visit<'ast> for ModuleVisitor<'_> {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if !only_for_tests(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let name = item.ident.to_string();
        if self.module.is_empty() {
            self.modules.names.insert(name.clone());
        }
        self.module.push(name.clone());
        self.folder.push(name);
        match &item.content {
            Some(_) => visit::visit_item_mod(self, item),
            None => self.declared.push((self.module.clone(), self.folder.clone())),
        }
        self.module.pop();
        self.folder.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let public = !matches!(item.vis, syn::Visibility::Inherited);
        self.use_tree(&item.tree, &mut Vec::new(), public);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !only_for_tests(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if segments.len() > 1 {
            self.named(&segments);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.tokens(item.tokens.clone());
        visit::visit_macro(self, item);
    }

    /// `pub(in crate::module)` uses nothing.
    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {}
}

fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Macro(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Static(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Trait(item) => &item.attrs,
        syn::Item::Type(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::super::sources;
    use super::*;

    fn cycles(files: &[(&str, &str)]) -> String {
        let files: Vec<_> = files.iter().map(|(path, text)| sources::parse(path.into(), text).unwrap()).collect();
        let found = find(&files).into_iter();
        let spelled = found.map(|(folder, modules)| format!("{folder}: {}", Vec::from_iter(modules).join(" ")));
        spelled.collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn two_modules_that_use_each_other_are_a_cycle() {
        let root = ("cli/src/main.rs", "mod a; mod b; mod c; fn main() { a::run() }");
        let (a, c) = (("cli/src/a.rs", "use super::b::B;"), ("cli/src/c.rs", "use crate::a;"));
        assert_eq!(cycles(&[root, a, c, ("cli/src/b.rs", "struct B;")]), "");
        assert_eq!(cycles(&[root, a, c, ("cli/src/b.rs", "fn f() { crate::a::g() }")]), "cli: a b");
        // Through a submodule, a macro's arguments, and a third module.
        let b = ("cli/src/b.rs", "mod deep;");
        assert_eq!(cycles(&[root, a, b, c, ("cli/src/b/deep.rs", "use super::super::c::C;")]), "cli: a b c");
        assert_eq!(cycles(&[root, a, c, ("cli/src/b.rs", "fn f() { info!(x = ?crate::a::G, \"\") }")]), "cli: a b");
    }

    #[test]
    fn the_root_is_a_module_and_its_reexports_are_not() {
        let a = ("x/src/a.rs", "use crate::B;");
        let b = ("x/src/b.rs", "pub struct B;");
        assert_eq!(cycles(&[("x/src/lib.rs", "mod a; mod b; pub use b::B; use a::A;"), a, b]), "");
        assert_eq!(cycles(&[("x/src/lib.rs", "mod a; mod b; pub struct B; use a::A;"), a, b]), "x: (root) a");
        assert_eq!(cycles(&[("x/src/lib.rs", "mod a; mod b; pub struct B;"), a, b]), "");
    }

    #[test]
    fn tests_may_use_whatever_they_test() {
        let root = ("x/src/lib.rs", "mod a; mod b;");
        let tests = "#[cfg(test)] mod tests { use crate::a::A; }";
        assert_eq!(cycles(&[root, ("x/src/a.rs", "use crate::b::B;"), ("x/src/b.rs", tests)]), "");
        let declared = ("x/src/b.rs", "#[cfg(test)] mod tests;");
        let tests = ("x/src/b/tests.rs", "use crate::a::A;");
        assert_eq!(cycles(&[root, ("x/src/a.rs", "use crate::b::B;"), declared, tests]), "");
    }
}
