//! What the documents say is held to what the code does: the table of metrics, the alerts and the dashboard.
#![expect(clippy::unwrap_used, reason = "a test fails loudly, in its helpers too")]

use std::collections::BTreeSet;

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

/// The names in the code: each is a constant.
fn exported() -> BTreeSet<String> {
    let code = file("src/telemetry/metrics.rs");
    metrics(&code.lines().filter(|line| line.starts_with("const ")).collect::<String>())
}

#[test]
fn the_table_of_metrics_has_each_that_is_exported_and_no_other() {
    let table = file("docs/METRICS.md");
    let rows: String = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .map(|row| row.split('`').next().unwrap().to_owned() + " ")
        .collect();
    assert_eq!(metrics(&rows), exported());
    assert!(exported().len() > 10);
}

/// What stands between backticks, in its order.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_test_that_the_threat_table_names_exists() {
    let page = file("docs/security.md");
    let is_name =
        |text: &str| text.len() > 20 && text.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_');
    let (mut seen, mut source) = (0, String::new());
    for quoted in quoted(&page) {
        if quoted.starts_with("src/") {
            source = file(quoted);
        }
        let (code, name) = match quoted.split_once("::") {
            Some((module, name)) if is_name(name) => (file(&format!("tests/it/{module}.rs")), name),
            None if is_name(quoted) => (source.clone(), quoted),
            Some(_) | None => continue,
        };
        assert!(code.contains(&format!("fn {name}(")), "{quoted} is nowhere");
        seen += 1;
    }
    assert!(seen >= 12, "{seen}");
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

/// A mailer is scraped as an org of that name: with all workers gone it must not look like one that works.
#[test]
fn no_alert_of_the_orgs_is_hidden_or_raised_by_the_mailer() {
    let alerts = file("deploy/prometheus/alerts.yml");
    let mut asked = 0;
    for metric in
        ["resetd_active", "resetd_line_stopped", "resetd_breaker_state", "resetd_permit_wait", "resetd_rate_per"]
    {
        for (at, _) in alerts.match_indices(metric) {
            let selector: String = alerts[at..].chars().take_while(|c| !" )[]".contains(*c)).collect();
            assert!(selector.contains("{org=\"mailer\"") || selector.contains("{org!=\"mailer\""), "{selector}");
            asked += 1;
        }
    }
    assert!(asked >= 10, "{asked}");
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
