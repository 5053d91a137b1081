//! Import cycles between the files of a crate, found in the tokens of its source.
//!
//! A file imports another when it names something in it, by a `use` or by a path where it is used: `crate::a::b`,
//! `super::b`, `self::b`, or `b::c` for a child `b`. A path is in the file of its longest prefix that is a file's
//! module, so a name that `mod.rs` or `lib.rs` re-exports is theirs. Items under `#[cfg(test)]` do not count, nor does
//! a `mod`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use proc_macro2::{Delimiter, Group, Spacing, TokenStream, TokenTree};

/// A file that names something in another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// The importing file.
    pub file: String,
    /// The line of the path.
    pub line: usize,
    /// The path as it is written, without its braces.
    pub path: String,
    /// The imported file.
    pub target: String,
}

impl fmt::Display for Import {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: `{}` is in {}", self.file, self.line, self.path, self.target)
    }
}

/// A module by the names from the crate's root to it; the root has none.
type ModulePath = Vec<String>;

/// The module of one file.
struct Module {
    file: String,
    /// The modules that it declares, in files of their own.
    children: BTreeSet<String>,
    mentions: Vec<Mention>,
}

/// A path into the crate.
struct Mention {
    line: usize,
    written: String,
    /// The path from the crate's root.
    path: ModulePath,
}

/// Finds import cycles, each as the imports that close it. No file is in two of them, so others may show once these are
/// gone. `sources` has the files by their path below `src`, `root` among them.
pub fn cycles(sources: &BTreeMap<String, String>, root: &str) -> Vec<Vec<Import>> {
    let modules = modules(sources, root);
    let imports = imports(&modules);
    let mut reported = BTreeSet::new();
    let mut cycles = Vec::new();
    for start in modules.keys() {
        let Some(cycle) = shortest_cycle(&imports, start).filter(|cycle| cycle.iter().all(|at| !reported.contains(at)))
        else {
            continue;
        };
        let ends = cycle.iter().cycle().skip(1);
        cycles.push(cycle.iter().zip(ends).map(|(from, to)| imports[from][to].clone()).collect());
        reported.extend(cycle);
    }
    cycles
}

/// Reads the modules that `root` declares, and those that they declare.
fn modules(sources: &BTreeMap<String, String>, root: &str) -> BTreeMap<ModulePath, Module> {
    let mut modules = BTreeMap::new();
    let mut waiting = vec![ModulePath::new()];
    while let Some(path) = waiting.pop() {
        let name = path.join("/");
        let files =
            if path.is_empty() { vec![root.to_owned()] } else { vec![format!("{name}.rs"), format!("{name}/mod.rs")] };
        let found = files.iter().find_map(|file| sources.get_key_value(file));
        let Some((file, text)) = found else { panic!("the module {} is in none of {files:?}", path.join("::")) };
        let module = Module::read(file, text, &path);
        waiting.extend(module.children.iter().map(|child| joined(&path, [child])));
        modules.insert(path, module);
    }
    modules
}

/// Returns the first import of each file from each other file.
fn imports(modules: &BTreeMap<ModulePath, Module>) -> BTreeMap<&ModulePath, BTreeMap<&ModulePath, Import>> {
    let mut imports = BTreeMap::new();
    for (from, module) in modules {
        let targets: &mut BTreeMap<_, _> = imports.entry(from).or_default();
        for Mention { line, written, path } in &module.mentions {
            let target = (0..=path.len()).rev().find_map(|length| modules.get_key_value(&path[..length]));
            if let Some((to, target)) = target.filter(|(to, _)| *to != from) {
                targets.entry(to).or_insert_with(|| Import {
                    file: module.file.clone(),
                    line: *line,
                    path: written.clone(),
                    target: target.file.clone(),
                });
            }
        }
    }
    imports
}

/// Finds a shortest way from `start` back to it, which begins with `start`.
fn shortest_cycle<'a>(
    imports: &BTreeMap<&'a ModulePath, BTreeMap<&'a ModulePath, Import>>,
    start: &'a ModulePath,
) -> Option<Vec<&'a ModulePath>> {
    let mut before: BTreeMap<&ModulePath, &'a ModulePath> = BTreeMap::new();
    let mut waiting = VecDeque::from([start]);
    while let Some(from) = waiting.pop_front() {
        for &to in imports[from].keys() {
            if to == start {
                let mut way = vec![from];
                while let Some(&previous) = way.last().and_then(|at| before.get(at)) {
                    way.push(previous);
                }
                way.reverse();
                return Some(way);
            }
            before.entry(to).or_insert_with(|| {
                waiting.push_back(to);
                from
            });
        }
    }
    None
}

impl Module {
    fn read(file: &str, text: &str, path: &ModulePath) -> Self {
        let tokens: TokenStream = text.parse().unwrap_or_else(|error| panic!("{file}: {error}"));
        let tokens = without_tests(tokens);
        let declared = tokens.windows(3).filter_map(|three| match three {
            [TokenTree::Ident(word), TokenTree::Ident(name), end] if word == "mod" && is_punct(end, ';') => {
                Some(name.to_string())
            }
            _ => None,
        });
        let mut reader = Reader { children: declared.collect(), mentions: Vec::new() };
        reader.read(&tokens, path);
        Self { file: file.to_owned(), children: reader.children, mentions: reader.mentions }
    }
}

struct Reader {
    children: BTreeSet<String>,
    mentions: Vec<Mention>,
}

impl Reader {
    /// Reads the paths in `tokens`, which are in the module `at`: the file's, or one in braces below it.
    fn read(&mut self, tokens: &[TokenTree], at: &ModulePath) {
        let mut place = 0;
        while let Some(token) = tokens.get(place) {
            match (token, &tokens[place + 1..]) {
                (TokenTree::Ident(word), [next, ..]) if word == "use" && !is_punct(next, '<') => {
                    let end = tokens[place..].iter().position(|token| is_punct(token, ';'));
                    let end = end.map_or(tokens.len(), |length| place + length);
                    self.read_use(&tokens[place + 1..end], &[], at);
                    place = end;
                }
                (TokenTree::Ident(word), [TokenTree::Ident(name), TokenTree::Group(body), ..]) if word == "mod" => {
                    self.read(&without_tests(body.stream()), &joined(at, [&name.to_string()]));
                    place += 3;
                }
                (TokenTree::Ident(word), rest) => {
                    let line = word.span().start().line;
                    let mut names = vec![word.to_string()];
                    names.extend(names_after(rest));
                    let length = 3 * names.len() - 2;
                    // After a separator it is a part of a path that begins outside, or with a type.
                    if names.len() > 1 && !(place >= 2 && is_separator(&tokens[place - 2..])) {
                        self.mention(line, names, at);
                    }
                    place += length;
                }
                (TokenTree::Group(group), _) => {
                    self.read(&without_tests(group.stream()), at);
                    place += 1;
                }
                _ => place += 1,
            }
        }
    }

    /// Reads a `use` without its first word and its end, or the braces in one, with `before` in front of each path.
    fn read_use(&mut self, tokens: &[TokenTree], before: &[String], at: &ModulePath) {
        for tree in tokens.split(|token| is_punct(token, ',')) {
            let (first, rest) = match tree {
                [TokenTree::Ident(first), rest @ ..] => (first, rest),
                [TokenTree::Group(braces)] => {
                    self.read_use(&Vec::from_iter(braces.stream()), before, at);
                    continue;
                }
                // A path that begins with a separator names another crate, a `*` what was named before the braces.
                _ => continue,
            };
            let mut names = joined(before, [&first.to_string()]);
            names.extend(names_after(rest));
            let rest = &rest[3 * (names.len() - before.len() - 1)..];
            match rest {
                [_, _, TokenTree::Group(braces)] if is_separator(rest) => {
                    self.read_use(&Vec::from_iter(braces.stream()), &names, at);
                }
                _ => self.mention(first.span().start().line, names, at),
            }
        }
    }

    /// Keeps the path `names`, written in the module `at`, when it leads into the crate.
    fn mention(&mut self, line: usize, mut names: Vec<String>, at: &ModulePath) {
        if names.len() > 1 && names.last().is_some_and(|last| last == "self") {
            names.pop();
        }
        let ups = names.iter().take_while(|name| *name == "super").count();
        let path = match names[0].as_str() {
            "crate" => names[1..].to_vec(),
            "self" => joined(at, &names[1..]),
            "super" => joined(&at[..at.len().saturating_sub(ups)], &names[ups..]),
            child if self.children.contains(child) => joined(at, &names),
            _ => return,
        };
        self.mentions.push(Mention { line, written: names.join("::"), path });
    }
}

/// Returns the tokens of a file or of a group without the items under `#[cfg(test)]`.
fn without_tests(tokens: TokenStream) -> Vec<TokenTree> {
    let mut code = Vec::new();
    let mut tokens = tokens.into_iter();
    while let Some(token) = tokens.next() {
        match &token {
            TokenTree::Group(group) if is_cfg_test(group) && code.last().is_some_and(|last| is_punct(last, '#')) => {
                code.pop();
                // An item ends with its body or a semicolon; what follows the braces in a `use` is the semicolon alone.
                tokens.find(|token| match token {
                    TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
                    other => is_punct(other, ';'),
                });
            }
            _ => code.push(token),
        }
    }
    code
}

fn is_cfg_test(attribute: &Group) -> bool {
    let tokens = Vec::from_iter(attribute.stream());
    let [TokenTree::Ident(word), TokenTree::Group(condition)] = tokens.as_slice() else { return false };
    word == "cfg" && condition.stream().to_string() == "test"
}

/// Returns the names that continue a path: `::a::b`.
fn names_after(mut tokens: &[TokenTree]) -> Vec<String> {
    let mut names = Vec::new();
    while let [_, _, TokenTree::Ident(name), rest @ ..] = tokens
        && is_separator(tokens)
    {
        names.push(name.to_string());
        tokens = rest;
    }
    names
}

/// Returns whether `tokens` begin with `::`.
fn is_separator(tokens: &[TokenTree]) -> bool {
    let [TokenTree::Punct(first), second, ..] = tokens else { return false };
    first.as_char() == ':' && first.spacing() == Spacing::Joint && is_punct(second, ':')
}

fn is_punct(token: &TokenTree, sign: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == sign)
}

fn joined<'a>(path: &'a [String], names: impl IntoIterator<Item = &'a String>) -> ModulePath {
    path.iter().chain(names).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cycles_of<const N: usize>(sources: [(&str, &str); N]) -> Vec<Vec<String>> {
        let sources = sources.map(|(file, text)| (file.to_owned(), text.to_owned())).into();
        let shown = |cycle: Vec<Import>| cycle.iter().map(ToString::to_string).collect();
        cycles(&sources, "lib.rs").into_iter().map(shown).collect()
    }

    /// Returns the paths from the root that `text` names in the module `a::b`, which declares `child`.
    fn paths(text: &str) -> Vec<String> {
        let module = Module::read("a/b.rs", &format!("mod child;\n{text}"), &vec!["a".to_owned(), "b".to_owned()]);
        module.mentions.into_iter().map(|mention| mention.path.join("::")).collect()
    }

    #[test]
    fn a_cycle_is_shown_with_the_paths_that_close_it() {
        let found = cycles_of([
            ("lib.rs", "mod a; mod b; mod c; pub use a::A;"),
            ("a.rs", "use crate::b::B;\npub struct A(B);"),
            ("b.rs", "use std::fmt;\nfn f() {\n    super::c::call()\n}"),
            ("c.rs", "use super::a;"),
        ]);
        let expected = [
            "a.rs:1: `crate::b::B` is in b.rs",
            "b.rs:3: `super::c::call` is in c.rs",
            "c.rs:1: `super::a` is in a.rs",
        ];
        assert_eq!(found, [expected]);
    }

    #[test]
    fn a_tree_has_no_cycle() {
        let found = cycles_of([
            ("lib.rs", "mod engine; mod table; pub use engine::Engine;"),
            ("engine.rs", "use crate::table::{pinned::Pinned, scan::{self, Scan}};"),
            ("table/mod.rs", "pub(crate) mod pinned; pub(crate) mod scan;"),
            ("table/pinned.rs", "pub(in crate::table) struct Pinned;"),
            ("table/scan.rs", "use super::pinned::Pinned; pub(crate) struct Scan { pinned: Pinned }"),
        ]);
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn a_name_that_is_re_exported_belongs_to_the_file_that_does_it() {
        let found = cycles_of([
            ("lib.rs", "mod room; pub use room::Thing;"),
            ("room/mod.rs", "mod thing; mod other; pub use thing::Thing;"),
            ("room/thing.rs", "pub struct Thing;"),
            ("room/other.rs", "use crate::Thing;"),
        ]);
        assert!(found.is_empty(), "other.rs imports lib.rs, which does not import other.rs: {found:?}");
        let found = cycles_of([
            ("lib.rs", "mod room;"),
            ("room/mod.rs", "mod thing; mod other; pub use {thing::Thing, other::Other};"),
            ("room/thing.rs", "pub struct Thing;"),
            ("room/other.rs", "use super::Thing; pub struct Other(Thing);"),
        ]);
        assert_eq!(
            found,
            [[
                "room/mod.rs:1: `other::Other` is in room/other.rs",
                "room/other.rs:1: `super::Thing` is in room/mod.rs"
            ]]
        );
    }

    #[test]
    fn tests_do_not_count() {
        let found = cycles_of([
            ("lib.rs", "mod a; mod b; #[cfg(test)] mod testing;"),
            ("a.rs", "use crate::b::B; #[cfg(test)] use crate::testing::{self, lake}; struct A;"),
            ("b.rs", "pub struct B;\n#[cfg(test)]\n#[allow(unused)]\nmod tests { use super::*; use crate::a::A; }"),
        ]);
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn nested_trees_are_taken_apart() {
        let found =
            paths("use crate::{c::{self, D as E, e::*}, f}; pub use ::child::X; use std::{fmt, crate_like::Y};");
        assert_eq!(found, ["c", "c::D", "c::e", "f"]);
        assert_eq!(
            paths("use {super::x, self::{y, z}, child::W}; use super::*;"),
            ["a::x", "a::b::y", "a::b::z", "a::b::child::W", "a"]
        );
    }

    #[test]
    fn paths_are_found_where_they_are_used() {
        let text = r#"fn f(a: super::A) -> child::B {
            format!("crate::no {}", crate::c::d()) /* crate::no */ + x.child.y
        }"#;
        assert_eq!(paths(text), ["a::A", "a::b::child::B", "c::d"]);
        assert_eq!(paths("mod inner { use super::X; use super::super::Y; }"), ["a::b::X", "a::Y"]);
        assert!(
            paths(
                "pub(crate) struct S<'a>(&'a str); impl S<'_> { fn f() -> impl Iterator + use<'_> { std::child::f() } }"
            )
            .is_empty()
        );
    }
}
