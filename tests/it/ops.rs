//! What an operator sees: secrets in nothing that is written, health, metrics, and one org that does not slow another.

use std::time::Duration;

use base64::Engine;
use lapin::options::{QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::process::{Process, Run, ready};
use crate::world::{Plan, Taken, World, eventually, named, reset_body, unlimited};

const CLIENT_SECRET: &str = "CLIENTSECRETVALUE-4f1c";
const JOB_SECRET: &str = "JOBSECRETVALUE";

/// Every way in which a text may be written somewhere without being readable at first sight.
fn disguises(text: &str) -> Vec<String> {
    let bytes = text.as_bytes();
    let decimal: Vec<String> = bytes.iter().map(u8::to_string).collect();
    let mut all = vec![
        text.to_owned(),
        decimal.join(", "),
        decimal.join(","),
        hex::encode(bytes),
    ];
    // Base64 at each of the three places where it may begin, less the digits that its neighbours have a part in.
    for skip in 0..3 {
        let whole = &bytes[skip..];
        let whole = &whole[..whole.len() / 3 * 3];
        all.push(base64::engine::general_purpose::STANDARD_NO_PAD.encode(whole));
    }
    all
}

fn message(taken: &Taken) -> String {
    format!("{:?} {}", taken.properties, String::from_utf8_lossy(&taken.body))
}

async fn unbind_emails(world: &World) {
    let channel = world.channel().await;
    let (queue, exchange) = (world.named("emails"), world.named("notifications"));
    channel
        .queue_unbind(
            queue.as_str().into(),
            exchange.as_str().into(),
            "email".into(),
            FieldTable::default(),
        )
        .await
        .unwrap();
}

/// Jobs that end in every way there is. Returns how many jobs have an outcome in the end.
async fn a_bit_of_everything(world: &World) -> usize {
    let publish = async |key: &str, job: &str, body: Value| {
        world.publish(key, body.to_string().as_bytes(), named(job)).await;
    };
    for n in 0..10 {
        let key = if n % 2 == 0 { "main" } else { "main.bulk" };
        let mut body = reset_body(&format!("ok-{n}"));
        body["password"] = json!(JOB_SECRET);
        body["attributes"] = json!({"title": "Agent", "genesys:routingLanguages": [{"value": "en"}]});
        publish(key, &format!("ok-{n}"), body).await;
    }
    let fault = |fault: Value| world.main().add_fault(serde_json::from_value(fault).unwrap());
    fault(json!({"status": 500, "always": true, "user": "u-500"}));
    fault(json!({"status": 404, "always": true, "user": "u-404"}));
    fault(json!({"status": 403, "always": true, "user": "u-403"}));
    fault(json!({"status": 400, "always": true, "user": "u-400", "scim_type": "invalidValue"}));
    fault(json!({"cut": true, "always": true, "user": "u-cut", "apply": true}));
    fault(json!({"status": 429, "retry_after": 1, "next": 1, "user": "u-429"}));
    fault(json!({"status": 503, "retry_after": 1, "next": 1, "user": "u-503"}));
    for user in ["u-500", "u-404", "u-403", "u-400", "u-cut", "u-429", "u-503"] {
        let mut body = reset_body(user);
        body["password"] = json!({"new": JOB_SECRET});
        publish("main", user, body).await;
    }
    let bad = [
        format!("{{\"userId\": \"u\", \"password\": \"{JOB_SECRET}\", \"email\": "),
        format!("{{\"userId\": \"u\", \"password\": \"{JOB_SECRET}\" \"email\": 1}}"),
        format!("{JOB_SECRET} is my password"),
        json!({"userId": JOB_SECRET.len(), "password": JOB_SECRET}).to_string(),
        json!({"userId": "u", "password": JOB_SECRET, "newPassword": JOB_SECRET}).to_string(),
        json!({"userId": "u", "password": JOB_SECRET, "email": "no address at people.example"}).to_string(),
        json!({"userId": "u", "password": JOB_SECRET}).to_string(),
        json!({"userId": "u", "password": true, "email": "u@people.example", "attributes": {"clientSecret": JOB_SECRET}}).to_string(),
        json!({"userId": "u", "password": true, "email": "u@people.example", "attributes": {"password": JOB_SECRET}}).to_string(),
        json!({"userId": "u", "password": true, "email": "u@people.example", "attributes": {"title": {"passwd": [JOB_SECRET]}}, "x": 1}).to_string(),
    ];
    for (n, body) in bad.iter().enumerate() {
        world
            .publish("main.bulk", body.as_bytes(), named(&format!("bad-{n}")))
            .await;
    }
    world.recorded(17 + bad.len()).await;

    // A mail that no queue takes, and a token that has to be fetched anew.
    unbind_emails(world).await;
    world.main().revoke_tokens();
    for n in 0..5 {
        publish("main", &format!("late-{n}"), reset_body(&format!("late-{n}"))).await;
    }
    17 + bad.len() + 5
}

async fn a_run_leaves_no_secret(log: &str, filter: &str) -> String {
    let settings = resetd::sim::Settings {
        client_secret: CLIENT_SECRET.into(),
        ..unlimited()
    };
    let world = Plan::new().org("main", settings, "").prepare().await;
    let run = Run::of(&world, &["--log", log, "worker"]).env("RUST_LOG", filter);
    let mut worker = run.start();
    let http = worker.http().await;
    ready(&http).await;
    let jobs = a_bit_of_everything(&world).await;
    let records = world.recorded(jobs).await;
    let metrics = reqwest::get(format!("{http}/metrics"))
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    let page = reqwest::get(format!("{http}/readyz"))
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert_eq!(worker.terminated().await.0, 0);
    let mails = world.drained("emails").await;
    let letters = world.drained("resets.main.dead").await;
    // ok, u-429 and u-503 (and the one that was cut, after it was applied, is a dead letter), late.
    assert_eq!(
        (mails.len(), letters.len()),
        (10 + 2 + 5, 5 + 10),
        "{}",
        worker.stderr()
    );
    assert!(world.main().stats().tokens_issued >= 2);

    let mut written = vec![
        ("log".to_owned(), worker.stderr()),
        ("stdout".to_owned(), worker.stdout()),
        ("metrics".to_owned(), metrics),
        ("readyz".to_owned(), page),
    ];
    written.extend(
        records
            .iter()
            .map(|taken| (format!("outcome {}", taken.id()), message(taken))),
    );
    written.extend(
        letters
            .iter()
            .map(|taken| (format!("letter {}", taken.id()), message(taken))),
    );
    let mut secrets = disguises(CLIENT_SECRET);
    secrets.extend(disguises(&format!("demo:{CLIENT_SECRET}")));
    secrets.extend(disguises(JOB_SECRET));
    secrets.extend(disguises("Your temporary password"));
    secrets.extend(disguises("Your temp")); // one line of a longer list
    secrets.extend(["Bearer ", "Basic ", "bearer ", "basic "].map(str::to_owned));
    for mail in &mails {
        let password = mail.json()["temporaryPassword"].as_str().unwrap().to_owned();
        secrets.extend(disguises(&password));
        secrets.extend(disguises(&hex::encode(Sha256::digest(&password))));
    }
    for (place, text) in &written {
        for secret in &secrets {
            if let Some(at) = text.find(secret.as_str()) {
                let line = text[..at].rfind('\n').map_or(0, |at| at + 1);
                let line = &text[line..text[at..].find('\n').map_or(text.len(), |end| at + end)];
                panic!("{secret:?} is in {place}: {line}");
            }
        }
    }
    for address in ["@example.com", "people.example"] {
        assert!(
            !worker.stderr().contains(address),
            "a mail address is in the log:\n{}",
            worker.stderr()
        );
    }
    worker.stderr()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_fails_in_every_way_leaves_no_secret_in_its_json_log_its_outcomes_letters_and_metrics() {
    let log = a_run_leaves_no_secret("json", "trace,lapin::returned_messages=trace").await;
    let mut settled = 0;
    for line in log.lines() {
        let said: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for field in ["timestamp", "level", "target", "message"] {
            assert!(said[field].is_string(), "no {field} in {line}");
        }
        let message = said["message"].as_str().unwrap();
        if ["a try failed", "job dead-lettered", "job done"].contains(&message) {
            for field in ["job.id", "org", "lane"] {
                assert!(said[field].is_string(), "no {field} in {line}");
            }
            assert!(said["attempt"].is_u64(), "no attempt in {line}");
        }
        settled += usize::from(message == "job dead-lettered" || message == "job done");
    }
    assert_eq!(settled, 32, "one line for each job where it is settled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_fails_in_every_way_leaves_no_secret_in_its_text_log() {
    let log = a_run_leaves_no_secret("text", "trace").await;
    assert_eq!(log.matches("job dead-lettered").count(), 15);
}

#[test]
fn a_disguised_secret_is_found() {
    let mail = b"{\"body\":\"Your temporary password is: x\"}";
    for at in 0..3 {
        let told = [
            format!("{:?}", &mail[at..]),
            base64::engine::general_purpose::STANDARD.encode(&mail[at..]),
            hex::encode(&mail[at..]),
        ];
        for told in told {
            assert!(
                disguises("Your temporary password")
                    .iter()
                    .any(|secret| told.contains(secret)),
                "{told}"
            );
        }
    }
}
