//! Import cycles between the files of a crate, found in its text.
//!
//! # The rule
//! A file imports another when its code names an item that is *defined* there: by a `use`, or by a path such as
//! `super::job::Lane`, `crate::wire::job::read` or `tls::connect`. A name is followed through re-exports and through the
//! imports of the module that it is taken from, to the file that defines it. Therefore:
//! - A module that only declares and re-exports its children imports none of them. Where it uses what it re-exports,
//!   it does.
//! - A child that uses what its parent defines imports the parent. With a parent that uses the child this is a cycle,
//!   and what both need belongs into a file of its own.
//! - To name a module alone (`use crate::amqp::names;`) imports nothing; what is then taken from it does.
//! - Code under `#[cfg(test)]` is left out: a module's tests may use whatever they like.
//!
//! What is not named is not seen: a method of an `impl` block in another file, and what a macro makes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Why one file imports another: the names that it takes.
type Names = BTreeSet<String>;
/// Of each file the files that it imports.
pub(crate) type Imports = BTreeMap<String, BTreeMap<String, Names>>;

/// A module that has a file, with what its code says.
struct Module {
    file: String,
    uses: Vec<Use>,
    /// The identifiers and paths of the code beside the `use` declarations.
    paths: Vec<Vec<String>>,
}

/// One name that a `use` declaration brings.
struct Use {
    path: Vec<String>,
    name: String,
    is_public: bool,
}

/// A path within the crate, from its root.
type Place = Vec<String>;

/// What the files of the crate whose `lib.rs` lies in this folder import of each other.
pub(crate) fn imports(src: &Path) -> Imports {
    let mut modules = BTreeMap::new();
    read(src, &src.join("lib.rs"), Vec::new(), &mut modules);
    let mut imports = Imports::new();
    for (place, module) in &modules {
        let from = imports.entry(module.file.clone()).or_default();
        for path in wanted(module) {
            let Some(to) = definer(&modules, place, &path, 0).filter(|to| *to != module.file) else { continue };
            from.entry(to).or_default().insert(path.join("::"));
        }
    }
    imports
}

/// What a module's code takes from elsewhere.
fn wanted(module: &Module) -> Vec<Vec<String>> {
    let spoken: BTreeSet<&String> = module.paths.iter().filter_map(|path| path.first()).collect();
    let used = module.uses.iter().filter(|item| !item.is_public || spoken.contains(&item.name));
    let paths = module.paths.iter().filter(|path| path.len() > 1);
    used.map(|item| item.path.clone()).chain(paths.cloned()).collect()
}

/// The file that defines what this path means in this module; none for another crate's and for a module itself.
fn definer(modules: &BTreeMap<Place, Module>, at: &[String], path: &[String], depth: usize) -> Option<String> {
    assert!(depth < 20, "{at:?} follows {path:?} in a circle");
    let (mut place, rest) = match path.first()?.as_str() {
        "crate" => (Vec::new(), &path[1..]),
        "self" => (at.to_vec(), &path[1..]),
        "super" => {
            let ups = path.iter().take_while(|part| *part == "super").count();
            (at[..at.len() - ups].to_vec(), &path[ups..])
        }
        first => {
            let is_child = modules.contains_key(&[at, &[first.to_owned()]].concat());
            let is_imported = modules[at].uses.iter().any(|item| item.name == first);
            (is_child || is_imported).then(|| (at.to_vec(), path))?
        }
    };
    for (index, part) in rest.iter().enumerate() {
        let child = [place.as_slice(), std::slice::from_ref(part)].concat();
        if modules.contains_key(&child) {
            place = child;
            continue;
        }
        let module = &modules[&place];
        let Some(item) = module.uses.iter().find(|item| item.name == *part) else { return Some(module.file.clone()) };
        return definer(modules, &place, &[&item.path, &rest[index + 1..]].concat(), depth + 1);
    }
    None
}

/// Reads a module's file, and those of its children that are not for tests.
fn read(src: &Path, file: &Path, place: Place, modules: &mut BTreeMap<Place, Module>) {
    let tokens = without_tests(tokens(&fs::read_to_string(file).unwrap()));
    let (mut uses, mut paths, mut children) = (Vec::new(), Vec::new(), Vec::new());
    let mut at = 0;
    while at < tokens.len() {
        let word = |at: usize| tokens.get(at).map_or("", String::as_str);
        if word(at) == "mod" && word(at + 2) == ";" {
            children.push(tokens[at + 1].clone());
            at += 3;
        } else if word(at) == "use" && word(at + 1) != "<" {
            let end = at + tokens[at..].iter().position(|token| token == ";").unwrap();
            let is_public = at > 0 && (word(at - 1) == "pub" || word(at - 1) == ")");
            tree(&tokens[at + 1..end], &[], is_public, &mut uses);
            at = end;
        } else if is_name(word(at)) && !(at > 0 && (word(at - 1) == "::" || word(at - 1) == ".")) {
            let mut path = vec![tokens[at].clone()];
            while word(at + 1) == "::" && is_name(word(at + 2)) {
                path.push(tokens[at + 2].clone());
                at += 2;
            }
            paths.push(path);
            at += 1;
        } else {
            at += 1;
        }
    }
    for child in children {
        let below = if matches!(file.file_name().unwrap().to_str().unwrap(), "lib.rs" | "mod.rs") {
            file.parent().unwrap().to_owned()
        } else {
            file.with_extension("")
        };
        let files: [PathBuf; 2] = [below.join(format!("{child}.rs")), below.join(&child).join("mod.rs")];
        let found = files
            .iter()
            .find(|file| file.exists())
            .unwrap_or_else(|| panic!("{child} of {} has no file", file.display()));
        read(src, found, [place.as_slice(), &[child]].concat(), modules);
    }
    let file = file.strip_prefix(src).unwrap().to_str().unwrap().to_owned();
    modules.insert(place, Module { file, uses, paths });
}

/// The names that a `use` tree brings. A glob brings none by name, and stands for something of the module itself.
fn tree(tokens: &[String], before: &[String], is_public: bool, uses: &mut Vec<Use>) {
    let mut path = before.to_vec();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        match token.as_str() {
            "::" => {}
            "{" => {
                let inner = &tokens[at + 1..tokens.len() - 1];
                for part in parts(inner) {
                    tree(part, &path, is_public, uses);
                }
                return;
            }
            "as" => {
                uses.push(Use { path, name: tokens[at + 1].clone(), is_public });
                return;
            }
            "self" if at == 0 && !before.is_empty() => {}
            part => path.push(part.to_owned()),
        }
        at += 1;
    }
    if let Some(name) = path.last().cloned() {
        uses.push(Use { path, name, is_public });
    }
}

/// A group's parts, split at the commas that are not within another group.
fn parts(tokens: &[String]) -> Vec<&[String]> {
    let mut depth = 0;
    let split = tokens.split(|token| {
        depth += i32::from(token == "{") - i32::from(token == "}");
        token == "," && depth == 0
    });
    split.filter(|part| !part.is_empty()).collect()
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_') || token == "*"
}

/// Leaves out each item that is marked `#[cfg(test)]`.
fn without_tests(tokens: Vec<String>) -> Vec<String> {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if tokens.len() < at + MARK.len() || tokens[at..at + MARK.len()] != MARK {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        at += MARK.len();
        let mut depth = 0;
        loop {
            let token = tokens[at].as_str();
            depth += i32::from(matches!(token, "{" | "[" | "(")) - i32::from(matches!(token, "}" | "]" | ")"));
            at += 1;
            if depth == 0 && matches!(token, ";" | "}") {
                break;
            }
        }
    }
    kept
}

/// A source's words and signs, without comments, strings, characters and lifetimes.
fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut tokens: Vec<String> = Vec::new();
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        let next = chars.get(at + 1).copied().unwrap_or(' ');
        if c == '/' && next == '/' {
            at += chars[at..].iter().position(|c| *c == '\n').unwrap_or(chars.len() - at);
        } else if let Some(length) = raw_string(&chars[at..]) {
            at += length;
        } else if c == '"' {
            at += 1;
            while chars[at] != '"' {
                at += if chars[at] == '\\' { 2 } else { 1 };
            }
            at += 1;
        } else if c == '\'' && next == '\\' {
            at += 3 + chars[at + 3..].iter().position(|c| *c == '\'').unwrap() + 1;
        } else if c == '\'' && chars.get(at + 2) == Some(&'\'') {
            at += 3;
        } else if c == '\'' {
            at += 1 + chars[at + 1..].iter().take_while(|c| is_word(**c)).count();
        } else if is_word(c) {
            let word: String = chars[at..].iter().take_while(|c| is_word(**c)).collect();
            at += word.chars().count();
            tokens.push(word);
        } else if c == ':' && next == ':' {
            tokens.push("::".to_owned());
            at += 2;
        } else {
            if !c.is_whitespace() {
                tokens.push(c.to_string());
            }
            at += 1;
        }
    }
    tokens
}

/// The length of the raw string that begins here, if one does.
fn raw_string(chars: &[char]) -> Option<usize> {
    let start = usize::from(chars.first() == Some(&'b'));
    let hashes =
        chars.get(start..).filter(|rest| rest.first() == Some(&'r'))?[1..].iter().take_while(|c| **c == '#').count();
    let quote = start + 1 + hashes;
    (chars.get(quote) == Some(&'"')).then_some(())?;
    let end: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let inner = chars[quote + 1..].windows(end.len()).position(|window| window == end)?;
    Some(quote + 1 + inner + end.len())
}

/// The groups of files that import each other, whether at once or by way of others.
pub(crate) fn cycles(imports: &Imports) -> Vec<BTreeSet<String>> {
    let reached = |start: &String| {
        let mut seen = BTreeSet::new();
        let mut open = vec![start];
        while let Some(file) = open.pop() {
            open.extend(imports.get(file).into_iter().flat_map(BTreeMap::keys).filter(|to| seen.insert((*to).clone())));
        }
        seen
    };
    let reach: BTreeMap<&String, BTreeSet<String>> = imports.keys().map(|file| (file, reached(file))).collect();
    let group = |file: &String| -> BTreeSet<String> {
        reach[file].iter().filter(|other| reach[other].contains(file)).cloned().collect()
    };
    let groups: BTreeSet<_> = imports.keys().map(group).filter(|group| !group.is_empty()).collect();
    groups.into_iter().collect()
}

/// A cycle as a list of who takes what from whom.
pub(crate) fn told(imports: &Imports, cycle: &BTreeSet<String>) -> String {
    let mut lines = Vec::new();
    for file in cycle {
        for (to, names) in imports[file].iter().filter(|(to, _)| cycle.contains(*to)) {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            lines.push(format!("  {file} takes from {to}: {}", names.join(", ")));
        }
    }
    lines.join("\n")
}
