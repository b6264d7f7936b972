//! `docs/configuration.md`: made of the comments of `config/default.toml` and the types of the sections in `src/config`.

use std::collections::BTreeMap;
use std::fmt::Write;

use resetd::config::{Config, Environment};

use super::file;

/// The page, from the top of the repository.
const PAGE: &str = "docs/configuration.md";
/// Its longest line, in characters.
const WIDTH: usize = 118;
/// Keys of an org that stand behind a `#` in the defaults and have one all the same, which `Org` fills in.
const FILLED_IN: [&str; 6] =
    ["token_url", "scim_url", "required_scopes", "rate_per_minute", "burst", "request_timeout"];

/// A key as the defaults have it.
struct Key {
    name: String,
    value: String,
    is_set: bool,
}

/// Keys below one comment.
#[derive(Default)]
struct Group {
    meaning: Vec<String>,
    keys: Vec<Key>,
}

/// A section, and what is said above it.
struct Section {
    name: String,
    intro: Vec<String>,
    groups: Vec<Group>,
}

fn sections() -> Vec<Section> {
    let (mut sections, mut comment) = (Vec::<Section>::new(), Vec::new());
    for line in file("config/default.toml").lines() {
        let (bare, is_set) = line.strip_prefix("# ").map_or((line, true), |bare| (bare, false));
        let section = bare.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        let key = bare.split_once(" = ").filter(|(key, _)| !key.contains(' '));
        if bare.is_empty() && sections.is_empty() {
            comment.clear();
        } else if let Some(name) = section.filter(|_| is_set) {
            sections.push(Section { name: name.to_owned(), intro: std::mem::take(&mut comment), groups: Vec::new() });
        } else if let Some(name) = section {
            sections.last_mut().unwrap().name = name.replace("main", "NAME");
        } else if let Some((name, value)) = key {
            let groups = &mut sections.last_mut().unwrap().groups;
            if groups.is_empty() || !comment.is_empty() {
                groups.push(Group { meaning: std::mem::take(&mut comment), keys: Vec::new() });
            }
            let (name, value) = (name.to_owned(), value.to_owned());
            groups.last_mut().unwrap().keys.push(Key { name, value, is_set });
        } else if !bare.is_empty() {
            comment.push(bare.to_owned());
        }
    }
    sections
}

/// The type of each key in the code: of a field of a section's struct.
fn types() -> BTreeMap<String, String> {
    let (mut structs, mut at) = (BTreeMap::<String, Vec<(String, String)>>::new(), String::new());
    let text = ["root", "mailer", "raw"].map(|name| file(&format!("src/config/{name}.rs"))).concat();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("pub(super) struct ") {
            at = rest.trim_end_matches(" {").to_owned();
        } else if line == "}" {
            at.clear();
        } else if let Some(field) = line.strip_prefix("    pub(super) ").filter(|_| !at.is_empty()) {
            let Some((name, kind)) = field.trim_end_matches(',').split_once(": ") else { continue };
            let kind = kind.replace("raw::", "").replace("mailer::", "");
            structs.entry(at.clone()).or_default().push((name.to_owned(), kind));
        }
    }
    fn walk(
        above: &str,
        name: &str,
        structs: &BTreeMap<String, Vec<(String, String)>>,
        types: &mut BTreeMap<String, String>,
    ) {
        for (field, kind) in &structs[name] {
            let key = if above.is_empty() { field.clone() } else { format!("{above}.{field}") };
            if let Some(each) = kind.strip_prefix("BTreeMap<String, ").map(|each| each.trim_end_matches('>')) {
                walk(&format!("{key}.NAME"), each, structs, types);
            } else if structs.contains_key(kind) {
                walk(&key, kind, structs, types);
            } else {
                types.insert(key, kind.trim_start_matches("Option<").trim_end_matches('>').to_owned());
            }
        }
    }
    let mut types = BTreeMap::new();
    walk("", "Raw", &structs, &mut types);
    types
}

/// A type as it is said.
fn said(key: &str, types: &BTreeMap<String, String>) -> String {
    match types[key].as_str() {
        "SecretString" if types.contains_key(&format!("{key}_file")) => {
            format!("secret text; `{key}_file` names a file with it")
        }
        "SecretString" => "secret text".to_owned(),
        "String" if key.ends_with("_file") => "path".to_owned(),
        "String" => "text".to_owned(),
        "PathBuf" => "path".to_owned(),
        "Span" => "duration".to_owned(),
        "List" => "list of text".to_owned(),
        "bool" => "`true` or `false`".to_owned(),
        "u16" | "u32" | "usize" => "number".to_owned(),
        "PerHour" => "number, or a table of them by lane".to_owned(),
        other => panic!("{key} has the type {other}: say what that is"),
    }
}

fn default(key: &Key) -> String {
    let is_filled_in = FILLED_IN.contains(&key.name.as_str());
    match key.value.as_str() {
        value if key.is_set || is_filled_in => format!("`{value}`"),
        "\"...\"" => "none".to_owned(),
        value => format!("none; an example is `{value}`"),
    }
}

/// Text of a comment as Markdown: what would be a tag or emphasis there is not.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for (n, part) in text.split('`').enumerate() {
        if n > 0 {
            escaped.push('`');
        }
        escaped += &if n % 2 == 0 { part.replace('<', "\\<").replace('*', "\\*") } else { part.to_owned() };
    }
    escaped
}

/// Broken at blanks; what follows the first line is indented so far.
fn wrapped(text: &str, indent: usize) -> String {
    let (mut lines, mut line) = (String::new(), String::new());
    for word in text.split_whitespace() {
        if !line.trim().is_empty() && line.chars().count() + 1 + word.chars().count() > WIDTH {
            writeln!(lines, "{line}").unwrap();
            line = " ".repeat(indent);
        } else if !line.is_empty() {
            line.push(' ');
        }
        line += word;
    }
    lines + &line + "\n"
}

fn page() -> String {
    let types = types();
    let mut page = String::from(
        "# Configuration

Every key of `resetd` with its type, its default and its meaning.

This page is made of the comments of [`config/default.toml`](../config/default.toml), and a test holds it equal. Change
them there, then run `RENEW_CONFIGURATION=1 cargo test --test docs`.

## How values are given
- `--config FILE` (repeatable, the later one wins) lies over the defaults, the environment over the files:
  [where values come from](contract.md#where-values-come-from).
- The environment variable of `http.listen` is `RESETD__HTTP__LISTEN`, that of `orgs.main.rate_per_minute` is
  `RESETD__ORGS__MAIN__RATE_PER_MINUTE`. A list is comma-separated text.
- An unknown key is an error. A value that does not fit is one too: exit code 2, and the text names key and value (never
  a secret) and what is wanted. `resetd check` lists what is wrong.
- A duration is text: `\"500ms\"`, `\"10s\"`, `\"15m\"`, `\"24h\"`.
- A key has no default where it says `none`. Where a key must be chosen, its text says so.
",
    );
    for section in sections() {
        write!(page, "\n## Section {}\n", section.name).unwrap();
        if !section.intro.is_empty() {
            page += &wrapped(&escaped(&section.intro.join(" ")), 0);
        }
        for group in section.groups {
            let names: Vec<_> = group.keys.iter().map(|key| format!("`{}`", key.name)).collect();
            write!(page, "\n### {}\n", names.join(", ")).unwrap();
            for key in &group.keys {
                let full = format!("{}.{}", section.name, key.name);
                let item = format!("- `{full}`: {}. Default: {}.", said(&full, &types), default(key));
                page += &wrapped(&item, 2);
            }
            if !group.meaning.is_empty() {
                page.push('\n');
                page += &wrapped(&escaped(&group.meaning.join(" ")), 0);
            }
        }
    }
    page
}

#[test]
fn the_page_of_the_configuration_is_what_the_defaults_say() {
    let page = page();
    if std::env::var_os("RENEW_CONFIGURATION").is_some() {
        std::fs::write(format!("{}/{PAGE}", env!("CARGO_MANIFEST_DIR")), &page).unwrap();
    }
    assert!(file(PAGE) == page, "{PAGE} is stale: run RENEW_CONFIGURATION=1 cargo test --test docs, and commit it");
}

#[test]
fn the_defaults_have_each_key_of_the_code_and_no_other() {
    let told = sections().into_iter().flat_map(|section| {
        let of = move |key: Key| format!("{}.{}", section.name, key.name);
        section.groups.into_iter().flat_map(|group| group.keys).map(of).collect::<Vec<_>>()
    });
    let mut told: Vec<String> = told.collect();
    let types = types();
    // A secret may stand in a file: that key is said with the secret's own.
    let of_secret = |key: &&String| {
        key.strip_suffix("_file").and_then(|secret| types.get(secret)).is_some_and(|kind| kind == "SecretString")
    };
    let mut expected: Vec<String> = types.keys().filter(|key| !of_secret(key)).cloned().collect();
    told.sort();
    expected.sort();
    assert_eq!(told, expected);
    assert!(told.len() > 50, "{}", told.len());
}

/// What stands behind a `#` and is called a default is what an org has that says nothing.
#[test]
fn the_defaults_of_an_org_are_those_that_it_gets() {
    let environment = Environment::of([
        ("RESETD__ORGS__MAIN__REGION", "mypurecloud.ie"),
        ("GENESYS_CLIENT_ID", "an-id"),
        ("GENESYS_CLIENT_SECRET", "a-secret"),
    ]);
    let org = Config::load(&[], environment).unwrap().org("main").unwrap();
    let section = sections().into_iter().find(|section| section.name == "orgs.NAME").unwrap();
    let keys = section.groups.into_iter().flat_map(|group| group.keys);
    let told: BTreeMap<_, _> =
        keys.filter(|key| FILLED_IN.contains(&key.name.as_str())).map(|key| (key.name, key.value)).collect();
    let url = |text: &str| format!("{:?}", text.replace("mypurecloud.ie", "{region}"));
    let expected = [
        ("token_url", url(org.token_url.as_str())),
        ("scim_url", url(org.scim_url.as_str())),
        ("required_scopes", format!("{:?}", org.required_scopes)),
        ("rate_per_minute", org.rate_per_minute.to_string()),
        ("burst", org.burst.to_string()),
        ("request_timeout", format!("\"{}s\"", org.request_timeout.as_secs())),
    ];
    assert_eq!(told, expected.map(|(name, value)| (name.to_owned(), value)).into());
}
