//! The field's words alone: what the project once called by names of its own does not come back.

use std::process::Command;

/// Identifiers, as whole words: in code, tests and comments. What a RabbitMQ, Rust or identity engineer would say instead stands beside.
const IDENTIFIERS: [(&str, &str); 43] = [
    ("Rung", "DelayTier"),
    ("rung", "tier"),
    ("Luggage", "RetryHeaders"),
    ("luggage", "retry headers"),
    ("StopCause", "HaltCause"),
    ("line_stopped", "halted"),
    ("resetd_line_stopped", "resetd_halted"),
    ("Untold", "NotNotified"),
    ("untold", "not_notified"),
    ("was_told", "was_notified"),
    ("Told", "LedgerRecord"),
    ("Trouble", "BrokerError, SmtpError"),
    ("Chronicle", "Statistics"),
    ("chronicle", "statistics"),
    ("Book", "LedgerIndex"),
    ("MailBook", "MailIndex"),
    ("Pace", "AdaptiveRate"),
    ("Turns", "UserOrder"),
    ("in_hand", "in_flight"),
    ("Scene", "Snapshot"),
    ("Headline", "StatusLine"),
    ("headline", "status_line"),
    ("Deed", "Action"),
    ("deed", "action"),
    ("LAST_WORDS", "PUBLISH_GRACE"),
    ("AFTER_YOU", "FORMER_LEADER_DELAY"),
    ("Vital", "CallGuard"),
    ("Pulse", "PublisherHeartbeat"),
    ("mend", "fix"),
    ("Trip", "JobState"),
    ("Ticket", "DeliveryInfo"),
    ("Office", "OrgContext"),
    ("Crew", "Supervisor"),
    ("crew", "several"),
    ("Desk", "Session"),
    ("Berth", "RequeueTarget"),
    ("debts", "settle"),
    ("owe", "publish_until_confirmed"),
    ("by_the_prefetch", "IntakeMode::Normal"),
    ("Tenure", "OwnTerm"),
    ("gives_up", "release, dead_letter"),
    ("is_buried", "is_dead_lettered"),
    ("stops_the_line", "halts"),
];

/// Phrases, in any case: in code, tests, documents, the page and what operators import.
const PHRASES: [(&str, &str); 17] = [
    ("in hand", "in flight"),
    ("in another hand", "held by another consumer"),
    ("last words", "publish grace"),
    ("the line stops", "processing is halted"),
    ("the line goes on", "processing resumed"),
    ("stopped until", "halted until"),
    ("mended", "fixed, resolved"),
    ("no call is made: ", "no calls: "),
    ("lies at the broker", "is queued"),
    ("lie at the broker", "are queued"),
    ("in the air", "in flight"),
    ("the lease is ours, and", "active now"),
    ("ends unsaid", "is reported"),
    ("letter is meant", "letter matches"),
    ("house rule", "rule of the codebase"),
    ("the people are told", "users are notified"),
    ("who is owed", "what is pending"),
];

/// This list itself.
const EXCEPT: &str = "tests/docs/words.rs";

fn sources() -> Vec<(String, String)> {
    let listed = Command::new("git").args(["ls-files", "-co", "--exclude-standard"]).output().unwrap();
    assert!(listed.status.success());
    let listed = String::from_utf8(listed.stdout).unwrap();
    let kinds = [".rs", ".md", ".toml", ".html", ".yml", ".json", ".sh", ".py", ".snap", ".service"];
    let ours = listed.lines().filter(|path| {
        kinds.iter().any(|kind| path.ends_with(kind)) && !path.starts_with("patches/") && *path != EXCEPT
    });
    ours.filter_map(|path| Some((path.to_owned(), std::fs::read_to_string(path).ok()?))).collect()
}

/// Where a text has a word as a whole.
fn has_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| !line[..at].ends_with(part) && !line[at + word.len()..].starts_with(part))
}

#[test]
fn no_word_is_used_that_outsiders_would_have_to_look_up() {
    let files = sources();
    assert!(files.len() > 250, "{}", files.len());
    let mut found = Vec::new();
    for (path, text) in &files {
        for (n, line) in text.lines().enumerate() {
            let lower = line.to_lowercase();
            let of_code = IDENTIFIERS.iter().filter(|(word, _)| path.ends_with(".rs") && has_word(line, word));
            let of_all = PHRASES.iter().filter(|(phrase, _)| has_word(&lower, phrase.trim_end()));
            for (word, better) in of_code.chain(of_all) {
                found.push(format!("{path}:{}: {word:?}; say {better}", n + 1));
            }
        }
    }
    assert!(found.is_empty(), "{} of them:\n{}", found.len(), found.join("\n"));
}

#[test]
fn a_word_is_found_as_a_whole_and_nowhere_else() {
    assert!(has_word("let in_hand = 1;", "in_hand") && has_word("Book::new()", "Book"));
    assert!(!has_word("let in_hands = 1;", "in_hand") && !has_word("MailBook", "Book"));
}
