//! What is left of a job for others to read: its dead letter, its outcome and its reply; none of them holds a secret.

use axum::response::IntoResponse;
use jiff::{SignedDuration, Timestamp};
use lapin::BasicProperties;
use lapin::options::QueueDeleteOptions;
use lapin::types::{AMQPValue, FieldArray, FieldTable};
use serde_json::{Value, json};

use crate::world::{Asked, Plan, Scribe, Taken, Tap, World, exclusive, fault, named, reset_body, text, with_header};

/// The letter and the outcome of one job.
async fn end_of(world: &World, body: &[u8], properties: BasicProperties) -> (Taken, Value) {
    let (mut outcomes, mut dead) = (world.outcomes().await, world.tap("resets.main.dead").await);
    world.publish("main", body, properties).await;
    (dead.next().await, outcomes.next().await.json())
}

/// The names of a header.
pub fn names(letter: &Taken, header: &str) -> Vec<String> {
    let headers = letter.properties.headers().as_ref().unwrap().inner();
    let Some(AMQPValue::FieldArray(names)) = headers.get(header) else { return Vec::new() };
    let name = |name: &AMQPValue| match name {
        AMQPValue::LongString(name) => name.to_string(),
        other => panic!("{other:?}"),
    };
    names.as_slice().iter().map(name).collect()
}

/// A record without its `finishedAt`, which must be a moment of this test.
fn finished(mut record: Value) -> Value {
    let at: Timestamp = record["finishedAt"].take().as_str().unwrap().parse().unwrap();
    assert!(Timestamp::now().duration_since(at).abs() < SignedDuration::from_mins(5), "{at}");
    record
}

/// Everything of a message that can be read, for looking for what must not be in it.
fn all_of(taken: &Taken) -> String {
    format!("{} {:?}", String::from_utf8_lossy(&taken.body), taken.properties)
}

/// A queue for replies, and what comes into it.
async fn replies(world: &World) -> (String, Tap) {
    let channel = world.channel().await;
    let queue = channel.queue_declare("".into(), exclusive(), FieldTable::default()).await.unwrap();
    let name = queue.name().to_string();
    let tap = Tap::of(&channel, &name).await;
    (name, tap)
}

/// What a job with a reply gets where the org answers its PATCH with this status and body.
async fn reply_to(world: &World, user: &str, status: u16, body: &Value) -> Taken {
    let (queue, mut tap) = replies(world).await;
    let fault = json!({"status": status, "next": 1, "apply": status == 200, "body": body});
    world.main().add_fault(serde_json::from_value(fault).unwrap());
    let properties = named(user).with_reply_to(queue.into());
    world.publish("main", reset_body(user).to_string().as_bytes(), properties).await;
    tap.next().await
}

/// What an org says that repeats all it was told: in texts, in keys, under the key `password`, and in its correlation id.
fn parrot(asked: &Asked, status: u16) -> axum::response::Response {
    let patch: Value = serde_json::from_slice(&asked.body).unwrap();
    let password = patch["Operations"][0]["value"].as_str().unwrap();
    let bearer = asked.headers["authorization"].to_str().unwrap();
    let body = json!({
        "scimType": format!("bad-{password}"), "detail": format!("{bearer} sent {password}, {password}"), "code": password,
        "message": {"text": password}, "errors": [{password: [bearer]}, {"newPassword": password}], "kept": "kept",
    });
    let correlation = ("inin-correlation-id", bearer.replace(' ', "-"));
    let status = axum::http::StatusCode::from_u16(status).unwrap();
    (status, [correlation], axum::Json(body)).into_response()
}

/// Resets one password at an org that repeats everything, and looks for what it repeated in all that is left of the job.
async fn repeats_nothing(config: &str, status: u16, answer: fn(&Asked) -> axum::response::Response) {
    let org = Scribe::answering(answer).await;
    let world = org.start(Plan::new().config(config)).await;
    let (mut outcomes, (queue, mut replies)) = (world.outcomes().await, replies(&world).await);
    let properties = named("job-1").with_reply_to(queue.into());
    world.publish("main", reset_body("u-1").to_string().as_bytes(), properties).await;
    let mut left = vec![outcomes.next().await, replies.next().await];
    assert_eq!(left[1].json()["scimResponse"]["kept"], "kept");
    if status >= 400 {
        left.push(world.tap("resets.main.dead").await.next().await);
        let detail = left[2].header("resetd-detail").unwrap();
        assert!(detail.contains("sent"), "{detail}");
    }
    let patch = org.asked().into_iter().find(|asked| asked.line.starts_with("PATCH")).unwrap();
    let patch: Value = serde_json::from_slice(&patch.body).unwrap();
    for secret in [patch["Operations"][0]["value"].as_str().unwrap(), "the-bearer-token"] {
        for taken in &left {
            let header = taken.header("resetd-detail").unwrap_or_default();
            let all = format!("{} {header}", all_of(taken));
            assert!(!all.contains(secret), "{all}");
        }
    }
}

/// The letter must have no body, and its length in the detail.
async fn measures(body: &str) {
    let world = Plan::new().start().await;
    let (letter, record) = end_of(&world, body.as_bytes(), named("job-1")).await;
    let detail = record["detail"].as_str().unwrap();
    assert!(
        letter.body.is_empty() && detail.contains(&format!("{} bytes", body.len())),
        "{:?}: {detail}",
        String::from_utf8_lossy(&letter.body)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_says_why_when_and_how_often_in_its_headers() {
    let world = Plan::new().start().await;
    let mut dead = world.tap("resets.main.dead").await;
    world.main().add_fault(fault("status=404,body=scim,always,user=gone"));
    let before = Timestamp::now() - SignedDuration::from_millis(1);
    world.reset("main.bulk", "gone", "job-1").await;
    let letter = dead.next().await;
    assert_eq!(letter.header("resetd-reason").unwrap(), "not_found");
    assert_eq!(letter.header("resetd-status").unwrap(), "404");
    assert_eq!(letter.header("resetd-attempts").unwrap(), "1");
    assert_eq!(letter.header("resetd-password-set").unwrap(), "no");
    assert_eq!(letter.header("resetd-lane").unwrap(), "bulk");
    assert!(letter.header("resetd-detail").unwrap().contains("Not Found, by a scripted fault"));
    let at: Timestamp = letter.header("resetd-dead-at").unwrap().parse().unwrap();
    assert!(before <= at && at <= Timestamp::now() + SignedDuration::from_millis(1), "{at}");
    assert_eq!(letter.properties.delivery_mode(), &Some(2));
    assert_eq!(letter.json(), reset_body("gone"));
    world.reset("main", "gone", "job-2").await;
    assert_eq!(dead.next().await.header("resetd-lane").unwrap(), "interactive");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_in_a_body_is_kept_at_any_depth() {
    let world = Plan::new().start().await;
    let body = json!({
        "userId": "u-1", "password": "hunter2", "email": "a@example.com",
        "extra": {
            "newPassword": "hunter2", "PASSWORD_OLD": ["hunter2"], "my-pwd": 2, "Passwd": {"is": "hunter2"},
            "list": [[{"clientSecret": "hunter2", "kept": "kept"}], 3.50, 12345678901234567890_u64],
            "password": null, "pwd": false, "secret": "", "pass": "kept too", "secrets": 0,
        },
    });
    let (letter, record) = end_of(&world, body.to_string().as_bytes(), named("job-1")).await;
    let expected = json!({
        "userId": "u-1", "password": true, "email": "a@example.com",
    });
    assert_eq!(letter.json(), expected, "of the rest the name alone");
    assert_eq!(names(&letter, "resetd-missing"), ["extra"]);
    assert!(!all_of(&letter).contains("hunter2") && !record.to_string().contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_hides_its_word_in_escapes_is_found_too() {
    let world = Plan::new().start().await;
    let (letter, _) = end_of(&world, br#"{"pass\u0077ord":"hunter2"}"#, named("top")).await;
    assert_eq!(letter.json(), json!({"password": true}));
    let attribute = br#"{"userId":"u-1","password":1,"attributes":{"title":{"pass\u0077ord":"hunter2"}}}"#;
    let (letter, _) = end_of(&world, attribute, named("json")).await;
    assert_eq!(letter.json(), json!({"userId": "u-1", "password": true, "attributes": {}}));
    assert_eq!(names(&letter, "resetd-missing"), ["attributes.title"]);
    let (letter, _) = end_of(&world, br#"{"x":{"pass\u0077ord":"hunter2"}"#, named("not-json")).await;
    assert!(letter.body.is_empty(), "{:?}", String::from_utf8_lossy(&letter.body));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_keeps_the_properties_and_headers_of_a_job_and_names_others_but_those_that_route_or_expire_it() {
    let world = Plan::new().start().await;
    let channel = world.channel().await;
    let queue = channel.queue_declare("".into(), exclusive(), FieldTable::default()).await.unwrap();
    let mut table = FieldTable::default();
    table.insert("x-mine".into(), text("mine"));
    table.insert("batch".into(), text("monday"));
    table.insert("traceparent".into(), text("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
    table.insert("not-after".into(), text("2099-01-01T00:00:00Z"));
    table.insert("n".into(), AMQPValue::LongLongInt(7));
    for routes in ["CC", "BCC"] {
        table.insert(routes.into(), AMQPValue::FieldArray(FieldArray::from(vec![text("nowhere")])));
    }
    table.insert("x-death".into(), AMQPValue::FieldArray(FieldArray::default()));
    for (name, value) in [("x-first-death-queue", "q"), ("x-last-death-reason", "expired"), ("resetd-reason", "old")] {
        table.insert(name.into(), text(value));
    }
    let properties = named("job-1")
        .with_headers(table)
        .with_timestamp(1_700_000_000)
        .with_reply_to(queue.name().clone())
        .with_correlation_id("corr".into())
        .with_content_type("application/json".into())
        .with_content_encoding("utf-8".into())
        .with_type("reset".into())
        .with_app_id("hr".into())
        .with_priority(3)
        .with_user_id("guest".into())
        .with_expiration("600000".into());
    let (letter, record) = end_of(&world, br#"{"userId":"u-1","what":1}"#, properties).await;
    let kept = &letter.properties;
    let short = |value: &Option<lapin::types::ShortString>| value.as_ref().map(ToString::to_string);
    assert_eq!(letter.id(), "job-1");
    assert_eq!(kept.timestamp(), &Some(1_700_000_000));
    assert_eq!(short(kept.reply_to()), Some(queue.name().to_string()));
    assert_eq!(short(kept.correlation_id()).as_deref(), Some("corr"));
    assert_eq!(short(kept.content_type()).as_deref(), Some("application/json"));
    assert_eq!((short(kept.content_encoding()), short(kept.kind())), (None, None));
    assert_eq!(short(kept.app_id()).as_deref(), Some("hr"));
    assert_eq!(kept.priority(), &Some(3));
    assert_eq!((short(kept.user_id()), short(kept.expiration())), (None, None));
    for (name, value) in [("batch", "monday"), ("not-after", "2099-01-01T00:00:00Z")] {
        assert_eq!(letter.header(name).as_deref(), Some(value), "{name}");
    }
    assert!(letter.header("traceparent").is_some());
    assert_eq!(letter.header("resetd-reason").unwrap(), "invalid_job");
    let left_out = ["header n", "header x-mine", "property content_encoding", "property type"];
    assert_eq!(names(&letter, "resetd-left-out"), left_out);
    for name in
        ["x-mine", "n", "CC", "BCC", "x-death", "x-first-death-queue", "x-last-death-reason", "x-delivery-count"]
    {
        assert_eq!(letter.header(name), None, "{name}");
    }
    assert_eq!(record["batch"], "monday");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_body_that_is_no_json_nothing_is_kept_but_its_length_and_the_place_of_the_error() {
    let world = Plan::new().start().await;
    for (body, place) in [
        (&b"userId: u-1"[..], "line 1 column 1"),
        (b"{\"userId\": \"u-1\",}", "line 1 column"),
        (b"\x00\xff\xfe", "line 1 column 1"),
        (b"password: hunter2", "line 1 column 1"),
        (b"{\"userId\": \"u-1\",\n \"PassWord\": hunter2}", "line 2 column"),
        (b"my pwd is hunter2", "line 1 column 1"),
        (b"\xff\xfe secret hunter2", "line 1 column 1"),
        (b"{\"passwd\": \"hunter2\"", "line 1 column"),
    ] {
        let (letter, record) = end_of(&world, body, named("job-1")).await;
        assert!(letter.body.is_empty(), "{:?}", String::from_utf8_lossy(body));
        let detail = letter.header("resetd-detail").unwrap();
        assert!(detail.contains(&format!("{} bytes", body.len())) && detail.contains(place), "{detail}");
        assert!(!all_of(&letter).contains("hunter2") && !record.to_string().contains("hunter2"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_letter_of_a_body_over_64_kib_is_empty_and_says_how_long_it_was() {
    let world = Plan::new().start().await;
    for body in [vec![b'x'; 70_000], [reset_body("u-1").to_string(), " ".repeat(70_000)].concat().into_bytes()] {
        let (letter, record) = end_of(&world, &body, named("job-1")).await;
        assert!(letter.body.is_empty());
        let detail = letter.header("resetd-detail").unwrap();
        assert!(detail.contains(&body.len().to_string()), "{detail}");
        assert_eq!(record["reason"], "invalid_job");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_detail_has_at_most_512_characters() {
    let world = Plan::new().start().await;
    let long = json!({"status": 400, "always": true, "body": {"scimType": "invalidValue", "detail": "ü".repeat(9000)}});
    world.main().add_fault(serde_json::from_value(long).unwrap());
    let (letter, record) = end_of(&world, reset_body("u-1").to_string().as_bytes(), named("job-1")).await;
    let detail = letter.header("resetd-detail").unwrap();
    assert_eq!(detail.chars().count(), 512);
    assert!(detail.starts_with("invalidValue: üüü"));
    assert_eq!(record["reason"], "rejected");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_outcome_of_a_failed_job_is_as_documented() {
    let world = Plan::new().start().await;
    let mut outcomes = world.outcomes().await;
    let fault =
        json!({"status": 400, "always": true, "body": {"status": "400", "scimType": "invalidValue", "detail": "no"}});
    world.main().add_fault(serde_json::from_value(fault).unwrap());
    let properties = with_header(named("job-1"), "batch", text("monday"));
    let body = reset_body("u-1").to_string();
    world.publish("main.bulk", body.as_bytes(), properties).await;
    let taken = outcomes.next().await;
    assert_eq!(taken.routing_key, "main.failed");
    assert_eq!(taken.properties.kind().as_ref().unwrap().as_str(), "outcome");
    assert_eq!(taken.properties.delivery_mode(), &Some(2));
    let mut record = finished(taken.json());
    let (message, detail) = (record["message"].take(), record["detail"].take());
    assert!(!message.as_str().unwrap().is_empty());
    assert!(detail.as_str().unwrap().starts_with("invalidValue: no"), "{detail}");
    let expected = json!({"jobId": "job-1", "org": "main", "lane": "bulk", "userId": "u-1", "batch": "monday", "outcome": "failed",
        "success": false, "reason": "rejected", "status": 400, "attempts": 1, "passwordSet": "no", "message": null, "detail": null,
        "finishedAt": null});
    assert_eq!(record.to_string(), expected.to_string(), "the fields in the order of the contract");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_outcomes_of_a_job_passed_through_and_of_one_expired_are_as_documented() {
    let world = Plan::new().start().await;
    let mut outcomes = world.outcomes().await;
    world.send("job-1", &json!({"userId": "u-1"})).await;
    let mut record = finished(outcomes.next().await.json());
    assert!(record["message"].take().is_string());
    let expected = json!({"jobId": "job-1", "org": "main", "lane": "interactive", "userId": null, "batch": null,
        "outcome": "passed_through", "success": true, "reason": null, "status": null, "attempts": 0, "passwordSet": "no",
        "message": null, "detail": null, "finishedAt": null});
    assert_eq!(record, expected);

    let properties = with_header(named("job-2"), "not-after", text("2020-01-01T00:00:00Z"));
    let body = reset_body("u-2").to_string();
    world.publish("main", body.as_bytes(), properties).await;
    let taken = outcomes.next().await;
    assert_eq!(taken.routing_key, "main.expired");
    let mut record = finished(taken.json());
    assert!(record["message"].take().is_string() && record["detail"].take().is_string());
    let expected = json!({"jobId": "job-2", "org": "main", "lane": "interactive", "userId": "u-2", "batch": null,
        "outcome": "expired", "success": false, "reason": "expired", "status": null, "attempts": 0, "passwordSet": "no",
        "message": null, "detail": null, "finishedAt": null});
    assert_eq!(record, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreadable_job_has_an_outcome_without_a_user() {
    let world = Plan::new().start().await;
    let (_, record) = end_of(&world, b"{", named("job-1")).await;
    let said = json!([record["userId"], record["outcome"], record["reason"], record["status"]]);
    assert_eq!(said, json!([null, "failed", "invalid_job", null]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_is_the_outcome_and_the_orgs_answer_without_its_secrets() {
    let world = Plan::new().start().await;
    let mut outcomes = world.outcomes().await;
    let body = json!({
        "scimType": "invalidValue", "detail": "the client said demo-secret",
        "echo": [{"password": "hunter2", "demo-secret": 1, "pwd": null, "kept": "kept"}],
    });
    let reply = reply_to(&world, "u-1", 400, &body).await;
    let mut said = reply.json();
    let response = said.as_object_mut().unwrap().remove("scimResponse").unwrap();
    assert_eq!(response["echo"][0]["password"], true);
    assert_eq!((&response["echo"][0]["kept"], &response["echo"][0]["pwd"]), (&json!("kept"), &Value::Null));
    assert_eq!(response["scimType"], "invalidValue");
    let outcome = outcomes.next().await;
    assert_eq!(outcome.json(), said, "a reply is the outcome and scimResponse");
    for taken in [&reply, &outcome] {
        for secret in ["hunter2", "demo-secret"] {
            assert!(!all_of(taken).contains(secret), "{}", all_of(taken));
        }
    }
    assert_eq!(reply.properties.correlation_id(), &None);
    let letter = world.tap("resets.main.dead").await.next().await;
    assert!(!all_of(&letter).contains("demo-secret"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scim_response_is_null_over_16_kib_and_where_the_answer_is_no_json() {
    let world = Plan::new().start().await;
    let of_size = |bytes: usize| json!({"detail": "x".repeat(bytes - r#"{"detail":""}"#.len())});
    let fits = of_size(16 * 1024);
    let reply = reply_to(&world, "u-fits", 400, &fits).await.json();
    assert_eq!(reply["scimResponse"], fits);
    for (user, body) in [("u-large", of_size(16 * 1024 + 1)), ("u-huge", of_size(200_000)), ("u-none", json!("none"))] {
        let reply = reply_to(&world, user, 400, &body).await.json();
        assert_eq!(reply["scimResponse"], Value::Null, "{user}");
        assert!(reply.as_object().unwrap().contains_key("scimResponse"), "{user}");
        assert_eq!((&reply["outcome"], &reply["reason"]), (&json!("failed"), &json!("rejected")), "{user}");
    }
    let reply = reply_to(&world, "u-set", 200, &of_size(20_000)).await.json();
    assert_eq!((&reply["scimResponse"], &reply["outcome"]), (&Value::Null, &json!("succeeded")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_outcome_is_replied_to() {
    let world = Plan::new().start().await;
    let (queue, mut tap) = replies(&world).await;
    let asked =
        |job: &str| named(job).with_reply_to(queue.as_str().into()).with_correlation_id(format!("c-{job}").into());
    let late = with_header(asked("expired"), "not-after", text("2020-01-01T00:00:00Z"));
    let reset = reset_body("u-1").to_string();
    for (body, properties) in [
        ("{}", asked("passed_through")),
        ("{", asked("failed")),
        (reset.as_str(), late),
        (reset.as_str(), asked("succeeded")),
    ] {
        world.publish("main", body.as_bytes(), properties).await;
        let reply = tap.next().await;
        let said = reply.json();
        assert_eq!(said["outcome"], said["jobId"], "{said}");
        let correlation = reply.properties.correlation_id().as_ref().unwrap().as_str();
        assert_eq!(correlation, format!("c-{}", said["jobId"].as_str().unwrap()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_reaches_a_producer_who_uses_direct_reply_to() {
    let world = Plan::new().start().await;
    let channel = world.channel().await;
    let mut tap = Tap::of(&channel, "amq.rabbitmq.reply-to").await;
    let properties = named("job-1").with_reply_to("amq.rabbitmq.reply-to".into());
    let body = reset_body("u-1").to_string();
    world.publish_on(&channel, "main", body.as_bytes(), properties).await;
    assert_eq!(tap.next().await.json()["outcome"], "succeeded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_whose_queue_is_gone_is_dropped_and_the_job_is_settled() {
    let mut world = Plan::new().start().await;
    let mut emails = world.tap("emails").await;
    let channel = world.channel().await;
    let name = world.named("replies");
    channel.queue_declare(name.as_str().into(), exclusive(), FieldTable::default()).await.unwrap();
    channel.queue_delete(name.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    let properties = named("job-1").with_reply_to(name.into());
    let body = reset_body("u-1").to_string();
    world.publish("main", body.as_bytes(), properties).await;
    emails.next().await;
    // The next job of the same user waits until the first one is settled.
    world.reset("main", "u-1", "job-2").await;
    emails.next().await;
    world.stop_worker().await.unwrap();
    assert_eq!(world.depth("resets.main").await, 0, "acked, so that nothing goes back");
    assert_eq!(world.depth("resets.main.dead").await, 0);
    assert_eq!(world.main().stats().password_sets, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_is_delivered_for_the_20th_time_is_dead_lettered_before_anything_else() {
    let world = Plan::new().start().await;
    let forged = |n| with_header(named("job-1"), "x-delivery-count", AMQPValue::LongLongInt(n));
    // It would be passed through, were it delivered less often.
    let (letter, record) = end_of(&world, b"{}", forged(19)).await;
    assert_eq!(letter.header("resetd-reason").unwrap(), "delivery_limit");
    assert_eq!(letter.header("resetd-attempts").unwrap(), "0");
    assert_eq!(letter.header("x-delivery-count"), None, "a replayed letter starts anew");
    assert_eq!((&record["outcome"], &record["reason"]), (&json!("failed"), &json!("delivery_limit")));
    let mut outcomes = world.outcomes().await;
    world.publish("main", b"{}", forged(18)).await;
    assert_eq!(outcomes.next().await.json()["outcome"], "passed_through");
    assert_eq!(world.main().stats().calls, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_org_repeats_of_its_request_is_in_no_outcome_reply_or_letter() {
    let plaintext = "[wire]\npassword = \"plaintext\"\n[password]\nkind = \"policy\"";
    for config in ["", plaintext] {
        repeats_nothing(config, 400, |asked| parrot(asked, 400)).await;
        repeats_nothing(config, 200, |asked| parrot(asked, 200)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_deeply_nested_body_nothing_is_kept() {
    let nested = format!("{}{}", "[".repeat(200), "]".repeat(200));
    measures(&format!(r#"{{"userId":"u-1","password":"hunter2","extra":{nested}}}"#)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_body_with_half_a_surrogate_pair_nothing_is_kept() {
    measures(r#"{"userId":"u-1","password":"hunter2","email":"\ud800"}"#).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_broker_itself_dead_letters_has_its_reason_in_x_death() {
    let mut world = Plan::new().start().await;
    world.stop_worker().await.unwrap();
    let mut dead = world.tap("resets.main.dead").await;
    let properties = named("job-1").with_expiration("1".into());
    world.publish("main", reset_body("u-1").to_string().as_bytes(), properties).await;
    let letter = dead.next().await;
    assert_eq!(letter.id(), "job-1");
    assert_eq!(letter.header("resetd-reason"), None);
    let headers = letter.properties.headers().as_ref().unwrap().inner();
    let AMQPValue::FieldArray(deaths) = &headers["x-death"] else { panic!("{headers:?}") };
    let AMQPValue::FieldTable(death) = &deaths.as_slice()[0] else { panic!("{deaths:?}") };
    assert_eq!(death.inner()["reason"], text("expired"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_with_large_headers_is_settled_like_any_other() {
    let world = Plan::new().start().await;
    let (mut outcomes, mut dead) = (world.outcomes().await, world.tap("resets.main.dead").await);
    for (n, bytes) in [1_000, 20_000, 30_000, 50_000, 100_000].into_iter().enumerate() {
        let large = |job: String| with_header(named(&job), "x-mine", text(&"v".repeat(bytes)));
        let body = reset_body("u-1").to_string();
        world.publish("main", body.as_bytes(), large(format!("good-{n}"))).await;
        let record = outcomes.next().await.json();
        assert_eq!((&record["outcome"], &record["attempts"]), (&json!("succeeded"), &json!(1)), "{bytes}: {record}");
        world.publish("main", b"{", large(format!("bad-{n}"))).await;
        assert_eq!(outcomes.next().await.json()["reason"], "invalid_job", "{bytes}");
        let letter = dead.next().await;
        assert_eq!((letter.id(), letter.body.as_slice()), (format!("bad-{n}").as_str(), &b""[..]), "{bytes}");
        assert_eq!(names(&letter, "resetd-left-out"), ["header x-mine"], "{bytes}");
    }
    assert_eq!(world.main().stats().password_sets, 5);
    assert_eq!(world.readyz().await.0, 200);
}
