//! The layers of the codebase, held: imports point down only, siblings on a line do not import each other, no files form an import
//! cycle, and the domain is pure.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

#[path = "layers/cycles.rs"]
mod cycles;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The modules of `src/`, from the top. What stands on one line does not import each other.
const LAYERS: [&[&str]; 8] = [
    &["main"],
    &["cli"],
    &["commands"],
    &["reset", "mail", "http"],
    &["consumer"],
    &["scim", "amqp", "throttle", "transport"],
    &["config", "wire", "telemetry", "board", "dial", "failpoint"],
    &["domain"],
];

/// The commands that may start the simulated org; `cli` names its settings' error for the exit code.
const MAY_START_SIM: [&str; 3] = ["commands/sim.rs", "commands/demo/", "cli.rs"];
/// What the domain has no business with.
const IMPURE: [&str; 6] = ["tokio", "serde", "lapin", "reqwest", "axum", "tracing"];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// Every source by its path below `src/`, without its comments.
fn code() -> BTreeMap<String, String> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let name = |path: &Path| path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
    sources(&src).iter().map(|path| (name(path), uncommented(&fs::read_to_string(path).unwrap()))).collect()
}

fn uncommented(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Whether a text names this crate, as `NAME::`, `use NAME;` or `use NAME as`.
fn uses(text: &str, name: &str) -> bool {
    let path = format!("{name}::");
    let is_whole = |at: usize| {
        let before = text[..at].strip_suffix("::").unwrap_or(&text[..at]);
        !before.ends_with(|c: char| c.is_alphanumeric() || c == '_')
    };
    let imported = [format!("use {name};"), format!("use {name} as ")];
    text.match_indices(&path).any(|(at, _)| is_whole(at)) || imported.iter().any(|line| text.contains(line))
}

fn module(file: &str) -> &str {
    file.split('/').next().unwrap().trim_end_matches(".rs")
}

fn level(module: &str) -> usize {
    LAYERS.iter().position(|modules| modules.contains(&module)).unwrap_or_else(|| panic!("{module} has no layer"))
}

/// The modules a text names by `crate::MODULE` or `resetd::MODULE`, in groups too.
fn named(text: &str) -> Vec<String> {
    let mut modules = Vec::new();
    for root in ["crate::", "resetd::"] {
        for (at, _) in text.match_indices(root) {
            let rest = &text[at + root.len()..];
            let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
            match rest.strip_prefix('{') {
                Some(group) => {
                    let group = &group[..group.find("};").unwrap_or(group.len())];
                    modules.extend(group.split(',').map(|part| word(part.trim())));
                }
                None => modules.push(word(rest)),
            }
        }
    }
    modules.retain(|module| !module.is_empty());
    modules
}

#[test]
fn imports_point_down_only() {
    let files = code();
    let mut seen = 0;
    for (file, text) in files.iter().filter(|(file, _)| *file != "lib.rs") {
        for other in named(text).into_iter().filter(|other| other != module(file)) {
            seen += 1;
            assert!(level(module(file)) < level(&other), "{file} imports {other}, which is not below it");
        }
    }
    assert!(seen > 50, "the test reads what it should: {seen} imports");
}

#[test]
fn only_its_own_command_and_the_demo_start_the_simulated_org() {
    let files = code();
    let users: Vec<&String> = files.iter().filter(|(_, text)| uses(text, "sim")).map(|(file, _)| file).collect();
    let others: Vec<_> = users.iter().filter(|file| !MAY_START_SIM.iter().any(|may| file.starts_with(may))).collect();
    assert!(others.is_empty(), "{others:?}");
    assert!(users.len() >= 4, "the test sees who uses it: {users:?}");
}

#[test]
fn the_simulated_org_and_the_testkit_know_nothing_of_resetd() {
    for name in ["sim", "testkit"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates").join(name);
        let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        assert!(!manifest.contains("resetd"), "{name} depends on resetd");
        for path in sources(&folder.join("src")) {
            let text = fs::read_to_string(&path).unwrap();
            assert!(!uses(&uncommented(&text), "resetd"), "{} uses resetd", path.display());
        }
    }
}

#[test]
fn the_domain_is_pure() {
    for (file, text) in code().iter().filter(|(file, _)| module(file) == "domain") {
        for crate_name in IMPURE {
            assert!(!uses(text, crate_name), "{file} uses {crate_name}");
        }
    }
}

#[test]
fn only_demo_calls_other_commands() {
    for (file, text) in
        code().iter().filter(|(file, _)| module(file) == "commands" && !file.starts_with("commands/demo"))
    {
        assert!(!text.contains("crate::commands"), "{file} calls another role");
    }
}

#[test]
fn no_files_import_each_other() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seen = 0;
    let mut found = Vec::new();
    for src in ["src", "crates/sim/src"] {
        let imports = cycles::imports(&root.join(src));
        seen += imports.values().map(BTreeMap::len).sum::<usize>();
        for cycle in cycles::cycles(&imports) {
            found.push(format!("{src}:\n{}", cycles::told(&imports, &cycle)));
        }
    }
    assert!(found.is_empty(), "import cycles:\n{}", found.join("\n"));
    assert!(seen > 500, "the test reads what it should: {seen} imports");
}
