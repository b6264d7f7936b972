//! What `resetd schema` prints: kept in docs/schema, and true of the examples in docs/contract.md and of messages as the worker writes them.
#![expect(clippy::unwrap_used, reason = "a test fails loudly, in its helpers too")]

use std::process::Command;
use std::time::Duration;

use jiff::Timestamp;
use jsonschema::Validator;
use resetd::domain::job::{JobId, Lane};
use resetd::domain::notification::{Issued, Notification, Template};
use resetd::domain::outcome::{Outcome, OutcomeKind, PasswordSet, Reason};
use resetd::domain::password::{Password, PasswordKind};
use resetd::domain::recipient::Recipient;
use resetd::domain::user::UserId;
use resetd::wire::{notification, outcome};
use serde_json::{Value, json};

/// What the command prints for a message, or for none.
fn printed(message: Option<&str>) -> String {
    let run = Command::new(env!("CARGO_BIN_EXE_resetd")).arg("schema").args(message).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    String::from_utf8(run.stdout).unwrap()
}

fn schema(message: &str) -> Value {
    serde_json::from_str(&printed(Some(message))).unwrap()
}

fn validator(message: &str) -> Validator {
    jsonschema::draft202012::new(&schema(message)).unwrap()
}

/// It is as the schema says, and has every property of it and no other.
fn fits(message: &str, value: &Value) {
    let schema = schema(message);
    if let Err(error) = jsonschema::draft202012::new(&schema).unwrap().validate(value) {
        panic!("{message}: {error} at {}", error.instance_path());
    }
    let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(value), names(&schema["properties"]), "{message}");
    for name in names(value) {
        let mut less = value.clone();
        less.as_object_mut().unwrap().remove(&name);
        assert!(!validator(message).is_valid(&less), "{message} without {name}");
    }
}

#[test]
fn the_schemas_in_docs_are_what_the_command_prints() {
    let renew = std::env::var_os("RENEW_SCHEMAS").is_some();
    for (file, message) in [
        ("job", Some("job")),
        ("notification", Some("notification")),
        ("sealed-notification", Some("sealed-notification")),
        ("outcome", Some("outcome")),
        ("reply", Some("reply")),
        ("asyncapi", None),
    ] {
        let path = format!("{}/docs/schema/{file}.json", env!("CARGO_MANIFEST_DIR"));
        let printed = printed(message);
        if renew {
            std::fs::write(&path, &printed).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(kept == printed, "docs/schema/{file}.json is old; renew it: RENEW_SCHEMAS=1 cargo test --test schema");
    }
}

#[test]
fn every_schema_in_the_asyncapi_document_is_one_and_every_reference_leads_somewhere() {
    let document: Value = serde_json::from_str(&printed(None)).unwrap();
    let messages = document["components"]["messages"].as_object().unwrap();
    assert_eq!(messages.len(), 10);
    for (name, message) in messages {
        for part in ["payload", "headers"] {
            if let Some(schema) = message.get(part) {
                jsonschema::draft202012::meta::validate(schema)
                    .unwrap_or_else(|error| panic!("{name} {part}: {error}"));
            }
        }
    }
    let text = document.to_string();
    let references: Vec<&str> =
        text.split("\"$ref\":\"#").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert!(references.len() > 10, "{references:?}");
    for reference in references {
        assert!(document.pointer(reference).is_some(), "{reference}");
    }
}

#[test]
fn the_contracts_job_is_one_and_what_the_worker_refuses_is_none() {
    let job = validator("job");
    let whole = json!({"userId": "0f6e7c1a-5b7e-4e0b-9d0c-6f1f5d1c2a3b", "password": true, "email": "agent@example.com",
        "attributes": {"title": "Agent", "genesys:routingLanguages": [{"value": "en", "proficiency": 4}]}});
    assert!(job.is_valid(&whole));
    for taken in [
        json!({}),
        json!({"password": false, "userId": 7}),
        json!({"password": 0, "userName": "agent@example.com", "email": "agent@example.com"}),
        json!({"password": true, "userId": "u", "emails": [{"value": "agent@example.com", "type": "work"}]}),
    ] {
        assert!(job.is_valid(&taken), "{taken}");
    }
    for (field, value) in [
        ("title", json!("Agent")),
        ("userName", json!("agent@example.com")),
        ("userId", json!("..")),
        ("userId", json!(7)),
        ("userId", Value::Null),
        ("email", json!("agent")),
        ("attributes", json!([])),
        ("attributes", json!({"genesys:password": "hunter2"})),
    ] {
        let mut refused = whole.clone();
        refused[field] = value;
        assert!(!job.is_valid(&refused), "{refused}");
    }
    assert!(!job.is_valid(&json!([])));
}

#[test]
fn the_contracts_notification_and_outcome_are_as_their_schemas_say() {
    fits(
        "notification",
        &json!({"notificationId": "…", "jobId": "…", "org": "main", "userId": "…", "to": "agent@example.com",
            "subject": "Genesys Cloud Temporary Password Reset",
            "body": "Your temporary password is: …. Please log in and change it immediately.",
            "temporaryPassword": "…", "issuedAt": "2026-11-23T18:00:00Z"}),
    );
    fits(
        "outcome",
        &json!({"jobId": "…", "org": "main", "lane": "interactive", "userId": "…", "batch": null, "outcome": "succeeded", "success": true,
            "reason": null, "status": 200, "attempts": 1, "passwordSet": "yes", "message": "Password reset completed and notification sent",
            "detail": null, "finishedAt": "…"}),
    );
}

#[test]
fn what_the_worker_writes_is_as_its_schema_says() {
    let ended = |kind, reason| Outcome {
        job: JobId::new("job-1"),
        org: "main".into(),
        lane: Lane::Bulk,
        user: UserId::parse("u-1").ok(),
        batch: Some("november".into()),
        asked_at: None,
        kind,
        reason,
        status: Some(404),
        attempts: 1,
        password_set: PasswordSet::No,
        detail: Some("no such user".into()),
        finished_at: Timestamp::UNIX_EPOCH,
    };
    let read = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
    let reasons = Reason::ALL.into_iter().map(|reason| (OutcomeKind::Failed, Some(reason)));
    let bare =
        Outcome { user: None, batch: None, status: None, detail: None, ..ended(OutcomeKind::PassedThrough, None) };
    let all = OutcomeKind::ALL.into_iter().map(|kind| (kind, None)).chain(reasons);
    let all: Vec<Outcome> = all.map(|(kind, reason)| ended(kind, reason)).chain([bare]).collect();
    let outcomes = validator("outcome");
    for outcome in &all {
        let record = read(&outcome::record(outcome).0);
        assert!(outcomes.is_valid(&record), "{record}");
    }
    fits("outcome", &read(&outcome::record(&all[0]).0));
    fits("reply", &read(&outcome::reply(&all[0], None, Some(&json!({"id": "u-1"}))).0));
    fits("reply", &read(&outcome::reply(&all[0], None, None).0));

    let (job, user) = (JobId::new("job-1"), UserId::parse("u-1").unwrap());
    let notification = Notification {
        issued: &Issued { notification_id: "n-1".into(), at: Timestamp::UNIX_EPOCH },
        job: &job,
        asked_at: None,
        org: "main",
        user: &user,
        to: &Recipient::parse("email", "agent@example.com").unwrap(),
        template: &Template::new("Your password".into(), "It is {password}".into()).unwrap(),
        password: &Password::generate(PasswordKind::Hex).unwrap(),
        language: None,
        batch: None,
    };
    let ttl = Duration::from_secs(1);
    fits("notification", &read(&notification::message(&notification, None, ttl).0));
    fits("sealed-notification", &read(&notification::message(&notification, Some("e30.a.b.c.d"), ttl).0));
    let secret = read(&notification::secret(&notification));
    let password = notification.password.expose();
    assert_eq!(
        secret,
        json!({"notificationId": "n-1", "org": "main", "userId": "u-1", "to": "agent@example.com",
            "temporaryPassword": password, "body": format!("It is {password}")})
    );
}
