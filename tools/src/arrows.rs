//! Which way arrows run inside a crate: what each file names, layers of rooms, circles of files.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::Line;

/// A path inside a crate, from its root: `["raw", "memory", "view"]`.
type Path = Vec<String>;

/// A name of the same crate that a file uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The line that it stands in, counted from 1.
    pub line: usize,
    /// Where it leads, from the crate's root.
    pub path: Path,
    /// A macro is called by it.
    is_macro: bool,
}

/// A crate and the order of its rooms.
#[derive(Clone, Copy, Debug)]
pub struct Crate {
    /// Where its sources are.
    pub sources: &'static str,
    /// Its rooms, lowest layer first. A room is a module with all below it that is not a room by itself.
    pub layers: &'static [&'static [&'static str]],
    /// Every room is on a layer, and rooms of one layer do not know each other.
    pub is_strict: bool,
    /// Exported macros and the rooms that they belong to.
    pub macros: &'static [(&'static str, &'static str)],
    /// Names that the crate's root gives, and the rooms that they come from.
    pub exports: &'static [(&'static str, &'static str)],
    /// What does not belong to the lib: the program's root and its modules.
    pub program: &'static [&'static str],
    /// Where the sources hang in the crate's tree of modules, if not at its root.
    pub root: &'static [&'static str],
}

impl Crate {
    /// A crate without layers.
    #[must_use]
    pub const fn loose(sources: &'static str) -> Self {
        Self { sources, layers: &[], is_strict: false, macros: &[], exports: &[], program: &[], root: &[] }
    }

    /// The module that a file of the crate is, from the crate's root; `None` for files of others, programs and tests.
    #[must_use]
    pub fn module(&self, file: &str) -> Option<Path> {
        let inside = file.strip_prefix(self.sources)?;
        let is_program = inside == "main.rs" || self.program.iter().any(|part| inside.starts_with(part));
        let path: Path = inside.strip_suffix(".rs")?.split('/').map(String::from).collect();
        if is_program || path.iter().any(|part| part == "tests") {
            return None;
        }
        let path = if inside == "lib.rs" { Path::new() } else { path };
        let path = [self.root.iter().copied().map(String::from).collect::<Path>(), path].concat();
        Some(match path.split_last() {
            Some((last, above)) if last == "mod" => above.to_vec(),
            _ => path,
        })
    }

    /// The layer and the name of the room that a path leads to.
    fn room(&self, path: &[String]) -> Option<(usize, &'static str)> {
        let rooms =
            self.layers.iter().enumerate().flat_map(|(layer, rooms)| rooms.iter().map(move |room| (layer, *room)));
        let holds = |room: &str| room.split("::").zip(path).all(|(a, b)| a == b) && depth(room) <= path.len();
        rooms.filter(|(_, room)| holds(room)).max_by_key(|(_, room)| depth(room))
    }

    /// Whether a module only holds rooms.
    fn is_hall(&self, module: &[String]) -> bool {
        let mut rooms = self.layers.iter().flat_map(|rooms| rooms.iter());
        module.is_empty()
            || rooms.any(|room| depth(room) > module.len() && room.split("::").zip(module).all(|(a, b)| a == b))
    }

    /// The lines of a file that name a room above its own, and what they do.
    #[must_use]
    pub fn against_the_layers(&self, module: &[String], references: &[Reference]) -> Vec<(usize, String)> {
        if self.is_hall(module) {
            return Vec::new();
        }
        let Some((own, room)) = self.room(module) else {
            let missing = (1, format!("`{}` is on no layer of its crate", module.join("::")));
            return if self.is_strict { vec![missing] } else { Vec::new() };
        };
        let judged = references.iter().filter_map(|reference| {
            let what = match self.room(&self.definition(reference)) {
                Some((layer, other)) if layer > own => format!("`{room}` lies below `{other}` and cannot name it"),
                Some((layer, other)) if self.is_strict && layer == own && other != room => {
                    format!("`{room}` lies beside `{other}` and cannot name it")
                }
                None if self.is_strict => format!("`crate::{}` leads to no room", reference.path.join("::")),
                _ => return None,
            };
            Some((reference.line, what))
        });
        judged.collect()
    }

    /// Where what a reference names is defined, as far as the reference tells.
    fn definition(&self, reference: &Reference) -> Path {
        let names = if reference.is_macro { self.macros } else { self.exports };
        let found = names.iter().find(|(name, _)| reference.path.first().is_some_and(|first| first == name));
        found.map_or_else(|| reference.path.clone(), |(_, room)| room.split("::").map(String::from).collect())
    }

    /// The circles of files that name each other, given what each module names. A module and those inside it are one
    /// thing in several files: arrows between them do not count.
    #[must_use]
    pub fn circles(&self, modules: &BTreeMap<Path, Vec<Reference>>) -> Vec<Vec<String>> {
        let file_of = |path: &[String]| {
            let known = (1..=path.len()).rev().filter_map(|length| path.get(..length));
            known.into_iter().find(|path| modules.contains_key(*path)).map(<[String]>::to_vec)
        };
        let mut arrows: BTreeMap<&Path, BTreeSet<Path>> = BTreeMap::new();
        for (module, references) in modules.iter().filter(|(module, _)| !module.is_empty()) {
            let named = references.iter().filter_map(|reference| file_of(&self.definition(reference)));
            let others = named.filter(|other| !other.starts_with(module) && !module.starts_with(other));
            arrows.insert(module, others.collect());
        }
        let reach = |from: &Path| {
            let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
            while let Some(module) = next.pop() {
                for other in arrows.get(module).into_iter().flatten() {
                    if seen.insert(other) {
                        next.push(other);
                    }
                }
            }
            seen
        };
        let reached: BTreeMap<&Path, BTreeSet<&Path>> = arrows.keys().map(|module| (*module, reach(module))).collect();
        let mut circles = BTreeSet::new();
        for (module, others) in reached.iter().filter(|(module, others)| others.contains(*module)) {
            let back = others.iter().filter(|other| reached.get(**other).is_some_and(|back| back.contains(*module)));
            circles.insert(back.map(|other| other.join("::")).collect::<Vec<_>>());
        }
        circles.into_iter().collect()
    }
}

fn depth(room: &str) -> usize {
    room.split("::").count()
}

/// A piece of code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    /// `::`
    Path,
    Sign(char),
}

/// The pieces of all lines that are no tests, each with its line.
fn tokens(lines: &[Line]) -> Vec<(usize, Token<'_>)> {
    let mut tokens = Vec::new();
    for (number, line) in (1..).zip(lines).filter(|(_, line)| !line.is_test) {
        let mut rest = line.code.as_str();
        while let Some(first) = rest.chars().next() {
            let is_word = |c: char| c.is_alphanumeric() || c == '_';
            let (token, length) = if is_word(first) {
                let end = rest.find(|c: char| !is_word(c)).unwrap_or(rest.len());
                (Token::Word(rest.get(..end).unwrap_or_default()), end)
            } else if rest.starts_with("::") {
                (Token::Path, 2)
            } else {
                (Token::Sign(first), first.len_utf8())
            };
            if !matches!(token, Token::Sign(c) if c.is_whitespace()) {
                tokens.push((number, token));
            }
            rest = rest.get(length..).unwrap_or_default();
        }
    }
    tokens
}

/// The names of its own crate that a file uses, which is `module` there.
#[must_use]
pub fn references(module: &[String], lines: &[Line]) -> Vec<Reference> {
    let tokens = tokens(lines);
    let mut reader = Reader { tokens: &tokens, at: 0, module: module.to_vec(), found: Vec::new() };
    // Braces that are open, and those of them that are modules.
    let (mut depth, mut inner) = (0_usize, Vec::new());
    while let Some((_, token)) = reader.token(0) {
        match token {
            Token::Word("mod")
                if let (Some((_, Token::Word(name))), Some((_, Token::Sign('{')))) =
                    (reader.token(1), reader.token(2)) =>
            {
                depth += 1;
                inner.push(depth);
                reader.module.push(name.into());
                reader.at += 3;
            }
            Token::Word("crate" | "super" | "self") if matches!(reader.token(1), Some((_, Token::Path))) => {
                reader.tree(None);
            }
            Token::Sign(sign) => {
                if sign == '}' && inner.last() == Some(&depth) {
                    inner.pop();
                    reader.module.pop();
                }
                depth = if sign == '{' { depth + 1 } else { depth.saturating_sub(usize::from(sign == '}')) };
                reader.at += 1;
            }
            // A path that begins elsewhere: `name::crate` is none of ours, and there is no such thing.
            _ => reader.at += 1,
        }
    }
    reader.found
}

struct Reader<'a> {
    tokens: &'a [(usize, Token<'a>)],
    at: usize,
    /// The module that the code stands in.
    module: Path,
    found: Vec<Reference>,
}

impl<'a> Reader<'a> {
    fn token(&self, ahead: usize) -> Option<(usize, Token<'a>)> {
        self.tokens.get(self.at + ahead).copied()
    }

    /// Reads a path, or a tree of paths as `use` has them, behind `prefix`.
    fn tree(&mut self, prefix: Option<Path>) {
        let mut path = prefix;
        while let Some((line, token)) = self.token(0) {
            match token {
                Token::Word(word) => {
                    self.at += 1;
                    path = Some(match (word, path) {
                        ("crate", _) => Path::new(),
                        ("super", path) => {
                            let mut path = path.unwrap_or_else(|| self.module.clone());
                            path.pop();
                            path
                        }
                        ("self", path) => path.unwrap_or_else(|| self.module.clone()),
                        (word, path) => [path.unwrap_or_default(), vec![word.into()]].concat(),
                    });
                    if !matches!(self.token(0), Some((_, Token::Path))) {
                        let is_macro = matches!(self.token(0), Some((_, Token::Sign('!'))));
                        self.found.extend(path.filter(|path| !path.is_empty()).map(|path| Reference {
                            line,
                            path,
                            is_macro,
                        }));
                        return;
                    }
                    self.at += 1;
                }
                Token::Sign('{') => {
                    self.at += 1;
                    while !matches!(self.token(0), None | Some((_, Token::Sign('}')))) {
                        self.tree(path.clone());
                        // What a name is called here, and what parts it from the next.
                        while !matches!(self.token(0), None | Some((_, Token::Sign(',' | '}')))) {
                            self.at += 1;
                        }
                        self.at += usize::from(matches!(self.token(0), Some((_, Token::Sign(',')))));
                    }
                    self.at += 1;
                    return;
                }
                _ => {
                    // All of a module, or generic arguments.
                    self.found.extend(path.filter(|path| !path.is_empty()).map(|path| Reference {
                        line,
                        path,
                        is_macro: false,
                    }));
                    self.at += usize::from(token == Token::Sign('*'));
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source;

    const CRATE: Crate = Crate {
        sources: "a/src/",
        layers: &[&["low", "other"], &["raw::top", "high"]],
        is_strict: true,
        macros: &[("say", "high")],
        exports: &[("Great", "high")],
        program: &["main"],
        root: &[],
    };

    fn module(path: &str) -> Path {
        path.split("::").filter(|part| !part.is_empty()).map(String::from).collect()
    }

    fn named(module_path: &str, text: &str) -> Vec<String> {
        references(&module(module_path), &source::lines(text)).iter().map(|r| r.path.join("::")).collect()
    }

    fn against(file: &str, text: &str) -> Vec<(usize, String)> {
        let module = CRATE.module(file).unwrap();
        CRATE.against_the_layers(&module, &references(&module, &source::lines(text)))
    }

    #[test]
    fn names_are_found_wherever_they_stand() {
        assert_eq!(named("a", "use crate::{b::{self, C}, d as e, f::*};"), ["b", "b::C", "d", "f"]);
        assert_eq!(
            named("a::b", "use super::{c, super::d};\nfn f() -> super::G<crate::h::I> {}"),
            ["a::c", "d", "a::G", "h::I"]
        );
        assert_eq!(
            named("a", "mod inner { use super::b; fn f() { self::c::d() } }\nuse super::e;"),
            ["a::b", "a::inner::c::d", "e"]
        );
        assert_eq!(
            named("a", "// crate::b\nlet c = \"crate::d\";\n#[cfg(test)]\nmod tests { use crate::e; }"),
            [""; 0]
        );
        assert_eq!(named("a", "pub(crate) fn a(self) { other::crate_name(); std::mem::take(b) }"), [""; 0]);
    }

    #[test]
    fn files_are_modules_of_their_crate() {
        let name = |file: &str| CRATE.module(file).map(|path| path.join("::"));
        assert_eq!(name("a/src/lib.rs").as_deref(), Some(""));
        assert_eq!(name("a/src/b/mod.rs").as_deref(), Some("b"));
        assert_eq!(name("a/src/b/c.rs").as_deref(), Some("b::c"));
        assert_eq!([name("a/src/main.rs"), name("a/src/b/tests.rs"), name("b/src/c.rs")], [None, None, None]);
    }

    #[test]
    fn sources_may_hang_below_the_root() {
        let below = Crate { sources: "a/src/x/", root: &["x"], ..CRATE };
        let name = |file: &str| below.module(file).map(|path| path.join("::"));
        assert_eq!([name("a/src/x/b.rs"), name("a/src/x/mod.rs")], [Some("x::b".into()), Some("x".into())]);
        assert_eq!(name("a/src/b.rs"), None);
    }

    #[test]
    fn a_wrong_arrow_fails() {
        assert_eq!(against("a/src/high.rs", "use crate::low::Thing;\nfn f() { crate::high::g() }"), []);
        let said = |what: &str| vec![(1, String::from(what))];
        assert_eq!(
            against("a/src/low/part.rs", "use crate::high;"),
            said("`low` lies below `high` and cannot name it")
        );
        assert_eq!(
            against("a/src/low.rs", "use super::raw::top::X;"),
            said("`low` lies below `raw::top` and cannot name it")
        );
        assert_eq!(against("a/src/low.rs", "crate::say!(1)"), said("`low` lies below `high` and cannot name it"));
        assert_eq!(against("a/src/low.rs", "crate::Great::new()"), said("`low` lies below `high` and cannot name it"));
        assert_eq!(
            against("a/src/low.rs", "use crate::other::X;"),
            said("`low` lies beside `other` and cannot name it")
        );
        assert_eq!(against("a/src/low.rs", "use crate::alias::X;"), said("`crate::alias::X` leads to no room"));
    }

    #[test]
    fn a_room_that_is_on_no_layer_fails() {
        assert_eq!(against("a/src/lost.rs", "fn f() {}"), [(1, "`lost` is on no layer of its crate".into())]);
        assert_eq!(against("a/src/raw/lost.rs", "fn f() {}"), [(1, "`raw::lost` is on no layer of its crate".into())]);
        assert_eq!(against("a/src/raw/mod.rs", "mod top;\nmod lost;"), []);
    }

    #[test]
    fn circles_are_found_but_a_module_and_its_parts_are_none() {
        let files = |texts: &[(&str, &str)]| {
            let all = texts.iter().map(|(name, text)| {
                let path = module(name);
                let found = references(&path, &source::lines(text));
                (path, found)
            });
            CRATE.circles(&all.collect())
        };
        let circle =
            [("a", "use crate::b::X;"), ("b", "use crate::c;"), ("c", "crate::a::f()"), ("d", "use crate::a;")];
        assert_eq!(files(&circle), [["a", "b", "c"]]);
        assert_eq!(files(&[("a", "mod b; use b::X;"), ("a::b", "use super::Y;")]), [[""; 0]; 0]);
        assert_eq!(files(&[("a", "use crate::b::X;"), ("b", "fn f() {}")]), [[""; 0]; 0]);
    }
}
