//! Which jobs are taken and which refused, what the org gets, and what the person is told.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp, ToSpan};
use lapin::BasicProperties;
use lapin::types::AMQPValue;
use serde_json::{Value, json};
use sim::{ExtensionForm, PasswordForm, Settings};

use axum::response::IntoResponse;
use sha2::{Digest, Sha256};

use crate::world::{Plan, Scribe, World, by_id, by_job, locked_out, named, reset_body, text, unlimited, with_header};

/// A body, the reason it is refused for, and a part of the detail.
type Case = (Vec<u8>, &'static str, &'static str);

fn case(body: &Value, reason: &'static str, part: &'static str) -> Case {
    (body.to_string().into_bytes(), reason, part)
}

/// Publishes each body, and looks for its letter and its outcome; nothing may be called and nobody told.
async fn refuses(world: &World, cases: Vec<Case>) {
    let mut outcomes = world.outcomes().await;
    let mut dead = world.tap("resets.main.dead").await;
    for (n, (body, _, _)) in cases.iter().enumerate() {
        world.publish("main", body, named(&format!("job-{n}"))).await;
    }
    let letters = by_id(dead.take(cases.len()).await);
    let records = by_job(&outcomes.take(cases.len()).await);
    for (n, (body, reason, part)) in cases.iter().enumerate() {
        let shown = String::from_utf8_lossy(&body[..body.len().min(120)]).into_owned();
        let (letter, record) = (&letters[&format!("job-{n}")], &records[&format!("job-{n}")]);
        let detail = letter.header("resetd-detail").unwrap();
        assert!(detail.contains(part), "{shown}: {detail}");
        assert_eq!(letter.header("resetd-reason").unwrap(), *reason, "{shown}: {detail}");
        assert_eq!(letter.header("resetd-status").unwrap(), "null", "{shown}");
        assert_eq!(letter.header("resetd-attempts").unwrap(), "0", "{shown}");
        assert_eq!(letter.header("resetd-password-set").unwrap(), "no", "{shown}");
        assert_eq!(record["outcome"], "failed", "{shown}");
        assert_eq!((&record["reason"], &record["success"]), (&json!(reason), &json!(false)));
    }
    let stats = world.main().stats();
    assert_eq!((stats.calls, stats.token_requests), (0, 0), "a refused job costs no call");
    assert_eq!(world.depth("emails").await, 0);
}

/// A body of exactly this many bytes; white space makes it up.
fn of_size(body: &Value, bytes: usize) -> Vec<u8> {
    let mut body = body.to_string().into_bytes();
    body.resize(bytes, b' ');
    body
}

fn with_attributes(attributes: &Value) -> Value {
    json!({"userId": "u-1", "password": true, "email": "a@example.com", "attributes": attributes})
}

fn strict_attributes() -> Value {
    json!({
        "title": "Agent",
        "department": "Support",
        "displayName": "A. Gent",
        "preferredLanguage": "en-GB",
        "phoneNumbers": [{"value": "+15550100", "type": "work"}],
        "genesys:routingLanguages": [{"value": "en", "proficiency": 4}],
        "genesys:routingSkills": [{"value": "billing", "proficiency": 2.5}],
    })
}

/// The one PATCH that this configuration makes of a job with a core and an extension attribute, and the mail that followed.
async fn patch_of(config: &str) -> (Value, String) {
    let org = Scribe::answering(|_| axum::http::StatusCode::NO_CONTENT.into_response()).await;
    let world = org.start(Plan::new().config(config)).await;
    let mut emails = world.tap("emails").await;
    let attributes = json!({"title": "Agent", "genesys:routingLanguages": [{"value": "en", "proficiency": 4.0}]});
    world.send("job-1", &with_attributes(&attributes)).await;
    world.reset("main", "a.b_c~d-E9", "job-2").await;
    let mails = by_job(&emails.take(2).await);
    let asked = org.asked();
    let token: Vec<_> = asked.iter().filter(|asked| asked.line.starts_with("POST")).collect();
    assert_eq!(token.len(), 1);
    assert_eq!(token[0].line, "POST /oauth/token");
    assert_eq!(token[0].body, b"grant_type=client_credentials");
    assert_eq!(token[0].headers["content-type"], "application/x-www-form-urlencoded");
    assert_eq!(token[0].headers["authorization"], "Basic ZGVtbzpkZW1vLXNlY3JldA==");
    let find = |line: &str| {
        let mut found = asked.iter().filter(|asked| asked.line == line);
        let only = found.next().unwrap_or_else(|| panic!("no {line}"));
        assert!(found.next().is_none(), "{line} was sent twice");
        assert_eq!(only.headers["content-type"], "application/scim+json");
        assert_eq!(only.headers["accept"], "application/scim+json");
        assert_eq!(only.headers["authorization"], "Bearer the-bearer-token");
        serde_json::from_slice::<Value>(&only.body).unwrap()
    };
    let plain = find("PATCH /api/v2/scim/v2/Users/a.b_c~d-E9");
    let keys: Vec<_> = plain.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["schemas", "Operations"], "no Extensions where it would be empty");
    let patch = find("PATCH /api/v2/scim/v2/Users/u-1");
    let password = mails["job-1"]["temporaryPassword"].as_str().unwrap().to_owned();
    (patch, password)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_id_that_is_not_one_plain_path_segment_is_an_invalid_job() {
    let world = Plan::new().start().await;
    let ids = [
        json!(""),
        json!("."),
        json!(".."),
        json!("a/b"),
        json!("a%2fb"),
        json!("a b"),
        json!("a?b"),
        json!("a#b"),
        json!("a\n"),
        json!("ü"),
        json!("x".repeat(129)),
        json!(7),
        json!(["u"]),
        Value::Null,
    ];
    let mut cases: Vec<Case> = ids
        .iter()
        .map(|id| {
            let body = json!({"userId": id, "password": true, "email": "a@example.com"});
            case(&body, "invalid_job", "userId")
        })
        .collect();
    cases.push(case(&json!({"password": true, "email": "a@example.com"}), "invalid_job", "userId"));
    refuses(&world, cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_user_id_of_unreserved_characters_is_taken_as_it_stands() {
    let world = Plan::new().start().await;
    let mut emails = world.tap("emails").await;
    let long = "x".repeat(128);
    let ids = ["0f6e7c1a-1f00-4c2e-9d3b-0123456789ab", "a.b_c~d-E9", "...", "~", &long];
    for id in ids {
        let body = json!({"userId": id, "password": true, "email": "agent@example.com"});
        world.publish("main", body.to_string().as_bytes(), named(id)).await;
    }
    let mails = emails.take(ids.len()).await;
    assert_eq!(locked_out(world.main(), &mails), Vec::<String>::new());
    let told: BTreeSet<_> = by_job(&mails).into_keys().collect();
    assert_eq!(told, ids.map(str::to_owned).into());
    assert_eq!(world.main().stats().users, ids.len() as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_json_object_or_has_another_field_is_refused_with_or_without_intent() {
    let world = Plan::new().start().await;
    let not_json =
        [&b""[..], b"hello", b"{", b"{} {}", b"{\"userId\":\"u\",}", b"{\"userId\":\"\xff\"}", b"\xef\xbb\xbf{}"];
    let mut cases: Vec<Case> = not_json.iter().map(|body| (body.to_vec(), "invalid_job", "body")).collect();
    for other in [json!([]), json!("text"), json!(5), json!(null), json!([{"userId": "u"}])] {
        cases.push(case(&other, "invalid_job", "body"));
    }
    for intent in [json!(true), json!(false), json!(null)] {
        let body =
            json!({"userId": "u", "password": intent, "email": "u@example.com", "userName": "u", "title": "Agent"});
        cases.push(case(&body, "invalid_job", "move it under attributes"));
    }
    cases.push(case(&json!({"title": "Agent"}), "invalid_job", "move it under attributes"));
    cases.push(case(&json!({"userId": "u", "Password": true}), "invalid_job", "Password"));
    refuses(&world, cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_over_64_kib_is_refused_even_without_intent_and_one_of_64_kib_is_taken() {
    let world = Plan::new().start().await;
    let large = |body: &Value| (of_size(body, 65_537), "invalid_job", "65537");
    refuses(&world, vec![large(&reset_body("u-1")), large(&json!({})), large(&json!({"password": null}))]).await;
    let mut emails = world.tap("emails").await;
    world.publish("main", &of_size(&reset_body("u-1"), 65_536), named("fits")).await;
    assert_eq!(emails.next().await.json()["jobId"], "fits");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_without_intent_is_passed_through_with_its_other_fields_unread() {
    let world = Plan::new().start().await;
    let mut outcomes = world.outcomes().await;
    let bodies = [
        json!({}),
        json!({"userId": "u-1", "email": "u-1@example.com"}),
        json!({"userId": "u-1", "password": false}),
        json!({"userId": "u-1", "password": null, "email": "nobody"}),
        json!({"password": "", "attributes": {"manager": 1}}),
        json!({"userId": 7, "password": false, "email": [], "emails": 3, "attributes": "x"}),
    ];
    for (n, body) in bodies.iter().enumerate() {
        world.send(&format!("job-{n}"), body).await;
    }
    // Its headers are unread too.
    let odd = with_header(named("job-odd"), "not-after", text("tomorrow"));
    world.publish("main", b"{}", odd).await;
    let taken = outcomes.take(bodies.len() + 1).await;
    assert!(taken.iter().all(|record| record.routing_key == "main.passed_through"));
    for (job, record) in by_job(&taken) {
        assert_eq!(record["outcome"], "passed_through", "{job}: {record}");
        assert_eq!(record["success"], true, "{job}");
        assert_eq!(record["passwordSet"], "no", "{job}");
        assert_eq!(
            (&record["attempts"], &record["status"], &record["reason"]),
            (&json!(0), &Value::Null, &Value::Null),
            "{job}"
        );
    }
    let stats = world.main().stats();
    assert_eq!((stats.calls, stats.token_requests), (0, 0));
    for queue in ["emails", "resets.main.dead"] {
        assert_eq!(world.depth(queue).await, 0, "{queue}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_other_value_of_password_is_an_intent_and_never_becomes_the_password() {
    let world = Plan::new().start().await;
    let mut emails = world.tap("emails").await;
    let values = [
        json!(true),
        json!(0),
        json!(-1.5),
        json!([]),
        json!({}),
        json!("x"),
        json!(" "),
        json!("hunter2-hunter2"),
        json!([false]),
    ];
    for (n, value) in values.iter().enumerate() {
        let body = json!({"userId": format!("u-{n}"), "password": value, "email": "a@example.com"});
        world.send(&format!("job-{n}"), &body).await;
    }
    let mails = emails.take(values.len()).await;
    assert_eq!(locked_out(world.main(), &mails), Vec::<String>::new());
    for mail in &mails {
        let said = String::from_utf8_lossy(&mail.body).into_owned();
        assert!(!said.contains("hunter2"), "{said}");
        assert!(!world.main().logs_in(mail.json()["userId"].as_str().unwrap(), "hunter2-hunter2"));
    }
    assert_eq!(world.main().stats().password_sets, values.len() as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn email_is_told_or_else_the_first_of_emails() {
    let world = Plan::new().start().await;
    let mut emails = world.tap("emails").await;
    let second = json!([{"value": "first@example.com", "type": "work"}, {"value": "second@example.com"}]);
    let cases = [
        (json!({"email": "a@example.com"}), "a@example.com"),
        (json!({"email": "a@example.com", "emails": second}), "a@example.com"),
        (json!({"emails": second}), "first@example.com"),
        (json!({"email": null, "emails": second}), "first@example.com"),
        (json!({"email": "a.b+c@sub.example.com", "emails": []}), "a.b+c@sub.example.com"),
    ];
    for (n, (fields, _)) in cases.iter().enumerate() {
        let mut body = fields.clone();
        body["userId"] = json!(format!("u-{n}"));
        body["password"] = json!(true);
        world.send(&format!("job-{n}"), &body).await;
    }
    let mails = by_job(&emails.take(cases.len()).await);
    for (n, (fields, to)) in cases.iter().enumerate() {
        assert_eq!(mails[&format!("job-{n}")]["to"], *to, "{fields}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_without_an_address_and_one_with_a_bad_address_are_refused_before_any_call() {
    let world = Plan::new().start().await;
    let about = |fields: Value| {
        let mut body = fields;
        body["userId"] = json!("u-1");
        body["password"] = json!(true);
        body
    };
    let none = [
        json!({}),
        json!({"email": null}),
        json!({"emails": []}),
        json!({"emails": null}),
        json!({"emails": [{}]}),
        json!({"emails": [{"value": null}, {"value": "second@example.com"}]}),
    ];
    let bad = [
        json!({"email": "nobody"}),
        json!({"email": "@example.com"}),
        json!({"email": "a@"}),
        json!({"email": "a@b@example.com"}),
        json!({"email": "a@example.com, b@example.com"}),
        json!({"email": "a@example.com\r\nBcc: b@example.com"}),
        json!({"email": "A <a@example.com>"}),
        json!({"email": "a..b@example.com"}),
        json!({"email": ".a@example.com"}),
        json!({"email": "a.@example.com"}),
        json!({"email": format!("{}@example.com", "x".repeat(65))}),
        json!({"email": "“a”@example.com"}),
        json!({"email": "\u{200b}a@example.com"}),
        json!({"emails": [{"value": "a..b@example.com"}]}),
        json!({"email": 7}),
        json!({"email": "nobody", "emails": [{"value": "a@example.com"}]}),
        json!({"emails": [{"value": "nobody"}]}),
    ];
    let cases = none.map(|fields| case(&about(fields), "no_address", "email"));
    let cases = cases.into_iter().chain(bad.map(|fields| case(&about(fields), "invalid_job", "email")));
    refuses(&world, cases.collect()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fallback_is_told_where_a_job_has_no_address_and_not_where_it_has_a_bad_one() {
    let world = Plan::new().config("[notification]\nfallback_address = \"observer@example.com\"").start().await;
    let bad = json!({"userId": "u-0", "password": true, "email": "nobody"});
    refuses(&world, vec![case(&bad, "invalid_job", "email")]).await;
    let mut emails = world.tap("emails").await;
    world.send("none", &json!({"userId": "u-1", "password": true})).await;
    let told = emails.next().await.json();
    assert_eq!((&told["to"], &told["userId"]), (&json!("observer@example.com"), &json!("u-1")));
    world.reset("main", "u-2", "own").await;
    assert_eq!(emails.next().await.json()["to"], "u-2@example.com");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attribute_that_is_not_listed_is_refused_and_the_listed_ones_are_set() {
    let world = Plan::new().start().await;
    let not_allowed = [
        json!({"manager": "x"}),
        json!({"title": "Agent", "userName": "x"}),
        json!({"password": "hunter2"}),
        json!({"active": false}),
        json!({"genesys": 1}),
    ];
    let mut cases: Vec<Case> = not_allowed
        .iter()
        .map(|attributes| case(&with_attributes(attributes), "attribute_not_allowed", "attributes"))
        .collect();
    for odd in [json!([]), json!("title"), json!(7)] {
        cases.push(case(&with_attributes(&odd), "invalid_job", "attributes"));
    }
    refuses(&world, cases).await;
    let mut emails = world.tap("emails").await;
    world.send("null", &with_attributes(&Value::Null)).await;
    world.send("none", &with_attributes(&json!({}))).await;
    emails.take(2).await;
    assert!(world.main().user("u-1").unwrap().attributes.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_password_is_never_an_attribute_even_where_all_are_allowed() {
    let world = Plan::new().config("[wire]\nallowed_attributes = [\"*\"]").start().await;
    let names =
        ["password", "Password", "PASSWORD", "genesys:password", "urn:ietf:params:scim:schemas:core:2.0:User:password"];
    let cases =
        names.map(|name| case(&with_attributes(&json!({name: "hunter2"})), "attribute_not_allowed", "attributes"));
    refuses(&world, cases.into()).await;
    let mut emails = world.tap("emails").await;
    world.send("others", &with_attributes(&json!({"userName": "u", "active": true}))).await;
    emails.next().await;
    assert_eq!(world.main().user("u-1").unwrap().attributes["active"], true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_that_cannot_be_read_is_an_invalid_job() {
    let world = Plan::new().start().await;
    let mut dead = world.tap("resets.main.dead").await;
    let bad = [
        ("not-after", text("tomorrow")),
        ("not-after", text("")),
        ("not-after", text("2027-01-15")),
        ("not-after", text("2027-01-15T08:00:00")),
        ("not-after", AMQPValue::LongLongInt(1_800_000_000)),
        ("not-before", text("soon")),
        ("not-before", AMQPValue::Boolean(true)),
        ("batch", AMQPValue::LongLongInt(7)),
    ];
    for (n, (name, value)) in bad.iter().enumerate() {
        let properties = with_header(named(&format!("job-{n}")), name, value.clone());
        let body = reset_body("u-1").to_string();
        world.publish("main", body.as_bytes(), properties).await;
    }
    let letters = by_id(dead.take(bad.len()).await);
    for (n, (name, value)) in bad.iter().enumerate() {
        let letter = &letters[&format!("job-{n}")];
        assert_eq!(letter.header("resetd-reason").unwrap(), "invalid_job", "{name}: {value:?}");
        let detail = letter.header("resetd-detail").unwrap();
        assert!(detail.contains(name), "{name}: {value:?}: {detail}");
    }
    assert_eq!(world.main().stats().calls, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_equal_jobs_without_a_message_id_share_a_name_and_are_two_jobs() {
    let world = Plan::new().start().await;
    let (mut outcomes, mut emails) = (world.outcomes().await, world.tap("emails").await);
    let body = reset_body("u-1").to_string();
    for _ in 0..2 {
        world.publish("main", body.as_bytes(), BasicProperties::default()).await;
    }
    let names: Vec<Value> = outcomes
        .take(2)
        .await
        .iter()
        .map(|taken| {
            let record = taken.json();
            assert_eq!(record["outcome"], "succeeded", "{record}");
            record["jobId"].clone()
        })
        .collect();
    assert_eq!(names[0], names[1]);
    let hash = names[0].as_str().unwrap().strip_prefix("sha256:").unwrap();
    assert!(hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()), "{hash}");
    let mails = emails.take(2).await;
    assert_ne!(mails[0].id(), mails[1].id(), "one notification for each password set");
    assert_eq!(locked_out(world.main(), &mails), Vec::<String>::new());
    assert_eq!(world.main().user("u-1").unwrap().password_sets, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_derived_name_hides_the_password_and_tells_timestamp_and_correlation_id_apart() {
    let world = Plan::new().start().await;
    let mut outcomes = world.outcomes().await;
    let body = |password: &str| json!({"userId": "u-1", "password": password, "email": "a@example.com"}).to_string();
    let plain = BasicProperties::default;
    let jobs = [
        (body("hunter2"), plain()),
        (body("hunter3"), plain()),
        (body("hunter2"), plain().with_timestamp(1_700_000_000)),
        (body("hunter2"), plain().with_correlation_id("c".into())),
        (body("hunter2"), plain().with_message_id("".into())),
    ];
    let mut names = Vec::new();
    for (body, properties) in jobs {
        world.publish("main", body.as_bytes(), properties).await;
        names.push(outcomes.next().await.json()["jobId"].as_str().unwrap().to_owned());
    }
    assert_eq!(names[0], names[1], "the name must not depend on the password");
    assert_eq!(names[0], names[4], "an empty message_id is none");
    assert_eq!(BTreeSet::from_iter(names).len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timestamp_far_ahead_is_taken() {
    let world = Plan::new().start().await;
    let mut outcomes = world.outcomes().await;
    let ahead = Timestamp::now() + SignedDuration::from_hours(24);
    let stamps = [ahead.as_second().cast_unsigned(), 1_800_000_000_000, u64::MAX, 0];
    for (n, seconds) in stamps.into_iter().enumerate() {
        let (user, properties) = (format!("u-{n}"), named(&format!("job-{n}")).with_timestamp(seconds));
        let body = reset_body(&user).to_string();
        world.publish("main", body.as_bytes(), properties).await;
    }
    for (job, record) in by_job(&outcomes.take(stamps.len()).await) {
        assert_eq!(record["outcome"], "succeeded", "{job}: {record}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_near_not_before_is_waited_for_and_holds_nobody_else() {
    let world = Plan::new().start().await;
    let mut emails = world.tap("emails").await;
    // Far enough that the other one is done by then, and near enough to be waited for in memory.
    let start = Timestamp::now() + 5.seconds();
    let body = reset_body("late").to_string();
    let properties = with_header(named("late"), "not-before", text(&start.to_string()));
    world.publish("main", body.as_bytes(), properties).await;
    world.reset("main", "early", "early").await;
    let told = emails.take(2).await;
    let order: Vec<_> = told.iter().map(|mail| mail.json()["jobId"].clone()).collect();
    assert_eq!(order, ["early", "late"]);
    let set_at: Timestamp = world.main().user("late").unwrap().last_set_at.unwrap().parse().unwrap();
    assert!(set_at >= start, "set at {set_at}, not before {start}");
    let issued: Timestamp = told[1].json()["issuedAt"].as_str().unwrap().parse().unwrap();
    assert!(issued >= start);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strict_org_takes_the_envelope_with_all_attributes() {
    let world = Plan::new().start().await;
    let mut emails = world.tap("emails").await;
    world.send("job-1", &with_attributes(&strict_attributes())).await;
    let mails = emails.take(1).await;
    assert_eq!(locked_out(world.main(), &mails), Vec::<String>::new());
    let set = world.main().user("u-1").unwrap();
    assert_eq!(serde_json::to_value(set.attributes).unwrap(), strict_attributes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strict_org_takes_urn_and_plaintext_and_the_mailed_password_fits_its_policy() {
    let settings =
        Settings { password: PasswordForm::Plaintext, extensions: ExtensionForm::Urn, policy: true, ..unlimited() };
    let world = Plan::new()
        .org("main", settings, "")
        .config("[wire]\npassword = \"plaintext\"\nextensions = \"urn\"\n[password]\nkind = \"policy\"")
        .start()
        .await;
    let mut emails = world.tap("emails").await;
    world.send("job-1", &with_attributes(&strict_attributes())).await;
    for n in 0..30 {
        world.reset("main", &format!("p-{n}"), &format!("job-p-{n}")).await;
    }
    let mails = emails.take(31).await;
    assert_eq!(locked_out(world.main(), &mails), Vec::<String>::new());
    for mail in &mails {
        let password = mail.json()["temporaryPassword"].as_str().unwrap().to_owned();
        assert_eq!(password.chars().count(), 20, "{password}");
    }
    let mut expected = serde_json::Map::new();
    for (name, value) in strict_attributes().as_object().unwrap() {
        let path = name.strip_prefix("genesys:").map_or(name.clone(), |bare| {
            format!("urn:ietf:params:scim:schemas:extension:genesys:purecloud:2.0:User:{bare}")
        });
        expected.insert(path, value.clone());
    }
    let set = world.main().user("u-1").unwrap().attributes;
    assert_eq!(serde_json::to_value(set).unwrap(), Value::Object(expected));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_notification_says_what_is_configured_and_waits_as_long_as_configured() {
    let config = "[notification]\nsubject = \"Zugang für Ällen\"\nbody = \"Neu: {password} (wirklich {password})\"\nttl = \"90m\"";
    let world = Plan::new().config(config).start().await;
    let mut emails = world.tap("emails").await;
    let before = Timestamp::now() - 1.milliseconds();
    world.reset("main.bulk", "u-1", "job-1").await;
    let mail = emails.next().await;
    let said = mail.json();
    let password = said["temporaryPassword"].as_str().unwrap();
    assert_eq!(said["subject"], "Zugang für Ällen");
    assert_eq!(said["body"], format!("Neu: {password} (wirklich {password})"));
    assert!(world.main().logs_in("u-1", password));
    assert_eq!(mail.properties.expiration().as_ref().unwrap().as_str(), "5400000");
    let issued: Timestamp = said["issuedAt"].as_str().unwrap().parse().unwrap();
    assert!(before <= issued && issued <= Timestamp::now() + 1.milliseconds(), "{issued}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_a_mailer_takes_part_a_notification_lies_an_hour_longer_so_that_it_is_the_mailer_that_ends_it() {
    let world = Plan::new().config("[notification]\nttl = \"90m\"\n[mailer]\nenabled = true").start().await;
    let mut emails = world.tap("emails").await;
    world.reset("main", "u-1", "job-1").await;
    assert_eq!(emails.next().await.properties.expiration().as_ref().unwrap().as_str(), "9000000");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_requests_of_sha256_and_envelope_are_as_documented() {
    let (patch, password) = patch_of("").await;
    let hash = hex::encode(Sha256::digest(&password));
    let expected = json!({
        "schemas": ["urn:ietf:params:scim:api:messages:2.0:PatchOp"],
        "Operations": [
            {"op": "replace", "path": "password", "value": hash},
            {"op": "replace", "path": "title", "value": "Agent"},
        ],
        "Extensions": [{
            "schema": "urn:ietf:params:scim:schemas:extension:genesys:2.0:User",
            "operations": [
                {"op": "replace", "path": "genesys:routingLanguages", "value": [{"value": "en", "proficiency": 4.0}]},
            ],
        }],
    });
    assert_eq!(patch.to_string(), expected.to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_requests_of_plaintext_and_urn_are_as_documented() {
    let (patch, password) =
        patch_of("[wire]\npassword = \"plaintext\"\nextensions = \"urn\"\n[password]\nkind = \"policy\"").await;
    let urn = "urn:ietf:params:scim:schemas:extension:genesys:purecloud:2.0:User:routingLanguages";
    let expected = json!({
        "schemas": ["urn:ietf:params:scim:api:messages:2.0:PatchOp"],
        "Operations": [
            {"op": "replace", "path": "password", "value": password},
            {"op": "replace", "path": "title", "value": "Agent"},
            {"op": "replace", "path": urn, "value": [{"value": "en", "proficiency": 4.0}]},
        ],
    });
    assert_eq!(patch.to_string(), expected.to_string());
}
