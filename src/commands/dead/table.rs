//! Letters as people read them. No table has a mail address; what comes from producers cannot move the cursor.

use std::collections::BTreeMap;

use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use jiff::Timestamp;

use crate::domain::escape::escaped;
use crate::domain::user::UserId;
use crate::wire::dead_mail::DeadMail;
use crate::wire::letter::{By, DeadLetter, Shown};

/// What stands where nothing is known.
const NOTHING: &str = "-";

/// The letters of one org: by reason, then the newest `limit` of them one by one (0: all). `there` is how many there are unfiltered.
pub(super) fn list(org: &str, letters: &[DeadLetter], there: usize, limit: usize) -> String {
    if letters.is_empty() && there > 0 {
        return format!("org {org}: none of {} matches", many(there));
    }
    if letters.is_empty() {
        return format!("org {org}: no dead letters");
    }
    let of = if letters.len() < there { format!(" of {there}") } else { String::new() };
    let mut text = format!("org {org}: {}{of}\n{}", many(letters.len()), by_reason(letters));
    let mut newest: Vec<&DeadLetter> = letters.iter().collect();
    newest.sort_by_key(|letter| std::cmp::Reverse(letter.dead_at));
    let shown = if limit == 0 { newest.len() } else { limit.min(newest.len()) };
    text += &format!("\n{}", one_by_one(&newest[..shown]));
    if shown < newest.len() {
        text += &format!("\nthe newest {shown} of {}; --limit 0 shows all", newest.len());
    }
    text
}

/// `1 letter`, `2 letters`.
pub(super) fn many(letters: usize) -> String {
    if letters == 1 { "1 letter".to_owned() } else { format!("{letters} letters") }
}

/// How many there are for each reason, and from when to when.
pub(super) fn by_reason(letters: &[DeadLetter]) -> Table {
    reasons(letters.iter().map(|letter| (reason(letter), letter.dead_at)))
}

/// The same of reasons and moments.
pub(super) fn reasons(letters: impl Iterator<Item = (String, Option<Timestamp>)>) -> Table {
    let mut rows: BTreeMap<String, Vec<Option<Timestamp>>> = BTreeMap::new();
    for (reason, dead_at) in letters {
        rows.entry(reason).or_default().push(dead_at);
    }
    let mut table = new(&["reason", "letters", "oldest", "newest"]);
    for (reason, times) in rows {
        let known = || times.iter().flatten().copied();
        table.add_row([reason, times.len().to_string(), when(known().min()), when(known().max())]);
    }
    table
}

/// The dead mails: by reason, then the newest `limit` of them one by one (0: all).
pub(super) fn mails(letters: &[DeadMail], there: usize, limit: usize) -> String {
    if letters.is_empty() {
        return if there > 0 {
            format!("emails: none of {} matches", many(there))
        } else {
            "emails: no dead mails".into()
        };
    }
    let of = if letters.len() < there { format!(" of {there}") } else { String::new() };
    let by_reason = reasons(letters.iter().map(|letter| (plain(&letter.reason), letter.dead_at)));
    let mut newest: Vec<&DeadMail> = letters.iter().collect();
    newest.sort_by_key(|letter| std::cmp::Reverse(letter.dead_at));
    let shown = if limit == 0 { newest.len() } else { limit.min(newest.len()) };
    let mut table = new(&["mail", "org", "user", "reason", "status", "attempts", "batch", "given up"]);
    for letter in &newest[..shown] {
        let text = |text: &Option<String>| text.as_deref().map_or_else(nothing, plain);
        table.add_row([
            plain(&letter.id),
            text(&letter.remains.org),
            text(&letter.remains.user_id),
            plain(&letter.reason),
            letter.status.map_or_else(nothing, |status| status.to_string()),
            letter.attempts.map_or_else(nothing, |attempts| attempts.to_string()),
            text(&letter.batch),
            when(letter.dead_at),
        ]);
    }
    let mut said = format!("emails: {}{of}\n{by_reason}\n{table}", many(letters.len()));
    if shown < newest.len() {
        said += &format!("\nthe newest {shown} of {}; --limit 0 shows all", newest.len());
    }
    said
}

/// One dead mail in full, with its address.
pub(super) fn one_mail(letter: &DeadMail) -> String {
    let text = |text: &Option<String>| text.as_deref().map_or_else(nothing, plain);
    let remains = &letter.remains;
    let replay = if letter.whom().is_some() {
        "it makes a new password, by a new job"
    } else {
        "not possible: it does not say whose it was"
    };
    let rows = [
        ("mail", plain(&letter.id)),
        ("job", text(&remains.job_id)),
        ("org", text(&remains.org)),
        ("user", text(&remains.user_id)),
        ("to", text(&remains.to)),
        ("subject", text(&remains.subject)),
        ("batch", text(&letter.batch)),
        ("issued", text(&remains.issued_at)),
        ("reason", plain(&letter.reason)),
        ("detail", text(&letter.detail)),
        ("status", letter.status.map_or_else(nothing, |status| status.to_string())),
        ("attempts", letter.attempts.map_or_else(nothing, |attempts| attempts.to_string())),
        ("given up", when(letter.dead_at)),
        ("replay", replay.to_owned()),
    ];
    rows.map(|(name, value)| format!("{name:<13}{value}")).join("\n")
}

fn one_by_one(letters: &[&DeadLetter]) -> Table {
    let mut table = new(&["job", "user", "reason", "status", "attempts", "password set", "lane", "batch", "given up"]);
    for letter in letters {
        table.add_row([
            plain(letter.job.as_str()),
            letter.user.as_ref().map(UserId::as_str).unwrap_or(NOTHING).to_owned(),
            reason(letter),
            letter.status.map_or_else(nothing, |status| status.to_string()),
            letter.attempts.map_or_else(nothing, |attempts| attempts.to_string()),
            letter.password_set.as_deref().map_or_else(nothing, plain),
            plain(letter.lane()),
            letter.batch.as_deref().map_or_else(nothing, plain),
            when(letter.dead_at),
        ]);
    }
    table
}

/// One letter in full, and what may be shown of its body.
pub(super) fn one(letter: &DeadLetter, org: &str, shown: &Shown) -> String {
    let text = |text: &Option<String>| text.as_deref().map_or_else(nothing, plain);
    let replay = letter.hindrance().map_or("it can be replayed".to_owned(), |why| format!("not possible: {why}"));
    let mut rows = vec![
        ("job", plain(letter.job.as_str())),
        ("org", org.to_owned()),
        ("lane", plain(letter.lane())),
        ("user", letter.user.as_ref().map(UserId::as_str).unwrap_or(NOTHING).to_owned()),
        ("batch", text(&letter.batch)),
        ("reason", reason(letter)),
        ("detail", text(&letter.detail)),
        ("status", letter.status.map_or_else(nothing, |status| status.to_string())),
        ("attempts", letter.attempts.map_or_else(nothing, |attempts| attempts.to_string())),
        ("password set", text(&letter.password_set)),
        ("given up", when(letter.dead_at)),
        ("replay", plain(&replay)),
        ("body", body(letter, shown)),
    ];
    for (name, names) in [("not shown", &shown.not_shown), ("missing", &letter.missing), ("left out", &letter.left_out)]
    {
        if !names.is_empty() {
            rows.push((name, plain(&names.join(", "))));
        }
    }
    let rows: Vec<String> = rows.into_iter().map(|(name, value)| format!("{name:<13}{value}")).collect();
    rows.join("\n")
}

fn body(letter: &DeadLetter, shown: &Shown) -> String {
    match (letter.kept, shown.body.is_null()) {
        (false, _) => "none was kept".to_owned(),
        (true, true) => "not shown: it is no JSON object, or over 64 KiB".to_owned(),
        (true, false) => plain(&shown.body.to_string()),
    }
}

fn reason(letter: &DeadLetter) -> String {
    match letter.by {
        By::Worker => plain(&letter.reason),
        By::Broker => format!("{} (broker)", plain(&letter.reason)),
    }
}

fn when(at: Option<Timestamp>) -> String {
    at.map_or_else(nothing, |at| at.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
}

fn nothing() -> String {
    NOTHING.to_owned()
}

/// Text from outside, in a cell of its own.
pub(super) fn plain(text: &str) -> String {
    escaped(text).into_owned()
}

fn new(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header(header);
    table
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::job::{JobId, Lane};

    fn letter(n: i64) -> DeadLetter {
        DeadLetter {
            job: JobId::new(format!("job-{n}")),
            user: UserId::parse(&format!("u-{n}")).ok(),
            user_name: None,
            batch: Some("monday".into()),
            reason: "not_found".into(),
            by: By::Worker,
            detail: Some("Not Found (ININ-Correlation-Id 1)".into()),
            status: Some(404),
            attempts: Some(1),
            password_set: Some("no".into()),
            lane: Ok(Lane::Bulk),
            dead_at: Timestamp::from_second(1_800_000_000 + n * 60).ok(),
            kept: true,
            missing: Vec::new(),
            left_out: Vec::new(),
        }
    }

    fn of_the_broker() -> DeadLetter {
        DeadLetter {
            user: None,
            user_name: Some("somebody@example.com".into()),
            batch: None,
            reason: "delivery_limit".into(),
            by: By::Broker,
            detail: None,
            status: None,
            attempts: None,
            password_set: None,
            lane: Ok(Lane::Interactive),
            kept: false,
            ..letter(3)
        }
    }

    #[test]
    fn a_list_is_a_table_by_reason_and_the_newest_letters() {
        let letters = [letter(1), of_the_broker(), letter(2)];
        insta::assert_snapshot!(list("main", &letters, 7, 2));
        assert!(!list("main", &letters, 3, 0).contains('@'));
    }

    #[test]
    fn nothing_there_and_nothing_meant_are_told_apart() {
        assert_eq!(list("main", &[], 0, 50), "org main: no dead letters");
        assert_eq!(list("main", &[], 7, 50), "org main: none of 7 letters matches");
    }

    #[test]
    fn one_letter_is_shown_in_full() {
        let body = json!({"userId": "u-1", "password": true, "email": "a@example.com"});
        let all = Shown { body: body.clone(), not_shown: Vec::new() };
        insta::assert_snapshot!(one(&letter(1), "main", &all));
        let nothing = Shown { body: json!(null), not_shown: Vec::new() };
        insta::assert_snapshot!(one(&of_the_broker(), "main", &nothing));
        let lost = DeadLetter { missing: vec!["pin".into()], left_out: vec!["header x-password".into()], ..letter(1) };
        let some = Shown { body, not_shown: vec!["Kennwort".into()] };
        insta::assert_snapshot!(one(&lost, "main", &some));
        let masked = Shown { body: json!(null), not_shown: vec!["body".into()] };
        assert!(one(&letter(1), "main", &masked).contains("body         not shown: it is no JSON object"));
    }

    #[test]
    fn a_producers_text_cannot_move_the_cursor() {
        let job = JobId::new("a\u{1b}[2Jb\nc");
        let text = list("main", &[DeadLetter { job, ..letter(1) }], 1, 0);
        assert!(text.contains(r"a\u{1b}[2Jb\nc") && !text.contains('\u{1b}'), "{text}");
    }
}
