//! What the screens say of a person's mail: that it is queued, until its record says that it was sent, or failed.

use super::*;

/// A batch of three, of whom one has an address that the mail server does not know.
const ROWS: &str = "userId,email,title\nu-1,u-1@example.com,Agent\nu-2,u-2@example.com,Agent\nu-3,u-3@example.com,\n";

fn cell<'a>(table: &'a str, name: &str) -> Option<&'a str> {
    let mut rows = table.lines().map(|line| line.split(['│', '┆']).map(str::trim).collect::<Vec<_>>());
    rows.find(|row| row.get(1) == Some(&name)).and_then(|row| row.get(2).copied())
}

/// What the page shows of the mail of each of three users, once none is queued. A worker reads what became of mails while somebody looks.
async fn said_of_mails(http: &str) -> BTreeMap<String, Value> {
    let mut events = testkit::http::get(format!("{http}/events")).await.unwrap();
    let mut text = String::new();
    loop {
        text += std::str::from_utf8(&events.chunk().await.unwrap().expect("the events go on")).unwrap();
        let Some(end) = text.rfind("\n\n") else { continue };
        let whole: String = text.drain(..end + 2).collect();
        let Some(data) = whole.lines().rev().find_map(|line| line.strip_prefix("data:")) else { continue };
        let shown: Value = serde_json::from_str(data).unwrap();
        let latest = shown["orgs"]["main"]["latest"].as_array().unwrap().clone();
        let mails: BTreeMap<String, Value> =
            latest.iter().map(|job| (job["userId"].as_str().unwrap().to_owned(), job["mail"].clone())).collect();
        if mails.len() == 3 && !mails.values().any(|mail| mail == "queued") {
            return mails;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_whose_mail_failed_is_in_the_file_of_the_failed_and_the_screens_say_so() {
    let postbox = Postbox::answering(|to, _| {
        let said = if to == "u-2@example.com" { "550 5.1.1 no such person" } else { "250 taken" };
        (Duration::ZERO, said.to_owned())
    });
    let setup = Setup::new(postbox, "").await;
    let (_worker, worker) = Process::worker(&setup.world).await;
    let (_mailer, _) = setup.mailer().await;
    let folder = tempfile::tempdir().unwrap();
    let failed = folder.path().join("failed.csv");
    let path = failed.to_str().unwrap();
    let run = Run::of(&setup.world, &["enqueue", "--batch", "monday", "--wait", "--failed", path, "-"]).stdin(ROWS);
    let (code, stdout, stderr) = run.end().await;
    assert_eq!(code, 1, "{stdout}{stderr}");
    assert_eq!(
        ["succeeded", "notification queued", "mail sent", "mail failed"].map(|name| cell(&stdout, name)),
        [Some("3"), None, Some("2"), Some("1")],
        "{stdout}"
    );
    let written = std::fs::read_to_string(&failed).unwrap();
    let lines: Vec<&str> = written.lines().collect();
    assert_eq!(lines.len(), 2, "{written}");
    assert_eq!(lines[0], "userId,email,title,reason,detail");
    assert!(lines[1].starts_with("u-2,u-2@example.com,Agent,notification_failed,"), "{written}");
    says(lines[1], &["the password is set", "undeliverable", "--batch"]);
    // The file is a batch of its own.
    let (code, stdout, stderr) = Run::of(&setup.world, &["enqueue", "--dry-run", path]).end().await;
    assert_eq!(code, 0, "{stdout}{stderr}");

    let (code, stdout, stderr) = Run::of(&setup.world, &["batch", "monday", "--once", "--json"]).end().await;
    assert_eq!(code, 0, "{stdout}{stderr}");
    let batch: Value = serde_json::from_str(&stdout).unwrap();
    let mails = ["notificationQueued", "notified", "notificationFailed"].map(|name| batch[name].as_u64());
    assert_eq!(mails, [Some(0), Some(2), Some(1)]);

    let mails =
        tokio::time::timeout(testkit::LIMIT, said_of_mails(&worker)).await.expect("the page says what became of all");
    let expected = [("u-1", "sent"), ("u-2", "failed"), ("u-3", "sent")];
    assert_eq!(mails, expected.map(|(user, mail)| (user.to_owned(), json!(mail))).into());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notification_is_queued_until_a_record_says_more() {
    let setup = Setup::new(Postbox::new(), "").await;
    let (_worker, _) = Process::worker(&setup.world).await;
    let run = Run::of(&setup.world, &["enqueue", "--batch", "monday", "-"]).stdin(ROWS);
    assert_eq!(run.end().await.0, 0);
    let mut shown = String::new();
    eventually("all have ended", async || {
        shown = Run::of(&setup.world, &["batch", "monday", "--once"]).end().await.1;
        (cell(&shown, "succeeded") == Some("3")).then_some(())
    })
    .await;
    assert_eq!([cell(&shown, "notification queued"), cell(&shown, "mail sent")], [Some("3"), None], "{shown}");
}
