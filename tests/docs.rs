//! What the documents say is held to what the code does: the table of metrics, the alerts and the dashboard.
#![expect(clippy::unwrap_used, reason = "a test fails loudly, in its helpers too")]

use std::collections::BTreeSet;

use resetd::domain::job::Lane;

#[path = "docs/configuration.rs"]
mod configuration;
#[path = "docs/images.rs"]
mod images;
#[path = "docs/shape.rs"]
mod shape;
#[path = "docs/words.rs"]
mod words;

fn file(path: &str) -> String {
    std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// Every name of ours in a text; of a histogram's series the histogram.
fn metrics(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in text.match_indices("resetd_") {
        let name: String = text[at..].chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
        names.insert(name.strip_suffix("_bucket").unwrap_or(&name).to_owned());
    }
    names
}

/// A text for each lane, with its name where the text says `LANE`.
fn of_lanes(text: &str) -> String {
    Lane::NAMES.map(|lane| text.replace("LANE", lane)).concat()
}

/// The names in the code: each is a constant, of which some stand for one of each lane.
fn exported() -> BTreeSet<String> {
    let code = file("src/telemetry/metrics.rs");
    let names = code.split("\nconst ").skip(1).filter_map(|item| item.split(';').next());
    metrics(&names.map(of_lanes).collect::<String>())
}

#[test]
fn the_table_of_metrics_has_each_that_is_exported_and_no_other() {
    let table = file("docs/metrics.md");
    let rows: String = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .map(|row| of_lanes(&format!("{} ", row.split('`').next().unwrap())))
        .collect();
    assert_eq!(metrics(&rows), exported());
    assert!(exported().len() > 10);
}

/// What stands between backticks, in its order.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// Whether a function of this name is in the code. A `*` stands for the rest of a name.
fn has_test(code: &str, name: &str) -> bool {
    let parts: Vec<&str> = name.split('*').collect();
    let fits = |found: &str| {
        let mut rest = Some(found);
        for part in &parts {
            rest = rest.and_then(|rest| rest.split_once(part)).map(|(_, rest)| rest);
        }
        rest.is_some() && found.starts_with(parts[0]) && found.ends_with(parts[parts.len() - 1])
    };
    code.split("fn ").skip(1).filter_map(|rest| rest.split_once('(')).any(|(name, _)| fits(name))
}

/// The file of an integration test's module, in whichever folder it is.
fn test_file(module: &str) -> String {
    let name = format!("{}.rs", module.replace("::", "/"));
    let folders = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it")).unwrap();
    let mut found = folders.map(|folder| folder.unwrap().path().join(&name)).filter(|path| path.exists());
    let (one, other) = (found.next(), found.next());
    assert!(other.is_none(), "there is more than one {name}");
    std::fs::read_to_string(one.unwrap_or_else(|| panic!("there is no {name}"))).unwrap()
}

#[test]
fn every_test_that_the_threat_table_names_exists() {
    let page = file("docs/security.md");
    let is_name = |text: &str| {
        text.len() > 20 && text.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || b"_*".contains(&c))
    };
    let (mut seen, mut source) = (0, String::new());
    for quoted in quoted(&page) {
        if quoted.starts_with("src/") {
            source = file(quoted);
        }
        let (code, name) = match quoted.rsplit_once("::") {
            Some((module, name)) if is_name(name) => (test_file(module), name),
            None if is_name(quoted) => (source.clone(), quoted),
            Some(_) | None => continue,
        };
        assert!(has_test(&code, name), "{quoted} is nowhere");
        seen += 1;
    }
    assert!(seen >= 65, "{seen}");
}

/// A promise that no test shows is none, and neither is a threat that nothing is said of.
#[test]
fn every_threat_says_what_stops_it_and_which_test_shows_that_or_that_nothing_does() {
    let page = file("docs/security.md");
    let (threats, _) = page.split_once("\n## Sealed notifications").unwrap();
    let threats: Vec<&str> = threats.split("\n### ").skip(1).collect();
    for threat in &threats {
        let heading = threat.lines().next().unwrap();
        let stops = threat.contains("**Stopped by**");
        let is_shown = threat.contains("**Shown by**") || threat.contains("**Stopped by** nothing: mail");
        assert!(stops && is_shown, "{heading}");
    }
    assert!(threats.len() >= 25, "{}", threats.len());
}

/// A promise that no test shows is none.
#[test]
fn every_test_that_the_guarantees_name_exists() {
    let page = file("docs/guarantees.md");
    let mut seen = 0;
    for quoted in quoted(&page) {
        let Some((module, name)) = quoted.rsplit_once("::").filter(|(module, _)| *module != "FILE") else { continue };
        assert!(has_test(&test_file(module), name), "{quoted} is nowhere");
        seen += 1;
    }
    assert!(seen >= 100, "{seen}");
}

#[test]
fn alerts_and_dashboard_ask_for_nothing_that_is_not_exported() {
    let exported = exported();
    for path in ["deploy/prometheus/alerts.yml", "deploy/grafana/resetd.json"] {
        let asked = metrics(&file(path));
        assert!(asked.len() >= 5, "{path} asks for {asked:?}");
        let unknown: Vec<_> = asked.difference(&exported).collect();
        assert!(unknown.is_empty(), "{path} asks for {unknown:?}");
    }
}

/// The mailer is no org: with all workers gone, a mailer that works must not look like one of theirs.
#[test]
fn no_alert_of_the_orgs_is_hidden_or_raised_by_the_mailer() {
    let alerts = file("deploy/prometheus/alerts.yml");
    assert!(!alerts.contains("\"mailer\""), "an org may be called so");
    let mut asked = 0;
    for alert in alerts.split("- alert: ").skip(1) {
        let is_mailers = alert.contains("resetd_mailer_");
        for metric in
            ["resetd_active", "resetd_halted", "resetd_breaker_state", "resetd_permit_wait", "resetd_rate_per"]
        {
            let of_orgs = alert.matches(metric).count();
            assert!(!is_mailers || of_orgs == 0, "{alert}");
            asked += of_orgs;
        }
    }
    assert!(asked >= 8 && alerts.matches("resetd_mailer_").count() >= 4, "{asked}");
}

#[test]
fn the_dashboard_is_json_and_each_of_its_panels_asks_for_something() {
    let dashboard: serde_json::Value = serde_json::from_str(&file("deploy/grafana/resetd.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    assert!(panels.len() >= 10);
    for panel in panels {
        let targets = panel["targets"].as_array().unwrap();
        assert!(
            !targets.is_empty() && targets.iter().all(|target| !target["expr"].as_str().unwrap().is_empty()),
            "{}",
            panel["title"]
        );
    }
}

/// A version that the dependencies do not ask for is left out by Cargo, with a mere warning.
#[test]
fn every_patched_library_is_in_use() {
    let table = |path: &str| -> toml::Table { file(path).parse().unwrap() };
    let (manifest, lock) = (table("Cargo.toml"), table("Cargo.lock"));
    let patched = manifest["patch"]["crates-io"].as_table().unwrap();
    let mut folders: Vec<String> = std::fs::read_dir(format!("{}/patches", env!("CARGO_MANIFEST_DIR")))
        .unwrap()
        .map(Result::unwrap)
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    folders.sort();
    assert_eq!(folders, patched.keys().cloned().collect::<Vec<_>>());
    for name in folders {
        let version = &table(&format!("patches/{name}/Cargo.toml"))["package"]["version"];
        let is_it = |package: &&toml::Value| package["name"].as_str() == Some(&name);
        let locked: Vec<_> = lock["package"].as_array().unwrap().iter().filter(is_it).collect();
        assert!(locked.len() == 1 && locked[0].get("source").is_none(), "{name} is not what is built: {locked:?}");
        assert_eq!(&locked[0]["version"], version, "{name}");
        let page = file("patches/README.md");
        assert!(page.contains(&format!("## {name}")) && page.contains(version.as_str().unwrap()), "{name}");
    }
}

/// What our documents and comments cite: paths, headings, decisions and sections of other documents.
mod references {
    use std::collections::{BTreeMap, BTreeSet};
    use std::fs;
    use std::path::Path;

    /// The folders that a path from the top begins with.
    const TOPS: [&str; 11] = [
        "docs/",
        "src/",
        "tests/",
        "config/",
        "scripts/",
        "examples/",
        "deploy/",
        "crates/",
        "patches/",
        ".github/",
        ".ci/",
    ];
    /// Whose files are read, beside the documents at the top.
    const READ: [&str; 11] =
        ["docs", "src", "tests", "config", "scripts", "examples", "deploy", "crates", ".github", ".ci", ".config"];
    /// Files of libraries that our documents name.
    const ELSEWHERE: [&str; 3] = ["acknowledgement.rs", "channel.rs", "returned_messages.rs"];
    /// Documents of others that have numbered sections; ours are cited by their headings.
    const NUMBERED: [&str; 5] = ["RFC", "AMQP", "X.690", "Trace Context", "HTTP"];
    /// How far before the word `section` its document is named, in characters.
    const BEFORE: usize = 48;

    /// Every path of the repository, a folder's with a `/` at its end.
    fn tree() -> BTreeSet<String> {
        fn walk(folder: &Path, below: &str, paths: &mut BTreeSet<String>) {
            for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
                let name = format!("{below}{}", entry.file_name().to_string_lossy());
                if ["target", ".git"].contains(&name.as_str()) {
                } else if entry.path().is_dir() {
                    paths.insert(format!("{name}/"));
                    walk(&entry.path(), &format!("{name}/"), paths);
                } else {
                    paths.insert(name);
                }
            }
        }
        let mut paths = BTreeSet::new();
        walk(Path::new(env!("CARGO_MANIFEST_DIR")), "", &mut paths);
        paths
    }

    fn is_document(path: &str) -> bool {
        path.ends_with(".md")
    }

    /// What a file says to people: a document's text, or the comments of code. Line breaks stay where they are.
    fn prose(path: &str, text: &str) -> String {
        if is_document(path) {
            return text.to_owned();
        }
        let mark = if [".rs", ".mjs"].iter().any(|end| path.ends_with(end)) { "//" } else { "#" };
        let comment = |line: &str| match (line.trim_start().strip_prefix(mark), line.find(&format!(" {mark} "))) {
            (Some(comment), _) => comment.trim_start_matches(['/', '!', '#']).to_owned(),
            (None, Some(at)) => line[at + 1 + mark.len()..].to_owned(),
            (None, None) => String::new(),
        };
        text.lines().filter(|line| !line.starts_with("#!/")).map(comment).collect::<Vec<_>>().join("\n")
    }

    /// Every file that is read, and what it says.
    fn sources(tree: &BTreeSet<String>) -> BTreeMap<String, String> {
        let is_read = |path: &&String| {
            let top = path.split('/').next().unwrap();
            let text = [".rs", ".md", ".toml", ".yml", ".py", ".mjs", ".service", "Dockerfile"];
            // Of a patched library only what we say of it: its code is its authors'.
            (READ.contains(&top) || !path.contains('/') || top == "patches" && is_document(path))
                && (text.iter().any(|end| path.ends_with(end)) || path.starts_with("scripts/") || *path == "Makefile")
                && !path.ends_with('/')
        };
        let file = |path: &String| (path.clone(), prose(path, &super::file(path)));
        tree.iter().filter(is_read).map(file).collect()
    }

    /// The anchors of a document's headings, by GitHub's rules: lower case, blanks to hyphens, no other mark; a repeated one is numbered.
    fn anchors(document: &str) -> BTreeSet<String> {
        let (mut anchors, mut is_code) = (BTreeSet::new(), false);
        for line in document.lines() {
            is_code ^= line.trim_start().starts_with("```");
            let title = line.trim_start_matches('#');
            if is_code || title.len() == line.len() || !title.starts_with(' ') {
                continue;
            }
            let kept = title.trim().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            let slug: String = kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect();
            let numbered = (1..).map(|n| format!("{slug}-{n}"));
            let free = std::iter::once(slug.clone()).chain(numbered).find(|slug| !anchors.contains(slug));
            anchors.insert(free.unwrap());
        }
        anchors
    }

    /// Something cited.
    #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
    enum Cited {
        /// The target of a link in a document: relative to it.
        Link(String),
        /// A path from the top, or the name of a document.
        Path(String),
        /// A path below some folder of ours, such as `amqp/names.rs`, or a file's name alone.
        Short(String),
        /// A decision, by its number.
        Decision(String),
        /// A numbered section, with what stands before it.
        Section(String),
    }

    /// All that a text cites. `folders`: the names of our folders.
    fn cited(text: &str, folders: &BTreeSet<&str>) -> Vec<Cited> {
        let mut cited = Vec::new();
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split([')', '\n', ' ']).next().unwrap();
            if !target.contains("://") {
                cited.push(Cited::Link(target.to_owned()));
            }
        }
        let is_quoted = |at: usize| text[..at].ends_with('`');
        let is_part = |c: char| c.is_ascii_alphanumeric() || "_-./#:*{}<>$@~=%+".contains(c);
        let mut rest = 0;
        while let Some(begin) = text[rest..].find(is_part).map(|at| rest + at) {
            let end = text[begin..].find(|c| !is_part(c)).map_or(text.len(), |at| begin + at);
            rest = end;
            let word = text[begin..end].trim_end_matches(['.', ':', '-', '#']);
            let path = word.split('#').next().unwrap();
            let is_link = text[..begin].ends_with("](");
            if is_link || path.contains(|c| "*{}<>$@~=%+:".contains(c)) || path.starts_with(['/', '#']) {
                continue;
            }
            let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
            let stem = name.split('.').next().unwrap();
            let is_placeholder = !stem.is_empty() && stem.bytes().all(|c| c.is_ascii_uppercase());
            let is_from_top = TOPS.iter().any(|top| path.starts_with(top));
            let is_module = name.ends_with(".rs") && !stem.is_empty() && (!folder.is_empty() || is_quoted(begin));
            let is_below = path.contains('/') && is_quoted(begin) && folders.contains(path.split('/').next().unwrap());
            if is_document(path) {
                cited.push(Cited::Path(word.to_owned()));
            } else if is_placeholder {
            } else if is_from_top {
                cited.push(Cited::Path(word.to_owned()));
            } else if is_module || is_below {
                cited.push(Cited::Short(path.to_owned()));
            }
        }
        for (at, _) in text.match_indices("ADR ") {
            let number: String = text[at + 4..].chars().take_while(char::is_ascii_digit).collect();
            if !number.is_empty() {
                cited.push(Cited::Decision(format!("{number:0>4}")));
            }
        }
        for (at, word) in text.match_indices("ection").filter(|(at, _)| text[..*at].ends_with(['s', 'S'])) {
            let number = text[at + word.len()..].trim_start_matches('s');
            if number.starts_with(|c: char| c.is_whitespace())
                && number.trim_start().starts_with(|c: char| c.is_ascii_digit())
            {
                let before: Vec<char> = text[..at].chars().rev().take(BEFORE).collect();
                cited.push(Cited::Section(before.into_iter().rev().collect()));
            }
        }
        cited
    }

    /// Whether a citation in `path` leads somewhere. `documents` has the anchors of each.
    fn leads(
        path: &str,
        cited: &Cited,
        tree: &BTreeSet<String>,
        documents: &BTreeMap<String, BTreeSet<String>>,
    ) -> bool {
        let is_there = |target: &str| {
            let target = target.trim_end_matches('/');
            tree.contains(target) || tree.contains(&format!("{target}/"))
        };
        let has = |target: &str, anchor: Option<&str>| {
            is_there(target)
                && anchor.is_none_or(|anchor| documents.get(target).is_some_and(|all| all.contains(anchor)))
        };
        let above = |mut folder: &str, mut target: String| {
            while let Some(below) = target.strip_prefix("../") {
                target = below.to_owned();
                folder = folder.rsplit_once('/').map_or("", |(above, _)| above);
            }
            if folder.is_empty() { target } else { format!("{folder}/{target}") }
        };
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let split = |text: &str| match text.split_once('#') {
            Some((target, anchor)) => (target.to_owned(), Some(anchor.to_owned())),
            None => (text.to_owned(), None),
        };
        match cited {
            Cited::Link(link) => {
                let (target, anchor) = split(link);
                let target = if target.is_empty() { path.to_owned() } else { above(folder, target) };
                has(&target, anchor.as_deref())
            }
            Cited::Path(word) => {
                let (target, anchor) = split(word);
                // From the top; from the top of a crate; or, where it is a document's name, beside what cites it or in docs/.
                let places = std::iter::successors(Some(folder), |at| Some(at.rsplit_once('/')?.0));
                let mut places: Vec<String> = places.map(|at| format!("{at}/{target}")).collect();
                places.extend([target.clone(), format!("docs/{target}")]);
                let decision = target.starts_with("docs/adr/")
                    && tree
                        .iter()
                        .any(|path| path.strip_prefix(target.as_str()).is_some_and(|rest| rest.starts_with('-')));
                decision || places.iter().any(|place| has(place, anchor.as_deref()))
            }
            Cited::Short(name) => {
                let name = name.trim_end_matches('/');
                let is_it = |path: &String| {
                    let path = path.trim_end_matches('/');
                    [path, path.trim_end_matches(".rs")]
                        .iter()
                        .any(|path| path.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('/')))
                };
                ELSEWHERE.contains(&name) || tree.iter().any(is_it)
            }
            Cited::Decision(number) => tree.iter().any(|path| path.starts_with(&format!("docs/adr/{number}-"))),
            Cited::Section(before) => NUMBERED.iter().any(|name| before.contains(name)),
        }
    }

    #[test]
    fn every_path_anchor_and_section_that_documents_and_comments_cite_exists() {
        let tree = tree();
        let sources = sources(&tree);
        let documents = sources.iter().filter(|(path, _)| is_document(path));
        let documents: BTreeMap<_, _> = documents.map(|(path, text)| (path.clone(), anchors(text))).collect();
        let folders = tree.iter().filter_map(|path| path.strip_suffix('/')?.rsplit('/').next()).collect();
        let (mut lost, mut seen, mut with_anchor) = (Vec::new(), BTreeMap::new(), 0);
        for (path, text) in &sources {
            for cited in cited(text, &folders) {
                *seen.entry(format!("{cited:?}").split('(').next().unwrap().to_owned()).or_insert(0) += 1;
                with_anchor += usize::from(matches!(&cited, Cited::Link(to) | Cited::Path(to) if to.contains('#')));
                if leads(path, &cited, &tree, &documents) {
                    continue;
                }
                lost.push(format!("{path}: {cited:?}"));
            }
        }
        assert!(lost.is_empty(), "{} lead nowhere:\n{}", lost.len(), lost.join("\n"));
        let at_least = [("Link", 30), ("Path", 120), ("Short", 40), ("Decision", 5), ("Section", 30)];
        for (kind, least) in at_least {
            assert!(seen.get(kind).is_some_and(|seen| *seen >= least), "{kind}: {seen:?}");
        }
        assert!(with_anchor >= 20 && sources.len() > 200, "{with_anchor} of {}", sources.len());
    }

    #[test]
    fn what_leads_nowhere_is_found() {
        let tree: BTreeSet<String> =
            ["docs/", "docs/a.md", "src/", "src/amqp/", "src/amqp/names.rs", "docs/adr/0002-x.md"]
                .map(str::to_owned)
                .into();
        let documents =
            BTreeMap::from([("docs/a.md".to_owned(), anchors("# Of `a` and b\n```\n# no\n```\n## Of a and b"))]);
        assert_eq!(documents["docs/a.md"], ["of-a-and-b", "of-a-and-b-1"].map(str::to_owned).into());
        let lost = |text: &str| {
            let cited = cited(text, &BTreeSet::from(["docs", "src", "amqp"]));
            assert!(!cited.is_empty(), "{text}");
            cited.iter().any(|cited| !leads("docs/a.md", cited, &tree, &documents))
        };
        for good in [
            "see docs/a.md.",
            "docs/a.md#of-a-and-b-1",
            "[a](a.md)",
            "[a](#of-a-and-b)",
            "[n](../src/amqp/names.rs)",
            "`amqp/names.rs`",
            "amqp/names.rs",
            "`amqp/names`",
            "ADR 2",
            "docs/adr/0002",
            "`names.rs`",
            "RFC 9110, section 5",
            "(`a.md`)",
        ] {
            assert!(!lost(good), "{good}");
        }
        for bad in [
            "see docs/b.md.",
            "docs/a.md#no",
            "[a](b.md)",
            "[a](#no)",
            "[n](../src/names.rs)",
            "`amqp/name.rs`",
            "src/x/",
            "ADR 3",
            "docs/adr/0003",
            "`name.rs`",
            "section 3 of the contract",
            "Sections 4 and 5",
            "`FACTS.md`",
            "CONTRACT.md",
        ] {
            assert!(lost(bad), "{bad}");
        }
    }

    #[test]
    fn comments_are_told_from_code() {
        assert_eq!(prose("a.rs", "//! One.\nlet a = \"http://b\"; // two\nlet b = 1;"), " One.\n two\n");
        assert_eq!(prose("a.toml", "#!/bin/sh\n# One.\na = 1 # two"), " One.\n two");
    }
}

/// The contract's tables beside the names and defaults in the code.
mod contract {
    use std::collections::{BTreeMap, BTreeSet};

    use resetd::amqp::names::Names;
    use resetd::amqp::topology::{Thing, mailers_things, things};
    use resetd::domain::delay_tier::Delays;
    use resetd::domain::mailing::Unsent;
    use resetd::domain::outcome::{OutcomeKind, Reason};

    /// What stands between a heading and the next.
    fn section(heading: &str) -> String {
        let page = super::file("docs/contract.md");
        let mut lines = page.lines().skip_while(|line| line.trim_start_matches('#').trim() != heading);
        assert!(lines.next().is_some(), "no heading {heading:?}");
        lines.take_while(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect()
    }

    /// The cells of the rows of a table below a heading, without its head.
    fn rows(heading: &str) -> Vec<Vec<String>> {
        let section = section(heading);
        let rows = section.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix('|'));
        rows.map(|row| row.split(" | ").map(|cell| cell.trim().to_owned()).collect()).skip(1).collect()
    }

    /// What is quoted in the first cell of each row.
    fn names(heading: &str) -> Vec<String> {
        rows(heading).iter().flat_map(|row| super::quoted(&row[0]).into_iter().map(str::to_owned)).collect()
    }

    fn sorted<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
        names.into_iter().collect::<BTreeSet<_>>().into_iter().collect()
    }

    #[test]
    fn its_reasons_and_outcomes_are_those_of_the_code() {
        let check = |heading, expected: Vec<&str>| {
            let names = names(heading);
            assert_eq!(sorted(names.iter().map(String::as_str)), sorted(expected), "{heading}");
        };
        check("Reasons", Reason::ALL.map(Reason::as_str).into());
        check("The record of a mail", Unsent::ALL.map(Unsent::as_str).into());
        check("Fields", OutcomeKind::ALL.map(OutcomeKind::as_str).into());
        for row in rows("Fields") {
            let kind = OutcomeKind::named(row[0].trim_matches('`')).unwrap();
            assert_eq!(row[1], kind.is_success().to_string(), "{}", kind.as_str());
        }
    }

    #[test]
    fn its_tables_have_each_exchange_and_queue_that_is_declared_and_no_other() {
        let tables =
            ["Jobs and dead letters", "Delay queues", "The email queue", "The outcome stream", "Leader queues"];
        let mut told = BTreeSet::new();
        for table in tables {
            let mut first = String::new();
            // The table of record types has names of another kind.
            for name in names(table).into_iter().take_while(|name| name != "outcome") {
                // `.2m` and `.10m` stand for names that end so.
                let end = name.starts_with('.').then(|| first.rsplit_once('.').unwrap().0);
                let name = end.map_or(name.clone(), |begin| format!("{begin}{name}"));
                first.clone_from(&name);
                told.insert(name);
            }
        }
        let names = Names::new("", "ORG");
        let delays = Delays::default();
        let declared = things(&names, &delays).into_iter().chain(mailers_things(&names, &delays));
        let declared = declared.filter_map(|thing| match thing {
            Thing::Exchange { name, .. } | Thing::Queue { name, .. } => Some(name),
            Thing::Binding { .. } => None,
        });
        assert_eq!(told, declared.collect());
    }

    /// The keys of the defaults, those behind a `#` too, with their values; an org's are under `orgs.NAME`.
    fn defaults() -> BTreeMap<String, String> {
        let (mut keys, mut at) = (BTreeMap::new(), String::new());
        for line in super::file("config/default.toml").lines() {
            let line = line.trim_start_matches("# ");
            if let Some(section) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                at = section.replace("orgs.main", "orgs.NAME");
            } else if let Some((key, value)) = line.split_once(" = ").filter(|(key, _)| !key.contains(' ')) {
                keys.insert(format!("{at}.{key}"), value.trim_matches('"').to_owned());
            }
        }
        keys
    }

    #[test]
    fn its_keys_are_in_the_defaults_with_the_values_it_says() {
        let (defaults, mut compared) = (defaults(), 0);
        for heading in ["Keys: broker and orgs", "Keys: what is sent", "Keys: retries and the process"] {
            for row in rows(heading) {
                let (keys, values) = (super::quoted(&row[0]), row[1].split(", ").map(|value| value.trim_matches('`')));
                let section = keys[0].rsplit_once('.').unwrap().0;
                let full = |key: &str| if key.contains('.') { key.to_owned() } else { format!("{section}.{key}") };
                for key in keys.iter().map(|key| full(key)) {
                    assert!(defaults.contains_key(&key), "{key} is no key");
                }
                for (key, value) in
                    keys.iter().zip(values).filter(|(_, value)| !value.contains(' ') && *value != "none")
                {
                    assert_eq!(value.trim_matches('"'), defaults[&full(key)], "{key}");
                    compared += 1;
                }
            }
        }
        assert!(compared >= 20, "{compared}");
    }
}

/// A secret that a unit does not hand over as a credential ends up in its environment, which more people can read.
#[test]
fn the_units_have_a_credential_for_every_secret() {
    let both = ["AMQP__URL_FILE", "AMQP__CLIENT_KEY_FILE", "HTTP__TOKEN_FILE", "HTTP__PROXY_FILE"];
    let worker = ["ORGS__MAIN__CLIENT_SECRET_FILE"];
    let mailer =
        ["MAILER__SMTP__PASSWORD_FILE", "MAILER__HTTP__URL_FILE", "MAILER__HTTP__TOKEN_FILE", "MAILER__OPEN_WITH"];
    for (unit, own) in [("resetd", &worker[..]), ("resetd-mailer", &mailer)] {
        let text = file(&format!("deploy/{unit}.service"));
        let lines: Vec<&str> = text.lines().map(|line| line.trim_start_matches('#')).collect();
        for key in both.iter().chain(own) {
            let start = format!("Environment=RESETD__{key}=%d/");
            let credential = lines.iter().find_map(|line| line.strip_prefix(start.as_str()));
            let credential = credential.unwrap_or_else(|| panic!("{unit}: no line {start}"));
            let loads = format!("LoadCredential={credential}:/etc/resetd/");
            assert!(lines.iter().any(|line| line.starts_with(&loads)), "{unit}: no line {loads}");
        }
    }
    // Those above are all there are: whatever is a secret, and the key of a certificate, which is one by its file alone.
    let (raw, mut section) = (file("src/config/raw.rs"), "");
    let (mut secrets, mut files) = (BTreeSet::from(["Amqp.client_key".to_owned()]), BTreeSet::new());
    for line in raw.lines() {
        section = line.strip_prefix("pub(super) struct ").map_or(section, |line| line.trim_end_matches(" {"));
        let Some((key, kind)) = line.trim().strip_prefix("pub(super) ").and_then(|line| line.split_once(": ")) else {
            continue;
        };
        if kind.contains("SecretString") {
            secrets.insert(format!("{section}.{key}"));
        }
        files.extend(key.strip_suffix("_file").map(|key| format!("{section}.{key}")));
    }
    assert_eq!(secrets.difference(&files).collect::<Vec<_>>(), Vec::<&String>::new(), "without a file of its own");
    // `check` alone reads it, which no unit runs.
    assert!(secrets.remove("Amqp.management_url"));
    let known = ["Amqp.client_key", "Amqp.url", "Http.proxy", "Http.token", "MailerHttp.token", "MailerHttp.url"];
    let known = known.into_iter().chain(["MailerSmtp.password", "Org.client_secret"]);
    assert_eq!(secrets, known.map(str::to_owned).collect());
}

/// What an attack may use up, and where its memory may not go.
#[test]
fn the_units_and_every_service_of_compose_are_bounded() {
    for unit in ["resetd", "resetd-mailer"] {
        let text = file(&format!("deploy/{unit}.service"));
        for line in ["LimitCORE=0", "LimitNOFILE=65536", "MemorySwapMax=0"] {
            assert!(text.lines().any(|own| own == line), "{unit}: no line {line}");
        }
    }
    let compose = file("docker-compose.yml");
    let (shared, services) = compose.split_once("\nservices:\n").unwrap();
    let mut blocks = Vec::new();
    for line in services.lines().take_while(|line| line.is_empty() || line.starts_with([' ', '#'])) {
        match line.strip_prefix("  ").filter(|line| !line.starts_with([' ', '#'])) {
            Some(name) => blocks.push((name.to_owned(), String::new())),
            None => blocks.last_mut().unwrap().1 += &format!("{line}\n"),
        }
    }
    assert!(blocks.len() > 3, "{blocks:?}");
    for (name, block) in blocks {
        // What it merges, and what that merges.
        let mut text = block;
        for _ in 0..2 {
            for (anchor, rest) in shared.split("\nx-").skip(1).filter_map(|part| part.split_once('\n')) {
                let anchor = anchor.rsplit_once('&').unwrap().1;
                if text.contains(&format!("*{anchor}")) && !text.contains(rest) {
                    text += rest;
                }
            }
        }
        for key in ["core: 0", "mem_limit:", "pids_limit:"] {
            assert!(text.contains(key), "{name} has no {key}:\n{text}");
        }
    }
}
