//! The documents are read: README in two minutes, and no document is a wall.

use std::path::Path;

use super::file;

/// Words of README at most: two minutes.
const README_WORDS: usize = 700;
/// Characters of a line at most.
const WIDTH: usize = 120;
/// Lines between two headings at most: a screen.
const SCREEN: usize = 45;

/// README, CONTRIBUTING, SECURITY and all below `docs`. CHANGELOG is a list of entries and not among them.
fn documents() -> Vec<String> {
    fn walk(folder: &str, documents: &mut Vec<String>) {
        for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{folder}/{}", entry.file_name().to_str().unwrap());
            if entry.path().is_dir() {
                walk(&path, documents);
            } else if path.ends_with(".md") {
                documents.push(path);
            }
        }
    }
    let mut documents = ["README.md", "CONTRIBUTING.md", "SECURITY.md"].map(str::to_owned).into();
    walk("docs", &mut documents);
    documents
}

#[test]
fn readme_is_read_in_two_minutes() {
    let words = file("README.md").split_whitespace().count();
    assert!(words <= README_WORDS, "{words} words, of {README_WORDS} at most: what is more belongs into docs/");
}

#[test]
fn no_line_of_a_document_is_longer_than_a_screen_is_wide() {
    let mut long = Vec::new();
    for path in documents() {
        let is_long = |line: &str| line.chars().count() > WIDTH;
        let lines = file(&path);
        let lines = lines.lines().enumerate().filter(|(_, line)| is_long(line));
        long.extend(lines.map(|(n, line)| format!("{path}:{}: {} characters", n + 1, line.chars().count())));
    }
    assert!(long.is_empty(), "of {WIDTH} at most:\n{}", long.join("\n"));
}

#[test]
fn a_document_has_a_heading_on_each_screen() {
    let mut walls = Vec::new();
    for path in documents() {
        let mut since = 0;
        for (n, line) in file(&path).lines().enumerate() {
            since = if line.starts_with('#') { 0 } else { since + 1 };
            if since == SCREEN + 1 {
                walls.push(format!("{path}:{}", n + 1));
            }
        }
    }
    assert!(walls.is_empty(), "no heading within {SCREEN} lines above:\n{}", walls.join("\n"));
}
